"""Which clips a folder holds, in natural order, each with a name that is safe as a folder's name."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from facepipe.errors import MediaError, UsageError

__all__ = ["IMAGE_SUFFIXES", "VIDEO_SUFFIXES", "Clip", "find_clips", "images_of", "natural_key", "to_clip"]

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".3g2", ".3gp", ".asf", ".avi", ".dv", ".f4v", ".flv", ".gif", ".h264", ".h265", ".hevc", ".ivf", ".m2ts",
    ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf",
    ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
})
# fmt: on
"""What counts as video, by suffix in lower case; an animated GIF is a video."""

IMAGE_SUFFIXES = frozenset({".bmp", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""What counts as a still image, by suffix in lower case."""

_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES
_LONGEST_NAME = 120
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{p}{i}" for p in ("com", "lpt") for i in range(1, 10))})


@dataclass(frozen=True)
class Clip:
    """One clip of a folder.

    Attributes
    ----------
    path : Path
        The file, or the folder whose images are the frames.
    name : str
        Unique among the clips found together (also where case does not count) and safe as a file name.
    kind : {"video", "images"}
        Whether a video decoder reads it, or it is made of stills (one, or a folder of them).
    film : Clip or None
        What it is a part of, see `facepipe.video.split_film`.
    """

    path: Path
    name: str
    kind: Literal["video", "images"]
    film: Clip | None = None

    @property
    def origin(self) -> Path:
        """The file that was given: that of the film, for a part."""
        return self.path if self.film is None else self.film.path


def natural_key(text: str | Path) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Sort key under which ``clip2`` comes before ``clip10``; ties are broken by the plain text."""
    text = str(text)
    parts = re.split(r"([0-9]+)", text.casefold())
    key = tuple((0, int(p), "") if p.isdecimal() and p.isascii() else (1, 0, p) for p in parts if p)
    return key, text


def images_of(folder: Path) -> list[Path]:
    """Paths of the still images directly inside `folder`, in natural order."""
    return [p for p in _entries(folder) if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]


def find_clips(folder: str | Path) -> list[Clip]:
    """Every clip of a folder, in natural order.

    Each video is a clip. A folder that holds images and no videos is one clip made of its images in natural order;
    an image beside videos is a clip of one frame. Sub-folders are searched likewise. Hidden files and other
    suffixes are passed over, and linked folders are not entered (linked files are clips).

    Parameters
    ----------
    folder : str or Path
        A folder, or a single file, which is then the only clip.

    Raises
    ------
    UsageError
        There is no such folder, or no clip in it.
    """
    root = Path(folder)
    if not root.exists():
        raise UsageError(f"{root}: no such folder or file; give a folder with videos or images, or one such file")
    if not root.is_dir():
        return [to_clip(root)]
    found = list(_walk(root))
    if not found:
        looked = " ".join(sorted(_SUFFIXES))
        raise UsageError(f"{root}: no clip in this folder or below it; looked for videos and images ({looked})")
    names = _unique_names([_relative_name(root, path) for path, _ in found])
    return [Clip(path, name, kind) for (path, kind), name in zip(found, names, strict=True)]


def to_clip(path: str | Path | Clip) -> Clip:
    """The clip at `path`: a video, one still image, or a folder of still images."""
    if isinstance(path, Clip):
        return path
    path = Path(path)
    if path.is_dir():
        if not images_of(path):
            raise MediaError(f"{path}: is a folder without images, expected a video file or a folder of images")
        return Clip(path, _safe(path.resolve().name), "images")
    kind: Literal["video", "images"] = "images" if path.suffix.lower() in IMAGE_SUFFIXES else "video"
    return Clip(path, _safe(path.stem), kind)


def _entries(folder: Path) -> list[Path]:
    """The visible entries of a folder in natural order; `MediaError` where it cannot be listed."""
    try:
        names = [e.name for e in os.scandir(folder) if not e.name.startswith(".")]
    except OSError as exc:
        raise MediaError(f"{folder}: cannot list this folder: {exc.strerror}") from exc
    return [folder / name for name in sorted(names, key=natural_key)]


def _walk(folder: Path) -> Iterator[tuple[Path, Literal["video", "images"]]]:
    entries = _entries(folder)
    images = images_of(folder)
    has_video = any(p.suffix.lower() in VIDEO_SUFFIXES and p.is_file() for p in entries)
    if images and not has_video:
        yield folder, "images"
    for path in entries:
        if path.is_dir():
            if not path.is_symlink():  # so there are no cycles, no clip twice and nothing from outside
                yield from _walk(path)
        elif path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
            yield path, "video"
        elif has_video and path in images:
            yield path, "images"


def _relative_name(root: Path, path: Path) -> Path:
    return Path(path.resolve().name) if path == root else path.relative_to(root)


def _safe(name: str) -> str:
    """`name` with only letters, digits, dots, dashes and underscores; never empty, hidden, reserved or too long."""
    safe = re.sub(r"[^\w.-]+", "_", name).strip(". ") or "_"
    if safe.split(".")[0].casefold() in _RESERVED:
        safe = f"_{safe}"
    return safe if len(safe) <= _LONGEST_NAME else f"{safe[: _LONGEST_NAME - 9]}-{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:8]


def _unique_names(paths: list[Path]) -> list[str]:
    """A name for each relative path: without its suffix where that is unique, else with it, else with a digest."""
    spellings: list[Callable[[Path], str]] = [
        lambda p: _safe("__".join((*p.parts[:-1], p.stem if p.suffix.lower() in _SUFFIXES else p.name))),
        lambda p: _safe("__".join(p.parts).replace(".", "_")),
        lambda p: f"{_safe('__'.join(p.parts))}-{_digest(p.as_posix())}",
    ]
    names = [spellings[0](p) for p in paths]
    for spelling in spellings[1:]:
        counts = Counter(n.casefold() for n in names)
        names = [spelling(p) if counts[n.casefold()] > 1 else n for p, n in zip(paths, names, strict=True)]
    return names
