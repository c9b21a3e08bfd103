"""Every error that facepipe raises on purpose.

::

    FacepipeError
    ├── UsageError                 the call itself is wrong                      exit code 2
    │   └── ConfigError            a setting is unknown or has a wrong value     (also ValueError)
    ├── MediaError                 a file cannot be read as video or image       (also ValueError)
    │   ├── MediaLimitError        it could, but is larger than the limits allow
    │   └── ContainerError         the kind of file that is to be written cannot hold a stream
    ├── NoFaceError                no face where one is needed
    ├── DegenerateLandmarksError   points that fix no transform                  (also ValueError)
    ├── WeightsError               weights are missing or cannot be loaded
    │   ├── WeightsMissingError    not on this machine, and how to get them      (also FileNotFoundError)
    │   └── WeightsHashError       the file is not the one the catalogue names
    ├── TrainingError              a training cannot start, go on, or be trusted
    │   └── CheckpointError        a checkpoint is damaged, or belongs to another net  (also ValueError)
    ├── RunFolderError             the run folder is of another version, or not one
    │   └── RunFolderBusyError     another process works in it
    ├── EngineError                worker processes cannot be started
    └── ClipsFailedError           the work is done but for some clips           exit code 1

Whoever catches `FacepipeError` catches them all; those that also are a standard-library class can be
caught as that. A message is one line: the file, the reason, the way out.
"""

from __future__ import annotations

import unicodedata

__all__ = [
    "CheckpointError",
    "ClipsFailedError",
    "ConfigError",
    "ContainerError",
    "DegenerateLandmarksError",
    "EngineError",
    "FacepipeError",
    "MediaError",
    "MediaLimitError",
    "NoFaceError",
    "RunFolderBusyError",
    "RunFolderError",
    "TrainingError",
    "UsageError",
    "WeightsError",
    "WeightsHashError",
    "WeightsMissingError",
    "one_line",
]


_UNSEEN = frozenset({"Cc", "Cs", "Zl", "Zp"})
"""Control characters, ends of lines, bytes that are no text: names of files may have them, messages may not."""


def one_line(text: str) -> str:
    """A text that one line shows as it is: what would end the line, or is not seen, is written as in Python."""
    return "".join(c if unicodedata.category(c) not in _UNSEEN else ascii(c)[1:-1] for c in text)


class FacepipeError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the CLI ends with."""

    exit_code = 1

    def __str__(self) -> str:
        return one_line(super().__str__())


class UsageError(FacepipeError):
    """The call itself is wrong: a missing folder, arguments that exclude each other."""

    exit_code = 2


class ConfigError(UsageError, ValueError):
    """A setting is unknown, or its value is out of range."""


class MediaError(FacepipeError, ValueError):
    """A file cannot be read as what it claims to be."""


class MediaLimitError(MediaError):
    """A file is larger than the limits allow (pixels, frames)."""


class ContainerError(MediaError):
    """A kind of file (mp4, mov) cannot hold a stream that shall go into it; Matroska can hold nearly all."""


class NoFaceError(FacepipeError):
    """There is no face where one is needed."""


class DegenerateLandmarksError(FacepipeError, ValueError):
    """Points that do not determine the transform asked for."""


class WeightsError(FacepipeError):
    """Weights are missing, altered, or of another architecture."""


class WeightsMissingError(WeightsError, FileNotFoundError):
    """Weights are not on this machine; the message says how to get them."""


class WeightsHashError(WeightsError):
    """A weights file does not have the sha256 that the catalogue names."""


class TrainingError(FacepipeError):
    """A training cannot start, cannot go on, or has diverged for good."""


class CheckpointError(TrainingError, ValueError):
    """A checkpoint is damaged, is no safetensors file, or belongs to another net."""


class RunFolderError(FacepipeError):
    """The run folder is of another version, or is not a run folder."""

    exit_code = 2


class RunFolderBusyError(RunFolderError):
    """Another live process works in the run folder."""


class EngineError(FacepipeError):
    """Worker processes cannot be started."""


class ClipsFailedError(FacepipeError):
    """The work is done, but for some clips; the message and the report name them."""
