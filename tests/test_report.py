"""The report: all of a run on one page, nothing from outside, nothing that breaks it, quick when nothing changed."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import itertools
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facepipe.cli import main
from facepipe.errors import RunFolderError, UsageError
from facepipe.report import write_report
from facepipe.report.content import Content, source_portrait
from facepipe.report.curves import clip_curves, stretches, training_curves
from facepipe.report.html import Html, element, join, json_text, page, prose
from facepipe.report.pictures import data_uri
from facepipe.report.pieces import number
from facepipe.report.words import GROUPS, PAIRED, PANELS, find_number, measures
from facepipe.results import RunResults
from facepipe.workspace import read_json, read_marker, write_json, write_marker

anything = st.text(max_size=60) | st.sampled_from(
    ['"><script>alert(1)</script>', "</script>", "<!--<script>", "a & b", "{{body}}", "\u2028", "\udcff", "'\""]
)


class Reader(html.parser.HTMLParser):
    """What a browser would make of a page: elements with attributes, and the text of some."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("img", "input", "meta"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.inside.setdefault(self._open[-1] if self._open else "", []).append(data)
        if not {"script", "style"} & set(self._open):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


# ---------------------------------------------------------------------------------------------------------------- HTML


@given(anything, anything)
def test_whatever_enters_a_page_comes_out_as_text(words: str, value: str) -> None:
    made = element("p", words, title=value, class_="a", hidden=True, lang=None)
    seen = Reader(made)
    assert [name for name, _ in seen.elements] == ["p"]
    assert "".join(seen.texts) == words
    assert seen.elements[0][1] == {"title": value, "class": "a", "hidden": None}


@given(
    st.recursive(
        anything | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(anything, inner)
    )
)
def test_json_in_a_script_element_cannot_end_it(data: Any) -> None:
    text = json_text(data)
    assert not set(text) & set("<>&\u2028\u2029")
    replaced = json.loads(json.dumps(data, ensure_ascii=False).encode("utf-8", "replace"))
    assert json.loads(text) == replaced


@given(anything, anything)
@settings(max_examples=30)
def test_a_page_is_whole_whatever_it_shows(title: str, words: str) -> None:
    seen = Reader(page(title, element("main", words), {"words": words}))
    scripts = seen.all("script")
    assert [attributes.get("type") for attributes in scripts] == ["application/json", None]
    assert json.loads(seen.inside["script"][0]) == {"words": words.encode("utf-8", "replace").decode()}
    assert "".join(seen.inside.get("title", [])) == title.encode("utf-8", "replace").decode()


def test_the_policy_names_the_hashes_of_what_may_run_and_forbids_all_else() -> None:
    text = page("title", Html("<main></main>"), {})
    seen = Reader(text)
    policy = next(a["content"] for a in seen.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for rule, tag in (("style-src", "style"), ("script-src", "script")):
        content = seen.inside[tag][-1]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    assert not [a for _, a in seen.elements if "style" in a or any(name.startswith("on") for name in a)]


def test_backticks_are_code_and_html_stays_html() -> None:
    assert prose("run `facepipe score` <now>") == "run <code>facepipe score</code> &lt;now&gt;"
    assert prose("one ` alone") == "one ` alone"
    assert join(["<", Html("<b>")]) == "&lt;<b>"


@pytest.mark.parametrize(
    ("value", "digits", "percent", "shown"),
    [(-0.1234, 2, False, "\u22120.12"), (-0.0001, 2, False, "0.00"), (0.987, 1, True, "98.7"), (None, 2, False, "—")],
)
def test_numbers_are_set_like_numbers(value: float | None, digits: int, percent: bool, shown: str) -> None:
    assert number(value, digits, percent=percent) == shown


# ------------------------------------------------------------------------------------------------------------- numbers


def test_numbers_are_found_with_their_interval_and_n() -> None:
    scores = {
        "identity": {
            "net": {"margin": 0.5, "n": 7, "intervals": {"margin": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 6}}}
        },
        "pose": {"l2": {"value": 3.0, "low": None, "high": None, "n": 9}, "unit": "degrees"},
        "jitter": {"swapped": {"residual": 0.7}},
        "outside": {"psnr": None, "ssim": float("nan"), "intervals": {"psnr": None}},
        "frames": {"total": True},
    }
    margin = find_number(scores, "identity.net.margin")
    assert margin is not None
    assert (margin.value, margin.low, margin.high, margin.n) == (0.5, 0.4, 0.6, 6)
    pose = find_number(scores, "pose.l2")
    assert pose is not None
    assert (pose.value, pose.low, pose.n) == (3.0, None, 9)
    residual = find_number(scores, "jitter.swapped.residual")
    assert residual is not None
    assert residual.n is None
    for path in (
        "outside.psnr",
        "outside.ssim",
        "outside.intervals",
        "frames.total",
        "pose.unit",
        "a.b.c",
        "pose.l2.x.y",
    ):
        assert find_number(scores, path) is None
    assert [m.label for _, m in measures(scores)] == ["Margin, net", "Pose error", "Jitter of the swap"]


