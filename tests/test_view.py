"""What nets see of faces, and how what they draw goes back: on faces of real clips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import grid_sample

from facepipe import geometry, metrics
from facepipe.config import SwapConfig
from facepipe.methods.bank import frontal_shapes, mean_face, shape_free_layout
from facepipe.methods.procrustes import Overlay
from facepipe.methods.view import BORDER, CropView, TextureView, View, Window, find_window, view_of
from facepipe.types import Faces

pytestmark = pytest.mark.models

CROP, SIZE = 160, 128

Picture = NDArray[np.uint8]
Person = tuple[Faces, Picture, dict[int, Picture]]


@pytest.fixture(scope="module")
def man(clip_path: Callable[[str], Path], faces_of: Callable[..., Person]) -> Person:
    return faces_of(clip_path("single_face.mp4"), range(0, 72, 12))


@pytest.fixture(scope="module")
def woman(clip_path: Callable[[str], Path], faces_of: Callable[..., Person]) -> Person:
    return faces_of(clip_path("WolfgangLanger_Pexels.mp4"), range(240, 312, 12))


def window_of(faces: Faces) -> Window:
    return find_window([(faces, np.full(len(faces), CROP))])


@pytest.fixture(params=["texture", "texture of 68 points", "crop"])
def case(request: pytest.FixtureRequest, man: Person) -> tuple[View, Faces, Person]:
    """A view, and the man's faces with the landmarks that it is for."""
    faces = man[0]
    if request.param == "crop":
        return CropView(window_of(faces), CROP), faces, man
    if request.param == "texture of 68 points":
        faces = faces.with_columns(mesh=np.empty((len(faces), 0, 3), np.float32))
    return TextureView(mean_face(faces)), faces, man


def test_frame_and_crop_show_the_same(case: tuple[View, Faces, Person]) -> None:
    view, faces, (_, crops, frames) = case
    for row, face in enumerate(faces):
        by_crop, mask = view.see(crops[row], face, np.eye(2, 3), SIZE)
        by_frame, same = view.see(frames[int(face.frame[0])], face, face.frame_to_crop[0], SIZE)
        np.testing.assert_allclose(mask, same, atol=1e-3)
        assert 0.3 < mask.mean() < 0.9
        assert metrics.psnr(by_crop, by_frame, data_range=255, mask=mask) > 34


def test_surroundings_leave_the_middle_alone(case: tuple[View, Faces, Person]) -> None:
    view, faces, (_, crops, _) = case
    side = round(SIZE * (1 + 2 * BORDER))
    edge = (side - SIZE) // 2
    inner = view.see(crops[0], faces[0], np.eye(2, 3), SIZE)
    whole = view.see(crops[0], faces[0], np.eye(2, 3), side, border=BORDER)
    middle = whole.image[edge : edge + SIZE, edge : edge + SIZE]
    inside = np.where(inner.mask == 1, 1, 0).astype(np.float32)
    assert metrics.psnr(middle, inner.image, data_range=255, mask=inside) > 45
    np.testing.assert_allclose(whole.mask[edge : edge + SIZE, edge : edge + SIZE], inner.mask, atol=0.05)


def test_put_back_it_is_the_frame_again(case: tuple[View, Faces, Person]) -> None:
    """What was seen of a face, laid over the same face in its own proportions, is what was there."""
    view, faces, (_, _, frames) = case
    overlay = Overlay(np.median(frontal_shapes(faces), axis=0), faces, SwapConfig())
    for face in faces:
        frame = frames[int(face.frame[0])]
        seen = view.see(frame, face, face.frame_to_crop[0], 256)
        patch = view.put(overlay, seen.image, seen.mask, face, frame.shape[:2])
        assert patch is not None
        inside = patch.mask > 0.99
        ys, xs = np.nonzero(inside)
        placed = geometry.apply(geometry.invert(patch.frame_to_patch), np.stack([xs, ys], 1).astype(np.float64))
        x, y = np.rint(placed).astype(int).T
        error = frame[y, x].astype(float) - patch.image[inside]
        assert 10 * np.log10(255**2 / np.square(error).mean()) > 30


def test_textures_of_a_moving_face_lie_over_each_other(man: Person) -> None:
    """Crops of a face that smiles differ more from their mean than its textures do."""
    faces, crops, _ = man
    spread = []
    for view in (TextureView(mean_face(faces)), CropView(window_of(faces), CROP)):
        seen = [view.see(crop, face, np.eye(2, 3), 64) for crop, face in zip(crops, faces, strict=True)]
        inside = np.min([mask for _, mask in seen], axis=0) == 1
        pictures = np.stack([image for image, _ in seen]).astype(float)[:, inside]
        spread.append(np.square(pictures - pictures.mean(0)).mean())
    assert spread[0] < 0.75 * spread[1]


