"""The whole pipeline on short slices of real clips: what it leaves, what it keeps, what it redoes."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

import facepipe
from facepipe import pipeline
from facepipe.cli import main
from facepipe.config import AlignConfig, Config, load
from facepipe.errors import NoFaceError, RunFolderBusyError
from facepipe.methods.occlusion import Occlusion
from facepipe.pipeline import context
from facepipe.provenance import TAG, check, read_label
from facepipe.report import write_report
from facepipe.stages.align import crop_size, crop_transforms, steady_faces
from facepipe.types import VideoInfo
from facepipe.video import open_clip, open_writer, write_image
from facepipe.workspace import Workspace, read_crops, read_faces, read_json

pytestmark = pytest.mark.models

Contents = Callable[[Path], dict[str, str]]
Quick = tuple[str, ...]


def settings_of(quick: Quick, *more: str, **paths: Any) -> Config:
    return pipeline.resolve(None, [*quick, *more], **paths)


def frames_of(path: Path) -> list[NDArray[np.uint8]]:
    with open_clip(path) as reader:
        return [frame.image for frame in reader]


def times_of(path: Path) -> list[Fraction]:
    with open_clip(path) as reader:
        return [frame.time for frame in reader]


def audio_of(path: Path) -> list[tuple[Fraction, bytes]]:
    """Time and bytes of every audio packet, by PyAV alone."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(audio=0) if p.dts is not None]
        return [(p.pts * p.time_base, bytes(p)) for p in packets if p.pts is not None and p.time_base is not None]


def statuses(result: pipeline.Result) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for outcome in result.outcomes:
        found.setdefault(outcome.stage, set()).add(outcome.status)
    return found


# ------------------------------------------------------------------------------------------------- the default run


def test_a_run_leaves_every_result(run_folder: Any) -> None:
    out = run_folder.out
    assert [(o.stage, o.side, o.clip, o.status) for o in run_folder.result.outcomes] == [
        ("detect", "source", "man", "done"),
        ("detect", "target", "woman", "done"),
        ("align", "source", "man", "done"),
        ("align", "target", "woman", "done"),
        ("swap", "target", "woman", "done"),
        ("score", "target", "woman", "done"),
    ]
    assert all(o.frames == run_folder.clips.frames for o in run_folder.result.outcomes)
    assert run_folder.result.failed == []
    for name in ("config.toml", "manifest.json", "scores.json", "scores.parquet", "swapped/woman.mp4"):
        assert (out / name).stat().st_size > 0
    assert not list(out.rglob("*.part"))
    assert not (out / "errors").exists()


def test_tables_of_faces(run_folder: Any) -> None:
    """The columns that outside programs rely on, read by pyarrow alone."""
    for side, clip in (("source", "man"), ("target", "woman")):
        folder = run_folder.out / side / clip
        table = pq.read_table(folder / "faces.parquet")
        assert {"frame", "pts", "face", "track", "box", "score", "landmarks", "frame_to_crop", "embedding"} <= set(
            table.column_names
        )
        assert {"yaw", "pitch", "roll", "sharpness", "flags"} <= set(table.column_names)
        assert table["frame"].to_pylist() == list(range(run_folder.clips.frames))
        assert {len(row) for row in table["landmarks"].to_pylist()} == {136}
        assert {len(row) for row in table["embedding"].to_pylist()} == {512}
        crops = read_crops(folder / "crops.npy")
        size = crop_size(read_faces(folder / "detected.parquet"), AlignConfig())
        assert crops.shape == (run_folder.clips.frames, size, size, 3)
        assert crops.std() > 20


def test_landmarks_are_smoothed_once_and_the_raw_ones_are_kept(run_folder: Any) -> None:
    """However often the stage is done: it begins with what was detected."""
    for side, clip in (("source", "man"), ("target", "woman")):
        raw, faces = (read_faces(run_folder.out / side / clip / f"{name}.parquet") for name in ("detected", "faces"))
        np.testing.assert_array_equal(faces.landmarks, steady_faces(raw, AlignConfig().smooth).landmarks)
        matrices = crop_transforms(faces.landmarks, AlignConfig(), crop_size(raw, AlignConfig()))
        np.testing.assert_array_equal(faces.frame_to_crop, matrices)
        assert not raw.frame_to_crop.any()


