"""The order of work: stages over clips, here or by worker processes, and what became of each."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from facepipe import __version__
from facepipe.config import Config, EngineConfig, to_toml
from facepipe.engine import Died, Do, LocalPool, Pool, RayPool, Tell, fitting, gpus
from facepipe.errors import DegenerateLandmarksError, FacepipeError, MediaError, NoFaceError, RunFolderError, one_line
from facepipe.memory import give_back
from facepipe.pipeline.context import Context, library_versions
from facepipe.pipeline.faces import FaceStages
from facepipe.pipeline.films import films_of
from facepipe.pipeline.outcome import Outcome, Progress, Result, Stage
from facepipe.pipeline.scoring import Common, Scored, Scoring
from facepipe.pipeline.swapping import Swapping
from facepipe.pipeline.training import Training
from facepipe.provenance import consent_note, ledger_of
from facepipe.types import SIDES, Side
from facepipe.video import Clip
from facepipe.workspace import Workspace, atomic_path, read_json, write_json

__all__ = ["Reply", "Run", "Shared", "Unit", "Worker", "with_whole_paths"]


@dataclass(frozen=True, slots=True)
class Unit:
    """A stage to be done on a clip; `patient` waits for another process that is at it."""

    stage: Stage
    side: Side
    clip: Clip
    patient: bool


@dataclass(frozen=True, slots=True)
class Shared:
    """What a worker is told of a stage."""

    keys: dict[tuple[str, Side, str], str]
    scoring: Common | None


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker found out about a unit."""

    outcome: Outcome
    key: str | None
    warnings: list[str]
    hashes: dict[str, Any]
    scored: Scored | None


class Worker:
    """What a worker process holds for all of its units: a `Run` whose nets stay loaded."""

    def __init__(self, config: Config, root: Path, clips: dict[Side, list[Clip]], tell: Tell) -> None:
        alone = config.model_copy(update={"engine": EngineConfig()})
        self._run = Run(alone, Workspace(root, create=False, keeps_hashes=False), clips, tell)

    def __call__(self, unit: Unit, shared: Shared) -> Reply | None:
        """Do a unit."""
        return self._run.answer(unit, shared)


def _pool_of(config: EngineConfig, device: str, make: Callable[[Tell], Do]) -> Pool[Any]:
    """Who does the work, where it is not the calling process."""
    if config.kind == "ray":
        return RayPool(None if config.workers == "auto" else config.workers, make, address=config.address)
    return LocalPool(_count(config, device), make, gpus(device))


def _count(config: EngineConfig, device: str) -> int:
    """How many worker processes of this machine there may be."""
    return fitting(device) if config.workers == "auto" else config.workers or 1