def test_what_the_head_hides_has_no_mask(man: Person) -> None:
    """A turned mesh: the far cheek is not seen, and has the colours of what lies nearest."""
    faces, crops, _ = man
    face = faces[0]
    turn = np.array([[np.cos(1.2), 0, np.sin(1.2)], [0, 1, 0], [-np.sin(1.2), 0, np.cos(1.2)]])
    centre = face.mesh[0].mean(0)
    turned = face.with_columns(mesh=((face.mesh - centre) @ turn.T + centre).astype(np.float32))
    view = TextureView(mean_face(faces))
    front, side = (view.see(crops[0], one, np.eye(2, 3), SIZE) for one in (face, turned))
    assert side.mask.mean() < 0.8 * front.mask.mean()
    assert side.image[side.mask == 0].max(1).min() > 0


def test_another_person_imitates(man: Person, woman: Person) -> None:
    """A twin shows the other person: in the texture's shape as they are seen, in a crop where this person is."""
    faces, crops, _ = man
    others, other_crops, _ = woman
    overlay = Overlay(np.median(frontal_shapes(others), axis=0), faces, SwapConfig())
    texture = TextureView(mean_face(faces))
    twin = texture.imitate(overlay, faces[0], other_crops[0], others[0], SIZE)
    np.testing.assert_array_equal(twin.image, texture.see(other_crops[0], others[0], np.eye(2, 3), SIZE).image)
    crop = CropView(window_of(faces), CROP)
    twin = crop.imitate(overlay, faces[0], other_crops[0], others[0], SIZE)
    own = crop.see(crops[0], faces[0], np.eye(2, 3), SIZE)
    assert np.minimum(twin.mask, own.mask).sum() > 0.9 * np.maximum(twin.mask, own.mask).sum()
    assert metrics.psnr(twin.image, own.image, data_range=255, mask=twin.mask) < 25


def test_the_nets_scene_is_what_the_patch_shows(man: Person) -> None:
    """Sampling a texture at `places`, as the training does, draws what `put` puts into the frame."""
    faces, _, _ = man
    view = TextureView(mean_face(faces))
    mean = np.median(frontal_shapes(faces), axis=0)
    mean[:, 0] *= 1.05  # someone with a wider face
    overlay, size = Overlay(mean, faces, SwapConfig()), 96
    face = faces[3]
    y, x = np.mgrid[0:64, 0:64] / 64
    image = np.stack([127 + 100 * np.sin(5 * x), 127 + 100 * np.cos(4 * y), 200 * x * y], -1).astype(np.uint8)
    patch = view.put(overlay, image, np.ones((64, 64), np.float32), face, (2000, 2000))
    assert patch is not None
    matrix = np.array([[0.5, 0, -0.5 * face.box[0, 0]], [0, 0.5, -0.5 * face.box[0, 1]]])
    place = view.places(overlay.points(face), matrix, size)
    grid: Any = torch.from_numpy(place)[None]
    drawn = grid_sample(torch.from_numpy(image).permute(2, 0, 1)[None].float(), grid, align_corners=False)
    found = drawn[0].permute(1, 2, 0).numpy()
    ys, xs = np.nonzero(place[..., 0] <= 1)
    in_patch = geometry.apply(patch.frame_to_patch, geometry.apply(geometry.invert(matrix), np.stack([xs, ys], 1)))
    px, py = np.rint(in_patch).astype(int).T
    kept = (px >= 0) & (px < patch.mask.shape[1]) & (py >= 0) & (py < patch.mask.shape[0])
    kept[kept] = patch.mask[py[kept], px[kept]] > 0.99
    assert kept.sum() > 500
    error = found[ys[kept], xs[kept]] - patch.image[py[kept], px[kept]]
    assert np.abs(error).mean() < 3


def test_a_face_beside_the_frame_has_no_patch(man: Person) -> None:
    faces = man[0]
    view = TextureView(mean_face(faces))
    overlay = Overlay(np.median(frontal_shapes(faces), axis=0), faces, SwapConfig())
    away = faces[0].with_columns(mesh=faces[0].mesh + np.array([5000, 0, 0], np.float32))
    assert view.put(overlay, np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.float32), away, (360, 640)) is None


def test_a_view_is_known_by_its_facts() -> None:
    mesh, points = geometry.mean_face_mesh(), geometry.mean_face68()[:, :2]
    crop = view_of({"view": "crop", "window": [0.5, 0.6, 0.7], "size": 256})
    assert isinstance(crop, CropView)
    assert (crop.window.y, crop.crop) == (0.6, 256)
    for model in (mesh, points):
        view = view_of({"view": "texture", "shapes": {"source": model.tolist()}})
        assert isinstance(view, TextureView)
        np.testing.assert_array_equal(view.model, model)
        np.testing.assert_allclose(
            (view.landmarks(96, border=BORDER) + 0.5) / 96 * 1.5 - 0.25, (view.landmarks(64) + 0.5) / 64, atol=1e-9
        )
    assert shape_free_layout(mesh, 64).min() > 0
    assert shape_free_layout(mesh, 64).max() < 63
