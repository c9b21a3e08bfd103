"""facepipe: find, align, swap, composite and score faces in video, for deepfake research."""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["__version__"]
