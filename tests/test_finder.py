"""Faces of real clips: exactly the frames that have one, the same for every stride, tracks that stay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facepipe.backends.detectors import Detections
from facepipe.backends.landmarkers import Fit
from facepipe.config import DetectConfig
from facepipe.finder import Finder, Models, load_models
from facepipe.image import Picture
from facepipe.types import Image
from facepipe.video import Clip, Frame, open_clip

pytestmark = pytest.mark.models

ClipPath = Callable[[str], Path]


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(DetectConfig(embedder="none"))


def find(models: Models, path: Path, stride: int, stop: int | None = None) -> tuple[list[list[Any]], int]:
    """The faces of each frame, and how often the detector looked."""
    finder = Finder(models.detector, models.landmarker, stride=stride)
    with open_clip(path, stop=stop) as reader:
        return [list(found) for _, found in finder(reader)], finder.looks


# ------------------------------------------------------------------------------------------------------ real clips


@pytest.mark.parametrize("stride", [1, 5])
def test_a_face_in_the_first_72_of_169_frames(models: Models, clip_path: ClipPath, stride: int) -> None:
    faces, looks = find(models, clip_path("face_noface.mov"), stride)
    assert len(faces) == 169
    assert [i for i, found in enumerate(faces) if found] == list(range(72))
    assert all(len(found) <= 1 for found in faces)
    assert looks == 169 if stride == 1 else looks < 169 / 2


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 5, 7])
def test_a_face_that_comes_later(models: Models, clip_path: ClipPath, stride: int) -> None:
    faces, _ = find(models, clip_path("noface_face.mov"), stride)
    assert [i for i, found in enumerate(faces) if found] == list(range(96, 168))


def test_no_face_at_all(models: Models, clip_path: ClipPath) -> None:
    faces, looks = find(models, clip_path("no_face.mp4"), 5)
    assert len(faces) == 95  # the header promises 98
    assert not any(faces)
    assert looks <= 20


@pytest.mark.parametrize("name", ["single_face.mp4", "WolfgangLanger_Pexels.mp4"])
def test_a_stride_changes_the_speed_and_not_the_faces(models: Models, clip_path: ClipPath, name: str) -> None:
    every, _ = find(models, clip_path(name), 1, stop=60)
    some, looks = find(models, clip_path(name), 5, stop=60)
    assert [len(found) for found in every] == [len(found) for found in some] == [1] * 60
    assert looks <= 30
    for (one,), (other,) in zip(every, some, strict=True):
        distance = np.linalg.norm(one.fit.landmarks - other.fit.landmarks, axis=1).mean()
        eyes = np.linalg.norm(one.fit.landmarks[45] - one.fit.landmarks[36])
        assert distance < 0.02 * eyes
        assert one.track == other.track == 0


def test_one_track_through_hands_before_the_face(models: Models, clip_path: ClipPath) -> None:
    with open_clip(clip_path("WolfgangLanger_Pexels.mp4"), start=60, stop=130) as reader:
        found = [faces for _, faces in Finder(models.detector, models.landmarker, stride=5)(reader)]
    assert all(len(faces) == 1 for faces in found)
    assert len({faces[0].track for faces in found}) == 1


# ----------------------------------------------------------------------- made detectors: who comes, goes, and jumps


class Scene:
    """Frames with coloured squares as faces; detector and landmarker that see them exactly."""

    def __init__(self, places: list[dict[int, tuple[int, int]]], *, follows: bool = True) -> None:
        self.places = places
        self.name = "scene"
        self.follows = follows
        self.seen: list[int] = []
        rng = np.random.default_rng(0)
        self._looks = {who: rng.integers(0, 256, (60, 60, 3)).astype(np.uint8) for who in range(9)}

    def frames(self) -> Iterator[Any]:
        for index, places in enumerate(self.places):
            image = np.full((240, 400, 3), 128, np.uint8)
            for who, (x, y) in places.items():
                image[y : y + 60, x : x + 60] = np.kron(self._looks[who][:6, :6], np.ones((10, 10, 1), np.uint8))
            image[0, 0] = index  # tells the detector which frame it is
            yield Frame(index, 10 * index, Fraction(index, 25), image)

    def detect(self, image: Image) -> Detections:
        index = int(image[0, 0, 0])
        self.seen.append(index)
        boxes = np.array([(x, y, x + 60, y + 60) for x, y in self.places[index].values()], np.float32).reshape(-1, 4)
        return Detections(boxes, np.linspace(0.9, 0.8, len(boxes), dtype=np.float32))

    def _fit(self, x: float, y: float) -> Fit:
        from facepipe import geometry

        points = geometry.template("ibug68", 60) + np.array([x, y])
        return Fit(points.astype(np.float32))

    def fit(self, image: Picture, box: NDArray[np.float32]) -> Fit:
        return self._fit(float(box[0]), float(box[1]))

    def follow(self, image: Picture, last: Fit) -> Fit:
        """The nearest square, within 20 px; else where it was."""
        was = last.landmarks.mean(0) - self._fit(0, 0).landmarks.mean(0)
        places = [np.array(place, np.float32) for place in self.places[int(np.asarray(image)[0, 0, 0])].values()]
        near = [place for place in places if np.linalg.norm(place - was) < 20]
        return self._fit(*(near[0] if near else was))


def run_scene(scene: Scene, stride: int) -> tuple[list[list[int]], list[list[tuple[int, int]]], int]:
    finder = Finder(scene, scene, stride=stride)
    tracks, places = [], []
    for _, found in finder(scene.frames()):
        tracks.append([face.track for face in found])
        places.append([(round(float(face.box[0])), round(float(face.box[1]))) for face in found])
    return tracks, places, finder.looks


@pytest.mark.parametrize("stride", [1, 3, 5, 16])
def test_two_people_who_move_keep_their_tracks(stride: int) -> None:
    scene = Scene([{0: (20 + 2 * i, 50), 1: (300 - 2 * i, 150)} for i in range(30)])
    tracks, places, looks = run_scene(scene, stride)
    assert all(sorted(frame) == [0, 1] for frame in tracks)
    for index, (frame, where) in enumerate(zip(tracks, places, strict=True)):
        assert dict(zip(frame, where, strict=True)) == {0: (20 + 2 * index, 50), 1: (300 - 2 * index, 150)}
    assert stride == 1 or looks <= 30 // stride + stride + 1


def test_who_goes_at_once_was_there() -> None:
    """Gone before the first look after a whole stride: the first frame is looked at by itself."""
    tracks, _, _ = run_scene(Scene([{0: (20, 50)} if i < 3 else {} for i in range(12)]), 8)
    assert [len(frame) for frame in tracks] == [1] * 3 + [0] * 9


def test_a_scene_between_two_looks_is_seen() -> None:
    """Nobody, then four frames of another scene with somebody in it, then nobody: both looks see the same."""
    scene = Scene([{1: (300, 100)} if 10 <= i < 14 else {} for i in range(40)])
    plain = scene.frames

    def frames() -> Iterator[Any]:
        for frame in plain():
            if 10 <= frame.index < 14:
                frame.image[:120] //= 2
                frame.image[:, :200] //= 3
                frame.image[0, 0] = frame.index
            yield frame

    scene.frames = frames  # type: ignore[method-assign]
    _, places, looks = run_scene(scene, 16)
    assert places == [[]] * 10 + [[(300, 100)]] * 4 + [[]] * 26
    assert looks < 30


@pytest.mark.parametrize("stride", [1, 4, 5])
def test_who_comes_and_goes_is_seen_at_that_frame(stride: int) -> None:
    scene = Scene([{**({0: (20, 50)} if i < 13 else {}), **({1: (300, 100)} if i >= 7 else {})} for i in range(25)])
    tracks, _, _ = run_scene(scene, stride)
    assert [len(frame) for frame in tracks] == [1] * 7 + [2] * 6 + [1] * 12
    assert tracks[0] != tracks[-1]


@pytest.mark.parametrize("stride", [1, 5])
def test_a_face_that_jumps_gets_a_new_track(stride: int) -> None:
    scene = Scene([{0: (20, 50) if i < 11 else (300, 150)} for i in range(20)])
    tracks, places, _ = run_scene(scene, stride)
    assert [frame[0] for frame in tracks] == [0] * 11 + [1] * 9
    assert [where[0] for where in places] == [(20, 50)] * 11 + [(300, 150)] * 9


def test_another_face_in_the_same_place_is_looked_at() -> None:
    """A cut: the followed face changes its looks, so the detector is asked at every frame of the stretch."""
    scene = Scene([{0 if i < 12 else 1: (100, 100)} for i in range(20)])
    run_scene(scene, 5)
    assert set(range(10, 15)) <= set(scene.seen)
    assert not set(range(5, 9)) <= set(scene.seen)


@pytest.mark.parametrize(("apart", "every"), [(62, False), (50, True)])
def test_faces_that_overlap_are_looked_at_in_every_frame(apart: int, every: bool) -> None:
    """A followed fit may slip onto the other face there."""
    scene = Scene([{0: (100, 50), 1: (100 + apart, 50)}] * 30)
    tracks, places, looks = run_scene(scene, 5)
    assert looks == 30 if every else looks < 15
    assert all(
        dict(zip(*one, strict=True)) == {0: (100, 50), 1: (100 + apart, 50)}
        for one in zip(tracks, places, strict=True)
    )


def test_faces_are_ordered_by_size() -> None:
    scene = Scene([{0: (20, 50), 1: (300, 150)}] * 3)
    detect = scene.detect

    def uneven(image: Image) -> Detections:
        found = detect(image)
        boxes = found.boxes.copy()
        boxes[1, 2:] += 15
        return replace(found, boxes=boxes)

    scene.detect = uneven  # type: ignore[method-assign]
    for _, found in Finder(scene, scene, stride=1)(scene.frames()):
        areas = [float(np.prod(face.box[2:] - face.box[:2])) for face in found]
        assert areas == sorted(areas, reverse=True)


def test_a_landmarker_that_cannot_follow_gets_a_look_at_every_frame() -> None:
    scene = Scene([{0: (20 + i, 50)} for i in range(12)], follows=False)
    tracks, _, looks = run_scene(scene, 5)
    assert looks == 12
    assert tracks == [[0]] * 12


@pytest.mark.parametrize(("count", "stride"), [(0, 5), (1, 5), (4, 5), (5, 5), (6, 5), (11, 3)])
def test_every_frame_comes_out_once_in_order(count: int, stride: int) -> None:
    scene = Scene([{0: (20, 50)}] * count)
    finder = Finder(scene, scene, stride=stride)
    assert [frame.index for frame, _ in finder(scene.frames())] == list(range(count))


def test_only_a_stretch_of_frames_is_held() -> None:
    scene = Scene([{0: (20, 50)}] * 40)
    drawn = 0

    def counted() -> Iterator[Any]:
        nonlocal drawn
        for frame in scene.frames():
            drawn += 1
            yield frame

    for frame, _ in Finder(scene, scene, stride=5)(counted()):
        assert drawn <= frame.index + 5


def test_a_still_is_a_clip_of_one_frame(models: Models, clip_path: ClipPath) -> None:
    clip = Clip(clip_path("multi_face.jpg"), "group", "images")
    with open_clip(clip) as reader:
        ((frame, found),) = Finder(models.detector, models.landmarker, stride=5)(reader)
    assert frame.index == 0
    assert len(found) == 5
    assert sorted(face.track for face in found) == list(range(5))
