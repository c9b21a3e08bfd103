"""Proves that a data set can be loaded, and that nothing but the swap tells its real from its fake."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from facepipe.datasets.export import FORMATS, NAME, SHEET
from facepipe.datasets.films import MASKS, film_path, white
from facepipe.datasets.samples import COUNT, REAL, SIDE, beside
from facepipe.errors import FacepipeError, UsageError, one_line
from facepipe.provenance import SUMS, check, statement_of, wrong_files
from facepipe.stored import DAMAGED, array_of, read_array
from facepipe.video import open_clip, read_image, read_metadata
from facepipe.video.stills import decode_image
from facepipe.workspace import read_json

__all__ = ["check_dataset"]


def check_dataset(dest: str | Path) -> list[str]:
    """What is wrong with a data set, a line each; empty when it is whole and fair.

    Every file is opened: videos are decoded to their ends, and all are compared with the signed list.

    Raises
    ------
    UsageError
        It is none that `export_dataset` made.
    """
    root = Path(dest)
    facts = read_json(root / SHEET)
    if not isinstance(facts, dict) or facts.get("format") not in FORMATS:
        raise UsageError(f"{root}: no data set that `facepipe export --format` made")
    found = list(_unsigned(root))
    with _telling(found, root / SHEET):
        found += _mixed_people(facts)
        match facts["format"]:
            case "faceforensics":
                found += [*_unlike_films(root, facts), *_wrong_splits(root, facts)]
            case "deepfakebench":
                found += [*_unlike_films(root / NAME, facts), *_wrong_pictures(root)]
            case _:
                found += _wrong_shards(root)
    return found


def _unsigned(root: Path) -> Iterator[str]:
    """What is not as it was signed."""
    path = root / SUMS
    if not path.exists():
        yield f"{path}: missing; export again"
        return
    verdict = check(path)
    if verdict.status != "intact":
        yield verdict.sentence()
    yield from wrong_files(root)


@contextmanager
def _telling(found: list[str], path: Path) -> Iterator[None]:
    """A list that is not of its form is one more thing that is wrong."""
    try:
        yield
    except DAMAGED as exc:
        found.append(one_line(f"{path}: damaged, or of another form ({type(exc).__name__}: {exc})"))


def _mixed_people(facts: Mapping[str, Any]) -> Iterator[str]:
    """Videos that are in two parts, be it as target or as source."""
    pairs = [((pair["target"], pair["source"]), pair["split"]) for pair in facts["pairs"]]
    yield from _in_two_parts((one, part) for both, part in pairs for one in both)


def _in_two_parts(places: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Of (video, part)."""
    where: dict[str, set[str]] = {}
    for name, part in places:
        where.setdefault(name, set()).add(part)
    for name, parts in sorted(where.items()):
        if len(parts) > 1:
            yield f"video {name}: its person is in {' and '.join(sorted(parts))}"


def _seen(path: Path) -> dict[str, Any]:
    """What may be the same for a real video and its fake: how it is coded, and the form of its label."""
    import av

    with open_clip(path) as reader:
        times = [frame.time for frame in reader]
        size = reader.info.size
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        coding = f"{stream.codec_context.name} {stream.codec_context.pix_fmt}"
        streams = [one.type for one in container.streams]
    tags = read_metadata(path)
    label = statement_of(tags)
    return {
        "frames": len(times),
        "times": times,
        "size": size,
        "coding": coding,
        "streams": streams,
        "tags": sorted(tags),
        "label": None if label is None else sorted(label),
    }


def _unlike_films(root: Path, facts: Mapping[str, Any]) -> Iterator[str]:
    """Videos that are missing or cannot be read, or differ from their originals by more than their pictures."""
    for pair in facts["pairs"]:
        target, more = pair["target"], {"method": pair["method"], "source": pair["source"]}
        masks = film_path(root, MASKS, target, **more)
        for quality in facts["qualities"]:
            fake, real = film_path(root, quality, target, **more), film_path(root, quality, target)
            try:
                seen = [_seen(path) for path in (real, fake)]
                count = _seen(masks)["frames"]
            except FacepipeError as exc:
                yield str(exc)
                continue
            for what, value in seen[0].items():
                if seen[1][what] != value:
                    yield f"{fake}: another {what} than its original: a shortcut for detectors"
            if count != seen[1]["frames"]:
                yield f"{masks}: {count} frames, the video has {seen[1]['frames']}"


