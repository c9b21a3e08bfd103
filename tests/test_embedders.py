"""Embedders and the conversion of the frozen graph.

Witnesses: OpenCV running the graph itself, and facenet-pytorch's own crop.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file

from facepipe import weights
from facepipe.backends import embedders, frozen_graph
from facepipe.backends.embedders import EMBEDDERS, Embedder, box_to_crop, load_embedder
from facepipe.errors import DegenerateLandmarksError, UsageError, WeightsError
from facepipe.image import warp

FRAME = (720, 1280)
CLIPS = {"WolfgangLanger_Pexels.mp4": 94, "single_face.mp4": 18}  # two people; every n-th frame


@pytest.fixture(scope="module", params=EMBEDDERS)
def embedder(request: pytest.FixtureRequest) -> Embedder:
    return load_embedder(request.param)


@pytest.fixture(scope="module")
def faces() -> list[tuple[int, NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Person, RGB frame, box and five points of faces of two people on real clips, found by YuNet."""
    detector = cv2.FaceDetectorYN.create(str(weights.path("yunet")), "", (640, 360), 0.8)
    found = []
    for person, (name, step) in enumerate(CLIPS.items()):
        clip = cv2.VideoCapture(str(weights.clip(name)))
        number = 0
        while True:
            read, frame = clip.read()
            if not read:
                break
            if number % step == 0:
                face = detector.detect(frame)[1][0]
                box = np.concatenate([face[:2], face[:2] + face[2:4]])
                found.append((person, frame[..., ::-1].copy(), box, face[4:14].reshape(5, 2)))
            number += 1
    return found


@pytest.fixture(scope="module")
def crops(embedder: Embedder, faces: list[tuple[int, NDArray[Any], NDArray[Any], NDArray[Any]]]) -> NDArray[np.uint8]:
    return np.stack([embedder.crop(frame, box, points) for _, frame, box, points in faces])


# -------------------------------------------------------------------------------------------------------- the crop


@settings(deadline=None, max_examples=50)
@given(
    st.tuples(st.floats(200, 600), st.floats(200, 300)),
    st.tuples(st.floats(20, 300), st.floats(20, 300)),
    st.floats(0, 64),
)
def test_the_edges_of_the_wider_box_meet_the_edges_of_the_crop(
    corner: tuple[float, float], extent: tuple[float, float], margin: float
) -> None:
    box = np.array([*corner, corner[0] + extent[0], corner[1] + extent[1]])
    matrix = box_to_crop(box, (160, 160), margin=margin, frame_size=FRAME)
    edges = box.reshape(2, 2) - 0.5  # in coordinates where the first pixel's centre is 0
    inside = edges @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(inside[0], margin / 2 - 0.5, atol=1e-9)
    np.testing.assert_allclose(inside[1], 160 - margin / 2 - 0.5, atol=1e-9)
    assert matrix[0, 1] == matrix[1, 0] == 0


def test_at_scale_one_the_crop_is_facenet_pytorchs(tmp_path: Path) -> None:
    from facenet_pytorch.models.utils.detect_face import extract_face

    frame = np.random.default_rng(1).integers(0, 256, (*FRAME, 3), dtype=np.uint8)
    box = np.array([300, 200, 428, 328], np.float32)  # 128 pixels, with the margin 160
    ours = warp(frame, box_to_crop(box, (160, 160), margin=32, frame_size=FRAME), (160, 160))
    theirs = extract_face(frame, box, image_size=160, margin=32).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(ours, theirs.astype(np.uint8))


def test_a_box_at_the_border_is_cut_there_as_facenet_pytorch_does() -> None:
    matrix = box_to_crop(np.array([0, 0, 128, 128]), (160, 160), margin=32, frame_size=FRAME)
    np.testing.assert_allclose(matrix @ [-0.5, -0.5, 1], [-0.5, -0.5], atol=1e-12)
    np.testing.assert_allclose(matrix @ [143.5, 143.5, 1], [159.5, 159.5], atol=1e-12)


@pytest.mark.parametrize("box", [[1300, 10, 1400, 90], [-300, -300, -200, -100], [5, 800, 6, 801]])
def test_a_box_outside_of_the_frame_still_gives_a_matrix(box: list[float]) -> None:
    matrix = box_to_crop(np.array(box), (160, 160), margin=32, frame_size=FRAME)
    assert np.isfinite(matrix).all()
    assert np.linalg.det(matrix[:, :2]) > 0


