"""Stage score: every clip, and what they come to together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from facepipe import __version__, evaluation, weights
from facepipe.composite import Compositor
from facepipe.errors import NoFaceError, WeightsMissingError
from facepipe.methods.bank import SourceBank
from facepipe.methods.faceset import held_out
from facepipe.methods.plan import Plan
from facepipe.methods.procrustes import plan_procrustes
from facepipe.people import mean_embedding
from facepipe.pipeline.context import Context
from facepipe.pipeline.faces import DETECTED, FaceStages
from facepipe.pipeline.outcome import Outcome, Stage
from facepipe.pipeline.swapping import Swapping, read_swapped
from facepipe.pipeline.training import Training
from facepipe.stages import score as scoring
from facepipe.types import Faces, Image, Side, evenly_spaced
from facepipe.video import Clip, open_clip
from facepipe.workspace import read_faces, read_marker, write_json

if TYPE_CHECKING:  # loads torch
    from facepipe.backends.features import FeatureNet, Features

__all__ = ["Common", "Scored", "Scoring"]

# Of each clip, of all together at most, and of each at least.
_SAMPLES = 40, 4000, 8  # faces that the feature net sees
_KEPT = 512, 8192, 16  # embeddings of swapped faces that are kept
_REBUILT_FROM = 240  # faces that a same-identity swap of procrustes may choose from, evenly spaced


@dataclass(frozen=True, slots=True)
class Common:
    """What all clips have in common when they are scored; `source` are embeddings by net, a part a clip.

    For a single clip it is None: who scores it finds out, while frames are on their way.
    """

    key: str
    source: Mapping[str, list[NDArray[np.float32]]] | None
    samples: int
    kept: int
    with_features: bool


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of a clip, and the embeddings by net of the person who was replaced in it."""

    scores: evaluation.ClipScores
    target: dict[str, NDArray[np.float32]]


