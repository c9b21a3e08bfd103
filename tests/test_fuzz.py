"""Hostile input: whatever a file holds, there is a right result or one line that names the file; no hang, no bomb."""

from __future__ import annotations

import json
import random
import resource
import shutil
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import safetensors.torch
from hypothesis import given, settings
from hypothesis import strategies as st

import facepipe
from facepipe import evaluation, pipeline
from facepipe.config import Config, build, load
from facepipe.errors import CheckpointError, FacepipeError, MediaError
from facepipe.methods.gan import Generator
from facepipe.provenance import check
from facepipe.video import open_clip, read_image
from facepipe.workspace import file_sha256, read_crops, read_faces, read_marker, write_json, write_marker

FUZZ = settings(deadline=None, max_examples=150, derandomize=True, database=None)


def damaged(data: bytes, seed: int) -> bytes:
    """A file cut off, with some bytes changed, or with stretches replaced by others of any length."""
    chance = random.Random(seed)
    if seed % 4 == 0:
        return data[: chance.randrange(len(data) + 1)]
    changed = bytearray(data)
    for _ in range(chance.choice([1, 2, 20])):
        at = chance.randrange(max(1, len(changed)))
        if seed % 4 == 1:
            changed[at : at + chance.randrange(30)] = chance.randbytes(chance.randrange(30))
        else:
            changed[at % len(changed)] = chance.randrange(256)
    return bytes(changed)


def refusal(call: Callable[[], object]) -> str:
    """What a call says when it refuses; empty when it does not. Nothing but facepipe's own errors may come out."""
    try:
        call()
    except FacepipeError as exc:
        return str(exc)
    return ""


def assert_right_or_one_line(path: Path, read: Callable[[Path], object]) -> None:
    """It can be read, or it is said in a line that names it why not."""
    told = refusal(lambda: read(path))
    assert not told or str(path) in told or str(path.parent) in told
    assert "\n" not in told


# ---------------------------------------------------------------------------------------------------------- settings


