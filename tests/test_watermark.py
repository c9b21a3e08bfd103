"""The invisible mark: what is put into a face is read again, after what videos go through, and from nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import facepipe
from facepipe import geometry
from facepipe.config import DetectConfig
from facepipe.finder import Models, load_models
from facepipe.provenance import EXIT_CODES, read_label
from facepipe.video import open_clip, open_writer
from facepipe.watermark import FoundMark, Mark, MarkReader, payload_of, verify
from facepipe.watermark.coding import LENGTH, PAYLOAD_BITS, decode, encode
from facepipe.watermark.pattern import SIDE, carriers, face_square, pace

Bytes = NDArray[np.uint8]
Finding = Callable[[], Models]
PAYLOAD = 0xDEADBEEF
SIZE = 240, 260

# ------------------------------------------------------------------------------------------------------------ the code


@settings(deadline=None)
@given(st.integers(0, 2**PAYLOAD_BITS - 1), st.data())
def test_a_number_stands_three_errors_a_word(number: int, data: st.DataObject) -> None:
    """The extended Golay code has a distance of 8."""
    signs = encode(number).astype(np.float32)
    assert signs.shape == (LENGTH,)
    for word in range(LENGTH // 24):
        wrong = data.draw(st.sets(st.integers(0, 23), max_size=3))
        signs[[24 * word + place for place in wrong]] *= -1
    assert decode(signs) == number


@settings(deadline=None)
@given(st.integers(0, 2**PAYLOAD_BITS - 1), st.integers(0, 2**16))
def test_faint_signs_count_little(number: int, seed: int) -> None:
    """Soft decisions: seven signs of a word may be wrong where they are faint, beyond what hard ones stand."""
    random = np.random.default_rng(seed)
    signs = encode(number).astype(np.float32).reshape(-1, 24)
    for word in signs:
        word[random.permutation(24)[:7]] *= -0.01
    assert decode(signs.ravel()) == number


def test_other_words_are_seldom_numbers() -> None:
    random = np.random.default_rng(0)
    assert sum(decode(random.normal(size=LENGTH)) is not None for _ in range(2000)) <= 1
    assert decode(np.zeros(LENGTH)) is None
    for number in (-1, 2**PAYLOAD_BITS):
        with pytest.raises(ValueError, match="32 bits"):
            encode(number)


def test_carriers_are_orthogonal_and_lie_within_the_face() -> None:
    patterns = carriers()
    np.testing.assert_allclose(patterns @ patterns.T, np.eye(len(patterns)), atol=1e-5)
    pictures = np.abs(patterns).reshape(-1, SIDE, SIDE)
    assert pictures[:, :5].max() == pictures[:, :, :5].max() == 0


# ----------------------------------------------------------------------------------------------------- a drawn face


def landmarks_at(t: int) -> NDArray[np.float64]:
    """A face that moves, grows and turns."""
    points = geometry.template("ibug68", 150) - 75
    angle, size = 0.1 * np.sin(t / 9), 1 + 0.1 * np.sin(t / 14)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([SIZE[1], SIZE[0]]) / 2 + [10 * np.sin(t / 11), 6 * np.cos(t / 7)]
    return np.asarray(size * points @ turn.T + centre)


@pytest.fixture(scope="module")
def film() -> list[Bytes]:
    """75 frames of a soft picture that lies on the face, with noise of its own in each."""
    random = np.random.default_rng(1)
    skin = cv2.GaussianBlur(random.normal(0, 30, (SIZE[0], SIZE[1], 3)), (0, 0), 2) * 3 + 120
    frames = []
    for t in range(75):
        matrix = geometry.umeyama(landmarks_at(0), landmarks_at(t))[:2]
        moved = cv2.warpAffine(skin, matrix, SIZE[::-1], borderMode=cv2.BORDER_REFLECT)
        frames.append(np.clip(moved + random.normal(0, 2, moved.shape), 0, 255).astype(np.uint8))
    return frames


def marked(frames: list[Bytes], mark: Mark) -> list[Bytes]:
    whole = np.ones(SIZE, np.float32)
    return [mark.into(frame, whole, landmarks_at(t), t / mark.rate) for t, frame in enumerate(frames)]


def read(frames: list[Bytes], rate: float, *, off: float = 0.0) -> FoundMark | None:
    """With landmarks that are `off` pixels wrong."""
    reader, random = MarkReader(rate), np.random.default_rng(2)
    for t, frame in enumerate(frames):
        points = landmarks_at(t) + random.normal(0, 1, (68, 2)) * off + off
        reader.add(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32), points, 3.3 + t / rate)
    return reader.found()


@pytest.mark.parametrize("rate", [12.0, 25.0, 59.94])
@pytest.mark.parametrize("off", [0.0, 1.5])
def test_it_is_read_at_any_rate_and_phase(film: list[Bytes], rate: float, off: float) -> None:
    """The reader's clock and its landmarks are not the writer's."""
    found = read(marked(film, Mark(PAYLOAD, rate)), rate, off=off)
    assert found is not None
    assert found.payload == PAYLOAD
    assert found.run == "deadbeef"
    assert found.frames == 75
    assert found.loudness > 4.5


def test_nothing_is_read_from_nothing(film: list[Bytes]) -> None:
    assert MarkReader(25).found() is None
    assert read(film, 25) is None
    assert read(marked(film, Mark(PAYLOAD, 25, strength=0)), 25) is None
    still = [film[0]] * 75
    assert read(still, 25) is None
    reader = MarkReader(25)
    reader.add(np.zeros(SIZE, np.float32), np.zeros((68, 2)), 0.0)  # no face
    assert reader.found() is None


def test_it_is_faint_and_within_the_mask(film: list[Bytes]) -> None:
    mask = np.zeros(SIZE, np.float32)
    mask[60:180, 70:190] = 0.4
    face = film[0]
    changed = Mark(PAYLOAD, 25).into(face, mask, landmarks_at(0), 0.0).astype(int) - face
    assert not changed[mask == 0].any()
    assert changed.any()
    assert np.abs(changed).max() <= 8
    assert 10 * np.log10(255**2 / (changed[mask > 0] ** 2).mean()) > 38
    twice = Mark(PAYLOAD, 25, strength=2).into(face, mask, landmarks_at(0), 0.0).astype(int) - face
    assert np.abs(twice).mean() > 1.5 * np.abs(changed).mean()
    assert Mark(PAYLOAD, 25, strength=0).into(face, mask, landmarks_at(0), 0.0) is face


def test_five_points_give_the_square_of_sixty_eight() -> None:
    many = landmarks_at(3)
    few = geometry.five_points(many)
    middle = np.append(many.mean(0), 1)
    assert np.abs(face_square(many) @ middle - face_square(few) @ middle).max() < 4


def test_slow_clips_have_a_slower_pace() -> None:
    assert pace(25) == pace(60) == 6
    assert pace(10) == 4


def test_the_payload_is_the_runs() -> None:
    assert payload_of("deadbeef0123") == PAYLOAD


# ------------------------------------------------------------------------------------------------------- real films


@pytest.fixture(scope="module")
def swapped(tmp_path_factory: pytest.TempPathFactory, cut_clip: Callable[..., Path], quick: tuple[str, ...]) -> Path:
    """100 swapped frames."""
    from facepipe import pipeline

    root = tmp_path_factory.mktemp("marked")
    cut_clip("single_face.mp4", root / "man" / "man.mp4", 0, 40)
    cut_clip("WolfgangLanger_Pexels.mp4", root / "woman" / "woman.mp4", 240, 340)
    config = pipeline.resolve(None, quick, source=root / "man", target=root / "woman", out=root / "RUN")
    facepipe.swap(config)
    return root / "RUN" / "swapped" / "woman.mp4"


@pytest.fixture(scope="module")
def models() -> Finding:
    loaded = load_models(DetectConfig(embedder="none"))
    return lambda: loaded


def anew(clip: Path, out: Path, change: Callable[[Bytes], Bytes], crf: int) -> Path:
    """Encoded anew, without a label."""
    from dataclasses import replace

    with open_clip(clip) as reader:
        frames = [(change(frame.image), frame.pts) for frame in reader]
        with open_writer(out, replace(reader.info, size=frames[0][0].shape[:2]), crf=crf) as writer:
            for image, pts in frames:
                writer.write(np.ascontiguousarray(image), pts)
    return out


CHANGES: dict[str, Callable[[Bytes], Bytes]] = {
    "encoded": lambda image: image,
    "half as large": lambda image: np.asarray(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)),
    "cropped": lambda image: image[18:-18, 32:-32],
}


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_it_outlives_what_videos_go_through(swapped: Path, models: Finding, tmp_path: Path, change: str) -> None:
    label = read_label(swapped)
    assert label is not None
    clip = anew(swapped, tmp_path / "anew.mp4", CHANGES[change], 23)
    verdict = verify(clip, models)
    assert verdict.status == "marked"
    assert label["run"].startswith(verdict.mark)
    assert len(verdict.mark) == 8
    assert (
        verdict.sentence()
        == f"{clip}: swapped by facepipe; its label is lost; the mark in its faces: run {verdict.mark}"
    )


@pytest.mark.models
@pytest.mark.slow
def test_the_command_line_finds_it(swapped: Path, tmp_path: Path, clip_path: Callable[[str], Path]) -> None:
    (tmp_path / "a").mkdir()
    anew(swapped, tmp_path / "a" / "anew.mp4", CHANGES["encoded"], 23)
    shutil.copy(clip_path("single_face.mp4"), tmp_path / "a")

    def told(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "facepipe.cli", "verify", *words], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout

    code, text = told(str(tmp_path / "a"))
    assert code == EXIT_CODES["marked"]
    assert "anew.mp4: swapped by facepipe; its label is lost" in text
    assert "single_face.mp4: no label of facepipe's\n" in text
    assert told("--no-mark", str(tmp_path / "a")) == (
        1,
        f"{tmp_path}/a/anew.mp4: no label of facepipe's\n{tmp_path}/a/single_face.mp4: no label of facepipe's\n",
    )
    code, text = told("--mark", str(swapped))
    assert code == 0
    assert "intact" in text
    assert "; the mark in its faces: run " in text


@pytest.mark.models
@pytest.mark.slow
def test_a_mark_of_another_run_is_told(swapped: Path, models: Finding, monkeypatch: pytest.MonkeyPatch) -> None:
    from facepipe.watermark import verifying

    monkeypatch.setattr(verifying, "read_mark", lambda *_: FoundMark(PAYLOAD, 9.0, 100))
    verdict = verify(swapped, models, mark="always")
    assert verdict.problems == ["the mark in its faces is of another run, deadbeef"]


def nothing(*_: Any) -> None:
    pytest.fail("the mark was looked for")


@pytest.mark.models
def test_where_the_credentials_are_intact_the_mark_is_left_alone(
    quick_run: Any, models: Finding, monkeypatch: pytest.MonkeyPatch
) -> None:
    from facepipe.watermark import verifying

    monkeypatch.setattr(verifying, "read_mark", nothing)
    assert verify(quick_run.out / "swapped" / "woman.mp4", models).status == "intact"
