"""Data sets for detection: laid out by their published rules, the same bytes each time, real and fake alike."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from facepipe import geometry, pipeline
from facepipe.config import CredentialsConfig
from facepipe.datasets import check_dataset, detect_fakes, export_dataset
from facepipe.datasets import detecting as detecting_module
from facepipe.datasets.films import COMPANION
from facepipe.datasets.plan import SPLITS, _People
from facepipe.datasets.samples import crop_matrix
from facepipe.errors import MediaError, RunFolderError, UsageError
from facepipe.finder import load_models
from facepipe.provenance import check, load_identity, read_label, sign_folder
from facepipe.video import read_image, write_image
from facepipe.watermark import read_mark

Contents = Callable[[Path], dict[str, str]]

# -------------------------------------------------------------------------------------------------------------- parts


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=25))
def test_people_who_meet_are_in_one_part(meetings: list[tuple[int, int]]) -> None:
    people, pairs = _People(), [(f"{a:02d}", f"{b:02d}") for a, b in meetings]
    for target, source in pairs:
        people.meet(source, target)
    parts = people.groups(pairs)
    seen: dict[str, str] = {}
    for target, source in pairs:
        for one in (target, source):
            assert seen.setdefault(one, parts[target]) == parts[target]


def test_parts_are_as_large_as_they_shall_be() -> None:
    people, pairs = _People(), [(f"{i:03d}", f"{i + 500:03d}") for i in range(200)]
    for target, source in pairs:
        people.meet(source, target)
    parts = list(people.groups(pairs).values())
    assert {part: parts.count(part) for part in SPLITS} == {"train": 144, "test": 28, "val": 28}


def test_crops_follow_the_published_recipe() -> None:
    """Written out from the rules, step by step: the template of 112 with eight pixels more, scaled, moved, shrunk."""
    wanted = np.array(
        [[30.2946, 51.6963], [65.5318, 51.5014], [48.0252, 71.7366], [33.5493, 92.3655], [62.7299, 92.2041]]
    )
    wanted[:, 0] += 8
    wanted = (wanted * 256 / 112 + 256 * 0.3 / 2) * 256 / (256 + 256 * 0.3)
    landmarks = geometry.template("ibug68", 200) @ np.array([[0.9, 0.2], [-0.2, 0.9]]) + 40
    five = landmarks[[37, 44, 30, 49, 55]]
    np.testing.assert_allclose(crop_matrix(landmarks), geometry.umeyama(five, wanted)[:2])


# ---------------------------------------------------------------------------------------------------------- real runs


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory,
    cut_clip: Callable[..., Path],
    clip_path: Callable[[str], Path],
    quick: tuple[str, ...],
) -> list[Path]:
    """A man onto a woman, and a still of somebody onto a third one: two pairs of people who never meet."""
    root = tmp_path_factory.mktemp("sets")
    cut_clip("single_face.mp4", root / "man" / "man.mp4", 0, 34)
    cut_clip("WolfgangLanger_Pexels.mp4", root / "woman" / "woman.mp4", 240, 276)
    cut_clip("carphone_pristine.mp4", root / "other" / "other.mp4", 0, 36)
    (root / "still").mkdir()
    shutil.copy(clip_path("single_face.jpg"), root / "still")
    made = []
    for source, target, more in (("man", "woman", ("swap.blend_truth=true",)), ("still", "other", ())):
        out = root / f"RUN-{target}"
        pipeline.swap(pipeline.resolve(None, (*quick, *more), source=root / source, target=root / target, out=out))
        made.append(out)
    return made


@pytest.fixture(scope="module")
def films(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("films") / "SET"
    told: list[tuple[str, int, int]] = []
    notes = export_dataset(runs, dest, progress=lambda *words: told.append(words))
    assert notes == ["nobody for val: people who meet in a swap stay together; give more runs"]
    assert [done for _, done, _ in told] == [1, 2, 3, 4, 5]
    return dest


@pytest.fixture(scope="module")
def pictures(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("pictures") / "SET"
    export_dataset(runs, dest, "deepfakebench")
    return dest


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def streams(path: Path) -> tuple[Any, ...]:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        times = sorted(packet.pts for packet in container.demux(video) if packet.pts is not None)
        size = video.codec_context.height, video.codec_context.width
        return [s.type for s in container.streams], video.codec_context.name, video.codec_context.pix_fmt, size, times


@pytest.mark.models
@pytest.mark.slow
def test_the_layout_of_faceforensics(films: Path) -> None:
    facts = json.loads((films / "dataset.json").read_text())
    numbers = {text.split()[0]: number for number, text in facts["files"].items()}
    fakes = {f"{numbers['woman']}_{numbers['man']}", f"{numbers['other']}_{numbers['still']}"}
    made = "manipulated_sequences/facepipe-procrustes"
    expected = {
        "dataset.json",
        "SHA256SUMS",
        "SHA256SUMS.c2pa",
        *(f"splits/{part}.json" for part in ("train", "val", "test")),
    }
    for quality in ("raw", "c23", "c40"):
        expected |= {f"original_sequences/youtube/{quality}/videos/{fake[:3]}.mp4" for fake in fakes}
        expected |= {f"{made}/{quality}/videos/{fake}.mp4" for fake in fakes}
    expected |= {f"{made}/masks/videos/{fake}.mp4" for fake in fakes}
    (truth,) = (fake for fake in fakes if fake[:3] == numbers["woman"])
    expected |= {f"{made}/blend/{truth}/{name}" for name in ("face.mp4", "mask.mkv", "frames.parquet")}
    assert below(films) == expected
    parts = {part: json.loads((films / "splits" / f"{part}.json").read_text()) for part in ("train", "val", "test")}
    assert sorted(len(pairs) for pairs in parts.values()) == [0, 1, 1]
    people = [{one for pair in pairs for one in pair} for pairs in parts.values()]
    assert not people[0] & people[2]
    for fake in fakes:
        for quality, coding in (("raw", "gbrp"), ("c23", "yuv420p"), ("c40", "yuv420p")):
            seen = [
                streams(films / kind / quality / "videos" / f"{name}.mp4")
                for kind, name in (("original_sequences/youtube", fake[:3]), (made, fake))
            ]
            assert seen[0] == seen[1]
            assert seen[0][:3] == (["video"], "h264", coding)
    assert check_dataset(films) == []


@pytest.mark.models
@pytest.mark.slow
def test_labels_and_marks_are_on_both(films: Path, runs: list[Path]) -> None:
    """A fake says what it is, and an original that it is none, in the same form."""
    fake = min((films / "manipulated_sequences" / "facepipe-procrustes" / "c23" / "videos").glob("*.mp4"))
    label = read_label(fake)
    assert label is not None
    assert label["swapped"] is True
    real = films / "original_sequences" / "youtube" / "c23" / "videos" / f"{fake.stem[:3]}.mp4"
    told = read_label(real)
    assert told is not None
    assert told["swapped"] is False
    assert sorted(told) == sorted(label)
    for path, words in ((fake, "swapped by facepipe"), (real, "an original, written by facepipe")):
        verdict = check(path)
        assert verdict.status == "intact"
        assert words in verdict.sentence()
    from facepipe.config import DetectConfig

    found = read_mark(real, load_models(DetectConfig(embedder="none")))
    assert found is None or found.payload == COMPANION  # a clip of a second and a half may be too short


@pytest.mark.models
@pytest.mark.slow
def test_a_second_export_has_the_same_bytes_and_the_first_is_kept(
    films: Path, runs: list[Path], tmp_path: Path, contents: Contents
) -> None:
    again = tmp_path / "SET"
    export_dataset(list(reversed(runs)), again)
    assert contents(again) == contents(films)
    stamps = {path: path.stat().st_mtime_ns for path in again.rglob("*.mp4")}
    lost = min(again.glob("manipulated_sequences/*/c40/videos/*.mp4"))
    lost.unlink()
    export_dataset(runs, again)
    assert contents(again) == contents(films)
    assert [path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp] == [lost]
    with pytest.raises(UsageError, match="holds something else, or the export of other runs"):
        export_dataset(runs[:1], again)


@pytest.mark.models
@pytest.mark.slow
def test_the_checker_finds_what_is_wrong_with_films(films: Path, tmp_path: Path) -> None:
    bad = tmp_path / "SET"
    shutil.copytree(films, bad)
    first, second = sorted(bad.glob("manipulated_sequences/*/c23/videos/*.mp4"))
    shutil.copy(sorted(bad.glob("manipulated_sequences/*/raw/videos/*.mp4"))[0], first)
    second.unlink()
    (bad / "splits" / "train.json").write_text("[]")
    facts = json.loads((bad / "dataset.json").read_text())
    facts["pairs"][0]["source"] = facts["pairs"][1]["source"]
    (bad / "dataset.json").write_text(json.dumps(facts))
    told = "\n".join(check_dataset(bad))
    assert "another coding than its original: a shortcut" in told or "no such file" in told
    assert "is in test and train" in told
    assert "train.json: missing, or not the pairs of the set" in told


@pytest.mark.models
@pytest.mark.slow
def test_an_independent_loader_reads_the_pictures(pictures: Path) -> None:
    """Written from DeepfakeBench's rules: JSON, 32 pictures of 256 a video, landmarks and masks beside them."""
    sheet = json.loads((pictures / "dataset_json" / "facepipe.json").read_text())
    assert list(sheet) == ["facepipe"]
    assert set(sheet["facepipe"]) == {"FF-real", "facepipe-procrustes"}
    count = 0
    for label, parts in sheet["facepipe"].items():
        assert set(parts) == {"train", "val", "test"}
        for qualities in parts.values():
            for entry in (entry for videos in qualities.values() for entry in videos.values()):
                count += 1
                assert entry["label"] == label
                assert len(entry["frames"]) == len(set(entry["frames"])) == 32
                numbers = [int(Path(name).stem) for name in entry["frames"]]
                assert numbers == sorted(numbers)
                assert np.ptp(np.diff(numbers)) <= 1
                for name in entry["frames"]:
                    assert name.startswith("./")
                    assert name.count("frames") == 1
                    image = cv2.imread(str(pictures / name))
                    assert image is not None
                    assert image.shape == (256, 256, 3)
                    points = np.load(pictures / name.replace("frames", "landmarks").replace(".png", ".npy"))
                    assert points.shape == (68, 2)
                    assert points.dtype == np.int64
                    mask = cv2.imread(str(pictures / name.replace("frames", "masks")), cv2.IMREAD_GRAYSCALE)
                    assert mask is not None
                    assert set(np.unique(mask).tolist()) <= ({0} if label == "FF-real" else {0, 255})
                    nose = points[30]
                    assert np.abs(nose - [128, 136]).max() < 25
                    assert label == "FF-real" or mask[nose[1], nose[0]] == 255
    assert count == 4
    assert check_dataset(pictures) == []


