"""Stage swap, clip by clip: what is needed of each, what is written, and who signs it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe import truth
from facepipe.errors import ContainerError, NoFaceError, RunFolderError
from facepipe.methods.bank import CLEAR, CLUTTERED, SourceBank
from facepipe.methods.occlusion import Occlusion, WithOcclusion
from facepipe.methods.plan import Plan, rows_to_swap
from facepipe.methods.procrustes import plan_procrustes
from facepipe.pipeline.context import VERSION, Context
from facepipe.pipeline.faces import FaceStages
from facepipe.pipeline.training import Training
from facepipe.provenance import Identity, Input, label, load_identity, prove, sidecar_of, sign_file, statement_of
from facepipe.selection import Selection, select
from facepipe.stages.swap import swap_frames, write_swap
from facepipe.stored import DAMAGED, read_table
from facepipe.types import Faces, VideoInfo
from facepipe.video import Clip, ClipReader, join_parts, open_writer
from facepipe.watermark import Mark, payload_of
from facepipe.workspace import digest, read_marker, write_marker, write_table

__all__ = ["Swapping", "read_swapped"]

_WORTH = 0.1  # of a clip's source faces are cluttered where a closer look is worth its seconds


class Swapping:
    """Swaps clips."""

    def __init__(self, context: Context, faces: FaceStages, training: Training) -> None:
        self._context = context
        self._config = context.config
        self._workspace = context.workspace
        self._faces = faces
        self._training = training

    @cached_property
    def bank(self) -> SourceBank:
        """The source person's faces."""
        clips = self._context.alive("align", "source")
        if not clips:
            raise NoFaceError(f"{self._config.source}: no source clip has a face; " + self._context.first_reason())
        tables, usable = self._faces.usable("source", clips)
        crops, whole = [self._faces.crops("source", clip) for clip in clips], self._faces.whole("source", clips)
        try:
            bank = SourceBank.build(tables, crops, usable.rows, whole=whole)
        except NoFaceError as exc:
            raise NoFaceError(f"{self._config.source}: {exc}") from exc
        if not self._config.swap.occlusion:
            return bank
        shares = np.full(len(bank.faces), np.nan)
        for number, clip in enumerate(clips):
            own = bank.clip == number
            asked = np.flatnonzero(own & (bank.clutter > CLEAR))
            if (own & (bank.clutter > CLUTTERED)).sum() >= _WORTH * own.sum() > 0:
                shares[asked] = self._hidden(clip, usable.rows[number], bank.row[asked])
        return bank.hiding(shares)

    def _hidden(self, clip: Clip, rows: NDArray[np.bool_], asked: NDArray[np.int64]) -> list[float]:
        """Shares of some faces of a source clip that something hides, NaN where it cannot be told; kept in a file."""
        align = self._context.keys["align", "source", clip.name]
        key = digest([VERSION["swap"], align, rows.tolist(), asked.tolist()])
        path = self._workspace.clip_folder("source", clip.name) / "hidden.json"
        told = read_marker(path)
        if told.get("key") != key:
            (faces,) = self._faces.whole("source", [clip])
            known = Occlusion.learn(faces, self._faces.chosen_crops("source", clip), rows)
            shares = None if known is None else [known.hidden(row) for row in asked.tolist()]
            told = {"key": key, "shares": shares}
            write_marker(path, told)
        return [float("nan")] * len(asked) if told["shares"] is None else told["shares"]

    def swap_key(self, clip: Clip) -> str:
        """What the swap of a clip depends on."""
        pictures = [self._config.swap.source_person, self._config.swap.target_person]
        return self._context.key(
            "swap",
            sources=[self._context.keys["align", "source", c.name] for c in self._context.alive("align", "source")],
            target=self._context.keys["align", "target", clip.name],
            trained=self._context.keys.get(("train", "target", "model")),
            settings=self._config.swap.model_dump(mode="json"),
            pictures=[self._workspace.file_hash(picture) if picture else None for picture in pictures],
            **self._faces.rules(),
        )

    def _film_key(self, film: Clip) -> str:
        """What the swap of a film in parts depends on: the id that all of its parts tell."""
        return self._context.key(
            "swap",
            film=self._workspace.file_hash(film.path),
            sources=list(self._source_hashes()),
            trained=self._context.keys.get(("train", "target", "model")),
            settings=self._config.model_dump(mode="json", include={"detect", "align", "select", "swap", "limits"}),
        )

    def _source_hashes(self) -> dict[str, Path]:
        """The files of the source person by their hashes."""
        return {self._workspace.file_hash(c.origin): c.origin for c in self._context.alive("align", "source")}

    def _plan(self, clip: Clip, faces: Faces, rows: NDArray[np.bool_], ruled: Selection) -> Plan:
        """How the chosen method swaps a clip, of whose faces `rows` are the target person's, and `ruled` may be."""
        if why := ruled.emptied_by(self._config.select):
            raise NoFaceError(f"{clip.path}: {why}")
        (wanted,) = ruled.rows
        plan: Plan
        match self._config.swap.method:
            case "procrustes":
                plan = plan_procrustes(self.bank, faces, wanted, self._config.swap)
            case "eigenface":
                from facepipe.methods.eigenface import EigenfacePlan

                plan = EigenfacePlan.make(self._faces.faceset("source"), faces, wanted, self._config.swap)
            case "gan":
                from facepipe.methods.gan import GanPlan

                plan = GanPlan(self._training.generator, faces, wanted, self._config.swap)
        if not len(plan.faces):
            raise NoFaceError(
                f"{clip.path}: none of the {int(rows.sum())} faces of the target person can be swapped, all are "
                f"flagged {' or '.join(self._config.swap.skip)}; --set 'swap.skip=[]' swaps them all the same"
            )
        return plan

    def behind(self, plan: Plan, clip: Clip, faces: Faces, rows: NDArray[np.bool_]) -> Plan:
        """The plan, with what is in front of the faces left in front; `rows` are the target person's."""
        if not self._config.swap.occlusion:
            return plan
        # Score needs what swap has learned, and a worker does not know what another one did.
        key = digest([VERSION["swap"], self._context.keys["align", "target", clip.name], rows.tolist()])
        kept = self._workspace.clip_folder("target", clip.name) / "occlusion.npz", key
        known = Occlusion.learn(faces, self._faces.chosen_crops("target", clip), rows, kept=kept)
        return plan if known is None else WithOcclusion(plan, known)

    def swap(self, clip: Clip) -> tuple[str, int]:
        """Swap a clip; the key, and how many frames were worked on now."""
        key = self.swap_key(clip)
        folder = self._workspace.swapped
        marker = self._context.marker("swap", "target", clip)
        if self._workspace.is_done(marker, key):
            self._tell_unswapped(marker)
            return key, 0
        marker.unlink(missing_ok=True)
        faces, rows = self._faces.target(clip)
        ruled = self._to_swap(clip, faces, rows)
        plan = self.behind(self._plan(clip, faces, rows, ruled), clip, faces, rows)
        statement = label(
            method=self._config.swap.method,
            blend=self._config.swap.blend,
            target_sha256=self._workspace.file_hash(clip.origin),
            source_sha256=list(self._source_hashes()),
            run=key if clip.film is None else self._film_key(clip.film),
        )
        for place in (folder, self.mask(clip).parent):
            place.mkdir(exist_ok=True)
        shutil.rmtree(self._truth(clip), ignore_errors=True)  # that of another swap
        try:
            video, columns = self._write_swap(clip, plan, folder / f"{clip.name}.mp4", statement)
        except ContainerError:
            video, columns = self._write_swap(clip, plan, folder / f"{clip.name}.mkv", statement)
        write_table(folder / f"{clip.name}.parquet", columns)
        files = [video.name, f"../masks/{clip.name}.mkv", f"{clip.name}.parquet"]
        files += [beside.name] if (beside := sidecar_of(video)) is not None else []
        files += [f"../blend/{clip.name}/{name}" for name in truth.FILES] if self._config.swap.blend_truth else []
        total, swapped = len(columns["frame"]), int(columns["swapped"].sum())
        facts = {"frames": total, "swapped": swapped, "label": statement, "statement": statement_of(statement)}
        dropped = {"rules": f"{clip.path}: not swapped: {ruled.words}"} if ruled.words else {}
        self._workspace.mark_done(marker, key, files, **facts, **dropped)
        self._tell_unswapped(marker)
        return key, total

    def _to_swap(self, clip: Clip, faces: Faces, rows: NDArray[np.bool_]) -> Selection:
        """The target person's faces that the rules let be swapped; all of `rows` unless ``select.swap`` is set."""
        rules = self._config.select
        if not (rules.swap and rules.ranges):
            return Selection([rows], 0, {})
        wanted = rows_to_swap(faces, rows, self._config.swap)
        return select([faces], [wanted], [self._faces.chosen_crops("target", clip)], rules)

    def _tell_unswapped(self, marker: Path) -> None:
        """Warn of what the rules left as it was, when it is done and whenever it is kept."""
        if words := read_marker(marker).get("rules"):
            self._context.result.warnings.append(str(words))

    def mask(self, clip: Clip) -> Path:
        """The video of masks: not beside the swapped videos, whose folder holds what is labelled."""
        return self._workspace.root / "masks" / f"{clip.name}.mkv"

    def _truth(self, clip: Clip) -> Path:
        """The folder of the truth of the blend, where that is wanted."""
        return self._workspace.root / "blend" / clip.name

    def _write_swap(
        self, clip: Clip, plan: Plan, video: Path, statement: dict[str, str]
    ) -> tuple[Path, dict[str, NDArray[Any]]]:
        settings, seed = self._config.swap, self._config.seed
        with (
            self._context.open(clip) as reader,
            closing(
                swap_frames(
                    reader, plan, settings, seed=seed, mark=self._mark_of(statement, like := self._like(clip, reader))
                )
            ) as swapped,
        ):
            columns = write_swap(
                self._context.told("swap", clip, reader, swapped),
                self._config.swap,
                like=like,
                video=video,
                mask=self.mask(clip),
                audio_from=clip.path if reader.info.has_audio else None,
                metadata=statement,
                sign=partial(self._sign, clip, video, statement),
                truth=self._truth_writer(clip, like, statement),
                source_clips=[one.name for one in self._context.alive("align", "source")],
            )
        return video, columns

    def _like(self, clip: Clip, reader: ClipReader) -> VideoInfo:
        """What the swapped video is like; the parts of a film are all of one rate, so that they fit together."""
        if clip.film is None:
            return reader.info
        with self._context.open(clip.film) as film:
            return replace(reader.info, rate=film.info.rate)

    def join(self, film: Clip, parts: Sequence[Clip]) -> tuple[str, int]:
        """Join the swapped parts of a film into ``swapped/<film>.mp4``; the key, and how many were joined now.

        A part in which nothing was swapped comes as it is, encoded like the others.
        """
        folder, swapped = self._workspace.swapped, self._context.alive("swap", "target")
        keys = [self._context.keys["swap", "target", part.name] if part in swapped else None for part in parts]
        marker = folder / f"{film.name}.json"
        key = self._context.key("swap", film=self._film_key(film), parts=keys)
        if self._workspace.is_done(marker, key):
            return key, 0
        marker.unlink(missing_ok=True)
        markers = [folder / f"{part.name}.json" for part in parts if part in swapped]
        statement = read_marker(markers[0])["label"]
        with self._context.open(film) as reader, TemporaryDirectory(dir=folder, prefix=".join-") as plain:
            files = [
                folder / read_marker(folder / f"{part.name}.json")["files"][0]
                if part in swapped
                else self._as_it_is(part, Path(plain) / f"{part.name}.mp4")
                for part in parts
            ]
            audio = film.path if reader.info.has_audio else None
            for video in (folder / f"{film.name}.mp4", folder / f"{film.name}.mkv"):
                sign = partial(self._sign, film, video, statement)
                try:
                    join_parts(files, video, reader.info, metadata=statement, audio_from=audio, finish=sign)
                    break
                except ContainerError:
                    if video.suffix == ".mkv":
                        raise
        names = [video.name, *([beside.name] if (beside := sidecar_of(video)) is not None else [])]
        self._workspace.mark_done(marker, key, names, statement=statement_of(statement), parts=[p.name for p in parts])
        return key, len(parts)

    def _as_it_is(self, clip: Clip, out: Path) -> Path:
        how = self._config.swap
        with (
            self._context.open(clip) as reader,
            open_writer(out, self._like(clip, reader), codec=how.codec, crf=how.crf, preset=how.preset) as writer,
        ):
            for frame in reader:
                writer.write(frame.image, frame.pts)
        return out

    def _mark_of(self, statement: dict[str, str], like: VideoInfo) -> Mark:
        """The invisible mark of a swap: that of its id."""
        told = statement_of(statement) or {}
        return Mark(payload_of(str(told["run"])), float(like.rate), self._config.swap.mark)

    @cached_property
    def identity(self) -> Identity:
        """Who signs the swapped videos; known to do before there is one."""
        identity = load_identity(self._config.credentials)
        prove(identity)
        return identity

    def _sign(self, clip: Clip, video: Path, tags: dict[str, str], part: Path) -> None:
        """Give a swapped video its content credentials."""
        target = Input(clip.origin, "target", self._workspace.file_hash(clip.origin))
        sources = [Input(path, "source", sha256) for sha256, path in self._source_hashes().items()]
        sign_file(part, video, statement_of(tags) or {}, [target, *sources], self.identity)

    def _truth_writer(self, clip: Clip, like: VideoInfo, statement: dict[str, str]) -> truth.TruthWriter | None:
        if not self._config.swap.blend_truth:
            return None
        folder = self._truth(clip)
        sign = partial(self._sign, clip, folder / truth.FACE, statement)
        return truth.TruthWriter(folder, like, statement, preset=self._config.swap.preset, finish=sign)


def read_swapped(path: Path) -> NDArray[np.bool_]:
    """Which frames of a clip were swapped, from the table beside the video."""
    try:
        return np.asarray(read_table(path, ["swapped"])["swapped"].to_numpy(), bool)
    except DAMAGED as exc:
        raise RunFolderError(f"{path}: missing or damaged; delete {path.with_suffix('.json')} and run again") from exc
