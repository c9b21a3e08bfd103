"""Who is who: the people of a run, the person of most frames, the person of a picture, at most one row a frame."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import facepipe
from facepipe.errors import NoFaceError, RunFolderError, UsageError
from facepipe.gallery import best_faces, faces, sheet_of
from facepipe.people import find_people, mean_embedding, person_rows
from facepipe.selection import KEYS, qualities
from facepipe.types import Faces, Flag
from facepipe.video import read_image
from facepipe.workspace import read_crops, read_faces, read_marker, write_faces, write_marker

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
    for one, rows in zip(tables, chosen, strict=True):
        assert rows.shape == (len(one),)
        assert rows.dtype == bool
        frames = one.frame[rows]
        assert len(np.unique(frames)) == len(frames)
    if any(len(one) for one in tables) and not by_picture:
        assert any(rows.any() for rows in chosen)


# ----------------------------------------------------------------------------------------------------------- clusters


def counts(tables: list[Faces], **options: Any) -> list[list[int]]:
    """Rows in each table of each person."""
    return [[int(rows.sum()) for rows in person.rows] for person in find_people(tables, **options)]


def test_people_over_all_clips_most_faces_first() -> None:
    one = table([(i, 0, BERT) for i in range(10)] + [(i + 20, 1, ANNA) for i in range(7)])
    two = table([(i, 0, ANNA) for i in range(6)] + [(i + 9, 1, CARL) for i in range(2)], seed=1)
    assert counts([one, two]) == [[7, 6], [10, 0], [0, 2]]
    first = find_people([one, two])[0]
    assert np.linalg.norm(first.embedding) == pytest.approx(1)
    assert first.embedding @ ANNA > 0.9
    assert find_people([]) == find_people([table([])]) == []


def test_average_linkage_joins_what_is_near_on_average() -> None:
    """A chain of looks: the ends are far apart (cosine 0), each step is near (.71)."""
    half = (ANNA + BERT) / np.float32(np.sqrt(2))
    clip = table([(0, 0, ANNA), (1, 1, half), (2, 2, BERT)], noise=0)
    assert counts([clip], similarity=0.3) == [[3]]  # (0 + .71) / 2 = .35
    assert sorted(counts([clip], similarity=0.4)) == [[1], [2]]
    assert counts([clip], similarity=0.8) == [[1], [1], [1]]


def test_nobody_is_in_a_frame_twice_but_a_face_can_be_found_twice() -> None:
    sister = (3 * ANNA + 2 * BERT) / np.float32(np.sqrt(13))  # cosine .83
    rows = [(i, track, who) for i in range(4) for track, who in ((0, ANNA), (1, sister))]
    boxes = np.array([[0, 0, 20, 20], [50, 0, 70, 20]] * 4, np.float32)
    apart = table(rows, noise=0).with_columns(box=boxes)
    assert counts([apart]) == [[4], [4]]
    same = apart.with_columns(box=boxes * np.float32(0.1) + [[0, 0, 20, 20]])
    assert counts([same.with_columns(box=same.box.astype(np.float32))]) == [[8]]
    alone = table([(i, 0, sister) for i in range(2)], noise=0)
    assert counts([apart, alone]) == [[4, 2], [4, 0]]


@settings(deadline=None, max_examples=60)
@given(clips=st.lists(PEOPLE, min_size=1, max_size=3), seed=st.integers(0, 99))
def test_every_track_belongs_to_one_person(clips: list[list[tuple[int, int, int]]], seed: int) -> None:
    people = (ANNA, BERT, CARL)
    tables = [table([(f, t, people[(w + t) % 3]) for f, t, w in sorted(rows)], noise=0.3, seed=seed) for rows in clips]
    found = find_people(tables)
    for i, one in enumerate(tables):
        total = sum((person.rows[i].astype(int) for person in found), np.zeros(len(one), int))
        assert (total == 1).all()
        for track in np.unique(one.track):
            assert sum(person.rows[i][one.track == track].any() for person in found) == 1
    sizes = [sum(int(rows.sum()) for rows in person.rows) for person in found]
    assert sizes == sorted(sizes, reverse=True)


# ------------------------------------------------------------------------------------------------------------ pictures


def test_the_best_face_is_frontal_sharp_large_and_without_a_flag() -> None:
    clip = table([(i, 0, ANNA) for i in range(6)], noise=0)
    clip.box[:] = [0, 0, 100, 100]
    clip.sharpness[:] = 10
    clip.yaw[1], clip.sharpness[2], clip.box[3, 2:], clip.flags[4] = 40, 4, 50, Flag.BLURRED
    order = best_faces(clip, ANNA).tolist()
    assert set(order[:2]) == {0, 5}
    assert order[-1] == 4
    clip.embedding[0] = BERT
    assert best_faces(clip, ANNA)[0] == 5
    clip.sharpness[:] = 0  # before `align`
    assert best_faces(clip, ANNA)[0] == 5 or best_faces(clip, ANNA)[0] == 2


def test_qualities() -> None:
    clip = table([(0, 0, ANNA), (1, 0, BERT)], noise=0)
    clip.box[:] = [[0, 0, 40, 90], [5, 5, 5, 5]]
    clip.yaw[:] = [3, -4]
    grey = np.full((2, 16, 16, 3), 200, np.uint8)
    grey[1, 4:12, 4:12] = 50
    assert qualities(clip, "size", embedding=ANNA).tolist() == [60, 0]
    assert qualities(clip, "similarity", embedding=ANNA).tolist() == [1, 0]
    assert qualities(clip, "light", embedding=ANNA, crops=grey).tolist() == [200, 50]
    assert qualities(clip, "yaw", embedding=ANNA).tolist() == [3, -4]


def test_the_picture_of_a_person_is_that_person_to_the_pipeline(run_folder: Any, tmp_path: Path) -> None:
    """Found again in the picture, and as near to the person's faces as a person has to be."""
    from facepipe.pipeline import resolve
    from facepipe.pipeline.running import Run
    from facepipe.video import find_clips
    from facepipe.workspace import Workspace

    albums = faces(run_folder.out, out=tmp_path / "people")
    assert [(album.side, album.number) for album in albums] == [("source", 1), ("target", 1)]
    assert facepipe.faces is faces
    config = resolve(None, out=run_folder.out)
    clips: Any = {"source": find_clips(config.source), "target": find_clips(config.target)}  # type: ignore[arg-type]
    run = Run(config, Workspace(run_folder.out, create=False), clips, lambda *_: None)
    for album, other in zip(albums, albums[::-1], strict=True):
        assert album.picture == tmp_path / "people" / f"{album.side}-1.png"
        embedding = run.faces.embedding_of(album.picture)
        assert embedding @ album.embedding > 0.7
        assert embedding @ other.embedding < 0.4
        told = album.summary()
        assert told["faces"] == told["frames"] == run_folder.clips.frames
        assert told["yaw"]["low"] <= told["yaw"]["median"] <= told["yaw"]["high"]
    assert not (run_folder.out / "people").exists()


