"""The forehead: where points are added, that they follow the face, and that a swap reaches above the brows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facepipe import geometry
from facepipe.config import SwapConfig
from facepipe.methods.bank import SourceBank, triangulation
from facepipe.methods.forehead import Forehead, picture_ends
from facepipe.methods.procrustes import plan_procrustes
from facepipe.types import Faces

MODELS = {68: geometry.mean_face68()[:, :2], 468: geometry.mean_face_mesh()}
Points = NDArray[np.float64]


def height(points: Points, count: int) -> float:
    """How far the topmost point lies above the brows, in distances from there to the bottom of the nose."""
    from facepipe.backends.landmarkers import MESH_TO_IBUG68

    face = points[MESH_TO_IBUG68] if count == 468 else points
    middle = face[[21, 22]].mean(0)
    up = (middle - face[33])[:2]
    return float(((points[:, :2] - middle[:2]) @ up).max() / (up @ up))


@pytest.mark.parametrize("count", [68, 468])
@pytest.mark.parametrize("share", [0.5, 0.7, 1.0])
def test_the_mean_face_reaches_as_high_as_asked(count: int, share: float) -> None:
    raised = Forehead(share).points(MODELS[count])
    assert len(raised) == count + Forehead(share).adds(count)
    np.testing.assert_array_equal(raised[:count], MODELS[count])
    assert height(raised, count) == pytest.approx(share, abs=0.02)


def test_nothing_is_added_where_the_landmarks_reach_as_far() -> None:
    for share, count in ((0.0, 68), (0.0, 468), (0.45, 468)):
        forehead = Forehead(share)
        assert forehead.adds(count) == 0
        assert forehead.points(MODELS[count]) is MODELS[count]
        known = triangulation(MODELS[count])
        assert forehead.triangles(MODELS[count], known) is known
    with pytest.raises(ValueError, match="share of 0 or more"):
        Forehead(-0.1)


def test_by_default_only_landmarks_that_end_at_the_brows_get_a_forehead() -> None:
    default = SwapConfig().forehead
    assert Forehead.of(default, 68).adds(68) > 0
    assert Forehead.of(default, 468).adds(468) == 0
    assert Forehead.of(0.3, 68) == Forehead(0.3)


@settings(deadline=None)
@given(
    share=st.floats(0.48, 1),
    angle=st.floats(-3.1, 3.1),
    scale=st.floats(0.1, 50),
    shift=st.tuples(st.floats(-500, 500), st.floats(-500, 500)),
    count=st.sampled_from([68, 468]),
)
def test_the_points_go_where_the_face_goes(share: float, angle: float, scale: float, shift: Any, count: int) -> None:
    model = MODELS[count]
    turn = np.eye(model.shape[1])
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    moved = np.zeros(model.shape[1])
    moved[:2] = shift

    def place(points: Points) -> Points:
        return scale * points @ turn.T + moved

    forehead = Forehead(share)
    np.testing.assert_allclose(forehead.points(place(model)), place(forehead.points(model)), atol=1e-6 * scale + 1e-8)


@pytest.mark.parametrize("count", [68, 468])
def test_triangles_cover_the_forehead_once(count: int) -> None:
    forehead, model = Forehead(0.8), MODELS[count]
    raised = forehead.points(model)[:, :2]
    triangles = forehead.triangles(model, triangulation(model))
    assert set(range(count, len(raised))) <= set(triangles.ravel().tolist())
    corners = raised[triangles]
    u, v = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    areas = np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]) / 2
    added = (triangles >= count).any(1)
    assert (areas[added] > 1e-6).all()
    outline = forehead.outline(count)
    assert (outline is None) == (count == 68)
    if outline is not None:  # the strip lies between the mesh's own outline and the new one
        assert len(outline) == len(set(outline.tolist()))
        assert areas[added].sum() < areas.sum() / 4


# ------------------------------------------------------------------------------------------------------- real pictures


def test_where_a_picture_ends() -> None:
    crop = np.full((40, 40, 3), 90, np.uint8)
    assert picture_ends(crop) is None
    crop[10:14, 10:20] = 0  # dark hair
    assert picture_ends(crop) is None
    crop[:6] = 0
    ends = picture_ends(crop)
    assert ends is not None
    np.testing.assert_array_equal(ends, np.arange(40)[:, None].repeat(40, 1) < 6)


Gather = Callable[..., tuple[Faces, NDArray[np.uint8], dict[int, Any]]]


@pytest.mark.models
@pytest.mark.parametrize("dense", [False, True], ids=["68 points", "mesh"])
def test_a_swap_reaches_above_the_brows(clip_path: Callable[[str], Path], faces_of: Gather, dense: bool) -> None:
    source, crops, _ = faces_of(clip_path("single_face.mp4"), range(10))
    target, _, frames = faces_of(clip_path("WolfgangLanger_Pexels.mp4"), range(240, 244))
    if not dense:
        source, target = (
            faces.with_columns(mesh=np.zeros((len(faces), 0, 3), np.float32)) for faces in (source, target)
        )
    crops = crops.copy()
    crops[:, :20] = 0  # as if the frame ended here
    bank = SourceBank.build([source], [crops], [np.ones(len(source), bool)])
    tops, patches = [], []
    for share in (0.0, 0.6, 1.0):
        config = SwapConfig(forehead=share, crossfade=0)
        plan = plan_procrustes(bank, target, np.ones(len(target), bool), config)
        (patch,) = plan.patches([0], [frames[int(target.frame[0])]])
        assert patch is not None
        shift = -patch.frame_to_patch[:, 2]
        rows = np.flatnonzero((patch.mask > 0.5).any(1)) + shift[1]
        tops.append(rows[0])
        patches.append(patch)
        assert patch.image[patch.mask > 0].max(-1).min() > 0  # nothing of what lies beyond the source's frame
    brows = target.landmarks[0, 17:27, 1]
    long = float(target.landmarks[0, 33, 1] - target.landmarks[0, [21, 22], 1].mean())
    assert (tops[0] > brows.min() - 0.05 * long) == (not dense)
    assert tops[1] == pytest.approx(target.landmarks[0, [21, 22], 1].mean() - 0.6 * long, abs=0.15 * long)
    assert tops[2] < tops[1] - 3
    low = int(brows.max()) + 2  # below the brows all is as it was
    inside = [one.mask[int(low + one.frame_to_patch[1, 2]) :] for one in patches]
    assert abs(float(inside[0].sum()) - float(inside[1].sum())) < 0.02 * inside[0].sum()