class Run:
    """One call: which stages are done on which clips, in which order and by whom.

    Attributes
    ----------
    context, faces, training, swapping, scoring
        The parts that do it.
    """

    def __init__(
        self, config: Config, workspace: Workspace, clips: dict[Side, list[Clip]], progress: Progress
    ) -> None:
        self.context = Context(config, workspace, clips, progress)
        self.faces = FaceStages(self.context)
        self.training = Training(self.context, self.faces)
        self.swapping = Swapping(self.context, self.faces, self.training)
        self.scoring = Scoring(self.context, self.faces, self.training, self.swapping, self._each)
        self._config, self._workspace = config, workspace
        self._alone = config.engine.kind == "local" and _count(config.engine, config.device) == 1
        self._make = partial(Worker, config, workspace.root, clips)
        self._pool: Pool[Any] | None = None  # made when there is something to do

    def up_to(self, stage: Stage) -> Result:
        """Bring all up to date up to a stage."""
        with atomic_path(self._workspace.root / "config.toml") as part:
            part.write_text(to_toml(with_whole_paths(self._config)), encoding="utf-8")
        try:
            self._work(stage)
        finally:
            self.context.free_threads()
            if self._pool is not None:
                self._pool.leave()
            if self._workspace.shard is None:  # a shard knows its own clips only
                self._write_manifest()
        return self.context.result

    def _work(self, stage: Stage) -> None:
        if stage in ("swap", "score"):
            _ = self.swapping.identity  # what cannot be signed is told before the work, not after
            self.context.result.warnings += consent_note(self._config)
        with self._timed("detect"):
            self._each("detect", [(side, clip) for side in SIDES for clip in self.context.clips[side]])
        if stage != "detect":
            with self._timed("align"):
                self._each("align", [(side, clip) for side in SIDES for clip in self.context.alive("detect", side)])
        if stage in ("train", "swap", "score"):
            self.faces.tell_rules(stage)
        if stage == "train" or (stage in ("swap", "score") and self._config.swap.method == "gan"):
            if self._pool is not None:
                self._pool.close()  # the memory is the training's; what comes after it starts workers again
            with self._timed("train"):
                self.training.train()
        if stage in ("swap", "score"):
            with self._timed("swap"):
                _ = self.swapping.bank  # without a usable source face the call ends here, not clip by clip
                mine = [clip for clip in self.context.alive("align", "target") if self._is_mine(clip)]
                self._each("swap", [("target", clip) for clip in mine])
                if self._workspace.shard is None:
                    self._join_films()
            if stage == "score":
                with self._timed("score"):
                    self.scoring.score_all()

    def _join_films(self) -> None:
        """Make one video of the parts of each film; one whose parts failed is told, and the others follow."""
        for film, parts in films_of(self.context.clips["target"]).items():
            outcome = self._guard("swap", "target", film, partial(self._join, parts))
            self.context.result.outcomes.append(replace(outcome, frames=0))  # its parts have told theirs

    def _join(self, parts: list[Clip], side: Side, film: Clip) -> tuple[str, int]:
        failed = {one.clip for one in self.context.result.failed}
        if lost := [part.name for part in parts if part.name in failed]:
            raise MediaError(f"{film.path}: not joined, since {', '.join(lost)} failed; run again")
        if not set(parts).intersection(self.context.alive("swap", side)):
            raise NoFaceError(f"{film.path}: nothing was swapped in any of its {len(parts)} parts")
        with self._workspace.clip_lock(side, film.name):
            return self.swapping.join(film, parts)

    def _is_mine(self, clip: Clip) -> bool:
        """Whether a target clip is this shard's, or there are no shards."""
        number, count = self._config.engine.part or (0, 1)
        names = [one.name for one in self.context.clips["target"]]
        return self._config.swap.method != "gan" or clip.name in names[number::count]

    @contextmanager
    def _timed(self, stage: Stage) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.context.result.seconds[stage] = time.perf_counter() - start

    def _each(self, stage: Stage, units: list[tuple[Side, Clip]]) -> None:
        """Do a stage on clips, here or by workers, and note what became of each in their order.

        Among shards, what another process is at comes last: by then it is done, or is waited for.
        """
        sharded = self._workspace.shard is not None
        left = [Unit(stage, side, clip, patient=not sharded) for side, clip in units]
        while left:
            busy = []
            for unit, outcome in zip(left, self._outcomes(left), strict=True):
                if outcome is None:
                    busy.append(replace(unit, patient=True))
                else:
                    self.context.result.outcomes.append(outcome)
            left = busy

    def _outcomes(self, units: list[Unit]) -> Iterator[Outcome | None]:
        """What becomes of each unit, one after the other; None where another process is at it."""
        if self._alone:
            yield from map(self.do, units)
            return
        kept = [self._is_kept(unit) for unit in units]  # no process is started for what is done
        todo = [unit for unit, there in zip(units, kept, strict=True) if not there]
        engine = self._config.engine
        if not todo or (len(todo) == 1 and engine.kind == "local" and engine.workers == "auto"):
            yield from map(self.do, units)
            return
        self._pool = self._pool or _pool_of(engine, self._config.device, self._make)
        shared = Shared(self.context.keys.copy(), self.scoring.common)
        costs = [_bytes_of(unit.clip) for unit in todo]
        with closing(self._pool.each(todo, shared, self.context.progress, costs=costs)) as replies:
            for unit, there in zip(units, kept, strict=True):
                yield self.do(unit) if there else self._learn(unit, next(replies))

    def _is_kept(self, unit: Unit) -> bool:
        """Whether a unit has nothing to do; asked without reading a clip whose hash is known."""
        stage, side, clip = unit.stage, unit.side, unit.clip
        keys: dict[Stage, Callable[[Clip], str]] = {
            "detect": self.faces.detect_key,
            "align": partial(self.faces.align_key, side),
            "swap": self.swapping.swap_key,
        }
        if stage not in keys:
            return False
        marker = self.context.marker(stage, side, clip)
        try:
            return marker.exists() and self._workspace.is_done(marker, keys[stage](clip))
        except OSError:
            return False

    def _learn(self, unit: Unit, reply: Reply | Died | None) -> Outcome | None:
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
            self.context.keys[stage, side, clip.name] = reply.key
        self.context.result.warnings += reply.warnings
        self._workspace.learn_hashes(reply.hashes)
        if reply.scored is not None:
            self.scoring.scored[clip.name] = reply.scored
        return reply.outcome

    def answer(self, unit: Unit, shared: Shared) -> Reply | None:
        """Do a unit as a worker."""
        self.context.keys, self.scoring.common = shared.keys.copy(), shared.scoring
        outcome = self.do(unit)
        if outcome is None:
            return None
        warnings, self.context.result.warnings = self.context.result.warnings, []
        hashes, self._workspace.fresh_hashes = self._workspace.fresh_hashes, {}
        key = self.context.keys.get((unit.stage, unit.side, unit.clip.name)) if not outcome.reason else None
        return Reply(outcome, key, warnings, hashes, self.scoring.scored.pop(unit.clip.name, None))

    def do(self, unit: Unit) -> Outcome | None:
        """Do a unit; None when another process is at it and it is not to be waited for."""
        works: dict[str, Callable[[Side, Clip], tuple[str, int]]] = {
            "detect": self.faces.detect,
            "align": self.faces.align,
            "swap": lambda _, clip: self.swapping.swap(clip),
            "score": lambda _, clip: self.scoring.score(clip),
        }
        with self._workspace.clip_lock(unit.side, unit.clip.name, patient=unit.patient) as held:
            return self._guard(unit.stage, unit.side, unit.clip, works[unit.stage]) if held else None

    def _guard(self, stage: Stage, side: Side, clip: Clip, work: Callable[[Side, Clip], tuple[str, int]]) -> Outcome:
        """Do a stage on a clip; a failure becomes an outcome and the next clip follows."""
        start = time.perf_counter()
        reason, frames = "", 0
        try:
            key, frames = work(side, clip)
            self.context.keys[stage, side, clip.name] = key
        except Exception as exc:
            if self.context.progress.failed:
                raise
            reason = one_line(self._reason(stage, side, clip, exc))
            if isinstance(exc, NoFaceError) and clip.film is not None:  # the film goes on without
                self.context.result.warnings.append(f"{clip.film.path}: a part is left as it is: {reason}")
                reason = ""
        status: Literal["done", "kept", "failed"] = "failed" if reason else "done" if frames else "kept"
        if status != "kept":
            give_back()
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
        log = self._workspace.root / "errors" / f"{stage}-{side}-{clip.name}.log"
        with atomic_path(log) as part:
            part.write_text("".join(traceback.format_exception(exc)), encoding="utf-8")
        return f"{clip.path}: unexpected {type(exc).__name__}: {exc} (traceback in {log})"

    def _write_manifest(self) -> None:
        inputs = {
            side: {
                clip.name: {
                    **self._workspace.place_of(clip),
                    "sha256": self._workspace.file_hash(clip.path),
                }
                for clip in self.context.alive("detect", side)
            }
            for side in self.context.clips
        }
        manifest = {
            **read_json(self._workspace.manifest_path),
            "facepipe": __version__,
            "inputs": inputs,
            "failed": [
                {"stage": o.stage, "side": o.side, "clip": o.clip, "reason": o.reason}
                for o in self.context.result.failed
            ],
            "weights": self.context.weights_of("score"),
            "versions": library_versions(),
            "seed": self._config.seed,
            "ledger": ledger_of(self._config),
            **({"select": self.faces.told_rules()} if self.faces.dropped else {}),
        }
        write_json(self._workspace.manifest_path, manifest)


def with_whole_paths(config: Config) -> Config:
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
