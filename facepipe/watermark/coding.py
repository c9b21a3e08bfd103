"""A number as signs that stand some errors: a check sum, and the extended Golay code with soft decisions."""

from __future__ import annotations

import binascii
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["LENGTH", "PAYLOAD_BITS", "decode", "encode"]

PAYLOAD_BITS = 32
"""Bits of the number."""

_CHECK_BITS = 16  # CRC-16/XMODEM: polynomial x^16 + x^12 + x^5 + 1
_DATA, _WORD = 12, 24
_WORDS = (PAYLOAD_BITS + _CHECK_BITS) // _DATA
LENGTH = _WORDS * _WORD
"""Signs of an encoded number."""

_GOLAY = 0b110001110101  # x^11 + x^10 + x^6 + x^5 + x^4 + x^2 + 1 divides x^23 + 1 (Golay 1949)


def encode(number: int) -> NDArray[np.int8]:
    """(`LENGTH`,) array of -1 and 1 for a number of `PAYLOAD_BITS` bits.

    A check sum follows the number; each 12 bits become a word of the extended Golay code [24, 12, 8].

    Raises
    ------
    ValueError
        The number is negative or too large.
    """
    if not 0 <= number < 1 << PAYLOAD_BITS:
        raise ValueError(f"number: expected one of {PAYLOAD_BITS} bits, got {number}")
    whole = number << _CHECK_BITS | _check(number)
    parts = [whole >> _DATA * i & (1 << _DATA) - 1 for i in reversed(range(_WORDS))]
    return _codebook()[parts].reshape(-1)


def decode(soft: NDArray[np.floating]) -> int | None:
    """The number whose signs agree best with `soft`, or None where its check sum is wrong.

    Parameters
    ----------
    soft : (`LENGTH`,) array
        One value a sign; the further from 0, the surer. Each word is the likeliest one under Gaussian noise.
    """
    words = np.asarray(soft, np.float32).reshape(_WORDS, _WORD)
    whole = 0
    for part in (words @ _codebook().T.astype(np.float32)).argmax(1):
        whole = whole << _DATA | int(part)
    number = whole >> _CHECK_BITS
    return number if _check(number) == whole & (1 << _CHECK_BITS) - 1 else None


def _check(number: int) -> int:
    # Begun with ones, so that 0 with a check sum of 0 is no codeword: a silent picture says nothing.
    return binascii.crc_hqx(number.to_bytes(PAYLOAD_BITS // 8), 0xFFFF)


@cache
def _codebook() -> NDArray[np.int8]:
    """(4096, 24) signs of all words: 12 bits, 11 of division by the polynomial, and the parity of all."""
    words = []
    for data in range(1 << _DATA):
        rest = data << 11
        for shift in reversed(range(_DATA)):
            if rest >> shift + 11 & 1:
                rest ^= _GOLAY << shift
        word = data << 11 | rest
        words.append(word << 1 | word.bit_count() & 1)
    bits = np.array(words)[:, None] >> np.arange(_WORD)[::-1] & 1
    return (2 * bits - 1).astype(np.int8)
