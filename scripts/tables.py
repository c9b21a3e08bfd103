"""Means with intervals, and tables of them in Markdown, for the scripts that compare variants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import stats

from facepipe.metrics import Interval


def student(values: Sequence[float], level: float = 0.95) -> Interval:
    """The mean and its confidence interval by Student's t (1908, DOI 10.1093/biomet/6.1.1); NaN ends for one value."""
    n, mean = len(values), float(np.mean(values))
    half = float("nan")
    if n > 1:
        half = float(stats.t.ppf((1 + level) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, level)


def cell(values: Iterable[float], digits: int, *, paired: bool = False) -> str:
    """A mean and its interval as text."""
    found = list(values)
    if not found:
        return "-"
    interval = student(found)
    text = f"{interval.value:{'+' if paired else ''}z.{digits}f}"
    if interval.high != interval.high:
        return text
    text += f" ± {interval.high - interval.value:.{digits}f}"
    sure = interval.low * interval.high > 0 and round(interval.value, digits)  # rounding noise is no difference
    return f"**{text}**" if paired and sure else text


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, columns wide enough to be read as they are."""
    whole = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = [text.rjust(n) if i else text.ljust(n) for i, (text, n) in enumerate(zip(row, widths, strict=True))]
        return f"| {' | '.join(cells)} |"

    rule = "|" + "|".join("-" * (n + 1) + (":" if i else "-") for i, n in enumerate(widths)) + "|"
    return [line(whole[0]), rule, *map(line, rows)]
