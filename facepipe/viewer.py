"""What a run did, to look at: contact sheets and side-by-side videos, with the worst frames among those shown.

Only what the run folder holds is drawn; nothing is computed anew and no net is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from facepipe import drawing
from facepipe.config import CredentialsConfig
from facepipe.drawing import AMBER, GREEN, GREY, LINE, RED, WHITE, View
from facepipe.errors import ClipsFailedError, ContainerError, MediaError, UsageError
from facepipe.provenance import Input, load_identity, read_label, sign_file
from facepipe.results import ClipResults, RunResults
from facepipe.trouble import STATES, Note, choose_frames, note
from facepipe.truth import BlendedFrame, read_truth
from facepipe.types import Faces, Image, Side
from facepipe.video import open_clip, open_writer, write_image
from facepipe.workspace import file_sha256

__all__ = ["Overlay", "contact_sheet", "preview", "side_by_side"]

Overlay = Literal["landmarks", "mask", "box", "flags", "truth"]
"""What is drawn over the pictures: ``mask`` adds a picture of its own, ``flags`` colours what has one; ``truth`` adds
the soft mask and the face before it was blended (see `facepipe.truth`)."""

Progress = Callable[[str, str, int, int | None], None]

_CELL = 240
_PANEL = 540
_COLUMNS = 8
_GUTTER = 92
_ROW_WORDS = {"difference": ("difference", "0 .. 64", "grey levels")}
_STILLS = (".png", ".jpg", ".jpeg")
_VIDEOS = (".mp4", ".m4v", ".mov", ".mkv")


def preview(
    run: str | Path,
    *,
    clip: str | None = None,
    side: Side | None = None,
    frames: int = 8,
    overlay: Collection[Overlay] | None = None,
    whole: bool = False,
    video: bool = False,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Draw contact sheets of a run's clips, and side-by-side videos.

    Parameters
    ----------
    run : str or Path
        A run folder, finished or not.
    clip : str, optional
        Name of one clip, or ``source/NAME``; by default all target clips.
    side : {"source", "target"}, optional
        Look for clips on this side only.
    frames : int
        How many frames a sheet shows; up to half of them are the worst ones.
    overlay : collection of {"landmarks", "mask", "box", "flags", "truth"}, optional
        What is drawn over the pictures. By default mask and flags of a swapped clip; landmarks, box and flags of one
        that is not swapped yet.
    whole : bool
        Sheets show whole frames, and not only the surroundings of the face.
    video : bool
        Also write a video of target, swap and mask beside each other, with the clip's times and sound.
    out : str or Path, optional
        The picture, or the video, to write; a name without a suffix is a folder. By default ``RUN/preview``.
    progress : callable, optional
        Hears of the video's frames: ``progress("preview", clip, done, total)``.

    Returns
    -------
    list of Path
        The files that were written.

    Raises
    ------
    UsageError
        There is no such clip or folder, or the options make no sense.
    RunFolderError
        `run` is not a run folder, or nothing is in it yet.
    MediaError
        The clip is not there any more, or a file cannot be written.
    ClipsFailedError
        That is so of some of several clips; the others are done.
    """
    unknown = sorted(set(overlay or ()) - set(get_args(Overlay)))
    if unknown:
        raise UsageError(f"overlay {', '.join(unknown)}: expected some of {', '.join(get_args(Overlay))}")
    if frames < 1:
        raise UsageError(f"frames {frames}: expected at least 1")
    results = RunResults.read(run)
    chosen = results.chosen(clip, side)
    names = [_names(results.root, one, None if out is None else Path(out), video, len(chosen)) for one in chosen]
    written: list[Path] = []
    failed: list[MediaError] = []
    for one, (picture, film) in zip(chosen, names, strict=True):
        shown = _overlay(one, overlay)
        try:
            label, sign = _label(one, picture)
            write_image(
                picture, contact_sheet(one, frames=frames, overlay=shown, whole=whole), tags=label, finish=sign
            )
            written.append(picture)
            if video:
                written.append(side_by_side(one, film, overlay=shown, progress=progress))
        except MediaError as exc:
            failed.append(exc)
    if failed and len(chosen) > 1:
        raise ClipsFailedError("; ".join(str(exc) for exc in failed) + f" (the other clips: {picture.parent})")
    if failed:
        raise failed[0]
    return written


