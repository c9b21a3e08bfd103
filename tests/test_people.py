"""Who is who: the person of most frames, the person of a picture, at most one row a frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facepipe.people import mean_embedding, person_rows
from facepipe.types import Faces, Flag

ANNA, BERT, CARL = (np.eye(3, 16, dtype=np.float32)[i] for i in range(3))


def table(rows: list[tuple[int, int, NDArray[np.float32]]], *, noise: float = 0.1, seed: int = 0) -> Faces:
    """Faces of (frame, track, person)."""
    rng = np.random.default_rng(seed)
    n = len(rows)
    vectors = np.stack([who for _, _, who in rows]) + noise * rng.normal(size=(n, 16)) if n else np.empty((0, 16))
    numbers: dict[int, int] = {}
    face = []
    for frame, _, _ in rows:
        face.append(numbers.get(frame, 0))
        numbers[frame] = face[-1] + 1
    empty = Faces.empty(embedding=16)
    zeros = {name: np.zeros((n, *getattr(empty, name).shape[1:]), getattr(empty, name).dtype) for name in vars(empty)}
    zeros["frame"][:] = [frame for frame, _, _ in rows]
    zeros["track"][:] = [track for _, track, _ in rows]
    zeros["face"][:] = face
    zeros["embedding"][:] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return Faces(**zeros)


def test_mean_embedding() -> None:
    rows = np.stack([ANNA, ANNA, BERT])
    mean = mean_embedding(rows)
    assert np.linalg.norm(mean) == pytest.approx(1)
    np.testing.assert_allclose(mean[:2], np.array([2, 1]) / np.sqrt(5), atol=1e-6)
    lost = np.full((1, 16), np.nan, np.float32)
    np.testing.assert_array_equal(mean_embedding(np.concatenate([rows, lost])), mean)
    assert not mean_embedding(lost).any()
    assert not mean_embedding(rows[:0]).any()


def test_the_person_of_most_frames_over_all_clips() -> None:
    """Bert has the longest track, Anna more frames in all."""
    one = table([(i, 0, BERT) for i in range(10)] + [(i, 1, ANNA) for i in range(7)])
    two = table([(i, 0, ANNA) for i in range(6)], seed=1)
    rows = person_rows([one, two])
    np.testing.assert_array_equal(rows[0], one.track == 1)
    assert rows[1].all()
    np.testing.assert_array_equal(person_rows([one])[0], one.track == 0)


def test_a_picture_chooses() -> None:
    clip = table([(i, 0, BERT) for i in range(10)] + [(i, 1, ANNA) for i in range(7)] + [(20, 2, ANNA)])
    np.testing.assert_array_equal(person_rows([clip], picture=ANNA)[0], clip.track != 0)
    np.testing.assert_array_equal(person_rows([clip], picture=BERT)[0], clip.track == 0)
    assert not person_rows([clip], picture=CARL)[0].any()


def test_similarity_is_the_least_that_counts() -> None:
    between = (ANNA + BERT) / np.float32(np.sqrt(2))  # cosine .71 to both
    clip = table([(i, 0, ANNA) for i in range(5)] + [(i + 5, 1, between) for i in range(3)], noise=0)
    assert person_rows([clip], similarity=0.6)[0].sum() == 8
    assert person_rows([clip], similarity=0.8)[0].sum() == 5


def test_one_row_a_frame_the_one_most_like_the_person() -> None:
    near = (ANNA + BERT) / np.float32(np.sqrt(2))
    clip = table([(0, 0, ANNA), (1, 0, ANNA), (1, 1, near), (2, 1, near)], noise=0)
    np.testing.assert_array_equal(person_rows([clip], picture=ANNA)[0], [True, True, False, True])


def test_flagged_faces_do_not_say_who_it_is_but_belong_to_the_track() -> None:
    clip = table([(0, 0, ANNA), (1, 0, BERT), (2, 0, BERT), (3, 0, BERT)], noise=0)
    clip.flags[1:] = Flag.PROFILE
    assert person_rows([clip], picture=ANNA)[0].all()
    assert not person_rows([clip], picture=BERT)[0].any()


def test_a_track_that_was_not_embedded_is_nobodys() -> None:
    clip = table([(0, 0, ANNA), (1, 1, ANNA), (2, 1, ANNA), (3, 1, ANNA)])
    clip.embedding[1:] = np.nan
    np.testing.assert_array_equal(person_rows([clip])[0], [True, False, False, False])


def test_without_embeddings_the_longest_track_of_each_clip() -> None:
    rows = [(i, 0, ANNA) for i in range(3)] + [(i + 3, 1, ANNA) for i in range(5)]
    clips = [table(rows).with_columns(embedding=np.empty((8, 0), np.float32)) for _ in range(2)]
    for clip, chosen in zip(clips, person_rows(clips), strict=True):
        np.testing.assert_array_equal(chosen, clip.track == 1)


def test_clips_without_a_face() -> None:
    clips = [table([]), table([(0, 0, ANNA)]), table([])]
    assert [rows.tolist() for rows in person_rows(clips)] == [[], [True], []]
    assert [rows.tolist() for rows in person_rows([table([])])] == [[]]
    assert person_rows([]) == []


PEOPLE = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 4), st.sampled_from([0, 1, 2])), max_size=25, unique_by=lambda r: r[:2]
)


@settings(deadline=None, max_examples=80)
@given(clips=st.lists(PEOPLE, min_size=1, max_size=3), seed=st.integers(0, 99), by_picture=st.booleans())
def test_never_more_than_one_row_a_frame(clips: list[list[tuple[int, int, int]]], seed: int, by_picture: bool) -> None:
    people = (ANNA, BERT, CARL)
    tables = [
        table([(frame, track, people[(who + track) % 3]) for frame, track, who in sorted(rows)], noise=0.3, seed=seed)
        for rows in clips
    ]
    chosen = person_rows(tables, picture=ANNA if by_picture else None)
    for faces, rows in zip(tables, chosen, strict=True):
        assert rows.shape == (len(faces),)
        assert rows.dtype == bool
        frames = faces.frame[rows]
        assert len(np.unique(frames)) == len(frames)
    if any(len(faces) for faces in tables) and not by_picture:
        assert any(rows.any() for rows in chosen)
