"""Still images: RGB in and out, sizes known before pixels are decoded, written whole or not at all."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from facepipe.errors import MediaError, MediaLimitError, UsageError
from facepipe.types import Image
from facepipe.video.color import over_black
from facepipe.video.source import Limits, check_file, reading

__all__ = ["decode_image", "is_animated", "publish", "read_image", "read_tags", "stored_size", "write_image"]

_WRITABLE = (".png", ".jpg", ".jpeg")
_JPEG_QUALITY = 95
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_LONGEST_COMMENT = 0xFFFF - 3  # bytes of key and text in a JPEG
_PNG_HEADER = 33  # bytes, with the header's chunk
_LEAST, _DEEPEST = 1 << 24, 8  # bytes that any file may have; bytes of a pixel of four channels of 16 bits


def read_image(path: str | Path, limits: Limits | None = None, *, deep: Literal["scale", "refuse"] = "scale") -> Image:
    """A still image as RGB.

    The EXIF orientation is applied, grey becomes RGB, 16 bit are scaled to 8, and transparent images are composited
    on black (there without the orientation, which such files hardly ever have).

    Parameters
    ----------
    path : str or Path
        A BMP, JPEG, PNG, TIFF or WebP file; of an animated one the first picture is read.
    limits : Limits, optional
        Refuse larger ones, judged by the header before the pixels are decoded.
    deep : {"scale", "refuse"}
        What becomes of more than 8 bits a channel: scaled to 8, or refused (where a number is made from them).

    Returns
    -------
    (H, W, 3) uint8 array

    Raises
    ------
    MediaError
        The file is missing, empty, not an image, or too deep.
    MediaLimitError
        It has more pixels than allowed.
    """
    path = Path(path)
    check_file(path)
    limits = limits or Limits()
    with reading(path):
        size = path.stat().st_size
        if size > _LEAST + _DEEPEST * limits.max_pixels:
            raise MediaLimitError(f"{path}: has {size} bytes, more than {limits.max_pixels} pixels need; shrink it")
        data = path.read_bytes()
    return decode_image(path, data, limits, deep=deep)


def decode_image(
    path: Path, data: bytes, limits: Limits | None = None, *, deep: Literal["scale", "refuse"] = "scale"
) -> Image:
    """As `read_image` does it, from bytes; `path` is what errors name."""
    (limits or Limits()).check_size(path, *stored_size(path, data))
    buffer = np.frombuffer(data, np.uint8)
    try:
        # Only this way is alpha kept, but then EXIF is not obeyed. JPEG has no alpha.
        raw = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED) if not data.startswith(_JPEG) else None
        transparent = raw is not None and raw.ndim == 3 and raw.shape[2] == 4
        image = raw if transparent else cv2.imdecode(buffer, cv2.IMREAD_COLOR)
    except cv2.error as exc:
        raise MediaError(f"{path}: is a broken image: {' '.join(str(exc).split())}") from exc
    if image is None:
        raise MediaError(f"{path}: is a broken image, or of a kind that cannot be decoded")
    if raw is not None and raw.dtype != np.uint8 and deep == "refuse":
        raise MediaError(f"{path}: expected 8 bits a channel, got {raw.dtype}; convert it first")
    if transparent:
        eight = image if image.dtype == np.uint8 else cv2.convertScaleAbs(image, alpha=1 / 257)
        return over_black(cv2.cvtColor(eight, cv2.COLOR_BGRA2RGBA))
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def write_image(
    path: str | Path,
    image: Image,
    *,
    tags: Mapping[str, str] | None = None,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Write RGB pixels as PNG or JPEG (quality 95), whole or not at all.

    Parameters
    ----------
    path : str or Path
        Ends in ``.png``, ``.jpg`` or ``.jpeg``.
    image : (H, W, 3) or (H, W) uint8 array
        RGB or grey.
    tags : mapping of str to str, optional
        Kept in the file as text of ASCII, where `read_tags` finds it.
    finish : callable, optional
        Called with the finished file before it gets its name, which it may replace.

    Raises
    ------
    UsageError
        Another suffix.
    MediaError
        The file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in _WRITABLE:
        raise UsageError(f"{path}: cannot write '{path.suffix}' images, expected one of {' '.join(_WRITABLE)}")
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"expected (H, W, 3) or (H, W) uint8, got {image.shape} {image.dtype}")
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    suffix = path.suffix.lower()
    options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if suffix in (".jpg", ".jpeg") else []
    done, data = cv2.imencode(suffix, pixels, options)
    if not done:
        raise MediaError(f"{path}: an image of shape {image.shape} cannot be encoded")
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_bytes(_with_tags(path, data.tobytes(), tags or {}))
        if finish is not None:
            finish(part)
        publish(part, path)
    except OSError as exc:
        raise MediaError(f"{path}: cannot be written: {exc.strerror}") from exc
    finally:
        part.unlink(missing_ok=True)


def _with_tags(path: Path, data: bytes, tags: Mapping[str, str]) -> bytes:
    """A PNG or JPEG with its texts behind its header: chunks ``tEXt``, or comments ``key=text``."""
    texts = [(key.encode("ascii"), text.encode("ascii", "backslashreplace")) for key, text in tags.items()]
    if data.startswith(_JPEG):
        if max((len(key) + len(text) for key, text in texts), default=0) > _LONGEST_COMMENT:
            raise MediaError(f"{path}: its label is too long for a JPEG; write a .png")
        parts = [b"\xff\xfe" + struct.pack(">H", len(key) + len(text) + 3) + key + b"=" + text for key, text in texts]
        return data[:2] + b"".join(parts) + data[2:]
    bodies = [b"tEXt" + key + b"\0" + text for key, text in texts]
    parts = [struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) for body in bodies]
    return data[:_PNG_HEADER] + b"".join(parts) + data[_PNG_HEADER:]


def read_tags(path: str | Path) -> dict[str, str]:
    """The texts that `write_image` kept in a PNG or JPEG; empty for other images.

    Raises
    ------
    MediaError
        The file is missing, empty, or cut off within its header.
    """
    path = Path(path)
    check_file(path)
    with reading(path):
        data = path.read_bytes()
    if not data.startswith((_PNG, _JPEG)):
        return {}
    try:
        found = list(_png_texts(data) if data.startswith(_PNG) else _jpeg_texts(data))
    except IndexError as exc:
        raise MediaError(f"{path}: is an image that was cut off") from exc
    return {key.decode("latin-1"): text.decode("latin-1") for key, text in found}


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk; IndexError for one that is longer than the file."""
    at = len(_PNG)
    while at < len(data):
        start, at = at + 8, at + 12 + _number(data, at, 4, "big")
        if at > len(data):
            raise IndexError(at)
        yield data[start - 4 : start], data[start : at - 4]


