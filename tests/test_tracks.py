"""Tracks: one person each, through crossings, gaps and slips of the finder; never through a cut; short gaps filled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.backends.detectors import Detections
from facepipe.config import AlignConfig, DetectConfig, LimitsConfig, SwapConfig
from facepipe.cuts import CutFinder
from facepipe.finder import Models, load_models
from facepipe.gaps import between, fill_gaps
from facepipe.methods.bank import SourceBank
from facepipe.methods.plan import rows_to_swap
from facepipe.stages.align import align_faces, steady_faces
from facepipe.stages.detect import detect_faces
from facepipe.tracks import link_tracks, near, neighbourhood
from facepipe.types import Faces, Flag, Image
from facepipe.video import Frame, open_clip

ClipPath = Callable[[str], Path]
SIDE = 60.0
FACE = geometry.template("ibug68", int(SIDE))
LOOKS = np.eye(8, dtype=np.float32)
"""Embeddings of people who are nothing alike."""


@dataclass(frozen=True)
class Seen:
    """A face in a frame of a made table: who it is, where, and the number that the finder gave."""

    frame: int
    who: int
    x: float
    track: int
    y: float = 50.0


def table(seen: Sequence[Seen], *, noise: float = 0.3, embedded: bool = True) -> Faces:
    """A table of made faces, in order."""
    seen = sorted(seen, key=lambda one: (one.frame, one.track))
    n, rng = len(seen), np.random.default_rng(1)
    columns = {
        name: np.zeros((n, *array.shape[1:]), array.dtype) for name, array in vars(Faces.empty(embedding=8)).items()
    }
    frames = np.array([one.frame for one in seen], np.int64)
    columns["frame"][:], columns["pts"][:] = frames, 10 * frames
    columns["face"][:] = np.arange(n) - np.searchsorted(frames, frames)
    columns["track"][:] = [one.track for one in seen]
    corner = np.array([(one.x, one.y) for one in seen]).reshape(n, 2)
    columns["box"][:] = np.concatenate([corner, corner + SIDE], axis=1)
    columns["landmarks"][:] = FACE + corner[:, None]
    columns["score"][:] = 0.9
    looks = LOOKS[[one.who for one in seen]] + rng.normal(0, noise / np.sqrt(8), (n, 8))
    columns["embedding"][:] = looks / np.linalg.norm(looks, axis=1, keepdims=True)
    if not embedded:
        columns["embedding"] = columns["embedding"][:, :0]
    return Faces(**columns)


@given(places=st.lists(st.floats(0, 400, width=32), min_size=1, max_size=6))
def test_who_is_near_is_told_alike_for_a_frame_and_for_a_table(places: list[float]) -> None:
    faces = table([Seen(0, 0, x, track) for track, x in enumerate(places)])
    np.testing.assert_array_equal(near(faces.box), neighbourhood(faces)[1])


def people_of(tracks: NDArray[np.int32], seen: Sequence[Seen]) -> dict[int, set[int]]:
    """Who is in each track."""
    ordered = sorted(seen, key=lambda one: (one.frame, one.track))
    return {int(t): {one.who for one, own in zip(ordered, tracks, strict=True) if own == t} for t in np.unique(tracks)}


def walk(who: int, frames: range, start: float, speed: float, track: int, **more: float) -> list[Seen]:
    return [Seen(i, who, start + speed * i, track, **more) for i in frames]


# ------------------------------------------------------------------------------------------------------- made tables


def test_followed_tracks_that_swapped_people_are_put_right() -> None:
    """Two cross, and the finder takes each for the other from then on."""
    seen = [
        *(Seen(i, 0, 20 + 8 * i, 0 if i < 20 else 1) for i in range(40)),
        *(Seen(i, 1, 340 - 8 * i, 1 if i < 20 else 0) for i in range(40)),
    ]
    tracks = link_tracks(table(seen), [])
    assert people_of(tracks, seen) == {0: {0}, 1: {1}}


@pytest.mark.parametrize("covered", [1, 4, 9, 25])
def test_who_is_hidden_behind_another_comes_back_with_the_same_number(covered: int) -> None:
    seen = walk(0, range(80), 20, 4, 0)
    start, stop = 40 - covered // 2, 40 + (covered + 1) // 2
    seen += walk(1, range(start), 340, -4, 1) + walk(1, range(stop, 80), 340, -4, 2)
    assert people_of(link_tracks(table(seen)), seen) == {0: {0}, 1: {1}}
    by_place = people_of(link_tracks(table(seen, embedded=False)), seen)
    assert by_place == ({0: {0}, 1: {1}} if covered < 10 else {0: {0}, 1: {1}, 2: {1}})


def test_half_a_face_is_whose_way_it_lies_in() -> None:
    """Coming out from behind the other, it looks like nobody, and gets a number of its own from the finder."""
    half = {43, 44}
    seen = walk(0, range(80), 20, 4, 0) + walk(1, range(36), 340, -4, 1) + walk(1, range(45, 80), 340, -4, 3)
    seen += [Seen(i, 5, 340 - 4 * i, 2) for i in half]
    tracks = link_tracks(table(seen))
    assert people_of(tracks, seen) == {0: {0}, 1: {1, 5}}


def test_a_track_that_slips_onto_the_face_in_front_is_split_there() -> None:
    """The one behind is lost; its number goes on with the one in front, who gets a new one, and later comes back."""
    seen = [
        *(Seen(i, 0, 20 + 4 * i, 0 if i < 35 else 1) for i in range(80)),
        *walk(1, range(35), 340, -4, 1),
        *walk(1, range(46, 80), 340, -4, 2),
    ]
    assert people_of(link_tracks(table(seen)), seen) == {0: {0}, 1: {1}}


def test_a_face_that_changes_its_looks_with_nobody_near_stays() -> None:
    """A hand before the face: the embedding becomes another one, and nobody came."""
    seen = [Seen(i, 0 if i < 30 or i > 50 else 3, 20 + i, 0) for i in range(80)]
    assert set(link_tracks(table(seen)).tolist()) == {0}


@pytest.mark.parametrize(("gap", "one"), [(10, True), (50, True), (51, False)])
def test_who_comes_back_elsewhere_is_known_for_as_long_as_is_remembered(gap: int, one: bool) -> None:
    seen = walk(0, range(20), 20, 0, 0) + walk(0, range(20 + gap, 60 + gap), 300, 0, 1)
    assert (len(set(link_tracks(table(seen), memory=50).tolist())) == 1) == one


def test_another_person_in_the_same_place_is_another_track() -> None:
    seen = walk(0, range(20), 20, 0, 0) + walk(1, range(21, 60), 20, 0, 1)
    assert people_of(link_tracks(table(seen)), seen) == {0: {0}, 1: {1}}


def test_a_cut_ends_all_tracks() -> None:
    """A, B, A: nobody is joined, and the finder's own number is no excuse."""
    seen = [Seen(i, 0 if i // 10 != 1 else 1, 20, 0) for i in range(30)]
    np.testing.assert_array_equal(link_tracks(table(seen), [10, 20]), np.repeat([0, 1, 2], 10))


def test_without_a_track_there_is_none() -> None:
    seen = [Seen(i, 0, 20, -1) for i in range(5)] + walk(1, range(5), 300, 0, 7)
    assert link_tracks(table(seen)).tolist() == [-1, 0] * 5
    assert link_tracks(Faces.empty()).shape == (0,)


people = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 25), st.integers(1, 30), st.integers(0, 400), st.integers(-9, 9)),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=60)
@given(people=people, cuts=st.sets(st.integers(1, 50), max_size=3), embedded=st.booleans(), seed=st.integers(0, 99))
def test_tracks_are_paths_whatever_comes(people: Any, cuts: set[int], embedded: bool, seed: int) -> None:
    """One row a frame, none through a cut, numbered by their beginnings; the finder's numbers are only names."""
    seen = [
        one
        for number, (who, first, count, x, speed) in enumerate(people)
        for one in walk(who, range(first, first + count), x, speed, number)
    ]
    faces = table(seen, embedded=embedded)
    tracks = link_tracks(faces, sorted(cuts))
    scene = np.searchsorted(sorted(cuts), faces.frame, side="right")
    for number in np.unique(tracks):
        rows = tracks == number
        assert len(np.unique(faces.frame[rows])) == rows.sum()
        assert len(np.unique(scene[rows])) == 1
    first = [int(np.flatnonzero(tracks == number)[0]) for number in range(tracks.max() + 1)]
    assert first == sorted(first)
    names = np.random.default_rng(seed).permutation(100)[: len(people)].astype(np.int32)
    np.testing.assert_array_equal(link_tracks(faces.with_columns(track=names[faces.track]), sorted(cuts)), tracks)