class Scoring:
    """Scores clips, and writes what they come to.

    Attributes
    ----------
    common : Common or None
        Known once scoring has begun.
    scored : dict of str to Scored
        By the names of clips.
    """

    def __init__(
        self,
        context: Context,
        faces: FaceStages,
        training: Training,
        swapping: Swapping,
        each: Callable[[Stage, list[tuple[Side, Clip]]], None],
    ) -> None:
        self._context = context
        self._config = context.config
        self._workspace = context.workspace
        self._faces = faces
        self._training = training
        self._swapping = swapping
        self._each = each
        self.common: Common | None = None
        self.scored: dict[str, Scored] = {}

    @cached_property
    def protocol(self) -> evaluation.Protocol:
        """How is measured."""
        return evaluation.choose_protocol(self._config.score.protocol)

    @property
    def _nets(self) -> tuple[str, ...]:
        """The identity nets that the protocol needs."""
        return self._config.score.nets if "identity" in self.protocol.parts else ()

    def score_all(self) -> None:
        """Score what is not scored yet, and write it."""
        root = self._workspace.root
        marker = root / "score.json"
        clips = self._context.alive("swap", "target")
        swaps = {clip.name: self._context.keys["swap", "target", clip.name] for clip in clips}
        key = self._context.key(
            "score",
            swaps=swaps,
            settings=self._config.score.model_dump(mode="json"),
            weights=self._context.weights_of("score"),
            there=[row.present for row in weights.status() if row.name == self._config.score.features],
        )
        if self._workspace.is_done(marker, key) and evaluation.can_read(root):
            for clip in clips:
                self._context.result.outcomes.append(Outcome("score", "target", clip.name, "kept"))
        elif clips:
            marker.unlink(missing_ok=True)
            if len(self._score_clips(clips, key)) == len(clips):
                self._workspace.mark_done(marker, key, ["scores.json", "scores.parquet"], swaps=swaps)
        elif not self._context.result.failed:
            self._context.result.warnings.append(f"{root}: nothing to score, no clip was swapped")
        self._context.result.scores = evaluation.read_scores(root) if clips else None

    def _score_clips(self, clips: list[Clip], key: str) -> dict[str, evaluation.ClipScores]:
        """Score the clips and write what came of it; one that fails is an outcome and is left out."""
        missing: dict[str, str] = {}
        net = self._feature_net(clips, missing)
        samples, kept = (max(least, min(each, all_ // len(clips))) for each, all_, least in (_SAMPLES, _KEPT))
        source = self._source_person() if len(clips) > 1 else None
        self.common = Common(key, source, samples, kept, with_features=net is not None)
        self._each("score", [("target", clip) for clip in clips])
        scores = {name: scored.scores for name, scored in self.scored.items()}
        targets = {name: scored.target for name, scored in self.scored.items()}
        learns = self._config.swap.method == "gan"
        originals = evaluation.Originals(
            {name: np.concatenate(parts) for name, parts in self._source.items()},
            targets,
            features=None if net is None else self._source_features(net, samples),
            trained_with=frozenset({"irv1"} if learns and self._config.train.loss.identity else ()),
        )
        share = self._config.train.held_out if learns else None
        context = evaluation.Context(
            self._nets, self.protocol, originals, net, missing, self._config.score.worst, share
        )
        root = self._workspace.root
        evaluation.write_rows(root / "scores.parquet", scores, self._nets)
        facts = {"version": evaluation.VERSION, "facepipe": __version__, "method": self._config.swap.method}
        write_json(root / "scores.json", {**facts, **evaluation.summarize(scores, context)})
        return scores

    def _feature_net(self, clips: list[Clip], missing: dict[str, str]) -> FeatureNet | None:
        """The net of the distances between sets of faces; where there is none, `missing` is told why."""
        name = self._config.score.features
        if "distribution" not in self.protocol.parts or name == "none":
            return None
        swapped = sum(int(read_swapped(self._workspace.swapped / f"{clip.name}.parquet").sum()) for clip in clips)
        if swapped < evaluation.LEAST_FACES:
            missing["image.distribution"] = f"{swapped} swapped faces, {evaluation.LEAST_FACES} are needed"
            return None
        try:
            return self._context.features
        except WeightsMissingError as exc:
            missing["image.distribution"] = str(exc)
            return None

    @cached_property
    def _source_rows(self) -> list[tuple[Clip, Faces, NDArray[np.int64]]]:
        """The source clips, the faces in them that tell who the source person is, and their rows."""
        clips = self._context.alive("align", "source")
        tables = [self._faces.table("source", clip, without=("mesh",)) for clip in clips]
        people = self._faces.person(tables, self._config.swap.source_person)
        telling = [_telling(faces, rows) for faces, rows in zip(tables, people, strict=True)]
        return [(clip, faces[rows], rows) for clip, faces, rows in zip(clips, tables, telling, strict=True)]

    def _embeddings(self, clip: Clip, faces: Faces) -> dict[str, NDArray[np.float32]]:
        """Embeddings (N, D) by net of a person's faces in a clip."""
        judges = self._context.judges if self._nets else []
        with self._context.open(clip) as reader:
            return evaluation.embed_rows(reader, faces, judges, known=self._config.detect.embedder)

    @cached_property
    def _source(self) -> Mapping[str, list[NDArray[np.float32]]]:
        """What `_source_person` found, here or in the process that sent the clip."""
        known = None if self.common is None else self.common.source
        return self._source_person() if known is None else known

    def _source_person(self) -> dict[str, list[NDArray[np.float32]]]:
        """Embeddings (N, D) of the source person by net, a part a clip."""
        parts = [self._embeddings(clip, faces) for clip, faces, rows in self._source_rows if len(rows)]
        return {net: [part[net] for part in parts] for net in self._nets}

    def _source_features(self, net: FeatureNet, samples: int) -> Features | None:
        """Features of some of the source person's faces, evenly spaced over all clips."""
        index = [(clip, int(row)) for clip, _, rows in self._source_rows for row in rows]
        chosen = [index[i] for i in evenly_spaced(len(index), samples)]
        crops = (self._faces.crops("source", clip)[row] for clip, row in chosen)
        faces = [evaluation.face_picture(crop, np.eye(2, 3), len(crop)) for crop in crops]
        return net(np.stack(faces)) if faces else None

    def score(self, clip: Clip) -> tuple[str, int]:
        """Score a clip into `_scored`; the key of the stage, and the number of the clip's frames."""
        assert self.common is not None
        folder = self._workspace.swapped
        faces, rows = self._faces.target(clip)
        learnable = self._faces.learnable(clip, rows)
        flat = faces.with_columns(mesh=np.empty((len(faces), 0, 3), np.float32))  # most of a table, and not asked for
        embedders = self._context.judges if self._nets else []
        target_person: dict[str, NDArray[np.float32]] = {}

        def judges() -> list[evaluation.Judge]:
            target_person.update(self._embeddings(clip, flat[_telling(faces, rows)]))
            means = ((evaluation.mean_of(self._source[net.name]), target_person[net.name]) for net in embedders)
            return [
                evaluation.Judge(net, source, mean_embedding(target))
                for net, (source, target) in zip(embedders, means, strict=True)
            ]

        swapped = read_swapped(folder / f"{clip.name}.parquet")
        video_name = read_marker(folder / f"{clip.name}.json")["files"][0]
        # The swap's landmarks are found anew; those that they are compared with must be as raw.
        detected = self._workspace.clip_folder("target", clip.name) / DETECTED
        raw = read_faces(detected, without=("mesh", "embedding"))
        as_raw = {name: getattr(raw, name) for name in ("landmarks", "yaw", "pitch", "roll")}
        settings = scoring.Settings(
            self.protocol,
            self._context.features if self.common.with_features else None,
            self.common.samples,
            self.common.kept,
            crop_side=self._faces.crops("target", clip).shape[1],
            held_out_from=self._held_out_from(faces, learnable),
            occlusion=self._config.swap.occlusion,
        )
        with (
            self._context.open(clip) as target,
            open_clip(folder / video_name) as video,
            open_clip(self._swapping.mask(clip)) as masks,
        ):
            scores = scoring.score_clip(
                scoring.Triple(self._context.frames("score", clip, target), video, masks, str(folder / video_name)),
                flat.with_columns(**as_raw)[rows],
                swapped,
                embedders,
                judges,
                (self._context.models.detector, self._context.models.landmarker, self._config.detect.stride),
                same_identity=self._rebuilt(clip, faces, rows, learnable),
                settings=settings,
            )
        self.scored[clip.name] = Scored(scores, target_person)
        return self.common.key, len(swapped)

    def _held_out_from(self, faces: Faces, rows: NDArray[np.bool_]) -> int | None:
        """First frame of a target clip that the method never learned from; None where it learns from none of it."""
        if self._config.swap.method != "gan":
            return None
        mine = faces.frame[rows & faces.trusted]
        last = mine[held_out(len(mine), self._config.train.held_out)]
        return int(last[0]) if len(last) else None

    def _rebuilt(
        self, clip: Clip, faces: Faces, rows: NDArray[np.bool_], mine: NDArray[np.bool_]
    ) -> Iterator[tuple[Image, Image, NDArray[np.float32]]]:
        """The same-identity swap: faces rebuilt from the same person's other frames, as `scoring.score_clip` takes
        them. `rows` are the target person's, `mine` those of them that may be learned from.
        """
        count = self._config.score.reconstruct_frames if "reconstruction" in self.protocol.parts else 0
        usable = np.flatnonzero(mine & faces.trusted)
        if self._config.swap.method != "procrustes" and len(usable):  # trained on the rest
            usable = usable[held_out(len(usable), self._config.train.held_out)]
        if count == 0 or not len(usable):
            return
        chosen = faces[usable[evenly_spaced(len(usable), count)]]
        try:
            plan = self._swapping.behind(self._same_identity_plan(clip, faces, mine, chosen), clip, faces, rows)
        except NoFaceError:  # too few faces to draw the person from: this is missing, the rest is not
            return
        row_of = {int(frame): row for row, frame in enumerate(plan.faces.frame)}
        if not row_of:
            return
        with self._context.open(clip, stop=max(row_of) + 1) as reader:
            for frame in reader:
                if frame.index not in row_of:
                    continue
                (patch,) = plan.patches([row_of[frame.index]], [frame.image])
                if patch is not None:
                    image, region = Compositor(self._config.swap, self._config.seed)(frame.image, patch, frame.index)
                    place = (region.rows, region.columns)
                    yield frame.image[place], image[place], region.mask

    def _same_identity_plan(self, clip: Clip, faces: Faces, rows: NDArray[np.bool_], chosen: Faces) -> Plan:
        """How the method draws `chosen` faces of the target person from that person's other frames."""
        config = self._config.swap.model_copy(update={"steadiness": 0.0, "crossfade": 0, "skip": ()})
        everyone = np.ones(len(chosen), bool)
        match self._config.swap.method:
            case "procrustes":
                known = np.zeros(len(faces), bool)
                known[np.flatnonzero(rows)[evenly_spaced(int(rows.sum()), _REBUILT_FROM)]] = True
                bank = SourceBank.build([faces], [self._faces.crops("target", clip)], [known])
                state = read_marker(self._workspace.clip_folder("target", clip.name) / "detect.json")
                apart = np.abs(chosen.pts[:, None] - bank.faces.pts[None]) * float(Fraction(state["time_base"]))
                near = apart <= self._config.score.reconstruct_gap
                return plan_procrustes(bank, chosen, everyone, config, forbidden=near)
            case "eigenface":
                from facepipe.methods.eigenface import EigenfacePlan

                return EigenfacePlan.rebuild(self._faces.faceset("target", [clip]), config)
            case "gan":
                from facepipe.methods.gan import GanPlan

                return GanPlan(self._training.generator, chosen, everyone, config, drawn="target")


def _telling(faces: Faces, rows: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Those of a person's `rows` that tell who it is: without a flag, where there are any."""
    trusted = rows & faces.trusted
    return np.flatnonzero(trusted if trusted.any() else rows)
