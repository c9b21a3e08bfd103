"""Contact sheets and side-by-side videos: the right frames, the right pixels, times and sound kept, mistakes told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import facepipe
from facepipe import drawing, viewer
from facepipe.drawing import LINE, View
from facepipe.errors import ClipsFailedError, MediaError, RunFolderError, UsageError
from facepipe.provenance import check, read_label
from facepipe.results import RunResults
from facepipe.trouble import Note, choose_frames, note, worst_frames
from facepipe.types import Flag
from facepipe.video import open_clip, read_image
from facepipe.viewer import contact_sheet, preview, side_by_side
from facepipe.workspace import Workspace, read_faces, read_marker, write_faces, write_marker

# ------------------------------------------------------------------------------------------------------------- drawing


def test_a_whole_frame_lies_in_the_middle_of_its_cell() -> None:
    frame = np.full((90, 160, 3), 200, np.uint8)
    cell = View.whole((90, 160), (80, 80)).image(frame)
    lit = cell[..., 0] > 100
    assert lit.any(axis=1).sum() == pytest.approx(45, abs=1)
    assert lit.any(axis=0).all()
    np.testing.assert_array_equal(lit, lit[::-1])


@pytest.mark.parametrize("box", [[40, 30, 60, 55], [0, 0, 20, 24], [130, 70, 165, 95], [0, 0, 160, 90]])
def test_the_view_around_a_face_has_all_of_it_and_little_beyond_the_frame(box: list[float]) -> None:
    view = View.around(np.array(box, np.float32), (90, 160), (64, 64))
    shown = np.clip(np.array(box, np.float32), 0, [159, 89, 159, 89]).reshape(2, 2)
    corners = view.points(shown)
    if max(box[2] - box[0], box[3] - box[1]) < 90:
        assert corners.min() >= -0.6
        assert corners.max() <= 63.6
        assert (view.image(np.full((90, 160), 255, np.uint8)) > 0).all()


def test_points_and_pixels_go_the_same_way() -> None:
    frame = np.zeros((90, 160, 3), np.uint8)
    frame[40:43, 70:73] = 255
    view = View.around(np.array([60, 30, 90, 60], np.float32), (90, 160), (200, 200))
    y, x = np.nonzero(view.image(frame)[..., 0] > 127)
    np.testing.assert_allclose(view.points(np.array([71.0, 41.0])), [x.mean(), y.mean()], atol=0.3)


def test_a_view_of_the_same_size_is_the_same_pixels() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    same = View.whole((60, 80), (60, 80)).image(frame)
    np.testing.assert_array_equal(same, frame)
    assert not np.shares_memory(same, frame)


def test_landmarks_are_where_they_should_be() -> None:
    points = np.random.default_rng(1).uniform(20, 180, (68, 2))
    image = drawing.blank(200, 200, (0, 0, 0))
    drawing.draw_landmarks(image, points, color=(0, 255, 0))
    x, y = np.rint(points).astype(int).T
    assert (image[y, x, 1] > 120).all()
    before = image.copy()
    drawing.draw_landmarks(image, np.full((68, 2), np.nan))
    drawing.draw_box(image, np.full(4, np.nan))
    np.testing.assert_array_equal(image, before)


def test_difference_is_black_where_equal_and_grows_to_its_limit() -> None:
    a = np.zeros((4, 70, 3), np.uint8)
    b = a.copy()
    b[..., 1] = np.arange(70)
    bright = drawing.difference(a, b).astype(int).sum(axis=2)[0]
    assert (np.diff(bright[:60:6]) > 0).all()
    assert bright[0] < 20
    assert len(set(bright[64:])) == 1


def test_a_mask_tints_what_it_covers_and_nothing_else() -> None:
    image = drawing.blank(40, 40, (100, 100, 100))
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 255
    drawing.draw_mask(image, mask)
    assert (image[:8] == 100).all()
    np.testing.assert_allclose(image[20, 20], 100 * 0.7 + np.array(drawing.BLUE) * 0.3, atol=0.6)
    assert image[10, 20, 2] > image[20, 20, 2] + 50  # the edge is a line


@pytest.mark.parametrize(
    "words", ["frame 1", "a name that is far longer than there is room for in a cell", "ünï ☃", ""]
)
def test_text_stays_in_its_room(words: str) -> None:
    image = drawing.blank(LINE, 300, (0, 0, 0))
    drawing.draw_text(image, words, (4, 0), most=120)
    assert image.any() == bool(words)
    assert not image[:, 130:].any()
    assert not image[:, :3].any()


def test_stacks_fill_up_with_background() -> None:
    row = drawing.stack([drawing.blank(10, 20, (9, 9, 9)), drawing.blank(6, 5, (9, 9, 9))], across=True, gap=2)
    assert row.shape == (10, 27, 3)
    assert tuple(row[9, 25]) == drawing.BACKGROUND
    assert drawing.stack([row, row], across=False, gap=3).shape == (23, 27, 3)


# -------------------------------------------------------------------------------------------------------- which frames


def notes(count: int, **odd: Any) -> list[Note]:
    """Notes of `count` good frames, but for those in `odd`: ``{name: {frame: value}}``."""
    states, flags, margins = odd.get("states", {}), odd.get("flags", {}), odd.get("margins", {})
    return [
        Note(0, states.get(i, ""), flags.get(i, ()), {"net": margins[i]} if i in margins else {}) for i in range(count)
    ]


def test_the_worst_frames_take_turns_and_have_a_reason() -> None:
    frames = notes(
        100,
        margins={i: 0.5 + (i - 50) ** 2 / 10_000 for i in range(100)},
        states={**dict.fromkeys(range(10, 21), "no face"), **dict.fromkeys(range(70, 73), "not found again")},
        flags={90: ("profile",), 91: ("profile",), 92: ("blurred",)},
    )
    assert worst_frames(frames, 4) == {50: "low margin", 71: "not found again", 15: "no face", 91: "flagged"}
    assert worst_frames(frames, 1) == {50: "low margin"}
    assert worst_frames(notes(100), 4) == {}
    assert worst_frames([], 4) == {}


def test_worst_frames_are_not_of_one_moment() -> None:
    frames = notes(80, margins={i: i / 100 for i in range(80)})
    found = sorted(worst_frames(frames, 4))
    assert found[0] == 0
    assert min(np.diff(found)) >= 5


def test_the_longest_stretch_comes_first() -> None:
    frames = notes(60, states={5: "no face", **dict.fromkeys(range(30, 41), "no face")})
    assert list(worst_frames(frames, 1)) == [35]


@settings(deadline=None, max_examples=60)
@given(
    total=st.integers(1, 60),
    count=st.integers(1, 20),
    bad=st.sets(st.integers(0, 59)),
    margins=st.dictionaries(st.integers(0, 59), st.floats(-1, 1)),
)
def test_as_many_frames_as_asked_for_in_order(
    total: int, count: int, bad: set[int], margins: dict[int, float]
) -> None:
    chosen = choose_frames(notes(total, states=dict.fromkeys(bad, "no face"), margins=margins), count)
    assert len(chosen) == min(total, count)
    assert list(chosen) == sorted(chosen)
    assert all(0 <= frame < total for frame in chosen)
    assert sum(bool(reason) for reason in chosen.values()) <= count // 2


def test_notes_of_a_run(run_folder: Any) -> None:
    (clip,) = RunResults.read(run_folder.out).chosen()
    found = note(clip)
    assert len(found) == clip.frames == run_folder.clips.frames
    assert all(one.state == "" and one.row is not None for one in found)
    nets = run_folder.result.scores["identity"]
    for net, summary in nets.items():
        assert np.median([one.margins[net] for one in found]) == pytest.approx(summary["margin"], abs=1e-6)


def test_frames_without_a_face_and_without_a_swap_are_told(copied_run: Any) -> None:
    path = copied_run.out / "target" / "woman" / "faces.parquet"
    faces = read_faces(path)
    faces.flags[faces.frame == 7] = Flag.PROFILE | Flag.CUT_OFF
    write_faces(path, faces[(faces.frame != 3) & (faces.frame != 4)])
    found = note(RunResults.read(copied_run.out).chosen("woman")[0])
    assert [one.state for one in found[2:6]] == ["", "no face", "no face", ""]
    assert found[7].words == "profile, cut off"
    shutil.rmtree(copied_run.out / "swapped")
    assert {one.state for one in note(RunResults.read(copied_run.out).chosen()[0])} == {"", "no face"}


# -------------------------------------------------------------------------------------------------------------- sheets


def cells(sheet: np.ndarray[Any, Any], rows: int, columns: int, size: tuple[int, int], lines: int) -> Any:
    """(rows, columns, h, w, 3): the pictures of a sheet of one band."""
    top = 2 * LINE + 4 + 6 + lines * LINE + 2 + 4
    left = viewer._GUTTER + 4
    height, width = size
    return np.stack(
        [
            [
                sheet[(y := top + i * (height + 4)) : y + height, (x := left + j * (width + 4)) : x + width]
                for j in range(columns)
            ]
            for i in range(rows)
        ]
    )


def test_a_sheet_shows_target_swap_and_difference_of_the_same_frames(run_folder: Any) -> None:
    (clip,) = RunResults.read(run_folder.out).chosen()
    assert clip.swapped is not None
    with open_clip(clip.path) as targets, open_clip(clip.swapped.video) as swaps:
        frames = [(a.image, b.image) for a, b in zip(targets, swaps, strict=True)]
    size = frames[0][0].shape[:2]
    sheet = contact_sheet(clip, frames=4, overlay=(), whole=True, cell=size[0])
    chosen = list(choose_frames(note(clip), 4))
    shown = cells(sheet, 3, 4, size, 3)
    for column, frame in enumerate(chosen):
        np.testing.assert_array_equal(shown[0, column], frames[frame][0])
        np.testing.assert_array_equal(shown[1, column], frames[frame][1])
        apart = np.abs(frames[frame][0].astype(int) - frames[frame][1]).max(axis=2)
        light = shown[2, column].astype(int).sum(axis=2)
        assert light[apart == 0].max() < 20
        assert light[apart >= 64].min() > 500


def test_more_frames_than_columns_go_on_below(run_folder: Any) -> None:
    (clip,) = RunResults.read(run_folder.out).chosen()
    one, two = (contact_sheet(clip, frames=n, cell=64, columns=4) for n in (4, 6))
    assert two.shape[1] == one.shape[1]
    assert two.shape[0] == 2 * one.shape[0] - (2 * LINE + 4 + 6) + 12


@pytest.mark.parametrize("overlay", [("landmarks",), ("box",)])
def test_overlays_are_drawn(quick_run: Any, overlay: tuple[viewer.Overlay, ...]) -> None:
    (clip,) = RunResults.read(quick_run.out).chosen()
    green = [
        (np.abs(contact_sheet(clip, frames=2, overlay=what).astype(int) - drawing.GREEN).max(axis=2) < 30).sum()
        for what in (overlay, ())
    ]
    assert green[0] > 300
    assert green[1] == 0


def test_preview_writes_where_it_says(run_folder: Any, tmp_path: Path) -> None:
    (file,) = preview(run_folder.out, out=tmp_path / "sheet.jpg", frames=3)
    assert file == tmp_path / "sheet.jpg"
    assert read_image(file).shape[1] == viewer._GUTTER + 3 * (240 + 4)
    (file,) = preview(run_folder.out, out=tmp_path / "sheets", side="source")
    assert file == tmp_path / "sheets" / "source-man.png"
    assert preview(run_folder.out, out=tmp_path / "more", clip="source/man") == [tmp_path / "more" / "source-man.png"]
    assert preview(run_folder.out, out=tmp_path / "more", clip="man") == [tmp_path / "more" / "source-man.png"]
    assert not (run_folder.out / "preview").exists()
    assert facepipe.preview is preview


def test_a_run_that_has_only_found_faces(copied_run: Any) -> None:
    for part in ("swapped", "masks"):
        shutil.rmtree(copied_run.out / part)
    (copied_run.out / "scores.parquet").unlink()
    (copied_run.out / "target" / "woman" / "align.json").unlink()
    files = preview(copied_run.out, frames=2, video=True)
    assert [file.name for file in files] == ["target-woman.png", "target-woman.mp4"]
    sheet = read_image(files[0])
    assert sheet.shape[0] == 2 * LINE + 4 + 6 + 2 * LINE + 2 + 4 + 240
    assert (np.abs(sheet.astype(int) - drawing.GREEN).max(axis=2) < 30).sum() > 300
    assert read_label(files[1]) is None


def test_scores_of_an_older_swap_are_not_shown(copied_run: Any) -> None:
    def clip() -> Any:
        return RunResults.read(copied_run.out).chosen()[0]

    assert clip().scores
    marker = copied_run.out / "swapped" / "woman.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "key": "of another swap"}))
    assert clip().scores == {}
    contact_sheet(clip(), frames=1)


# -------------------------------------------------------------------------------------------------------------- videos


def test_side_by_side_keeps_times_sound_and_label(run_folder: Any, tmp_path: Path) -> None:
    (clip,) = RunResults.read(run_folder.out).chosen()
    told: list[tuple[str, str, int, int | None]] = []
    file = side_by_side(clip, tmp_path / "beside.mp4", progress=lambda *row: told.append(row))
    with open_clip(clip.path) as target, open_clip(file) as made:
        height, width = target.info.size
        assert made.info.size == (height + 2 * LINE + 4, 3 * width)
        assert made.info.has_audio == target.info.has_audio is True
        pairs = [(a.time, b.time, a.image, b.image) for a, b in zip(target, made, strict=True)]
    assert [a for a, *_ in pairs] == [b for _, b, *_ in pairs]
    lower = slice(2 * LINE + 4 + LINE, None)
    for _, _, one, both in pairs:
        assert np.abs(both[lower, :width].astype(int) - one[LINE:]).mean() < 4
    assert read_label(file) == read_label(clip.swapped.video)  # type: ignore[union-attr]
    assert told[-1] == ("preview", "woman", 16, 16)
    with av.open(str(clip.path)) as a, av.open(str(file)) as b:
        sounds = [[bytes(p) for p in c.demux(c.streams.audio) if p.size] for c in (a, b)]
    assert sounds[0] == sounds[1]


def test_a_video_of_another_kind_and_without_masks(run_folder: Any, tmp_path: Path) -> None:
    files = preview(run_folder.out, video=True, overlay=["landmarks"], frames=1, out=tmp_path / "x.mkv")
    assert files == [tmp_path / "x.png", tmp_path / "x.mkv"]
    with open_clip(files[1]) as made, open_clip(run_folder.clips.woman / "woman.mp4") as target:
        assert made.info.size[1] == 2 * target.info.size[1]


def test_large_frames_are_shrunk_to_even_sides() -> None:
    assert drawing.shared_height((1080, 1920), 540) == (540, 960)
    assert drawing.shared_height((361, 641), 540) == (360, 640)
    assert drawing.shared_height((1, 1), 540) == (2, 2)


# ------------------------------------------------------------------------------------------------------------ mistakes


def test_mistakes_are_told(quick_run: Any, tmp_path: Path) -> None:
    out = quick_run.out
    with pytest.raises(UsageError, match=r"no clip 'bob'.*target/woman, source/man"):
        preview(out, clip="bob")
    with pytest.raises(UsageError, match=r"no clip 'man'.*expected one of target/woman"):
        preview(out, clip="man", side="target")
    with pytest.raises(UsageError, match="no such run folder"):
        preview(tmp_path / "none")
    with pytest.raises(RunFolderError, match="not a run folder"):
        preview(tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        preview(quick_run.source / "man.mp4")
    with pytest.raises(UsageError, match="overlay hat: expected some of landmarks"):
        preview(out, overlay=["hat"])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="frames 0"):
        preview(out, frames=0)
    with pytest.raises(UsageError, match="add --video"):
        preview(out, out=tmp_path / "x.mp4")
    with pytest.raises(UsageError, match=r"expected one of \.png"):
        preview(out, out=tmp_path / "x.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        preview(out, out=tmp_path / "file" / "x.png")


def test_nothing_there_yet(tmp_path: Path) -> None:
    with Workspace(tmp_path / "RUN"):
        pass
    with pytest.raises(RunFolderError, match="nothing there to see yet; run `facepipe detect"):
        preview(tmp_path / "RUN")


def test_clips_that_are_gone_are_named_and_the_others_done(copied_run: Any, tmp_path: Path) -> None:
    config = copied_run.out / "config.toml"
    config.unlink()  # then the paths of the time of `detect` count
    folder = copied_run.out / "target"
    shutil.copytree(folder / "woman", folder / "lost")
    marker = folder / "lost" / "detect.json"
    write_marker(marker, {**read_marker(marker), "path": "gone.mp4"})
    with pytest.raises(MediaError, match=r"gone\.mp4: the clip is not there any more"):
        preview(copied_run.out, clip="lost")
    with pytest.raises(UsageError, match="2 target clips; choose one with --clip"):
        preview(copied_run.out, out=tmp_path / "x.png")
    with pytest.raises(ClipsFailedError, match=r"gone\.mp4"):
        preview(copied_run.out, out=tmp_path / "sheets", frames=1)
    assert [file.name for file in (tmp_path / "sheets").iterdir()] == ["target-woman.png"]


def test_a_sheet_says_what_it_shows(quick_run: Any, tmp_path: Path) -> None:
    (sheet,) = preview(quick_run.out, frames=1, out=tmp_path / "sheets")
    assert read_label(sheet) == read_label(quick_run.out / "swapped" / "woman.mp4")
    assert check(sheet).status == "intact"


def test_a_damaged_table_is_one_line(copied_run: Any) -> None:
    (copied_run.out / "scores.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(RunFolderError, match=r"scores\.parquet: missing or damaged"):
        preview(copied_run.out)
    (copied_run.out / "target" / "woman" / "detect.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"detect\.json: damaged"):
        preview(copied_run.out)
