"""Stages detect and align, and who is who in what they found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe.boxes import area
from facepipe.errors import NoFaceError, RunFolderError, UsageError
from facepipe.methods.bank import ChosenCrops
from facepipe.methods.faceset import FaceSet
from facepipe.people import person_rows
from facepipe.pipeline.context import Context
from facepipe.pipeline.outcome import Stage
from facepipe.selection import Selection, select
from facepipe.stages.align import align_faces, crop_size
from facepipe.stages.detect import detect_faces
from facepipe.stored import DAMAGED
from facepipe.types import SIDES, Faces, Side
from facepipe.video import Clip, ClipReader, Frame, read_image
from facepipe.workspace import CropWriter, atomic_path, read_crops, read_faces, read_marker, write_faces

__all__ = ["DETECTED", "FaceStages"]

DETECTED = "detected.parquet"
"""What stage detect found; align smooths it into ``faces.parquet``, and can do so again with other settings."""


class FaceStages:
    """Finds and aligns the faces of clips, and tells whose they are.

    Attributes
    ----------
    dropped : dict of Side to dict
        What the rules for faces dropped, for the manifest.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._config = context.config
        self._workspace = context.workspace
        self.dropped: dict[Side, dict[str, Any]] = {}
        self._learned: dict[str, NDArray[np.bool_]] = {}
        self._cast: dict[Clip, dict[Clip, NDArray[np.int32]]] = {}

    def detect_key(self, clip: Clip) -> str:
        """What the faces of a clip depend on."""
        return self._context.key(
            "detect",
            input=self._workspace.file_hash(clip.path),
            settings=self._config.detect.model_dump(),
            limits=self._config.limits.model_dump(exclude={"min_sharpness"}),
            weights=self._context.weights_of("detect"),
        )

    def detect(self, side: Side, clip: Clip) -> tuple[str, int]:
        """Find the faces of a clip; the key, and how many frames were worked on now."""
        folder = self._workspace.clip_folder(side, clip.name)
        with self._context.open(clip) as reader:  # a file that cannot be read is told before it is hashed
            key = self.detect_key(clip)
            marker = self._context.marker("detect", side, clip)
            files = [DETECTED, "faces.parquet"]
            fresh = self._workspace.once(marker, key, files, lambda: self._find_faces(clip, reader, folder))
        warnings, faces, frames = _found(marker)
        self._context.result.warnings += warnings
        if not faces:
            raise NoFaceError(f"{clip.path}: no face found in {frames} frames")
        return key, frames if fresh else 0

    def _find_faces(self, clip: Clip, reader: ClipReader, folder: Path) -> dict[str, Any]:
        (folder / "align.json").unlink(missing_ok=True)  # the crops of other faces
        count = 0

        def counted(frames: Iterable[Frame]) -> Iterator[Frame]:
            nonlocal count
            for frame in frames:
                count += 1
                yield frame

        config = self._config
        with closing(self._context.pictures("detect", clip, reader)) as frames:
            faces = detect_faces(counted(frames), self._context.models, config.detect, config.limits, reader.info.size)
        for name in (DETECTED, "faces.parquet"):
            write_faces(folder / name, faces)
        return {
            **self._workspace.place_of(clip),
            "frames": count,
            "faces": len(faces),
            "frames_with_face": len(np.unique(faces.frame)),
            "size": reader.info.size,
            "rate": str(reader.info.rate),
            "time_base": str(reader.info.time_base),
            "warnings": list(reader.warnings),
        }

    def align_key(self, side: Side, clip: Clip) -> str:
        """What the crops of a clip depend on."""
        return self._context.key(
            "align",
            detect=self._context.keys["detect", side, clip.name],
            settings=self._config.align.model_dump(),
            sharpness=self._config.limits.min_sharpness,
        )

    def align(self, side: Side, clip: Clip) -> tuple[str, int]:
        """Cut the crops of a clip; as `detect`."""
        folder = self._workspace.clip_folder(side, clip.name)
        key = self.align_key(side, clip)
        files = ["faces.parquet", "crops.npy"]
        fresh = self._workspace.once(
            self._context.marker("align", side, clip), key, files, lambda: self._cut_crops(clip, folder)
        )
        return key, _found(folder / "detect.json")[2] if fresh else 0

    def _cut_crops(self, clip: Clip, folder: Path) -> dict[str, Any]:
        faces = read_faces(folder / DETECTED)
        size = crop_size(faces, self._config.align)
        with (
            self._context.open(clip) as reader,
            atomic_path(folder / "crops.npy") as part,
            CropWriter(part, size) as crops,
            closing(self._context.pictures("align", clip, reader)) as frames,
        ):
            faces = align_faces(frames, faces, self._config.align, self._config.limits, crops.append)
        write_faces(folder / "faces.parquet", faces)
        return {"flagged": int((~faces.trusted).sum()), "size": size}

    def table(self, side: Side, clip: Clip, *, without: tuple[str, ...] = ()) -> Faces:
        """The faces of a clip."""
        return read_faces(self._workspace.clip_folder(side, clip.name) / "faces.parquet", without=without)

    def whole(self, side: Side, clips: list[Clip]) -> Sequence[Faces]:
        """The tables of some clips, each read when it is asked for: all of a film's would fill the memory."""
        return _Tables(self, side, clips)

    def crops(self, side: Side, clip: Clip) -> NDArray[np.uint8]:
        """Their crops, memory-mapped."""
        return read_crops(self._workspace.clip_folder(side, clip.name) / "crops.npy")

    def faceset(self, side: Side, clips: list[Clip] | None = None) -> FaceSet:
        """The faces of a person in all clips, or in some, with what is held out."""
        clips = self._context.alive("align", side) if clips is None else clips
        folder = self._config.source if side == "source" else self._config.target
        if not clips:
            raise NoFaceError(f"{folder}: no {side} clip has a face; " + self._context.first_reason())
        tables, usable = self.usable(side, clips)
        try:
            crops, whole = [self.crops(side, clip) for clip in clips], self.whole(side, clips)
            return FaceSet.build(tables, crops, usable.rows, share=self._config.train.held_out, whole=whole)
        except NoFaceError as exc:
            raise NoFaceError(f"{folder}: {exc}" + (f"; {usable.words}" if usable.words else "")) from exc

    def _select(self, side: Side, clips: list[Clip]) -> tuple[list[Faces], Selection]:
        """Tables of some clips without meshes, and the person's faces in them that may be learned from or be source
        faces.

        The one place where the rules of ``[select]`` meet them.
        """
        swap = self._config.swap
        tables = [self.table(side, clip, without=("mesh",)) for clip in clips]
        rows = self.person(tables, swap.source_person if side == "source" else swap.target_person)
        trusted = [keep & faces.trusted for keep, faces in zip(rows, tables, strict=True)]
        if not any(keep.any() for keep in trusted):  # the flags are what is told then, not the rules
            return tables, Selection(rows, 0, {})
        return tables, select(tables, trusted, [self.chosen_crops(side, clip) for clip in clips], self._config.select)

    def usable(self, side: Side, clips: list[Clip]) -> tuple[list[Faces], Selection]:
        """As `_select`, where there has to be a face."""
        tables, usable = self._select(side, clips)
        if why := usable.emptied_by(self._config.select):
            raise NoFaceError(f"{self._config.source if side == 'source' else self._config.target}: {why}")
        return tables, usable

    def learnable(self, clip: Clip, rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Those of the target person's `rows` in a clip that the rules leave to the method to learn from."""
        if not self._config.select.ranges:
            return rows
        if self._config.swap.method != "gan":
            return self._select("target", [clip])[1].rows[0]
        if not self._learned:  # once for all clips: they are one set of faces
            clips = self._context.alive("align", "target")
            names = [one.name for one in clips]
            self._learned.update(zip(names, self._select("target", clips)[1].rows, strict=True))
        return self._learned[clip.name]

    def chosen_crops(self, side: Side, clip: Clip) -> ChosenCrops:
        """The crops of a clip, read each time they are asked for."""
        crops = self.crops(side, clip)
        return ChosenCrops([crops], [(0, row) for row in range(len(crops))])

    def tell_rules(self, stage: Stage) -> None:
        """Say how many faces of each side the rules drop, in the warnings and in the manifest."""
        learns = stage == "train" or self._config.swap.method == "gan"
        for side in SIDES if learns else SIDES[:1]:
            if self._config.select.ranges and (clips := self._context.alive("align", side)):
                usable = self._select(side, clips)[1]
                self.dropped[side] = {"faces": usable.total, "dropped": usable.dropped}
                if usable.words:
                    self._context.result.warnings.append(f"{side}: {usable.words}")

    def rules(self) -> dict[str, Any]:
        """What a key has to know of the rules for faces; nothing where there are none."""
        return {"select": self._config.select.model_dump(mode="json")} if self._config.select.ranges else {}

    def person(self, tables: list[Faces], picture: Path | None) -> list[NDArray[np.bool_]]:
        """Which rows of each table show the person of a picture, or whoever is seen most."""
        embedding = None if picture is None else self.embedding_of(picture)
        rows = person_rows(tables, picture=embedding, similarity=self._config.swap.person_similarity)
        if picture is not None and not any(chosen.any() for chosen in rows):
            raise NoFaceError(f"{picture}: this person is in none of the clips; see swap.person_similarity")
        return rows

    def embedding_of(self, picture: Path) -> NDArray[np.float32]:
        """Embedding of the largest face of a still."""
        if self._context.models.embedder is None:
            raise UsageError(f"{picture}: choosing a person by a picture needs detect.embedder = 'irv1'")
        image = read_image(picture)
        found = self._context.models.detector.detect(image)
        if not len(found):
            raise NoFaceError(f"{picture}: no face found in this picture")
        box = found.boxes[int(area(found.boxes).argmax())]
        landmarks = self._context.models.landmarker.fit(image, box).landmarks
        crop = self._context.models.embedder.crop(image, box, landmarks)
        embedding: NDArray[np.float32] = self._context.models.embedder.embed(crop[None])[0]
        return embedding

    def target(self, clip: Clip) -> tuple[Faces, NDArray[np.bool_]]:
        """All faces of a clip, and which of them are the target person's: of a part of a film, the film's."""
        faces, picture = self.table("target", clip), self._config.swap.target_person
        if clip.film is None:
            (rows,) = self.person([faces], picture)
            return faces, rows
        if clip.film not in self._cast:  # once for all parts, by whoever does one
            self._cast[clip.film] = self._tracks_in(clip.film, picture)
        rows = np.isin(faces.track, self._cast[clip.film][clip])
        rows[np.flatnonzero(rows)[1:][np.diff(faces.frame[rows]) == 0]] = False  # one a frame: the largest comes first
        return faces, rows

    def _tracks_in(self, film: Clip, picture: Path | None) -> dict[Clip, NDArray[np.int32]]:
        """The tracks of the target person in each part of a film."""
        parts = [part for part in self._context.alive("align", "target") if part.film == film]
        tables = [self._told_by(part) for part in parts]
        rows = self.person(tables, picture)
        return {part: np.unique(one.track[mine]) for part, one, mine in zip(parts, tables, rows, strict=True)}

    def _told_by(self, clip: Clip) -> Faces:
        """The faces of a target clip that tell who is in it, without points: what parts know of each other."""
        faces = self.table("target", clip, without=("landmarks", "mesh"))
        return faces[np.isfinite(faces.embedding).all(1)]

    def told_rules(self) -> dict[str, Any]:
        """The rules and what they dropped, for the manifest; JSON has no infinity, so no limit is null."""
        ranges = self._config.select.ranges.items()
        rules = {key: [value if math.isfinite(value) else None for value in ends] for key, ends in ranges}
        return {"rules": rules, **{str(side): told for side, told in self.dropped.items()}}


class _Tables(Sequence[Faces]):
    """Tables of faces of some clips that are read each time they are asked for."""

    def __init__(self, faces: FaceStages, side: Side, clips: list[Clip]) -> None:
        self._faces, self._side, self._clips = faces, side, clips

    def __len__(self) -> int:
        return len(self._clips)

    def __getitem__(self, at: Any) -> Any:
        return self._faces.table(self._side, self._clips[at])


def _found(marker: Path) -> tuple[list[str], int, int]:
    """What detect.json says of a clip: warnings, the number of faces and that of frames."""
    state = read_marker(marker)
    try:
        return [str(text) for text in state["warnings"]], int(state["faces"]), int(state["frames"])
    except (*DAMAGED, ArithmeticError) as exc:
        raise RunFolderError(f"{marker}: damaged; run again") from exc