def _wrong_splits(root: Path, facts: Mapping[str, Any]) -> Iterator[str]:
    numbers: dict[str, set[str]] = {}
    for part in ("train", "val", "test"):
        path = root / "splits" / f"{part}.json"
        pairs = read_json(path)
        wanted = sorted({(p["target"], p["source"]) for p in facts["pairs"] if p["split"] == part})
        if not isinstance(pairs, list) or [tuple(pair) for pair in pairs] != wanted:
            yield f"{path}: missing, or not the pairs of the set"
            continue
        numbers[part] = {number for pair in pairs for number in pair}
    for one, other in combinations(numbers, 2):
        if both := sorted(numbers[one] & numbers[other]):
            yield f"{root / 'splits'}: {', '.join(both)} are in {one} and in {other}"


def _wrong_pictures(root: Path) -> Iterator[str]:
    for path in sorted((root / "dataset_json").glob("*.json")):
        sheet = read_json(path)
        if not isinstance(sheet, dict) or list(sheet) != [path.stem]:
            yield f"{path}: expected one data set, {path.stem}"
            continue
        found: list[str] = []
        with _telling(found, path):
            for kind, parts in sheet[path.stem].items():
                for part, qualities in parts.items():
                    for videos in qualities.values():
                        for video, entry in videos.items():
                            where = f"{path}: {kind}/{part}/{video}"
                            found += _wrong_video(root, where, entry, fake=kind != REAL)
        yield from found


def _wrong_video(root: Path, where: str, entry: Mapping[str, Any], *, fake: bool) -> Iterator[str]:
    frames = entry["frames"]
    if len(frames) != COUNT:
        yield f"{where}: {len(frames)} frames, expected {COUNT}"
    for name in frames:
        if not name.startswith(".") or name.count("frames") != 1 or not Path(name).stem.isdecimal():
            yield f"{where}: {name}: expected a path from '.', with 'frames' once and a number for a name"
            continue
        mask_file, points_file = beside(root, name)
        try:
            image, mask = read_image(root / name), read_image(mask_file)[..., 0]
            points = read_array(points_file)
        except (FacepipeError, *DAMAGED) as exc:
            yield f"{where}: {exc}"
            continue
        yield from _wrong_sample(f"{where}: {name}", image.shape, mask, points, fake=fake)


def _wrong_sample(where: str, shape: tuple[int, ...], mask: Any, points: Any, *, fake: bool) -> Iterator[str]:
    if shape != (SIDE, SIDE, 3) or mask.shape != (SIDE, SIDE):
        yield f"{where}: expected {SIDE}x{SIDE} pixels"
    elif not set(np.unique(mask).tolist()) <= {0, 255}:
        yield f"{where}: its mask is not binary"
    elif bool(mask.any()) != fake:
        yield f"{where}: its mask is {'empty' if fake else 'not empty'}"
    if points.shape != (68, 2) or points.dtype.kind != "i":
        yield f"{where}: expected whole numbers for 68 landmarks"
    elif not ((points > -SIDE // 2) & (points < SIDE * 3 // 2)).all():
        yield f"{where}: landmarks far beyond the picture"


def _wrong_shards(root: Path) -> Iterator[str]:
    places: list[tuple[str, str]] = []
    for path in sorted(root.glob("*.tar")):
        part = path.name.partition("-")[0]
        try:
            with tarfile.open(path, "r:") as tar:
                samples: dict[str, dict[str, bytes]] = {}
                for member in tar:
                    key, _, suffix = member.name.partition(".")
                    if member.size > path.stat().st_size:  # what it says is allocated; holes may be of any size
                        raise ValueError(f"{member.name} is larger than the shard")
                    file = tar.extractfile(member)
                    samples.setdefault(key, {})[suffix] = b"" if file is None else file.read()
        except (tarfile.TarError, *DAMAGED) as exc:
            yield one_line(f"{path}: {exc}")
            continue
        for key, members in samples.items():
            try:
                facts = json.loads(members["json"])
                numbers, fake = facts["video"].split("_"), facts["label"] == 1
                image = decode_image(path, members["png"])
                mask = decode_image(path, members["mask.png"])[..., 0]
                points = array_of(members["landmarks.npy"])
            except (FacepipeError, *DAMAGED) as exc:
                yield one_line(f"{path}: {key}: {exc}")
                continue
            places += [(number, part) for number in numbers]
            yield from _wrong_sample(f"{path}: {key}", image.shape, white(mask > 0), points, fake=fake)
    yield from _in_two_parts(places)
