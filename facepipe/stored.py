"""Tables and arrays from files that may be damaged or made by somebody else: what is read is bounded by the file.

Parquet and compressed archives expand: a few hundred bytes can promise, and even hold, a thousand million rows. So
tables are read in pieces and given up once they are far larger than any that facepipe writes, and arrays are taken
only where the file holds as many bytes as its header says.
"""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

__all__ = ["DAMAGED", "array_of", "read_array", "read_arrays", "read_table"]

DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, EOFError, pa.ArrowException)
"""What comes of a file that is not what its reader takes it for."""

_ROWS = 8192  # rows of a table that are read at once
_LEAST = 64 << 20  # bytes that any table may have in memory
_GROWTH = 200  # how many times its file a larger one may be; those that facepipe writes stay below 20


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Columns of a Parquet file, in this order; all of them by default.

    Raises
    ------
    OSError, ValueError, KeyError, pyarrow.ArrowException
        The file is missing or damaged, lacks a column, or expands beyond all measure.
    """
    most = max(_LEAST, _GROWTH * path.stat().st_size)
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        names = schema.names if columns is None else columns
        if any(pa.types.is_dictionary(schema.field(name).type) for name in names):
            raise ValueError("has dictionaries, which facepipe does not write: they expand later")
        size = 8 * file.metadata.num_rows * len(names)
        batches = []
        for batch in file.iter_batches(_ROWS, columns=names) if size <= most else ():
            batches.append(batch)
            size += batch.nbytes
            if size > most:
                break
        if size > most:
            raise ValueError(f"expands to more than {most} bytes")
    wanted = pa.schema([schema.field(name) for name in names], schema.metadata)
    return pa.Table.from_batches([batch.select(names) for batch in batches], wanted)


def read_array(path: Path) -> NDArray[Any]:
    """A ``.npy`` file, memory-mapped: nothing is read before it is used.

    Raises
    ------
    OSError, ValueError
        The file is missing, or not as long as its header says.
    """
    with path.open("rb") as file:
        shape, dtype, order = _header(file, path.stat().st_size)
        offset = file.tell()
    if math.prod(shape) == 0:  # nothing cannot be mapped
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape, order)


def array_of(data: bytes) -> NDArray[Any]:
    """The array of a ``.npy`` file's bytes; ValueError when they are not as many as its header says."""
    return _array(io.BytesIO(data), len(data))


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a ``.npz`` file that is not compressed.

    Raises
    ------
    OSError, ValueError
        The file is missing, damaged or compressed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return {info.filename.removesuffix(".npy"): _member(archive, info) for info in archive.infolist()}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as exc:  # the latter: encrypted
        raise ValueError(str(exc)) from exc


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed")
    with archive.open(info) as file:
        return _array(file, info.file_size)


def _array(file: IO[bytes], size: int) -> NDArray[Any]:
    shape, dtype, order = _header(file, size)
    return np.frombuffer(bytearray(file.read()), dtype).reshape(shape, order=order)


def _header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], np.dtype[Any], Literal["C", "F"]]:
    """Shape, type and order of an array whose file has `size` bytes; the file is left where its numbers begin."""
    try:
        if np.lib.format.read_magic(file) != (1, 0):  # type: ignore[no-untyped-call, unused-ignore]
            raise ValueError("is an array of another version")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call, unused-ignore]
    except (tokenize.TokenError, SyntaxError, RecursionError, MemoryError) as exc:  # the header is Python's own text
        raise ValueError("has a broken header") from exc
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"is an array of a kind that facepipe does not write ({dtype})")
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"promises {shape} {dtype}, and holds another number of bytes")
    return shape, dtype, "F" if fortran else "C"
