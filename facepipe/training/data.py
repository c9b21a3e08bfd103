"""Training data: small pictures of both persons, and the batches of a step.

What a step sees depends on the seed and the number of the step alone: a training that was stopped goes on with the
very faces that it would have seen, and so does one that is spread over several processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facepipe import geometry
from facepipe.config import SwapConfig, TrainConfig
from facepipe.errors import RunFolderError
from facepipe.methods.faceset import FaceSet, Twins, see_rows
from facepipe.methods.procrustes import Overlay
from facepipe.methods.view import BORDER, CropView, TextureView, View, Window
from facepipe.overlap import ahead
from facepipe.stored import DAMAGED, read_array, read_arrays
from facepipe.training import augment
from facepipe.types import OTHER, SIDES, Side
from facepipe.workspace import atomic_path

__all__ = [
    "INSIDE",
    "Batch",
    "Loader",
    "Pair",
    "Person",
    "Scene",
    "Swappable",
    "as_floats",
    "step_generator",
    "stored_side",
    "write_person",
]

INSIDE = 1 / (1 + 2 * BORDER)
"""Side of the window as a part of the stored picture's."""

_RESIDENT = 2**30  # bytes of pictures that may lie on the device; more are read from the file as they are needed
_YAW = 5.0  # degrees of yaw that one bin of the sampling covers ...
_RAREST = 8.0  # ... and how many times as often as the commonest a face of the rarest may come


class Pair(NamedTuple):
    """Faces as a net sees them, and as it is to draw them.

    Attributes
    ----------
    input, target : (B, 3, s, s) Tensor
        RGB in [-1, 1]; the input may be warped.
    mask : (B, 1, s, s) Tensor
        1 inside of the target's face.
    hints : (B, HINTS) Tensor
        Pose and expression.
    """

    input: Tensor
    target: Tensor
    mask: Tensor
    hints: Tensor


class Scene(NamedTuple):
    """Faces with their surroundings as an identity net looks at them, and how to put another face into them.

    Attributes
    ----------
    picture : (K, 4, S, S) Tensor
        Cut out of the aligned crops: RGB in [-1, 1], and the mask of the face.
    place : (K, S, S, 2) Tensor or None
        For each pixel its place in the net's picture, as `torch.nn.functional.grid_sample` has it; None where the
        net's picture is the middle of this one.
    """

    picture: Tensor
    place: Tensor | None


class Swappable(NamedTuple):
    """What the losses of a swapped face need besides the face that was seen.

    Attributes
    ----------
    scene : Scene
        The pictures that the swapped faces are put into.
    twin, twin_mask : (K, 3, s, s), (K, 1, s, s) Tensor
        The other person doing the same, and where there is face in that picture.
    numbers : (K, NUMBERS) Tensor
        Random ones, for losses that look from here and there; see `augment.draw`.
    """

    scene: Scene
    twin: Tensor
    twin_mask: Tensor
    numbers: Tensor


class Batch(NamedTuple):
    """What one step trains on.

    Attributes
    ----------
    pairs : mapping of Side to Pair
        By the person who is seen.
    swaps : mapping of Side to Swappable
        For the last K faces of each, which are as they are stored; empty in a step that swaps none.
    """

    pairs: Mapping[Side, Pair]
    swaps: Mapping[Side, Swappable]

    @property
    def swapped(self) -> int:
        """K; 0 in a step that swaps none."""
        return len(self.swaps["source"].twin) if self.swaps else 0


@dataclass(frozen=True)
class Person:
    """One person's pictures at the net's resolution.

    Attributes
    ----------
    pictures : (N, S, S, 4) uint8 array
        RGB and mask, what the net sees with surroundings; may be a memory map.
    landmarks : (N, P, 2) float32 array
        In [-1, 1] over the stored picture.
    yaw : (N,) float32 array
        Degrees.
    hints : (N, HINTS) float32 array
        See `facepipe.methods.faceset.hints_of`.
    train, held_out : int64 array
        Rows.
    twins : (N,) int64 array
        Row of the other person's most similar face; -1 where none was looked for.
    twin_pictures : (N, s, s, 4) uint8 array
        The other person doing the same, RGB and mask; rows that are neither trained on nor held out are empty.
    scenes : (N, S, S, 4) uint8 array, optional
        See `Scene`; RGB and mask. Without it the pictures are the scenes.
    places : (N, S, S, 2) float16 array, optional
        See `Scene`.
    """

    pictures: NDArray[np.uint8]
    landmarks: NDArray[np.float32]
    yaw: NDArray[np.float32]
    hints: NDArray[np.float32]
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    twins: NDArray[np.int64]
    twin_pictures: NDArray[np.uint8]
    scenes: NDArray[np.uint8] | None = None
    places: NDArray[np.float16] | None = None

    @classmethod
    def read(cls, path: Path) -> Person:
        """What `write_person` wrote; the pictures stay in their file until they are looked at.

        Raises
        ------
        RunFolderError
            A file is missing or damaged.
        """
        try:
            columns: dict[str, Any] = read_arrays(path.with_suffix(".npz"))
            for name, file in _arrays(path).items():
                if name in ("pictures", "twin_pictures") or columns["shape_free"]:
                    columns[name] = read_array(file)
            del columns["shape_free"]
            return cls(**columns)
        except DAMAGED as exc:
            raise RunFolderError(f"{path}: training faces are missing or damaged; delete them and run again") from exc

    def sampling(self) -> NDArray[np.float64]:
        """(N,) probability with which each row is drawn for training: alike for all yaws that there are."""
        bins = np.floor(self.yaw[self.train] / _YAW).astype(int)
        _, which, count = np.unique(bins, return_inverse=True, return_counts=True)
        weight = np.minimum(1.0 / count, _RAREST / count.max())[which]
        probability = np.zeros(len(self.yaw))
        probability[self.train] = weight / weight.sum()
        return probability