@pytest.mark.models
@pytest.mark.slow
def test_the_checker_finds_what_is_wrong_with_pictures(pictures: Path, tmp_path: Path) -> None:
    bad = tmp_path / "SET"
    shutil.copytree(pictures, bad)
    real, fake = (sorted(bad.glob(f"facepipe/{kind}/*/c23/masks/*/*.png")) for kind in ("original*", "manip*"))
    write_image(real[0], np.full((256, 256, 3), 255, np.uint8))
    write_image(fake[0], np.zeros((256, 256, 3), np.uint8))
    write_image(fake[1], np.full((256, 256, 3), 128, np.uint8))
    points = sorted(bad.glob("facepipe/manip*/*/c23/landmarks/*/*.npy"))
    np.save(points[2], np.zeros((68, 2)))
    np.save(points[3], np.full((68, 2), 9999))
    points[4].unlink()
    sheet = bad / "dataset_json" / "facepipe.json"
    known = json.loads(sheet.read_text())
    some = next(iter(known["facepipe"]["FF-real"]["train"]["c23"].values()))
    some["frames"] = [some["frames"][0].replace("./", "/frames/"), *some["frames"][2:]]
    sheet.write_text(json.dumps(known))
    told = "\n".join(check_dataset(bad))
    for expected in (
        *("its mask is empty", "its mask is not binary", "expected whole numbers for 68 landmarks"),
        *("landmarks far beyond the picture", "No such file", "31 frames, expected 32", "expected a path from '.'"),
    ):
        assert expected in told


