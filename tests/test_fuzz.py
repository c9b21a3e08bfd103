"""Hostile input: whatever is read is right, or refused by an error of facepipe's in one line. Never anything else.

The errors and the lines are checked here for every reader; what they say is checked where the reader is tested.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import string
import struct
import tarfile
import tomllib
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image as Picture

from facepipe import config, pipeline, stored, video, weights, workspace
from facepipe.cli import main
from facepipe.errors import (
    CheckpointError,
    ConfigError,
    FacepipeError,
    MediaError,
    MediaLimitError,
    RunFolderError,
    UsageError,
    WeightsError,
    WeightsMissingError,
    one_line,
)
from facepipe.evaluation import read_scores
from facepipe.methods.gan import Generator
from facepipe.networks import Architecture, SwapNet
from facepipe.provenance import check
from facepipe.report import write_report
from facepipe.results import RunResults
from facepipe.training import checkpoint
from facepipe.types import Faces
from facepipe.video import Limits, stills
from facepipe.weights.sources import read_members
from facepipe.workspace import (
    Workspace,
    read_crops,
    read_faces,
    read_json,
    read_marker,
    write_faces,
    write_json,
    write_marker,
)

FUZZ = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
QUICK, LONG = settings(FUZZ, max_examples=150), settings(FUZZ, max_examples=900)
FUZZED = [pytest.param(QUICK, id="quick"), pytest.param(LONG, id="long", marks=pytest.mark.slow)]


def survive(call: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """What a call returns, or None where it raises an error of facepipe's, which is one line."""
    try:
        return call(*arguments, **more)
    except FacepipeError as exc:
        told = str(exc)
        assert told
        assert told.isprintable() or "\n" not in told
        return None


def damages(whole: bytes, *, anywhere: bool = True) -> st.SearchStrategy[bytes]:
    """A file cut off, or with some of its bytes changed: half of them near its ends, where headers are."""
    length = len(whole)
    near = st.integers(0, min(length, 200) - 1) | st.integers(max(0, length - 2000), length - 1)
    places = near | st.integers(0, length - 1) if anywhere else near
    changes = st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)
    return st.integers(0, length - 1).map(lambda end: whole[:end]) | changes.map(lambda list_: _changed(whole, list_))


def _changed(whole: bytes, changes: list[tuple[int, int]]) -> bytes:
    data = bytearray(whole)
    for place, value in changes:
        data[place] = value
    return bytes(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# -------------------------------------------------------------------------------------------------------------- errors


@given(st.text())
@QUICK
def test_a_message_is_one_line(text: str) -> None:
    for kind in (UsageError, MediaError, WeightsMissingError):
        assert len(str(kind(f"a{text}b")).splitlines()) <= 1 + sum(text.count(c) for c in "\x1c\x1d\x1e")
        assert "\x1b" not in str(kind(text))
        str(kind(text)).encode()
    assert one_line("Zoë's ☃ 日本.mp4") == "Zoë's ☃ 日本.mp4"
    assert one_line("a\nb\x1b[31m\udcff\u2028") == r"a\nb\x1b[31m\udcff\u2028"


# ------------------------------------------------------------------------------------------------------------ settings

KEYS = config._known_keys(config.Config)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["9" * 5000, "[" * 3000, "1\nx = 2", "a\0b", "{a=1}", "'", "nan", "inf", "-inf", "1e999"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)


def nested(items: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for dotted, value in items.items():
        *sections, key = dotted.split(".")
        node = made
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                break
        else:
            node[key] = value
    return made


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3))
@settings(QUICK, max_examples=400)
def test_settings_of_any_value_are_refused_or_read_back(folder: Path, items: dict[str, Any]) -> None:
    made = survive(config.build, nested(items))
    if made is not None and (text := survive(config.to_toml, made)) is not None:
        (folder / "settings.toml").write_text(text, encoding="utf-8")
        assert config.load(folder / "settings.toml") == made


@given(st.lists(st.tuples(st.sampled_from([*KEYS, "", ".", "a.b", "detect"]) | st.text(max_size=8), SCALARS)))
@QUICK
def test_any_override_is_a_setting_or_an_error(items: list[tuple[str, Any]]) -> None:
    survive(config.build, {}, [f"{key}={value}" for key, value in items])


TOML = st.text(alphabet="ab.=[]{}\"'\n #,019-_\\u\0é\udcff", max_size=60) | st.sampled_from(
    ["a=" + "[" * 5000, "seed=" + "9" * 5000, "a." * 5000 + "b=1", "[a]\n" * 2, "seed = 0x" + "f" * 5000]
)


@given(TOML.map(lambda text: text.encode("utf-8", "surrogateescape")) | st.binary(max_size=60))
@QUICK
def test_any_file_is_settings_or_an_error(folder: Path, data: bytes) -> None:
    path = folder / "any.toml"
    path.write_bytes(data)
    with suppress(ConfigError):
        config.load(path)