# -------------------------------------------------------------------------------------------------------------- gaps


def test_a_short_gap_is_filled_on_the_way() -> None:
    seen = [one for one in walk(0, range(30), 20, 3, 0) if not 10 <= one.frame < 14]
    whole = fill_gaps(table(seen), {i: 10 * i for i in range(30)}, 4)
    assert whole.frame.tolist() == list(range(30))
    assert whole.pts.tolist() == [10 * i for i in range(30)]
    filled = whole.flags & Flag.FILLED != 0
    assert np.flatnonzero(filled).tolist() == [10, 11, 12, 13]
    np.testing.assert_allclose(whole.landmarks, FACE + (whole.frame[:, None, None] * [3, 0] + [20, 50]), atol=1e-3)
    np.testing.assert_allclose(whole.box[:, 0], 20 + 3 * whole.frame, atol=1e-3)
    assert np.isnan(whole.embedding[filled]).all()
    assert np.isnan(whole.score[filled]).all()
    assert not np.isnan(whole.embedding[~filled]).any()
    assert set(whole.track.tolist()) == {0}


def test_a_guess_from_landmarks_that_misfit_is_flagged_so() -> None:
    faces = table([one for one in walk(0, range(20), 20, 3, 0) if one.frame not in {8, 14}])
    flags = faces.flags.copy()
    flags[faces.frame == 7] = Flag.MISFIT
    whole = fill_gaps(faces.with_columns(flags=flags), {i: i for i in range(20)}, 4)
    assert whole.flags[[8, 14]].tolist() == [Flag.FILLED | Flag.MISFIT, Flag.FILLED]