def _png_texts(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    for kind, content in _png_chunks(data):
        if kind == b"tEXt":
            key, _, text = content.partition(b"\0")
            yield key, text


def _jpeg_texts(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 2
    while _number(data, at, 1) == 0xFF and data[at + 1] != 0xDA:  # up to the start of the scan
        length = _number(data, at + 2, 2, "big")
        key, found, text = data[at + 4 : at + 2 + length].partition(b"=")
        if data[at + 1] == 0xFE and found:
            yield key, text
        at += 2 + max(2, length)


def publish(part: Path, path: Path) -> None:
    """Rename a finished file to its final name once its bytes are on the disk."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


def stored_size(path: Path, data: bytes) -> tuple[int, int]:
    """Height and width as the header states them, before any orientation; `MediaError` if it is no known image."""
    for starts, parse in _PARSERS:
        if data.startswith(starts):
            try:
                height, width = parse(data)
            except (IndexError, ValueError) as exc:
                raise MediaError(f"{path}: is an image with a broken header, or cut off within its header") from exc
            if height < 1 or width < 1:
                raise MediaError(f"{path}: is a broken image: its header says {width}x{height}")
            return height, width
    raise MediaError(f"{path}: is not an image of a known kind (BMP, JPEG, PNG, TIFF, WebP)")


def is_animated(path: Path) -> bool:
    """Whether a WebP or PNG file has more pictures than the one that `read_image` gives."""
    with reading(path), path.open("rb") as file:
        start = file.read(4096)
    if start[12:16] == b"VP8X":  # https://developers.google.com/speed/webp/docs/riff_container
        return bool(_number(start, 20, 1) & 2)
    return start.startswith(b"\x89PNG") and b"acTL" in start  # PNG 3rd edition, 11.3.6.1


def _number(data: bytes, at: int, length: int, order: str = "little") -> int:
    field = data[at : at + length]
    if len(field) < length:
        raise IndexError(at)
    return int.from_bytes(field, "little" if order == "little" else "big")


def _png(data: bytes) -> tuple[int, int]:
    if data[12:16] != b"IHDR":
        raise ValueError("no header")
    for _ in _png_chunks(data):  # one longer than the file would be allocated before anyone looks
        pass
    return _number(data, 20, 4, "big"), _number(data, 16, 4, "big")


def _jpeg(data: bytes) -> tuple[int, int]:
    at = 2
    while True:
        while _number(data, at, 1) == 0xFF and _number(data, at + 1, 1) == 0xFF:  # fill bytes
            at += 1
        if _number(data, at, 1) != 0xFF:
            raise ValueError("no marker")
        marker = _number(data, at + 1, 1)
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # these stand alone, without a length
            at += 2
            continue
        # Start of frame: C0 to CF but DHT (C4), JPG (C8) and DAC (CC); ITU-T T.81, table B.1.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return _number(data, at + 5, 2, "big"), _number(data, at + 7, 2, "big")
        at += 2 + _number(data, at + 2, 2, "big")


def _bmp(data: bytes) -> tuple[int, int]:
    if _number(data, 14, 4) == 12:  # BITMAPCOREHEADER
        return _number(data, 20, 2), _number(data, 18, 2)
    height = _number(data, 22, 4)
    return min(height, 2**32 - height), _number(data, 18, 4)  # negative: stored from the top


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return _number(data, 27, 3) + 1, _number(data, 24, 3) + 1
    if kind == b"VP8L":
        bits = _number(data, 21, 4)
        return ((bits >> 14) & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    return _number(data, 28, 2) & 0x3FFF, _number(data, 26, 2) & 0x3FFF


def _tiff(data: bytes) -> tuple[int, int]:
    order = "little" if data[:2] == b"II" else "big"
    at = _number(data, 4, 4, order)
    found: dict[int, int] = {}
    for entry in range(at + 2, at + 2 + 12 * _number(data, at, 2, order), 12):
        tag, kind = _number(data, entry, 2, order), _number(data, entry + 2, 2, order)
        if tag in (256, 257):
            if kind not in (3, 4) or tag in found:  # other types may say elsewhere in the file how large it is
                raise ValueError("no plain size")
            found[tag] = _number(data, entry + 8, 2 if kind == 3 else 4, order)
    if len(found) < 2:
        raise ValueError("no size")
    return found[257], found[256]


_PARSERS: tuple[tuple[bytes | tuple[bytes, ...], Callable[[bytes], tuple[int, int]]], ...] = (
    (_PNG, _png),
    (_JPEG, _jpeg),
    (b"BM", _bmp),
    (b"RIFF", _webp),
    ((b"II*\0", b"MM\0*"), _tiff),
)
