"""Memory that is free goes back to the system: glibc keeps it for the threads that had it, hundreds of megabytes."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["give_back", "share_arenas"]

_ARENA_MAX = -8  # malloc.h, M_ARENA_MAX
_ARENAS = 2


def share_arenas() -> None:
    """Let all threads of this process take memory from the same two places; for a process that is facepipe's own.

    Arrow too, whose own pool would keep what a table was read with: it looks at the variable when it is imported.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if (libc := _glibc()) is not None:
        libc.mallopt(_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Return what is free; milliseconds, after work that took much."""
    if (libc := _glibc()) is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
        _ = libc.mallopt, libc.malloc_trim
    except (OSError, AttributeError):  # musl
        return None
    return libc
