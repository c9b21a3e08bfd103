"""The stages wired together: what the command line, the Python functions and the scripts all call.

A call of a stage brings up to date whatever it needs and no more: ``swap`` detects and aligns first where that has
not been done with the same inputs and settings. One bad clip does not stop the others; it is an `Outcome` with a
reason.
"""

from __future__ import annotations

import math
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from facepipe import __version__, evaluation, truth, weights
from facepipe.backends.embedders import Embedder, InceptionResnetV1, load_embedder
from facepipe.boxes import area
from facepipe.composite import Compositor
from facepipe.config import Config, EngineConfig, build, load, to_toml
from facepipe.engine import Died, Pool, Tell
from facepipe.errors import (
    ContainerError,
    DegenerateLandmarksError,
    FacepipeError,
    MediaError,
    NoFaceError,
    RunFolderError,
    UsageError,
    WeightsMissingError,
)
from facepipe.finder import Models, load_models
from facepipe.methods.bank import ChosenCrops, SourceBank
from facepipe.methods.faceset import FaceSet, find_twins, held_out
from facepipe.methods.occlusion import Occlusion, WithOcclusion
from facepipe.methods.plan import Plan, rows_to_swap
from facepipe.methods.procrustes import plan_procrustes
from facepipe.people import mean_embedding, person_rows
from facepipe.provenance import (
    Identity,
    Input,
    consent_note,
    label,
    label_video,
    ledger_of,
    load_identity,
    prove,
    require_consent,
    sidecar_of,
    statement_of,
    weight_names,
)
from facepipe.report import write_report
from facepipe.selection import Selection, select
from facepipe.stages import score as scoring
from facepipe.stages.align import align_faces, crop_size
from facepipe.stages.detect import detect_faces
from facepipe.stages.swap import SwappedFrame, swap_frames, write_swap
from facepipe.types import OTHER, SIDES, Faces, Image, Side, VideoInfo, evenly_spaced
from facepipe.video import Clip, ClipReader, Frame, Limits, find_clips, open_clip, read_image
from facepipe.workspace import (
    CropWriter,
    Workspace,
    atomic_path,
    digest,
    read_crops,
    read_faces,
    read_json,
    write_faces,
    write_json,
    write_table,
)

if TYPE_CHECKING:  # what needs torch is imported where it is used: most runs train nothing, or have nothing to do
    from facepipe.backends.features import FeatureNet, Features
    from facepipe.methods.gan import Generator

__all__ = [
    "Outcome",
    "Progress",
    "Result",
    "align",
    "choose_device",
    "detect",
    "library_versions",
    "read_swapped",
    "resolve",
    "run",
    "score",
    "swap",
    "train",
]

Numbered = TypeVar("Numbered", Frame, SwappedFrame)
Stage = Literal["detect", "align", "train", "swap", "score"]
Progress = Callable[[str, str, int, int | None], None]
"""Called as ``progress(stage, clip, frames_done, frames_promised)``; the last may be None, and may be wrong."""

_DETECTED = "detected.parquet"
"""What stage detect found; align smooths it into ``faces.parquet``, and can do so again with other settings."""

# Raise a stage's number when its results change: run folders then do it again.
_VERSION: Mapping[Stage, int] = {"detect": 3, "align": 3, "train": 2, "swap": 1, "score": 3}

# Threads of torch for nets that are not trained: fixed, because the last bits of what they say depend on it, and
# results must not depend on the machine or on the number of workers.
_NET_THREADS = 2