@FUZZ
@given(st.text(max_size=80) | st.binary(max_size=80))
def test_any_text_as_settings(tmp_path_factory: pytest.TempPathFactory, text: str | bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
    assert_right_or_one_line(path, load)


def keys_of(model: Any, before: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if hasattr(inner, "model_fields"):
            yield from keys_of(inner, f"{before}{name}.")
        else:
            yield f"{before}{name}"


VALUES = st.one_of(
    *(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=8)),
    st.lists(st.integers() | st.text(max_size=4), max_size=3),
    st.sampled_from([10**40, -1, "../../x", "$(id)", "nan", "1e999"]),
)


@FUZZ
@given(st.sampled_from(sorted(keys_of(Config))), VALUES)
def test_any_value_of_any_setting(key: str, value: Any) -> None:
    for text in (json.dumps(value), str(value)):
        told = refusal(lambda text=text: build({}, [f"{key}={text}"]))  # type: ignore[misc]
        assert not told or key.rpartition(".")[2] in told or key.partition(".")[0] in told


# ------------------------------------------------------------------------------------------------------ a run folder


def scores_of(path: Path) -> None:
    evaluation.can_read(path.parent)
    evaluation.read_scores(path.parent)


READERS: dict[str, Callable[[Path], object]] = {
    "target/woman/faces.parquet": read_faces,
    "target/woman/crops.npy": lambda path: read_crops(path)[:1].sum(),
    "target/woman/detect.json": read_marker,
    "scores.json": scores_of,
    "swapped/woman.mp4": check,
}


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_of_a_run(quick_run: Any, tmp_path: Path, name: str) -> None:
    data, path = (quick_run.out / name).read_bytes(), tmp_path / Path(name).name
    for seed in range(100 if path.suffix == ".parquet" else 25):
        path.write_bytes(damaged(data, seed))
        assert_right_or_one_line(path, READERS[name])


def places_in(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield here
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places_in(inner, (*here, key))


def replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    value[place[0]] = replaced(value[place[0]], place[1:], new)
    return value


STRANGE: tuple[Any, ...] = (None, True, 0, -1, 10**30, "", "x\n<b>", "../../etc", "1/0", [], {}, [1, 2], {"a": 1})


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_a_run_goes_on_from_whatever_is_left(
    quick_run: Any, quick: tuple[str, ...], tmp_path: Path, contents: Any, seed: int
) -> None:
    """A JSON with something else in it, or a file that was cut: done again to the same bytes, or refused in a line."""
    chance, out = random.Random(seed), tmp_path / "RUN"
    shutil.copytree(quick_run.out, out)
    path = chance.choice(sorted(path for path in out.rglob("*.json") if path.parent.name != "blend"))
    known = json.loads(path.read_text())
    path.write_text(json.dumps(replaced(known, chance.choice(list(places_in(known))), chance.choice(STRANGE))))
    common = {"source": quick_run.source, "target": quick_run.target, "out": out}
    told = refusal(lambda: pipeline.run(pipeline.resolve(None, quick, **common)))
    assert "\n" not in told
    if told:
        assert str(out) in told
    else:
        assert not (out / "errors").exists()
        assert contents(out)["swapped/woman.mp4"] == contents(quick_run.out)["swapped/woman.mp4"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["RUN"]


def test_a_marker_that_was_changed_is_none(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_marker(path, {"key": "k", "files": ["a"], "size": (3, 4), "path": "x"})
    known = read_marker(path)
    assert known == {"key": "k", "files": ["a"], "size": [3, 4], "path": "x"}
    for place in list(places_in(known))[1:]:
        write_json(
            path,
            {**replaced(json.loads(json.dumps(known)), place, 5), "digest": json.loads(path.read_text())["digest"]},
        )
        assert read_marker(path) == {}
        write_marker(path, known)
    path.write_text('["no", "object"]')
    assert read_marker(path) == {}


# ------------------------------------------------------------------------------------------------------------- bombs


def peak() -> int:
    """Most memory that this process had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def chunk(kind: bytes, data: bytes, *, length: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(data) if length is None else length)
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
    )


def png(*more: bytes, side: int = 8) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(side * (side + 1))))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + pixels + chunk(b"IEND", b"")


def test_a_chunk_longer_than_its_file_is_not_allocated(tmp_path: Path) -> None:
    """OpenCV would take 3.5 GB of memory for this file of 100 bytes."""
    path = tmp_path / "a.png"
    path.write_bytes(png())
    assert read_image(path).shape == (8, 8, 3)
    path.write_bytes(png(chunk(b"tEXt", b"a", length=0xDF001C53)))
    before = peak()
    with pytest.raises(MediaError, match=r"a\.png: is an image that was cut off"):
        read_image(path)
    assert peak() - before < 100_000_000


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff", ".bmp"])
def test_damaged_images(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    assert cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    data, before = path.read_bytes(), peak()
    for seed in range(150):
        path.write_bytes(damaged(data, seed))
        assert_right_or_one_line(path, read_image)
    assert peak() - before < 300_000_000


@pytest.mark.models
@pytest.mark.slow
def test_damaged_videos(tmp_path: Path, quick_run: Any) -> None:
    data, path = quick_run.target.joinpath("woman.mp4").read_bytes(), tmp_path / "a.mp4"

    def read(path: Path) -> None:
        with open_clip(path) as reader:
            assert all(frame.image.shape[2] == 3 for frame in reader)

    before = peak()
    for seed in range(25):
        path.write_bytes(damaged(data, seed))
        assert_right_or_one_line(path, read)
    assert peak() - before < 500_000_000


# ------------------------------------------------------------------------------------------------------- checkpoints


def test_a_generator_of_absurd_size_is_refused_before_it_is_built(tmp_path: Path) -> None:
    tensors = tmp_path / "generator.safetensors"
    safetensors.torch.save_file({}, tensors)
    facts = {"sha256": file_sha256(tensors), "architecture": {"size": 64, "code": 2**16, "bottom": 2**16}}
    write_json(tmp_path / "generator.json", facts)
    before = peak()
    with pytest.raises(CheckpointError, match=r"generator\.safetensors: damaged, or of another architecture"):
        Generator.load(tmp_path / "generator")
    assert peak() - before < 200_000_000


def test_a_safetensors_header_of_absurd_length(tmp_path: Path) -> None:
    tensors = tmp_path / "generator.safetensors"
    tensors.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    write_json(tmp_path / "generator.json", {"sha256": file_sha256(tensors), "architecture": {}})
    with pytest.raises(CheckpointError, match=r"generator\.safetensors: damaged"):
        Generator.load(tmp_path / "generator")


# ------------------------------------------------------------------------------------------------------------- names


NAMES = ("$(touch gone);a", "a'b\"c", "<img src=x onerror=alert(1)>", "-rf", "sp ace", "ü\u202e名", "a\nb", "%s{0}")


@pytest.mark.models
@pytest.mark.slow
def test_names_that_mean_something_elsewhere(quick_run: Any, quick: tuple[str, ...], tmp_path: Path) -> None:
    """No shell, no format, no markup: clips are named as they are, and written inside of the run folder alone."""
    clips, out = tmp_path / "clips", tmp_path / "RUN"
    clips.mkdir()
    for name in NAMES:
        shutil.copy(quick_run.target / "woman.mp4", clips / f"{name}.mp4")
    result = facepipe.run(pipeline.resolve(None, quick, source=quick_run.source, target=clips, out=out))
    assert not result.failed
    assert len(list((out / "swapped").glob("*.mp4"))) == len(NAMES)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["RUN", "clips"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page
    assert "onerror=alert(1)>" not in page.replace("&gt;", "")