def _names(root: Path, clip: ClipResults, out: Path | None, video: bool, clips: int) -> tuple[Path, Path]:
    """Names of the picture and of the video; their folder is made."""
    suffix = "" if out is None else out.suffix.lower()
    if out is None or not suffix:
        stem = (out or root / "preview") / f"{clip.side}-{clip.name}"
        picture, film = stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".mp4")
    elif clips > 1:
        raise UsageError(f"--out {out}: one file, and the run has {clips} {clip.side} clips; choose one with --clip")
    elif suffix in _STILLS or (suffix in _VIDEOS and video):
        picture = out if suffix in _STILLS else out.with_suffix(".png")
        film = out if suffix in _VIDEOS else out.with_suffix(".mp4")
    elif suffix in _VIDEOS:
        raise UsageError(f"--out {out}: a contact sheet is a picture; add --video for a video beside it")
    else:
        raise UsageError(f"--out {out}: expected one of {' '.join(_STILLS)}, with --video also {' '.join(_VIDEOS)}")
    try:
        picture.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UsageError(f"{picture.parent}: cannot be made: {exc.strerror}") from exc
    return picture, film


def _overlay(clip: ClipResults, asked: Collection[Overlay] | None) -> frozenset[Overlay]:
    if asked is not None:
        return frozenset(asked)
    return frozenset(("mask", "flags") if clip.swapped is not None else ("landmarks", "box", "flags"))


# -------------------------------------------------------------------------------------------------------------- frames


@dataclass(frozen=True, slots=True)
class _Moment:
    """One frame of a clip: the clip's own picture, and the swap's, its mask and its truth where there are any."""

    index: int
    pts: int
    seconds: float
    original: Image
    swapped: Image | None
    mask: NDArray[np.uint8] | None
    truth: BlendedFrame | None = None


def _moments(
    clip: ClipResults, chosen: Collection[int] | None = None, *, truth: Path | None = None
) -> Generator[_Moment, None, None]:
    """The frames of a clip, or some of them, in order; with the truth of their blend from the folder `truth`."""
    stop = None if chosen is None else max(chosen, default=-1) + 1
    with ExitStack() as stack:
        target = stack.enter_context(clip.open(stop=stop))
        videos = () if clip.swapped is None else (clip.swapped.video, clip.swapped.mask)
        others = [stack.enter_context(open_clip(path, limits=clip.run.limits, stop=stop)) for path in videos]
        blended = repeat(None) if truth is None else read_truth(truth, clip.run.limits)
        for frame, one, *rest in zip(target, blended, *others, strict=False):
            if chosen is None or frame.index in chosen:
                picture, mask = (rest[0].image, rest[1].image[..., 0].copy()) if rest else (None, None)
                yield _Moment(frame.index, frame.pts, float(frame.time), frame.image, picture, mask, one)


def _blended(truth: BlendedFrame, original: Image) -> dict[str, Image]:
    """The soft mask, in grey, and the face before it was blended; both black where there is none."""
    mask, face = np.zeros_like(original), np.zeros_like(original)
    if truth.blend is not None:
        place = truth.blend.rows, truth.blend.columns
        mask[place] = np.rint(truth.blend.mask * 255).astype(np.uint8)[..., None]
        face[place] = truth.blend.face
    return {"soft mask": mask, "face": face}