# Faces of each clip that the feature net sees: so many, fewer where there are many clips, and at least some.
_SAMPLES, _ALL_SAMPLES, _LEAST_SAMPLES = 40, 4000, 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one clip in one stage.

    Attributes
    ----------
    stage, side, clip : str
        Where.
    status : {"done", "kept", "failed"}
        Done now, done before and still valid, or failed.
    reason : str
        Why it failed; one line.
    frames : int
        Frames worked on now.
    seconds : float
        How long it took now.
    """

    stage: Stage
    side: Side
    clip: str
    status: Literal["done", "kept", "failed"]
    reason: str = ""
    frames: int = 0
    seconds: float = 0.0


@dataclass
class Result:
    """What a call did.

    Attributes
    ----------
    out : Path
        The run folder.
    outcomes : list of Outcome
        One a clip and stage, in order.
    scores : dict or None
        Content of ``scores.json`` after `score` and `run`.
    warnings : list of str
        What is odd about the inputs.
    seconds : dict of str to float
        By stage: time by the clock, which is less than the sum of its outcomes' where several workers did it.
    report : Path or None
        ``report.html`` after `run`.
    """

    out: Path
    outcomes: list[Outcome] = field(default_factory=list)
    scores: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    report: Path | None = None

    @property
    def failed(self) -> list[Outcome]:
        """The outcomes that failed."""
        return [outcome for outcome in self.outcomes if outcome.status == "failed"]


def resolve(
    config: Config | Mapping[str, Any] | Path | str | None = None,
    overrides: Iterable[str] = (),
    **settings: Any,
) -> Config:
    """One `Config` of a file, a mapping or a config, ``section.key=value`` overrides, and top-level keywords.

    Without source and target the run folder's own ``config.toml`` is the base, so that a stage can be called with
    nothing but ``out``.
    """
    settings = {key: value for key, value in settings.items() if value is not None}
    if isinstance(config, str | Path):
        base = load(Path(config)).model_dump(mode="json", exclude_unset=True)
    elif isinstance(config, Config):
        base = config.model_dump(mode="json", exclude_unset=True)
    else:
        base = dict(config or {})
    given = _over(base, settings)
    merged = build(given, overrides)
    if merged.out is None:
        raise UsageError("no run folder: give --out RUN (in Python: out=...)")
    if merged.source is None and merged.target is None and (merged.out / "config.toml").is_file():
        known = load(merged.out / "config.toml").model_dump(mode="json", exclude_none=True)
        merged = build(_over(known, given), overrides)
    if merged.source is None or merged.target is None:
        missing = "source" if merged.source is None else "target"
        raise UsageError(f"no {missing} videos: give --{missing} FOLDER (in Python: {missing}=...)")
    return merged


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings laid over others, section by section."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _over(merged[key], value) if both else value
    return merged


def run(config: Any = None, *, progress: Progress | None = None, **settings: Any) -> Result:
    """Everything: detect, align, swap, score, report.

    Parameters
    ----------
    config : Config, mapping, path of a TOML file, or None
        Settings; see `facepipe.config.Config`.
    progress : callable, optional
        See `Progress`.
    **settings
        Top-level settings such as ``source``, ``target`` and ``out``, and whole sections as mappings.

    Returns
    -------
    Result
        `Result.failed` names the clips that failed; the others are done.

    Raises
    ------
    UsageError, ConfigError
        The call is wrong: a missing folder, an unknown key.
    WeightsMissingError
        A net's weights are not on this machine.
    RunFolderError
        The run folder belongs to another version, or to another process right now.
    NoFaceError
        There is no usable source face at all.
    """
    result = _call("score", config, progress, settings)
    result.report = write_report(result.out, progress=progress)
    return result


def detect(config: Any = None, *, progress: Progress | None = None, **settings: Any) -> Result:
    """Find the faces of all source and target clips: ``faces.parquet``. Parameters as `run`."""
    return _call("detect", config, progress, settings)


def align(config: Any = None, *, progress: Progress | None = None, **settings: Any) -> Result:
    """Cut aligned crops of all faces: ``crops.npy``. Parameters as `run`."""
    return _call("align", config, progress, settings)


def train(config: Any = None, *, progress: Progress | None = None, **settings: Any) -> Result:
    """Train the net of the swap method ``gan`` on both people: ``model/generator.safetensors``. Parameters as `run`.

    Goes on from the newest checkpoint of the run folder, if there is one. Its progress counts steps; where `progress`
    has a method ``describe(text)``, that is told losses, speed, the time left and held-out scores.
    """
    return _call("train", config, progress, settings)


def swap(config: Any = None, *, progress: Progress | None = None, **settings: Any) -> Result:
    """Swap the source person into every target clip: ``swapped/<clip>.mp4``. Parameters as `run`."""
    return _call("swap", config, progress, settings)


def score(config: Any = None, *, progress: Progress | None = None, **settings: Any) -> Result:
    """Measure the swapped videos: ``scores.json`` and ``scores.parquet``. Parameters as `run`."""
    return _call("score", config, progress, settings)


def _call(stage: Stage, config: Any, progress: Progress | None, settings: Mapping[str, Any]) -> Result:
    resolved = resolve(config, **settings)
    assert resolved.source is not None
    assert resolved.target is not None
    assert resolved.out is not None
    for picture in (resolved.swap.source_person, resolved.swap.target_person):
        if picture is not None and not picture.is_file():
            raise UsageError(f"{picture}: no such file; give a picture of the person")
    if stage == "score":
        evaluation.choose_protocol(resolved.score.protocol)  # before anything is done that it would refuse to measure
    require_consent(resolved)
    if resolved.train.view == "crop" and resolved.align.size == "auto" and resolved.swap.method == "gan":
        raise UsageError("train.view=crop: all crops have to be of one size; set it, e.g. align.size=384")
    clips: dict[Side, list[Clip]] = {
        "source": find_clips(resolved.source),
        "target": find_clips(resolved.target),
    }
    if stage == "train":
        from facepipe.training.team import processes

        if processes()[0] > 0:
            return _assist(resolved)
    part = resolved.engine.part
    if part is not None:
        if stage in ("train", "score"):
            raise UsageError(
                "a shard does detect, align or swap; one call without --shard afterwards trains, or scores the run"
            )
        # What is trained depends on all clips: a shard of its swaps has to look at all of them.
        if not (stage == "swap" and resolved.swap.method == "gan"):
            clips["target"] = clips["target"][part[0] :: part[1]]
    with Workspace(resolved.out, shard=resolved.engine.shard) as workspace:
        return _Run(resolved, workspace, clips, progress or (lambda *_: None)).up_to(stage)


def _assist(config: Config) -> Result:
    """What all but the first of several processes do: train, once the first has prepared the run folder."""
    from facepipe.stages.train import run_training
    from facepipe.training.team import Team

    assert config.out is not None
    device = choose_device(config.device)
    team = Team.join(device)
    if not team.agree(0.0):

        def embedder() -> InceptionResnetV1:
            return InceptionResnetV1(weights.path("irv1"), device=str(team.device))

        run_training(config.out / "model", config, team, _judge(config, embedder), lambda *_: None)
    return Result(config.out)


def _judge(config: Config, net: Callable[[], InceptionResnetV1]) -> Callable[[], InceptionResnetV1] | None:
    """What loads the identity net of a training; none where neither the loss nor anything else has one."""
    return net if config.train.loss.identity or config.detect.embedder != "none" else None


class _Listener:
    """The caller's `Progress`, which may fail: that is not a clip's fault, and ends the call."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.failed = False
        if hasattr(progress, "describe"):
            self.describe = progress.describe

    def __call__(self, stage: str, clip: str, done: int, promised: int | None) -> None:
        try:
            self._progress(stage, clip, done, promised)
        except BaseException:
            self.failed = True
            raise


@dataclass(frozen=True, slots=True)
class _Unit:
    """A stage to be done on a clip; `patient` waits for another process that is at it."""

    stage: Stage
    side: Side
    clip: Clip
    patient: bool


@dataclass(frozen=True, slots=True)
class _Scoring:
    """What all clips have in common when they are scored; `source` are embeddings by net, a part a clip."""

    key: str
    source: Mapping[str, list[NDArray[np.float32]]]
    samples: int
    with_features: bool


@dataclass(frozen=True, slots=True)
class _Scored:
    """The scores of a clip, and the embeddings by net of the person who was replaced in it."""

    scores: evaluation.ClipScores
    target: dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class _Shared:
    """What a worker is told of a stage."""

    keys: dict[tuple[str, Side, str], str]
    scoring: _Scoring | None


@dataclass(frozen=True, slots=True)
class _Reply:
    """What a worker found out about a unit."""

    outcome: Outcome
    key: str | None
    warnings: list[str]
    hashes: dict[str, Any]
    scored: _Scored | None


class _Worker:
    """What a worker process holds for all of its units: a `_Run` whose nets stay loaded."""

    def __init__(self, config: Config, root: Path, clips: dict[Side, list[Clip]], tell: Tell) -> None:
        alone = config.model_copy(update={"engine": EngineConfig()})
        self._run = _Run(alone, Workspace(root, create=False, keeps_hashes=False), clips, tell)

    def __call__(self, unit: _Unit, shared: _Shared) -> _Reply | None:
        return self._run.answer(unit, shared)


