"""Swap method procrustes: the bank, the choice of source faces, the warp. On faces of real clips."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.config import SwapConfig
from facepipe.errors import NoFaceError
from facepipe.methods.bank import SourceBank, expression, frontal_shapes, mean_face
from facepipe.methods.plan import Record
from facepipe.methods.procrustes import (
    Overlay,
    Swapper,
    _mended,
    _steady_path,
    choose_sources,
    crossfade,
    plan_procrustes,
)
from facepipe.types import Faces, Flag

pytestmark = pytest.mark.models


Gather = Callable[..., tuple[Faces, NDArray[np.uint8], dict[int, NDArray[np.uint8]]]]


@dataclass(frozen=True)
class Person:
    """Faces of some frames of a clip, with their crops and frames."""

    faces: Faces
    crops: NDArray[np.uint8]
    images: dict[int, NDArray[np.uint8]]

    def bank(self, *, clutter: bool = True) -> SourceBank:
        bank = SourceBank.build([self.faces], [self.crops], [np.ones(len(self.faces), bool)])
        if not clutter:
            vars(bank)["clutter"] = np.zeros(len(bank.faces))
        return bank


@pytest.fixture(scope="module")
def man(clip_path: Callable[[str], Path], faces_of: Gather) -> Person:
    return Person(*faces_of(clip_path("single_face.mp4"), range(0, 72, 3)))


@pytest.fixture(scope="module")
def woman(clip_path: Callable[[str], Path], faces_of: Gather) -> Person:
    """The whole clip, thinned: hands before the face in frames 60 to 230, nothing from 240 on."""
    return Person(*faces_of(clip_path("WolfgangLanger_Pexels.mp4"), range(60, 460, 4)))


# ---------------------------------------------------------------------------------------------------------- the bank


def test_a_bank_holds_the_chosen_faces_that_can_be_trusted(man: Person, woman: Person) -> None:
    flags = man.faces.flags.copy()
    flags[2] = Flag.BLURRED
    tables = [man.faces.with_columns(flags=flags), woman.faces]
    rows = [np.arange(24) < 5, np.arange(len(woman.faces)) >= len(woman.faces) - 3]
    rows[1] &= woman.faces.trusted
    bank = SourceBank.build(tables, [man.crops, woman.crops], rows)
    assert bank.clip.tolist() == [0] * 4 + [1] * int(rows[1].sum())
    assert bank.faces.frame[:4].tolist() == [0, 3, 9, 12]
    np.testing.assert_array_equal(bank.crops[2], man.crops[3])
    assert bank.points.shape == (len(bank.clip), 468, 2)


def test_a_bank_without_a_usable_face(man: Person) -> None:
    flagged = man.faces.with_columns(flags=np.full(24, int(Flag.PROFILE), np.int32))
    with pytest.raises(NoFaceError, match="no usable source face: 24 found, all flagged"):
        SourceBank.build([flagged], [man.crops], [np.ones(24, bool)])
    with pytest.raises(NoFaceError, match="0 found"):
        SourceBank.build([man.faces], [man.crops], [np.zeros(24, bool)])


def test_a_very_long_clip_is_thinned_evenly(man: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facepipe.methods.bank._MOST", 8)
    bank = man.bank()
    assert len(bank.faces) == len(bank.crops) == 8
    assert bank.faces.frame[[0, -1]].tolist() == [0, 69]
    assert np.ptp(np.diff(bank.faces.frame)) <= 3


def test_frontal_shapes_have_no_pose(man: Person) -> None:
    """Moving, turning and scaling a face in space leaves its frontal shape and its expression."""
    rotation = geometry.euler_to_rotation(25.0, -10.0, 40.0)
    moved = man.faces.with_columns(mesh=(man.faces.mesh @ rotation.T * 1.7 + [30, 40, 5]).astype(np.float32))
    shapes = frontal_shapes(man.faces)
    assert shapes.shape == (24, 468, 3)
    np.testing.assert_allclose(frontal_shapes(moved), shapes, atol=1e-4)
    np.testing.assert_allclose(expression(frontal_shapes(moved)), expression(shapes), atol=0.02)


def test_landmarks_alone_do_too(man: Person) -> None:
    flat = man.faces.with_columns(mesh=np.empty((24, 0, 3), np.float32))
    assert mean_face(flat).shape == (68, 2)
    assert frontal_shapes(flat).shape == (24, 68, 2)
    assert np.isfinite(expression(frontal_shapes(flat))).all()
    assert frontal_shapes(flat[np.zeros(24, bool)]).shape == (0, 68, 2)


def test_clutter_ranks_covered_faces_above_clean_ones(woman: Person) -> None:
    """Area under the curve over all pairs of a hand-covered frame (60-230) and a clean one (from 240)."""
    trusted = woman.faces[woman.faces.trusted]
    clutter = woman.bank().clutter
    covered, clean = clutter[trusted.frame < 230], clutter[trusted.frame >= 240]
    assert len(covered) >= 15
    assert len(clean) >= 40
    auc = float((covered[:, None] > clean[None]).mean() + (covered[:, None] == clean[None]).mean() / 2)
    assert auc > 0.8
    assert np.median(clean) <= 0.25 * np.median(covered)
    assert clutter.min() >= 0


# -------------------------------------------------------------------------------------------------------- the choice


def test_a_face_chooses_itself(man: Person, woman: Person) -> None:
    """The bank has the very same face: nothing is nearer."""
    for person in (man, woman):
        bank = person.bank(clutter=False)
        np.testing.assert_array_equal(choose_sources(bank, bank.faces, steadiness=0.0), np.arange(len(bank.faces)))


def test_forbidden_pairs_are_not_used(man: Person) -> None:
    bank = man.bank()
    forbidden = np.abs(man.faces.frame[:, None] - bank.faces.frame[None]) <= 9
    chosen = choose_sources(bank, man.faces, steadiness=0.0, forbidden=forbidden)
    assert (chosen >= 0).all()
    assert not forbidden[np.arange(24), chosen].any()
    assert (choose_sources(bank, man.faces, forbidden=np.ones_like(forbidden)) == -1).all()


def test_a_frame_for_which_all_is_forbidden_does_not_spoil_the_others(man: Person) -> None:
    """One stretch of successive frames, with a hole in its middle."""
    bank = man.bank(clutter=False)
    target = man.faces.with_columns(frame=np.arange(24))
    forbidden = np.zeros((24, 24), bool)
    forbidden[[5, 6, 20]] = True
    chosen = choose_sources(bank, target, steadiness=0.0, forbidden=forbidden)
    np.testing.assert_array_equal(chosen, np.where(forbidden.all(1), -1, np.arange(24)))
    steady = choose_sources(bank, target, steadiness=1.0, forbidden=forbidden)
    np.testing.assert_array_equal(steady == -1, forbidden.all(1))


def test_steadiness_reduces_switches(man: Person, woman: Person) -> None:
    bank, target = man.bank(), woman.faces.with_columns(frame=np.arange(len(woman.faces)))
    switches = []
    for steadiness in (0.0, 1.0, 10.0, 1e6):
        chosen = choose_sources(bank, target, steadiness=steadiness)
        assert ((chosen >= 0) & (chosen < len(bank.faces))).all()
        switches.append(int((np.diff(chosen)[np.diff(target.track) == 0] != 0).sum()))
    assert switches == sorted(switches, reverse=True)
    assert switches[0] > 10
    assert switches[2] < switches[0] / 2
    assert switches[3] == 0


def test_a_gap_and_a_new_track_end_a_stretch_alike(man: Person, woman: Person) -> None:
    bank = man.bank()
    target = woman.faces[:20].with_columns(frame=np.r_[np.arange(10), np.arange(50, 60)])
    gap = choose_sources(bank, target, steadiness=5.0)
    two_tracks = target.with_columns(frame=np.arange(20), track=np.repeat([0, 1], 10).astype(np.int32))
    np.testing.assert_array_equal(choose_sources(bank, two_tracks, steadiness=5.0), gap)


def test_pose_decides_between_like_expressions(man: Person) -> None:
    bank = man.bank(clutter=False)
    turned = bank.faces.yaw.copy()
    turned[:] = np.linspace(-40, 40, len(turned))
    alike = np.full((len(turned), 2), 0.4, np.float32)
    wide = SourceBank(bank.faces.with_columns(yaw=turned, eyes=alike), bank.crops, bank.clip, bank.mean)
    vars(wide)["clutter"] = np.zeros(len(turned))
    target = man.faces.with_columns(yaw=np.full(24, 40, np.float32), eyes=alike)
    assert (turned[choose_sources(wide, target, steadiness=0.0)] > 10).all()


def test_clutter_is_avoided(man: Person) -> None:
    bank = man.bank(clutter=False)
    vars(bank)["clutter"] = np.where(np.arange(24) % 2, 1e6, 0.0)
    chosen = choose_sources(bank, man.faces, steadiness=0.0)
    assert not (chosen % 2).any()


def test_what_is_known_to_be_hidden_counts_for_what_is_guessed(man: Person) -> None:
    bank = man.bank()
    guessed, unknown = np.full(24, 0.4), np.full(24, np.nan)

    def clutter(shares: dict[int, float], *, step: int) -> NDArray[np.float64]:
        one = SourceBank(bank.faces.with_columns(frame=np.arange(24) * step), bank.crops, bank.clip, bank.mean)
        vars(one)["clutter"] = guessed
        told = unknown.copy()
        told[list(shares)] = list(shares.values())
        found = one.hiding(told).clutter
        assert one.clutter is guessed
        np.testing.assert_array_equal(np.delete(found, list(shares)), np.delete(guessed, list(shares)))
        return found[list(shares)]

    nothing, fingertip, hand = clutter({0: 0.0, 1: 0.02, 2: 0.3}, step=10)
    assert 0 < nothing < 0.2
    assert 2 < fingertip < hand < 4
    before, _, after, later = clutter({8: 0.0, 9: 0.1, 10: 0.0, 12: 0.0}, step=2)
    assert before == after == 2.0  # what comes and goes is blurred
    assert later == nothing


def test_open_eyes_are_not_given_lowered_ones(man: Person) -> None:
    """Faces that are alike but for the look of their eyes."""
    lowered = np.arange(24) % 2 == 1
    eyes = np.repeat(np.where(lowered, 0.25, 0.45)[:, None], 2, axis=1).astype(np.float32)
    same = man.faces[np.full(24, 5)].with_columns(frame=np.arange(24), eyes=eyes)
    bank = SourceBank.build([same], [man.crops], [np.ones(24, bool)])
    vars(bank)["clutter"] = np.zeros(24)
    np.testing.assert_array_equal(choose_sources(bank, same, steadiness=0.0) % 2, lowered)


def test_a_change_of_source_fades(man: Person) -> None:
    target = man.faces.with_columns(frame=np.arange(24))
    chosen = np.repeat([3, 7, 5], 8)
    chosen[20] = -1
    shares = crossfade(chosen, target, 2)
    assert shares[0] == shares[5] == {3: 1.0}
    assert shares[7] == {3: 3 / 5, 7: 2 / 5}
    assert shares[8] == {3: 2 / 5, 7: 3 / 5}
    assert shares[20] == {}
    assert shares[21] == {5: 1.0}
    assert all(sum(share.values()) == pytest.approx(1) for share in shares if share)
    assert crossfade(chosen, target, 0) == [{} if c < 0 else {c: 1.0} for c in chosen.tolist()]
    cut = target.with_columns(frame=np.r_[np.arange(8), np.arange(8, 24) + 100])
    assert crossfade(chosen, cut, 2)[7:9] == [{3: 1.0}, {7: 1.0}]
    tracks = target.with_columns(track=np.repeat([0, 1], [8, 16]).astype(np.int32))
    assert crossfade(chosen, tracks, 2)[7:9] == [{3: 1.0}, {7: 1.0}]


@settings(deadline=None, max_examples=60)
@given(
    frames=st.integers(1, 5),
    faces=st.integers(1, 4),
    steadiness=st.sampled_from([0.0, 0.5, 3.0]),
    seed=st.integers(0, 999),
)
def test_the_path_is_the_cheapest_of_all(frames: int, faces: int, steadiness: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost, feature = rng.uniform(0, 5, (frames, faces)), rng.normal(size=(faces, 3))

    def price(path: Any) -> float:
        steps = [float(np.linalg.norm(feature[a] - feature[b])) + (a != b) for a, b in itertools.pairwise(path)]
        return float(sum(cost[t, i] for t, i in enumerate(path)) + steadiness * sum(steps))

    best = min(price(path) for path in itertools.product(range(faces), repeat=frames))
    found = _steady_path(cost, feature, steadiness)
    assert price(found.tolist()) == pytest.approx(best, abs=1e-6)


# ---------------------------------------------------------------------------------------------------------- the plan


def test_a_plan_has_the_faces_that_may_be_swapped_and_have_a_source(man: Person) -> None:
    """Of 24 successive frames some are another person's, some are flagged, and for two every source is forbidden."""
    flags, frames = np.zeros(24, np.int32), np.arange(24)
    flags[[2, 9]] = Flag.PROFILE, Flag.BLURRED
    faces = man.faces.with_columns(flags=flags, frame=frames)
    rows = frames >= 2
    forbidden = ~np.eye(24, dtype=bool)  # each may use itself alone
    forbidden[[5, 20]] = True
    bank = man.bank(clutter=False)
    config = SwapConfig(skip=("profile",), steadiness=0.0, crossfade=1)
    plan = plan_procrustes(bank, faces, rows, config, forbidden=forbidden)
    assert plan.faces.frame.tolist() == [*range(3, 5), *range(6, 20), *range(21, 24)]
    np.testing.assert_array_equal(plan.chosen, plan.faces.frame)
    assert plan.shares[:3] == [{3: 0.5, 4: 0.5}, {3: 0.5, 4: 0.5}, {6: 0.5, 7: 0.5}]
    assert len(plan.shares) == len(plan.faces)
    everyone = plan_procrustes(bank, faces, rows, config.model_copy(update={"skip": ()}))
    assert everyone.faces.frame.tolist() == list(range(2, 24))
    assert len(plan_procrustes(bank, faces, np.zeros(24, bool), config).faces) == 0


