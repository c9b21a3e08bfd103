"""The command line: help, JSON, exit codes, doctor, weights, labels. Nothing here runs a large net."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facepipe import __version__, weights
from facepipe.cli import main
from facepipe.provenance import TAG, label
from facepipe.video import write_image
from facepipe.weights import catalog

COMMANDS = ["run", "detect", "align", "train", "swap", "score", "export", "preview", "faces"]
COMMANDS += ["verify", "doctor", "demo", "models"]


class Call:
    """What a call of the command line left: exit code, standard output, standard error."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Call]:
    def run(*arguments: object) -> Call:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        code = ended.value.code
        printed = capsys.readouterr()
        return Call(int(code or 0), printed.out, printed.err)

    return run


def plain(text: str) -> str:
    """Without colours and the breaks of a narrow terminal."""
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m", "", text))


# ----------------------------------------------------------------------------------------------------------- help


def test_help_names_every_command(call: Callable[..., Call]) -> None:
    done = call("--help")
    assert done.code == 0
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", done.out)


@pytest.mark.parametrize("command", [[c] for c in COMMANDS] + [["models", c] for c in ("list", "pull", "verify")])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_of_each_command(call: Callable[..., Call], command: list[str], option: str) -> None:
    done = call(*command, option)
    assert done.code == 0
    assert "Usage:" in plain(done.out)
    assert done.err == ""


def test_a_stage_says_its_options(call: Callable[..., Call]) -> None:
    text = plain(call("run", "--help").out)
    for option in ("--source", "--target", "--out", "--config", "--set", "--source-person", "--json", "--quiet"):
        assert option in text


def test_version(call: Callable[..., Call]) -> None:
    assert call("--version").out == f"facepipe {__version__}\n"


def test_no_arguments_show_the_help(call: Callable[..., Call]) -> None:
    done = call()
    assert "Usage:" in plain(done.out + done.err)
    assert done.code in (0, 2)  # typer's releases differ


@pytest.mark.parametrize("arguments", [["swop"], ["run", "--sauce", "x"], ["run", "--out"], ["models", "burn"]])
def test_a_wrong_call_is_exit_code_2(call: Callable[..., Call], arguments: list[str]) -> None:
    done = call(*arguments)
    assert done.code == 2
    assert "Traceback" not in done.err
    assert done.out == ""


def test_the_module_is_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "facepipe.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"facepipe {__version__}\n"


# -------------------------------------------------------------------------------------------------------- a stage


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, clip_path: Callable[[str], Path]) -> dict[str, Path]:
    """A still of a man and a picture without a face, each in a folder."""
    root = tmp_path_factory.mktemp("stills")
    for name in ("man", "sky"):
        (root / name).mkdir()
    (root / "man" / "man.jpg").write_bytes(clip_path("single_face.jpg").read_bytes())
    write_image(root / "sky" / "sky.png", np.full((120, 160, 3), 180, np.uint8))
    return {name: root / name for name in ("man", "sky")}


QUICK = ("--set", "detect.embedder=none", "--set", "align.size=64")