def _draw_faces(image: Image, faces: Faces, main: int | None, view: View, overlay: Collection[Overlay]) -> None:
    """Landmarks and boxes of a frame's faces; `main` is the row of the one that matters, the others are grey."""
    for row in range(len(faces)):
        flagged = "flags" in overlay and faces.flags[row] != 0
        color = GREY if row != main else AMBER if flagged else GREEN
        if "box" in overlay:
            drawing.draw_box(image, view.points(faces.box[row].reshape(2, 2)).reshape(4), color=color)
        if "landmarks" in overlay:
            drawing.draw_landmarks(image, view.points(faces.landmarks[row]), color=color)


class _Painter:
    """Draws the frames of one clip."""

    def __init__(self, clip: ClipResults, overlay: Collection[Overlay]) -> None:
        self.clip = clip
        self.overlay = overlay
        self.notes = note(clip)
        folder = clip.run.root / "blend" / clip.name
        self.truth = folder if "truth" in overlay and clip.swapped is not None else None

    @property
    def names(self) -> list[str]:
        """What there is to see of a frame, in order."""
        if self.clip.swapped is None:
            return [self.clip.side]
        truth = ["soft mask", "face"] if self.truth is not None else []
        return [self.clip.side, "swapped", *(["mask"] if "mask" in self.overlay else []), *truth, "difference"]

    def pictures(self, moment: _Moment, view: View, names: Sequence[str]) -> dict[str, Image]:
        """The pictures of a frame by name, with what is drawn over them."""
        made: dict[str, Image] = {name: view.image(moment.original) for name in names if name != "swapped"}
        if moment.swapped is not None and moment.mask is not None:
            made["swapped"] = view.image(moment.swapped)
            if "difference" in names:
                made["difference"] = drawing.difference(made["difference"], made["swapped"])
            if "mask" in names:
                drawing.draw_mask(made["mask"], view.image(moment.mask))
        if moment.truth is not None:
            made |= {name: view.image(one) for name, one in _blended(moment.truth, moment.original).items()}
        first, last = np.searchsorted(self.clip.faces.frame, [moment.index, moment.index + 1]).tolist()
        row = self.note(moment.index).row
        for name in set(names) - {"difference", "soft mask", "face"}:
            main = None if row is None else row - first
            _draw_faces(made[name], self.clip.faces[first:last], main, view, self.overlay)
        return {name: made[name] for name in names}

    def note(self, frame: int) -> Note:
        """What is known of a frame; the clip may have grown since."""
        return self.notes[frame] if frame < len(self.notes) else Note(None, "", (), {})

    def lines(self, moment: _Moment, reason: str = "") -> list[tuple[str, drawing.Color]]:
        """What is said of a frame: number and time, margins, what is odd."""
        one = self.note(moment.index)
        margins = "  ".join(f"{net} {margin:.2f}" for net, margin in one.margins.items())
        odd = ": ".join(word for word in (reason if reason != one.state else "", one.words) if word)
        scored = [(f"margin  {margins}" if margins else "", WHITE)] if self.clip.scores else []
        return [
            (f"frame {moment.index}   {moment.seconds:.2f} s", WHITE),
            *scored,
            (odd, RED if reason or one.state else AMBER),
        ]

    def edge(self, frame: int) -> drawing.Color | None:
        """Colour of the edge around a frame's picture."""
        one = self.note(frame)
        if "flags" not in self.overlay or not (one.state or one.flags):
            return None
        return RED if one.state else AMBER


# --------------------------------------------------------------------------------------------------------------- sheet


