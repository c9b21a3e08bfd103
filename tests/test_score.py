"""Stage score: the numbers of known videos, the people who are the floor, the summary's arithmetic."""

from __future__ import annotations

import math
import tracemalloc
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio

from facepipe import geometry
from facepipe.backends.detectors import Detections
from facepipe.backends.landmarkers import Fit
from facepipe.errors import MediaError
from facepipe.evaluation import (
    ClipScores,
    Context,
    Judge,
    embed_rows,
    reference_people,
)
from facepipe.evaluation import summarize as summarize_all
from facepipe.people import mean_embedding
from facepipe.stages.score import Triple, score_clip
from facepipe.types import Faces, Flag
from facepipe.video import Frame

SIZE = (120, 160)
SOURCE, TARGET, OTHER = (np.eye(3, 128, dtype=np.float32)[i] for i in range(3))


class Sees:
    """Detector, landmarker and embedder by the colour of a square: red is the source, green the target."""

    name = "sface"
    follows = False
    crop_size = (1, 1)
    dim = 128

    def __init__(self) -> None:
        self.embedded = 0

    def detect(self, image: Any) -> Detections:
        ys, xs = np.nonzero(image.max(2) > 200)
        if not len(ys):
            return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
        box = np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], np.float32)
        return Detections(box, np.array([0.9], np.float32))

    def fit(self, image: Any, box: Any) -> Fit:
        return Fit((geometry.template("ibug68", int(box[2] - box[0])) + box[:2]).astype(np.float32))

    follow = None

    def crop(self, image: Any, box: Any, landmarks: Any) -> Any:
        x, y = ((box[:2] + box[2:]) / 2).astype(int)
        return image[y : y + 1, x : x + 1]

    def embed(self, crops: Any) -> Any:
        self.embedded += len(crops)
        red = crops[:, 0, 0, 0].astype(np.float32) / 255
        return red[:, None] * SOURCE + np.sqrt(1 - red[:, None] ** 2) * TARGET