def test_json_of_a_stage(call: Callable[..., Call], folders: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["align", "--source", folders["man"], "--target", folders["man"], "--out", tmp_path / "RUN", *QUICK]
    done = call(*arguments, "--json")
    assert done.code == 0
    assert done.err == ""
    assert set(done.json) == {"out", "outcomes", "warnings", "scores", "report", "seconds"}
    assert [(o["stage"], o["side"], o["status"]) for o in done.json["outcomes"]] == [
        ("detect", "source", "done"),
        ("detect", "target", "done"),
        ("align", "source", "done"),
        ("align", "target", "done"),
    ]
    again = call("align", "--out", tmp_path / "RUN", "--json")
    assert {o["status"] for o in again.json["outcomes"]} == {"kept"}


def test_people_get_a_table_on_standard_error(
    call: Callable[..., Call], folders: dict[str, Path], tmp_path: Path
) -> None:
    arguments = ["detect", "--source", folders["man"], "--target", folders["man"], "--out", tmp_path / "RUN", *QUICK]
    done = call(*arguments)
    assert (done.code, done.out) == (0, "")
    assert "1 frames" in done.err
    assert "source" in done.err
    assert call(*arguments, "--quiet").err == ""


def test_a_clip_that_fails_is_exit_code_1_and_in_the_json(
    call: Callable[..., Call], folders: dict[str, Path], tmp_path: Path
) -> None:
    arguments = ["detect", "--source", folders["man"], "--target", folders["sky"], "--out", tmp_path / "RUN", *QUICK]
    done = call(*arguments, "--json")
    assert done.code == 1
    failed = [o for o in done.json["outcomes"] if o["status"] == "failed"]
    assert [(o["side"], o["clip"]) for o in failed] == [("target", "sky")]
    assert "no face found in 1 frames" in failed[0]["reason"]
    assert done.err == f"facepipe: {failed[0]['reason']}\n"


def test_settings_come_from_file_and_overrides(
    call: Callable[..., Call], folders: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "my.toml"
    file.write_text(
        f"source = '{folders['man']}'\ntarget = '{folders['man']}'\n"
        "[detect]\nembedder = 'none'\nmax_side = 320\n[swap]\ncrf = 30\n"
    )
    done = call("detect", "--config", file, "--out", tmp_path / "RUN", "--set", "swap.crf=31", "-q")
    assert done.code == 0
    resolved = (tmp_path / "RUN" / "config.toml").read_text()
    assert "crf = 31" in resolved
    assert "max_side = 320" in resolved


def test_persons_with_odd_names_reach_the_settings(
    call: Callable[..., Call], folders: dict[str, Path], tmp_path: Path
) -> None:
    picture = tmp_path / 'me "and" = you.png'
    write_image(picture, np.zeros((40, 40, 3), np.uint8))
    arguments = ["detect", "--source", folders["man"], "--target", folders["man"], "--out", tmp_path / "RUN", *QUICK]
    assert call(*arguments, "--source-person", picture, "-q").code == 0
    from facepipe.config import load

    assert load(tmp_path / "RUN" / "config.toml").swap.source_person == picture


# -------------------------------------------------------------------------------------------------- preview, faces


def test_preview(call: Callable[..., Call], quick_run: Any, tmp_path: Path) -> None:
    sheet, video = tmp_path / "sheet.png", tmp_path / "sheet.mp4"
    done = call("preview", quick_run.out, "--frames", 2, "--overlay", "landmarks, mask", "--out", sheet)
    assert (done.code, done.out) == (0, f"look at {sheet}\n")
    done = call("preview", quick_run.out, "--clip", "woman", "--video", "--out", sheet, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json == {"files": [str(sheet), str(video)]}
    assert call("verify", video).code == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--clip", "bob"], "no clip 'bob'"),
        (["--side", "left"], "expected source or target"),
        (["--overlay", "hat"], "overlay hat"),
        (["--frames", "0"], "frames 0"),
        (["--out", "x.gif"], "expected one of .png"),
    ],
)
def test_preview_of_a_mistake_is_one_line(
    call: Callable[..., Call], quick_run: Any, options: list[str], words: str
) -> None:
    done = call("preview", quick_run.out, *options)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert words in done.err


@pytest.mark.parametrize("command", ["preview", "faces"])
def test_what_is_no_run_folder_is_one_line(call: Callable[..., Call], tmp_path: Path, command: str) -> None:
    for folder, words in ((tmp_path, "not a run folder"), (tmp_path / "none", "no such run folder")):
        done = call(command, folder)
        assert (done.code, done.out) == (2, "")
        assert done.err.count("\n") == 1
        assert words in done.err


def test_faces(call: Callable[..., Call], copied_run: Any, quick_run: Any) -> None:
    done = call("faces", copied_run.out, "--sheet", 1, "--sort", "size")
    assert done.code == 0
    pictures = [f"{side}-1{what}.png" for what in ("", "-size") for side in ("source", "target")]
    files = [copied_run.out / "people" / name for name in pictures]
    assert done.out.endswith("".join(f"look at {file}\n" for file in files))
    assert all(file.is_file() for file in files)
    assert re.search(r"target +1 +16 +\d+ +1 +16", done.out)
    (person,) = call("faces", copied_run.out, "--side", "source", "--sort", "yaw", "--max", 90, "--json").json[
        "people"
    ]
    assert (person["side"], person["person"], person["clips"]) == ("source", 1, ["man"])
    assert len(person["sorted"]) == person["faces"] == 16
    bare = call("faces", quick_run.out)
    assert (bare.code, bare.out, bare.err.count("\n")) == (2, "", 1)


# ---------------------------------------------------------------------------------------------------------- verify


def test_verify_says_who_is_labelled(
    call: Callable[..., Call], quick_run: Any, make_video: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    swapped = folder / "swapped.mp4"
    shutil.copy(quick_run.out / "swapped" / "woman.mp4", swapped)
    done = call("verify", swapped)
    assert (done.code, done.err) == (0, "")
    assert f"{swapped}: intact; swapped by facepipe {__version__}, method procrustes; signed by facepipe" in done.out
    plain_one = make_video(folder / "plain.mp4", count=2)
    both = call("verify", swapped, plain_one)
    assert both.code == 1
    assert f"{plain_one}: no label" in both.out
    as_json = call("verify", folder, "--json")
    assert as_json.code == 1
    assert as_json.json[str(plain_one)]["status"] == "none"
    known = as_json.json[str(swapped)]
    assert (known["status"], known["label"]["method"], known["signer"]) == (
        "intact",
        "procrustes",
        "facepipe self-made certificate",
    )


def test_verify_has_an_exit_code_for_each_case(
    call: Callable[..., Call],
    quick_run: Any,
    make_video: Callable[..., Path],
    tmp_path: Path,
    own_credentials: Path,
) -> None:
    options = {"muxer": {"movflags": "use_metadata_tags"}, "count": 2}
    unsigned = make_video(tmp_path / "unsigned.mp4", metadata=label(method="procrustes"), **options)
    done = call("verify", unsigned)
    assert done.code == 5
    assert f"{unsigned}: a plain label without signature" in done.out
    odd = make_video(tmp_path / "odd.mp4", metadata={TAG: '{"x": 1}'}, **options)
    assert call("verify", odd).code == 5
    swapped = quick_run.out / "swapped" / "woman.mp4"
    data = bytearray(swapped.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "altered.mp4").write_bytes(data)
    done = call("verify", tmp_path / "altered.mp4", unsigned, swapped)
    assert done.code == 3
    assert "altered.mp4: ALTERED" in done.out
    assert call("verify", swapped, "--trust", own_credentials / "root.pem").code == 0
    (tmp_path / "text.pem").write_text("text")
    for name in ("text.pem", "missing.pem"):
        done = call("verify", swapped, "--trust", tmp_path / name)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)


def test_verify_of_what_is_no_video(call: Callable[..., Call], tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_text("text")
    done = call("verify", tmp_path / "x.mp4")
    assert done.code == 4
    assert done.out.startswith(f"{tmp_path / 'x.mp4'}: ")
    assert call("verify", tmp_path / "missing").code == 2


# ------------------------------------------------------------------------------------------------- doctor, weights


def test_doctor(call: Callable[..., Call]) -> None:
    done = call("doctor")
    assert done.code == 0
    assert "all default weights are there" in done.out
    facts = call("doctor", "--json").json
    assert facts["facepipe"] == __version__
    assert facts["missing_weights"] == []
    assert facts["device"] in ("cpu", "cuda", "mps")


def test_doctor_says_what_is_missing_and_how_to_get_it(
    call: Callable[..., Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEPIPE_CACHE", str(tmp_path))
    done = call("doctor")
    assert done.code == 1
    for name in weights.default_names():
        assert f"facepipe models pull {name}" in done.out
    assert call("doctor", "--json").json["missing_weights"] == weights.default_names()


def test_models_list(call: Callable[..., Call]) -> None:
    rows = call("models", "list", "--json").json
    assert [row["name"] for row in rows] == list(weights.entries())
    assert all(row["present"] for row in rows if row["default"])
    assert "yunet" in call("models", "list").out


def test_models_verify(call: Callable[..., Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = call("models", "verify", "yunet", "facemesh")
    assert done.code == 0
    assert f"yunet: ok, sha256 {weights.entry('yunet').sha256}" in done.out
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"x" * weights.entry("yunet").bytes)
    monkeypatch.setenv("FACEPIPE_WEIGHTS_YUNET", str(wrong))
    done = call("models", "verify", "yunet", "facemesh")
    assert done.code == 1
    assert "facemesh: ok" in done.out
    assert done.err.count("\n") == 1
    assert str(wrong) in done.err
    assert call("models", "verify", "unheard-of").code == 2


def test_models_pull_of_what_is_there_fetches_nothing(
    call: Callable[..., Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights.cache, "download_archive", lambda *_: pytest.fail("fetched"))
    done = call("models", "pull", "yunet")
    assert done.code == 0
    assert done.out == f"yunet: {weights.path('yunet')}\n"
    assert call("models", "pull", "yunet", "facemesh", "--sha256", "0" * 64).code == 2
    assert call("models", "pull", "unheard-of").code == 2


def test_a_broken_catalogue_is_one_line(
    call: Callable[..., Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "more.toml"
    file.write_text("[weights.x]\n")
    monkeypatch.setenv("FACEPIPE_CATALOG", str(file))
    catalog._read.cache_clear()
    done = call("models", "list")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert str(file) in done.err


# ------------------------------------------------------------------------------------------------ folders of images


def test_score_of_two_folders(call: Callable[..., Call], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, offset in (("ref", 0), ("pred", 10)):
        (tmp_path / name).mkdir()
        for i in range(3):
            image = np.random.default_rng(i).integers(0, 240, (48, 64, 3)) + offset
            write_image(tmp_path / name / f"{i}.png", image.astype(np.uint8))
    del rng
    done = call("score", "--pred", tmp_path / "pred", "--ref", tmp_path / "ref", "--metrics", "psnr,ssim", "--json")
    assert done.code == 0
    assert done.json["scores"]["psnr"]["value"] == pytest.approx(20 * np.log10(255 / 10))
    assert done.json["pairs"] == 3
    only_one = call("score", "--pred", tmp_path / "pred")
    assert only_one.code == 2
    assert only_one.err.count("\n") == 1
    assert call("score", "--pred", tmp_path / "pred", "--ref", tmp_path / "ref", "--metrics", "lpips").code == 2
