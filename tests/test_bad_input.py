"""Bad input gets one line that names the file and the reason, the right exit code, and no partial output.

2: the call itself is wrong. 1: some clip failed; the others are done.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import facepipe
from facepipe import pipeline, weights
from facepipe.cli import main
from facepipe.errors import DegenerateLandmarksError, UsageError
from facepipe.pipeline import faces as stages
from facepipe.video import open_clip, write_image
from facepipe.workspace import FORMAT, CropWriter

pytestmark = pytest.mark.models

SETTINGS = ("detect.embedder=none", "align.size=64", 'score.nets=["sface"]', "score.reconstruct_frames=0")
QUICK = tuple(word for setting in SETTINGS for word in ("--set", setting))


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str]]:
    """Exit code and lines on standard error of a quiet call, but for the note on the ledger; never a traceback."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err + printed.out
    lines = [line for line in printed.err.splitlines() if not line.startswith("note the ledger lacks")]
    return int(ended.value.code or 0), lines


def one_line(told: tuple[int, list[str]], code: int, *parts: object) -> None:
    """The call ended with `code` and said exactly one line, in which all `parts` are."""
    got, lines = told
    assert got == code, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith("facepipe: ")
    for part in parts:
        assert str(part) in lines[0]


@pytest.fixture(scope="module")
def man(tmp_path_factory: pytest.TempPathFactory, clip_path: Callable[[str], Path]) -> Path:
    """A folder with a still of a man."""
    folder = tmp_path_factory.mktemp("still") / "man"
    folder.mkdir()
    (folder / "man.jpg").write_bytes(clip_path("single_face.jpg").read_bytes())
    return folder


# ------------------------------------------------------------------------------------------------- folders and calls


@pytest.mark.parametrize("side", ["source", "target"])
def test_missing_and_empty_folders(capsys: pytest.CaptureFixture[str], man: Path, tmp_path: Path, side: str) -> None:
    other = {"source": "target", "target": "source"}[side]
    out = tmp_path / "RUN"
    missing, empty, notes = tmp_path / "missing", tmp_path / "empty", tmp_path / "notes"
    empty.mkdir()
    notes.mkdir()
    (notes / "readme.txt").write_text("no clip")
    for folder, reason in ((missing, "no such folder"), (empty, "no clip"), (notes, "no clip")):
        one_line(call(capsys, "run", f"--{side}", folder, f"--{other}", man, "--out", out, "-q"), 2, folder, reason)
    assert not out.exists()


def test_what_is_not_given(capsys: pytest.CaptureFixture[str], man: Path, tmp_path: Path) -> None:
    one_line(call(capsys, "run", "--source", man, "--target", man), 2, "--out")
    one_line(call(capsys, "run", "--source", man, "--out", tmp_path / "RUN"), 2, "--target")
    one_line(call(capsys, "swap", "--out", tmp_path / "RUN"), 2, "--source")
    assert not (tmp_path / "RUN").exists()


def test_unknown_keys_and_wrong_values(capsys: pytest.CaptureFixture[str], man: Path, tmp_path: Path) -> None:
    given = ["run", "--source", man, "--target", man, "--out", tmp_path / "RUN", "-q"]
    one_line(call(capsys, *given, "--set", "swap.colour=none"), 2, "swap.colour", "did you mean 'swap.color'")
    one_line(call(capsys, *given, "--set", "swap.crf=99"), 2, "swap.crf", "99")
    one_line(call(capsys, *given, "--set", "swap"), 2, "--set swap")
    one_line(call(capsys, *given, "--device", "abacus"), 2, "abacus")
    file = tmp_path / "my.toml"
    file.write_text("[detect]\nstrides = 3\n")
    one_line(call(capsys, *given, "--config", file), 2, file, "detect.strides", "did you mean 'detect.stride'")
    file.write_text("[detect\n")
    one_line(call(capsys, *given, "--config", file), 2, file, "not a TOML file")
    one_line(call(capsys, *given, "--config", tmp_path / "none.toml"), 2, "none.toml", "cannot be read")


@pytest.mark.parametrize("person", ["source", "target"])
def test_a_picture_of_a_person_that_is_not_there(
    capsys: pytest.CaptureFixture[str], man: Path, tmp_path: Path, person: str
) -> None:
    """Told before any work is done."""
    out, picture = tmp_path / "RUN", tmp_path / "nobody.png"
    given = ["run", "--source", man, "--target", man, "--out", out, "-q", *QUICK]
    one_line(call(capsys, *given, f"--{person}-person", picture), 2, picture, "no such file")
    assert not out.exists()


