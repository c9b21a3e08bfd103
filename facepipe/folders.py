"""Where a user's own files lie, by the platform's rules."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

__all__ = ["user_folder"]

# kind -> variable and folder on Windows, folder on macOS, variable and folder elsewhere; folders below the home
_PLACES = {
    "cache": ("LOCALAPPDATA", "AppData/Local", "Library/Caches", "XDG_CACHE_HOME", ".cache"),
    "settings": ("APPDATA", "AppData/Roaming", "Library/Application Support", "XDG_CONFIG_HOME", ".config"),
}


def user_folder(kind: Literal["cache", "settings"]) -> Path:
    """facepipe's folder for caches or for settings; it may not be there yet."""
    windows, roaming, mac, xdg, dotted = _PLACES[kind]
    if sys.platform == "win32":
        base = Path(os.environ.get(windows, Path.home() / roaming))
    elif sys.platform == "darwin":
        base = Path.home() / mac
    else:
        base = Path(os.environ.get(xdg) or Path.home() / dotted)
    return base / "facepipe"