@pytest.mark.parametrize(
    ("missing", "speed", "most", "why"),
    [(5, 3.0, 4, "longer"), (3, 40.0, 4, "faster than a guess may be"), (3, 3.0, 0, "off")],
)
def test_a_gap_that_is_not_filled(missing: int, speed: float, most: int, why: str) -> None:
    faces = table([one for one in walk(0, range(30), 20, speed, 0) if not 10 <= one.frame < 10 + missing])
    assert fill_gaps(faces, {i: i for i in range(30)}, most) is faces, why


def test_frames_that_nobody_looked_at_are_not_filled() -> None:
    faces = table([one for one in walk(0, range(0, 30, 2), 20, 3, 0) if one.frame != 10])
    whole = fill_gaps(faces, {i: i for i in range(0, 30, 2)}, 4)
    assert whole.frame.tolist() == list(range(0, 30, 2))


def test_who_is_hidden_by_another_face_is_not_drawn_over_it() -> None:
    """The gap lies under the other face but for its first two frames and its last two."""
    seen = walk(0, range(30), 0, 0, 0, y=50) + [
        Seen(i, 1, x, 1) for i, x in enumerate(np.linspace(150, -150, 30)) if not 9 < i < 20
    ]
    whole = fill_gaps(table(seen), {i: i for i in range(30)}, 20)
    filled = whole.flags & Flag.FILLED != 0
    assert whole.frame[filled].tolist() == [10, 11, 18, 19]


