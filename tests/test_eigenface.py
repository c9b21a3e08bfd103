"""Swap method eigenface: what is learned, from whom, and what it draws. On faces of real clips and painted ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from facepipe import geometry, metrics
from facepipe.composite import Compositor
from facepipe.config import SwapConfig
from facepipe.errors import NoFaceError
from facepipe.image import hull_mask, piecewise_warp, soften
from facepipe.methods import eigenface
from facepipe.methods.bank import ChosenCrops, driving_features, mean_face, shape_free_layout
from facepipe.methods.eigenface import EigenfacePlan, Eigenfaces, _Part, _weights
from facepipe.methods.faceset import FaceSet
from facepipe.methods.plan import Plan, Record
from facepipe.types import Faces, Flag

pytestmark = pytest.mark.models

CROP = 160
SIZE = eigenface._SIZE


Gather = Callable[..., tuple[Faces, NDArray[np.uint8], dict[int, NDArray[np.uint8]]]]


@dataclass(frozen=True)
class Person:
    """Faces of some frames of a clip, with their crops and frames."""

    faces: Faces
    crops: NDArray[np.uint8]
    images: dict[int, NDArray[np.uint8]]

    def learned(self, *, crops: NDArray[np.uint8] | None = None, faces: Faces | None = None) -> FaceSet:
        faces = self.faces if faces is None else faces
        chosen = self.crops if crops is None else crops
        return FaceSet.build([faces], [chosen], [np.ones(len(faces), bool)], share=0.2)

    def frames(self, faces: Faces) -> list[NDArray[np.uint8]]:
        return [self.images[int(frame)] for frame in faces.frame]


@pytest.fixture(scope="module")
def man(clip_path: Callable[[str], Path], faces_of: Gather) -> Person:
    """Neutral, then smiling, then neutral again."""
    return Person(*faces_of(clip_path("single_face.mp4"), range(0, 72, 2)))


@pytest.fixture(scope="module")
def woman(clip_path: Callable[[str], Path], faces_of: Gather) -> Person:
    return Person(*faces_of(clip_path("WolfgangLanger_Pexels.mp4"), range(240, 312, 3)))


@pytest.fixture(scope="module")
def plan(man: Person, woman: Person) -> EigenfacePlan:
    return EigenfacePlan.make(man.learned(), woman.faces, np.ones(len(woman.faces), bool), SwapConfig())


def everyone(person: Person) -> NDArray[np.bool_]:
    return np.ones(len(person.faces), bool)


# ------------------------------------------------------------------------------------------------------- real faces


def test_the_swap_covers_the_targets_face(plan: EigenfacePlan, woman: Person) -> None:
    whole: Plan = plan
    frames = woman.frames(whole.faces)
    for row in (0, len(whole.faces) - 1):
        (patch,) = whole.patches([row], [frames[row]])
        assert patch is not None
        inside = patch.mask > 0.5
        oval = geometry.apply(patch.frame_to_patch, whole.faces.mesh[row, :, :2].astype(np.float64))
        assert inside.sum() == pytest.approx(0.75 * np.prod(np.ptp(oval, axis=0)), rel=0.15)
        assert patch.image[inside].std() > 20
        assert whole.record(row) == Record(int(whole.faces.face[row]))


def test_it_is_the_source_who_is_drawn(plan: EigenfacePlan, man: Person, woman: Person) -> None:
    """What is drawn for a smiling target is nearer to the source's smiling texture than to the target's own."""
    drawn = plan.model.draw(plan.model.codes(plan.faces, woman.faces)[0]).astype(float)
    layout = plan.model.layout
    both = []
    for person, row in ((man, 20), (woman, 0)):
        own = geometry.apply(person.faces.frame_to_crop[row], person.faces.mesh[row, :, :2])
        both.append(piecewise_warp(person.crops[row], own, layout, geometry.mesh_triangles(), (SIZE, SIZE))[0])
    source, target = (np.abs(drawn - one)[(both[0] > 0).all(2)].mean() for one in both)
    assert source < 12
    assert target > 2 * source


def test_patches_do_not_depend_on_the_batch(plan: EigenfacePlan, woman: Person) -> None:
    frames = woman.frames(plan.faces)[:4]
    together = plan.patches(range(4), frames)
    for row, patch in enumerate(together):
        (alone,) = plan.patches([row], [frames[row]])
        assert patch is not None
        assert alone is not None
        np.testing.assert_array_equal(alone.image, patch.image)
        np.testing.assert_array_equal(alone.mask, patch.mask)


def test_held_out_faces_are_rebuilt(man: Person) -> None:
    """By what their landmarks tell: better than by the mean face."""
    rebuilt = EigenfacePlan.rebuild(man.learned(), SwapConfig())
    assert rebuilt.faces.frame.tolist() == man.faces.frame[-len(rebuilt.faces) :].tolist()
    frames = man.frames(rebuilt.faces)
    model = rebuilt.model
    still = replace(model, upper=without_motion(model.upper), lower=without_motion(model.lower))
    mean = EigenfacePlan._of(still, rebuilt.faces, man.faces, SwapConfig())

    def quality(plan: EigenfacePlan) -> float:
        values = []
        for frame, patch in zip(frames, plan.patches(range(len(frames)), frames), strict=True):
            assert patch is not None
            image, region = Compositor(SwapConfig())(frame, patch)
            place = (region.rows, region.columns)
            values.append(metrics.psnr(frame[place], image[place], data_range=255, mask=region.mask))
        return float(np.median(values))

    assert quality(rebuilt) > 30
    assert quality(rebuilt) > quality(mean) + 2.5


def without_motion(part: _Part) -> _Part:
    return replace(part, matrix=np.zeros_like(part.matrix), constant=np.zeros_like(part.constant))


def test_held_out_faces_are_never_learned_from(man: Person, woman: Person) -> None:
    """Poison them, pictures and landmarks: nothing changes."""
    held = man.learned().held_out
    rng = np.random.default_rng(0)
    crops, mesh = man.crops.copy(), man.faces.mesh.copy()
    crops[held] = rng.integers(0, 256, crops[held].shape)
    mesh[held] += rng.normal(0, 20, mesh[held].shape).astype(np.float32)
    poisoned = man.learned(crops=crops, faces=man.faces.with_columns(mesh=mesh))
    a, b = Eigenfaces.fit(man.learned()), Eigenfaces.fit(poisoned)
    code = a.codes(woman.faces, woman.faces)
    np.testing.assert_array_equal(b.codes(woman.faces, woman.faces), code)
    np.testing.assert_array_equal(b.draw(code[3]), a.draw(code[3]))
    # Nor do held-out faces reach each other, through what the person mostly does.
    mesh[np.flatnonzero(held)[:2]] = man.faces.mesh[held][:2]
    poisoned = man.learned(crops=crops, faces=man.faces.with_columns(mesh=mesh))
    plans = [EigenfacePlan.rebuild(one, SwapConfig()) for one in (man.learned(), poisoned)]
    frames = man.frames(plans[0].faces)[:2]
    for one, other in zip(*(plan.patches([0, 1], frames) for plan in plans), strict=True):
        assert one is not None
        assert other is not None
        np.testing.assert_array_equal(one.image, other.image)


def test_by_68_points_too(man: Person, woman: Person) -> None:
    flat = [p.faces.with_columns(mesh=np.empty((len(p.faces), 0, 3), np.float32)) for p in (man, woman)]
    plan = EigenfacePlan.make(man.learned(faces=flat[0]), flat[1], everyone(woman), SwapConfig())
    (patch,) = plan.patches([0], woman.frames(plan.faces)[:1])
    assert patch is not None
    assert (patch.mask > 0.5).sum() > 1000
    assert patch.image[patch.mask > 0.5].std() > 20


def test_refine_none_lays_the_texture_over_the_face_without_bending_it(man: Person, woman: Person) -> None:
    plan = EigenfacePlan.make(man.learned(), woman.faces, everyone(woman), SwapConfig(refine="none"))
    (patch,) = plan.patches([0], woman.frames(plan.faces)[:1])
    assert patch is not None
    assert patch.image[patch.mask > 0.5].min() > 0  # the texture goes on beyond its outline


def test_flagged_faces_are_left_out(man: Person, woman: Person) -> None:
    flags = np.zeros(len(woman.faces), np.int32)
    flags[:3] = Flag.PROFILE
    flags[3] = Flag.BLURRED
    faces = woman.faces.with_columns(flags=flags)
    plan = EigenfacePlan.make(man.learned(), faces, everyone(woman), SwapConfig())
    assert plan.faces.frame.tolist() == faces.frame[3:].tolist()
    assert len(EigenfacePlan.make(man.learned(), faces, np.arange(len(faces)) < 3, SwapConfig()).faces) == 0
    nobody = EigenfacePlan.make(man.learned(), faces, np.zeros(len(faces), bool), SwapConfig())
    assert nobody.patches([], []) == []


def test_too_few_faces(man: Person) -> None:
    with pytest.raises(NoFaceError, match="too few faces to learn from: 14 without a flag and not held out, expected"):
        FaceSet.build([man.faces[:24]], [man.crops], [np.ones(24, bool)], share=0.2)


# ---------------------------------------------------------------------------------------------------- painted faces


def painted(
    person: Person, paint: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
) -> FaceSet:
    """The person's landmarks with other pictures: ``paint(upper, lower)`` gives a texture (S, S, 3) for features."""
    learned = person.learned()
    faces = learned.faces
    learned = replace(learned, train=np.arange(len(faces)) % 2 == 0, held_out=np.arange(len(faces)) % 2 == 1)
    layout = shape_free_layout(mean_face(faces), SIZE)
    # What is normal for the person is measured on what is learned from, as `Eigenfaces.fit` does.
    features = zip(*driving_features(faces, faces[learned.train]), strict=True)
    crops = []
    for own, (upper, lower) in zip(geometry.apply(faces.frame_to_crop, faces.mesh[..., :2]), features, strict=True):
        texture = np.clip(paint(upper, lower), 0, 255).astype(np.float32)
        crop, _ = piecewise_warp(texture, layout, own, geometry.mesh_triangles(), (CROP, CROP))
        crops.append(np.rint(crop).astype(np.uint8))
    return replace(learned, crops=ChosenCrops([np.stack(crops)], [(0, i) for i in range(len(crops))]))