def test_a_plan_makes_the_swappers_patches_and_says_where_they_are_from(man: Person, woman: Person) -> None:
    bank, target = man.bank(), woman.faces[woman.faces.trusted][-6:]
    config = SwapConfig(crossfade=0)
    plan = plan_procrustes(bank, target, np.ones(6, bool), config)
    images = [woman.images[int(frame)] for frame in target.frame]
    made = plan.patches([1, 4], [images[1], images[4]])
    swapper = Swapper(bank, target, config)
    for row, patch in zip([1, 4], made, strict=True):
        expected = swapper(target[row], {int(plan.chosen[row]): 1.0}, images[row].shape[:2])
        assert patch is not None
        assert expected is not None
        np.testing.assert_array_equal(patch.image, expected.image)
        np.testing.assert_array_equal(patch.mask, expected.mask)
        np.testing.assert_array_equal(patch.frame_to_patch, expected.frame_to_patch)
        source = int(plan.chosen[row])
        assert plan.record(row) == Record(int(target.face[row]), 0, int(man.faces.frame[source]), 0)
    assert plan.patches([0], [images[0][:4, :4]]) == [None]


# ---------------------------------------------------------------------------------------------------------- the warp


@pytest.mark.parametrize("refine", ["piecewise", "none"])
def test_a_face_laid_over_itself_is_itself(man: Person, refine: Any) -> None:
    """Swapping a frame with its own face draws that frame again."""
    bank = man.bank(clutter=False)
    swapper = Swapper(bank, man.faces, SwapConfig(refine=refine))
    for row in (0, 11, 23):
        frame = man.images[int(man.faces.frame[row])]
        patch = swapper(man.faces[row], {row: 1.0}, frame.shape[:2])
        assert patch is not None
        top, left = (-patch.frame_to_patch[::-1, 2]).astype(int)
        height, width = patch.mask.shape
        truth = frame[top : top + height, left : left + width]
        inside = patch.mask > 0.99
        assert inside.mean() > 0.4
        assert np.abs(patch.image.astype(float) - truth)[inside].mean() < 3


