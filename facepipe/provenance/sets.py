"""A signed list of a folder's files: one signature for a whole data set.

The list is a plain ``SHA256SUMS``, which ``sha256sum --check`` reads too, and its content credentials lie beside it.
Signing file by file would salt each of them, so that no two exports had the same bytes; pictures in shards could not
be signed at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from facepipe.errors import MediaError
from facepipe.provenance.credentials import SIDECAR, sign_file
from facepipe.provenance.identity import Identity
from facepipe.workspace import atomic_path, file_sha256

__all__ = ["SUMS", "find_set", "read_sums", "sign_folder", "wrong_files"]

SUMS = "SHA256SUMS"
"""Name of the list, at the folder's root."""

_LONGEST = 1 << 28  # bytes of a list: some millions of files


def sign_folder(
    root: Path, statement: dict[str, Any], identity: Identity, *, told: Callable[[], None] = lambda: None
) -> None:
    """List all files of a folder with their hashes, and sign the list.

    Parameters
    ----------
    root : Path
        The folder. Hidden files are left out.
    statement : dict
        What is said of all of them; see `facepipe.provenance.label`.
    identity : Identity
        Who signs.
    told : callable
        Called after each file.

    Raises
    ------
    MediaError
        A file cannot be read, or the list cannot be written or signed.
    """
    path, lines = root / SUMS, []
    for name in sorted(_files(root)):
        lines.append(f"{file_sha256(root / name)}  {name}\n")
        told()
    try:
        with atomic_path(path) as part:
            part.write_text("".join(lines), encoding="utf-8")
            sign_file(part, path, statement, (), identity)
    except OSError as exc:
        raise MediaError(f"{path}: cannot be written: {exc.strerror or exc}") from exc


def _files(root: Path) -> Iterator[str]:
    """The files of a set below its root, by their names in the list."""
    own = {SUMS, f"{SUMS}{SIDECAR}"}
    for path in root.rglob("*"):
        name = path.relative_to(root)
        if path.is_file() and str(name) not in own and not any(part.startswith(".") for part in name.parts):
            yield name.as_posix()


def find_set(path: Path) -> tuple[Path, str] | None:
    """The nearest signed folder above a file whose list has it, and the file's name there."""
    whole = path.absolute()
    for root in whole.parents:
        if (root / SUMS).is_file() and (root / f"{SUMS}{SIDECAR}").is_file():
            name = whole.relative_to(root).as_posix()
            return (root, name) if name in read_sums(root) else None
    return None


def read_sums(root: Path) -> dict[str, str]:
    """Hashes of a folder's files by name, as its list has them; empty where it is none."""
    path = root / SUMS
    try:
        stat = path.stat()
        return _parsed(path, stat.st_mtime_ns, stat.st_size) if stat.st_size <= _LONGEST else {}
    except (OSError, UnicodeDecodeError):
        return {}


@lru_cache(4)
def _parsed(path: Path, _changed: int, _size: int) -> dict[str, str]:
    rows = (line.partition("  ") for line in path.read_text(encoding="utf-8").split("\n"))
    return {name: sha256 for sha256, _, name in rows if _is_below(name)}


def _is_below(name: str) -> bool:
    """Whether a name leads to a file below the folder: others are no names of `sign_folder`'s."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def wrong_files(root: Path) -> Iterator[str]:
    """What a folder lacks, has besides, or has otherwise than its list says; a line each."""
    known, there = read_sums(root), set(_files(root))
    for name in sorted(known.keys() | there):
        if name not in there:
            yield f"{root / name}: missing, and {SUMS} lists it"
        elif name not in known:
            yield f"{root / name}: not in {SUMS}"
        elif file_sha256(root / name) != known[name]:
            yield f"{root / name}: not the file that {SUMS} lists"