def test_filled_faces_are_numbered_by_size_like_all_others() -> None:
    seen = walk(0, range(20), 20, 1, 0) + [one for one in walk(1, range(20), 300, 1, 1) if one.frame != 7]
    faces = table(seen)
    box = faces.box.copy()
    box[faces.track == 1, 2:] += 20
    whole = fill_gaps(faces.with_columns(box=box), {i: i for i in range(20)}, 3)
    here = whole[whole.frame == 7]
    assert here.face.tolist() == [0, 1]
    assert here.track.tolist() == [1, 0]
    assert (here.flags == [Flag.FILLED, 0]).all()


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(st.floats(-100, 100, width=32).map(lambda x: round(x, 3)), min_size=4, max_size=4),
    line=st.floats(-5, 5),
)
def test_between_stays_between(values: list[float], line: float) -> None:
    times = np.array([0.0, 1, 5, 6])
    at = np.linspace(1, 5, 9)
    found = between(np.array(values), times, at)
    low, high = sorted(values[1:3])
    assert (found >= low - 1e-9).all()
    assert (found <= high + 1e-9).all()
    np.testing.assert_allclose(between(line * times + 3, times, at), line * at + 3, atol=1e-9)


def test_filled_faces_are_swapped_and_never_learned_from() -> None:
    seen = [one for one in walk(0, range(30), 20, 3, 0) if not 10 <= one.frame < 14]
    whole = fill_gaps(table(seen), {i: i for i in range(30)}, 8)
    every = np.ones(30, bool)
    assert rows_to_swap(whole, every, SwapConfig()).all()
    assert rows_to_swap(whole, every, SwapConfig(skip=("filled",))).sum() == 26
    bank = SourceBank.build([whole], [np.zeros((30, 8, 8, 3), np.uint8)], [every])
    assert set(range(10, 14)).isdisjoint(bank.faces.frame.tolist())
    assert len(bank.faces) == 26


def test_smoothing_knows_nothing_of_filled_faces_and_lays_them_anew() -> None:
    rng = np.random.default_rng(3)
    seen = [one for one in walk(0, range(40), 20, 3, 0) if not 15 <= one.frame < 18]
    faces = table(seen)
    faces = faces.with_columns(
        landmarks=faces.landmarks + rng.normal(0, 0.3, faces.landmarks.shape).astype(np.float32)
    )
    whole = fill_gaps(faces, {i: 10 * i for i in range(40)}, 8)
    filled = whole.flags & Flag.FILLED != 0
    steady = steady_faces(whole, 1.0)
    np.testing.assert_array_equal(steady[~filled].landmarks, steady_faces(faces, 1.0).landmarks)
    truth = FACE + (whole.frame[filled][:, None, None] * [3, 0] + [20, 50])
    shake = [np.abs(one.landmarks[filled] - truth).mean() for one in (whole, steady)]
    assert shake[1] < 0.8 * shake[0]


# -------------------------------------------------------------------------------------------------------------- cuts


def cuts_of(frames: Sequence[Image]) -> list[int]:
    finder = CutFinder()
    for frame in frames:
        finder.see(frame)
    return finder.cuts()


def frames_of(path: Path, stop: int, *, start: int = 0) -> list[Image]:
    with open_clip(path, start=start, stop=stop) as reader:
        return [frame.image for frame in reader]


def fitted(frames: Sequence[Image], size: tuple[int, int]) -> list[Image]:
    return [np.asarray(cv2.resize(one, size[::-1], interpolation=cv2.INTER_AREA), np.uint8) for one in frames]