def test_landmarks_of_the_patch_lie_on_the_targets(man: Person, woman: Person) -> None:
    """A mark painted at a source landmark comes out at the target's landmark."""
    from facepipe.backends.landmarkers import MESH_TO_IBUG68

    bank = man.bank(clutter=False)
    target = woman.faces[woman.faces.trusted][-1]
    for point in (33, 36, 45, 51, 57):  # nose, corners of the eyes, lips
        vertex = MESH_TO_IBUG68[point]
        x, y = bank.points[4, vertex].round().astype(int)
        marked = np.zeros_like(bank.crops[4])
        marked[y - 1 : y + 2, x - 1 : x + 2] = 255
        crops = [marked if i == 4 else crop for i, crop in enumerate(bank.crops)]
        painted = SourceBank(bank.faces, crops, bank.clip, bank.mean)
        patch = Swapper(painted, target, SwapConfig(shape=0.0))(target, {4: 1.0}, (360, 640))
        assert patch is not None
        grey = patch.image.sum(2).astype(float)
        weights = np.where(grey > 0.3 * grey.max(), grey, 0)
        rows, columns = np.mgrid[: grey.shape[0], : grey.shape[1]]
        seen = np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()
        (wanted,) = geometry.apply(patch.frame_to_patch, target.landmarks[0, point][None])
        assert np.linalg.norm(seen - wanted) < 2.5  # of a mark of three pixels, rounded to whole ones and enlarged


