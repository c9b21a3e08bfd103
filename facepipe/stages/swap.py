"""Stage *swap*: the source person's face in every frame of a target clip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe.composite import Compositor, Region
from facepipe.config import SwapConfig
from facepipe.methods.bank import SourceBank
from facepipe.methods.procrustes import Swapper, choose_sources, crossfade
from facepipe.types import Faces, Flag, Image, VideoInfo
from facepipe.video import Frame, open_writer

__all__ = ["Plan", "Record", "SwappedFrame", "full_mask", "plan_swap", "swap_frames", "write_swap"]


@dataclass(frozen=True)
class Plan:
    """Which source face goes onto which target face, decided before a frame is decoded.

    Attributes
    ----------
    bank : SourceBank
        The source person.
    faces : Faces
        The target person's faces that will be swapped, one a frame at most.
    chosen : (N,) int64 array
        Row of the bank for each of them; -1 for none.
    shares : list of dict
        The same with cross-fades: rows of the bank and their shares.
    swapper : Swapper
        Makes the patches.
    """

    bank: SourceBank
    faces: Faces
    chosen: NDArray[np.int64]
    shares: list[dict[int, float]]
    swapper: Swapper


def plan_swap(
    bank: SourceBank,
    faces: Faces,
    rows: NDArray[np.bool_],
    config: SwapConfig,
    *,
    forbidden: NDArray[np.bool_] | None = None,
) -> Plan:
    """Choose the faces to swap and their sources.

    Parameters
    ----------
    bank : SourceBank
        The source person.
    faces : Faces
        All faces of the target clip.
    rows : (N,) bool array
        Those of the target person.
    config : SwapConfig
        Faces with a flag of ``skip`` are left out.
    forbidden : (N, M) bool array, optional
        Pairs of rows of `faces` and of the bank that may not be used.
    """
    barring = sum(Flag[name.upper()] for name in config.skip)
    wanted = rows & ((faces.flags & barring) == 0)
    target = faces[wanted]
    chosen = np.empty(0, np.int64)
    if len(target):
        barred = None if forbidden is None else forbidden[wanted]
        chosen = choose_sources(bank, target, steadiness=config.steadiness, forbidden=barred)
    # The person's proportions are measured on all unflagged faces, or on what there is.
    reference = faces[rows & faces.trusted] if (rows & faces.trusted).any() else target
    shares = crossfade(chosen, target, config.crossfade)
    return Plan(bank, target, chosen, shares, Swapper(bank, reference, config))


@dataclass(frozen=True, slots=True)
class Record:
    """What was done to a face, for the table beside the video."""

    face: int
    source_clip: int
    source_frame: int
    source_face: int


@dataclass(frozen=True, slots=True)
class SwappedFrame:
    """A frame after the swap; `region` and `record` are None where nothing was swapped."""

    index: int
    pts: int
    image: Image
    region: Region | None
    record: Record | None


def swap_frames(frames: Iterable[Frame], plan: Plan, config: SwapConfig) -> Iterator[SwappedFrame]:
    """Yield every frame in order, swapped where the plan says so; the others are passed on untouched."""
    compositor = Compositor(config)
    row_of = {int(frame): row for row, frame in enumerate(plan.faces.frame)}
    last = (-1, -1)
    for frame in frames:
        row = row_of.get(frame.index, -1)
        source = int(plan.chosen[row]) if row >= 0 else -1
        if source < 0:
            yield SwappedFrame(frame.index, frame.pts, frame.image, None, None)
            continue
        face = plan.faces[row]
        here = (frame.index, int(face.track[0]))
        if here != (last[0] + 1, last[1]):
            compositor.reset()
        last = here
        patch = plan.swapper(face, plan.shares[row], frame.image.shape[:2])
        if patch is None:
            yield SwappedFrame(frame.index, frame.pts, frame.image, None, None)
            continue
        image, region = compositor(frame.image, patch)
        origin = plan.bank.faces[source]
        record = Record(int(face.face[0]), int(plan.bank.clip[source]), int(origin.frame[0]), int(origin.face[0]))
        yield SwappedFrame(frame.index, frame.pts, image, region, record)


def full_mask(region: Region | None, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The region's mask in a whole frame, 0 to 255; above 0 wherever the frame was changed at all."""
    mask = np.zeros(size, np.uint8)
    if region is not None:
        mask[region.rows, region.columns] = np.ceil(region.mask * 255).astype(np.uint8)
    return mask


def write_swap(
    frames: Iterable[Frame],
    plan: Plan,
    config: SwapConfig,
    *,
    like: VideoInfo,
    video: Path,
    mask: Path,
    audio_from: Path | None,
    metadata: dict[str, str],
) -> dict[str, NDArray[Any]]:
    """Swap a clip into a video and a video of its masks.

    Returns
    -------
    dict of str to array
        Columns, a row a frame: ``frame``, ``pts``, ``swapped``, ``face``, ``source_clip``, ``source_frame``,
        ``source_face`` (-1 where nothing was swapped).
    """
    done: list[tuple[int, int, Record | None]] = []
    with (
        open_writer(
            video,
            like,
            codec=config.codec,
            crf=config.crf,
            preset=config.preset,
            audio_from=audio_from,
            metadata=metadata,
        ) as pictures,
        open_writer(mask, like, codec="mask") as masks,
    ):
        for frame in swap_frames(frames, plan, config):
            pictures.write(frame.image, frame.pts)
            masks.write(full_mask(frame.region, like.size), frame.pts)
            done.append((frame.index, frame.pts, frame.record))
    nothing = Record(-1, -1, -1, -1)
    records = [record or nothing for _, _, record in done]
    return {
        "frame": np.array([index for index, _, _ in done], np.int64),
        "pts": np.array([pts for _, pts, _ in done], np.int64),
        "swapped": np.array([record is not None for _, _, record in done], bool),
        **{name: np.array([getattr(r, name) for r in records], np.int64) for name in Record.__dataclass_fields__},
    }