def scene(colour: tuple[int, int, int] | None, left: int = 50) -> NDArray[np.uint8]:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    image = np.stack([60 + x // 4, 60 + y // 4, (x + y) // 4], -1).astype(np.uint8)
    if colour is not None:
        image[40:80, left : left + 40] = colour
    return image


def frames(images: list[Any]) -> list[Any]:
    return [Frame(i, 10 * i, Fraction(i, 25), image) for i, image in enumerate(images)]


def summarize(clips: dict[str, ClipScores], nets: list[str]) -> dict[str, Any]:
    return summarize_all(clips, Context(nets))


def faces_at(numbers: list[int], left: int = 50) -> Faces:
    n = len(numbers)
    empty = Faces.empty(embedding=128)
    columns = {
        name: np.zeros((n, *getattr(empty, name).shape[1:]), getattr(empty, name).dtype) for name in vars(empty)
    }
    columns["frame"][:] = numbers
    columns["box"][:] = [left, 40, left + 40, 80]
    columns["landmarks"][:] = geometry.template("ibug68", 40) + np.array([left, 40])
    return Faces(**columns)


MASK = np.zeros((*SIZE, 3), np.uint8)
MASK[35:85, 45:95] = 255
RED, GREEN = (255, 0, 0), (0, 255, 0)


def score(target: list[Any], swapped: list[Any], *, faces: Faces, done: list[bool], **more: Any) -> ClipScores:
    fake: Any = Sees()
    masks = [MASK if d else np.zeros_like(MASK) for d in done]
    return score_clip(
        Triple(frames(target), frames(swapped), frames(masks)),
        faces,
        np.array(done),
        [fake],
        lambda: [Judge(fake, SOURCE, TARGET)],
        (fake, fake, 1),
        **more,
    )


# --------------------------------------------------------------------------------------------------- known videos


def test_a_perfect_swap() -> None:
    scores = score([scene(GREEN)] * 5, [scene(RED)] * 5, faces=faces_at([0, 1, 2, 3, 4]), done=[True] * 5)
    columns = scores.columns
    np.testing.assert_allclose(scores.column("to_source_sface"), 1, atol=1e-6)
    np.testing.assert_allclose(scores.column("to_target_sface"), 0, atol=1e-6)
    assert columns["frame"].tolist() == [0, 1, 2, 3, 4]
    assert columns["pts"].tolist() == [0, 10, 20, 30, 40]
    assert columns["found"].tolist() == [True] * 5
    assert not np.isfinite(scores.column("outside_psnr")).any()  # identical: JSON has no infinity
    assert columns["outside_ssim"].tolist() == [1.0] * 5
    summary = summarize({"x": scores}, ["sface"])
    assert summary["identity"]["sface"]["margin"] == pytest.approx(1, abs=1e-6)
    assert summary["outside"]["psnr"] is None
    assert summary["outside"]["ssim"] == pytest.approx(1)
    assert summary["frames"] == {"total": 5, "swapped": 5, "skipped": 0, "flagged": 0, "no_face": 0, "lost": 0}
    top = ("version", "protocol", "worst", "clips")
    assert summary["clips"]["x"] == {key: value for key, value in summary.items() if key not in top}


def test_a_swap_that_did_nothing() -> None:
    scores = score([scene(GREEN)] * 3, [scene(GREEN)] * 3, faces=faces_at([0, 1, 2]), done=[True] * 3)
    identity = summarize({"x": scores}, ["sface"])["identity"]["sface"]
    assert identity["to_target"] == pytest.approx(1, abs=1e-6)
    assert identity["margin"] == pytest.approx(-1, abs=1e-6)


def test_outside_is_scikit_images_psnr_of_the_unmasked_pixels() -> None:
    target, swapped = scene(GREEN), scene(RED)
    swapped[:, :20] += 3
    scores = score([target], [swapped], faces=faces_at([0]), done=[True])
    outside = MASK[..., 0] == 0
    witness: Any = peak_signal_noise_ratio
    expected = witness(target[outside], swapped[outside], data_range=255)
    assert scores.columns["outside_psnr"][0] == pytest.approx(expected, rel=1e-6)
    assert 0.5 < scores.columns["outside_ssim"][0] < 1


def test_every_frame_is_counted() -> None:
    """0 swapped, 1 skipped (flagged), 2 without a face, 3 swapped and not found again."""
    target = [scene(GREEN), scene(GREEN), scene(None), scene(GREEN)]
    swapped = [scene(RED), scene(GREEN), scene(None), scene(None)]
    faces = faces_at([0, 1, 3])
    faces.flags[1] = Flag.PROFILE
    scores = score(target, swapped, faces=faces, done=[True, False, False, True])
    assert scores.counts == {"total": 4, "swapped": 2, "skipped": 1, "flagged": 1, "no_face": 1, "lost": 1}
    assert scores.columns["frame"].tolist() == [0, 3]
    assert scores.columns["found"].tolist() == [True, False]
    assert math.isnan(scores.column("to_source_sface")[1])
    assert scores.column("to_source_sface")[0] == pytest.approx(1, abs=1e-6)
    summary = summarize({"x": scores}, ["sface"])
    assert summary["identity"]["sface"]["n"] == 1
    assert summary["jitter"]["swapped"] == {"second_difference": None, "residual": None}


def test_another_face_elsewhere_is_not_the_swapped_one() -> None:
    scores = score([scene(GREEN)], [scene(RED, left=110)], faces=faces_at([0]), done=[True])
    assert scores.columns["found"].tolist() == [False]


def test_values_stay_in_their_rows_over_batches_and_misses() -> None:
    """40 frames, every seventh lost: each row has the similarity of its own frame."""
    reds = np.linspace(40, 255, 40).astype(int)
    lost = set(range(0, 40, 7))
    swapped = [scene(None if i in lost else (int(red), 210, 0)) for i, red in enumerate(reds)]
    scores = score([scene(GREEN)] * 40, swapped, faces=faces_at(list(range(40))), done=[True] * 40)
    column = scores.column("to_source_sface")
    assert len(column) == 40
    for i, (value, red) in enumerate(zip(column, reds, strict=True)):
        assert math.isnan(value) if i in lost else value == pytest.approx(red / 255, abs=1e-5)


def test_videos_of_different_lengths_are_an_error() -> None:
    with pytest.raises(
        MediaError, match=r"^the swapped video: frame 2 is missing in the swapped video; .* run again$"
    ):
        score([scene(GREEN)] * 3, [scene(RED)] * 2, faces=faces_at([0, 1, 2]), done=[True] * 3)


def test_videos_of_different_size_are_an_error() -> None:
    small = np.ascontiguousarray(scene(RED)[:60, :80])
    with pytest.raises(MediaError, match=r"^the swapped video: is 80x60 with a mask of 160x120, .* target is 160x120"):
        score([scene(GREEN)], [small], faces=faces_at([0]), done=[True])


def test_a_mask_over_the_whole_frame_leaves_no_outside() -> None:
    fake: Any = Sees()
    whole = np.full((*SIZE, 3), 255, np.uint8)
    scores = score_clip(
        Triple(frames([scene(GREEN)]), frames([scene(RED)]), frames([whole])),
        faces_at([0]),
        np.array([True]),
        [fake],
        lambda: [Judge(fake, SOURCE, TARGET)],
        (fake, fake, 1),
    )
    assert math.isnan(scores.column("outside_psnr")[0])
    assert math.isnan(scores.column("outside_ssim")[0])
    assert summarize({"x": scores}, ["sface"])["missing"]["outside.psnr"] == "no pixel lies outside of a mask"


def test_the_same_identity_swap_is_scored_inside_its_mask() -> None:
    truth = scene(GREEN)
    rebuilt = truth.copy()
    rebuilt[:30] += 90  # far outside of the mask
    rebuilt[45:75, 55:85, 2] += 5
    mask = np.zeros(SIZE, np.float32)
    mask[45:75, 55:85] = 1
    scores = score(
        [truth] * 4,
        [scene(RED)] * 4,
        faces=faces_at([0, 1, 2, 3]),
        done=[True] * 4,
        same_identity=[(truth, rebuilt, mask), (truth[:9], rebuilt[:9], mask[:9])],  # the second is too small to tell
    )
    assert len(scores.rebuilt) == 1
    expected = 10 * math.log10(255**2 / (25 / 3))
    assert scores.rebuilt[0][0] == pytest.approx(expected, rel=1e-6)


def test_memory_does_not_grow_with_the_pixels_of_a_clip() -> None:
    """Some kB a frame for its row and landmarks, against 115 of its pictures."""

    def peak(count: int) -> int:
        def clip(colour: Any) -> Any:
            for i in range(count):
                yield Frame(i, i, Fraction(i, 25), scene(colour))

        masks: Any = (Frame(i, i, Fraction(i, 25), MASK) for i in range(count))
        faces, fake = faces_at(list(range(count))), cast("Any", Sees())
        videos = Triple(clip(GREEN), clip(RED), masks)
        tracemalloc.start()
        try:
            score_clip(
                videos, faces, np.ones(count, bool), [fake], lambda: [Judge(fake, SOURCE, TARGET)], (fake, fake, 5)
            )
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(480) - peak(120) < 360 * 6_000


def test_jitter_of_a_face_that_moves_evenly_is_nothing() -> None:
    target = [scene(GREEN, left=30 + 2 * i) for i in range(12)]
    swapped = [scene(RED, left=30 + 2 * i + (i % 2) * 2) for i in range(12)]
    faces = Faces.concatenate([faces_at([i], left=30 + 2 * i) for i in range(12)])
    jitter = summarize({"x": score(target, swapped, faces=faces, done=[True] * 12)}, ["sface"])["jitter"]
    assert jitter["target"]["second_difference"] == pytest.approx(0, abs=1e-3)
    assert jitter["swapped"]["second_difference"] > 1
    assert jitter["swapped"]["residual"] == pytest.approx(0, abs=1e-2)  # a shift is no deformation


# --------------------------------------------------------------------------------------------------------- people


@pytest.mark.parametrize("net", ["irv1", "sface"])
def test_reference_people_are_unrelated(net: str) -> None:
    people = reference_people()[net]
    assert people.shape[1] == {"irv1": 512, "sface": 128}[net]
    assert len(people) >= 5
    np.testing.assert_allclose(np.linalg.norm(people, axis=1), 1, atol=1e-3)
    similar = people @ people.T - np.eye(len(people))
    assert similar.max() < 0.65  # two children of one family photo; all other pairs stay below .4
    assert (similar > 0.4).sum() <= 2


def test_whoever_takes_part_is_no_stranger() -> None:
    people = reference_people()["sface"]
    fake: Any = Sees()
    assert len(Judge(fake, SOURCE, TARGET).strangers) == len(people)
    judge = Judge(fake, people[0], people[3])
    np.testing.assert_array_equal(judge.strangers, people[[i for i in range(len(people)) if i not in (0, 3)]])


def test_a_person_is_embedded_from_at_most_32_faces_over_the_whole_clip() -> None:
    fake: Any = Sees()
    faces = faces_at(list(range(5, 105)))
    drawn = []

    def clip() -> Any:
        for index in range(300):
            drawn.append(index)
            yield Frame(index, index, Fraction(index, 25), scene(RED if index >= 55 else GREEN))

    rows = embed_rows(clip(), faces, [fake])["sface"]
    mean = mean_embedding(rows)
    assert len(rows) == 32
    assert fake.embedded == 32
    assert max(drawn) == 104  # no frame is decoded after the last face
    assert np.linalg.norm(mean) == pytest.approx(1)
    assert mean @ SOURCE == pytest.approx(mean @ TARGET, abs=0.1)


# -------------------------------------------------------------------------------------------------------- summary


def clip_scores(values: list[float | None], *, total: int = 9) -> ClipScores:
    scores = ClipScores.of_length(len(values))
    for row, value in enumerate(values):
        scores.put(row, {"frame": row, "found": value is not None, "seconds": row / 2, "outside_ssim": 0.99})
        if value is not None:
            scores.put(row, {"to_source_irv1": value, "to_target_irv1": value / 2, "to_strangers_irv1": 0.05})
            scores.put(row, {"outside_psnr": 40 + value})
    scores.rebuilt = [(30.0, 0.9)]
    scores.counts = {"total": total, "swapped": len(values)}
    return scores


def test_the_summary_has_medians_over_frames_of_all_clips() -> None:
    clips = {"a": clip_scores([0.1, 0.2, 0.9]), "b": clip_scores([0.8, None])}
    summary = summarize(clips, ["irv1"])
    expected = {"to_source": 0.5, "to_target": 0.25, "margin": 0.25, "floor": 0.05, "n": 4}
    identity = summary["identity"]["irv1"]
    assert {name: identity[name] for name in expected} == pytest.approx(expected)
    assert summary["clips"]["a"]["identity"]["irv1"]["to_source"] == 0.2
    assert summary["clips"]["b"]["identity"]["irv1"]["to_source"] == 0.8
    assert summary["outside"]["psnr"] == pytest.approx(40.5)
    assert summary["frames"] == {"total": 18, "swapped": 5}
    assert summary["same_identity"] == {"psnr": 30.0, "ssim": 0.9, "n": 2}


def test_the_summary_of_nothing() -> None:
    summary = summarize({}, ["irv1"])
    assert summary["identity"]["irv1"]["to_source"] is None
    assert summary["frames"] == {}
    assert summary["clips"] == {}