class _Run:
    """One call: the settings, the run folder, the nets (loaded when first needed), the outcomes."""

    def __init__(
        self, config: Config, workspace: Workspace, clips: dict[Side, list[Clip]], progress: Progress
    ) -> None:
        self.config = config
        self.workspace = workspace
        self.clips = clips
        self.progress = _Listener(progress)
        self.result = Result(workspace.root)
        self._keys: dict[tuple[str, Side, str], str] = {}
        self._threads: int | None = None
        self._scoring: _Scoring | None = None
        self._scored: dict[str, _Scored] = {}
        self._dropped: dict[Side, dict[str, Any]] = {}
        self._learned: dict[str, NDArray[np.bool_]] = {}
        workers = config.engine.workers
        self._pool = Pool(workers, partial(_Worker, config, workspace.root, clips)) if workers > 1 else None

    # The nets

    @cached_property
    def device(self) -> str:
        """Asked for before any net is loaded."""
        device = choose_device(self.config.device)
        self._fix_threads()
        return device

    def _fix_threads(self) -> None:
        import torch

        self._threads = self._threads or torch.get_num_threads()
        torch.set_num_threads(_NET_THREADS)

    def _free_threads(self) -> None:
        """Give torch the threads that it had."""
        if self._threads is not None:
            import torch

            torch.set_num_threads(self._threads)

    @cached_property
    def models(self) -> Models:
        return load_models(self.config.detect, device=self.device)

    @cached_property
    def judges(self) -> list[Embedder]:
        own = self.models.embedder
        return [
            own if own is not None and own.name == name else load_embedder(name, device=self.device)
            for name in self.config.score.nets
        ]

    @cached_property
    def features(self) -> FeatureNet | None:
        from facepipe.backends.features import load_features

        name = self.config.score.features
        return None if name == "none" else load_features(name, device=self.device)

    def _weights(self, stage: Stage) -> dict[str, str]:
        """Name and sha256 of every weights file that a stage loads."""
        known = weights.entries()
        return {name: known[name].digest for name in sorted(weight_names(self.config, scoring=stage == "score"))}

    # The order of work

    def up_to(self, stage: Stage) -> Result:
        with atomic_path(self.workspace.root / "config.toml") as part:
            part.write_text(to_toml(_with_whole_paths(self.config)), encoding="utf-8")
        try:
            self._work(stage)
        finally:
            self._free_threads()
            if self._pool is not None:
                self._pool.close()
            if self.workspace.shard is None:  # a shard knows its own clips only
                self._write_manifest()
        return self.result

    def _work(self, stage: Stage) -> None:
        if stage in ("swap", "score"):
            _ = self.identity  # what cannot be signed is told before the work, not after
            self.result.warnings += consent_note(self.config)
        with self._timed("detect"):
            self._each("detect", [(side, clip) for side in SIDES for clip in self.clips[side]])
        if stage != "detect":
            with self._timed("align"):
                self._each("align", [(side, clip) for side in SIDES for clip in self._alive("detect", side)])
        if stage in ("train", "swap", "score"):
            self._tell_rules(stage)
        if stage == "train" or (stage in ("swap", "score") and self.config.swap.method == "gan"):
            if self._pool is not None:
                self._pool.close()  # the memory is the training's; what comes after it starts workers again
            with self._timed("train"):
                self._train()
        if stage in ("swap", "score"):
            with self._timed("swap"):
                _ = self.bank  # without a usable source face the call ends here, not clip by clip
                mine = [clip for clip in self._alive("align", "target") if self._is_mine(clip)]
                self._each("swap", [("target", clip) for clip in mine])
            if stage == "score":
                with self._timed("score"):
                    self._score_all()

    def _is_mine(self, clip: Clip) -> bool:
        """Whether a target clip is this shard's, or there are no shards."""
        number, count = self.config.engine.part or (0, 1)
        names = [one.name for one in self.clips["target"]]
        return self.config.swap.method != "gan" or clip.name in names[number::count]

    @contextmanager
    def _timed(self, stage: Stage) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.result.seconds[stage] = time.perf_counter() - start

    def _each(self, stage: Stage, units: list[tuple[Side, Clip]]) -> None:
        """Do a stage on clips, here or by workers, and note what became of each in their order.

        Among shards, what another process is at comes last: by then it is done, or is waited for.
        """
        sharded = self.workspace.shard is not None
        left = [_Unit(stage, side, clip, patient=not sharded) for side, clip in units]
        while left:
            busy = []
            for unit, outcome in zip(left, self._outcomes(left), strict=True):
                if outcome is None:
                    busy.append(replace(unit, patient=True))
                else:
                    self.result.outcomes.append(outcome)
            left = busy

    def _outcomes(self, units: list[_Unit]) -> Iterator[Outcome | None]:
        """What becomes of each unit, one after the other; None where another process is at it."""
        if self._pool is None:
            yield from map(self.do, units)
            return
        kept = [self._is_kept(unit) for unit in units]  # no process is started for what is done
        todo = [unit for unit, there in zip(units, kept, strict=True) if not there]
        shared = _Shared(self._keys.copy(), self._scoring)
        costs = [_bytes_of(unit.clip) for unit in todo]
        with closing(self._pool.each(todo, shared, self.progress, costs=costs)) as replies:
            for unit, there in zip(units, kept, strict=True):
                yield self.do(unit) if there else self._learn(unit, next(replies))

    def _is_kept(self, unit: _Unit) -> bool:
        """Whether a unit has nothing to do; asked without reading a clip whose hash is known."""
        stage, side, clip = unit.stage, unit.side, unit.clip
        folder = self.workspace.clip_folder(side, clip.name)
        match stage:
            case "detect":
                marker, key = folder / "detect.json", self._detect_key
            case "align":
                marker, key = folder / "align.json", partial(self._align_key, side)
            case "swap":
                marker, key = self.workspace.swapped / f"{clip.name}.json", self._swap_key
            case _:
                return False
        try:
            return marker.exists() and self.workspace.is_done(marker, key(clip))
        except OSError:
            return False

    def _learn(self, unit: _Unit, reply: _Reply | Died | None) -> Outcome | None:
        """Take over what a worker found out."""
        if reply is None:
            return None
        stage, side, clip = unit.stage, unit.side, unit.clip
        if isinstance(reply, Died):
            reason = (
                f"{clip.path}: the process that worked on it died, and again when it was the only one ({reply.how})"
            )
            return Outcome(stage, side, clip.name, "failed", f"{reason}; a crash in a library, or no memory is left")
        if reply.key is not None:
            self._keys[stage, side, clip.name] = reply.key
        self.result.warnings += reply.warnings
        self.workspace.learn_hashes(reply.hashes)
        if reply.scored is not None:
            self._scored[clip.name] = reply.scored
        return reply.outcome

    def answer(self, unit: _Unit, shared: _Shared) -> _Reply | None:
        """Do a unit as a worker."""
        self._keys, self._scoring = shared.keys.copy(), shared.scoring
        outcome = self.do(unit)
        if outcome is None:
            return None
        warnings, self.result.warnings = self.result.warnings, []
        hashes, self.workspace.fresh_hashes = self.workspace.fresh_hashes, {}
        key = self._keys.get((unit.stage, unit.side, unit.clip.name)) if not outcome.reason else None
        return _Reply(outcome, key, warnings, hashes, self._scored.pop(unit.clip.name, None))

    def do(self, unit: _Unit) -> Outcome | None:
        """Do a unit; None when another process is at it and it is not to be waited for."""
        works: dict[str, Callable[[Side, Clip], tuple[str, int]]] = {
            "detect": self._detect,
            "align": self._align,
            "swap": lambda _, clip: self._swap(clip),
            "score": lambda _, clip: self._score(clip),
        }
        with self.workspace.clip_lock(unit.side, unit.clip.name, patient=unit.patient) as held:
            return self._guard(unit.stage, unit.side, unit.clip, works[unit.stage]) if held else None

    def _alive(self, stage: Stage, side: Side) -> list[Clip]:
        """The clips that came through a stage."""
        return [clip for clip in self.clips[side] if (stage, side, clip.name) in self._keys]

    def _guard(self, stage: Stage, side: Side, clip: Clip, work: Callable[[Side, Clip], tuple[str, int]]) -> Outcome:
        """Do a stage on a clip; a failure becomes an outcome and the next clip follows."""
        start = time.perf_counter()
        reason, frames = "", 0
        try:
            key, frames = work(side, clip)
            self._keys[stage, side, clip.name] = key
        except Exception as exc:
            if self.progress.failed:
                raise
            reason = self._reason(stage, side, clip, exc)
        status: Literal["done", "kept", "failed"] = "failed" if reason else "done" if frames else "kept"
        return Outcome(stage, side, clip.name, status, reason, frames, time.perf_counter() - start)

    def _reason(self, stage: Stage, side: Side, clip: Clip, exc: Exception) -> str:
        """Why a clip failed, in one line; raises what is not the clip's fault."""
        match exc:
            case DegenerateLandmarksError():
                return f"{clip.path}: {exc}"
            case FacepipeError():
                if exc.exit_code == 2 or not isinstance(exc, MediaError | NoFaceError | RunFolderError):
                    raise exc
                return str(exc)
            case OSError():  # the disk is full, a file vanished
                return f"{exc.filename or clip.path}: {exc.strerror or exc}"
        # A defect, ours or a library's: keep the traceback, go on with the folder.
        log = self.workspace.root / "errors" / f"{stage}-{side}-{clip.name}.log"
        with atomic_path(log) as part:
            part.write_text("".join(traceback.format_exception(exc)), encoding="utf-8")
        return f"{clip.path}: unexpected {type(exc).__name__}: {exc} (traceback in {log})"

    def _key(self, stage: Stage, **depends: Any) -> str:
        return digest({"stage": stage, "version": _VERSION[stage], **depends})

    # Frames

    def _open(self, clip: Clip, *, stop: int | None = None) -> ClipReader:
        limits = self.config.limits
        return open_clip(clip, limits=Limits(max_pixels=limits.max_pixels, max_frames=limits.max_frames), stop=stop)

    def _frames(self, stage: Stage, clip: Clip, reader: ClipReader) -> Iterator[Frame]:
        """The frames of a clip; `progress` hears of each."""
        return self._told(stage, clip, reader, reader)

    def _told(self, stage: Stage, clip: Clip, reader: ClipReader, frames: Iterable[Numbered]) -> Iterator[Numbered]:
        """What was made of a clip's frames; `progress` hears of each, and of the end by a promise that is kept."""
        promised = reader.info.frames_promised or None
        done = 0
        self.progress(stage, clip.name, 0, promised)
        for frame in frames:
            yield frame
            done = frame.index + 1
            self.progress(stage, clip.name, done, None if promised == done else promised)
        self.progress(stage, clip.name, done, done)

    # Stage detect

    def _detect_key(self, clip: Clip) -> str:
        return self._key(
            "detect",
            input=self.workspace.file_hash(clip.path),
            settings=self.config.detect.model_dump(),
            limits=self.config.limits.model_dump(exclude={"min_sharpness"}),
            weights=self._weights("detect"),
        )

    def _detect(self, side: Side, clip: Clip) -> tuple[str, int]:
        folder = self.workspace.clip_folder(side, clip.name)
        with self._open(clip) as reader:  # a file that cannot be read is told before it is hashed
            key = self._detect_key(clip)
            marker = folder / "detect.json"
            files = [_DETECTED, "faces.parquet"]
            fresh = self.workspace.once(marker, key, files, lambda: self._find_faces(clip, reader, folder))
        state = read_json(marker)
        self.result.warnings += state["warnings"]
        if not state["faces"]:
            raise NoFaceError(f"{clip.path}: no face found in {state['frames']} frames")
        return key, state["frames"] if fresh else 0

    def _find_faces(self, clip: Clip, reader: ClipReader, folder: Path) -> dict[str, Any]:
        (folder / "align.json").unlink(missing_ok=True)  # the crops of other faces
        count = 0

        def counted() -> Iterator[Frame]:
            nonlocal count
            for frame in self._frames("detect", clip, reader):
                count += 1
                yield frame

        config = self.config
        faces = detect_faces(counted(), self.models, config.detect, config.limits, reader.info.size)
        for name in (_DETECTED, "faces.parquet"):
            write_faces(folder / name, faces)
        return {
            "path": str(clip.path),
            "frames": count,
            "faces": len(faces),
            "frames_with_face": len(np.unique(faces.frame)),
            "size": reader.info.size,
            "rate": str(reader.info.rate),
            "time_base": str(reader.info.time_base),
            "warnings": list(reader.warnings),
        }

    # Stage align

    def _align_key(self, side: Side, clip: Clip) -> str:
        return self._key(
            "align",
            detect=self._keys["detect", side, clip.name],
            settings=self.config.align.model_dump(),
            sharpness=self.config.limits.min_sharpness,
        )

    def _align(self, side: Side, clip: Clip) -> tuple[str, int]:
        folder = self.workspace.clip_folder(side, clip.name)
        key = self._align_key(side, clip)
        files = ["faces.parquet", "crops.npy"]
        fresh = self.workspace.once(folder / "align.json", key, files, lambda: self._cut_crops(clip, folder))
        return key, read_json(folder / "detect.json")["frames"] if fresh else 0

    def _cut_crops(self, clip: Clip, folder: Path) -> dict[str, Any]:
        faces = read_faces(folder / _DETECTED)
        size = crop_size(faces, self.config.align)
        with (
            self._open(clip) as reader,
            atomic_path(folder / "crops.npy") as part,
            CropWriter(part, size) as crops,
        ):
            frames = self._frames("align", clip, reader)
            faces = align_faces(frames, faces, self.config.align, self.config.limits, crops.append)
        write_faces(folder / "faces.parquet", faces)
        return {"flagged": int((~faces.trusted).sum()), "size": size}

    def _faces(self, side: Side, clip: Clip) -> Faces:
        return read_faces(self.workspace.clip_folder(side, clip.name) / "faces.parquet")

    def _crops(self, side: Side, clip: Clip) -> NDArray[np.uint8]:
        return read_crops(self.workspace.clip_folder(side, clip.name) / "crops.npy")

    def _faceset(self, side: Side, clips: list[Clip] | None = None) -> FaceSet:
        """The faces of a person in all clips, or in some, with what is held out."""
        clips = self._alive("align", side) if clips is None else clips
        folder = self.config.source if side == "source" else self.config.target
        if not clips:
            raise NoFaceError(f"{folder}: no {side} clip has a face; " + self._first_reason())
        tables, usable = self._usable(side, clips)
        try:
            crops = [self._crops(side, clip) for clip in clips]
            return FaceSet.build(tables, crops, usable.rows, share=self.config.train.held_out)
        except NoFaceError as exc:
            raise NoFaceError(f"{folder}: {exc}" + (f"; {usable.words}" if usable.words else "")) from exc

    def _select(self, side: Side, clips: list[Clip]) -> tuple[list[Faces], Selection]:
        """Tables of some clips, and the person's faces in them that may be learned from or be source faces.

        The one place where the rules of ``[select]`` meet them.
        """
        swap = self.config.swap
        tables = [self._faces(side, clip) for clip in clips]
        rows = self._person(tables, swap.source_person if side == "source" else swap.target_person)
        trusted = [keep & faces.trusted for keep, faces in zip(rows, tables, strict=True)]
        if not any(keep.any() for keep in trusted):  # the flags are what is told then, not the rules
            return tables, Selection(rows, 0, {})
        return tables, select(tables, trusted, [self._chosen_crops(side, clip) for clip in clips], self.config.select)

    def _usable(self, side: Side, clips: list[Clip]) -> tuple[list[Faces], Selection]:
        """As `_select`, where there has to be a face."""
        tables, usable = self._select(side, clips)
        if why := usable.emptied_by(self.config.select):
            raise NoFaceError(f"{self.config.source if side == 'source' else self.config.target}: {why}")
        return tables, usable

    def _learnable(self, clip: Clip, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Those of the target person's `rows` in a clip that the rules leave to the method to learn from."""
        if not self.config.select.ranges:
            return rows
        if self.config.swap.method != "gan":
            return self._select("target", [clip])[1].rows[0]
        if not self._learned:  # once for all clips: they are one set of faces
            clips = self._alive("align", "target")
            names = [one.name for one in clips]
            self._learned.update(zip(names, self._select("target", clips)[1].rows, strict=True))
        return self._learned[clip.name]

    def _chosen_crops(self, side: Side, clip: Clip) -> ChosenCrops:
        """The crops of a clip, read each time they are asked for."""
        crops = self._crops(side, clip)
        return ChosenCrops([crops], [(0, row) for row in range(len(crops))])

    def _tell_rules(self, stage: Stage) -> None:
        """Say how many faces of each side the rules drop, in the warnings and in the manifest."""
        learns = stage == "train" or self.config.swap.method == "gan"
        for side in SIDES if learns else SIDES[:1]:
            if self.config.select.ranges and (clips := self._alive("align", side)):
                usable = self._select(side, clips)[1]
                self._dropped[side] = {"faces": usable.total, "dropped": usable.dropped}
                if usable.words:
                    self.result.warnings.append(f"{side}: {usable.words}")

    # Stage train

    def _train_key(self) -> str:
        return self._key(
            "train",
            align={
                side: [self._keys["align", side, clip.name] for clip in self._alive("align", side)] for side in SIDES
            },
            settings=self.config.train.model_dump(mode="json"),
            people=[str(self.config.swap.source_person), str(self.config.swap.target_person)],
            seed=self.config.seed,
            **self._rules(),
        )

    def _rules(self) -> dict[str, Any]:
        """What a key has to know of the rules for faces; nothing where there are none."""
        return {"select": self.config.select.model_dump(mode="json")} if self.config.select.ranges else {}

    def _train(self) -> None:
        """Train the swap net, or go on; what it makes is the folder ``model``."""
        from facepipe.stages.train import run_training
        from facepipe.training.setup import prepare, shape_of
        from facepipe.training.team import Team

        start = time.perf_counter()
        key, folder = self._train_key(), self.workspace.root / "model"
        marker = folder / "train.json"
        done, steps = self.workspace.is_done(marker, key), 0
        if not done and self.workspace.shard is not None:
            raise UsageError("a shard does not train: first call `facepipe train` without --shard")
        team = Team.join(self.device)
        if not done:
            sets = {side: self._faceset(side) for side in SIDES}
            shape = shape_of(self.config.train, self.device)
            prepare(folder, sets, self.config.align, self.config.train, shape)
            marker.unlink(missing_ok=True)
        team.agree(float(done))
        if not done:
            self._free_threads()
            report = run_training(folder, self.config, team, _judge(self.config, self._identity_net), self.progress)
            self._fix_threads()
            self.result.warnings += report.notes
            self._refine_generator(folder, sets)
            state = {"steps": report.step, "scores": report.scores}
            self.workspace.mark_done(marker, key, ["generator.safetensors", "generator.json"], **state)
            steps = max(1, report.step)
        self._keys["train", "target", "model"] = key
        seconds = time.perf_counter() - start
        outcome = Outcome("train", "target", "model", "kept" if done else "done", "", steps, seconds)
        self.result.outcomes.append(outcome)

    def _identity_net(self) -> InceptionResnetV1:
        net = self.models.embedder
        return (
            net if isinstance(net, InceptionResnetV1) else InceptionResnetV1(weights.path("irv1"), device=self.device)
        )

    def _refine_generator(self, folder: Path, sets: dict[Side, FaceSet]) -> None:
        """Give the best net the detail of a finer size."""
        from facepipe.methods.gan import Generator, fit_fine, write_fine

        generator = Generator.load(folder / "generator", self.device)
        if not generator.net.shape.linear:
            return
        size = generator.size
        twins = {side: find_twins(sets[side], sets[OTHER[side]], generator.view, size) for side in SIDES}
        write_fine(folder / "generator", generator, {side: fit_fine(generator, sets, twins, side) for side in SIDES})

    @cached_property
    def generator(self) -> Generator:
        from facepipe.methods.gan import Generator

        path = self.workspace.root / "model" / "generator"
        generator = Generator.load(path, self.device)
        generator.check(self.config.align, path)
        return generator

    # Stage swap

    @cached_property
    def bank(self) -> SourceBank:
        clips = self._alive("align", "source")
        if not clips:
            raise NoFaceError(f"{self.config.source}: no source clip has a face; " + self._first_reason())
        tables, usable = self._usable("source", clips)
        try:
            return SourceBank.build(tables, [self._crops("source", clip) for clip in clips], usable.rows)
        except NoFaceError as exc:
            raise NoFaceError(f"{self.config.source}: {exc}") from exc

    def _first_reason(self) -> str:
        return self.result.failed[0].reason if self.result.failed else "nothing was found"

    def _person(self, tables: list[Faces], picture: Path | None) -> list[NDArray[np.bool_]]:
        embedding = None if picture is None else self._embedding_of(picture)
        rows = person_rows(tables, picture=embedding, similarity=self.config.swap.person_similarity)
        if picture is not None and not any(chosen.any() for chosen in rows):
            raise NoFaceError(f"{picture}: this person is in none of the clips; see swap.person_similarity")
        return rows

    def _embedding_of(self, picture: Path) -> NDArray[np.float32]:
        """Embedding of the largest face of a still."""
        if self.models.embedder is None:
            raise UsageError(f"{picture}: choosing a person by a picture needs detect.embedder = 'irv1'")
        image = read_image(picture)
        found = self.models.detector.detect(image)
        if not len(found):
            raise NoFaceError(f"{picture}: no face found in this picture")
        box = found.boxes[int(area(found.boxes).argmax())]
        landmarks = self.models.landmarker.fit(image, box).landmarks
        crop = self.models.embedder.crop(image, box, landmarks)
        embedding: NDArray[np.float32] = self.models.embedder.embed(crop[None])[0]
        return embedding

    def _swap_key(self, clip: Clip) -> str:
        pictures = [self.config.swap.source_person, self.config.swap.target_person]
        return self._key(
            "swap",
            sources=[self._keys["align", "source", c.name] for c in self._alive("align", "source")],
            target=self._keys["align", "target", clip.name],
            trained=self._keys.get(("train", "target", "model")),
            settings=self.config.swap.model_dump(mode="json"),
            pictures=[self.workspace.file_hash(picture) if picture else None for picture in pictures],
            **self._rules(),
        )

    def _target(self, clip: Clip) -> tuple[Faces, NDArray[np.bool_]]:
        """All faces of a clip, and which of them are the target person's."""
        faces = self._faces("target", clip)
        (rows,) = self._person([faces], self.config.swap.target_person)
        return faces, rows

    def _plan(self, clip: Clip, faces: Faces, rows: NDArray[np.bool_], ruled: Selection) -> Plan:
        """How the chosen method swaps a clip, of whose faces `rows` are the target person's, and `ruled` may be."""
        if why := ruled.emptied_by(self.config.select):
            raise NoFaceError(f"{clip.path}: {why}")
        (wanted,) = ruled.rows
        plan: Plan
        match self.config.swap.method:
            case "procrustes":
                plan = plan_procrustes(self.bank, faces, wanted, self.config.swap)
            case "eigenface":
                from facepipe.methods.eigenface import EigenfacePlan

                plan = EigenfacePlan.make(self._faceset("source"), faces, wanted, self.config.swap)
            case "gan":
                from facepipe.methods.gan import GanPlan

                plan = GanPlan(self.generator, faces, wanted, self.config.swap)
        if not len(plan.faces):
            raise NoFaceError(
                f"{clip.path}: none of the {int(rows.sum())} faces of the target person can be swapped, all are "
                f"flagged {' or '.join(self.config.swap.skip)}; --set 'swap.skip=[]' swaps them all the same"
            )
        return plan

    def _behind(self, plan: Plan, clip: Clip, faces: Faces, rows: NDArray[np.bool_]) -> Plan:
        """The plan, with what is in front of the faces left in front; `rows` are the target person's."""
        if not self.config.swap.occlusion:
            return plan
        # Score needs what swap has learned, and a worker does not know what another one did.
        key = digest([_VERSION["swap"], self._keys["align", "target", clip.name], rows.tolist()])
        kept = self.workspace.clip_folder("target", clip.name) / "occlusion.npz", key
        known = Occlusion.learn(faces, self._chosen_crops("target", clip), rows, kept=kept)
        return plan if known is None else WithOcclusion(plan, known)

    def _swap(self, clip: Clip) -> tuple[str, int]:
        key = self._swap_key(clip)
        folder = self.workspace.swapped
        marker = folder / f"{clip.name}.json"
        if self.workspace.is_done(marker, key):
            self._tell_unswapped(marker)
            return key, 0
        marker.unlink(missing_ok=True)
        faces, rows = self._target(clip)
        ruled = self._to_swap(clip, faces, rows)
        plan = self._behind(self._plan(clip, faces, rows, ruled), clip, faces, rows)
        statement = label(
            method=self.config.swap.method,
            blend=self.config.swap.blend,
            target_sha256=self.workspace.file_hash(clip.path),
            source_sha256=[self.workspace.file_hash(c.path) for c in self._alive("align", "source")],
            run=key,
        )
        for place in (folder, self._mask(clip).parent):
            place.mkdir(exist_ok=True)
        shutil.rmtree(self._truth(clip), ignore_errors=True)  # that of another swap
        try:
            video, columns = self._write_swap(clip, plan, folder / f"{clip.name}.mp4", statement)
        except ContainerError:
            video, columns = self._write_swap(clip, plan, folder / f"{clip.name}.mkv", statement)
        write_table(folder / f"{clip.name}.parquet", columns)
        files = [video.name, f"../masks/{clip.name}.mkv", f"{clip.name}.parquet"]
        files += [beside.name] if (beside := sidecar_of(video)) is not None else []
        files += [f"../blend/{clip.name}/{name}" for name in truth.FILES] if self.config.swap.blend_truth else []
        total, swapped = len(columns["frame"]), int(columns["swapped"].sum())
        facts = {"frames": total, "swapped": swapped, "label": statement, "statement": statement_of(statement)}
        dropped = {"rules": f"{clip.path}: not swapped: {ruled.words}"} if ruled.words else {}
        self.workspace.mark_done(marker, key, files, **facts, **dropped)
        self._tell_unswapped(marker)
        return key, total

    def _to_swap(self, clip: Clip, faces: Faces, rows: NDArray[np.bool_]) -> Selection:
        """The target person's faces that the rules let be swapped; all of `rows` unless ``select.swap`` is set."""
        rules = self.config.select
        if not (rules.swap and rules.ranges):
            return Selection([rows], 0, {})
        wanted = rows_to_swap(faces, rows, self.config.swap)
        return select([faces], [wanted], [self._chosen_crops("target", clip)], rules)

    def _tell_unswapped(self, marker: Path) -> None:
        """Warn of what the rules left as it was, when it is done and whenever it is kept."""
        if words := read_json(marker).get("rules"):
            self.result.warnings.append(words)

    def _mask(self, clip: Clip) -> Path:
        """The video of masks: not beside the swapped videos, whose folder holds what is labelled."""
        return self.workspace.root / "masks" / f"{clip.name}.mkv"

    def _truth(self, clip: Clip) -> Path:
        """The folder of the truth of the blend, where that is wanted."""
        return self.workspace.root / "blend" / clip.name

    def _write_swap(
        self, clip: Clip, plan: Plan, video: Path, statement: dict[str, str]
    ) -> tuple[Path, dict[str, NDArray[Any]]]:
        settings, seed = self.config.swap, self.config.seed
        with self._open(clip) as reader, closing(swap_frames(reader, plan, settings, seed=seed)) as swapped:
            columns = write_swap(
                self._told("swap", clip, reader, swapped),
                self.config.swap,
                like=reader.info,
                video=video,
                mask=self._mask(clip),
                audio_from=clip.path if reader.info.has_audio else None,
                metadata=statement,
                sign=partial(self._sign, clip, video, statement),
                truth=self._truth_writer(clip, reader.info, statement),
                source_clips=[one.name for one in self._alive("align", "source")],
            )
        return video, columns

    @cached_property
    def identity(self) -> Identity:
        """Who signs the swapped videos; known to do before there is one."""
        identity = load_identity(self.config.credentials)
        prove(identity)
        return identity

    def _sign(self, clip: Clip, video: Path, tags: dict[str, str], part: Path) -> None:
        """Give a swapped video its content credentials."""
        target = Input(clip.path, "target", self.workspace.file_hash(clip.path))
        sources = [
            Input(one.path, "source", self.workspace.file_hash(one.path)) for one in self._alive("align", "source")
        ]
        label_video(part, video, statement_of(tags) or {}, [target, *sources], self.identity)

    def _truth_writer(self, clip: Clip, like: VideoInfo, statement: dict[str, str]) -> truth.TruthWriter | None:
        if not self.config.swap.blend_truth:
            return None
        folder = self._truth(clip)
        sign = partial(self._sign, clip, folder / truth.FACE, statement)
        return truth.TruthWriter(folder, like, statement, preset=self.config.swap.preset, finish=sign)

    # Stage score

    @cached_property
    def protocol(self) -> evaluation.Protocol:
        return evaluation.choose_protocol(self.config.score.protocol)

    @property
    def _nets(self) -> tuple[str, ...]:
        """The identity nets that the protocol needs."""
        return self.config.score.nets if "identity" in self.protocol.parts else ()

    def _score_all(self) -> None:
        root = self.workspace.root
        marker = root / "score.json"
        clips = self._alive("swap", "target")
        swaps = {clip.name: self._keys["swap", "target", clip.name] for clip in clips}
        key = self._key(
            "score",
            swaps=swaps,
            settings=self.config.score.model_dump(mode="json"),
            weights=self._weights("score"),
            there=[row.present for row in weights.status() if row.name == self.config.score.features],
        )
        if self.workspace.is_done(marker, key) and evaluation.can_read(root):
            for clip in clips:
                self.result.outcomes.append(Outcome("score", "target", clip.name, "kept"))
        elif clips:
            marker.unlink(missing_ok=True)
            if len(self._score_clips(clips, key)) == len(clips):
                self.workspace.mark_done(marker, key, ["scores.json", "scores.parquet"], swaps=swaps)
        elif not self.result.failed:
            self.result.warnings.append(f"{root}: nothing to score, no clip was swapped")
        self.result.scores = evaluation.read_scores(root) if clips else None

    def _score_clips(self, clips: list[Clip], key: str) -> dict[str, evaluation.ClipScores]:
        """Score the clips and write what came of it; one that fails is an outcome and is left out."""
        source = self._source_person()
        missing: dict[str, str] = {}
        net = self._feature_net(clips, missing)
        samples = max(_LEAST_SAMPLES, min(_SAMPLES, _ALL_SAMPLES // len(clips)))
        self._scoring = _Scoring(key, source, samples, with_features=net is not None)
        self._each("score", [("target", clip) for clip in clips])
        scores = {name: scored.scores for name, scored in self._scored.items()}
        targets = {name: scored.target for name, scored in self._scored.items()}
        learns = self.config.swap.method == "gan"
        originals = evaluation.Originals(
            {name: np.concatenate(parts) for name, parts in source.items()},
            targets,
            features=None if net is None else self._source_features(net, samples),
            trained_with=frozenset({"irv1"} if learns and self.config.train.loss.identity else ()),
        )
        share = self.config.train.held_out if learns else None
        context = evaluation.Context(
            self._nets, self.protocol, originals, net, missing, self.config.score.worst, share
        )
        root = self.workspace.root
        evaluation.write_rows(root / "scores.parquet", scores, self._nets)
        facts = {"version": evaluation.VERSION, "facepipe": __version__, "method": self.config.swap.method}
        write_json(root / "scores.json", {**facts, **evaluation.summarize(scores, context)})
        return scores

    def _feature_net(self, clips: list[Clip], missing: dict[str, str]) -> FeatureNet | None:
        """The net of the distances between sets of faces; where there is none, `missing` is told why."""
        name = self.config.score.features
        if "distribution" not in self.protocol.parts or name == "none":
            return None
        swapped = sum(int(read_swapped(self.workspace.swapped / f"{clip.name}.parquet").sum()) for clip in clips)
        if swapped < evaluation.LEAST_FACES:
            missing["image.distribution"] = f"{swapped} swapped faces, {evaluation.LEAST_FACES} are needed"
            return None
        try:
            return self.features
        except WeightsMissingError as exc:
            missing["image.distribution"] = str(exc)
            return None

    @cached_property
    def _source_rows(self) -> list[tuple[Clip, Faces, NDArray[np.int64]]]:
        """The source clips, their tables of faces, and those rows that tell who the source person is."""
        clips = self._alive("align", "source")
        tables = [self._faces("source", clip) for clip in clips]
        people = self._person(tables, self.config.swap.source_person)
        return [(clip, faces, _telling(faces, rows)) for clip, faces, rows in zip(clips, tables, people, strict=True)]

    def _embeddings(self, clip: Clip, faces: Faces) -> dict[str, NDArray[np.float32]]:
        """Embeddings (N, D) by net of a person's faces in a clip."""
        judges = self.judges if self._nets else []
        with self._open(clip) as reader:
            return evaluation.embed_rows(reader, faces, judges, known=self.config.detect.embedder)

    def _source_person(self) -> dict[str, list[NDArray[np.float32]]]:
        """Embeddings (N, D) of the source person by net, a part a clip."""
        parts = [self._embeddings(clip, faces[rows]) for clip, faces, rows in self._source_rows if len(rows)]
        return {net: [part[net] for part in parts] for net in self._nets}

    def _source_features(self, net: FeatureNet, samples: int) -> Features | None:
        """Features of some of the source person's faces, evenly spaced over all clips."""
        index = [(clip, int(row)) for clip, _, rows in self._source_rows for row in rows]
        chosen = [index[i] for i in evenly_spaced(len(index), samples)]
        crops = (self._crops("source", clip)[row] for clip, row in chosen)
        faces = [evaluation.face_picture(crop, np.eye(2, 3), len(crop)) for crop in crops]
        return net(np.stack(faces)) if faces else None

    def _score(self, clip: Clip) -> tuple[str, int]:
        """Score a clip into `_scored`; the key of the stage, and the number of the clip's frames."""
        assert self._scoring is not None
        source = self._scoring.source
        folder = self.workspace.swapped
        faces, rows = self._target(clip)
        learnable = self._learnable(clip, rows)
        target_person = self._embeddings(clip, faces[_telling(faces, rows)])
        judges = [
            evaluation.Judge(net, evaluation.mean_of(source[net.name]), mean_embedding(target_person[net.name]))
            for net in (self.judges if self._nets else ())
        ]
        swapped = read_swapped(folder / f"{clip.name}.parquet")
        video_name = read_json(folder / f"{clip.name}.json")["files"][0]
        # The swap's landmarks are found anew; those that they are compared with must be as raw.
        raw = read_faces(self.workspace.clip_folder("target", clip.name) / _DETECTED)
        as_raw = {name: getattr(raw, name) for name in ("landmarks", "yaw", "pitch", "roll")}
        settings = scoring.Settings(
            self.protocol,
            self.features if self._scoring.with_features else None,
            self._scoring.samples,
            crop_side=self._crops("target", clip).shape[1],
            held_out_from=self._held_out_from(faces, learnable),
            occlusion=self.config.swap.occlusion,
        )
        with (
            self._open(clip) as target,
            open_clip(folder / video_name) as video,
            open_clip(self._mask(clip)) as masks,
        ):
            scores = scoring.score_clip(
                scoring.Triple(self._frames("score", clip, target), video, masks, str(folder / video_name)),
                faces.with_columns(**as_raw)[rows],
                swapped,
                judges,
                (self.models.detector, self.models.landmarker, self.config.detect.stride),
                same_identity=self._rebuilt(clip, faces, rows, learnable),
                settings=settings,
            )
        self._scored[clip.name] = _Scored(scores, target_person)
        return self._scoring.key, len(swapped)

    def _held_out_from(self, faces: Faces, rows: NDArray[np.bool_]) -> int | None:
        """First frame of a target clip that the method never learned from; None where it learns from none of it."""
        if self.config.swap.method != "gan":
            return None
        mine = faces.frame[rows & faces.trusted]
        last = mine[held_out(len(mine), self.config.train.held_out)]
        return int(last[0]) if len(last) else None

    def _rebuilt(
        self, clip: Clip, faces: Faces, rows: NDArray[np.bool_], mine: NDArray[np.bool_]
    ) -> Iterator[tuple[Image, Image, NDArray[np.float32]]]:
        """The same-identity swap: faces rebuilt from the same person's other frames, as `scoring.score_clip` takes
        them. `rows` are the target person's, `mine` those of them that may be learned from.
        """
        count = self.config.score.reconstruct_frames if "reconstruction" in self.protocol.parts else 0
        usable = faces[mine & faces.trusted]
        if self.config.swap.method != "procrustes" and len(usable):  # trained on the rest
            usable = usable[held_out(len(usable), self.config.train.held_out)]
        if count == 0 or not len(usable):
            return
        chosen = usable[evenly_spaced(len(usable), count)]
        try:
            plan = self._behind(self._same_identity_plan(clip, faces, mine, chosen), clip, faces, rows)
        except NoFaceError:  # too few faces to draw the person from: this is missing, the rest is not
            return
        row_of = {int(frame): row for row, frame in enumerate(plan.faces.frame)}
        if not row_of:
            return
        with self._open(clip, stop=max(row_of) + 1) as reader:
            for frame in reader:
                if frame.index not in row_of:
                    continue
                (patch,) = plan.patches([row_of[frame.index]], [frame.image])
                if patch is not None:
                    image, region = Compositor(self.config.swap, self.config.seed)(frame.image, patch, frame.index)
                    place = (region.rows, region.columns)
                    yield frame.image[place], image[place], region.mask

    def _same_identity_plan(self, clip: Clip, faces: Faces, rows: NDArray[np.bool_], chosen: Faces) -> Plan:
        """How the method draws `chosen` faces of the target person from that person's other frames."""
        config = self.config.swap.model_copy(update={"steadiness": 0.0, "crossfade": 0, "skip": ()})
        everyone = np.ones(len(chosen), bool)
        match self.config.swap.method:
            case "procrustes":
                bank = SourceBank.build([faces], [self._crops("target", clip)], [rows])
                state = read_json(self.workspace.clip_folder("target", clip.name) / "detect.json")
                apart = np.abs(chosen.pts[:, None] - bank.faces.pts[None]) * float(Fraction(state["time_base"]))
                near = apart <= self.config.score.reconstruct_gap
                return plan_procrustes(bank, chosen, everyone, config, forbidden=near)
            case "eigenface":
                from facepipe.methods.eigenface import EigenfacePlan

                return EigenfacePlan.rebuild(self._faceset("target", [clip]), config)
            case "gan":
                from facepipe.methods.gan import GanPlan

                return GanPlan(self.generator, chosen, everyone, config, drawn="target")

    def _write_manifest(self) -> None:
        inputs = {
            side: {
                clip.name: {"path": str(clip.path), "sha256": self.workspace.file_hash(clip.path)}
                for clip in self._alive("detect", side)
            }
            for side in self.clips
        }
        manifest = {
            **read_json(self.workspace.manifest_path),
            "facepipe": __version__,
            "inputs": inputs,
            "failed": [
                {"stage": o.stage, "side": o.side, "clip": o.clip, "reason": o.reason} for o in self.result.failed
            ],
            "weights": self._weights("score"),
            "versions": library_versions(),
            "seed": self.config.seed,
            "ledger": ledger_of(self.config),
            **({"select": self._told_rules()} if self._dropped else {}),
        }
        write_json(self.workspace.manifest_path, manifest)

    def _told_rules(self) -> dict[str, Any]:
        """The rules and what they dropped, for the manifest; JSON has no infinity, so no limit is null."""
        ranges = self.config.select.ranges.items()
        rules = {key: [value if math.isfinite(value) else None for value in ends] for key, ends in ranges}
        return {"rules": rules, **{str(side): told for side, told in self._dropped.items()}}


def _telling(faces: Faces, rows: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Those of a person's `rows` that tell who it is: without a flag, where there are any."""
    trusted = rows & faces.trusted
    return np.flatnonzero(trusted if trusted.any() else rows)


def _with_whole_paths(config: Config) -> Config:
    """The configuration as it can be read from any folder."""

    def whole(section: Any, names: Iterable[str]) -> dict[str, Path]:
        return {name: path.absolute() for name in names if (path := getattr(section, name)) is not None}

    people = config.swap.model_copy(update=whole(config.swap, ("source_person", "target_person")))
    signer = config.credentials.model_copy(update=whole(config.credentials, ("certificate", "key")))
    # How the work is done is not part of what is made: the next call may have another machine.
    sections = {"swap": people, "credentials": signer, "engine": EngineConfig()}
    return config.model_copy(update={**whole(config, SIDES), **sections})


def _bytes_of(clip: Clip) -> int:
    """Size of a clip's file, as a guess of how long it takes; 0 for what is none."""
    try:
        return clip.path.stat().st_size
    except OSError:
        return 0


def read_swapped(path: Path) -> NDArray[np.bool_]:
    """Which frames of a clip were swapped, from the table beside the video."""
    try:
        return np.asarray(pq.read_table(path, columns=["swapped"])["swapped"].to_numpy(), bool)
    except (OSError, ValueError, KeyError) as exc:
        raise RunFolderError(f"{path}: missing or damaged; delete {path.with_suffix('.json')} and run again") from exc


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
