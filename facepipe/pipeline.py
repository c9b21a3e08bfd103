"""The stages wired together: what the command line, the Python functions and the scripts all call.

A call of a stage brings up to date whatever it needs and no more: ``swap`` detects and aligns first where that has
not been done with the same inputs and settings. One bad clip does not stop the others; it is an `Outcome` with a
reason.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from facepipe import __version__, weights
from facepipe.backends.embedders import Embedder, InceptionResnetV1, load_embedder
from facepipe.composite import Compositor
from facepipe.config import Config, build, load, to_toml
from facepipe.errors import (
    ContainerError,
    DegenerateLandmarksError,
    FacepipeError,
    MediaError,
    NoFaceError,
    RunFolderError,
    UsageError,
)
from facepipe.finder import Models, load_models
from facepipe.methods.bank import ChosenCrops, SourceBank
from facepipe.methods.faceset import FaceSet, find_twins, held_out
from facepipe.methods.occlusion import Occlusion, WithOcclusion
from facepipe.methods.plan import Plan
from facepipe.methods.procrustes import plan_procrustes
from facepipe.people import mean_embedding, person_rows
from facepipe.provenance import label
from facepipe.stages import score as scoring
from facepipe.stages.align import align_faces
from facepipe.stages.detect import detect_faces
from facepipe.stages.swap import SwappedFrame, swap_frames, write_swap
from facepipe.types import OTHER, SIDES, Faces, Image, Side, evenly_spaced
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
_VERSION: Mapping[Stage, int] = {"detect": 2, "align": 2, "train": 1, "swap": 1, "score": 1}


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
    """

    out: Path
    outcomes: list[Outcome] = field(default_factory=list)
    scores: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)

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
    """Everything: detect, align, swap, score.

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
    return _call("score", config, progress, settings)


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
    clips: dict[Side, list[Clip]] = {
        "source": find_clips(resolved.source),
        "target": find_clips(resolved.target),
    }
    if stage == "train":
        from facepipe.training.team import processes

        if processes()[0] > 0:
            return _assist(resolved)
    with Workspace(resolved.out) as workspace:
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


class _Run:
    """One call: the settings, the run folder, the nets (loaded when first needed), the outcomes."""

    def __init__(
        self, config: Config, workspace: Workspace, clips: dict[Side, list[Clip]], progress: Progress
    ) -> None:
        self.config = config
        self.workspace = workspace
        self.clips = clips
        self.progress = progress
        self.result = Result(workspace.root)
        self._keys: dict[tuple[str, Side, str], str] = {}

    # The nets

    @cached_property
    def device(self) -> str:
        return choose_device(self.config.device)

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

    def _weights(self, stage: Stage) -> dict[str, str]:
        """Name and sha256 of every weights file that a stage loads."""
        names = {self.config.detect.detector, self.config.detect.landmarker, self.config.detect.embedder}
        if stage == "score":
            names |= set(self.config.score.nets)
        known = weights.entries()
        return {name: known[name].digest for name in sorted(names & set(known))}

    # The order of work

    def up_to(self, stage: Stage) -> Result:
        with atomic_path(self.workspace.root / "config.toml") as part:
            part.write_text(to_toml(_with_whole_paths(self.config)), encoding="utf-8")
        try:
            self._work(stage)
        finally:
            self._write_manifest()
        return self.result

    def _work(self, stage: Stage) -> None:
        for side in SIDES:
            for clip in self.clips[side]:
                self._guard("detect", side, clip, self._detect)
        if stage != "detect":
            for side in SIDES:
                for clip in self._alive("detect", side):
                    self._guard("align", side, clip, self._align)
        if stage == "train" or (stage in ("swap", "score") and self.config.swap.method == "gan"):
            self._train()
        if stage in ("swap", "score"):
            _ = self.bank  # without a usable source face the call ends here, not clip by clip
            for clip in self._alive("align", "target"):
                self._guard("swap", "target", clip, lambda _, clip: self._swap(clip))
            if stage == "score":
                self._score_all()

    def _alive(self, stage: Stage, side: Side) -> list[Clip]:
        """The clips that came through a stage."""
        return [clip for clip in self.clips[side] if (stage, side, clip.name) in self._keys]

    def _guard(self, stage: Stage, side: Side, clip: Clip, work: Callable[[Side, Clip], tuple[str, int]]) -> None:
        """Do a stage on a clip; a failure becomes an outcome and the next clip follows."""
        start = time.perf_counter()
        reason, frames = "", 0
        try:
            key, frames = work(side, clip)
            self._keys[stage, side, clip.name] = key
        except DegenerateLandmarksError as exc:
            reason = f"{clip.path}: {exc}"
        except FacepipeError as exc:
            if exc.exit_code == 2 or not isinstance(exc, MediaError | NoFaceError | RunFolderError):
                raise
            reason = str(exc)
        except OSError as exc:  # the disk is full, a file vanished
            reason = f"{exc.filename or clip.path}: {exc.strerror or exc}"
        except Exception as exc:  # a defect, ours or a library's: keep the traceback, go on with the folder
            log = self.workspace.root / "errors" / f"{stage}-{side}-{clip.name}.log"
            with atomic_path(log) as part:
                part.write_text(traceback.format_exc(), encoding="utf-8")
            reason = f"{clip.path}: unexpected {type(exc).__name__}: {exc} (traceback in {log})"
        status: Literal["done", "kept", "failed"] = "failed" if reason else "done" if frames else "kept"
        seconds = time.perf_counter() - start
        self.result.outcomes.append(Outcome(stage, side, clip.name, status, reason, frames, seconds))

    def _key(self, stage: Stage, **depends: Any) -> str:
        return digest({"stage": stage, "version": _VERSION[stage], **depends})

    # Frames

    def _open(self, clip: Clip) -> ClipReader:
        limits = self.config.limits
        return open_clip(clip, limits=Limits(max_pixels=limits.max_pixels, max_frames=limits.max_frames))

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

    def _detect(self, side: Side, clip: Clip) -> tuple[str, int]:
        folder = self.workspace.clip_folder(side, clip.name)
        with self._open(clip) as reader:  # a file that cannot be read is told before it is hashed
            key = self._key(
                "detect",
                input=self.workspace.file_hash(clip.path),
                settings=self.config.detect.model_dump(),
                limits=self.config.limits.model_dump(exclude={"min_sharpness"}),
                weights=self._weights("detect"),
            )
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

    def _align(self, side: Side, clip: Clip) -> tuple[str, int]:
        folder = self.workspace.clip_folder(side, clip.name)
        key = self._key(
            "align",
            detect=self._keys["detect", side, clip.name],
            settings=self.config.align.model_dump(),
            sharpness=self.config.limits.min_sharpness,
        )
        files = ["faces.parquet", "crops.npy"]
        fresh = self.workspace.once(folder / "align.json", key, files, lambda: self._cut_crops(clip, folder))
        return key, read_json(folder / "detect.json")["frames"] if fresh else 0

    def _cut_crops(self, clip: Clip, folder: Path) -> dict[str, Any]:
        faces = read_faces(folder / _DETECTED)
        with (
            self._open(clip) as reader,
            atomic_path(folder / "crops.npy") as part,
            CropWriter(part, self.config.align.size) as crops,
        ):
            frames = self._frames("align", clip, reader)
            faces = align_faces(frames, faces, self.config.align, self.config.limits, crops.append)
        write_faces(folder / "faces.parquet", faces)
        return {"flagged": int((~faces.trusted).sum())}

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
        swap = self.config.swap
        tables = [self._faces(side, clip) for clip in clips]
        rows = self._person(tables, swap.source_person if side == "source" else swap.target_person)
        try:
            crops = [self._crops(side, clip) for clip in clips]
            return FaceSet.build(tables, crops, rows, share=self.config.train.held_out)
        except NoFaceError as exc:
            raise NoFaceError(f"{folder}: {exc}") from exc

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
        )

    def _train(self) -> None:
        """Train the swap net, or go on; what it makes is the folder ``model``."""
        from facepipe.stages.train import run_training
        from facepipe.training.setup import prepare, shape_of
        from facepipe.training.team import Team

        start = time.perf_counter()
        key, folder = self._train_key(), self.workspace.root / "model"
        marker = folder / "train.json"
        done, steps = self.workspace.is_done(marker, key), 0
        team = Team.join(self.device)
        if not done:
            sets = {side: self._faceset(side) for side in SIDES}
            shape = shape_of(self.config.train, self.device)
            prepare(folder, sets, self.config.align, self.config.train, shape)
            marker.unlink(missing_ok=True)
        team.agree(float(done))
        if not done:
            report = run_training(folder, self.config, team, _judge(self.config, self._identity_net), self.progress)
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
        tables = [self._faces("source", clip) for clip in clips]
        rows = self._person(tables, self.config.swap.source_person)
        try:
            return SourceBank.build(tables, [self._crops("source", clip) for clip in clips], rows)
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
        areas = np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1)
        box = found.boxes[int(areas.argmax())]
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
        )

    def _target(self, clip: Clip) -> tuple[Faces, NDArray[np.bool_]]:
        """All faces of a clip, and which of them are the target person's."""
        faces = self._faces("target", clip)
        (rows,) = self._person([faces], self.config.swap.target_person)
        return faces, rows

    def _plan(self, clip: Clip, faces: Faces, rows: NDArray[np.bool_]) -> Plan:
        """How the chosen method swaps a clip, of whose faces `rows` are the target person's."""
        plan: Plan
        match self.config.swap.method:
            case "procrustes":
                plan = plan_procrustes(self.bank, faces, rows, self.config.swap)
            case "eigenface":
                from facepipe.methods.eigenface import EigenfacePlan

                plan = EigenfacePlan.make(self._faceset("source"), faces, rows, self.config.swap)
            case "gan":
                from facepipe.methods.gan import GanPlan

                plan = GanPlan(self.generator, faces, rows, self.config.swap)
        if not len(plan.faces):
            raise NoFaceError(
                f"{clip.path}: none of the {int(rows.sum())} faces of the target person can be swapped, all are "
                f"flagged {' or '.join(self.config.swap.skip)}; --set 'swap.skip=[]' swaps them all the same"
            )
        return self._behind(plan, clip, faces, rows)

    def _behind(self, plan: Plan, clip: Clip, faces: Faces, rows: NDArray[np.bool_]) -> Plan:
        """The plan, with what is in front of the faces left in front; `rows` are the target person's."""
        if not self.config.swap.occlusion:
            return plan
        crops = ChosenCrops([self._crops("target", clip)], [(0, row) for row in range(len(faces))])
        known = Occlusion.learn(faces, crops, rows)
        return plan if known is None else WithOcclusion(plan, known)

    def _swap(self, clip: Clip) -> tuple[str, int]:
        key = self._swap_key(clip)
        folder = self.workspace.swapped
        marker = folder / f"{clip.name}.json"
        if self.workspace.is_done(marker, key):
            return key, 0
        marker.unlink(missing_ok=True)
        faces, rows = self._target(clip)
        plan = self._plan(clip, faces, rows)
        statement = label(
            method=self.config.swap.method,
            target_sha256=self.workspace.file_hash(clip.path),
            source_sha256=[self.workspace.file_hash(c.path) for c in self._alive("align", "source")],
            run=key,
        )
        for place in (folder, self._mask(clip).parent):
            place.mkdir(exist_ok=True)
        try:
            video, columns = self._write_swap(clip, plan, folder / f"{clip.name}.mp4", statement)
        except ContainerError:
            video, columns = self._write_swap(clip, plan, folder / f"{clip.name}.mkv", statement)
        write_table(folder / f"{clip.name}.parquet", columns)
        files = [video.name, f"../masks/{clip.name}.mkv", f"{clip.name}.parquet"]
        total, swapped = len(columns["frame"]), int(columns["swapped"].sum())
        self.workspace.mark_done(marker, key, files, frames=total, swapped=swapped, label=statement)
        return key, total

    def _mask(self, clip: Clip) -> Path:
        """The video of masks: not beside the swapped videos, whose folder holds what is labelled."""
        return self.workspace.root / "masks" / f"{clip.name}.mkv"

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
            )
        return video, columns

    # Stage score

    def _score_all(self) -> None:
        root = self.workspace.root
        marker = root / "score.json"
        clips = self._alive("swap", "target")
        key = self._key(
            "score",
            swaps={clip.name: self._keys["swap", "target", clip.name] for clip in clips},
            settings=self.config.score.model_dump(mode="json"),
            weights=self._weights("score"),
        )
        if self.workspace.is_done(marker, key):
            for clip in clips:
                self.result.outcomes.append(Outcome("score", "target", clip.name, "kept"))
        elif clips:
            marker.unlink(missing_ok=True)
            scores: dict[str, scoring.ClipScores] = {}
            sources = self._person_embeddings("source")
            for clip in clips:
                self._guard("score", "target", clip, lambda _, c: (key, self._score(c, sources, scores)))
            self._write_scores(scores)
            if len(scores) == len(clips):
                self.workspace.mark_done(marker, key, ["scores.json", "scores.parquet"])
        self.result.scores = read_json(root / "scores.json") if clips else None

    def _person_embeddings(self, side: Side, clip: Clip | None = None) -> dict[str, NDArray[np.float32]]:
        """Mean embedding of a person by each net: of the source over its clips, or of the target in one clip."""
        clips = self._alive("align", side) if clip is None else [clip]
        tables = [self._faces(side, c) for c in clips]
        picture = self.config.swap.source_person if side == "source" else self.config.swap.target_person
        means: dict[str, list[NDArray[np.float32]]] = {}
        for one, faces, rows in zip(clips, tables, self._person(tables, picture), strict=True):
            person = faces[rows & faces.trusted] if (rows & faces.trusted).any() else faces[rows]
            if not len(person):
                continue
            for net in self.judges:
                with self._open(one) as reader:
                    means.setdefault(net.name, []).append(scoring.embed_rows(reader, person, net))
        return {name: mean_embedding(np.stack(rows)) for name, rows in means.items()}

    def _score(
        self,
        clip: Clip,
        sources: Mapping[str, NDArray[np.float32]],
        scores: dict[str, scoring.ClipScores],
    ) -> int:
        folder = self.workspace.swapped
        faces, rows = self._target(clip)
        targets = self._person_embeddings("target", clip)
        judges = [scoring.Judge(net, sources[net.name], targets[net.name]) for net in self.judges]
        swapped = read_swapped(folder / f"{clip.name}.parquet")
        video_name = read_json(folder / f"{clip.name}.json")["files"][0]
        rebuild, chosen = self._rebuilder(clip, faces, rows)
        # The swap's landmarks are found anew; those that its jitter is compared with must be as raw.
        raw = read_faces(self.workspace.clip_folder("target", clip.name) / _DETECTED)
        with (
            self._open(clip) as target,
            open_clip(folder / video_name) as video,
            open_clip(self._mask(clip)) as masks,
        ):
            scores[clip.name] = scoring.score_clip(
                scoring.Triple(self._frames("score", clip, target), video, masks),
                faces.with_columns(landmarks=raw.landmarks)[rows],
                swapped,
                judges,
                (self.models.detector, self.models.landmarker, self.config.detect.stride),
                rebuild=rebuild,
                rebuild_frames=chosen,
            )
        return len(swapped)

    def _rebuilder(
        self, clip: Clip, faces: Faces, rows: NDArray[np.bool_]
    ) -> tuple[Callable[[Frame], tuple[Image, Image, NDArray[np.float32]] | None], frozenset[int]]:
        """The same-identity swap: a frame rebuilt from the same person's other frames, and the frames to do it on."""
        count = self.config.score.reconstruct_frames
        usable = faces[rows & faces.trusted]
        if self.config.swap.method != "procrustes" and len(usable):  # trained on the rest
            usable = usable[held_out(len(usable), self.config.train.held_out)]
        if count == 0 or not len(usable):
            return (lambda _: None), frozenset()
        chosen = usable[evenly_spaced(len(usable), count)]
        plan = self._behind(self._same_identity_plan(clip, faces, rows, chosen), clip, faces, rows)
        row_of = {int(frame): row for row, frame in enumerate(plan.faces.frame)}

        def rebuild(frame: Frame) -> tuple[Image, Image, NDArray[np.float32]] | None:
            (patch,) = plan.patches([row_of[frame.index]], [frame.image])
            if patch is None:
                return None
            image, region = Compositor(self.config.swap, self.config.seed)(frame.image, patch, frame.index)
            place = (region.rows, region.columns)
            return frame.image[place], image[place], region.mask

        return rebuild, frozenset(row_of)

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

    def _write_scores(self, scores: Mapping[str, scoring.ClipScores]) -> None:
        root = self.workspace.root
        names = sorted({name for clip in scores.values() for name in clip.columns})
        columns: dict[str, list[Any]] = {"clip": [], **{name: [] for name in names}}
        for clip, one in scores.items():
            rows = len(one.columns.get("frame", []))
            columns["clip"] += [clip] * rows
            for name in names:
                columns[name] += one.columns.get(name, [None] * rows)
        write_table(root / "scores.parquet", columns)
        summary = scoring.summarize(scores, self.config.score.nets)
        write_json(root / "scores.json", {"facepipe": __version__, "method": self.config.swap.method, **summary})

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
            "ledger": {side: entry.model_dump() for side, entry in self.config.ledger.items()},
        }
        write_json(self.workspace.manifest_path, manifest)


def _with_whole_paths(config: Config) -> Config:
    """The configuration as it can be read from any folder."""

    def whole(section: Any, names: Iterable[str]) -> dict[str, Path]:
        return {name: path.absolute() for name in names if (path := getattr(section, name)) is not None}

    people = config.swap.model_copy(update=whole(config.swap, ("source_person", "target_person")))
    return config.model_copy(update={**whole(config, SIDES), "swap": people})


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