def test_two_sources_mix_by_their_shares(man: Person) -> None:
    swapper = Swapper(man.bank(clutter=False), man.faces, SwapConfig())
    patches = [swapper(man.faces[5], shares, (360, 640)) for shares in ({2: 1.0}, {20: 1.0}, {2: 0.25, 20: 0.75})]
    assert all(patch is not None for patch in patches)
    one, other, both = (patch.image.astype(float) for patch in patches if patch is not None)
    inside = np.min([patch.mask for patch in patches if patch is not None], axis=0) > 0.99
    assert np.abs(one - other)[inside].mean() > 0.3
    assert np.abs(both - (0.25 * one + 0.75 * other))[inside].mean() < 1


def test_shape_keeps_the_sources_proportions(man: Person, woman: Person) -> None:
    """Between 0 and 1 the patch's outline moves from the target's landmarks towards the source's proportions."""
    bank, target = man.bank(clutter=False), woman.faces[woman.faces.trusted][-1]

    def moved(shape: float) -> float:
        placed = Overlay(bank.mean, target, SwapConfig(shape=shape)).points(target)
        return float(np.abs(placed - target.mesh[0].astype(np.float64)).mean())

    assert moved(0.0) == 0
    assert 0 < moved(0.5) < moved(1.0)
    assert moved(0.5) == pytest.approx(moved(1.0) / 2)