@pytest.mark.parametrize(
    ("settings_", "reason"),
    [
        ({"seed": -1}, "seed = -1"),
        ({"source": "a\0b"}, "NUL"),
        ({"train": {"betas": [0.9, float("nan")]}}, "train.betas.1"),
        ({"limits": {"min_sharpness": float("inf")}}, "finite"),
        ({"train": {"architecture": {"down": {"a": 1}}}}, "train.architecture"),
        ({"device": ["x" * 10_000]}, "device"),
    ],
)
def test_values_that_nothing_can_be_done_with(settings_: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        config.build(settings_)
    assert len(str(caught.value)) < 400


def test_keys_of_any_name_read_back(tmp_path: Path) -> None:
    made = config.build({"ledger": {"weights": {'a "b".c\n': {"origin": "x"}, "": {"licence": "é"}}}})
    (tmp_path / "a.toml").write_text(config.to_toml(made), encoding="utf-8")
    assert config.load(tmp_path / "a.toml") == made
    with pytest.raises(ConfigError, match="rename"):
        config.to_toml(config.build({"source": "a\udcff"}))


# ----------------------------------------------------------------------------------------------------- tables and JSON


def some_faces(count: int = 40) -> Faces:
    rng = np.random.default_rng(0)
    base = Faces.empty(mesh=4, embedding=8)
    columns = {
        name: rng.integers(0, 3, (count, *array.shape[1:])).astype(array.dtype)
        for name, array in ((name, getattr(base, name)) for name in Faces.__dataclass_fields__)
    }
    return Faces(**{**columns, "frame": np.arange(count)})


@pytest.fixture(scope="module")
def table(folder: Path) -> bytes:
    write_faces(folder / "whole.parquet", some_faces())
    return (folder / "whole.parquet").read_bytes()


@pytest.mark.parametrize("effort", FUZZED)
def test_a_damaged_table_of_faces(folder: Path, table: bytes, effort: settings) -> None:
    path = folder / "faces.parquet"

    @given(damages(table))
    @effort
    def check(data: bytes) -> None:
        path.write_bytes(data)
        faces = survive(read_faces, path)
        assert faces is None or np.isfinite(faces.landmarks).all()
        survive(read_faces, path, without=("landmarks", "mesh", "embedding"))

    check()


WRONG = [
    pa.array(["x"] * 40),
    pa.nulls(40),
    pa.array([[1.0]] * 40),
    pa.array([None, 1.5] * 20),
    pa.array([float("nan")] * 40),
    pa.array([float("inf")] * 40),
    pa.array([2**63] * 40, pa.uint64()),
    pa.array([{"a": 1}] * 40),
    pa.array([b"x"] * 40),
    pa.array([["nonsense"]] * 40),
    pa.array([None] * 40, pa.list_(pa.string())),
    pa.array([[None]] * 40, pa.list_(pa.string())),
    pa.array([[1.0] * 4, None] * 20, pa.list_(pa.float32(), 4)),
    pa.array([[float("nan")] * 136] * 40, pa.list_(pa.float32(), 136)),
]
MAY_BE_UNKNOWN = {"score", "yaw", "pitch", "roll", "sharpness"}


@pytest.mark.parametrize("name", Faces.__dataclass_fields__)
def test_columns_of_the_wrong_type(folder: Path, table: bytes, name: str) -> None:
    path = folder / "types.parquet"
    whole = pq.read_table(io.BytesIO(table))
    at = whole.column_names.index(name)
    for column in WRONG:
        pq.write_table(whole.set_column(at, name, column).replace_schema_metadata(whole.schema.metadata), path)
        if name in MAY_BE_UNKNOWN and pa.types.is_primitive(column.type) and not column.null_count:
            survive(read_faces, path)
            continue
        with pytest.raises(RunFolderError, match="delete it and run again"):
            read_faces(path)
    pq.write_table(whole.drop_columns([name]).replace_schema_metadata(whole.schema.metadata), path)
    with pytest.raises(RunFolderError, match="delete it and run again"):
        read_faces(path)


SHAPES = [
    "[]",
    "{}",
    '{"shapes": []}',
    '{"shapes": {"landmarks": 5}}',
    '{"shapes": {"landmarks": [1e9], "mesh": [0, 3], "embedding": [8]}}',
    '{"shapes": {"landmarks": ["a", 2], "mesh": [4, 3], "embedding": [8]}}',
    '{"shapes": {"landmarks": [99999999999, 99999999999], "mesh": [4, 3], "embedding": [8]}}',
    '{"shapes": {"landmarks": [-1, 2], "mesh": [4, 3], "embedding": [8]}}',
    "[" * 100_000,
]


@pytest.mark.parametrize("shapes", SHAPES, ids=lambda text: text[:40])
def test_shapes_that_are_none(folder: Path, table: bytes, shapes: str) -> None:
    path = folder / "shapes.parquet"
    pq.write_table(pq.read_table(io.BytesIO(table)).replace_schema_metadata({"facepipe": shapes}), path)
    with pytest.raises(RunFolderError, match="delete it and run again"):
        read_faces(path)


def test_faces_out_of_order_are_refused(tmp_path: Path) -> None:
    faces = some_faces()
    for frames in (faces.frame[::-1].copy(), faces.frame - 1):
        write_faces(tmp_path / "f.parquet", faces.with_columns(frame=frames))
        with pytest.raises(RunFolderError, match="delete it"):
            read_faces(tmp_path / "f.parquet")


def test_a_table_that_expands_is_given_up(tmp_path: Path) -> None:
    """Both are small files; as arrays they would take 3 GB each."""
    words = pa.DictionaryArray.from_arrays(pa.array(np.zeros(300_000, np.int8)), pa.array(["a" * 10_000]))
    table = pa.table({"clip": words, "frame": pa.nulls(300_000)})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", store_schema=False)
    pq.write_table(table, tmp_path / "c.parquet", compression="zstd")
    with pq.ParquetWriter(tmp_path / "b.parquet", pa.schema([("clip", pa.null())])) as writer:
        for _ in range(4):
            writer.write_table(pa.table({"clip": pa.nulls(10**8)}))
    for name in ("a.parquet", "b.parquet"):
        assert (tmp_path / name).stat().st_size < 1_000_000
        with pytest.raises(ValueError, match="expands to more than"):
            stored.read_table(tmp_path / name)
    with pytest.raises(ValueError, match="has dictionaries"):
        stored.read_table(tmp_path / "c.parquet")
    assert stored.read_table(tmp_path / "a.parquet", ["frame"]).num_rows == 300_000
    with pytest.raises(KeyError):
        stored.read_table(tmp_path / "a.parquet", ["nothing"])


def npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def header(descr: str = "|u1", shape: str = "(1, 2, 2, 3)", order: str = "False") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}"


