"""The truth of a blend: what is written, composed again, is the swapped frame; read with and without facepipe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import facepipe
from facepipe.errors import MediaError, RunFolderError
from facepipe.image import blend_feather, blend_multiband
from facepipe.provenance import TAG, check, read_label
from facepipe.truth import FILES, Blend, TruthWriter, read_truth
from facepipe.types import VideoInfo
from facepipe.video import open_clip, read_image, read_planes
from facepipe.workspace import read_faces

Contents = Callable[[Path], dict[str, str]]
LIKE = VideoInfo(Path("x.mp4"), (24, 32), Fraction(25), Fraction(1, 1000))
LABEL = {TAG: '{"swapped": true}', "comment": "made"}


class OwnError(Exception):
    """Nobody else raises it."""


def blend_at(top: int, left: int, size: tuple[int, int], seed: int = 0, source: str | None = "one") -> Blend:
    rng = np.random.default_rng(seed)
    mask = rng.random(size).astype(np.float32) ** 4
    face = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
    return Blend(rows, columns, mask, face, rng.normal(size=(2, 3)), 1, source, 7 if source else -1, -1)


# ---------------------------------------------------------------------------------------------------- drawn blends


@settings(deadline=None, max_examples=20)
@given(
    places=st.lists(
        st.none() | st.tuples(st.integers(0, 12), st.integers(0, 20), st.integers(0, 12), st.integers(0, 12)),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, places: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("truth")
    made = [None if p is None else blend_at(p[0], p[1], (p[2], p[3]), i) for i, p in enumerate(places)]
    with TruthWriter(folder, LIKE, LABEL) as writer:
        for index, blend in enumerate(made):
            writer.write(index, 40 * index, blend)
    read = list(read_truth(folder))
    assert [(one.index, one.pts) for one in read] == [(i, 40 * i) for i in range(len(made))]
    for one, blend in zip(read, made, strict=True):
        if blend is None:
            assert one.blend is None
            continue
        assert one.blend is not None
        np.testing.assert_allclose(one.blend.mask, blend.mask, atol=1 / 65535)
        np.testing.assert_array_equal(one.blend.mask > 0, blend.mask > 0)
        np.testing.assert_array_equal(one.blend.face, blend.face)
        np.testing.assert_array_equal(one.blend.frame_to_patch, blend.frame_to_patch)
        for name in ("rows", "columns", "target_face", "source_clip", "source_frame", "source_face"):
            assert getattr(one.blend, name) == getattr(blend, name)


def test_many_rows_are_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facepipe.truth._GROUP", 3)
    with TruthWriter(tmp_path, LIKE, LABEL) as writer:
        for index in range(8):
            writer.write(index, index, blend_at(2, 3, (4, 5), index, source=None) if index % 2 else None)
            assert len(writer._rows) < 3  # constant memory
    assert pq.ParquetFile(tmp_path / "frames.parquet").num_row_groups == 3
    read = list(read_truth(tmp_path))
    assert [one.blend is not None for one in read] == [index % 2 == 1 for index in range(8)]
    assert read[1].blend is not None
    assert (read[1].blend.source_clip, read[1].blend.source_frame) == (None, -1)


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> None:
        with TruthWriter(tmp_path, LIKE, LABEL) as writer:
            writer.write(0, 0, None)
            raise OwnError

    with pytest.raises(OwnError):
        broken()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_or_cut_file_is_said(tmp_path: Path) -> None:
    for name, count in (("long", 5), ("short", 3)):
        with TruthWriter(tmp_path / name, LIKE, LABEL) as writer:
            for index in range(count):
                writer.write(index, index, None)
    shutil.copy(tmp_path / "short" / "mask.mkv", tmp_path / "long" / "mask.mkv")
    with pytest.raises(RunFolderError, match="not of one length"):
        list(read_truth(tmp_path / "long"))
    (tmp_path / "short" / "frames.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunFolderError, match=r"frames\.parquet: damaged"):
        list(read_truth(tmp_path / "short"))
    with pytest.raises(RunFolderError, match=r"set swap\.blend_truth"):
        list(read_truth(tmp_path / "none"))
    with pytest.raises(MediaError, match="expected gray16le pixels"):
        list(read_planes(tmp_path / "long" / "face.mp4"))


# ------------------------------------------------------------------------------------------------------ real clips


def swap_with(run: Any, out: Path, **swap: Any) -> Path:
    shutil.copytree(run.out, out)
    facepipe.swap(out=out, swap={"codec": "lossless", "blend_truth": True, **swap})
    return out


def frames_of(path: Path) -> list[NDArray[np.uint8]]:
    with open_clip(path) as reader:
        return [frame.image for frame in reader]


@pytest.fixture(scope="module")
def feathered(quick_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the truth of its blend, which is *feather*."""
    return swap_with(quick_run, tmp_path_factory.mktemp("feathered") / "RUN", blend="feather")


