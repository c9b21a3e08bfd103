"""What all stages of a call share: settings, run folder, clips, nets, and what is known of each clip."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from facepipe import weights
from facepipe.backends.embedders import Embedder, load_embedder
from facepipe.config import Config
from facepipe.errors import UsageError
from facepipe.finder import Models, load_models
from facepipe.overlap import ahead
from facepipe.pipeline.outcome import Listener, Progress, Result, Stage
from facepipe.provenance import weight_names
from facepipe.stages.swap import SwappedFrame
from facepipe.types import Side
from facepipe.video import Clip, ClipReader, Frame, Limits, open_clip, with_pixels
from facepipe.workspace import Workspace, digest

if TYPE_CHECKING:  # what needs torch is imported where it is used: most runs train nothing, or have nothing to do
    from facepipe.backends.features import FeatureNet

__all__ = ["VERSION", "Context", "choose_device", "library_versions"]

Numbered = TypeVar("Numbered", Frame, SwappedFrame)

# Raise a stage's number when its results change: run folders then do it again.
VERSION: Mapping[Stage, int] = {"detect": 5, "align": 6, "train": 2, "swap": 5, "score": 5}

# Threads of torch for nets that are not trained: fixed, because the last bits of what they say depend on it, and
# results must not depend on the machine or on the number of workers.
_NET_THREADS = 2
_AHEAD = 3  # frames that are decoded while others are looked at


class Context:
    """One call: the settings, the run folder, the nets (loaded when first needed), what became of each clip.

    Attributes
    ----------
    config : Config
        The settings.
    workspace : Workspace
        The run folder.
    clips : dict of Side to list of Clip
        All of them.
    progress : Listener
        The caller's.
    result : Result
        What the call did so far.
    keys : dict of (stage, side, clip) to str
        What each stage that is done was made of, as one digest.
    """

    def __init__(
        self, config: Config, workspace: Workspace, clips: dict[Side, list[Clip]], progress: Progress
    ) -> None:
        self.config = config
        self.workspace = workspace
        self.clips = clips
        self.progress = Listener(progress)
        self.result = Result(workspace.root)
        self.keys: dict[tuple[str, Side, str], str] = {}
        self._threads: int | None = None

    @cached_property
    def device(self) -> str:
        """Asked for before any net is loaded."""
        device = choose_device(self.config.device)
        self.fix_threads()
        return device

    def fix_threads(self) -> None:
        """Give torch the number of threads that results are made with."""
        import torch

        self._threads = self._threads or torch.get_num_threads()
        torch.set_num_threads(_NET_THREADS)

    def free_threads(self) -> None:
        """Give torch the threads that it had."""
        if self._threads is not None:
            import torch

            torch.set_num_threads(self._threads)

    @cached_property
    def models(self) -> Models:
        """Detector, landmarker and embedder."""
        return load_models(self.config.detect, device=self.device)

    @cached_property
    def judges(self) -> list[Embedder]:
        """The identity nets of the scores; the embedder is one of them where it can be."""
        own = self.models.embedder
        return [
            own if own is not None and own.name == name else load_embedder(name, device=self.device)
            for name in self.config.score.nets
        ]

    @cached_property
    def features(self) -> FeatureNet | None:
        """The net of the distances between sets of faces, if one is wanted."""
        from facepipe.backends.features import load_features

        name = self.config.score.features
        return None if name == "none" else load_features(name, device=self.device)

    def weights_of(self, stage: Stage) -> dict[str, str]:
        """Name and sha256 of every weights file that a stage loads."""
        known = weights.entries()
        return {name: known[name].digest for name in sorted(weight_names(self.config, scoring=stage == "score"))}

    def alive(self, stage: Stage, side: Side) -> list[Clip]:
        """The clips that came through a stage."""
        return [clip for clip in self.clips[side] if (stage, side, clip.name) in self.keys]

    def key(self, stage: Stage, **depends: Any) -> str:
        """What a stage depends on, as one digest."""
        return digest({"stage": stage, "version": VERSION[stage], **depends})

    def marker(self, stage: Stage, side: Side, clip: Clip) -> Path:
        """The file that says that a stage is done on a clip, and of what."""
        if stage == "swap":
            return self.workspace.swapped / f"{clip.name}.json"
        return self.workspace.clip_folder(side, clip.name) / f"{stage}.json"

    def open(self, clip: Clip, *, stop: int | None = None) -> ClipReader:
        """A clip within the limits; `stop` as in `open_clip`."""
        limits = self.config.limits
        return open_clip(clip, limits=Limits(max_pixels=limits.max_pixels, max_frames=limits.max_frames), stop=stop)

    def frames(self, stage: Stage, clip: Clip, reader: ClipReader) -> Iterator[Frame]:
        """The frames of a clip; `progress` hears of each."""
        return self.told(stage, clip, reader, reader)

    def pictures(self, stage: Stage, clip: Clip, reader: ClipReader) -> Generator[Frame, None, None]:
        """As `frames`; they are decoded and converted in a thread, a few ahead. Close it before the reader."""
        with ahead(with_pixels(reader), _AHEAD) as ready:
            yield from self.told(stage, clip, reader, ready)

    def told(self, stage: Stage, clip: Clip, reader: ClipReader, frames: Iterable[Numbered]) -> Iterator[Numbered]:
        """What was made of a clip's frames; `progress` hears of each, and of the end by a promise that is kept."""
        promised = reader.info.frames_promised or None
        done = 0
        self.progress(stage, clip.name, 0, promised)
        for frame in frames:
            yield frame
            done = frame.index + 1
            self.progress(stage, clip.name, done, None if promised == done else promised)
        self.progress(stage, clip.name, done, done)

    def first_reason(self) -> str:
        """The first failure, to be told where nothing is left."""
        return self.result.failed[0].reason if self.result.failed else "nothing was found"


def choose_device(name: str) -> str:
    """``auto`` resolved: cuda, mps or cpu, whichever is there.

    Raises
    ------
    UsageError
        The device that was asked for is not there.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, present in there.items() if present)
    if not there.get(name.partition(":")[0], False):
        raise UsageError(
            f"device {name!r} is not there; expected auto, or one of {[d for d, p in there.items() if p]}"
        )
    return name


def library_versions() -> dict[str, str]:
    """Versions of the libraries that results depend on."""
    names = ("av", "face-alignment", "facenet-pytorch", "numpy", "opencv-python", "scikit-image", "torch")
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "missing"
    return versions
