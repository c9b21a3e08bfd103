"""The people of a run, with a picture each, and their faces in order of a quality: who is source, who is target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facepipe import drawing
from facepipe.drawing import AMBER, GREY, LINE
from facepipe.errors import MediaError, NoFaceError, UsageError
from facepipe.people import SAME_PERSON, Person, find_people
from facepipe.results import ClipResults, RunResults, flag_names
from facepipe.selection import KEYS, Key, Limit, likeness, qualities, sizes, within
from facepipe.types import SIDES, Faces, Image, Side, evenly_spaced
from facepipe.video import write_image

__all__ = ["Album", "Face", "best_faces", "faces", "sheet_of"]

_DIGITS: Mapping[Key, int] = {
    "yaw": 1,
    "pitch": 1,
    "sharpness": 1,
    "size": 0,
    "similarity": 2,
    "light": 0,
    "confidence": 2,
}
_UNITS: Mapping[Key, str] = {
    "yaw": "degrees, from left to right",
    "pitch": "degrees",
    "sharpness": "grey levels of the Laplacian",
    "size": "pixels",
    "similarity": "cosine to the person's mean",
    "light": "mean grey level",
    "confidence": "the detector's confidence",
}
_CELL = 132
_COLUMNS = 12
_SHOWN = 60
_ROOM = 0.45  # of the face's box, on each side of a picture: the detector has to find the face in it again
_CANDIDATES = 20


@dataclass(frozen=True, slots=True)
class Face:
    """One face of a person: where it is, and the number it was sorted by."""

    clip: str
    frame: int
    face: int
    value: float
    flags: tuple[str, ...]
    row: int


class Album:
    """One person of one side of a run.

    Attributes
    ----------
    side : {"source", "target"}
    number : int
        From 1, by falling number of faces.
    picture : Path or None
        The best picture, once it is written.
    sheet : Path or None
        The contact sheet, where there is one.
    faces : list of Face
        In the order that was asked for, without those beyond the limits; empty when none was asked for.
    """

    def __init__(self, side: Side, number: int, person: Person, clips: Sequence[ClipResults]) -> None:
        self.side: Side = side
        self.number = number
        self.picture: Path | None = None
        self.sheet: Path | None = None
        self.faces: list[Face] = []
        seen = [(clip, np.flatnonzero(rows)) for clip, rows in zip(clips, person.rows, strict=True) if rows.any()]
        self.rows: list[tuple[ClipResults, NDArray[np.intp]]] = seen
        self.embedding = person.embedding

    @cached_property
    def table(self) -> Faces:
        """All faces, clip by clip."""
        return Faces.concatenate([clip.faces[rows] for clip, rows in self.rows])

    def summary(self) -> dict[str, Any]:
        """What there is to tell; JSON can hold it."""
        low, middle, high = np.percentile(self.table.yaw, [5, 50, 95]).tolist()
        aligned = all(clip.aligned for clip, _ in self.rows)
        return {
            "side": self.side,
            "person": self.number,
            "faces": len(self.table),
            "flagged": int((~self.table.trusted).sum()),
            "clips": [clip.name for clip, _ in self.rows],
            "frames": sum(len(np.unique(clip.faces.frame[rows])) for clip, rows in self.rows),
            "yaw": {"low": low, "median": middle, "high": high},
            "sharpness": float(np.median(self.table.sharpness)) if aligned else None,
            "size": float(np.median(sizes(self.table))),
            "picture": None if self.picture is None else str(self.picture),
            "sheet": None if self.sheet is None else str(self.sheet),
            "sorted": [
                {"clip": f.clip, "frame": f.frame, "face": f.face, "value": f.value, "flags": list(f.flags)}
                for f in self.faces
            ],
        }


def faces(
    run: str | Path,
    *,
    side: Side | None = None,
    sort: Key | None = None,
    limit: Limit = (None, None),
    sheet: int | None = None,
    similarity: float = SAME_PERSON,
    out: str | Path | None = None,
) -> list[Album]:
    """Find out which people a run's clips show, and write the best picture of each.

    Such a picture says which person is meant: ``--source-person`` and ``--target-person`` take it.

    Parameters
    ----------
    run : str or Path
        A run folder, at least through `detect`.
    side : {"source", "target"}, optional
        By default both.
    sort : {"yaw", "pitch", "sharpness", "size", "similarity", "light", "confidence"}, optional
        Put every person's faces in the order of this (`Album.faces`): yaw from left to right, the others from the
        greatest value down. Sharpness and light are measured in the crops of `align`.
    limit : (float or None, float or None)
        Least and greatest value of what is sorted by.
    sheet : int, optional
        Also write a contact sheet of the faces of the person of this number, by default sorted by yaw.
    similarity : float
        Least cosine similarity of one person; see `facepipe.people.find_people`.
    out : str or Path, optional
        Folder of the pictures, by default ``RUN/people``.

    Returns
    -------
    list of Album
        Source side first; on each side the person of most faces first.

    Raises
    ------
    UsageError
        The folder, or an option, is wrong; or the faces were not embedded.
    RunFolderError
        `run` is not a run folder, or a stage has to be done first.
    NoFaceError
        There is no face in any clip.
    """
    if sort is not None and sort not in KEYS:
        raise UsageError(f"sort {sort}: expected one of {', '.join(KEYS)}")
    if not -1 < similarity < 1:
        raise UsageError(f"similarity {similarity}: expected a cosine between -1 and 1")
    results = RunResults.read(run)
    sort = sort or ("yaw" if sheet is not None or limit != (None, None) else None)
    sides: tuple[Side, ...] = (side,) if side else SIDES
    albums = [album for one in sides for album in _albums(results, one, similarity)]
    if not albums:
        results.chosen(side=side)  # says what is missing, where nothing was done yet
        raise NoFaceError(f"{results.root}: no face in any {side or 'source or target'} clip")
    if sheet is not None and all(album.number != sheet for album in albums):
        raise UsageError(f"sheet {sheet}: there are persons 1 to {max(album.number for album in albums)}")
    folder = results.root / "people" if out is None else Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise UsageError(f"{folder}: cannot be made: {exc.strerror}") from exc
    _write_pictures(albums, folder)
    for album in albums:
        if sort is not None:
            album.faces = _sorted_faces(album, sort, limit)
        if sort is not None and album.number == sheet:
            album.sheet = folder / f"{album.side}-{album.number}-{sort}.png"
            write_image(album.sheet, sheet_of(album, sort))
    return albums


def _albums(results: RunResults, side: Side, similarity: float) -> list[Album]:
    clips = [clip for clip in results.clips(side) if len(clip.faces)]
    bare = next((clip for clip in clips if not clip.faces.embedding.shape[1]), None)
    if bare is not None:
        raise UsageError(
            f"{bare.folder}: these faces have no embeddings, so people cannot be told apart; "
            "run `facepipe detect` with --set detect.embedder=irv1"
        )
    people = find_people([clip.faces for clip in clips], similarity=similarity)
    return [Album(side, number, person, clips) for number, person in enumerate(people, start=1)]


def _sorted_faces(album: Album, key: Key, limit: Limit) -> list[Face]:
    """All faces of a person within the limits, in order; those without the number are left out."""
    found = []
    for clip, rows in album.rows:
        if key == "sharpness":
            clip.check_aligned()
        crops = clip.crops[rows] if key == "light" else ()
        values = qualities(clip.faces[rows], key, embedding=album.embedding, crops=crops)
        inside = within(values, limit)
        for row, value in zip(rows[inside].tolist(), values[inside].tolist(), strict=True):
            table = clip.faces
            flags = flag_names(int(table.flags[row]))
            found.append(Face(clip.name, int(table.frame[row]), int(table.face[row]), value, flags, row))
    return sorted(found, key=lambda face: face.value if key == "yaw" else -face.value)


# ------------------------------------------------------------------------------------------------------------ pictures


def best_faces(table: Faces, embedding: NDArray[np.float32] | None) -> NDArray[np.intp]:
    """Rows of a person's faces, the best portrait first: without flags, frontal, sharp, large, and surely the person.

    The four are multiplied, so a picture that fails in one of them is not saved by the others. Without the person's
    embedding all faces count as surely theirs.
    """
    away = table.yaw.astype(np.float64) ** 2 + table.pitch.astype(np.float64) ** 2
    large, sharp = sizes(table).astype(np.float64), table.sharpness.astype(np.float64)
    value = np.exp(-away / (2 * 20.0**2)) * large
    if embedding is not None:
        value *= np.maximum(np.nan_to_num(likeness(table, embedding), nan=-1.0), 0)
    if sharp.any():  # nothing is known of it before `align`
        value *= sharp
    return np.lexsort((-value, ~table.trusted))


def _write_pictures(albums: Sequence[Album], folder: Path) -> None:
    """The best picture of each person, cut out of its frame; one pass over each clip that has some."""
    wanted: dict[tuple[Side, str], list[tuple[Album, ClipResults, int]]] = {}
    for album in albums:
        clip, row = _portrait(album)
        wanted.setdefault((clip.side, clip.name), []).append((album, clip, row))
    for portraits in wanted.values():
        clip = portraits[0][1]
        frames = _frames(clip, {int(clip.faces.frame[row]) for _, _, row in portraits})
        for album, _, row in portraits:
            frame = frames.get(int(clip.faces.frame[row]))
            album.picture = folder / f"{album.side}-{album.number}.png"
            write_image(album.picture, clip.crops[row] if frame is None else _cut(frame, clip.faces.box[row]))


def _portrait(album: Album) -> tuple[ClipResults, int]:
    """The best face around which no other of its frame is larger: that one would be taken for the person."""
    where = [(clip, row) for clip, rows in album.rows for row in rows.tolist()]
    order = best_faces(album.table, album.embedding)[:_CANDIDATES].tolist()
    chosen: int = next((i for i in order if _alone(*where[i])), order[0])
    return where[chosen]


def _alone(clip: ClipResults, row: int) -> bool:
    table = clip.faces
    others = table[(table.frame == table.frame[row]) & (np.arange(len(table)) != row)]
    x0, y0, x1, y1 = _surroundings(table.box[row])
    near = (others.box[:, 0] < x1) & (others.box[:, 2] > x0) & (others.box[:, 1] < y1) & (others.box[:, 3] > y0)
    return not (near & (sizes(others) >= sizes(table[row : row + 1]))).any()


def _surroundings(box: NDArray[np.float32]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(value) for value in box)
    room = _ROOM * max(x1 - x0, y1 - y0)
    return x0 - room, y0 - room, x1 + room, y1 + room


def _cut(frame: Image, box: NDArray[np.float32]) -> Image:
    x0, y0, x1, y1 = (round(value) for value in _surroundings(box))
    return frame[max(0, y0) : max(1, y1), max(0, x0) : max(1, x1)]


def _frames(clip: ClipResults, chosen: set[int]) -> dict[int, Image]:
    """Some frames of a clip; none where it is not there any more but its crops are, which are less than a frame."""
    try:
        with clip.open(stop=max(chosen) + 1) as reader:
            return {frame.index: frame.image for frame in reader if frame.index in chosen}
    except MediaError:
        if not clip.aligned:
            raise
        return {}


def sheet_of(album: Album, key: Key, *, most: int = _SHOWN, cell: int = _CELL, columns: int = _COLUMNS) -> Image:
    """A contact sheet of a person's sorted faces: the crops, each with its value, its clip and its frame.

    Parameters
    ----------
    album : Album
        With `Album.faces`.
    key : str
        What they are sorted by, for the title.
    most : int
        Faces shown; of more, this many are taken evenly spaced over the order, the first and the last among them.
    cell : int
        Side of a crop in pixels.
    columns : int
        Crops in a row.

    Returns
    -------
    (H, W, 3) uint8 array
    """
    shown = [album.faces[i] for i in evenly_spaced(len(album.faces), most)] if album.faces else []
    crops = {clip.name: clip.crops for clip, _ in album.rows}
    several = len(crops) > 1
    cells = [_cell(face, f"{face.value:.{_DIGITS[key]}f}", crops, cell, several) for face in shown] or [
        drawing.blank(cell, cell)
    ]
    rows = [drawing.stack(cells[i : i + columns], across=True) for i in range(0, len(cells), columns)]
    body = drawing.stack(rows, across=False)
    words = f"{album.side} person {album.number}, by {key}: {_UNITS[key]}"
    count = f"{len(album.faces)} of {len(album.table)} faces" + (
        f", {len(shown)} shown" if len(shown) < len(album.faces) else ""
    )
    title = drawing.blank(2 * LINE + 4, max(body.shape[1], 4 * cell))
    drawing.draw_text(title, words, (6, 4), bold=True)
    drawing.draw_text(title, count, (6, LINE + 4), color=GREY)
    return drawing.stack([title, body], across=False)


def _cell(face: Face, value: str, crops: Mapping[str, NDArray[np.uint8]], size: int, several: bool) -> Image:
    crop = crops[face.clip][face.row]
    picture = np.asarray(cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    lines = [(value, drawing.WHITE), (f"frame {face.frame}", GREY)]
    lines += [(face.clip, GREY)] if several else []
    if face.flags:
        drawing.frame_edge(picture, AMBER)
        lines[0] = (f"{value}  {', '.join(face.flags)}".replace("_", " "), AMBER)
    words = drawing.blank(LINE * len(lines) + 2, size)
    for number, (text, color) in enumerate(lines):
        drawing.draw_text(words, text, (2, LINE * number), color=color)
    return np.concatenate([picture, words], axis=0)