ARRAYS = {
    "huge": npy(header(shape="(99999999999, 1000, 1000, 3)"), bytes(12)),
    "huge and empty": npy(header(shape="(0, 99999999999999, 99999999999999, 3)")),
    "negative": npy(header(shape="(-1, 2, 2, 3)"), bytes(12)),
    "objects": npy(header("|O"), bytes(12)),
    "floats": npy(header("<f4"), bytes(48)),
    "flat": npy(header(shape="(12,)"), bytes(12)),
    "columns first": npy(header(order="True"), bytes(12)),
    "short": npy(header(), bytes(11)),
    "long": npy(header(), bytes(13)),
    "deep": npy("(" * 9000),
    "code": npy("__import__('os').getcwd()"),
    "text": b"hello",
    "nothing": b"",
}


@pytest.mark.parametrize("name", ARRAYS)
def test_crops_that_are_none(tmp_path: Path, name: str) -> None:
    path = tmp_path / "crops.npy"
    path.write_bytes(ARRAYS[name])
    tracemalloc.start()
    if name == "huge and empty":
        with suppress(RunFolderError):
            assert len(read_crops(path)) == 0
    else:
        with pytest.raises(RunFolderError, match="delete it and run again"):
            read_crops(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_archives_of_arrays(tmp_path: Path) -> None:
    path, wanted = (
        tmp_path / "a.npz",
        {"a": np.arange(12).reshape(3, 4).T, "b": np.array("key"), "c": np.empty((0, 2))},
    )
    np.savez(path, **wanted)  # type: ignore[arg-type, unused-ignore]
    found = stored.read_arrays(path)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
    np.savez_compressed(path, a=np.zeros(100))
    with pytest.raises(ValueError, match="is compressed"):
        stored.read_arrays(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", ARRAYS["huge"])
    with pytest.raises(ValueError, match="promises"):
        stored.read_arrays(path)


@given(st.data())
@QUICK
def test_a_damaged_archive_of_arrays(folder: Path, data: st.DataObject) -> None:
    path = folder / "damaged.npz"
    np.savez(path, a=np.arange(50), b=np.zeros((3, 4), np.float32))
    path.write_bytes(data.draw(damages(path.read_bytes())))
    with suppress(*stored.DAMAGED):
        stored.read_arrays(path)


def test_json_that_is_none(tmp_path: Path) -> None:
    for text in ("[" * 100_000, "9" * 5000, "{", "\x00", ""):
        (tmp_path / "a.json").write_text(text)
        assert read_json(tmp_path / "a.json") is None
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    assert read_json(tmp_path / "a.json") is None
    for name in ("bad\udcff.mp4", "é\u2028.mp4"):
        write_json(tmp_path / "a.json", {name: name})
        assert read_json(tmp_path / "a.json") == {name: name}


# --------------------------------------------------------------------------------------------------------- run folders

HOSTILE: list[Any] = [
    None,
    True,
    -1,
    0,
    10**18,
    10**400,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "../../../etc/passwd",
    "a\0b",
    "\ud800",
    "<script>alert(1)</script>",
    "1/0",
    [],
    [None],
    {},
    {"a": 1},
    [[]],
]


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner = data.items() if isinstance(data, dict) else enumerate(data[:2]) if isinstance(data, list) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


def spoil(data: Any, rng: random.Random) -> Any:
    """JSON with one of its values replaced or left out."""
    path, value = rng.choice(list(places(data))), rng.choice(HOSTILE)
    if not path:
        return value
    node = data
    for key in path[:-1]:
        node = node[key]
    if isinstance(node, dict) and rng.random() < 0.25:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return resealed(data) if rng.random() < 0.7 else data


def resealed(data: Any) -> Any:
    """A marker whose digest is right, as who changes it on purpose would write it."""
    if isinstance(data, dict) and "digest" in data:
        with suppress(ValueError, UnicodeEncodeError):  # what is no JSON has no digest
            data["digest"] = workspace.digest({key: value for key, value in data.items() if key != "digest"})
    return data


def look(run: Path) -> None:
    """Read all that a report, a preview and a comparison read."""
    survive(read_scores, run)
    results = survive(RunResults.read, run)
    if results is None:
        return
    _ = results.manifest, results.history, results.limits, survive(lambda: results.scores)
    for side in ("source", "target"):
        for clip in survive(results.clips, side) or []:
            for name in ("faces", "outlines", "crops", "swapped", "sources", "scored", "measured", "scores"):
                survive(getattr, clip, name)


def spoiled_run(run: Path, whole: Path, rng: random.Random) -> None:
    files = [path for path in sorted(whole.rglob("*.json")) if path.name != "report.json"]
    path = rng.choice([*files, *whole.rglob("*.parquet"), *whole.rglob("config.toml")])
    spoiled = run / path.relative_to(whole)
    if path.suffix == ".json":
        spoiled.write_text(json.dumps(spoil(json.loads(path.read_text()), rng)))
    else:
        data = bytearray(path.read_bytes())
        for _ in range(4):
            data[rng.randrange(len(data))] = rng.randrange(256)
        spoiled.write_bytes(data)


def restore(run: Path, whole: Path) -> None:
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(whole, run, ignore=shutil.ignore_patterns("report.*", "*.lock"))


def snapshot(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


@pytest.mark.models
@pytest.mark.parametrize("count", [100, pytest.param(400, marks=pytest.mark.slow)])
def test_a_run_folder_of_somebody_else_is_read(tmp_path: Path, quick_run: Any, count: int) -> None:
    run, rng = tmp_path / "RUN", random.Random(0)
    restore(run, quick_run.out)
    for _ in range(count):
        spoiled_run(run, quick_run.out, rng)
        before = snapshot(tmp_path)
        look(run)
        assert snapshot(tmp_path) == before
        for path in run.rglob("*"):
            original = quick_run.out / path.relative_to(run)
            if path.suffix in (".json", ".parquet", ".toml"):
                shutil.copyfile(original, path)


@pytest.mark.models
@pytest.mark.slow
def test_commands_on_a_run_folder_of_somebody_else(
    tmp_path: Path, quick_run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Swap, score and report: right, or one line and no traceback, and nothing is written elsewhere."""
    run, rng = tmp_path / "RUN", random.Random(1)
    for turn in range(24):
        restore(run, quick_run.out)
        spoiled_run(run, quick_run.out, rng)
        command = [["swap", "-q", "--out"], ["score", "-q", "--out"], ["report", "-q", "--out"]][turn % 3]
        code = call([*command, str(run)])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        assert code in (0, 1, 2), printed.err
        assert code == 0 or "facepipe: " in printed.err
        assert "unexpected" not in printed.err
        assert [path.name for path in tmp_path.iterdir()] == ["RUN"]


def call(arguments: list[str]) -> int:
    try:
        main(arguments)
    except SystemExit as exc:
        return int(exc.code or 0)
    return 0


def test_inputs_that_are_none_are_hashed_again(tmp_path: Path) -> None:
    with Workspace(tmp_path / "RUN"):
        pass
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"a")
    wrong: list[Any] = [{}, {str(clip): []}, {str(clip): {"stamp": 1}}, {str(clip): [None]}]
    for known in wrong:
        write_marker(tmp_path / "RUN" / "inputs.json", known)
        with Workspace(tmp_path / "RUN") as run:
            assert run.file_hash(clip) == workspace.file_sha256(clip)
    marker = tmp_path / "RUN" / "m.json"
    for files in (5, None, {"a": 1}, [5], ["../../nothing"]):
        write_marker(marker, {"key": "k", "files": files})
        assert not run.is_done(marker, "k")


def test_a_marker_that_was_changed_is_none(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_marker(path, {"key": "k", "files": ["a"], "size": (3, 4), "path": "x"})
    whole = path.read_text()
    known = read_marker(path)
    assert known == {"key": "k", "files": ["a"], "size": [3, 4], "path": "x"}
    for place in list(places(json.loads(whole)))[1:]:
        node = changed = json.loads(whole)
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = 5
        write_json(path, changed)
        assert read_marker(path) == {}
    path.write_text('["no", "object"]')
    assert read_marker(path) == {}


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_a_run_goes_on_from_whatever_is_left(
    quick_run: Any, quick: tuple[str, ...], tmp_path: Path, contents: Any, seed: int
) -> None:
    """A JSON with something else in it: done again to the same bytes, or refused in a line."""
    rng, out = random.Random(seed), tmp_path / "RUN"
    shutil.copytree(quick_run.out, out)
    path = rng.choice(sorted(path for path in out.rglob("*.json") if path.parent.name != "blend"))
    path.write_text(json.dumps(spoil(json.loads(path.read_text()), rng)))
    common = {"source": quick_run.source, "target": quick_run.target, "out": out}
    if survive(lambda: pipeline.run(pipeline.resolve(None, quick, **common))) is not None:
        assert not (out / "errors").exists()
        assert contents(out)["swapped/woman.mp4"] == contents(quick_run.out)["swapped/woman.mp4"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["RUN"]


# --------------------------------------------------------------------------------------------------------- checkpoints

TINY = Architecture(size=16, widths=(4, 4), code=8, bottom=4, up=(4, 4))


@pytest.fixture(scope="module")
def net(folder: Path) -> Path:
    """A small trained net's two files, without their suffixes."""
    points = np.random.default_rng(0).normal(size=(68, 2)).tolist()
    facts = {
        "architecture": asdict(TINY),
        "shapes": {"source": points, "target": points},
        "view": "crop",
        "window": [0, 0, 16],
        "size": 16,
    }
    torch.manual_seed(0)
    checkpoint.save(folder / "net", SwapNet(TINY).state_dict(), facts)
    return folder / "net"


def test_a_net_is_read(net: Path) -> None:
    assert Generator.load(net).net.shape == TINY


@pytest.mark.parametrize("effort", FUZZED)
def test_a_damaged_net(folder: Path, net: Path, effort: settings) -> None:
    """Tensors whose hash is right all the same, as somebody may make them; then facts of any kind."""
    state, tensors = json.loads(net.with_suffix(".json").read_text()), net.with_suffix(".safetensors").read_bytes()
    path, rng = folder / "damaged", random.Random(0)

    def write(data: bytes, facts: Any) -> None:
        path.with_suffix(".safetensors").write_bytes(data)
        if isinstance(facts, dict) and "sha256" in facts:
            facts["sha256"] = workspace.file_sha256(path.with_suffix(".safetensors"))
        path.with_suffix(".json").write_text(json.dumps(facts))

    @given(damages(tensors), st.booleans())
    @settings(effort, max_examples=effort.max_examples // 3)
    def check(data: bytes, facts: bool) -> None:
        write(tensors if facts else data, spoil(json.loads(json.dumps(state)), rng) if facts else state)
        survive(checkpoint.load, path)
        survive(Generator.load, path)

    check()
    write(tensors, state)
    Generator.load(path)


@pytest.mark.parametrize("change", [{"widths": [4, 10**9]}, {"code": 10**12}, {"size": 2**40}, {"kernel": 99_999}])
def test_a_net_that_says_it_is_huge_takes_no_memory(tmp_path: Path, net: Path, change: dict[str, Any]) -> None:
    for suffix in (".json", ".safetensors"):
        shutil.copyfile(net.with_suffix(suffix), tmp_path / f"a{suffix}")
    facts = json.loads((tmp_path / "a.json").read_text())
    facts["architecture"] |= change
    (tmp_path / "a.json").write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match="damaged, or of another architecture"):
        Generator.load(tmp_path / "a")


def test_a_checkpoint_whose_header_is_huge(tmp_path: Path) -> None:
    for length in (2**63, 2**40, 10**8):
        data = (
            struct.pack("<Q", length) + b'{"a":{"dtype":"F32","shape":[999999999999],"data_offsets":[0,4]}}' + bytes(4)
        )
        (tmp_path / "a.safetensors").write_bytes(data)
        write_json(tmp_path / "a.json", {"sha256": workspace.file_sha256(tmp_path / "a.safetensors")})
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            checkpoint.load(tmp_path / "a")
    safetensors.torch.save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="sha256"):
        checkpoint.load(tmp_path / "a")


# --------------------------------------------------------------------------------------------------------- archives


MEMBER = bytes(range(256)) * 20


def zipped(method: int) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        archive.writestr("net/w.bin", MEMBER)
        archive.writestr("../outside", b"x")
        archive.writestr("/etc/absolute", b"x")
    return made.getvalue()


def tarred(mode: Any) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:
        for name in ("top/net/w.bin", "top/../../outside", "/etc/absolute"):
            info = tarfile.TarInfo(name)
            info.size = len(MEMBER)
            archive.addfile(info, io.BytesIO(MEMBER))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"top/link{kind.decode()}")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    return made.getvalue()


ARCHIVES = {f"zip{m}": zipped(m) for m in (0, 8, 12, 14)} | {
    f"tar{m}": tarred(m) for m in ("w", "w:gz", "w:bz2", "w:xz")
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_only_what_is_wanted_of_an_archive_is_read(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links, devices and names that lead out of it are none of it; nothing is unpacked."""
    archive = tmp_path / "a"
    archive.write_bytes(ARCHIVES[kind])
    monkeypatch.chdir(tmp_path)
    wanted = {"net/w.bin", *(f"link{i}" for i in range(7))}
    assert {name: b"".join(chunks) for name, chunks in read_members(archive, wanted)} == {"net/w.bin": MEMBER}
    assert list(tmp_path.iterdir()) == [archive]
    assert not (tmp_path.parent / "outside").exists()


@pytest.mark.parametrize("effort", FUZZED)
@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_damaged_archive(folder: Path, kind: str, effort: settings) -> None:
    path = folder / "archive"

    def read() -> None:
        for _, chunks in read_members(path, {"net/w.bin"}):
            for _ in chunks:
                pass

    @given(damages(ARCHIVES[kind]))
    @settings(effort, max_examples=effort.max_examples // 3)
    def check(data: bytes) -> None:
        path.write_bytes(data)
        survive(read)

    check()


def test_an_archive_that_unpacks_for_ever(tmp_path: Path) -> None:
    info = tarfile.TarInfo("top/zeros")
    info.size = 1 << 45
    (tmp_path / "a.tar").write_bytes(info.tobuf() + bytes(4096))
    with pytest.raises(WeightsError, match=r"a\.tar: unpacks to more than"):
        list(read_members(tmp_path / "a.tar", {"w"}))


def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "catalog.toml").write_text(text)
    monkeypatch.setenv("FACEPIPE_CATALOG", str(tmp_path / "catalog.toml"))
    monkeypatch.setenv("FACEPIPE_CACHE", str(tmp_path / "cache"))


def test_a_bomb_among_weights_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More bytes than the catalogue says: given up there, however many would follow."""
    (tmp_path / "w.bin").write_bytes(bytes(1 << 22))
    sha256, url = "0" * 64, (tmp_path / "w.bin").as_uri()
    entry = f'kind = "detector"\nlicence = "MIT"\nfile = "w.bin"\nbytes = 1000\nsha256 = "{sha256}"\n'
    catalogue(tmp_path, monkeypatch, f'[weights.bomb]\n{entry}sources = [{{ url = "{url}" }}]\n')
    with pytest.raises(WeightsError, match="got more; nothing was kept"):
        weights.pull("bomb")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "text",
    [
        "weights = 3",
        "[weights]\na = 1",
        "clip = []",
        "[weights.a]\nsources = 3",
        "[weights.a]\nsources = [3]",
        "[weights.a]\nfile = '../x'\nkind = 'detector'\nlicence = 'MIT'\nsources = []",
        "[weights.a]\nfile = '/etc/x'\nkind = 'detector'\nlicence = 'MIT'\nsources = []",
        "[clip.'../x']\nlicence = 'MIT'\nsources = []",
        "a = " + "[" * 5000,
        "a = " + "9" * 5000,
    ],
)
def test_catalogues_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    catalogue(tmp_path, monkeypatch, text)
    with pytest.raises(ConfigError, match=r"catalog\.toml"):
        weights.status()


# ------------------------------------------------------------------------------------------------- pictures and videos


def encoded(kind: str, **options: Any) -> bytes:
    rng = np.random.default_rng(0)
    frames = [Picture.fromarray(rng.integers(0, 255, (24, 40, 3)).astype(np.uint8)) for _ in range(3)]
    made = io.BytesIO()
    animated = options.pop("animated", False)
    frames[0].save(made, kind, **({"save_all": True, "append_images": frames[1:]} if animated else {}), **options)
    return made.getvalue()


PICTURES = {
    "a.png": encoded("png"),
    "moving.png": encoded("png", animated=True),
    "a.jpg": encoded("jpeg"),
    "late.jpg": encoded("jpeg", progressive=True),
    "a.webp": encoded("webp"),
    "exact.webp": encoded("webp", lossless=True),
    "moving.webp": encoded("webp", animated=True),
    "a.bmp": encoded("bmp"),
    "a.tif": encoded("tiff"),
    "packed.tif": encoded("tiff", compression="tiff_lzw"),
}


@pytest.mark.parametrize("effort", FUZZED)
@pytest.mark.parametrize("name", PICTURES)
def test_a_damaged_picture(folder: Path, name: str, effort: settings) -> None:
    path = folder / name

    @given(damages(PICTURES[name]))
    @settings(effort, max_examples=effort.max_examples // 2)
    def check(data: bytes) -> None:
        path.write_bytes(data)
        image = survive(video.read_image, path, Limits(max_pixels=100_000))
        assert image is None or image.shape[0] * image.shape[1] <= 100_000

    check()


def png(width: int, height: int, kind: bytes = b"IHDR") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(kind, head) + (b"" if kind == b"IHDR" else png(60_000, 60_000)[8:]) + body


def tiff(*entries: tuple[int, int, int], order: str = "<") -> bytes:
    body = b"".join(struct.pack(f"{order}HHII", tag, kind, 1, value) for tag, kind, value in entries)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}IH", 8, len(entries)) + body + bytes(64)


def jpeg(*segments: bytes) -> bytes:
    return b"\xff\xd8" + b"".join(segments) + b"\xff\xd9"


def frame_header(width: int, height: int) -> bytes:
    return struct.pack(">HHBHHB", 0xFFC0, 17, 8, height, width, 3) + bytes(9)


LARGE = {
    "a.png": png(60_000, 60_000),
    "a.jpg": jpeg(frame_header(60_000, 60_000)),
    # After a marker that has no length decoders go on; who takes what follows for one reads a size of 8x8 from behind.
    "lone.jpg": jpeg(b"\xff\x01", frame_header(60_000, 60_000), bytes(0xFFC0 - 17), frame_header(8, 8)),
    "a.bmp": b"BM" + struct.pack("<IIIIiiHH", 0, 0, 54, 40, 60_000, 60_000, 1, 24) + bytes(24),
    "below.bmp": b"BM" + struct.pack("<IIIIiiHH", 0, 0, 54, 40, 60_000, -60_000, 1, 24) + bytes(24),
    "a.tif": tiff((256, 4, 60_000), (257, 4, 60_000)),
    "motorola.tif": tiff((256, 4, 60_000), (257, 4, 60_000), order=">"),
    "a.webp": b"RIFF"
    + struct.pack("<I", 30)
    + b"WEBPVP8X"
    + struct.pack("<II", 10, 0)
    + (59_999).to_bytes(3, "little") * 2,
}
DOUBTFUL = {
    "twice.tif": tiff((256, 4, 8), (256, 4, 60_000), (257, 4, 8)),
    "elsewhere.tif": tiff((256, 16, 8), (257, 16, 8)),
    "hidden.png": png(8, 8, b"tEXt"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*LARGE, *DOUBTFUL])
def test_a_picture_that_is_too_large_is_never_decoded(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", never)
    path = tmp_path / name
    path.write_bytes((LARGE | DOUBTFUL)[name])
    with pytest.raises(MediaLimitError if name in LARGE else MediaError, match=name):
        video.read_image(path)


def test_a_png_whose_chunk_is_longer_than_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = PICTURES["a.png"]
    at = whole.index(b"IDAT") - 4
    for number, data in enumerate((_changed(whole, [(at, 250)]), whole[:-40], whole[: at + 6])):
        (tmp_path / f"{number}.png").write_bytes(data)
        with pytest.raises(MediaError, match=r"\.png: is an image with a broken header, or cut off"):
            video.read_image(tmp_path / f"{number}.png")


def test_a_chunk_longer_than_its_file_takes_no_memory(tmp_path: Path) -> None:
    """OpenCV would take 3.5 GB for this file of 100 bytes, and say nothing."""
    at = (data := PICTURES["a.png"]).index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(data[:at] + struct.pack(">I", 0xDF001C53) + b"tEXta" + data[at:])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MediaError, match=r"a\.png: is an image with a broken header, or cut off"):
        video.read_image(tmp_path / "a.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes, or bytes on macOS


def test_a_picture_of_endless_bytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PICTURES["a.png"])
    os.truncate(path, 1 << 40)  # a hole takes no room on the disk
    with pytest.raises(MediaLimitError, match=r"a\.png: has 1099511627776 bytes"):
        video.read_image(path)


STARTS = [starts if isinstance(starts, bytes) else starts[0] for starts, _ in stills._PARSERS]


@given(st.sampled_from(STARTS), st.binary(max_size=300))
@QUICK
def test_any_header_of_a_picture(start: bytes, data: bytes) -> None:
    survive(stills.stored_size, Path("a"), start + data)


VIDEOS: dict[str, dict[str, Any]] = {
    "a.mp4": {},
    "a.mkv": {"audio": ["aac"]},
    "a.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p", "full": True},
    "a.ts": {"codec": "mpeg2video"},
    "a.mov": {"codec": "png", "pixel_format": "rgb24"},
    "a.webm": {"codec": "libvpx"},
    "a.gif": {"codec": "gif", "pixel_format": "bgr8"},
}


def watch(path: Path, limits: Limits) -> int:
    count = 0
    with video.open_clip(path, limits=limits) as reader:
        for count, frame in enumerate(reader, start=1):  # noqa: B007
            assert frame.image.shape == (*reader.info.size, 3)
    return count


@pytest.mark.parametrize("effort", FUZZED)
@pytest.mark.parametrize("name", VIDEOS)
def test_a_damaged_video(folder: Path, make_video: Callable[..., Path], name: str, effort: settings) -> None:
    path = folder / f"damaged-{name}"
    whole = make_video(folder / name, size=(48, 64), count=3, **VIDEOS[name]).read_bytes()

    @given(damages(whole))
    @settings(effort, max_examples=effort.max_examples // 5)
    def check(data: bytes) -> None:
        path.write_bytes(data)
        survive(watch, path, Limits(max_pixels=20_000, max_frames=200))
        survive(video.read_metadata, path)

    check()


def test_a_gif_of_60000_pixels_square(tmp_path: Path) -> None:
    data = bytearray(encoded("gif", animated=True))
    struct.pack_into("<HH", data, 6, 60_000, 60_000)
    (tmp_path / "a.gif").write_bytes(data)
    with pytest.raises(MediaError, match=r"a\.gif: "):
        video.probe(tmp_path / "a.gif")


@pytest.mark.models
@pytest.mark.slow
def test_a_damaged_label(tmp_path: Path, quick_run: Any) -> None:
    """What `facepipe verify` reads of a video from somewhere."""
    path = tmp_path / "a.mp4"

    @given(damages((quick_run.out / "swapped" / "woman.mp4").read_bytes()))
    @settings(QUICK, max_examples=40)
    def look_at(data: bytes) -> None:
        path.write_bytes(data)
        verdict = survive(check, path)
        assert verdict is None or len(verdict.sentence().splitlines()) == 1

    look_at()


# --------------------------------------------------------------------------------------------------------------- names

NAMES = [
    "$(touch pwned).mp4",
    "a\nb.mp4",
    "q'\"<img src=x onerror=alert(1)>.mp4",
    "-rf.mp4",
    "ünï—☃.mp4",
    "\udcff.mp4",
    "a`b`;&|.mp4",
    "%s%n{0}.mp4",
    "\x1b[31mred.mp4",
    "[bold]x[ [.mp4",
    "\u202egnp.mp4",
]


@pytest.mark.models
@pytest.mark.slow
def test_names_of_all_kinds(
    tmp_path: Path,
    short_clips: Any,
    cut_clip: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, target, out = tmp_path / "[src]", tmp_path / "$HOME", tmp_path / "RUN"
    source.mkdir()
    target.mkdir()
    shutil.copyfile(short_clips.man / "man.mp4", source / "[red]\udcfe\nm.mp4")
    whole = cut_clip("WolfgangLanger_Pexels.mp4", tmp_path / "clip.mp4", 240, 242).read_bytes()
    for name in NAMES:
        (target / name).write_bytes(whole)
    (target / "no\n\udcfevideo.mp4").write_bytes(b"junk")
    (tmp_path / "clip.mp4").unlink()
    monkeypatch.chdir(tmp_path)
    quick = ("detect.embedder=none", 'score.nets=["sface"]', "score.reconstruct_frames=0", "align.size=64")
    overrides = [word for setting in quick for word in ("--set", setting)]
    run = ["run", "--source", str(source), "--target", str(target), "--out", str(out), *overrides]
    for more in ([], ["--json"], ["--log-json"]):
        assert call(run + more) == 1
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        assert "\x1b[31m" not in printed.out + printed.err
        assert r"no\n\udcfevideo.mp4: is a text file" in printed.err.replace("\\\\", "\\").replace("\n", "")
    assert len(list((out / "swapped").glob("*.mp4"))) == len(NAMES)
    assert not (out / "errors").exists()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page
    for command in (["verify", str(target)], ["preview", "-q", str(out)], ["report", "--out", str(out)]):
        call(command)
        assert "Traceback" not in (printed := capsys.readouterr()).out + printed.err
        assert "\x1b[31m" not in printed.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["$HOME", "RUN", "[src]"]


@given(st.text(max_size=200) | st.text(alphabet=string.punctuation + "\x00\n\x1b\udcff. ", max_size=30))
@QUICK
def test_the_name_of_a_clip_is_a_safe_file_name(name: str) -> None:
    assume("/" not in name and "\0" not in name)
    safe = video.clips._safe(name)
    assert safe not in ("", ".", "..")
    assert not set(safe) & set("/\\\0\n\r\x1b'\"<>$`|;& ")
    assert not safe.startswith(".")
    safe.encode()


def test_the_report_of_a_run_that_lies(tmp_path: Path) -> None:
    """Scripts where names and numbers should be are text in the page."""
    run, evil = tmp_path / "RUN", "</script><script>alert(1)</script>"
    with Workspace(run):
        pass
    write_json(run / "manifest.json", {
        "format": workspace.FORMAT,
        "facepipe": evil,
        "failed": [{"stage": evil, "side": evil, "clip": evil, "reason": evil}, 5],
        "inputs": {"source": {evil: {"path": evil, "sha256": evil}}, "target": []},
        "ledger": {"source": {"person": evil}, "weights": {evil: {"origin": evil}}},
        "weights": {evil: evil},
    })  # fmt: skip
    (run / "config.toml").write_text(f"source = '{evil}'\n[swap]\nmethod = '{evil}'\n")
    assert tomllib.loads((run / "config.toml").read_text())
    page = write_report(run).read_text(encoding="utf-8")
    assert evil not in page
    assert "<script>alert" not in page
