"""What is in front of a face stays in front: hands of a real clip, and bars pasted over another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.backends.landmarkers import FACE_OVAL
from facepipe.composite import Patch
from facepipe.image import hull_mask, polygon_mask
from facepipe.methods.occlusion import Occlusion, WithOcclusion
from facepipe.methods.own_face import FaceModel
from facepipe.methods.plan import Record
from facepipe.types import Faces, Image

pytestmark = pytest.mark.models

Bools = NDArray[np.bool_]
Crops = NDArray[np.uint8]
Gather = Callable[..., tuple[Faces, Crops, dict[int, Image]]]

# Frames of WolfgangLanger_Pexels.mp4 with a hand, drawn around by eye (to about 2 pixels), in pixels of the frame.
# Frame 66: the fist at the chin; 81: at the mouth; 96, moving, and 120: over the nose; the others: on the cheek.
HANDS: dict[int, list[list[tuple[int, int]]]] = {
    66: [
        [
            (307, 286),
            (339, 273),
            (361, 264),
            (374, 257),
            (383, 256),
            (390, 261),
            (403, 266),
            (425, 273),
            (436, 282),
            (445, 289),
            (452, 299),
            (446, 304),
            (436, 305),
            (422, 300),
            (406, 292),
            (413, 315),
            (418, 329),
            (307, 329),
        ],
    ],
    81: [
        [
            (316, 309),
            (332, 304),
            (346, 292),
            (358, 280),
            (370, 269),
            (379, 261),
            (387, 257),
            (399, 260),
            (410, 266),
            (426, 268),
            (440, 272),
            (450, 277),
            (465, 285),
            (472, 292),
            (465, 297),
            (454, 299),
            (442, 296),
            (426, 291),
            (399, 291),
            (394, 299),
            (422, 299),
            (429, 309),
            (437, 324),
            (445, 339),
            (452, 360),
            (303, 360),
            (308, 328),
        ],
    ],
    96: [
        [
            (321, 289),
            (326, 268),
            (341, 238),
            (364, 213),
            (385, 203),
            (401, 194),
            (420, 190),
            (435, 190),
            (439, 198),
            (439, 203),
            (433, 212),
            (427, 222),
            (401, 242),
            (383, 258),
            (381, 262),
            (399, 252),
            (424, 233),
            (439, 222),
            (460, 218),
            (462, 228),
            (458, 237),
            (439, 250),
            (424, 272),
            (407, 284),
            (401, 297),
            (407, 295),
            (428, 277),
            (447, 258),
            (462, 254),
            (463, 265),
            (455, 281),
            (447, 292),
            (439, 304),
            (425, 324),
            (416, 343),
            (409, 364),
            (321, 364),
        ],
    ],
    120: [
        [
            (325, 315),
            (337, 294),
            (348, 271),
            (356, 248),
            (372, 235),
            (386, 219),
            (399, 204),
            (410, 192),
            (416, 180),
            (424, 173),
            (432, 177),
            (438, 189),
            (439, 196),
            (446, 197),
            (448, 207),
            (446, 227),
            (439, 243),
            (432, 258),
            (420, 282),
            (406, 304),
            (394, 337),
            (406, 325),
            (412, 310),
            (420, 299),
            (434, 286),
            (440, 272),
            (451, 259),
            (465, 251),
            (471, 255),
            (471, 264),
            (461, 286),
            (453, 299),
            (440, 321),
            (434, 342),
            (427, 363),
            (325, 363),
        ],
    ],
    153: [
        [
            (305, 360),
            (315, 305),
            (322, 252),
            (329, 220),
            (337, 198),
            (342, 189),
            (352, 191),
            (357, 201),
            (357, 217),
            (362, 203),
            (366, 185),
            (373, 175),
            (388, 177),
            (392, 187),
            (395, 201),
            (394, 217),
            (392, 241),
            (388, 268),
            (383, 289),
            (390, 276),
            (398, 254),
            (405, 236),
            (412, 230),
            (418, 233),
            (420, 246),
            (417, 265),
            (412, 284),
            (407, 305),
            (403, 360),
        ],
    ],
    177: [
        [
            (285, 360),
            (299, 294),
            (323, 246),
            (334, 222),
            (339, 206),
            (346, 201),
            (353, 207),
            (355, 218),
            (361, 214),
            (366, 201),
            (372, 187),
            (377, 184),
            (384, 190),
            (387, 199),
            (392, 199),
            (401, 202),
            (406, 211),
            (406, 225),
            (404, 243),
            (400, 262),
            (391, 294),
            (385, 360),
        ],
        [(425, 294), (441, 269), (453, 267), (456, 277), (449, 288), (424, 323), (402, 360), (380, 360), (387, 323)],
    ],
    216: [
        [
            (295, 360),
            (305, 298),
            (316, 277),
            (332, 245),
            (343, 218),
            (351, 203),
            (359, 201),
            (365, 209),
            (366, 221),
            (373, 215),
            (380, 197),
            (386, 187),
            (394, 187),
            (400, 197),
            (402, 206),
            (408, 202),
            (419, 206),
            (423, 218),
            (422, 234),
            (418, 255),
            (412, 274),
            (404, 298),
            (395, 360),
        ],
        [
            (444, 298),
            (450, 288),
            (453, 276),
            (463, 273),
            (468, 281),
            (466, 292),
            (437, 330),
            (414, 360),
            (390, 360),
            (407, 330),
        ],
    ],
    225: [
        [
            (290, 360),
            (304, 296),
            (327, 270),
            (345, 243),
            (355, 227),
            (362, 213),
            (371, 208),
            (378, 211),
            (380, 221),
            (374, 238),
            (385, 224),
            (393, 211),
            (403, 201),
            (414, 203),
            (420, 213),
            (416, 228),
            (406, 246),
            (393, 267),
            (406, 260),
            (420, 244),
            (430, 235),
            (441, 229),
            (449, 232),
            (450, 246),
            (442, 262),
            (436, 276),
            (402, 342),
            (398, 360),
        ],
        [(476, 305), (457, 323), (420, 360), (402, 360), (417, 330), (457, 302)],
    ],
}
# Weeping, blinking, laughing, turned, and at the end bent down as in no frame before: nothing in front.
BARE = (0, 21, 30, 54, 240, 288, 330, 387, 417, 441, 456, 462, 468)


def everyone(faces: Faces) -> Bools:
    return np.ones(len(faces), bool)


def learn(faces: Faces, crops: Crops, rows: Bools) -> Occlusion | None:
    return Occlusion.learn(faces, list(crops), rows)


def hull(faces: Faces, row: int, size: int) -> Bools:
    outline = geometry.apply(faces.frame_to_crop[row], faces.mesh[row, FACE_OVAL, :2])
    return np.asarray(hull_mask(outline, (size, size)) > 0.5)


def overlap(a: Bools, b: Bools) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


@pytest.fixture(scope="module")
def man(clip_path: Callable[[str], Path], faces_of: Gather) -> tuple[Faces, Crops]:
    return faces_of(clip_path("single_face.mp4"), range(72))[:2]


# ------------------------------------------------------------------------------------------------------- a real hand


@pytest.mark.slow
def test_a_hand_is_found_and_expressions_are_not(clip_path: Callable[[str], Path], faces_of: Gather) -> None:
    faces, crops, _ = faces_of(clip_path("WolfgangLanger_Pexels.mp4"), range(0, 472, 3))
    known = learn(faces, crops, everyone(faces))
    assert known is not None
    size = crops.shape[1]
    row_of = {int(frame): row for row, frame in enumerate(faces.frame)}
    overlaps, found, false = [], [], []
    for frame, polygons in HANDS.items():
        row = row_of[frame]
        placed = [geometry.apply(faces.frame_to_crop[row], np.asarray(one, float)) for one in polygons]
        inside = hull(faces, row, size) & (crops[row].max(2) > 0)
        hand = np.any([polygon_mask(one, (size, size)) > 0.5 for one in placed], axis=0) & inside
        front = (known.visible(row) < 0.5) & inside
        overlaps.append(overlap(hand, front))
        found.append((hand & front).sum() / hand.sum())
        false.append((front & ~hand).sum() / (inside & ~hand).sum())
    assert np.mean(overlaps) > 0.65
    assert np.min(overlaps) > 0.5
    assert np.mean(found) > 0.85
    assert np.mean(false) < 0.12
    for frame in BARE:
        assert known.front(row_of[frame]) is None, frame


# ------------------------------------------------------------------------------------------------- things pasted over


@pytest.mark.parametrize("color", [(200, 150, 130), (30, 30, 30), (60, 120, 60)], ids=["skin", "black", "green"])
def test_a_moving_bar_is_found(man: tuple[Faces, Crops], color: tuple[int, int, int]) -> None:
    faces, clean = man
    crops, bars, size = clean.copy(), {}, clean.shape[1]
    rng = np.random.default_rng(0)
    for i, row in enumerate(range(20, 45)):
        y, x = np.nonzero(hull(faces, row, size))
        left, width = int(x.min() + np.ptp(x) * (0.1 + 0.025 * i)), int(0.18 * np.ptp(x))
        bar = np.zeros((size, size), bool)
        bar[int(y.min() + 0.45 * np.ptp(y)) :, left : left + width] = True
        crops[row][bar] = np.rint(color + rng.normal(0, 3, (bar.sum(), 3)))
        bars[row] = bar
    known = learn(faces, crops, everyone(faces))
    assert known is not None
    overlaps = []
    for row in range(len(faces)):
        front = (known.visible(row) < 0.5) & hull(faces, row, size)
        if row in bars:
            overlaps.append(overlap(front, bars[row] & hull(faces, row, size)))
        elif row - 1 not in bars and row + 1 not in bars:
            assert not front.any(), row
    assert np.mean(overlaps) > 0.65
    assert np.min(overlaps) > 0.4


def test_nothing_is_found_where_nothing_is(man: tuple[Faces, Crops]) -> None:
    faces, crops = man
    known = learn(faces, crops, everyone(faces))
    assert known is not None
    assert all(known.front(row) is None for row in range(len(faces)))
    np.testing.assert_array_equal(known.visible(0), np.ones(crops.shape[1:3], np.float32))


def test_other_light_is_nothing_in_front(man: tuple[Faces, Crops]) -> None:
    faces, crops = man
    lit = crops.copy()
    lit[30:40] = np.rint(0.7 * lit[30:40])
    lit[50:60] = np.rint(np.minimum(lit[50:60] * np.array([1.15, 1.0, 0.85]), 255))
    known = learn(faces, lit, everyone(faces))
    assert known is not None
    assert all(known.front(row) is None for row in range(len(faces)))


def bar_on(faces: Faces, crops: Crops, rows: range, opacity: float = 1.0) -> Crops:
    """The crops, with a bar from below to the nose in some rows."""
    covered, size = crops.copy(), crops.shape[1]
    for row in rows:
        y, x = np.nonzero(hull(faces, row, size))
        place = (row, slice(int(y.min() + 0.45 * np.ptp(y)), None), slice(int(x.mean()) - 14, int(x.mean()) + 15))
        covered[place] = np.rint((1 - opacity) * covered[place] + opacity * np.array([60, 120, 60]))
    return covered


def test_what_is_faint_is_found_beside_frames_where_it_is_not(man: tuple[Faces, Crops]) -> None:
    """A hand that comes or goes is blurred: half of it is background."""
    faces, clean = man
    faint = bar_on(faces, clean, range(19, 20), 0.3)
    known = learn(faces, faint, everyone(faces))
    assert known is not None
    assert known.front(19) is None  # by itself it is nothing
    known = learn(faces, bar_on(faces, faint, range(20, 26)), everyone(faces))
    assert known is not None
    front = (known.visible(19) < 0.5) & hull(faces, 19, clean.shape[1])
    bar = (faint[19] != clean[19]).any(-1) & hull(faces, 19, clean.shape[1])
    assert overlap(front, bar) > 0.4
    assert known.front(16) is None


def test_other_people_between_the_rows_change_nothing(man: tuple[Faces, Crops]) -> None:
    faces, clean = man
    crops = bar_on(faces, clean, range(20, 40))
    known = learn(faces, crops, everyone(faces))
    assert known is not None
    twice = np.repeat(np.arange(len(faces)), 2)  # a second face in each frame, of another track
    mine = np.arange(len(twice)) % 2 == 0
    both = faces[twice].with_columns(
        track=np.where(mine, faces.track[twice], 99).astype(np.int32), face=(~mine).astype(np.int32)
    )
    stacked = crops[twice]
    stacked[~mine] = 128
    among = Occlusion.learn(both, list(stacked), mine)
    assert among is not None
    for row in (18, 19, 20, 30, 39, 40, 50):
        np.testing.assert_array_equal(among.visible(2 * row), known.visible(row))


def test_the_hidden_share_of_a_face(man: tuple[Faces, Crops]) -> None:
    faces, crops = man[0], bar_on(*man, range(20, 40))
    known = learn(faces, crops, everyone(faces))
    assert known is not None
    assert 0.05 < known.hidden(30) < 0.4
    assert known.hidden(60) == 0.0


def test_what_is_learned_is_kept(man: tuple[Faces, Crops], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faces, crops = man[0], bar_on(*man, range(20, 40))
    kept = tmp_path / "occlusion.npz", "one"
    first = Occlusion.learn(faces, list(crops), everyone(faces), kept=kept)
    fits: list[int] = []
    fit = FaceModel.fit

    def counted(*parts: Any) -> FaceModel:
        fits.append(1)
        return fit(*parts)

    monkeypatch.setattr(FaceModel, "fit", counted)
    again = Occlusion.learn(faces, list(crops), everyone(faces), kept=kept)
    assert first is not None
    assert again is not None
    assert not fits
    for row in (10, 25):
        np.testing.assert_array_equal(again.visible(row), first.visible(row))
    assert Occlusion.learn(faces, list(crops), everyone(faces), kept=(kept[0], "other")) is not None
    kept[0].write_bytes(kept[0].read_bytes()[:-100])  # damaged
    assert Occlusion.learn(faces, list(crops), everyone(faces), kept=kept) is not None
    assert len(fits) == 2
    assert FaceModel.read(*kept) is not None


def test_doubt_grows_with_what_was_never_seen(man: tuple[Faces, Crops]) -> None:
    known = learn(*man, everyone(man[0]))
    assert known is not None
    model, codes = known._model, known.codes
    doubts = np.array([model.doubt(code) for code in codes])
    assert (doubts >= 1).all()
    assert np.median(doubts) == 1
    away = codes.mean(0) + np.outer(np.arange(2, 8), codes[40] - codes.mean(0))
    assert (np.diff([model.doubt(code.astype(np.float32)) for code in away]) > 0).all()


def test_too_few_faces_tell_nothing(man: tuple[Faces, Crops]) -> None:
    faces, crops = man
    assert learn(faces, crops, np.arange(len(faces)) < 29) is None
    assert learn(faces[:0], crops[:0], np.empty(0, bool)) is None


# ---------------------------------------------------------------------------------------------------------- the plan


class _White:
    """A plan whose patches are the target's crops, all white."""

    batch = 4

    def __init__(self, faces: Faces, size: int) -> None:
        self.faces = faces
        self._size = size

    def patches(self, rows: list[int], frames: list[Image]) -> list[Patch | None]:
        white = np.full((self._size, self._size, 3), 255, np.uint8)
        mask = np.ones((self._size, self._size), np.float32)
        return [None if row == 3 else Patch(white, mask, self.faces.frame_to_crop[row]) for row in rows]

    def record(self, row: int) -> Record:
        return Record(row)


def test_the_plan_leaves_the_bar_free(man: tuple[Faces, Crops]) -> None:
    faces, crops = man[0], man[1].copy()
    size = crops.shape[1]
    crops[20:40, size // 2 :, size // 2 - 10 : size // 2 + 12] = (60, 120, 60)
    known = learn(faces, crops, everyone(faces))
    assert known is not None
    some = faces[10:40]  # a plan leaves out faces: its rows are not the clip's
    plan = WithOcclusion(_White(some, size), known)  # type: ignore[arg-type]
    assert plan.batch == 4
    assert plan.record(2) == Record(2)
    frames = [np.zeros((8, 8, 3), np.uint8)] * 30
    patches = plan.patches(range(30), frames)
    assert patches[3] is None
    assert patches[0] is not None
    assert patches[0].mask.all()
    for row in (12, 15, 18):
        patch, (alone,) = patches[row], plan.patches([row], frames[:1])
        assert patch is not None
        assert alone is not None
        np.testing.assert_array_equal(alone.mask, patch.mask)
        np.testing.assert_allclose(patch.mask, known.visible(10 + row), atol=1e-3)
        assert patch.mask[int(0.62 * size), size // 2] < 0.1
        assert patch.mask[int(0.3 * size), size // 2] == 1