def test_every_name_has_words() -> None:
    for spec in (spec for specs in GROUPS.values() for spec in specs):
        assert len(spec.meaning.split()) > 1
        assert spec.meaning.endswith(".")
    assert {kind for panel in PANELS for _, kind in panel.curves.values()} <= {"source", "target", "other", "one"}
    assert len({(one.column, one.minus) for one in PAIRED}) == len(PAIRED)


def test_what_the_evaluation_writes_has_words(run_folder: Any) -> None:
    """Every number of a real run's scores.json is shown, or is one of those that are not numbers about the swap."""
    scores = run_folder.result.scores
    shown = {measure.path for _, measure in measures(scores)}
    for net, section in scores["identity"].items():
        for key in ("to_source", "to_target", "margin", "floor"):
            assert (section[key] is None) or f"identity.{net}.{key}" in shown
    for key in ("outside", "same_identity"):
        for name in ("psnr", "ssim"):
            assert (scores[key][name] is None) or f"{key}.{name}" in shown
    columns = set(pq.read_schema(run_folder.out / "scores.parquet").names)
    drawn = {column for panel in PANELS for column in panel.curves if "{net}" not in column}
    assert {"outside_psnr", "yaw"} <= columns & drawn


# -------------------------------------------------------------------------------------------------------------- curves


@given(st.lists(st.booleans(), max_size=200))
def test_stretches_are_the_runs_of_truths(truths: list[bool]) -> None:
    again = np.zeros(len(truths), bool)
    runs = stretches(np.array(truths, bool))
    for first, last in runs:
        assert first <= last
        again[first : last + 1] = True
    assert again.tolist() == truths
    assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(runs))


def test_long_curves_become_medians_and_keep_their_ends() -> None:
    n = 5000
    values = np.sin(np.arange(n) / 300)
    values[:3] = np.nan
    columns = {"frame": np.arange(n, dtype=float), "expression": values, "pose_l2": np.full(n, np.nan)}
    made = clip_curves(columns, most=100)
    assert [panel["title"] for panel in made["panels"]] == ["Expression error"]
    shown = made["panels"][0]["curves"][0]["values"]
    assert len(made["frames"]) == len(shown) == 100
    assert made["step"] == 50
    assert made["frames"] == sorted(made["frames"])
    assert max(abs(np.sin(frame / 300) - value) for frame, value in zip(made["frames"], shown, strict=True)) < 0.1
    short = clip_curves({name: part[:100] for name, part in columns.items()}, most=100)
    assert short["frames"] == list(range(100))
    assert short["panels"][0]["curves"][0]["values"][:3] == [None] * 3
    np.testing.assert_allclose(short["panels"][0]["curves"][0]["values"][3:], values[3:100], rtol=1e-3)
    assert clip_curves({})["panels"] == []