def stored_side(size: int) -> int:
    """Side of a stored picture whose window has `size` pixels."""
    return round(size * (1 + 2 * BORDER))


def _arrays(path: Path) -> dict[str, Path]:
    """Files of a person's large arrays, by the names in `Person`."""
    names = {"pictures": "", "twin_pictures": "-twins", "scenes": "-scenes", "places": "-places"}
    return {name: path.with_name(f"{path.name}{end}.npy") for name, end in names.items()}


def write_person(
    path: Path, faces: FaceSet, other: NDArray[np.float64], view: View, window: Window, size: int, twins: Twins
) -> None:
    """Write a person's pictures and what belongs to them beside `path`.

    Parameters
    ----------
    path : Path
        Without a suffix.
    faces : FaceSet
        The person.
    other : (P, D) float64 array
        Mean frontal shape of the other person.
    view : View
        What the net sees.
    window : Window
        What the identity net's pictures are cut out of.
    size : int
        Side of the net's pictures.
    twins : Twins
        Of its learnable and its held-out faces.
    """
    side, count, files = stored_side(size), len(faces.faces), _arrays(path)
    everyone = np.arange(count)
    pictures = (_four(*seen) for seen in see_rows(faces, everyone, view, side, border=BORDER))
    _write(files["pictures"], np.uint8, (count, side, side, 4), pictures, everyone)
    _write(files["twin_pictures"], np.uint8, (count, *twins.pictures.shape[1:]), twins.pictures, twins.seen)
    windows = [CropView(window, crop) for crop in faces.crops.sides.tolist()]
    to_windows = np.stack([one.matrix(side, border=BORDER) for one in windows])
    to_scenes = geometry.compose(faces.faces.frame_to_crop, to_windows)
    landmarks = geometry.apply(to_scenes, faces.faces.landmarks)
    if isinstance(view, TextureView):
        landmarks = np.broadcast_to(view.landmarks(side, border=BORDER), landmarks.shape)
        overlay = Overlay(other, faces.faces[faces.train], SwapConfig())
        _write_scenes(files, faces, overlay, view, windows, to_scenes, side)
    whole = np.full(count, -1, np.int64)
    whole[twins.seen] = twins.rows
    with atomic_path(path.with_suffix(".npz")) as part, part.open("wb") as file:
        np.savez(
            file,
            landmarks=((landmarks + 0.5) * (2 / side) - 1).astype(np.float32),
            yaw=faces.faces.yaw,
            hints=faces.hints(),
            train=np.flatnonzero(faces.train),
            held_out=np.flatnonzero(faces.held_out),
            twins=whole,
            shape_free=isinstance(view, TextureView),
        )


def _write_scenes(
    files: Mapping[str, Path],
    faces: FaceSet,
    overlay: Overlay,
    view: TextureView,
    windows: Sequence[CropView],
    to_scenes: NDArray[np.float64],
    side: int,
) -> None:
    """Write a person's crops, and where the other person's texture goes in them."""
    everyone = np.arange(len(faces.faces))
    pairs = zip(faces.faces, to_scenes, strict=True)
    found = (view.places(overlay.points(face), to_scene, side) for face, to_scene in pairs)
    _write(files["places"], np.float16, (len(everyone), side, side, 2), found, everyone)
    places = read_array(files["places"])
    seen = (
        window.see(np.asarray(crop), face, np.eye(2, 3), side, border=BORDER)
        for window, crop, face in zip(windows, faces.crops, faces.faces, strict=True)
    )
    scenes = (_four(image, mask * (place[..., 0] <= 1)) for (image, mask), place in zip(seen, places, strict=True))
    _write(files["scenes"], np.uint8, (len(everyone), side, side, 4), scenes, everyone)


