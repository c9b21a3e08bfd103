"""The run folder: whole files or none, tables that read back, one process at a time, keys that tell what is valid."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facepipe.errors import RunFolderBusyError, RunFolderError, UsageError
from facepipe.types import Faces, Flag
from facepipe.workspace import (
    FORMAT,
    CropWriter,
    Workspace,
    atomic_path,
    digest,
    read_crops,
    read_faces,
    read_json,
    read_marker,
    write_faces,
    write_json,
    write_table,
)


def some_faces(n: int, *, landmarks: int = 68, mesh: int = 468, embedding: int = 8, seed: int = 0) -> Faces:
    rng = np.random.default_rng(seed)
    base = Faces.empty(landmarks=landmarks, mesh=mesh, embedding=embedding)

    def column(name: str, array: NDArray[Any]) -> NDArray[Any]:
        shape = (n, *array.shape[1:])
        if name == "flags":
            return rng.integers(0, sum(Flag) + 1, shape).astype(array.dtype)
        if name in ("frame", "face"):
            return np.sort(rng.integers(0, 1000, shape)).astype(array.dtype)
        if array.dtype.kind == "i":
            return rng.integers(-1, 1000, shape).astype(array.dtype)
        return rng.normal(size=shape).astype(array.dtype)

    return Faces(**{name: column(name, getattr(base, name)) for name in Faces.__dataclass_fields__})


def assert_equal(a: Faces, b: Faces) -> None:
    for name in Faces.__dataclass_fields__:
        one, other = getattr(a, name), getattr(b, name)
        assert one.dtype == other.dtype, name
        np.testing.assert_array_equal(one, other, err_msg=name)


# -------------------------------------------------------------------------------------------------- single files


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"

    def fail() -> None:
        with atomic_path(path) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(path.parent.iterdir()) == []
    with atomic_path(path) as part:
        part.write_text("whole")
        assert not path.exists()
        assert part.parent == path.parent  # a rename across file systems would be a copy
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "whole"


def test_json_has_no_nan_and_a_broken_file_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": [1, None, "ü"]})
    assert read_json(path) == {"a": [1, None, "ü"]}
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="JSON"):
            write_json(path, {"a": bad})
    assert read_json(path) == {"a": [1, None, "ü"]}
    path.write_text('{"a": ')
    assert read_json(path) is None
    assert read_json(tmp_path / "missing.json") is None


def test_digest_does_not_depend_on_order() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert len(digest(None)) == 32


# -------------------------------------------------------------------------------------------------------- tables


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(0, 7),
    landmarks=st.sampled_from([5, 68]),
    mesh=st.sampled_from([0, 468]),
    embedding=st.sampled_from([0, 128]),
    seed=st.integers(0, 2**31),
)
def test_faces_read_back(
    tmp_path_factory: pytest.TempPathFactory, n: int, landmarks: int, mesh: int, embedding: int, seed: int
) -> None:
    faces = some_faces(n, landmarks=landmarks, mesh=mesh, embedding=embedding, seed=seed)
    path = tmp_path_factory.mktemp("faces") / "faces.parquet"
    write_faces(path, faces)
    assert_equal(read_faces(path), faces)


def test_embeddings_of_nan_read_back(tmp_path: Path) -> None:
    faces = some_faces(3)
    faces.embedding[1] = np.nan
    write_faces(tmp_path / "f.parquet", faces)
    assert_equal(read_faces(tmp_path / "f.parquet"), faces)


def test_flags_are_words_for_foreign_readers(tmp_path: Path) -> None:
    faces = some_faces(3)
    faces.flags[:] = [0, Flag.BLURRED, Flag.PROFILE | Flag.SMALL]
    write_faces(tmp_path / "f.parquet", faces)
    table = pq.read_table(tmp_path / "f.parquet")
    assert table["flags"].to_pylist() == [[], ["blurred"], ["profile", "small"]]
    assert table.column_names == list(Faces.__dataclass_fields__)
    np.testing.assert_array_equal(table["landmarks"].to_pylist()[2], faces.landmarks[2].ravel())


def test_equal_tables_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_faces(tmp_path / name, some_faces(5))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_damaged_tables_name_the_file_and_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "faces.parquet"
    with pytest.raises(RunFolderError, match="facepipe detect"):
        read_faces(path)
    write_faces(path, some_faces(3))
    whole = path.read_bytes()
    foreign = tmp_path / "foreign.parquet"
    write_table(foreign, {"x": [1, 2]})
    for content in (b"", b"text", whole[: len(whole) // 2], foreign.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(RunFolderError, match="delete it and run again") as caught:
            read_faces(path)
        assert str(path) in str(caught.value)


# --------------------------------------------------------------------------------------------------------- crops


@pytest.mark.parametrize("count", [0, 1, 12])
def test_crops_are_a_plain_npy_file(tmp_path: Path, count: int) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
    path = tmp_path / "crops.npy"
    with CropWriter(path, 32) as writer:
        for crop in crops:
            writer.append(crop)
    np.testing.assert_array_equal(np.load(path), crops)
    read = read_crops(path)
    np.testing.assert_array_equal(read, crops)
    assert read.shape == crops.shape
    assert count == 0 or isinstance(read, np.memmap)


@pytest.mark.parametrize("crop", [np.zeros((31, 32, 3), np.uint8), np.zeros((32, 32, 3), np.float32)])
def test_crops_of_another_shape_are_refused(tmp_path: Path, crop: Any) -> None:
    with CropWriter(tmp_path / "crops.npy", 32) as writer, pytest.raises(ValueError, match="32"):
        writer.append(crop)


def test_damaged_crops(tmp_path: Path) -> None:
    path = tmp_path / "crops.npy"
    with pytest.raises(RunFolderError, match="facepipe align"):
        read_crops(path)
    with CropWriter(path, 32) as writer:
        for _ in range(3):
            writer.append(np.zeros((32, 32, 3), np.uint8))
    for content in (b"", b"text", path.read_bytes()[:5000]):
        path.write_bytes(content)
        with pytest.raises(RunFolderError, match="damaged"):
            read_crops(path)


# ---------------------------------------------------------------------------------------------------- run folder


def test_a_new_run_folder_says_its_version(tmp_path: Path) -> None:
    with Workspace(tmp_path / "a" / "RUN") as workspace:
        assert read_json(workspace.manifest_path)["format"] == FORMAT
    with Workspace(tmp_path / "a" / "RUN"):
        pass


@pytest.mark.parametrize("manifest", ['{"format": 99}', "{}", "[]", "half of a fi", ""])
def test_another_version_is_refused_and_left_alone(tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(RunFolderError, match=f"reads format {FORMAT}") as caught:
        Workspace(tmp_path)
    assert caught.value.exit_code == 2
    assert str(tmp_path) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]
    assert (tmp_path / "manifest.json").read_text() == manifest


def test_a_folder_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunFolderError, match="not a run folder"):
        Workspace(tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        Workspace(tmp_path / "thesis.tex")
    with pytest.raises(UsageError, match="no such run folder"):
        Workspace(tmp_path / "none", create=False)
    with pytest.raises(UsageError, match="cannot be made"):
        Workspace(tmp_path / "thesis.tex" / "RUN")


def test_what_a_process_left_that_was_killed_at_its_first_step(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".manifest.json.123.part").write_text("{")
    with Workspace(tmp_path):
        assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*.part"))


def test_partial_files_are_swept_on_entry(tmp_path: Path) -> None:
    with Workspace(tmp_path):
        pass
    (tmp_path / "swapped").mkdir()
    for name in ("swapped/x.mp4.part", "swapped/.x.json.77.part"):
        (tmp_path / name).write_text("half")
    (tmp_path / "swapped" / "y.mp4").write_text("whole")
    with Workspace(tmp_path):
        assert [p.name for p in (tmp_path / "swapped").iterdir()] == ["y.mp4"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Workspace(tmp_path), pytest.raises(RunFolderBusyError, match=f"process {os.getpid()}"):
        Workspace(tmp_path).__enter__()
    with Workspace(tmp_path):
        pass


def test_another_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    code = f"from facepipe.workspace import Workspace\nwith Workspace({str(tmp_path)!r}): pass"
    with Workspace(tmp_path):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "RunFolderBusyError" in done.stderr
    assert str(os.getpid()) in done.stderr.splitlines()[-1]


def test_hashes_are_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "clip.mp4"
    file.write_bytes(b"one")
    with Workspace(tmp_path / "RUN") as workspace:
        first = workspace.file_hash(file)
    with monkeypatch.context() as patch:
        patch.setattr("facepipe.workspace.file_sha256", lambda _: pytest.fail("hashed again"))
        with Workspace(tmp_path / "RUN") as workspace:
            assert workspace.file_hash(file) == first
    file.write_bytes(b"two!")
    with Workspace(tmp_path / "RUN") as workspace:
        assert workspace.file_hash(file) != first


def test_a_folder_of_images_has_a_hash_of_names_and_contents(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "1.png").write_bytes(b"a")
    with Workspace(tmp_path / "RUN") as workspace:
        seen = {workspace.file_hash(images)}
        (images / "2.png").write_bytes(b"b")
        seen.add(workspace.file_hash(images))
        (images / "2.png").rename(images / "0.png")
        seen.add(workspace.file_hash(images))
    assert len(seen) == 3


def test_a_result_is_valid_with_its_key_and_its_files(tmp_path: Path) -> None:
    calls = []

    def work() -> dict[str, Any]:
        calls.append(1)
        (tmp_path / "RUN" / "result.txt").write_text("x")
        return {"fact": 5}

    with Workspace(tmp_path / "RUN") as workspace:
        marker = workspace.root / "stage.json"
        assert workspace.once(marker, "k1", ["result.txt"], work)
        assert read_marker(marker) == {"key": "k1", "files": ["result.txt"], "fact": 5}
        assert not workspace.once(marker, "k1", ["result.txt"], work)
        assert workspace.once(marker, "k2", ["result.txt"], work)
        (workspace.root / "result.txt").unlink()
        assert workspace.once(marker, "k2", ["result.txt"], work)
        marker.write_text("{")
        assert workspace.once(marker, "k2", ["result.txt"], work)
    assert len(calls) == 4


def test_work_that_fails_leaves_no_marker(tmp_path: Path) -> None:
    def fail() -> dict[str, Any]:
        raise RuntimeError

    with Workspace(tmp_path / "RUN") as workspace:
        marker = workspace.root / "stage.json"
        workspace.mark_done(marker, "old", [])
        with pytest.raises(RuntimeError):
            workspace.once(marker, "new", [], fail)
        assert not marker.exists()
