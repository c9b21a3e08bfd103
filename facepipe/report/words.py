"""What the numbers of ``scores.json`` are called, and what each of them means in a sentence."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

__all__ = ["GROUPS", "PAIRED", "PANELS", "Measure", "Number", "Paired", "Panel", "Spec", "find_number", "measures"]


@dataclass(frozen=True, slots=True)
class Spec:
    """A number of ``scores.json``.

    Attributes
    ----------
    path : str
        Where it stands, keys joined by dots; ``{net}`` stands for each identity net.
    label, unit, meaning : str
        For people.
    digits : int
        Behind the point.
    better : {1, 0, -1}
        Whether more is better, less is, or neither.
    percent : bool
        A share, shown in per cent.
    """

    path: str
    label: str
    unit: str
    digits: int
    better: int
    meaning: str
    percent: bool = False


@dataclass(frozen=True, slots=True)
class Number:
    """A value with its 95 % interval and the number of samples; what is not known is None."""

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """A number that was found, and what it is."""

    spec: Spec
    path: str
    net: str
    number: Number

    @property
    def label(self) -> str:
        """With the net, where there is one."""
        return f"{self.spec.label}, {self.net}" if self.net else self.spec.label


@dataclass(frozen=True, slots=True)
class Panel:
    """A group of curves over the frames of a clip.

    Attributes
    ----------
    title, unit : str
    curves : mapping of str to (str, str)
        Column of ``scores.parquet`` to its name and its kind, which has its colour: ``source``, ``target``,
        ``other``, ``one``.
    meaning : str
        What the curves tell, in a sentence.
    scale : float
        What the column is multiplied by.
    """

    title: str
    unit: str
    curves: Mapping[str, tuple[str, str]]
    meaning: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Paired:
    """A column of ``scores.parquet`` in which runs are compared frame by frame.

    Attributes
    ----------
    column : str
        Its name; ``{net}`` stands for each identity net.
    label, unit, meaning : str
        For people.
    digits : int
        Behind the point.
    better : {1, 0, -1}
        Whether more is better, less is, or neither.
    minus : str
        A column that is taken off, if any.
    scale : float
        What the column is multiplied by.
    """

    column: str
    label: str
    unit: str
    digits: int
    better: int
    meaning: str
    minus: str = ""
    scale: float = 1.0


def _read() -> dict[str, Any]:
    text = (files("facepipe.report") / "words.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _spec(entry: Mapping[str, Any]) -> Spec:
    return Spec(**{name: value for name, value in entry.items() if name != "group"})


def _panel(entry: Mapping[str, Any]) -> Panel:
    curves = {column: (name, kind) for column, name, kind in entry["curves"]}
    return Panel(**{**entry, "curves": curves})


_KNOWN = _read()
GROUPS: Mapping[str, tuple[Spec, ...]] = {
    group: tuple(_spec(entry) for entry in _KNOWN["measures"] if entry["group"] == group)
    for group in dict.fromkeys(entry["group"] for entry in _KNOWN["measures"])
}
"""The numbers, by group, in the order in which they are shown."""

PANELS: tuple[Panel, ...] = tuple(_panel(entry) for entry in _KNOWN["panels"])
"""The curves, in the order in which they are shown; those without a column are left out."""

PAIRED: tuple[Paired, ...] = tuple(Paired(**entry) for entry in _KNOWN["paired"])
"""What runs are compared in."""


def find_number(scores: Mapping[str, Any], path: str) -> Number | None:
    """The number at a path of ``scores.json``: an interval, or a plain number with its interval and n beside it."""
    *above, last = path.split(".")
    parent: Any = scores
    for key in above:
        parent = parent.get(key) if isinstance(parent, Mapping) else None
    if not isinstance(parent, Mapping):
        return None
    found = parent.get(last)
    beside = parent.get("intervals")
    known = found if isinstance(found, Mapping) else beside.get(last) if isinstance(beside, Mapping) else None
    known = known if isinstance(known, Mapping) else {}
    value = _real(known.get("value") if isinstance(found, Mapping) else found)
    if value is None:
        return None
    n = known.get("n", parent.get("n"))
    return Number(value, _real(known.get("low")), _real(known.get("high")), n if isinstance(n, int) else None)


def _real(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def measures(scores: Mapping[str, Any]) -> Iterator[tuple[str, Measure]]:
    """Group and measure of every number of `GROUPS` that is there, in order; a net's numbers stand together."""
    nets = list(scores["identity"]) if isinstance(scores.get("identity"), Mapping) else []
    for group, specs in GROUPS.items():
        by_net = [spec for spec in specs if "{net}" in spec.path]
        turns = [(spec, net) for net in nets for spec in by_net]
        turns += [(spec, "") for spec in specs if "{net}" not in spec.path]
        for spec, net in turns:
            path = spec.path.replace("{net}", net)
            number = find_number(scores, path)
            if number is not None:
                yield group, Measure(spec, path, net, number)