@pytest.mark.models
class TestCuts:
    def test_two_clips_one_after_the_other_and_back(self, clip_path: ClipPath) -> None:
        man = frames_of(clip_path("single_face.mp4"), 24)
        woman = frames_of(clip_path("WolfgangLanger_Pexels.mp4"), 12)
        car = fitted(frames_of(clip_path("carphone_pristine.mp4"), 12), man[0].shape[:2])
        assert cuts_of(man[:12] + woman + man[12:]) == [12, 24]
        assert cuts_of(woman + car + man) == [12, 24]

    def test_a_title_card(self, clip_path: ClipPath) -> None:
        """The file has one blended frame at 72."""
        assert cuts_of(frames_of(clip_path("face_noface.mov"), 100)) == [72, 73]

    def test_hands_and_grimaces_are_none(self, clip_path: ClipPath) -> None:
        assert cuts_of(frames_of(clip_path("WolfgangLanger_Pexels.mp4"), 472)) == []

    @pytest.mark.parametrize("length", [1, 2])
    @pytest.mark.parametrize("strength", [0.5, 0.95])
    def test_a_flash_is_none(self, clip_path: ClipPath, length: int, strength: float) -> None:
        frames = frames_of(clip_path("single_face.mp4"), 30)
        for i in range(14, 14 + length):
            frames[i] = (frames[i] * (1 - strength) + 255 * strength).astype(np.uint8)
        assert cuts_of(frames) == []

    @pytest.mark.parametrize("speed", [8, 25, 60])
    def test_a_fast_pan_is_none(self, clip_path: ClipPath, speed: int) -> None:
        """From rest to full speed at once over a real picture, which is repeated mirrored for as long as it takes."""
        picture = frames_of(clip_path("WolfgangLanger_Pexels.mp4"), 1)[0]
        wide = np.concatenate([picture, picture[:, ::-1]] * 3, axis=1)
        at = np.concatenate([np.zeros(10), np.arange(20)]).astype(int) * speed
        assert cuts_of([np.ascontiguousarray(wide[:, x : x + 640]) for x in at]) == []

    def test_a_fade_of_the_light_is_none(self, clip_path: ClipPath) -> None:
        picture = frames_of(clip_path("single_face.mp4"), 1)[0]
        assert cuts_of([(picture * level).astype(np.uint8) for level in np.linspace(1, 0.1, 25)]) == []


# ----------------------------------------------------------------------------------------------- real faces that cross


_PATCH = 200
_SIZE = (360, 640)


def cut_outs(frames: Sequence[Image], box: NDArray[np.float32]) -> list[Image]:
    """The face of each frame in a square of `_PATCH`, as it is at `box` in the first."""
    scale = _PATCH / (1.7 * float(box[3] - box[1]))
    matrix = np.array([[scale, 0, _PATCH / 2], [0, scale, _PATCH / 2]])
    matrix[:, 2] -= scale * (box[:2] + box[2:]) / 2
    return [
        np.asarray(cv2.warpAffine(one, matrix, (_PATCH, _PATCH), borderMode=cv2.BORDER_REPLICATE), np.uint8)
        for one in frames
    ]


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(DetectConfig(embedder="sface"))


@pytest.fixture(scope="module")
def faces(models: Models, clip_path: ClipPath) -> dict[str, list[Image]]:
    """The moving faces of the man and of the woman, 48 frames each."""
    clips = {"man": ("single_face.mp4", 8), "woman": ("WolfgangLanger_Pexels.mp4", 0)}
    found = {}
    for who, (name, start) in clips.items():
        frames = frames_of(clip_path(name), start + 48, start=start)
        found[who] = cut_outs(frames, models.detector.detect(frames[0]).boxes[0])
    return found


