"""Identity: similarity to source and target, retrieval among all originals, verification, along tracks and time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facepipe import metrics
from facepipe.evaluation.originals import reference_people
from facepipe.evaluation.records import Originals
from facepipe.evaluation.rows import Rows, interval, median
from facepipe.people import mean_embedding
from facepipe.types import evenly_spaced

__all__ = ["ceiling", "identity_section"]

_SAME = 0.5  # cosine of two people's means from which they count as one person
_SPANS = 60  # stretches of time into which a long clip is divided at most


def ceiling(rows: NDArray[np.float32]) -> float | None:
    """Median cosine of a person's faces (N, D) to the mean of that person's other faces: what a perfect swap has."""
    if len(rows) < 3:
        return None
    others = rows.sum(axis=0, dtype=np.float64) - rows
    return float(np.median(metrics.cosine_similarity(rows, others)))


@dataclass(frozen=True)
class _Gallery:
    """Embeddings of everybody, by one net; label 0 is the source."""

    entries: NDArray[np.float32]
    labels: NDArray[np.int64]
    means: NDArray[np.float32]
    names: NDArray[np.int64]

    @classmethod
    def of(cls, net: str, originals: Originals, most: int) -> _Gallery | None:
        """The source, everybody who was replaced and is not the source, and the reference people."""
        source = originals.source.get(net)
        if source is None or not len(source):
            return None
        people = [source]
        known = [mean_embedding(source)]
        for clip in originals.targets.values():
            mean = mean_embedding(clip[net])
            if float(max(mean @ other for other in known)) < _SAME:
                people.append(clip[net])
                known.append(mean)
        strangers = reference_people().get(net, np.empty((0, source.shape[1]), np.float32))
        people += [one[None] for one in strangers if float(max(one @ other for other in known)) < _SAME]
        if len(people) < 2:
            return None
        people = [person[evenly_spaced(len(person), most)] for person in people]
        labels = np.repeat(np.arange(len(people)), [len(person) for person in people])
        means = np.stack([mean_embedding(person) for person in people])
        return cls(np.concatenate(people), labels, means, np.arange(len(people)))


def identity_section(rows: Rows, net: str, originals: Originals, *, gallery: int) -> tuple[dict[str, Any], set[str]]:
    """The section ``identity.<net>`` of ``scores.json``.

    Parameters
    ----------
    rows : Rows
        What was measured.
    net : str
        Name of the identity net.
    originals : Originals
        The people as they are.
    gallery : int
        Faces of each person in the gallery, at most.

    Returns
    -------
    section : dict
        See docs/evaluation.md.
    missing : set of str
        Keys of the section that could not be measured.
    """
    columns = {kind: rows.column(f"to_{kind}_{net}") for kind in ("source", "target", "strangers")}
    margin = rows.margin(net)
    source = originals.source.get(net)
    section: dict[str, Any] = {
        "to_source": median(columns["source"]),
        "to_target": median(columns["target"]),
        "margin": median(margin),
        "floor": median(columns["strangers"]),
        "n": int(np.isfinite(columns["source"]).sum()),
        "ceiling": None if source is None else ceiling(source),
        "trained_with": net in originals.trained_with,
        "intervals": {
            name: interval(values, blocks=rows.blocks)
            for name, values in (
                ("to_source", columns["source"]),
                ("to_target", columns["target"]),
                ("margin", margin),
            )
        },
        "tracks": _tracks(rows, columns, margin),
        "over_time": _over_time(rows, columns, margin),
    }
    everybody = _Gallery.of(net, originals, gallery)
    queries = _queries(rows, net)
    if everybody is None or queries is None:
        section |= {"retrieval": None, "verification": None}
    else:
        section |= {"retrieval": _retrieval(*queries, everybody), "verification": _verification(*queries, everybody)}
    return section, {name for name in ("floor", "ceiling", "retrieval", "verification") if section[name] is None}


def _queries(rows: Rows, net: str) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    """Embeddings of swapped faces that were kept, and their blocks."""
    values, blocks, start = [], [], 0
    for scores in rows.clips.values():
        if net in scores.embeddings:
            values.append(scores.embeddings[net].values)
            blocks.append(rows.blocks[start + scores.embeddings[net].rows])
        start += len(scores)
    return (np.concatenate(values), np.concatenate(blocks)) if values else None


def _retrieval(queries: NDArray[np.float32], blocks: NDArray[np.int64], everybody: _Gallery) -> dict[str, Any]:
    """How often the source is the nearest, or among the five nearest, of two galleries."""
    section: dict[str, Any] = {}
    right = np.zeros(len(queries), np.int64)
    kinds = {"frames": (everybody.entries, everybody.labels), "means": (everybody.means, everybody.names)}
    for kind, (entries, labels) in kinds.items():
        ranks = metrics.retrieval_ranks(queries, right, entries, labels)
        section[kind] = {
            f"top{k}": interval((ranks < k).astype(np.float64), blocks=blocks, statistic=_mean) for k in (1, 5)
        } | {"gallery": len(entries), "identities": len(everybody.means)}
    return section


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean())


def _verification(queries: NDArray[np.float32], blocks: NDArray[np.int64], everybody: _Gallery) -> dict[str, Any]:
    """A verifier that takes swapped faces for the source: pairs of a face and the mean of a person."""
    similarity = metrics.cosine_matrix(queries, everybody.means)

    def curve(chosen: NDArray[np.float64]) -> metrics.Verification:
        same = np.zeros(chosen.shape, bool)
        same[:, 0] = True
        return metrics.verification(chosen.reshape(-1), same.reshape(-1))

    return {
        "auc": interval(similarity, blocks=blocks, statistic=lambda s: curve(s).auc),
        "eer": interval(similarity, blocks=blocks, statistic=lambda s: curve(s).eer),
        "same": len(queries),
        "different": similarity.size - len(queries),
    }


def _medians(
    columns: Mapping[str, NDArray[np.float64]], margin: NDArray[np.float64], where: NDArray[np.bool_]
) -> dict[str, Any]:
    return {
        "n": int(np.isfinite(columns["source"][where]).sum()),
        "to_source": median(columns["source"][where]),
        "to_target": median(columns["target"][where]),
        "margin": median(margin[where]),
    }


def _tracks(
    rows: Rows, columns: Mapping[str, NDArray[np.float64]], margin: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """Medians of each track of each clip."""
    track, names, found = rows.column("track"), list(rows.clips), []
    for clip, number in np.unique(np.stack([rows.clip, track], axis=1), axis=0).astype(int).tolist():
        where = (rows.clip == clip) & (track == number)
        found.append({"clip": names[clip], "track": number, **_medians(columns, margin, where)})
    return found


def _over_time(
    rows: Rows, columns: Mapping[str, NDArray[np.float64]], margin: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """Medians of successive stretches of each clip: seconds, or more where it is long."""
    seconds, found = rows.column("seconds"), []
    for clip, name in enumerate(rows.clips):
        mine = rows.clip == clip
        if not mine.any():
            continue
        end = float(seconds[mine].max())
        step = max(1.0, math.ceil(end / _SPANS))
        for start in np.arange(0, end + 1e-9, step).tolist():
            where = mine & (seconds >= start) & (seconds < start + step)
            if where.any():
                span = {"clip": name, "start": start, "stop": start + step}
                found.append({**span, **_medians(columns, margin, where)})
    return found