def waves(upper: NDArray[np.float64], lower: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smooth patterns that grow with the lids' opening above, and with the lips' movement below."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    above = np.where(y < 0.45, upper[3:5].sum(), 0.0)
    below = np.where(y > 0.6, lower[3:43] @ np.linspace(-1, 1, 40), 0.0)
    grey = 120 + 6 * above * np.sin(9 * x) + 3 * below * np.cos(7 * x)
    return np.stack([grey, 240 - grey, np.full_like(grey, 90)], axis=-1)


def test_a_linear_world_is_recovered(man: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faces that are a linear function of the landmarks: those that were never seen are drawn as they are."""
    monkeypatch.setattr(eigenface, "_PENALTY", 1e-6)
    person = painted(man, waves)
    model = Eigenfaces.fit(person)
    held = person.faces[person.held_out]
    reference = person.faces[person.train]
    rows = np.r_[20 : int(0.4 * SIZE), int(0.65 * SIZE) : SIZE - 20]  # not where one half fades into the other
    inside = soften(hull_mask(model.layout, (SIZE, SIZE)), erode=4)[rows] > 0
    wanted = np.stack([waves(*one) for one in zip(*driving_features(held, reference), strict=True)])[:, rows][
        :, inside
    ]
    drawn = np.stack([model.draw(code)[rows] for code in model.codes(held, reference)])[:, inside]
    error = np.abs(drawn - wanted)
    assert wanted.std(axis=0)[:, 0].mean() > 5  # they differ
    assert error.mean() < 0.5
    assert np.quantile(error, 0.99) < 4


def linear_textures(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 192, 192, 3): a mean and one smooth pattern a feature."""
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    patterns = [np.sin((3 + i) * x + i) * np.cos(4 * y - i) for i in range(features.shape[1])]
    grey = 128 + 12 * np.tensordot(features, np.stack(patterns), 1)
    return np.stack([grey, 250 - grey, np.full_like(grey, 60)], axis=-1)


def uint8(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def test_a_part_is_linear_in_its_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact but for the rounding of pictures to whole grey levels, of faces that no training face was like."""
    monkeypatch.setattr(eigenface, "_PENALTY", 1e-9)
    rng = np.random.default_rng(1)
    seen, unseen = rng.normal(size=(40, 4)), rng.normal(size=(5, 4))
    window = np.linspace(0, 1, SIZE, dtype=np.float32)[:, None].repeat(SIZE, 1)
    part = _Part.fit(uint8(linear_textures(seen)), window, seen)
    drawn = part.codes(unseen) @ part.basis + part.mean
    wanted = (linear_textures(unseen) * window[..., None]).reshape(5, -1, 3)[:, part.pixels].reshape(5, -1)
    assert len(part.pixels) == SIZE * (SIZE - 1)
    assert len(part.basis) == 39  # rounding is a component too, but nothing drives it
    np.testing.assert_allclose(drawn, wanted, atol=0.6)


def test_codes_are_held_back_beyond_four_deviations() -> None:
    part = _Part(
        np.arange(3),
        np.zeros(9, np.float32),
        np.zeros((2, 9), np.float32),
        matrix=np.array([[1.0, 0.0], [0.0, -2.0]], np.float32),
        constant=np.array([0.5, 0.0], np.float32),
    )
    features = np.array([[0.0, 1.0], [2.5, 1.5], [12.5, -6.5], [-103.5, 0.0]])
    codes = part.codes(features)
    np.testing.assert_allclose(codes, [[0.5, -2.0], [3.0, -3.0], [8.5, 8.5], [-53.5, 0.0]], rtol=1e-6)
    assert codes.dtype == np.float32


def test_what_is_in_front_of_a_face_is_not_learned_and_a_rare_expression_is() -> None:
    rng = np.random.default_rng(2)
    features = 0.3 * rng.normal(size=(40, 4))
    features[4:8, 3] += 4  # a smile that four of forty faces show
    textures = linear_textures(features) + rng.normal(0, 2, (40, 1, 1, 1))
    textures[20:30, 60:120, 50:110] += 90 * rng.choice([-1, 1], (10, 1, 1, 1))  # a hand
    window = np.ones((SIZE, SIZE), np.float32)
    weight = _weights(uint8(textures), window, torch.from_numpy(features).float()).numpy()
    assert weight[20:30].max() < 0.01
    assert np.delete(weight, np.s_[20:30]).min() > 0.5
    window[50:130] = 0  # a hand outside of the window does not matter
    assert _weights(uint8(textures), window, torch.from_numpy(features).float()).min() > 0.5


def test_faces_that_are_all_alike_are_drawn_as_they_are(man: Person, woman: Person) -> None:
    learned = man.learned()
    count = len(learned.faces)
    still = replace(
        learned,
        faces=man.faces[np.zeros(count, int)],
        crops=ChosenCrops([man.crops], [(0, 0)] * count),
    )
    model = Eigenfaces.fit(still)
    codes = model.codes(woman.faces, woman.faces)
    own = geometry.apply(man.faces.frame_to_crop[0], man.faces.mesh[0, :, :2])
    wanted, inside = piecewise_warp(man.crops[0], own, model.layout, geometry.mesh_triangles(), (SIZE, SIZE))
    for code in codes[:2]:
        difference = model.draw(code)[inside].astype(int) - wanted[inside]
        assert np.abs(difference).max() <= 1