@pytest.mark.models
def test_the_truth_composed_again_is_the_swapped_frame(quick_run: Any, feathered: Path) -> None:
    originals = frames_of(quick_run.target / "woman.mp4")
    swapped = frames_of(feathered / "swapped" / "woman.mp4")
    masks = frames_of(feathered / "masks" / "woman.mkv")
    truth = list(read_truth(feathered / "blend" / "woman"))
    assert len(truth) == len(originals) == len(swapped)
    table = pq.read_table(feathered / "swapped" / "woman.parquet").to_pydict()
    faces = read_faces(feathered / "target" / "woman" / "faces.parquet")
    changed = 0
    for original, after, mask, one in zip(originals, swapped, masks, truth, strict=True):
        assert one.blend is not None
        again = one.over(original)
        difference = np.abs(again.astype(int) - after)
        assert difference.max() <= 1  # 16 bits of the mask: a tie may fall to the other side
        assert (difference > 0).mean() < 1e-3
        changed += int((after != original).any(-1).sum())
        place = one.blend.rows, one.blend.columns
        np.testing.assert_array_equal(mask[..., 0][place] > 0, one.blend.mask > 0)
        assert one.blend.source_clip == "man"
        assert one.blend.source_frame == table["source_frame"][one.index]
        box = faces.box[faces.frame == one.index][0]
        assert box[0] < (one.blend.columns.start + one.blend.columns.stop) / 2 < box[2]
        np.testing.assert_array_equal(one.blend.frame_to_patch[:, :2], np.eye(2))  # procrustes: the frame's own grid
    assert changed > 1000 * len(originals)


@pytest.mark.models
def test_it_is_read_without_facepipe(quick_run: Any, feathered: Path) -> None:
    """The formula of docs/blend-truth.md, with PyAV and pyarrow alone."""
    folder = feathered / "blend" / "woman"

    def decoded(path: Path, kind: str) -> NDArray[Any]:
        with av.open(str(path)) as container:
            return np.stack([frame.to_ndarray(format=kind) for frame in container.decode(video=0)])

    mask = decoded(folder / "mask.mkv", "gray16le")[..., None] / 65535
    face = decoded(folder / "face.mp4", "rgb24")
    swapped = decoded(feathered / "swapped" / "woman.mp4", "rgb24")
    frames = np.stack(frames_of(quick_run.target / "woman.mp4"))
    again = np.rint(frames * (1 - mask) + face * mask)
    assert np.abs(again - swapped).max() <= 1
    assert pq.read_table(folder / "frames.parquet")["swapped"].to_pylist() == [True] * len(frames)


@pytest.mark.models
def test_every_file_says_what_it_is(feathered: Path) -> None:
    folder = feathered / "blend" / "woman"
    video = read_label(feathered / "swapped" / "woman.mp4")
    assert video is not None
    assert read_label(folder / "mask.mkv") == read_label(folder / "face.mp4") == video
    metadata = pq.read_schema(folder / "frames.parquet").metadata
    assert json.loads(json.loads(metadata[b"facepipe"])[TAG]) == video
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert check(folder / "face.mp4").status == "intact"


@pytest.mark.models
def test_off_by_default_and_made_again_where_it_is_missing(
    quick_run: Any, feathered: Path, tmp_path: Path, contents: Contents
) -> None:
    assert not (quick_run.out / "blend").exists()
    out = tmp_path / "RUN"
    shutil.copytree(feathered, out)
    (out / "blend" / "woman" / "mask.mkv").unlink()
    facepipe.swap(out=out)
    before, after = contents(feathered), contents(out)
    again = [name for name in before if name.startswith("blend") and not name.endswith(".mp4")]  # signed anew
    assert len(again) == 2
    assert [name for name in again if after.get(name) != before[name]] == []
    facepipe.swap(out=out, swap={"blend_truth": False})
    assert not (out / "blend" / "woman").exists()


@pytest.mark.models
@pytest.mark.parametrize(
    ("blend", "formula"),
    [("multiband", blend_multiband), pytest.param("poisson", blend_feather, marks=pytest.mark.slow)],
)
def test_another_blend_is_composed_again_by_its_own_formula(
    quick_run: Any, tmp_path: Path, blend: str, formula: Any
) -> None:
    out = swap_with(quick_run, tmp_path / "RUN", blend=blend)
    truth = read_truth(out / "blend" / "woman")
    swapped = frames_of(out / "swapped" / "woman.mp4")
    for original, after, one in zip(frames_of(quick_run.target / "woman.mp4"), swapped, truth, strict=True):
        assert one.blend is not None
        place = one.blend.rows, one.blend.columns
        again = formula(one.blend.face, original[place], one.blend.mask)
        assert np.abs(again.astype(int) - after[place]).max() <= 1
    label = read_label(out / "blend" / "woman" / "face.mp4")
    assert label is not None
    assert label["blend"] == blend


@pytest.mark.models
def test_it_is_shown(feathered: Path) -> None:
    overlays: list[Any] = [("mask",), ("mask", "truth")]
    plain, more = (
        facepipe.preview(feathered, frames=2, overlay=overlay, out=feathered.parent / f"{len(overlay)}.png")[0]
        for overlay in overlays
    )
    low, high = read_image(plain), read_image(more)
    assert high.shape[0] > low.shape[0] + 400  # two more rows of pictures
    assert high.shape[1] == low.shape[1]