def test_identities_are_separated(run_folder: Any) -> None:
    """Frames of one person are alike, the two people are not, and the swap is nearer to the source."""
    man, woman = (
        read_faces(run_folder.out / side / clip / "faces.parquet").embedding
        for side, clip in (("source", "man"), ("target", "woman"))
    )
    man, woman = (one[np.isfinite(one).all(axis=1)] for one in (man, woman))
    assert len(man) == len(woman) == 6  # the first five, and every tenth
    assert (man @ man.T).min() > 0.53
    assert (woman @ woman.T).min() > 0.53
    assert (man @ woman.T).max() < 0.39
    for net in ("irv1", "sface"):
        identity = run_folder.result.scores["identity"][net]
        assert identity["n"] == run_folder.clips.frames
        assert identity["to_source"] > identity["to_target"] + 0.15
        assert identity["to_source"] > identity["floor"] + 0.3
        assert identity["margin"] == pytest.approx(identity["to_source"] - identity["to_target"], abs=0.1)
        assert abs(identity["floor"]) < 0.25


def test_scores_are_plain_json_and_a_row_a_frame(run_folder: Any) -> None:
    scores = json.loads((run_folder.out / "scores.json").read_text())
    assert scores == run_folder.result.scores
    assert scores["method"] == "procrustes"
    assert scores["frames"] == {"total": 16, "swapped": 16, "skipped": 0, "flagged": 0, "no_face": 0, "lost": 0}
    assert scores["outside"]["psnr"] > 40
    assert scores["outside"]["ssim"] > 0.97
    assert scores["same_identity"]["n"] >= 1
    assert scores["same_identity"]["psnr"] > 18
    assert scores["clips"]["woman"]["identity"] == scores["identity"]
    rows = pq.read_table(run_folder.out / "scores.parquet").to_pylist()
    assert [(row["clip"], row["frame"]) for row in rows] == [("woman", i) for i in range(16)]
    medians = float(np.median([row["to_source_irv1"] for row in rows]))
    assert medians == pytest.approx(scores["identity"]["irv1"]["to_source"])


def test_the_manifest_traces_everything(run_folder: Any) -> None:
    import hashlib

    manifest = json.loads((run_folder.out / "manifest.json").read_text())
    for side, clip in (("source", run_folder.clips.man / "man.mp4"), ("target", run_folder.clips.woman / "woman.mp4")):
        (known,) = manifest["inputs"][side].values()
        assert known == {"path": str(clip), "sha256": hashlib.sha256(clip.read_bytes()).hexdigest()}
    assert set(manifest["weights"]) == {"yunet", "facemesh", "irv1", "sface", "mobilenetv2"}
    assert manifest["failed"] == []
    assert "torch" in manifest["versions"]
    config = load(run_folder.out / "config.toml")
    assert config.source == run_folder.clips.man
    assert config.score.reconstruct_frames == 4


def test_the_video_keeps_time_sound_and_what_is_outside_the_mask(run_folder: Any) -> None:
    target, swapped = run_folder.clips.woman / "woman.mp4", run_folder.out / "swapped" / "woman.mp4"
    assert times_of(swapped) == times_of(target)
    assert len(audio_of(target)) > 5
    assert audio_of(swapped) == audio_of(target)
    masks = frames_of(run_folder.out / "masks" / "woman.mkv")
    for before, after, mask in zip(frames_of(target), frames_of(swapped), masks, strict=True):
        inside, outside = mask[..., 0] > 200, mask[..., 0] == 0
        assert 0.01 < inside.mean() < 0.3
        difference = np.abs(before.astype(float) - after)
        assert difference[outside].mean() < 1.5  # the codec alone
        assert difference[inside].mean() > 4
    records = pq.read_table(run_folder.out / "swapped" / "woman.parquet").to_pydict()
    assert records["swapped"] == [True] * 16
    assert set(records["source_frame"]) <= set(range(16))