def test_held_out_frames_are_marked_from_their_first() -> None:
    columns = {"frame": np.arange(10.0), "held_out": np.array([0.0] * 7 + [1.0] * 3), "expression": np.ones(10)}
    assert clip_curves(columns)["held_out"] == 7
    assert clip_curves({**columns, "held_out": np.full(10, np.nan)})["held_out"] is None


def test_training_curves_take_what_there_is() -> None:
    history: list[dict[str, Any]] = [
        {"step": 10, "seconds": 1.5, "psnr_source": 20.0, "quality": 3},
        {"step": 20, "psnr_source": None},
        {"x": 1},
    ]
    made = training_curves(history)
    assert made["frames"] == [10, 20]
    assert made["seconds"] == [1.5, None]
    assert [p["curves"][0]["values"] for p in made["panels"]] == [[20.0, None], [3.0, None]]
    assert training_curves([])["panels"] == []


# ------------------------------------------------------------------------------------------------------------ pictures


@given(st.integers(1, 90), st.integers(1, 90), st.integers(600, 6000))
@settings(max_examples=25, deadline=None)
def test_a_picture_keeps_to_its_bytes_and_its_shape(height: int, width: int, most: int) -> None:
    noise = np.random.default_rng(height * width).integers(0, 256, (height, width, 3)).astype(np.uint8)
    address = data_uri(noise, most)
    coded = base64.b64decode(address.removeprefix("data:image/webp;base64,"))
    image = cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert len(coded) <= most or min(image.shape[:2]) <= 16
    assert abs(image.shape[1] / image.shape[0] - width / height) <= 0.35 * width / height or min(height, width) < 6