def contact_sheet(
    clip: ClipResults,
    *,
    frames: int = 8,
    overlay: Collection[Overlay] = ("mask", "flags"),
    whole: bool = False,
    cell: int = _CELL,
    columns: int = _COLUMNS,
) -> Image:
    """Some frames of a clip: a column each, with the target, the swap, the mask and their difference below each other.

    Parameters
    ----------
    clip : ClipResults
        Swapped or not.
    frames : int
        How many; see `choose_frames`.
    overlay : collection of {"landmarks", "mask", "box", "flags"}
        See `preview`.
    whole : bool
        Show whole frames instead of the surroundings of the face.
    cell : int
        Height of a picture in pixels.
    columns : int
        Frames in a row; further ones follow below.

    Returns
    -------
    (H, W, 3) uint8 array
    """
    painter = _Painter(clip, overlay)
    chosen = choose_frames(painter.notes, frames)
    made: list[tuple[dict[str, Image], Image]] = []
    with closing(_moments(clip, chosen, truth=painter.truth)) as moments:
        for moment in moments:
            view = _view(moment, clip.faces, painter.note(moment.index).row, cell, whole)
            pictures = painter.pictures(moment, view, painter.names)
            color = painter.edge(moment.index)
            for picture in pictures.values() if color is not None else ():
                drawing.frame_edge(picture, color or WHITE)
            made.append((pictures, _words(painter.lines(moment, chosen[moment.index]), view.size[1])))
    if not made:
        raise MediaError(f"{clip.path}: no frame of it can be read")
    bands = [_band(made[i : i + columns]) for i in range(0, len(made), columns)]
    sheet = drawing.stack(bands, across=False, gap=12)
    return drawing.stack([_title(clip, painter.notes, sheet.shape[1]), sheet], across=False, gap=6)


def _view(moment: _Moment, faces: Faces, row: int | None, cell: int, whole: bool) -> View:
    height, width = moment.original.shape[:2]
    if whole:
        return View.whole((height, width), (cell, max(cell, round(cell * width / height))))
    if row is None:
        return View.whole((height, width), (cell, cell))
    return View.around(faces.box[row], (height, width), (cell, cell))


def _words(lines: Sequence[tuple[str, drawing.Color]], width: int) -> Image:
    image = drawing.blank(LINE * len(lines) + 2, width)
    for number, (words, color) in enumerate(lines):
        drawing.draw_text(image, words, (2, LINE * number), color=color)
    return image


