"""Comparing runs: paired by clip and frame, honest intervals, nothing compared that cannot be."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facepipe.cli import main
from facepipe.compare import Row, compare_runs, to_csv, to_json, to_latex, write_comparison
from facepipe.compare.paired import LEAST_BLOCKS
from facepipe.errors import FacepipeError, RunFolderError, UsageError
from facepipe.workspace import read_json, write_json, write_marker, write_table

RATE = 25


def make_run(
    root: Path,
    clips: Mapping[str, Mapping[str, Any]],
    *,
    version: int = 2,
    protocol: str = "facepipe",
    method: str = "procrustes",
    hashes: Mapping[str, str] | None = None,
    source: str = "face",
) -> Path:
    """A run folder that holds nothing but scores: columns of each clip by name, `frame` among them."""
    names = {clip: (hashes or {}).get(clip, f"hash of {clip}") for clip in clips}
    inputs = {"target": {clip: {"path": f"{clip}.mp4", "sha256": digest} for clip, digest in names.items()}}
    write_json(root / "manifest.json", {"format": 1, "inputs": {**inputs, "source": {"s": {"sha256": source}}}})
    rows: dict[str, list[Any]] = {"clip": []}
    for clip, columns in clips.items():
        state = {"path": f"{clip}.mp4", "frames": 1000, "time_base": f"1/{RATE}"}
        write_marker(root / "target" / clip / "detect.json", state)
        write_marker(root / "swapped" / f"{clip}.json", {"key": clip, "files": ["no.mp4", "no.mkv"]})
        rows["clip"] += [clip] * len(columns["frame"])
        for name, values in {**columns, "pts": columns["frame"]}.items():
            rows.setdefault(name, []).extend(np.asarray(values).tolist())
    nets = sorted({name.removeprefix("to_source_") for name in rows if name.startswith("to_source_")})
    identity: dict[str, Any] = {net: {} for net in nets}
    facts = {"version": version, "protocol": {"name": protocol}, "method": method, "identity": identity}
    write_json(root / "scores.json", facts)
    write_table(root / "scores.parquet", rows)
    return root


def columns_of(seed: int, frames: Any = range(250), *, shift: float = 0.0) -> dict[str, Any]:
    """Scores of a clip that wander, as those of neighbouring frames do."""
    random = np.random.default_rng(seed)
    frames = np.asarray(frames)
    wander = np.cumsum(random.normal(size=len(frames))) / 50
    return {
        "frame": frames,
        "to_source_net": 0.6 + wander + shift,
        "to_target_net": 0.1 + random.normal(size=len(frames)) / 50,
        "pose_l2": 3 + np.abs(wander),
    }


def row_of(rows: Any, label: str, frames: str = "all") -> Row:
    (row,) = [row for row in rows if row.label == label and row.frames == frames]
    assert isinstance(row, Row)
    return row


# ------------------------------------------------------------------------------------------------------------- pairing


def test_a_run_does_not_differ_from_its_copy(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, {"clip": columns_of(0)}) for name in "ab"]
    found = compare_runs(runs)
    assert (found.names, found.clips, found.frames, found.blocks) == (("a", "b"), ("clip",), 250, 10)
    assert [row.label for row in found.rows] == [
        "Margin, net",
        "Similarity to the source, net",
        "Similarity to the target (leak), net",
        "Pose error",
    ]
    for row in found.rows:
        (one,) = row.differences
        assert (one.value, one.low, one.high, one.verdict) == (0, 0, 0, 0)


def test_a_known_shift_is_found_with_its_verdict(tmp_path: Path) -> None:
    """All frames shifted alike: the difference is the shift, whatever the scores wander; its interval is a point."""
    runs = [
        make_run(tmp_path / str(i), {"clip": columns_of(3, shift=shift)}) for i, shift in enumerate((0, 0.25, -0.5))
    ]
    rows = compare_runs(runs).rows
    for label in ("Margin, net", "Similarity to the source, net"):
        up, down = row_of(rows, label).differences
        assert up.value == pytest.approx(0.25)
        assert up.low == pytest.approx(0.25)
        assert up.high == pytest.approx(0.25)
        assert down.value == pytest.approx(-0.5)
        assert (up.verdict, down.verdict) == (1, -1)
    assert [one.value for one in row_of(rows, "Pose error").differences] == [0, 0]


def test_less_is_better_where_it_is(tmp_path: Path) -> None:
    better = columns_of(1)
    worse = {**better, "pose_l2": better["pose_l2"] + 1}
    runs = [make_run(tmp_path / "a", {"c": better}), make_run(tmp_path / "b", {"c": worse})]
    assert row_of(compare_runs(runs).rows, "Pose error").differences[0].verdict == -1
    assert row_of(compare_runs(runs[::-1]).rows, "Pose error").differences[0].verdict == 1


@given(st.integers(0, 10_000), st.data())
@settings(max_examples=15, deadline=None)
def test_pairs_are_of_one_clip_and_frame_whatever_their_order(
    tmp_path_factory: pytest.TempPathFactory, seed: int, data: Any
) -> None:
    """Shuffled rows and frames that only one run has change nothing; turned around, differences change sign."""
    tmp_path = tmp_path_factory.mktemp("pairs")
    first = {name: columns_of(seed + i, range(20 * i, 200)) for i, name in enumerate("xy")}
    second = {name: columns_of(seed + 7 + i, range(200 - 20 * i)) for i, name in enumerate("yx")}
    order = data.draw(st.permutations(range(len(second["x"]["frame"]))))
    second["x"] = {name: np.asarray(values)[order] for name, values in second["x"].items()}
    runs = [make_run(tmp_path / "a", first), make_run(tmp_path / "b", second)]
    there, back = compare_runs(runs), compare_runs(runs[::-1])
    pairs = []
    for clip in "xy":
        one = dict(zip(first[clip]["frame"].tolist(), first[clip]["pose_l2"].tolist(), strict=True))
        other = dict(zip(second[clip]["frame"].tolist(), second[clip]["pose_l2"].tolist(), strict=True))
        pairs += [other[frame] - one[frame] for frame in one.keys() & other.keys()]
    row = row_of(there.rows, "Pose error")
    assert row.n == len(pairs) == there.frames
    assert row.differences[0].value == pytest.approx(np.median(pairs))
    turned = row_of(back.rows, "Pose error").differences[0]
    assert turned.value == pytest.approx(-row.differences[0].value)
    assert row.differences[0].low is not None
    assert row.differences[0].high is not None
    assert row.differences[0].low <= row.differences[0].value <= row.differences[0].high


def test_frames_that_a_run_has_not_measured_are_in_no_median(tmp_path: Path) -> None:
    gaps = columns_of(0)
    gaps["pose_l2"] = np.where(gaps["frame"] % 3 == 0, gaps["pose_l2"], np.nan)
    runs = [make_run(tmp_path / "a", {"c": columns_of(0)}), make_run(tmp_path / "b", {"c": gaps})]
    row = row_of(compare_runs(runs).rows, "Pose error")
    assert row.n == 84
    assert row.values[0] == row.values[1] == pytest.approx(np.median(columns_of(0)["pose_l2"][::3]))


def test_the_interval_covers_the_truth_of_wandering_scores(tmp_path: Path) -> None:
    """Differences that hold for a second and have median zero: 95 % of the intervals should hold it, most do."""
    held = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        base = columns_of(1, range(40 * RATE))
        noise = np.repeat(random.normal(size=40), RATE)
        other = {**base, "pose_l2": base["pose_l2"] + noise}
        runs = [make_run(tmp_path / f"{seed}{k}", {"c": part}) for k, part in (("a", base), ("b", other))]
        (one,) = row_of(compare_runs(runs).rows, "Pose error").differences
        assert one.low is not None
        assert one.high is not None
        held += one.low <= 0 <= one.high
    assert held >= 34


def test_few_seconds_give_no_interval(tmp_path: Path) -> None:
    short = range((LEAST_BLOCKS - 1) * RATE)
    runs = [make_run(tmp_path / str(i), {"c": columns_of(0, short, shift=i)}) for i in range(2)]
    (one,) = row_of(compare_runs(runs).rows, "Margin, net").differences
    assert (one.low, one.high, one.verdict) == (None, None, 0)
    assert one.value == pytest.approx(1)


def test_held_out_frames_are_compared_by_themselves(tmp_path: Path) -> None:
    plain, trained = columns_of(0), columns_of(0)
    trained["held_out"] = (trained["frame"] >= 100).astype(float)
    trained["pose_l2"] = trained["pose_l2"] + np.where(trained["frame"] >= 100, 2.0, -1.0)
    runs = [make_run(tmp_path / "a", {"c": plain}), make_run(tmp_path / "b", {"c": trained})]
    found = compare_runs(runs)
    row = row_of(found.rows, "Pose error", "held out")
    assert row.n == 150
    assert row.differences[0].value == pytest.approx(2)
    assert "100 of the 250" in " ".join(found.notes)
    assert not [
        row for row in compare_runs([runs[0], shutil_copy(runs[0], tmp_path / "c")]).rows if row.frames != "all"
    ]


def shutil_copy(run: Path, out: Path) -> Path:
    shutil.copytree(run, out)
    return out


# ------------------------------------------------------------------------------------------ what cannot be compared


def test_what_cannot_be_compared_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = make_run(tmp_path / "base", {"c": columns_of(0)})
    old = make_run(tmp_path / "old", {"c": columns_of(0)}, version=1)
    other = make_run(tmp_path / "other", {"c": columns_of(0)}, protocol="ffpp-10")
    elsewhere = make_run(tmp_path / "elsewhere", {"d": columns_of(0)})
    namesake = make_run(tmp_path / "namesake", {"c": columns_of(0)}, hashes={"c": "another"})
    later = make_run(tmp_path / "later", {"c": columns_of(0, range(300, 400))})
    bare = make_run(tmp_path / "bare", {"c": columns_of(0)})
    (bare / "scores.json").unlink()
    cases: list[tuple[list[Path], type[FacepipeError], str]] = [
        ([base], UsageError, "at least two"),
        ([base, base / ".." / "base"], UsageError, "given twice"),
        ([base, tmp_path / "nothing"], UsageError, "no such run folder"),
        ([base, bare], RunFolderError, f"run `facepipe score --out {bare}`"),
        ([base, old], RunFolderError, f"run `facepipe score --out {old}`"),
        ([old, base], RunFolderError, f"run `facepipe score --out {old}`"),
        ([base, other], RunFolderError, "'ffpp-10'"),
        ([base, elsewhere], UsageError, "share no scored target clip"),
        ([base, namesake], UsageError, "share no scored target clip"),
        ([base, later], UsageError, "no frame of c"),
    ]
    for runs, error, words in cases:
        with pytest.raises(error) as raised:
            compare_runs(runs)
        assert words in str(raised.value)
        assert "\n" not in str(raised.value)
        with pytest.raises(SystemExit) as ended:
            main(["compare", *map(str, runs)])
        assert ended.value.code == error.exit_code
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.count("\n") == 1


def test_what_must_be_known_is_noted(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", {"c": columns_of(0), "more": columns_of(1)})
    more = {**columns_of(0), "to_source_other": columns_of(0)["to_source_net"], "to_target_other": np.zeros(250)}
    b = make_run(tmp_path / "b", {"c": more}, source="somebody else")
    found = compare_runs([a, b])
    notes = " ".join(found.notes)
    assert found.clips == ("c",)
    assert "different source clips" in notes
    assert "left out: more" in notes
    assert "different identity nets" in notes


def test_names_tell_the_runs_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name / "RUN", {"c": columns_of(0)}) for name in ("a", "b")]
    assert compare_runs(runs).names == ("a/RUN", "b/RUN")
    long = [make_run(tmp_path / (m + "-" * 30), {"c": columns_of(0)}, method=m) for m in ("gan", "eigenface")]
    assert compare_runs(long).names == ("gan", "eigenface")


# ------------------------------------------------------------------------------------------------------------- as text


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    made = [make_run(tmp_path / f"run_{i}&", {"c": columns_of(i, shift=i / 7)}) for i in range(2)]
    return [*made, make_run(tmp_path / "third", {"c": {**columns_of(2), "held_out": columns_of(2)["frame"] > 90}})]


def test_csv_json_and_the_rows_say_the_same(three: list[Path]) -> None:
    found = compare_runs(three)
    lines = list(csv.DictReader(io.StringIO(to_csv(found))))
    data = json.loads(json.dumps(to_json(found), allow_nan=False))
    assert len(lines) == 3 * len(found.rows) == 3 * len(data["rows"])
    for line, (row, name) in zip(lines, [(row, n) for row in found.rows for n in found.names], strict=True):
        assert (line["measure"], line["run"], int(line["n"])) == (row.label, name, row.n)
        assert float(line["value"]) == pytest.approx(row.values[found.names.index(name)], rel=1e-5)
    for told, row in zip(data["rows"], found.rows, strict=True):
        assert told["differences"][found.names[2]]["value"] == row.differences[1].value
    assert {line["difference"] for line in lines if line["run"] == found.names[0]} == {""}


def test_latex_is_a_table_with_as_many_cells_in_every_row(three: list[Path]) -> None:
    text = to_latex(compare_runs(three))
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    assert [rule for rule in (r"\toprule", r"\midrule", r"\bottomrule") if rule not in text] == []
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    cells = {line.replace(r"\&", "").count("&") for line in rows}
    assert cells == {6}
    assert r"run\_0\&" in text
    assert "Held-out frames" in text
    assert text.count("$") % 2 == 0
    assert text.count("{") == text.count("}")


def test_the_command_prints_one_format(
    three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [str(run) for run in three]

    def call(*arguments: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["compare", *runs, *arguments])
        told = capsys.readouterr()
        return ended.value.code, told.out, told.err

    code, out, err = call("--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["base"] == "run_0&"
    assert call("--csv")[1].startswith("measure,unit")
    assert call("--latex")[1].startswith("%")
    assert not (tmp_path / "comparison.html").exists()
    code, out, err = call("--json", "--csv")
    assert (code, out, err.count("\n")) == (2, "", 1)


# ------------------------------------------------------------------------------------------------------------ the page


@pytest.fixture(scope="module")
def pair(run_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The finished run, and a copy of it whose scores are a little better."""
    other = tmp_path_factory.mktemp("other") / "BETTER"
    shutil.copytree(run_folder.out, other)
    table = pq.read_table(other / "scores.parquet")
    columns = {name: table[name].to_numpy() for name in table.column_names}
    columns["to_source_sface"] = columns["to_source_sface"] + 0.125
    write_table(other / "scores.parquet", columns)
    return [run_folder.out, other]