def test_a_face_outside_the_frame_has_no_patch(man: Person) -> None:
    bank = man.bank(clutter=False)
    away = man.faces[0].with_columns(mesh=man.faces.mesh[:1] + np.float32(5000))
    assert Swapper(bank, man.faces, SwapConfig())(away, {0: 1.0}, (360, 640)) is None
    tiny = man.faces[0].with_columns(mesh=man.faces.mesh[:1] * np.float32(1e-3))
    patch = Swapper(bank, man.faces, SwapConfig())(tiny, {0: 1.0}, (360, 640))
    assert patch is None or patch.mask.size >= 16


def test_by_68_points_too(man: Person, woman: Person) -> None:
    flat = [p.faces.with_columns(mesh=np.empty((len(p.faces), 0, 3), np.float32)) for p in (man, woman)]
    bank = SourceBank.build([flat[0]], [man.crops], [np.ones(24, bool)])
    chosen = choose_sources(bank, flat[1])
    patch = Swapper(bank, flat[1], SwapConfig())(flat[1][-1], {int(chosen[-1]): 1.0}, (360, 640))
    assert patch is not None
    assert (patch.mask > 0.5).sum() > 1000
    assert patch.image[patch.mask > 0.5].std() > 10


@given(seed=st.integers(0, 2**32 - 1), channels=st.sampled_from([3, 4]))
@settings(deadline=None, max_examples=30)
def test_cracks_of_a_mesh_are_closed_with_what_is_around_them(seed: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    covered = np.zeros((120, 100), bool)
    covered[20:100, 20:80] = True
    image = np.full((120, 100, channels), 90, np.uint8)
    whole = covered.copy()
    cracks = rng.integers(25, 75, (6, 2))
    covered[cracks[:, 0], cracks[:, 1]] = False
    covered[40:80, 50] = False  # a seam, one pixel wide
    image[~covered] = 0
    mended = _mended(image, covered)
    np.testing.assert_array_equal(mended, whole)
    assert (image[whole] == 90).all()
    assert not image[~whole].any()


def test_a_hole_that_is_no_crack_stays() -> None:
    covered = np.ones((120, 100), bool)
    covered[40:80, 30:70] = False
    image = np.zeros((120, 100, 3), np.uint8)
    np.testing.assert_array_equal(_mended(image, covered), covered)