def test_the_video_says_what_it_is(run_folder: Any) -> None:
    """Read by PyAV alone, as a stranger would."""
    with av.open(str(run_folder.out / "swapped" / "woman.mp4")) as container:
        tags = dict(container.metadata)
    assert "Synthetic media" in tags["comment"]
    statement = json.loads(tags[TAG])
    manifest = json.loads((run_folder.out / "manifest.json").read_text())
    assert statement["target_sha256"] == manifest["inputs"]["target"]["woman"]["sha256"]
    assert statement["source_sha256"] == [manifest["inputs"]["source"]["man"]["sha256"]]
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(run_folder.out / "swapped")])
    assert ended.value.code == 0


def test_a_second_run_does_nothing(run_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No net is loaded, no result is written, all outcomes are kept."""
    results = [p for p in run_folder.out.rglob("*") if p.is_file() and not p.name.startswith(".")]
    before = {p: p.stat().st_mtime_ns for p in results if p.name not in ("config.toml", "manifest.json")}
    monkeypatch.setattr(context, "load_models", lambda *_, **__: pytest.fail("nets were loaded"))
    told: list[Any] = []
    again = facepipe.run(out=run_folder.out, progress=lambda *facts: told.append(facts))
    assert {o.status for o in again.outcomes} == {"kept"}
    assert len(again.outcomes) == 6
    assert told == []
    assert again.scores == run_folder.result.scores
    assert {p: p.stat().st_mtime_ns for p in before} == before


# ------------------------------------------------------------------------------------------------ quick runs of all


def test_the_command_line_does_the_same_as_python(
    quick_run: Any, quick: Quick, tmp_path: Path, contents: Contents, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--source", str(quick_run.source), "--target", str(quick_run.target)]
    given += [word for item in quick for word in ("--set", item)]
    with pytest.raises(SystemExit) as ended:
        main(["run", *given, "--out", str(tmp_path / "RUN"), "--json"])
    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["scores"] == quick_run.result.scores
    assert [(o["stage"], o["clip"], o["status"]) for o in printed["outcomes"]] == [
        (o.stage, o.clip, o.status) for o in quick_run.result.outcomes
    ]
    assert contents(tmp_path / "RUN") == contents(quick_run.out)


@pytest.mark.slow
def test_a_changed_setting_redoes_only_what_depends_on_it(
    quick_run: Any, quick: Quick, tmp_path: Path, contents: Contents
) -> None:
    out = tmp_path / "RUN"
    shutil.copytree(quick_run.out, out)

    def again(*more: str) -> dict[str, set[str]]:
        return statuses(facepipe.run(settings_of((), *more, out=out)))

    kept, done = {"kept"}, {"done"}
    before = contents(out)
    assert again() == {"detect": kept, "align": kept, "swap": kept, "score": kept}
    assert again("swap.color=none") == {"detect": kept, "align": kept, "swap": done, "score": done}
    after = contents(out)
    changed = {name for name in before if before[name] != after.get(name)}
    assert {"swapped/woman.mp4", "scores.json", "scores.parquet"} <= changed
    assert not {name for name in changed if name.startswith(("source", "target"))}
    assert again("score.reconstruct_frames=3") == {"detect": kept, "align": kept, "swap": kept, "score": done}
    assert again("align.size=128") == {"detect": kept, "align": done, "swap": done, "score": done}
    assert again(*quick, "swap.color=covariance", "align.size=160") == {
        "detect": kept,
        "align": done,
        "swap": done,
        "score": done,
    }
    assert contents(out) == before  # back where it was, to the byte


def test_a_result_that_went_missing_is_made_again(quick_run: Any, tmp_path: Path, contents: Contents) -> None:
    out = tmp_path / "RUN"
    shutil.copytree(quick_run.out, out)
    (out / "swapped" / "woman.mp4").unlink()
    (out / "source" / "man" / "crops.npy").unlink()
    result = facepipe.run(out=out)
    assert [(o.stage, o.side) for o in result.outcomes if o.status == "done"] == [
        ("align", "source"),
        ("swap", "target"),
    ]
    assert contents(out) == contents(quick_run.out)


def test_a_changed_input_is_done_again(
    quick_run: Any, quick: Quick, tmp_path: Path, cut_clip: Callable[..., Path]
) -> None:
    out, target = tmp_path / "RUN", tmp_path / "target"
    shutil.copytree(quick_run.out, out)
    cut_clip("WolfgangLanger_Pexels.mp4", target / "woman.mp4", 250, 258)
    result = facepipe.detect(settings_of(quick, out=out, source=quick_run.source, target=target))
    assert [(o.side, o.status) for o in result.outcomes] == [("source", "kept"), ("target", "done")]


def test_stages_one_after_the_other_are_a_run(
    quick_run: Any, quick: Quick, tmp_path: Path, contents: Contents
) -> None:
    out = tmp_path / "RUN"
    facepipe.detect(settings_of(quick, out=out, source=quick_run.source, target=quick_run.target))
    for stage in (facepipe.align, facepipe.swap, facepipe.score):
        before = {o.stage: o.status for o in stage(out=out).outcomes}
        assert list(before.values())[-1] == "done"
        assert set(list(before.values())[:-1]) <= {"kept"}
    write_report(out)
    assert contents(out) == contents(quick_run.out)


def test_progress_hears_of_every_frame_of_every_stage(short_clips: Any, quick: Quick, tmp_path: Path) -> None:
    """In the caller's own thread, whichever threads do the work."""
    told: list[tuple[str, str, int, int | None]] = []
    heard_in: set[threading.Thread] = set()

    def listen(*facts: Any) -> None:
        told.append(facts)
        heard_in.add(threading.current_thread())

    config = settings_of(quick, out=tmp_path / "RUN", source=short_clips.man, target=short_clips.woman)
    facepipe.swap(config, progress=listen)
    assert heard_in == {threading.current_thread()}
    for stage, clip in (*itertools.product(("detect", "align"), ("man", "woman")), ("swap", "woman")):
        counts = [done for s, c, done, _ in told if (s, c) == (stage, clip)]
        assert counts == sorted(counts)
        assert set(counts) >= set(range(1, 17))
        assert [facts for facts in told if facts[:2] == (stage, clip)][-1][2:] == (16, 16)


def test_a_swap_that_is_interrupted_leaves_no_thread_and_no_half_of_a_file(
    quick_run: Any, tmp_path: Path, contents: Contents
) -> None:
    out = tmp_path / "RUN"
    shutil.copytree(quick_run.out, out)
    (out / "swapped" / "woman.mp4").unlink()
    stop = KeyboardInterrupt()

    def listen(stage: str, _clip: str, done: int, _promised: int | None) -> None:
        if (stage, done) == ("swap", 5):
            raise stop

    with pytest.raises(KeyboardInterrupt) as caught:
        facepipe.swap(out=out, progress=listen)
    assert caught.value is stop
    assert not [thread for thread in threading.enumerate() if thread.name == "facepipe-ahead"]
    assert not list(out.rglob("*.part"))
    assert not (out / "swapped" / "woman.mp4").exists()
    facepipe.swap(out=out)
    assert contents(out) == contents(quick_run.out)


def test_a_folder_in_use_is_refused(quick_run: Any) -> None:
    with Workspace(quick_run.out), pytest.raises(RunFolderBusyError, match=f"process {os.getpid()}"):
        facepipe.run(out=quick_run.out)
    with Workspace(quick_run.out):
        done = subprocess.run(
            [sys.executable, "-m", "facepipe.cli", "run", "--out", str(quick_run.out)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(quick_run.out) in done.stderr


# ------------------------------------------------------------------------------------------------- kinds of input


def test_lossless_leaves_the_outside_identical(quick_run: Any, quick: Quick, tmp_path: Path) -> None:
    out = tmp_path / "RUN"
    shutil.copytree(quick_run.out, out)
    result = facepipe.run(settings_of((), "swap.codec=lossless", out=out))
    assert result.scores is not None
    assert result.scores["outside"]["psnr"] is None
    assert result.scores["outside"]["ssim"] == pytest.approx(1)
    masks = frames_of(out / "masks" / "woman.mkv")
    pairs = zip(
        frames_of(quick_run.target / "woman.mp4"), frames_of(out / "swapped" / "woman.mp4"), masks, strict=True
    )
    for before, after, mask in pairs:
        np.testing.assert_array_equal(before[mask[..., 0] == 0], after[mask[..., 0] == 0])


def test_images_as_target_and_a_still_as_source(
    short_clips: Any, quick: Quick, tmp_path: Path, clip_path: Callable[[str], Path]
) -> None:
    """A folder of images in natural order is a clip; one picture of a person is enough to swap."""
    images = tmp_path / "holiday"
    images.mkdir()
    frames = frames_of(short_clips.woman / "woman.mp4")[:11]
    for number, frame in enumerate(frames):
        write_image(images / f"{number}.png", frame)
    config = settings_of(
        quick, "swap.codec=lossless", out=tmp_path / "RUN", source=clip_path("single_face.jpg"), target=images
    )
    result = facepipe.run(config)
    assert [(o.clip, o.status) for o in result.outcomes if o.stage == "swap"] == [("holiday", "done")]
    swapped = frames_of(tmp_path / "RUN" / "swapped" / "holiday.mp4")
    masks = frames_of(tmp_path / "RUN" / "masks" / "holiday.mkv")
    assert len(swapped) == 11
    for before, after, mask in zip(frames, swapped, masks, strict=True):
        np.testing.assert_array_equal(before[mask[..., 0] == 0], after[mask[..., 0] == 0])
        assert mask.any()
    assert result.scores is not None
    assert result.scores["frames"]["swapped"] == 11
    identity = result.scores["identity"]["sface"]
    assert identity["to_source"] > identity["to_target"]


@pytest.mark.slow
def test_uneven_times_sound_and_frames_without_a_face_pass_through(
    short_clips: Any, quick: Quick, tmp_path: Path, cut_clip: Callable[..., Path]
) -> None:
    """A man for six frames, then title cards, while the steps from frame to frame change; with sound."""
    target = cut_clip("face_noface.mov", tmp_path / "in" / "ends.mov", 66, 78, audio=True)
    times = times_of(target)
    assert len({b - a for a, b in itertools.pairwise(times)}) == 4
    config = settings_of(quick, "swap.codec=lossless", out=tmp_path / "RUN", source=short_clips.woman, target=target)
    result = facepipe.run(config)
    assert result.scores is not None
    counts = result.scores["frames"]
    assert (counts["total"], counts["swapped"], counts["no_face"]) == (12, 6, 6)
    (swapped,) = (tmp_path / "RUN" / "swapped").glob("ends.m*")
    assert times_of(swapped) == times
    assert audio_of(swapped) == audio_of(target)
    assert len(audio_of(target)) > 5
    for before, after in zip(frames_of(target)[6:], frames_of(swapped)[6:], strict=True):
        np.testing.assert_array_equal(before, after)
    records = pq.read_table(tmp_path / "RUN" / "swapped" / "ends.parquet").to_pydict()
    assert records["swapped"] == [True] * 6 + [False] * 6
    assert records["source_frame"][6:] == [-1] * 6


def test_sound_that_mp4_cannot_hold_makes_a_matroska_file(
    short_clips: Any, quick: Quick, tmp_path: Path, make_video: Callable[..., Path]
) -> None:
    images = frames_of(short_clips.woman / "woman.mp4")[:4]
    target = make_video(tmp_path / "old.mkv", images=images, audio=["wavpack"])
    out = tmp_path / "RUN"
    result = facepipe.run(settings_of(quick, out=out, source=short_clips.man, target=target))
    assert result.failed == []
    assert sorted(p.name for p in (out / "swapped").iterdir()) == ["old.c2pa", "old.json", "old.mkv", "old.parquet"]
    assert check(out / "swapped" / "old.mkv").status == "intact"
    assert audio_of(out / "swapped" / "old.mkv") == audio_of(target)
    assert read_label(out / "swapped" / "old.mkv") is not None
    assert not list(out.rglob("*.part"))


@pytest.mark.slow
def test_a_whole_clip_counts_72_of_169(clip_path: Callable[[str], Path], quick: Quick, tmp_path: Path) -> None:
    config = settings_of(
        quick, out=tmp_path / "RUN", source=clip_path("single_face.jpg"), target=clip_path("face_noface.mov")
    )
    result = facepipe.run(config)
    assert result.scores is not None
    counts = result.scores["frames"]
    assert (counts["total"], counts["swapped"] + counts["skipped"], counts["no_face"]) == (169, 72, 97)
    faces = read_faces(tmp_path / "RUN" / "target" / "face_noface" / "faces.parquet")
    assert faces.frame.tolist() == list(range(72))
    swapped = tmp_path / "RUN" / "swapped" / "face_noface.mp4"
    assert times_of(swapped) == times_of(clip_path("face_noface.mov"))
    assert audio_of(swapped) == audio_of(clip_path("face_noface.mov"))


def test_a_clip_of_blurred_faces_is_swapped_and_scored(short_clips: Any, quick: Quick, tmp_path: Path) -> None:
    """Blurred faces are swapped by default; with none to trust the same-identity swap is left out."""
    config = settings_of(
        quick,
        "limits.min_sharpness=9999",
        "swap.skip=[]",
        out=tmp_path / "R",
        source=short_clips.man,
        target=short_clips.woman,
    )
    with pytest.raises(NoFaceError, match="no usable source face"):
        facepipe.swap(config)
    blurred = tmp_path / "in" / "blurred.mp4"
    blur(short_clips.woman / "woman.mp4", blurred)
    config = settings_of(quick, "limits.min_sharpness=9", out=tmp_path / "RUN", source=short_clips.man, target=blurred)
    result = facepipe.run(config)
    assert [o.reason for o in result.failed] == []
    assert result.scores is not None
    assert result.scores["frames"]["flagged"] == result.scores["frames"]["swapped"] == 8
    assert result.scores["same_identity"] == {"psnr": None, "ssim": None, "n": 0}


def blur(source: Path, out: Path) -> None:
    import cv2

    out.parent.mkdir()
    with open_clip(source, stop=8) as reader, open_writer(out, reader.info) as writer:
        for frame in reader:
            writer.write(np.asarray(cv2.GaussianBlur(frame.image, (0, 0), 4), np.uint8), frame.pts)


# ------------------------------------------------------------------------------------------------ several people


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, short_clips: Any) -> Path:
    """A clip with the man on the left and the woman on the right, 8 frames."""
    left, right = frames_of(short_clips.man / "man.mp4")[:8], frames_of(short_clips.woman / "woman.mp4")[:8]
    out = tmp_path_factory.mktemp("pair") / "pair.mp4"
    side_by_side = [np.concatenate([a, b], axis=1) for a, b in zip(left, right, strict=True)]
    like = VideoInfo(out, (360, 1280), Fraction(25), Fraction(1, 25))
    with open_writer(out, like, crf=8) as writer:
        for index, image in enumerate(side_by_side):
            writer.write(image, index)
    return out


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory, short_clips: Any) -> dict[str, Path]:
    """A picture of each, of a frame that is not in the pair."""
    folder = tmp_path_factory.mktemp("portraits")
    found = {}
    for name, clip in (("man", short_clips.man / "man.mp4"), ("woman", short_clips.woman / "woman.mp4")):
        found[name] = folder / f"{name}.png"
        write_image(found[name], frames_of(clip)[-1])
    return found


@pytest.mark.slow
def test_a_source_behind_a_hand_is_not_taken(
    short_clips: Any, quick: Quick, tmp_path: Path, cut_clip: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hand before her mouth leaves at frame 228, and 227 would fit the closed mouth best."""
    source = cut_clip("WolfgangLanger_Pexels.mp4", tmp_path / "in" / "hand.mp4", 190, 290)
    out = tmp_path / "RUN"
    config = settings_of(quick, out=out, source=source, target=short_clips.man)
    facepipe.swap(config)
    told = read_json(out / "source" / "hand" / "hidden.json")["shares"]
    assert sum(share > 0 for share in told) >= 20
    used = pq.read_table(out / "swapped" / "man.parquet").to_pydict()["source_frame"]
    assert min(used) >= 38
    monkeypatch.setattr(Occlusion, "hidden", None)  # what is kept is read
    shutil.rmtree(out / "swapped")
    facepipe.swap(config)
    assert pq.read_table(out / "swapped" / "man.parquet").to_pydict()["source_frame"] == used


@pytest.mark.slow
def test_pictures_choose_who_is_who(
    pair: Path, portraits: dict[str, Path], tmp_path: Path, clip_path: Callable[[str], Path]
) -> None:
    """Both people in both clips: each picture finds its own person, as source and as target."""
    out = tmp_path / "RUN"
    base = {"source": pair, "target": pair, "out": out, "align": {"size": 160}}
    faces: Any = None
    for source, target in (("man", "woman"), ("woman", "man")):
        pictures = {"source_person": str(portraits[source]), "target_person": str(portraits[target])}
        result = facepipe.swap(base, swap=pictures)
        assert [o.status for o in result.outcomes][:4] == ["done" if faces is None else "kept"] * 4
        faces = read_faces(out / "source" / "pair" / "faces.parquet")
        on_the_left = {
            (int(f), int(n)): bool(x < 640) for f, n, x in zip(faces.frame, faces.face, faces.box[:, 0], strict=True)
        }
        assert sorted(on_the_left.values()) == [False] * 8 + [True] * 8
        used = pq.read_table(out / "swapped" / "pair.parquet").to_pydict()
        assert used["swapped"] == [True] * 8
        for kind, who in (("source_", source), ("", target)):
            rows = zip(used[f"{kind}frame"], used[f"{kind}face"], strict=True)
            assert {on_the_left[row] for row in rows} == {who == "man"}
        masks = np.stack([mask[..., 0] for mask in frames_of(out / "masks" / "pair.mkv")])
        assert bool(masks[:, :, :640].any()) == (target == "man")
        assert bool(masks[:, :, 640:].any()) == (target == "woman")
    with pytest.raises(NoFaceError, match="this person is in none of the clips"):
        facepipe.swap(base, swap={"source_person": str(clip_path("multi_face.jpg"))})
    write_image(tmp_path / "sky.png", np.full((200, 300, 3), 180, np.uint8))
    with pytest.raises(NoFaceError, match=r"sky\.png: no face found"):
        facepipe.swap(base, swap={"source_person": str(tmp_path / "sky.png")})


# -------------------------------------------------------------------------------------------------------- both ways


@pytest.mark.slow
def test_the_other_way_round_and_another_landmarker(short_clips: Any, tmp_path: Path, quick: Quick) -> None:
    config = settings_of(
        quick, "detect.landmarker=dlib68", out=tmp_path / "RUN", source=short_clips.woman, target=short_clips.man
    )
    result = facepipe.run(config)
    assert result.scores is not None
    assert result.scores["frames"]["swapped"] == 16
    identity = result.scores["identity"]["sface"]
    assert identity["margin"] > 0  # 68 points cover less of the face than the mesh
    assert identity["to_source"] > identity["floor"] + 0.1
    assert read_label(tmp_path / "RUN" / "swapped" / "man.mp4") is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [("detect.detector=mtcnn",), ("swap.refine=none", "swap.blend=feather"), ("align.template=ffhq",)]
)
def test_other_settings_run_through(short_clips: Any, tmp_path: Path, quick: Quick, more: Quick) -> None:
    config = settings_of(quick, *more, out=tmp_path / "RUN", source=short_clips.man, target=short_clips.woman)
    result = facepipe.run(config)
    assert result.failed == []
    assert result.scores is not None
    assert result.scores["identity"]["sface"]["margin"] > 0.1
    assert tomllib.loads((tmp_path / "RUN" / "config.toml").read_text())["score"]["nets"] == ["sface"]