def test_the_page_of_two_real_runs(
    pair: list[Path], tmp_path: Path, open_page: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    with pytest.raises(SystemExit) as ended:
        main(["compare", *map(str, pair), "--out", str(page)])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "+0.125" in told
    assert told.endswith(f"look at {page}\n")
    assert page.stat().st_size < 15e6
    shown = open_page(page).page
    assert shown.locator("h1").inner_text() == "RUN · BETTER"
    row = shown.locator("#differences tbody tr", has_text="Margin, sface")
    assert "+0.125" in row.inner_text()
    left, right = (shown.get_by_label(name, exact=True) for name in ("Left", "Right"))
    assert left.locator("option").all_inner_texts() == ["Target", "RUN", "BETTER"]
    images = [shown.locator(f".look .{side}").get_attribute("src") for side in ("left", "right")]
    left.select_option("RUN")
    right.select_option("BETTER")
    assert shown.locator(".look .left").get_attribute("src") == images[1] != images[0]
    assert shown.locator(".tag").all_inner_texts() == ["RUN", "BETTER"]
    assert shown.locator(".moment-images img").count() == 3
    assert shown.locator("#curves .panel").count() >= 5
    shown.locator("#curves .panels").focus()
    shown.keyboard.press("End")
    assert shown.locator(".moment-where").inner_text().startswith("Frame 15")


def test_a_page_that_cannot_be_written_is_told(pair: list[Path], tmp_path: Path) -> None:
    found = compare_runs(pair)
    with pytest.raises(UsageError, match="is a folder"):
        write_comparison(found, tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="cannot be written"):
        write_comparison(found, tmp_path / "file" / "page.html")


def test_a_run_without_its_videos_is_compared_all_the_same(
    pair: list[Path], tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    bare = tmp_path / "BARE"
    shutil.copytree(pair[1], bare)
    (bare / "swapped" / "woman.mp4").unlink()
    shown = open_page(write_comparison(compare_runs([pair[0], bare]), tmp_path / "page.html")).page
    assert shown.locator(".film button").count() > 3
    assert shown.locator("#differences tbody tr").count() >= 5
    assert read_json(bare / "scores.json")["method"] == "procrustes"