def _four(image: NDArray[np.uint8], mask: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.dstack([image, np.rint(mask * 255).astype(np.uint8)])


def _write(
    file: Path, kind: type, shape: tuple[int, ...], values: Iterable[NDArray[Any]], rows: NDArray[np.int64]
) -> None:
    """Write an array with `values` in its `rows`, and 0 in the others, one row after the other."""
    with atomic_path(file) as part:
        array = np.lib.format.open_memmap(part, "w+", kind, shape)
        for row, value in zip(rows.tolist(), values, strict=True):
            array[row] = value
        array.flush()
        del array


class _Store:
    """Pictures on the device, or read from their file row by row."""

    def __init__(self, pictures: NDArray[Any], device: torch.device) -> None:
        self._device = device
        self._pictures = pictures
        resident = pictures.nbytes <= _RESIDENT
        self._tensor = torch.from_numpy(np.array(pictures)).to(device) if resident else None

    def gather(self, rows: Tensor) -> Tensor:
        """(B, S, S, C): on the device already, or on the way there. Not the device's work: another thread's."""
        if self._tensor is not None:
            return self._tensor.index_select(0, rows.to(self._device))
        taken = torch.from_numpy(np.stack([self._pictures[row] for row in rows.tolist()]))
        if self._device.type == "cuda":
            taken = taken.pin_memory()
        return taken.to(self._device, non_blocking=True)


def as_floats(stored: Tensor) -> Tensor:
    """(B, 4, S, S) float32 of (B, S, S, 4) uint8: RGB in [-1, 1], mask in [0, 1]."""
    scale, shift = _float_map(stored.device)
    return torch.addcmul(shift, stored.float(), scale).permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _float_map(device: torch.device) -> tuple[Tensor, Tensor]:
    """Factor and offset of each channel; kept, since each copy to a GPU would make it wait."""
    scale = torch.tensor([2 / 255] * 3 + [1 / 255], device=device)
    return scale, torch.tensor([-1.0] * 3 + [0.0], device=device)


class _Taken(NamedTuple):
    """What a step needs, before it is varied: by person, this process's share."""

    swapped: int
    stored: Mapping[Side, Tensor]
    scenes: Mapping[Side, tuple[Tensor, Tensor] | None]
    landmarks: Mapping[Side, Tensor]
    others: Mapping[Side, Tensor]
    other_landmarks: Mapping[Side, Tensor]
    twins: Mapping[Side, Tensor]
    hints: Mapping[Side, Tensor]
    numbers: Mapping[Side, Tensor]


class Loader:
    """Makes the batches of a training.

    Parameters
    ----------
    persons : mapping of Side to Person
        Both.
    size : int
        Side of the net's pictures.
    config : TrainConfig
        `batch`, `swap_every`, `swap_batch` and `augment` are used.
    seed : int
        Of everything that is drawn.
    device : torch.device
        Where batches are made.
    part : (int, int)
        Number of this process and of all of them: each makes its share of every batch.
    """

    def __init__(
        self,
        persons: Mapping[Side, Person],
        size: int,
        config: TrainConfig,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.persons = persons
        self.size = size
        self.config = config
        self.device = torch.device(device)
        self._seed = seed
        self._part = part
        self._stores = {side: _Store(persons[side].pictures, self.device) for side in SIDES}
        self._twins = {side: _Store(persons[side].twin_pictures, self.device) for side in SIDES}
        self._scenes: dict[Side, tuple[_Store, _Store]] = {}
        for side, person in persons.items():
            if person.scenes is not None and person.places is not None:
                self._scenes[side] = (_Store(person.scenes, self.device), _Store(person.places, self.device))
        self._chance = {side: torch.from_numpy(persons[side].sampling()) for side in SIDES}
        self._landmarks = {side: torch.from_numpy(persons[side].landmarks) for side in SIDES}
        self._hints = {side: torch.from_numpy(persons[side].hints) for side in SIDES}

    def stored(self, side: Side, rows: Tensor) -> Tensor:
        """(B, 4, S, S) pictures with surroundings, RGB in [-1, 1], and mask."""
        return as_floats(self._stores[side].gather(rows))

    def scene(self, side: Side, rows: Tensor) -> Scene:
        """Where swapped faces are put into."""
        if side not in self._scenes:
            return Scene(self.stored(side, rows), None)
        return _scene(*(store.gather(rows) for store in self._scenes[side]))

    def clean(self, side: Side, rows: Tensor) -> Pair:
        """Faces as they are, through the window."""
        return self._window(self.stored(side, rows), self._hints[side][rows].to(self.device))

    def twin(self, side: Side, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, s, s) pictures of the other person doing what `side` does, and (B, 1, s, s) their masks."""
        drawn = as_floats(self._twins[side].gather(rows))
        return drawn[:, :3], drawn[:, 3:]

    def batches(self, start: int) -> AbstractContextManager[Iterator[_Taken]]:
        """What each step from `start` on needs, without an end: read in another thread, before it is asked for."""
        return ahead((self._take(step) for step in count(start)), 2)

    def make(self, taken: _Taken, strength: float) -> Batch:
        """The batch of a step, varied with a `strength` from 0 to 1; work of the device alone."""
        pairs: dict[Side, Pair] = {}
        swaps: dict[Side, Swappable] = {}
        for side in SIDES:
            stored = as_floats(taken.stored[side])
            pair = self._varied(taken, side, stored, strength)
            if taken.swapped:
                first, last = len(stored) - taken.swapped, stored[-taken.swapped :]
                kept = self._window(last, pair.hints[first:])
                pair = Pair(*(torch.cat((a[:first], b)) for a, b in zip(pair, kept, strict=True)))
                twins = as_floats(taken.twins[side])
                read = taken.scenes[side]
                scene = Scene(last, None) if read is None else _scene(*read)
                swaps[side] = Swappable(scene, twins[:, :3], twins[:, 3:], taken.numbers[side][-taken.swapped :])
            pairs[side] = pair
        return Batch(pairs, swaps)

    def _inner(self, stored: Tensor) -> Tensor:
        edge = (stored.shape[-1] - self.size) // 2
        return stored[..., edge : edge + self.size, edge : edge + self.size]

    def _window(self, stored: Tensor, hints: Tensor) -> Pair:
        inner = self._inner(stored)
        return Pair(inner[:, :3], inner[:, :3], inner[:, 3:], hints)

    def _take(self, step: int) -> _Taken:
        """Draw a step's faces and numbers, all processes alike, and read this process's share."""
        number, processes = self._part
        generator = step_generator(self._seed, step)
        swapped = min(self.config.swap_batch, self.config.batch) if step % self.config.swap_every == 0 else 0
        wanted = self.config.augment.color > 0 or self.config.augment.warp_to_other > 0
        columns: list[dict[Side, Any]] = [{} for _ in _Taken._fields[1:]]
        for side in SIDES:
            drawn = torch.multinomial(self._chance[side], self.config.batch, replacement=True, generator=generator)
            numbers = augment.draw(len(drawn), generator)
            places = torch.arange(len(drawn))
            first = len(drawn) - swapped
            mine = torch.cat([places[:first][number::processes], places[first:][number::processes]])
            rows = drawn[mine]
            others = torch.from_numpy(self.persons[side].twins)[rows] if wanted else rows[:0]
            last = rows[len(rows) - swapped // processes :]
            scenes = self._scenes.get(side) if swapped else None
            values = (
                self._stores[side].gather(rows),
                None if scenes is None else tuple(store.gather(last) for store in scenes),
                self._landmarks[side][rows].to(self.device, non_blocking=True),
                self._stores[OTHER[side]].gather(others),
                self._landmarks[OTHER[side]][others].to(self.device, non_blocking=True),
                self._twins[side].gather(last),
                self._hints[side][rows].to(self.device, non_blocking=True),
                numbers[mine].to(self.device, non_blocking=True),
            )
            for column, value in zip(columns, values, strict=True):
                column[side] = value
        return _Taken(swapped // processes, *columns)

    def _varied(self, taken: _Taken, side: Side, stored: Tensor, strength: float) -> Pair:
        config = self.config.augment
        if not strength and not config.flip:
            return self._window(stored, taken.hints[side])
        how = augment.variation(taken.numbers[side], config, strength)
        grid = augment.similarity_grid(how.similarity, self.size, INSIDE)
        picture = augment.sample(stored, grid)
        target, mask = picture[:, :3], picture[:, 3:]
        seen = grid + augment.warp_field(how.warp, self.size, INSIDE)
        if config.warp_to_other:
            field = augment.warp_to_landmarks(grid, taken.landmarks[side], taken.other_landmarks[side], INSIDE)
            seen = seen + how.to_other * field
        image = augment.sample(stored[:, :3], seen)
        if config.color:
            other = self._inner(as_floats(taken.others[side]))
            moved = augment.color_map(target, mask, other[:, :3], other[:, 3:])
            image, target = (torch.lerp(one, moved(one), how.recolored) for one in (image, target))
        image, target = (torch.addcmul(how.bias, one, how.gain) for one in (image, target))
        return Pair(image, target, mask, taken.hints[side])


def _scene(stored: Tensor, place: Tensor) -> Scene:
    return Scene(as_floats(stored), place.float())


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step: they depend on nothing but the seed and the step."""
    digits = hashlib.sha256(f"{seed}:{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digits[:7], "little"))