@pytest.mark.models
@pytest.mark.slow
def test_shards(runs: list[Path], tmp_path: Path, contents: Contents) -> None:
    for name in ("a", "b"):
        export_dataset(runs, tmp_path / name, "webdataset", qualities=["raw"])
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert check_dataset(tmp_path / "a") == []
    labels = []
    for shard in sorted((tmp_path / "a").glob("*.tar")):
        with tarfile.open(shard) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        keys = sorted({name.partition(".")[0] for name in members})
        assert len(keys) == 64
        for key in keys:
            facts = json.loads(members[f"{key}.json"])
            labels.append(facts["label"])
            mask = cv2.imdecode(np.frombuffer(members[f"{key}.mask.png"], np.uint8), cv2.IMREAD_UNCHANGED)
            assert mask is not None
            assert mask.dtype == np.uint16
            assert (mask.max() == 0) == (facts["label"] == 0)
            assert np.load(io.BytesIO(members[f"{key}.matrix.npy"])).shape == (2, 3)
    assert labels.count(0) == labels.count(1) == 64


STRANGE: tuple[Any, ...] = (None, True, -1, 10**30, "", "../../x\n", [], {}, [[]], {"a": 1})


def spoiled(text: str, rng: random.Random) -> str:
    """JSON with something else at one place."""
    node = whole = json.loads(text)
    while isinstance(node, (dict, list)) and node:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if rng.random() < 0.3 or not isinstance(node[key], (dict, list)) or not node[key]:
            node[key] = rng.choice(STRANGE)
            break
        node = node[key]
    return json.dumps(whole)