@pytest.mark.parametrize("key", KEYS)
def test_faces_in_order(copied_run: Any, key: Any) -> None:
    (album,) = faces(copied_run.out, side="target", sort=key)
    values = [face.value for face in album.faces]
    assert len(values) == len(album.table)
    assert values == sorted(values, reverse=key != "yaw")
    middle = float(np.median(values))
    (fewer,) = faces(copied_run.out, side="target", sort=key, limit=(middle, None))
    assert [f.row for f in fewer.faces] == [f.row for f in album.faces if f.value >= middle]
    (none,) = faces(copied_run.out, side="target", sort=key, limit=(None, -1e6), sheet=1)
    assert none.faces == []
    assert none.sheet is not None


def test_a_sheet_has_the_crops_in_order(copied_run: Any) -> None:
    source, target = faces(copied_run.out, sheet=1, sort="sharpness")
    assert target.sheet is not None
    assert target.sheet == copied_run.out / "people" / "target-1-sharpness.png"
    assert read_image(target.sheet).shape == sheet_of(target, "sharpness").shape
    crops = read_crops(copied_run.out / "target" / "woman" / "crops.npy")
    size = crops.shape[1]
    sheet = sheet_of(target, "sharpness", cell=size, columns=3, most=3)
    top = sheet.shape[0] - size - (2 * 22 + 2)
    for column, face in enumerate((target.faces[0], target.faces[8], target.faces[-1])):
        x = column * (size + 4)
        if not face.flags:
            np.testing.assert_array_equal(sheet[top : top + size, x : x + size], crops[face.row])
    assert source.summary()["sorted"][0]["clip"] == "man"


def test_several_people_of_a_clip(copied_run: Any) -> None:
    """The second half of the clip shows another track, of another person, once beside the first."""
    path = copied_run.out / "target" / "woman" / "faces.parquet"
    found = read_faces(path)
    late = found.frame >= 10
    found.track[late] = 7
    found.embedding[late] = np.eye(16, dtype=np.float32)[5]
    write_faces(path, found)
    one, two = faces(copied_run.out, side="target")
    assert (len(one.table), len(two.table)) == (10, 6)
    assert {one.picture, two.picture} == {copied_run.out / "people" / f"target-{n}.png" for n in (1, 2)}
    with pytest.raises(UsageError, match="sheet 3: there are persons 1 to 2"):
        faces(copied_run.out, sheet=3)
    (joined,) = faces(copied_run.out, side="target", similarity=-0.9)
    assert len(joined.table) == 16


def test_a_clip_that_is_gone_leaves_its_crops(copied_run: Any) -> None:
    (copied_run.out / "config.toml").unlink()
    folder = copied_run.out / "target" / "woman"
    write_marker(folder / "detect.json", {**read_marker(folder / "detect.json"), "path": "gone.mp4"})
    (album,) = faces(copied_run.out, side="target")
    assert album.picture is not None
    crops = read_crops(folder / "crops.npy")
    assert any((read_image(album.picture) == crop).all() for crop in crops)


def test_before_align_there_are_pictures_and_no_crops(copied_run: Any) -> None:
    (copied_run.out / "source" / "man" / "align.json").unlink()
    (album,) = faces(copied_run.out, side="source", sort="similarity")
    assert album.picture is not None
    assert album.summary()["sharpness"] is None
    for options in ({"sort": "light"}, {"sort": "sharpness"}, {"sheet": 1}):
        with pytest.raises(RunFolderError, match="no crops yet; run `facepipe align"):
            faces(copied_run.out, side="source", **options)


def test_mistakes_are_told(copied_run: Any, quick_run: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sort hat: expected one of yaw"):
        faces(copied_run.out, sort="hat")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="similarity 2"):
        faces(copied_run.out, similarity=2)
    with pytest.raises(UsageError, match=r"no embeddings.*detect\.embedder=irv1"):
        faces(quick_run.out, out=tmp_path / "people")
    with pytest.raises(RunFolderError, match="not a run folder"):
        faces(tmp_path)
    shutil.rmtree(copied_run.out / "target")
    with pytest.raises(RunFolderError, match="nothing there to see yet"):
        faces(copied_run.out, side="target")
    path = copied_run.out / "source" / "man" / "faces.parquet"
    write_faces(path, read_faces(path)[:0])
    with pytest.raises(NoFaceError, match="no face in any source clip"):
        faces(copied_run.out, side="source")