@pytest.mark.parametrize("box", [[1, 1, 1, 5], [5, 1, 1, 5], [0, 0, np.nan, 5], [0, 0, np.inf, 5]])
def test_a_box_without_area_is_refused(box: list[float]) -> None:
    with pytest.raises(DegenerateLandmarksError, match="box is expected to be finite with x0 < x1"):
        box_to_crop(np.array(box), (160, 160), margin=32, frame_size=FRAME)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match="embedder 'arcface' is unknown; expected one of irv1, sface"):
        load_embedder("arcface")


# --------------------------------------------------------------------------------------------------- the embeddings


@pytest.mark.models
def test_embeddings_are_what_they_promise(embedder: Embedder, crops: NDArray[np.uint8]) -> None:
    found = embedder.embed(crops)
    assert (*found.shape, found.dtype.name) == (len(crops), embedder.dim, "float32")
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert crops.shape[1:] == (*embedder.crop_size, 3)


@pytest.mark.models
def test_people_are_told_apart(
    embedder: Embedder,
    crops: NDArray[np.uint8],
    faces: list[tuple[int, NDArray[Any], NDArray[Any], NDArray[Any]]],
) -> None:
    person = np.array([face[0] for face in faces])
    found = embedder.embed(crops)
    similarity = found @ found.T
    same = person[:, None] == person[None]
    other = ~np.eye(len(person), dtype=bool)
    assert len(person) >= 9
    assert similarity[same & other].min() > similarity[~same].max() + 0.1


@pytest.mark.models
def test_the_batch_does_not_matter(
    embedder: Embedder, crops: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = crops[::2]
    whole = embedder.embed(few)
    single = np.concatenate([embedder.embed(few[i : i + 1]) for i in range(len(few))])
    np.testing.assert_allclose(single, whole, atol=1e-5)
    monkeypatch.setattr(embedders.InceptionResnetV1, "_BATCH", 3)
    np.testing.assert_allclose(embedder.embed(few), whole, atol=1e-5)


@pytest.mark.models
def test_layout_and_writability_of_crops_do_not_matter(embedder: Embedder, crops: NDArray[np.uint8]) -> None:
    reversed_twice = np.ascontiguousarray(crops[:3, ::-1, ::-1, ::-1])[:, ::-1, ::-1, ::-1]
    frozen = crops[:3].copy()
    frozen.setflags(write=False)
    expected = embedder.embed(crops[:3].copy())
    np.testing.assert_array_equal(embedder.embed(reversed_twice), expected)
    np.testing.assert_array_equal(embedder.embed(frozen), expected)


@pytest.mark.models
def test_no_crops_give_no_rows(embedder: Embedder) -> None:
    found = embedder.embed(np.empty((0, *embedder.crop_size, 3), np.uint8))
    assert (*found.shape, found.dtype.name) == (0, embedder.dim, "float32")


@pytest.mark.models
@pytest.mark.parametrize("wrong", [np.zeros((1, 90, 90, 3), np.uint8), np.zeros((160, 160, 3), np.uint8)])
def test_other_shapes_are_refused(embedder: Embedder, wrong: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"crops are expected to be \(N, .*uint8, but got"):
        embedder.embed(wrong)


@pytest.mark.models
def test_floats_are_refused(embedder: Embedder) -> None:
    with pytest.raises(ValueError, match=r"uint8, but got .* float64"):
        embedder.embed(np.zeros((1, *embedder.crop_size, 3)))  # type: ignore[arg-type]


@pytest.mark.models
def test_inception_resnet_agrees_with_opencv_running_the_graph(
    faces: list[tuple[int, NDArray[Any], NDArray[Any], NDArray[Any]]],
) -> None:
    ours = load_embedder("irv1")
    chosen = np.stack([ours.crop(frame, box, points) for _, frame, box, points in faces[::5]])
    noise = np.random.default_rng(3).integers(0, 256, (2, 160, 160, 3), dtype=np.uint8)
    pixels = np.concatenate([chosen, noise])
    graph = cv2.dnn.readNetFromTensorflow(str(weights.path("irv1")))
    theirs = []
    for crop in pixels:
        graph.setInput(cv2.dnn.blobFromImage(crop, 1 / 128, mean=(127.5, 127.5, 127.5)))
        theirs.append(graph.forward()[0].copy())
    np.testing.assert_allclose(ours.embed(pixels), theirs, atol=2e-6)


@pytest.mark.models
def test_the_network_class_takes_the_weights_strictly() -> None:
    from facenet_pytorch import InceptionResnetV1
    from safetensors.torch import load_file as load_tensors

    state = load_tensors(frozen_graph.converted(weights.path("irv1")))
    assert len(state) == 714
    result = InceptionResnetV1().load_state_dict(state, strict=True)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])


