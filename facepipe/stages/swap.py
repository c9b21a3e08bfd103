"""Stage *swap*: the source person's face in every frame of a target clip.

Decoding, the method, the composite and the encoder work at the same time, each on frames of its own, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe.composite import Compositor, Moment, Patch, Region
from facepipe.config import SwapConfig
from facepipe.methods.plan import Plan, Record
from facepipe.overlap import ahead
from facepipe.truth import Blend, TruthWriter
from facepipe.types import Image, VideoInfo
from facepipe.video import Frame, open_writer
from facepipe.watermark import Mark

__all__ = ["SwappedFrame", "full_mask", "swap_frames", "write_swap"]

_AHEAD = 2  # frames that wait between two stages
_HELD = 4  # batches' worth of frames that wait for a batch to fill up


@dataclass(frozen=True, slots=True)
class SwappedFrame:
    """A frame after the swap; `region`, `frame_to_patch` and `record` are None where nothing was swapped."""

    index: int
    pts: int
    image: Image
    seconds: float
    region: Region | None = None
    frame_to_patch: NDArray[np.float64] | None = None
    record: Record | None = None


@dataclass(frozen=True, slots=True)
class _Patched:
    """A frame, the plan's row that it shows (None for none), and that face's patch."""

    frame: SwappedFrame
    row: int | None
    patch: Patch | None = None


def swap_frames(
    frames: Iterable[Frame], plan: Plan, config: SwapConfig, *, seed: int = 0, mark: Mark | None = None
) -> Generator[SwappedFrame, None, None]:
    """Yield every frame in order, swapped where the plan says so; the others are passed on untouched.

    Three threads work ahead of the caller: one decodes, one makes patches, one composites. Only a few frames (up to
    six batches of the plan's) are between them at a time, however long the clip is. Any exception of theirs is raised
    here. Close the generator to end the threads early: ``with closing(swap_frames(...)) as swapped``. `seed` is that
    of the grain; each face gets the `mark`.
    """
    several = max(_AHEAD, plan.batch)
    with (
        ahead(_decoded(frames), several) as decoded,
        ahead(_patched(decoded, plan), several) as patched,
        ahead(_composited(patched, plan, Compositor(config, seed, mark)), _AHEAD) as swapped,
    ):
        yield from swapped


def _decoded(frames: Iterable[Frame]) -> Iterator[SwappedFrame]:
    """The frames with their pixels, which are converted here, in the thread that decodes."""
    for frame in frames:
        yield SwappedFrame(frame.index, frame.pts, frame.image, float(frame.time))


def _patched(frames: Iterable[SwappedFrame], plan: Plan) -> Iterator[_Patched]:
    """Every frame in order, with its patch; patches are made in batches, those between wait."""
    row_of = {int(frame): row for row, frame in enumerate(plan.faces.frame)}
    held: list[_Patched] = []
    faces = 0
    for frame in frames:
        row = row_of.get(frame.index)
        held.append(_Patched(frame, row))
        faces += row is not None
        if faces in (0, plan.batch) or len(held) == _HELD * plan.batch:
            yield from _with_patches(held, plan)
            held, faces = [], 0
    yield from _with_patches(held, plan)


def _with_patches(held: list[_Patched], plan: Plan) -> list[_Patched]:
    rows = [(one.row, one.frame.image) for one in held if one.row is not None]
    if not rows:
        return held
    patches = plan.patches([row for row, _ in rows], [image for _, image in rows])
    if len(patches) != len(rows):
        raise ValueError(f"expected {len(rows)} patches from the method, got {len(patches)}")
    made = iter(patches)
    return [one if one.row is None else replace(one, patch=next(made)) for one in held]


def _composited(patched: Iterable[_Patched], plan: Plan, compositor: Compositor) -> Iterator[SwappedFrame]:
    """The frames with their patches in them; colours are kept steady while a track goes on without a gap."""
    last = (-1, -1)
    for one in patched:
        if one.row is None:
            yield one.frame
            continue
        here = (one.frame.index, int(plan.faces.track[one.row]))
        if here != (last[0] + 1, last[1]):
            compositor.reset()
        last = here
        if one.patch is None:
            yield one.frame
            continue
        moment = Moment(plan.faces.landmarks[one.row], one.frame.seconds)
        image, region = compositor(one.frame.image, one.patch, one.frame.index, moment)
        matrix, record = one.patch.frame_to_patch, plan.record(one.row)
        yield replace(one.frame, image=image, region=region, frame_to_patch=matrix, record=record)


def full_mask(region: Region | None, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The region's mask in a whole frame, 0 to 255; above 0 wherever the frame was changed at all."""
    mask = np.zeros(size, np.uint8)
    if region is not None:
        mask[region.rows, region.columns] = np.ceil(region.mask * 255).astype(np.uint8)
    return mask


def _blend(frame: SwappedFrame, source_clips: Sequence[str]) -> Blend | None:
    """What a frame was blended from."""
    region, matrix, record = frame.region, frame.frame_to_patch, frame.record
    if region is None or matrix is None or record is None:
        return None
    clip = source_clips[record.source_clip] if record.source_clip >= 0 else None
    origin = (record.face, clip, record.source_frame, record.source_face)
    return Blend(region.rows, region.columns, region.mask, region.face, matrix, *origin)


def write_swap(
    frames: Iterable[SwappedFrame],
    config: SwapConfig,
    *,
    like: VideoInfo,
    video: Path,
    mask: Path,
    audio_from: Path | None,
    metadata: dict[str, str],
    sign: Callable[[Path], None],
    truth: TruthWriter | None = None,
    source_clips: Sequence[str] = (),
) -> dict[str, NDArray[Any]]:
    """Write swapped frames into a video, and their masks into another.

    Parameters
    ----------
    frames : iterable of SwappedFrame
        All frames of a clip, see `swap_frames`.
    config : SwapConfig
        `codec`, `crf` and `preset` are used.
    like : VideoInfo
        Of the target clip.
    video, mask : Path
        The files to make.
    audio_from : Path or None
        A file whose sound the video gets.
    metadata : dict of str to str
        Tags of the video.
    sign : callable
        Called with the complete video before that has its final name, to give it its content credentials.
    truth : TruthWriter, optional
        Gets the truth of the blend; it is opened and closed here.
    source_clips : sequence of str
        Names of the source clips, for the truth.

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
            finish=sign,
        ) as pictures,
        open_writer(mask, like, codec="mask") as masks,
        truth or nullcontext(),
    ):
        for frame in frames:
            pictures.write(frame.image, frame.pts)
            masks.write(full_mask(frame.region, like.size), frame.pts)
            if truth is not None:
                truth.write(frame.index, frame.pts, _blend(frame, source_clips))
            done.append((frame.index, frame.pts, frame.record))
    nothing = Record(-1)
    records = [record or nothing for _, _, record in done]
    return {
        "frame": np.array([index for index, _, _ in done], np.int64),
        "pts": np.array([pts for _, pts, _ in done], np.int64),
        "swapped": np.array([record is not None for _, _, record in done], bool),
        **{name: np.array([getattr(r, name) for r in records], np.int64) for name in Record.__dataclass_fields__},
    }