def test_the_checker_and_lists_of_somebody_else(tmp_path: Path) -> None:
    frames = [f"./frames/{i}.png" for i in range(32)]
    videos = {"001": {"label": "FF-real", "frames": frames}}
    sheets = {
        tmp_path / "dataset.json": {
            "format": "deepfakebench",
            "qualities": ["raw"],
            "pairs": [{"target": "001", "source": "002", "method": "facepipe-gan", "split": "train"}],
        },
        tmp_path / "dataset_json" / "facepipe.json": {"facepipe": {"FF-real": {"train": {"c23": videos}}}},
    }
    (tmp_path / "dataset_json").mkdir()
    rng = random.Random(0)
    for turn in range(300):
        for number, (path, sheet) in enumerate(sheets.items()):
            text = json.dumps(sheet)
            path.write_text(spoiled(text, rng) if turn % 2 == number else text)
        with contextlib.suppress(UsageError):
            assert check_dataset(tmp_path)  # no picture is there: something is always wrong
        with contextlib.suppress(UsageError, MediaError):
            detect_fakes(tmp_path)


def test_the_checker_and_shards_of_somebody_else(tmp_path: Path) -> None:
    def shard(**members: bytes) -> None:
        with tarfile.open(tmp_path / "train-000000.tar", "w") as tar:
            for name, data in members.items():
                entry = tarfile.TarInfo(f"a.{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))

    (tmp_path / "dataset.json").write_text(json.dumps({"format": "webdataset", "pairs": []}))
    with io.BytesIO() as file:
        np.save(file, np.zeros((68, 2), np.int64))
        points = file.getvalue()
    picture = cv2.imencode(".png", np.zeros((256, 256, 3), np.uint8))[1].tobytes()
    whole = {"json": b'{"video": "001", "label": 0}', "png": picture, "mask.png": picture, "landmarks.npy": points}
    shard(**whole)
    sign_folder(tmp_path, {}, load_identity(CredentialsConfig()))
    assert check_dataset(tmp_path) == []
    rng = random.Random(0)
    for name, data in whole.items():
        for _ in range(30):
            changed = bytearray(data)
            for _ in range(4):
                changed[rng.randrange(min(len(data), 130))] = rng.randrange(256)
            shard(**{**whole, name: bytes(changed)})
            assert all("\n" not in line for line in check_dataset(tmp_path))
    entry = tarfile.TarInfo("a.png")
    entry.size = 1 << 45
    (tmp_path / "train-000000.tar").write_bytes(entry.tobuf() + bytes(4096))
    assert check_dataset(tmp_path)


@pytest.mark.models
@pytest.mark.slow
def test_the_command_line(films: Path, pictures: Path, runs: list[Path], tmp_path: Path) -> None:
    def told(*words: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "facepipe.cli", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    assert told("export", "--check", str(films))[:2] == (0, f"{films}: whole and fair\n")
    few = tmp_path / "few"
    code, out, err = told("export", "--format", "deepfakebench", "--quality", "c40", "--out", str(runs[0]), str(few))
    assert (code, out) == (0, f"{few}\n")
    assert "note: nobody for test and val" in err
    code, out, err = told("detect-fakes", str(few))
    assert code == 2
    assert "real and fake of other people are needed in test" in err
    code, out, _ = told("detect-fakes", str(pictures), "--detector", "no.such:thing")
    assert code == 2
    code, out, _ = told("detect-fakes", str(pictures))
    assert code == 0
    assert out.startswith("c23: AUC ")
    assert "2 videos, too few for an interval" in out


# ------------------------------------------------------------------------------------------------------- wrong calls


@pytest.mark.models
def test_wrong_calls(quick_run: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected one of faceforensics, deepfakebench, webdataset"):
        export_dataset([quick_run.out], tmp_path / "a", "imagenet")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="quality c41: expected some of raw, c23, c40"):
        export_dataset([quick_run.out], tmp_path / "a", qualities=["c41"])
    with pytest.raises(UsageError, match="expected one quality"):
        export_dataset([quick_run.out], tmp_path / "a", "webdataset", qualities=["c23", "c40"])
    with pytest.raises(UsageError, match="woman was swapped by facepipe-procrustes in both"):
        export_dataset([quick_run.out, quick_run.out], tmp_path / "a")
    with pytest.raises(UsageError, match="no data set that"):
        check_dataset(tmp_path)
    with pytest.raises(UsageError, match="expected what `facepipe export --format deepfakebench` made"):
        detect_fakes(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="holds something else"):
        export_dataset([quick_run.out], tmp_path / "full")
    detected = tmp_path / "RUN"
    pipeline.detect(pipeline.resolve(quick_run.out / "config.toml", out=detected))
    with pytest.raises(RunFolderError, match="no swapped video"):
        export_dataset([detected], tmp_path / "a")


@pytest.mark.models
@pytest.mark.slow
def test_a_clip_too_short_for_32_pictures_is_left_out(quick_run: Any, tmp_path: Path) -> None:
    notes = export_dataset([quick_run.out], tmp_path / "SET", "deepfakebench")
    assert notes[0].endswith(": 16 swapped frames, 32 are needed")


# ---------------------------------------------------------------------------------------------------------- detectors


def drawn_set(root: Path, *, videos: int, leak: bool) -> None:
    """Pictures of noise with 68 points; a fake has a bright nose, and with `leak` a bright corner too."""
    random = np.random.default_rng(0)
    points = np.rint(geometry.template("ibug68", 150) + 53).astype(np.int64)
    kinds: dict[str, Any] = {}
    for fake, kind in enumerate(("FF-real", "facepipe-x")):
        for part in ("train", "val", "test"):
            for number in range(videos if part != "val" else 0):
                frames = []
                folder = root / kind / part / f"{number}"
                for frame in range(2):
                    image = random.integers(60, 120, (256, 256, 3), np.uint8)
                    image[120:150, 115:145] += np.uint8(100 * fake)
                    image[:20, :20] += np.uint8(100 * fake * leak)
                    for what in ("frames", "landmarks"):
                        (folder / what).mkdir(parents=True, exist_ok=True)
                    write_image(folder / "frames" / f"{frame}.png", image)
                    np.save(folder / "landmarks" / f"{frame}.npy", points)
                    frames.append(f"./{(folder / 'frames' / f'{frame}.png').relative_to(root).as_posix()}")
                entry = {"label": kind, "frames": frames}
                kinds.setdefault(kind, {}).setdefault(part, {}).setdefault("c23", {})[f"{number}"] = entry
    (root / "dataset_json").mkdir()
    (root / "dataset_json" / "x.json").write_text(json.dumps({"x": kinds}))


def brightest(pictures: NDArray[np.uint8], labels: NDArray[np.int64]) -> Callable[[Any], Any]:
    """A detector of one's own: the brightest of small patches."""
    assert set(labels.tolist()) == {0, 1}
    return lambda some: np.array([cv2.blur(one[..., 0], (9, 9)).max() for one in some], np.float64)


@pytest.mark.parametrize("leak", [False, True])
def test_any_detector_is_asked_and_a_shortcut_is_told(tmp_path: Path, leak: bool) -> None:
    drawn_set(tmp_path, videos=6, leak=leak)
    (found,) = detect_fakes(tmp_path, brightest)
    assert (found.quality, found.videos, found.pictures) == ("c23", 12, 24)
    assert found.auc == 1
    assert found.interval == pytest.approx((1, 1))
    assert found.shortcut == leak
    assert (found.covered > 0.99) == leak


def test_few_videos_have_no_interval(tmp_path: Path) -> None:
    drawn_set(tmp_path, videos=2, leak=True)
    (found,) = detect_fakes(tmp_path, brightest)
    assert found.interval is None
    assert not found.shortcut


@pytest.mark.models
@pytest.mark.slow
def test_the_small_detector_learns(tmp_path: Path) -> None:
    drawn_set(tmp_path, videos=5, leak=False)
    (found,) = detect_fakes(tmp_path)
    assert found.auc > 0.95
    assert not found.shortcut


def test_a_cover_hides_the_face_and_no_more() -> None:
    image = np.zeros((256, 256, 3), np.uint8)
    points = np.rint(geometry.template("ibug68", 150) + 53).astype(np.int64)
    covered = detecting_module._covered(image, points)
    assert covered[points[:, 1], points[:, 0]].min() == 127
    assert covered[[0, 0, -1, -1], [0, -1, 0, -1]].max() == 0
    assert 0.2 < (covered[..., 0] > 0).mean() < 0.75
    assert not image.any()


def test_pictures_are_read_as_they_are_written(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    write_image(tmp_path / "000.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "000.png"), image)
