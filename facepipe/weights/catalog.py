"""The catalogue: which files there are, what they are, where they come from and which hash they have.

``models/catalog.toml`` (in a wheel: ``facepipe/models/catalog.toml``) is ours; the environment variable
``FACEPIPE_CATALOG`` may name further files of the same form, separated like a search path.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from facepipe.errors import ConfigError, UsageError

__all__ = ["KINDS", "Entry", "Package", "PackageSource", "ReleaseSource", "entries", "entry"]

KINDS = ("detector", "landmarks", "identity", "features", "clip")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Package:
    """A pinned package of the user's package index.

    Attributes
    ----------
    name, version : str
        As the index knows them.
    python, platform : str
        Which wheel to ask for. Nothing is installed or run, so any machine may read any platform's wheel.
    sdist : bool
        A source archive; `archive_sha256` is required then, and checked before the archive is opened.
    archive_sha256 : str
        Hash of the archive; empty when only the member's hash is checked.
    archive_bytes : int
        Size of the download; 0 when not known.
    """

    name: str
    version: str
    python: str = "3.11"
    platform: str = ""
    sdist: bool = False
    archive_sha256: str = ""
    archive_bytes: int = 0

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True)
class PackageSource:
    """A member of a package, by its path inside (for a source archive: below its top folder)."""

    package: Package
    member: str

    def __str__(self) -> str:
        return f"package {self.package}"


@dataclass(frozen=True, slots=True)
class ReleaseSource:
    """The model's own release: an https address, or a ``file://`` one for a local copy."""

    url: str

    def __str__(self) -> str:
        host = self.url.split("/")[2] or "file"
        return f"its own release ({host})"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file that facepipe can use.

    Attributes
    ----------
    name : str
        What it is called here: ``irv1``, ``single_face.mp4``.
    kind : str
        One of `KINDS`.
    file : str
        File name in the cache.
    bytes : int
        Exact size; 0 when not known.
    sha256 : str
        64 hexadecimal digits, or empty.
    sha256_prefix : str
        The first digits where only those are known; empty otherwise. Without either, a file is taken only from a
        path that the user gives, or with the hash that the user gives to `facepipe.weights.pull`.
    licence, note : str
        As the package or release states it; what the file is good for.
    input, colour, range : str
        What the net wants: size, order of channels, range of values. For clips `input` says what is in it.
    default : bool
        Part of the default set.
    sources : tuple of PackageSource or ReleaseSource
        Tried in order.
    """

    name: str
    kind: str
    file: str
    bytes: int
    licence: str
    sha256: str = ""
    sha256_prefix: str = ""
    note: str = ""
    input: str = ""
    colour: str = ""
    range: str = ""
    default: bool = False
    sources: tuple[PackageSource | ReleaseSource, ...] = ()

    @property
    def digest(self) -> str:
        """The hash, or as much of it as is known."""
        return self.sha256 or self.sha256_prefix

    @property
    def source(self) -> str:
        """The first source in words."""
        return str(self.sources[0]) if self.sources else "a path that you give"

    @property
    def variable(self) -> str:
        """Environment variable that may name a file to use instead: ``FACEPIPE_WEIGHTS_<NAME>``."""
        return "FACEPIPE_WEIGHTS_" + re.sub(r"[^A-Z0-9]", "_", self.name.upper())


def entries() -> dict[str, Entry]:
    """All entries by name, ours first, then those of ``FACEPIPE_CATALOG``.

    Raises
    ------
    ConfigError
        A catalogue cannot be read, or has an unknown key or a wrong value.
    """
    extra = tuple(Path(p) for p in os.environ.get("FACEPIPE_CATALOG", "").split(os.pathsep) if p)
    found: dict[str, Entry] = {}
    for path in (_own_catalogue(), *extra):
        try:
            found |= _read(path, path.stat().st_mtime_ns)
        except OSError as exc:
            raise ConfigError(f"{path}: the catalogue cannot be read ({exc.strerror}); see FACEPIPE_CATALOG") from exc
    return found


def entry(name: str) -> Entry:
    """The entry of that name.

    Raises
    ------
    UsageError
        There is none; the message has the names that are near.
    """
    known = entries()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}"
    raise UsageError(f"{name}: not in the catalogue of weights and clips; {hint}")


def _own_catalogue() -> Path:
    package = Path(__file__).parents[1]
    in_wheel, in_checkout = package / "models" / "catalog.toml", package.parent / "models" / "catalog.toml"
    return in_wheel if in_wheel.is_file() else in_checkout


@functools.lru_cache(maxsize=8)
def _read(path: Path, _modified: int) -> dict[str, Entry]:
    try:
        text = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"{path}: not a catalogue: {exc}") from exc
    unknown = set(text) - {"package", "weights", "clip"}
    if unknown:
        raise ConfigError(f"{path}: unknown table {sorted(unknown)[0]!r}; expected package, weights or clip")
    for kind, tables in text.items():
        right = isinstance(tables, dict) and all(isinstance(table, dict) for table in tables.values())
        _expect(right, str(path), kind, f"tables [{kind}.NAME]", repr(tables))
    packages = {n: _package(n, t, f"{path}: package.{n}") for n, t in text.get("package", {}).items()}
    found = {n: _entry(n, t, packages, f"{path}: weights.{n}") for n, t in text.get("weights", {}).items()}
    for name, table in text.get("clip", {}).items():
        found[name] = _entry(name, {"kind": "clip", "file": name, **table}, packages, f"{path}: clip.{name}")
    return found


def _package(name: str, table: Mapping[str, Any], where: str) -> Package:
    made = _build(Package, {**table, "name": name}, where)
    _expect(_is_hash(made.archive_sha256), where, "archive_sha256", "64 hexadecimal digits", made.archive_sha256)
    if made.sdist:
        _expect(made.archive_sha256 != "", where, "archive_sha256", "the hash of the source archive", "nothing")
    return made


def _entry(name: str, table: Mapping[str, Any], packages: Mapping[str, Package], where: str) -> Entry:
    told = table.get("sources", [])
    _expect(isinstance(told, list), where, "sources", "a list", repr(told))
    sources = tuple(_source(s, packages, where) for s in told)
    made = _build(Entry, {**table, "name": name, "sources": sources}, where)
    plain = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
    for key in ("name", "file"):
        value = getattr(made, key)
        _expect(plain.fullmatch(value) is not None, where, key, "letters, digits, '.', '_', '-'", value)
    _expect(made.kind in KINDS, where, "kind", " | ".join(KINDS), made.kind)
    _expect(made.bytes >= 0, where, "bytes", "0 or more", made.bytes)
    _expect(made.licence != "", where, "licence", "the licence", "nothing")
    _expect(_is_hash(made.sha256), where, "sha256", "64 hexadecimal digits", made.sha256)
    prefix = made.sha256_prefix
    _expect(not prefix or re.fullmatch("[0-9a-f]{8,63}", prefix), where, "sha256_prefix", "8 to 63 digits", prefix)
    return made


def _source(table: Any, packages: Mapping[str, Package], where: str) -> PackageSource | ReleaseSource:
    keys = set(table) if isinstance(table, dict) else set()
    if keys == {"url"}:
        url = str(table["url"])
        _expect(url.startswith(("https://", "file://")), where, "url", "an https:// or file:// address", url)
        return ReleaseSource(url)
    _expect(keys == {"package", "member"}, where, "sources", "{ package, member } or { url }", table)
    package, member = str(table["package"]), PurePosixPath(str(table["member"]))
    _expect(package in packages, where, "package", "a [package.NAME] of the same file", package)
    _expect(not member.is_absolute() and ".." not in member.parts, where, "member", "a path inside", str(member))
    return PackageSource(packages[package], str(member))


def _build(cls: type[_T], table: Mapping[str, Any], where: str) -> _T:
    """`cls` from a table, with every key and type checked."""
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key, value in table.items():
        _expect(key in known, where, key, f"one of {', '.join(known)}", "an unknown key")
        wanted = {"str": str, "int": int, "bool": bool}.get(str(known[key].type), tuple)
        _expect(type(value) is wanted, where, key, wanted.__name__, repr(value))
    for key, field in known.items():
        _expect(key in table or field.default is not MISSING, where, key, "a value", "nothing")
    return cls(**table)


def _is_hash(text: str) -> bool:
    return text == "" or re.fullmatch("[0-9a-f]{64}", text) is not None


def _expect(holds: object, where: str, key: str, expected: str, got: object) -> None:
    if not holds:
        raise ConfigError(f"{where}: {key}: expected {expected}, got {got}")