def test_run_folders_that_are_none(capsys: pytest.CaptureFixture[str], man: Path, tmp_path: Path) -> None:
    given = ["run", "--source", man, "--target", man, "-q", "--out"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "manifest.json").write_text(json.dumps({"format": FORMAT + 1}))
    one_line(call(capsys, *given, other), 2, other, f"format {FORMAT + 1}", f"reads format {FORMAT}")
    assert [p.name for p in other.iterdir()] == ["manifest.json"]
    full = tmp_path / "full"
    full.mkdir()
    (full / "photo.png").write_text("mine")
    one_line(call(capsys, *given, full), 2, full, "not a run folder")
    assert (full / "photo.png").read_text() == "mine"
    one_line(call(capsys, *given, full / "photo.png"), 2, "photo.png", "is a file")
    one_line(call(capsys, *given, full / "photo.png" / "RUN"), 2, "RUN", "cannot be made")


def test_a_run_folder_that_may_not_be_written(
    capsys: pytest.CaptureFixture[str], man: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.mkdir

    def refuse(self: Path, *args: Any, **more: Any) -> None:
        if self.name == "RUN":
            raise PermissionError(13, "Permission denied", str(self))
        real(self, *args, **more)

    monkeypatch.setattr(Path, "mkdir", refuse)
    out = tmp_path / "RUN"
    one_line(call(capsys, "run", "--source", man, "--target", man, "--out", out, "-q"), 2, out, "Permission denied")


# ----------------------------------------------------------------------------------------------------------- weights


def test_weights_with_a_wrong_hash(
    capsys: pytest.CaptureFixture[str], man: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "yunet.onnx"
    wrong.write_bytes(weights.path("yunet").read_bytes()[:-1] + b"?")
    monkeypatch.setenv("FACEPIPE_WEIGHTS_YUNET", str(wrong))
    out = tmp_path / "RUN"
    told = call(capsys, "run", "--source", man, "--target", man, "--out", out, "-q", *QUICK)
    one_line(told, 1, wrong, "expected sha256", weights.entry("yunet").sha256)
    assert not list(out.rglob("faces.parquet"))


def test_weights_that_are_missing(
    capsys: pytest.CaptureFixture[str], man: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEPIPE_CACHE", str(tmp_path / "empty"))
    told = call(capsys, "run", "--source", man, "--target", man, "--out", tmp_path / "RUN", "-q", *QUICK)
    one_line(told, 1, "not on this machine", "facepipe models pull")


# -------------------------------------------------------------------------------------- bad clips beside a good one


def png_bomb(path: Path) -> None:
    """A PNG whose header promises 60000x60000 pixels; a few hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def audio_only(path: Path) -> None:
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.int16), format="s16", layout="stereo")
        frame.sample_rate = 48000
        for packet in (*stream.encode(frame), *stream.encode(None)):
            out.mux(packet)


REASONS = {
    "text": "is a text file, expected a video",
    "zero": "the file is empty",
    "cut": "moov",
    "sound": "has no video stream",
    "noface": "no face found in 6 frames",
    "large": "has 518400 pixels, allowed are 400000",
    "bomb": "has 3600000000 pixels",
    "locked": "no permission to read it",
    "garbage": "is broken or not a video",
}


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, cut_clip: Callable[..., Path], make_video: Callable[..., Path]
) -> Path:
    """One good clip among one of each kind of bad ones."""
    root = tmp_path_factory.mktemp("clips")
    good = cut_clip("WolfgangLanger_Pexels.mp4", root / "good.mp4", 240, 246)
    (root / "text.mp4").write_text("Dear diary, this is no video.\n" * 50)
    (root / "zero.mp4").touch()
    whole = good.read_bytes()
    mdat = make_video(tmp_path_factory.mktemp("late") / "late.mp4", count=5).read_bytes()
    assert mdat.rindex(b"moov") > mdat.index(b"mdat")
    (root / "cut.mp4").write_bytes(mdat[: mdat.rindex(b"moov") - 40])
    audio_only(root / "sound.mp4")
    make_video(root / "noface.mp4", count=6)
    cut_clip("face_noface.mov", root / "large.mp4", 0, 4)
    png_bomb(root / "bomb.png")
    (root / "locked.mp4").write_bytes(whole)
    (root / "garbage.mp4").write_bytes(np.random.default_rng(0).integers(0, 256, 20000).astype(np.uint8).tobytes())
    return root


@pytest.fixture(scope="module")
def mixed(folder: Path, man: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[pipeline.Result, Path]:
    """A whole run over the folder. Tests may run as root, so the refused permission is made here."""
    out = tmp_path_factory.mktemp("mixed") / "RUN"
    overrides = [*SETTINGS, "limits.max_pixels=400000"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", refusing(folder / "locked.mp4"))
        return facepipe.run(pipeline.resolve(None, overrides, source=man, target=folder, out=out)), out


def refusing(path: Path) -> Any:
    """`Path.open` that has no permission for one path."""
    real = Path.open

    def refuse(self: Path, *args: Any, **more: Any) -> Any:
        if self == path:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *args, **more)

    return refuse


def test_the_good_clip_is_done_all_the_same(mixed: tuple[pipeline.Result, Path]) -> None:
    result, out = mixed
    assert [o.stage for o in result.outcomes if o.clip == "good" and o.status == "done"] == [
        "detect",
        "align",
        "swap",
        "score",
    ]
    with open_clip(out / "swapped" / "good.mp4") as reader:
        assert sum(1 for _ in reader) == 6
    assert result.scores is not None
    assert result.scores["frames"]["swapped"] == 6
    assert list(result.scores["clips"]) == ["good"]


@pytest.mark.parametrize("name", REASONS)
def test_each_bad_clip_has_its_reason(mixed: tuple[pipeline.Result, Path], folder: Path, name: str) -> None:
    result, _ = mixed
    (failed,) = (o for o in result.failed if o.clip == name)
    assert failed.stage == "detect"
    assert "\n" not in failed.reason
    assert str(folder / name) in failed.reason
    assert REASONS[name] in failed.reason


def test_nothing_else_failed_and_nothing_is_left_half(mixed: tuple[pipeline.Result, Path]) -> None:
    result, out = mixed
    assert {o.clip for o in result.failed} == set(REASONS)
    assert not list(out.rglob("*.part"))
    assert not (out / "errors").exists()
    assert {p.name.split(".")[0] for p in (out / "swapped").iterdir()} == {"good"}
    with_table = {p.parent.name for p in (out / "target").glob("*/faces.parquet")}
    assert with_table == {"good", "noface"}  # that there is no face is a result


def test_the_manifest_has_the_failures(mixed: tuple[pipeline.Result, Path]) -> None:
    _, out = mixed
    manifest = json.loads((out / "manifest.json").read_text())
    assert {entry["clip"] for entry in manifest["failed"]} == set(REASONS)
    assert set(manifest["inputs"]["target"]) == {"good"}


def test_the_command_line_names_each_on_a_line_and_ends_with_1(
    mixed: tuple[pipeline.Result, Path],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second time: the good clip is kept, the bad ones are told again."""
    _, out = mixed
    monkeypatch.setattr(Path, "open", refusing(folder / "locked.mp4"))
    code, lines = call(capsys, "run", "--out", out, "-q")
    assert code == 1
    assert len(lines) == len(REASONS)
    for name, reason in REASONS.items():
        assert any(str(folder / name) in line and reason in line for line in lines)


def test_one_bad_file_as_target(capsys: pytest.CaptureFixture[str], man: Path, folder: Path, tmp_path: Path) -> None:
    told = call(capsys, "run", "--source", man, "--target", folder / "zero.mp4", "--out", tmp_path / "R", "-q", *QUICK)
    one_line(told, 1, folder / "zero.mp4", "the file is empty")
    assert not (tmp_path / "R" / "swapped").exists()


def test_sources_of_which_none_can_be_used(
    capsys: pytest.CaptureFixture[str], man: Path, folder: Path, tmp_path: Path
) -> None:
    told = call(capsys, "run", "--source", folder / "text.mp4", "--target", man, "--out", tmp_path / "R", "-q", *QUICK)
    one_line(told, 1, folder / "text.mp4", "no source clip has a face", "is a text file")
    assert not (tmp_path / "R" / "swapped").exists()


def test_a_real_clip_without_any_face(
    capsys: pytest.CaptureFixture[str], man: Path, tmp_path: Path, clip_path: Callable[[str], Path]
) -> None:
    clip = clip_path("no_face.mp4")
    told = call(capsys, "run", "--source", man, "--target", clip, "--out", tmp_path / "RUN", "-q", *QUICK)
    one_line(told, 1, clip, "no face found in 95 frames")


def test_too_many_frames(capsys: pytest.CaptureFixture[str], man: Path, folder: Path, tmp_path: Path) -> None:
    given = ["run", "--source", man, "--target", folder / "good.mp4", "--out", tmp_path / "RUN", "-q", *QUICK]
    one_line(call(capsys, *given, "--set", "limits.max_frames=5"), 1, folder / "good.mp4", "more than 5 frames")
    assert not list((tmp_path / "RUN" / "target").rglob("faces.parquet"))


def test_images_of_different_sizes(capsys: pytest.CaptureFixture[str], man: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    picture = np.asarray(cv2.imread(str(man / "man.jpg")), np.uint8)[..., ::-1]
    write_image(images / "1.png", picture)
    write_image(images / "2.png", picture[:-2])
    told = call(capsys, "run", "--source", man, "--target", images, "--out", tmp_path / "RUN", "-q", *QUICK)
    one_line(told, 1, images / "2.png", "same size")


def test_all_faces_flagged(
    capsys: pytest.CaptureFixture[str], man: Path, tmp_path: Path, cut_clip: Callable[..., Path]
) -> None:
    small = cut_clip("carphone_pristine.mp4", tmp_path / "small.mp4", 0, 4)
    given = ["run", "--source", man, "--target", small, "--out", tmp_path / "RUN", "-q", *QUICK]
    told = call(capsys, *given, "--set", "swap.skip=['small','profile']", "--set", "limits.min_eye_distance=60")
    one_line(told, 1, small, "none of the 4 faces", "swap.skip")
    assert not list((tmp_path / "RUN" / "swapped").glob("small.m*"))


def test_sources_of_which_all_are_flagged(
    capsys: pytest.CaptureFixture[str], man: Path, folder: Path, tmp_path: Path
) -> None:
    given = ["swap", "--source", man, "--target", folder / "good.mp4", "--out", tmp_path / "RUN", "-q", *QUICK]
    told = call(capsys, *given, "--set", "limits.min_eye_distance=5000")
    one_line(told, 1, man, "no usable source face: 1 found, all flagged")


def test_a_damaged_table_in_the_run_folder(capsys: pytest.CaptureFixture[str], man: Path, tmp_path: Path) -> None:
    out = tmp_path / "RUN"
    assert call(capsys, "align", "--source", man, "--target", man, "--out", out, "-q", *QUICK)[0] == 0
    (out / "source" / "man" / "faces.parquet").write_bytes(b"PAR1 half")
    code, lines = call(capsys, "swap", "--out", out, "-q")
    assert code in (1, 2)
    assert len(lines) == 1
    assert "faces.parquet" in lines[0]
    assert "delete it and run again" in lines[0]
    (out / "source" / "man" / "faces.parquet").unlink()
    assert call(capsys, "swap", "--out", out, "-q")[0] == 0


def test_a_defect_of_a_library_is_one_line_and_a_log(
    capsys: pytest.CaptureFixture[str],
    man: Path,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What nobody foresaw stops one clip; its traceback is in the run folder."""
    real = vars(stages)["detect_faces"]

    def fail(frames: Any, *args: Any) -> Any:
        if args[-1] == (360, 640):
            raise ZeroDivisionError("boom")
        return real(frames, *args)

    monkeypatch.setattr(stages, "detect_faces", fail)
    out = tmp_path / "RUN"
    told = call(capsys, "detect", "--source", man, "--target", folder / "good.mp4", "--out", out, "-q", *QUICK)
    one_line(told, 1, folder / "good.mp4", "ZeroDivisionError: boom", out / "errors")
    (log,) = (out / "errors").iterdir()
    assert "Traceback" in log.read_text()
    assert (out / "source" / "man" / "detect.json").exists()


def test_landmarks_that_fit_nothing_stop_one_clip(
    capsys: pytest.CaptureFixture[str], man: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = vars(stages)["detect_faces"]

    def fail(frames: Any, *args: Any) -> Any:
        if args[-1] == (360, 640):
            raise DegenerateLandmarksError("all points coincide")
        return real(frames, *args)

    monkeypatch.setattr(stages, "detect_faces", fail)
    out = tmp_path / "RUN"
    told = call(capsys, "detect", "--source", man, "--target", folder / "good.mp4", "--out", out, "-q", *QUICK)
    one_line(told, 1, folder / "good.mp4", "all points coincide")
    assert (out / "source" / "man" / "detect.json").exists()


def test_a_full_disk_stops_one_clip_and_leaves_nothing_half(
    capsys: pytest.CaptureFixture[str], man: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the crops of the target are written there is no room left."""
    out = tmp_path / "RUN"
    given = ["run", "--source", man, "--target", folder / "good.mp4", "--out", out, "-q", *QUICK]
    real = CropWriter.append

    def full(self: CropWriter, crop: Any) -> None:
        real(self, crop)
        if self._count == 3:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(CropWriter, "append", full)
        one_line(call(capsys, *given), 1, folder / "good.mp4", "No space left")
    assert not list(out.rglob("*.part"))
    assert not (out / "target" / "good" / "crops.npy").exists()
    assert call(capsys, *given) == (0, [])


def test_choosing_a_person_without_an_identity_net(
    capsys: pytest.CaptureFixture[str], man: Path, tmp_path: Path
) -> None:
    given = ["swap", "--source", man, "--target", man, "--out", tmp_path / "RUN", "-q", *QUICK]
    one_line(call(capsys, *given, "--source-person", man / "man.jpg"), 2, man / "man.jpg", "detect.embedder")


def test_python_gets_the_same_errors(man: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        facepipe.run(source=tmp_path / "missing", target=man, out=tmp_path / "RUN")
    with pytest.raises(ValueError, match="unknown key 'sorce'"):
        facepipe.run(sorce=man, target=man, out=tmp_path / "RUN")
    assert not (tmp_path / "RUN").exists()
