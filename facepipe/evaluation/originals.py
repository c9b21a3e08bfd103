"""Who the swap is compared with: the two people of a run as they are in their own clips, and people of neither."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from facepipe.backends.embedders import Embedder
from facepipe.errors import RunFolderError
from facepipe.people import mean_embedding
from facepipe.types import Faces, Image, evenly_spaced
from facepipe.video import Frame

__all__ = ["SAMPLES", "Judge", "embed_rows", "mean_of", "reference_people"]

SAMPLES = 32
"""Faces of a person in a clip that its mean embedding is made from, at most."""

_ENOUGH = 12  # faces that stage detect embedded: with fewer, more are embedded for the scores

_RELATED = 0.5  # cosine from which one of the reference people is one of the run's


@cache
def reference_people() -> Mapping[str, NDArray[np.float32]]:
    """Embeddings (N, D) by net of people who take no part in any run: the floor of similarity.

    Made by ``scripts/make_reference_people`` from stills and a clip of the catalogue; holds embeddings, no pictures.

    Raises
    ------
    RunFolderError
        The file that facepipe brings along is missing or damaged.
    """
    file = resources.files("facepipe").joinpath("data", "reference_people.npz")
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError) as exc:
        raise RunFolderError(
            f"{file}: the reference people are missing or damaged; install facepipe again, or make the file with "
            "scripts/make_reference_people"
        ) from exc


@dataclass(frozen=True)
class Judge:
    """An identity net and what it knows of the two people of a swap.

    Attributes
    ----------
    embedder : Embedder
        The net.
    source, target : (D,) float32 array
        Mean embeddings of the source person and of the person who was replaced, from the original clips.
    """

    embedder: Embedder
    source: NDArray[np.float32]
    target: NDArray[np.float32]

    @property
    def strangers(self) -> NDArray[np.float32]:
        """Embeddings of unrelated people; whoever is the source or the target person is left out.

        Empty where there are no reference people for this net.
        """
        people = reference_people().get(self.embedder.name)
        if people is None or not len(people):
            return np.empty((0, len(self.source)), np.float32)
        own = np.stack([self.source, self.target])
        return np.asarray(people[(people @ own.T).max(axis=1) < _RELATED])


def embed_rows(
    frames: Iterable[Frame], faces: Faces, embedders: Sequence[Embedder], *, known: str = ""
) -> dict[str, NDArray[np.float32]]:
    """Embeddings of a person by each net: of at most 32 of the faces, evenly spaced, in one pass over the clip.

    Parameters
    ----------
    frames : iterable of Frame
        The clip that the faces are from.
    faces : Faces
        The person's faces, best without flags; at least one.
    embedders : sequence of Embedder
        The nets.
    known : str
        Name of the net that made the table's own embeddings: they are taken where there are any.

    Returns
    -------
    dict from net to (N, D) float32 array
        Rows of unit length, in the order of frames.
    """
    embedded = np.flatnonzero(np.isfinite(faces.embedding).all(axis=1)) if faces.embedding.shape[1] else np.arange(0)
    enough = known and len(embedded) >= min(_ENOUGH, len(faces))  # stage detect embeds but every n-th face
    few = embedded if enough else np.arange(len(faces))
    chosen = faces[few[evenly_spaced(len(few), SAMPLES)]]
    there = {
        net.name: chosen.embedding
        for net in embedders
        if net.name == known and chosen.embedding.shape[1] == net.dim and np.isfinite(chosen.embedding).all()
    }
    missing = [net for net in embedders if net.name not in there]
    if not missing:
        return there
    row_of = {int(frame): row for row, frame in enumerate(chosen.frame)}
    last = max(row_of)
    crops: dict[str, list[Image]] = {net.name: [] for net in missing}
    for frame in frames:
        if frame.index in row_of:
            row = row_of[frame.index]
            for net in missing:
                crops[net.name].append(net.crop(frame.image, chosen.box[row], chosen.landmarks[row]))
        if frame.index >= last:
            break
    return there | {net.name: net.embed(np.stack(crops[net.name])) for net in missing}


def mean_of(rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Mean embedding (D,) of a person over clips, each clip counting once."""
    return mean_embedding(np.stack([mean_embedding(part) for part in rows]))