def test_a_picture_shows_what_it_should() -> None:
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, 48:] = (250, 120, 10)
    coded = base64.b64decode(data_uri(image, 90_000).split(",")[1])
    decoded = cv2.imdecode(np.frombuffer(coded, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    again = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    assert np.abs(again.astype(int) - image).mean() < 4


# ------------------------------------------------------------------------------------------------------------ the page


@pytest.fixture(scope="module")
def report(run_folder: Any) -> Path:
    return write_report(run_folder.out)


@pytest.fixture(scope="module")
def seen(report: Path) -> Reader:
    return Reader(report.read_text(encoding="utf-8"))


def test_a_run_ends_with_its_report(run_folder: Any) -> None:
    assert run_folder.result.report == run_folder.out / "report.html"
    assert run_folder.result.report.stat().st_size < 15e6


def test_the_first_page_says_what_was_made_from_what(seen: Reader, run_folder: Any) -> None:
    assert "man → woman" in seen.text
    assert "16 of 16 frames swapped in 1 clip" in seen.text
    assert "Synthetic media." in seen.text
    assert len([a for a in seen.all("em") if a.get("class") == "absent"]) == 8
    figures = [a for a in seen.all("img") if (a["alt"] or "").startswith(("gives", "made"))]
    assert len(figures) == 3
    for net, section in run_folder.result.scores["identity"].items():
        assert f"Margin, {net}" in seen.text
        assert number(section["margin"], 3) in seen.text


def test_nothing_comes_from_outside(report: Path, seen: Reader) -> None:
    for name, attributes in seen.elements:
        for key in ("src", "href", "data", "poster", "srcset", "action"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:", "#")), (name, key)
    text = report.read_text(encoding="utf-8")
    assert "@import" not in text
    assert not re.search(r"url\((?!data:)", text)


def test_every_picture_has_words_and_every_button_a_name(seen: Reader) -> None:
    assert all(attributes.get("alt") for attributes in seen.all("img"))
    assert len(seen.all("h1")) == 1
    assert len(seen.all("table")) == len(seen.all("caption"))
    assert seen.all("html")[0]["lang"] == "en"


def test_nothing_to_do_writes_nothing(run_folder: Any, report: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_folder.out.glob("report.*")}
    assert write_report(run_folder.out) == report
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(before) == 2


def test_the_same_run_gives_the_same_page_wherever_it_lies(copied_run: Any, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "MOVED"
    shutil.copytree(copied_run.out, other)
    pages = [write_report(out).read_bytes() for out in (copied_run.out, other)]
    assert pages[0] == pages[1]
    assert str(tmp_path).encode() not in pages[0]


@pytest.mark.parametrize("change", ["ledger", "scores", "video"])
def test_what_changed_is_shown(copied_run: Any, change: str) -> None:
    out = copied_run.out
    before = write_report(out).read_text(encoding="utf-8")
    if change == "ledger":
        manifest = read_json(out / "manifest.json")
        manifest["ledger"]["source"] = {"person": "A. N. Other", "consent": "form 7"}
        write_json(out / "manifest.json", manifest)
        expected = "form 7"
    elif change == "scores":
        scores = read_json(out / "scores.json")
        scores["same_identity"] = {"psnr": 98.75, "ssim": 0.5, "n": 3}
        write_json(out / "scores.json", scores)
        expected = "98.8"
    else:
        (out / "swapped" / "woman.mp4").unlink()
        expected = "its swapped video or its masks are not there any more"
    after = write_report(out).read_text(encoding="utf-8")
    assert expected in after
    assert expected not in before


def test_worst_frames_buckets_and_failures_of_the_scores_are_shown(copied_run: Any) -> None:
    out = copied_run.out
    scores = read_json(out / "scores.json")
    scores["worst"] = [
        {"clip": "woman", "frame": 5, "seconds": 0.2, "why": "margin.sface", "badness": 9.5, "values": {}}
    ]
    values = {"margin.sface": -0.25}
    scores["buckets"] = {
        "yaw": [
            {"label": "below 15 degrees", "n": 12, "lost": 2, "values": values},
            {"label": "beyond", "n": 0, "lost": 0, "values": {"margin.sface": None}},
        ]
    }
    scores["missing"] = {"gaze": "no irises"}
    write_json(out / "scores.json", scores)
    manifest = read_json(out / "manifest.json")
    manifest["failed"] = [{"stage": "detect", "side": "target", "clip": "sky", "reason": "sky.mp4: no face found"}]
    write_json(out / "manifest.json", manifest)
    seen = Reader(write_report(out).read_text(encoding="utf-8"))
    for words in (
        "low margin, sface",
        "below 15 degrees",
        "No frame: beyond.",
        "\u22120.250",
        "gaze: no irises",
        "no face found",
    ):
        assert words in seen.text, words
    cards = [a for a in seen.all("button") if a.get("class") == "card"]
    assert [(card["data-clip"], card["data-frame"]) for card in cards] == [("woman", "5")]


def test_the_source_is_the_person_whose_face_was_used(run_folder: Any) -> None:
    content = Content(RunResults.read(run_folder.out))
    found = source_portrait(content)
    assert found is not None
    clip, row = found
    used = {(frame, face) for one in content.clips for _, frame, face in one.sources}
    assert (int(clip.outlines.frame[row]), int(clip.outlines.face[row])) in used


def test_outlines_are_the_faces_without_their_points(run_folder: Any) -> None:
    (clip,) = RunResults.read(run_folder.out).clips("target")
    assert clip.outlines.mesh.shape == (16, 0, 3)
    assert clip.outlines.landmarks.shape == (16, 0, 2)
    assert clip.outlines.embedding.shape == (16, 0)
    for name in ("frame", "face", "track", "box", "yaw", "flags", "frame_to_crop"):
        np.testing.assert_array_equal(getattr(clip.outlines, name), getattr(clip.faces, name))


# ------------------------------------------------------------------------------------------- a run in any other state


def report_of(out: Path) -> Reader:
    return Reader(write_report(out).read_text(encoding="utf-8"))


def test_a_run_that_is_not_scored(copied_run: Any) -> None:
    for name in ("scores.json", "scores.parquet", "score.json"):
        (copied_run.out / name).unlink()
    seen = report_of(copied_run.out)
    assert "nothing is scored yet" in seen.text
    assert "16 of 16 frames swapped" in seen.text
    assert "All numbers" not in seen.text
    assert "Before and after" in seen.text


def test_a_run_that_only_looked_for_faces(copied_run: Any) -> None:
    shutil.rmtree(copied_run.out / "swapped")
    shutil.rmtree(copied_run.out / "masks")
    for name in ("scores.json", "scores.parquet", "score.json", "source/man/align.json", "target/woman/align.json"):
        (copied_run.out / name).unlink()
    seen = report_of(copied_run.out)
    assert "0 of 16 frames swapped" in seen.text
    assert "target clip woman: it is not swapped yet" in seen.text


def test_a_run_folder_with_nothing_in_it(tmp_path: Path) -> None:
    write_json(tmp_path / "RUN" / "manifest.json", {"format": 1})
    seen = report_of(tmp_path / "RUN")
    assert "no target clip has been looked at yet" in seen.text
    assert "nothing → nothing" in seen.text


def test_videos_that_are_gone_or_broken(copied_run: Any, tmp_path: Path) -> None:
    settings_file = copied_run.out / "config.toml"
    away = tmp_path / "away"
    text = re.sub(
        r"^(source|target) = .*$", rf'\1 = "{away.as_posix()}"', settings_file.read_text(), flags=re.MULTILINE
    )
    settings_file.write_text(text)
    for side, clip in (("source", "man"), ("target", "woman")):
        marker = copied_run.out / side / clip / "detect.json"
        write_marker(marker, {**read_marker(marker), "path": str(away / f"{clip}.mp4")})
    seen = report_of(copied_run.out)
    assert "woman.mp4: the clip is not there any more" in seen.text
    data = json.loads(seen.inside["script"][0])
    assert {name for look in data["clips"][0]["looks"] for name in look["whole"]} == {"swapped"}
    swapped = copied_run.out / "swapped" / "woman.mp4"
    stamp = swapped.stat().st_mtime_ns
    swapped.write_bytes(swapped.read_bytes()[: swapped.stat().st_size // 3])
    os.utime(swapped, ns=(stamp, stamp))
    (copied_run.out / "report.json").unlink()
    assert "woman.mp4" in report_of(copied_run.out).text


@pytest.mark.parametrize(
    "name", ["scores.json", "scores.parquet", "target/woman/faces.parquet", "swapped/woman.parquet"]
)
def test_a_damaged_file_is_named_and_the_rest_is_shown(copied_run: Any, name: str) -> None:
    (copied_run.out / name).write_bytes(b"no such thing")
    seen = report_of(copied_run.out)
    assert Path(name).name in seen.text
    assert "damaged" in seen.text
    assert "Method and protocol" in seen.text


def test_scores_that_are_older_than_the_swap_are_not_shown(copied_run: Any) -> None:
    marker = copied_run.out / "swapped" / "woman.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "key": "of another swap"}))
    seen = report_of(copied_run.out)
    assert "the scores are older than the swap" in seen.text
    assert "All numbers" not in seen.text


def test_what_is_no_run_folder_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(RunFolderError, match="not a run folder"):
        write_report(tmp_path)
    with pytest.raises(UsageError, match="no such run folder"):
        write_report(tmp_path / "nothing")
    with pytest.raises(SystemExit) as ended:
        main(["report", "--out", str(tmp_path / "nothing")])
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert told.out == ""


def test_the_command_names_the_page(copied_run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report", "--out", str(copied_run.out)])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"look at {copied_run.out / 'report.html'}\n"
    with pytest.raises(SystemExit):
        main(["report", "--out", str(copied_run.out), "--json"])
    assert json.loads(capsys.readouterr().out) == {"report": str(copied_run.out / "report.html")}