def _band(made: Sequence[tuple[dict[str, Image], Image]]) -> Image:
    """A row of pictures a name, under the words; the names are at the left."""
    rows = [drawing.stack([drawing.blank(made[0][1].shape[0], _GUTTER), *(words for _, words in made)], across=True)]
    for name, picture in made[0][0].items():
        words = drawing.blank(picture.shape[0], _GUTTER)
        for line, text in enumerate(_ROW_WORDS.get(name, (name,))):
            drawing.draw_text(words, text, (6, picture.shape[0] // 2 + LINE * line - LINE), color=GREY)
        rows.append(drawing.stack([words, *(pictures[name] for pictures, _ in made)], across=True))
    return drawing.stack(rows, across=False)


def _title(clip: ClipResults, notes: Sequence[Note], width: int) -> Image:
    """The clip's name and what there is to say of all of it."""
    swapped = clip.swapped
    counts = [f"{len(notes)} frame{'s' * (len(notes) != 1)}"]
    counts += [f"{n} {state}" for state in STATES if (n := sum(one.state == state for one in notes))]
    counts += [f"{n} flagged"] if (n := sum(bool(one.flags) for one in notes)) else []
    if swapped is None:
        counts.append("not swapped yet" if clip.side == "target" else "source")
    elif not clip.scores:
        counts.append(f"not scored yet: facepipe score --out {clip.run.root}")
    for net in dict.fromkeys(net for one in notes for net in one.margins):
        margins = [one.margins[net] for one in notes if net in one.margins]
        counts.append(f"median margin {net} {np.median(margins):.2f}")
    image = drawing.blank(2 * LINE + 4, width)
    name = f"{clip.name}, swapped by {swapped.method or '?'} (synthetic media)" if swapped else clip.name
    drawing.draw_text(image, name, (6, 4), bold=True)
    drawing.draw_text(image, ",  ".join(counts), (6, LINE + 4), color=GREY)
    return image


# --------------------------------------------------------------------------------------------------------------- video


def side_by_side(
    clip: ClipResults,
    out: Path,
    *,
    overlay: Collection[Overlay] = ("mask", "flags"),
    height: int = _PANEL,
    progress: Progress | None = None,
) -> Path:
    """Write a video of target, swap and mask beside each other, with the clip's own times and sound.

    The label of the swapped video is passed on, and signed. Where the kind of file cannot hold the sound, an ``.mkv``
    is made.

    Parameters
    ----------
    clip : ClipResults
        Swapped or not; then there is only the target.
    out : Path
        ``.mp4``, ``.m4v``, ``.mov`` or ``.mkv``.
    overlay : collection of {"landmarks", "mask", "box", "flags"}
        See `preview`.
    height : int
        Most pixels that a picture is high; none is enlarged.
    progress : callable, optional
        See `preview`.

    Returns
    -------
    Path
        The file that was written.
    """
    try:
        return _write_film(clip, out, overlay, height, progress or (lambda *_: None))
    except ContainerError:
        if out.suffix.lower() == ".mkv":
            raise
        return _write_film(clip, out.with_suffix(".mkv"), overlay, height, progress or (lambda *_: None))


def _write_film(clip: ClipResults, out: Path, overlay: Collection[Overlay], height: int, progress: Progress) -> Path:
    painter = _Painter(clip, overlay)
    with clip.open() as reader:
        info = reader.info
    view = View.whole(info.size, drawing.shared_height(info.size, height))
    panels = [
        clip.side,
        *(["swapped"] if clip.swapped else []),
        *(["mask"] if clip.swapped and "mask" in overlay else []),
    ]
    size = (view.size[0] + 2 * LINE + 4, len(panels) * view.size[1])
    label, sign = _label(clip, out)
    audio = clip.path if info.has_audio else None
    like = replace(info, size=size, pixel_format="rgb24")
    with (
        closing(_moments(clip)) as moments,
        open_writer(out, like, crf=18, preset="veryfast", metadata=label, audio_from=audio, finish=sign) as writer,
    ):
        progress("preview", clip.name, 0, clip.frames)
        for moment in moments:
            writer.write(_film_frame(painter, moment, painter.pictures(moment, view, panels)), moment.pts)
            progress("preview", clip.name, moment.index + 1, clip.frames)
    return out


def _label(clip: ClipResults, out: Path) -> tuple[dict[str, str], Callable[[Path], None] | None]:
    """Tags of what shows a clip, and what signs it; neither where it is not swapped."""
    if clip.swapped is None:
        return {}, None
    return clip.swapped.label, partial(_sign, clip, clip.swapped.video, out)


def _sign(clip: ClipResults, swapped: Path, out: Path, part: Path) -> None:
    """Give what shows a swap content credentials, with those of the swapped video in them."""
    known = clip.run.settings.get("credentials", {})
    identity = load_identity(CredentialsConfig.model_validate(known))
    inputs = [Input(swapped, "target", file_sha256(swapped))]
    sign_file(part, out, read_label(swapped) or {}, inputs, identity)


def _film_frame(painter: _Painter, moment: _Moment, pictures: Mapping[str, Image]) -> Image:
    """The pictures beside each other, under what is said of the frame."""
    for name, picture in pictures.items():
        drawing.caption(picture, name)
    color = painter.edge(moment.index)
    row = np.concatenate(list(pictures.values()), axis=1)
    if color is not None:
        drawing.frame_edge(row, color)
    *known, (odd, odd_color) = painter.lines(moment)
    head = drawing.blank(2 * LINE + 4, row.shape[1])
    drawing.draw_text(head, "    ".join(words for words, _ in known), (6, 2))
    drawing.draw_text(head, odd, (6, LINE + 2), color=odd_color)
    return np.concatenate([head, row], axis=0)