@pytest.mark.models
def test_sface_wants_rgb_from_0_to_255(
    faces: list[tuple[int, NDArray[Any], NDArray[Any], NDArray[Any]]],
) -> None:
    """Scaled to 0..1, everyone would be one person."""
    net = load_embedder("sface")
    crops = np.stack([net.crop(frame, box, points) for _, frame, box, points in faces])
    person = np.array([face[0] for face in faces])
    apart = net.embed(crops) @ net.embed(crops).T
    dark = net.embed((crops / 255).round().astype(np.uint8))
    assert apart[0, person == 1].max() < 0.4
    assert (dark @ dark.T)[0, person == 1].min() > 0.5


# ---------------------------------------------------------------------------------------------------- the conversion


def varint(value: int) -> bytes:
    out = b""
    while True:
        value, low = value >> 7, value & 0x7F
        out += bytes([low | (0x80 if value else 0)])
        if not value:
            return out


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def constant(name: str, array: NDArray[Any], *, kind: int = 1, fill: bool = False) -> bytes:
    """A node of a GraphDef, as TensorFlow would write it."""
    shape = b"".join(field(2, field(1, n)) for n in array.shape)
    content = field(5, struct.pack("<f", array.flat[0])) if fill else field(4, array.tobytes())
    tensor = field(1, kind) + field(2, shape) + content
    attributes = field(5, field(1, b"dtype") + field(2, field(6, kind)))
    attributes += field(5, field(1, b"value") + field(2, field(8, tensor)))
    return field(1, field(1, name.encode()) + field(2, b"Const") + attributes)


shapes = st.lists(st.integers(1, 5), max_size=4).map(tuple)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(min_size=1, max_size=200), shapes, max_size=5), st.booleans())
def test_constants_come_back_as_they_were_written(told: dict[str, tuple[int, ...]], fill: bool) -> None:
    rng = np.random.default_rng(0)
    arrays = {n: (np.full(s, 0.5) if fill else rng.normal(size=s)).astype("<f4") for n, s in told.items()}
    graph = b"".join(constant(n, a, fill=fill) for n, a in arrays.items())
    graph += field(1, field(1, b"conv") + field(2, b"Conv2D")) + constant("axis", np.zeros(2, "<i4"), kind=3)
    graph += field(4, field(1, 22)) + b"\x35\0\0\0\0" + b"\x39\0\0\0\0\0\0\0\0"  # versions, a fixed32 and a fixed64
    found = frozen_graph.read_constants(graph)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].shape == array.shape


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused_or_have_no_constants(noise: bytes) -> None:
    try:
        assert all(a.dtype == np.float32 for a in frozen_graph.read_constants(noise).values())
    except WeightsError as exc:
        assert "not a frozen TensorFlow graph" in str(exc)  # noqa: PT017 - either is right


def test_a_cut_graph_is_refused() -> None:
    graph = constant("a", np.ones((3, 4), "<f4"))
    with pytest.raises(WeightsError, match="not a frozen TensorFlow graph"):
        frozen_graph.read_constants(graph[:-1])


def test_a_graph_of_another_net_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "other.pb"
    path.write_bytes(constant("a", np.ones((3, 4), "<f4")))
    with pytest.raises(WeightsError, match=r"other\.pb: the graph is not an Inception-ResNet-v1: it has no constant"):
        frozen_graph.converted(path, folder=tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.models
def test_the_conversion_is_kept_and_a_spoilt_one_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = weights.path("irv1")
    made = frozen_graph.converted(graph, folder=tmp_path)
    expected, before = load_file(made), made.stat().st_mtime_ns
    assert frozen_graph.converted(graph, folder=tmp_path) == made
    assert made.stat().st_mtime_ns == before
    made.write_bytes(made.read_bytes()[:1000])
    again = load_file(frozen_graph.converted(graph, folder=tmp_path))
    assert again.keys() == expected.keys()
    assert all((again[name] == expected[name]).all() for name in expected)
    monkeypatch.setattr(frozen_graph, "CONVERTER_VERSION", "next")
    assert frozen_graph.converted(graph, folder=tmp_path) != made
    assert not list(tmp_path.glob("*.part"))


def test_loading_changes_no_warning_filter() -> None:
    before = list(warnings.filters)
    with pytest.raises(WeightsError):
        embedders.InceptionResnetV1(Path(__file__))
    assert warnings.filters == before
