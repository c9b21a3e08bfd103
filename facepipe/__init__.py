"""facepipe: find, align, swap, composite and score faces in video, for deepfake research.

>>> import facepipe
>>> result = facepipe.run(source="alice/", target="bob/", out="RUN")  # doctest: +SKIP
>>> result.scores["identity"]["irv1"]["margin"]  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from facepipe.config import Config
    from facepipe.errors import FacepipeError
    from facepipe.gallery import faces
    from facepipe.pipeline import Outcome, Result, align, detect, run, score, swap, train
    from facepipe.viewer import preview

# The stages' modules carry the same names as the functions, so both are served lazily from here: torch and OpenCV
# load when a function is first asked for.
_HOME = {
    "Config": "facepipe.config",
    "FacepipeError": "facepipe.errors",
    "Outcome": "facepipe.pipeline",
    "Result": "facepipe.pipeline",
    "align": "facepipe.pipeline",
    "detect": "facepipe.pipeline",
    "faces": "facepipe.gallery",
    "preview": "facepipe.viewer",
    "run": "facepipe.pipeline",
    "score": "facepipe.pipeline",
    "swap": "facepipe.pipeline",
    "train": "facepipe.pipeline",
}

__all__ = [
    "Config",
    "FacepipeError",
    "Outcome",
    "Result",
    "__version__",
    "align",
    "detect",
    "faces",
    "preview",
    "run",
    "score",
    "swap",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