@dataclass(frozen=True)
class Way:
    """Where the left upper corner of each patch is, by frame: (T, 2) of the face in front and of the one behind."""

    front: NDArray[np.int64]
    behind: NDArray[np.int64]

    @classmethod
    def of(cls, kind: str, speed: int) -> Way:
        t = np.arange(48) - 24
        level = np.full(48, 70)
        moves = {
            "pass": (-speed * t, speed * t, level),
            "turn back": (-speed * abs(t), speed * abs(t), level),
            "walk past": (speed * t, 0 * t, level),
            "overtake": (speed * t, speed * t // 3, level),
            "pass below": (-speed * t, speed * t, level + 75),
        }
        front, behind, y = moves[kind]
        return cls(np.stack([220 + front, level], 1), np.stack([220 + behind, y], 1))


def composed(front: Sequence[Image], behind: Sequence[Image], way: Way) -> Iterator[Any]:
    """Frames in which one oval face moves before the other."""
    y, x = np.mgrid[:_PATCH, :_PATCH] - (_PATCH - 1) / 2
    oval = np.clip((1 - np.hypot(x / 78, y / 98)) * 12, 0, 1)[..., None]
    for i in range(len(way.front)):
        image = np.full((*_SIZE, 3), (90, 110, 100), np.uint8)
        for patch, (left, top) in ((behind[i], way.behind[i]), (front[i], way.front[i])):
            a, b = max(0, left), min(_SIZE[1], left + _PATCH)
            if a < b:
                own, region = slice(a - left, b - left), image[top : top + _PATCH, a:b]
                region[:] = oval[:, own] * patch[:, own] + (1 - oval[:, own]) * region
        yield Frame(i, i, Fraction(i, 25), image)


def who_is_who(table: Faces, way: Way) -> NDArray[np.int64]:
    """(N,) 0 for the face in front, 1 for the one behind, by place; -1 where they are too near to tell."""
    centre = (table.box[:, :2] + table.box[:, 2:]) / 2
    apart = [np.linalg.norm(centre - (path[table.frame] + _PATCH / 2), axis=1) for path in (way.front, way.behind)]
    return np.where(np.abs(apart[0] - apart[1]) < 15, -1, np.argmin(apart, axis=0))


@pytest.mark.models
@pytest.mark.parametrize("stride", [1, 5])
@pytest.mark.parametrize(
    ("kind", "speed", "front"),
    [
        ("pass", 5, "man"),
        ("turn back", 9, "woman"),
        pytest.param("pass", 3, "woman", marks=pytest.mark.slow),
        pytest.param("pass", 16, "woman", marks=pytest.mark.slow),
        pytest.param("turn back", 5, "man", marks=pytest.mark.slow),
        pytest.param("walk past", 12, "woman", marks=pytest.mark.slow),
        pytest.param("walk past", 12, "man", marks=pytest.mark.slow),
        pytest.param("overtake", 9, "man", marks=pytest.mark.slow),
        pytest.param("pass below", 9, "man", marks=pytest.mark.slow),
        pytest.param("pass below", 5, "woman", marks=pytest.mark.slow),
    ],
)
def test_two_people_who_cross_keep_their_tracks(
    models: Models, faces: dict[str, list[Image]], kind: str, speed: int, front: str, stride: int
) -> None:
    """No switch and no second number: with the truth at hand, each person is one track."""
    way = Way.of(kind, speed)
    behind = "woman" if front == "man" else "man"
    frames = composed(faces[front], faces[behind], way)
    found = detect_faces(frames, models, DetectConfig(stride=stride, embedder="sface"), LimitsConfig(), _SIZE)
    truth = who_is_who(found, way)
    tracks = [set(found.track[truth == who].tolist()) for who in (0, 1)]
    assert [len(one) for one in tracks] == [1, 1]
    assert tracks[0] != tracks[1]
    # Landmarks that slipped onto the face in front are told: nobody is swapped onto the other.
    extent = (found.landmarks.min(1) + found.landmarks.max(1)) / 2
    aside = np.abs(extent - (found.box[:, :2] + found.box[:, 2:]) / 2)[:, 0] / (found.box[:, 2] - found.box[:, 0])
    inside = found.flags & Flag.CUT_OFF == 0
    assert (aside[rows_to_swap(found, inside, SwapConfig())] < 0.2).all()
    # Both are seen most of the time: tracks that stay because faces are lost would be worth nothing.
    shown = [int(((path[:, 0] > -60) & (path[:, 0] < 500)).sum()) for path in (way.front, way.behind)]
    counts = [int((truth == who).sum()) for who in (0, 1)]
    assert counts[0] >= 0.75 * shown[0]
    assert counts[1] >= 0.45 * shown[1]


@pytest.mark.models
def test_a_cut_from_one_person_to_another_and_back(models: Models, clip_path: ClipPath) -> None:
    """Same place, same size, and the finder may go on: the tracks do not, and crops are not smoothed over the cut."""
    man = frames_of(clip_path("single_face.mp4"), 24)
    woman = frames_of(clip_path("WolfgangLanger_Pexels.mp4"), 12)
    frames = [Frame(i, i, Fraction(i, 25), one) for i, one in enumerate(man[:12] + woman + man[12:])]
    config = DetectConfig(embedder="sface")
    found = detect_faces(frames, models, config, LimitsConfig(), man[0].shape[:2])
    np.testing.assert_array_equal(found.frame, np.arange(36))
    np.testing.assert_array_equal(found.track, np.repeat([0, 1, 2], 12))
    apart = [np.abs(steady_faces(part, 1.0).landmarks - part.landmarks).max() for part in (found, found[:12])]
    assert apart[0] < 3 * apart[1] + 1


class Blinking:
    """The detector, blind in some frames; it knows them by their first pixel."""

    def __init__(self, detector: Any, blind: range) -> None:
        self._detector = detector
        self._blind = blind

    def detect(self, image: Image) -> Detections:
        found: Detections = self._detector.detect(image)
        return Detections(found.boxes[:0], found.scores[:0]) if image[0, 0, 0] in self._blind else found


_GAP = range(13, 17)


def numbered(pictures: Sequence[Image]) -> Any:
    for i, one in enumerate(pictures):
        one[0, 0] = i
        yield Frame(i, 10 * i, Fraction(i, 25), one)


@pytest.mark.models
@pytest.mark.parametrize("stride", [1, 5])
@pytest.mark.parametrize("covered", [False, True])
def test_a_face_that_is_not_found_for_some_frames_is_filled_in(
    models: Models, clip_path: ClipPath, stride: int, covered: bool
) -> None:
    """Missed by the detector: in its place. Hidden by a board: told to be so, and not swapped by default."""
    images = frames_of(clip_path("single_face.mp4"), 30)
    size = images[0].shape[:2]
    config = DetectConfig(embedder="sface", stride=stride)
    whole = detect_faces(numbered(images), models, config, LimitsConfig(), size)
    if covered:
        left, top, right, bottom = (int(edge) for edge in whole.box[_GAP[0]])
        for i in _GAP:
            images[i][top - 40 : bottom + 20, left - 30 : right + 30] = 40
    blinking: Any = Blinking(models.detector, _GAP)
    found = detect_faces(
        numbered(images), Models(blinking, models.landmarker, models.embedder), config, LimitsConfig(), size
    )
    found = align_faces(numbered(images), found, AlignConfig(size=96), LimitsConfig(), lambda _: None)
    filled = found.flags & Flag.FILLED != 0
    assert found.frame.tolist() == list(range(30))
    assert found.frame[filled].tolist() == list(_GAP)
    assert set(found.track.tolist()) == {0}
    assert found.pts[filled].tolist() == [10 * i for i in _GAP]
    eyes = np.linalg.norm(whole.landmarks[13, 45] - whole.landmarks[13, 36])
    assert np.linalg.norm(found.landmarks - whole.landmarks, axis=-1)[filled].mean() < 0.05 * eyes
    assert np.abs(found.yaw - whole.yaw)[filled].max() < 4
    swapped = rows_to_swap(found, np.ones(30, bool), SwapConfig())
    assert np.flatnonzero(~swapped).tolist() == (list(_GAP) if covered else [])
    assert not found.trusted[filled].any()
    assert found.trusted[~filled].all()
