"""A comparison as text: JSON, comma-separated values, LaTeX."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from facepipe.compare.paired import Comparison, Difference, Row

__all__ = ["to_csv", "to_json", "to_latex"]


def to_json(comparison: Comparison) -> dict[str, Any]:
    """What JSON can hold: runs, clips, counts, rows with values and differences by run, notes."""
    facts = zip(comparison.names, comparison.runs, comparison.methods, strict=True)
    return {
        "runs": [{"name": name, "out": str(run.root), "method": method} for name, run, method in facts],
        "base": comparison.names[0],
        "clips": list(comparison.clips),
        "frames": comparison.frames,
        "blocks": comparison.blocks,
        "rows": [_row(comparison, row) for row in comparison.rows],
        "notes": list(comparison.notes),
    }


def _row(comparison: Comparison, row: Row) -> dict[str, Any]:
    others = zip(comparison.names[1:], row.differences, strict=True)
    return {
        "measure": row.measure.column.replace("_{net}", "") if not row.measure.minus else "margin",
        "net": row.net or None,
        "label": row.label,
        "unit": row.measure.unit,
        "better": row.measure.better,
        "frames": row.frames,
        "n": row.n,
        "values": dict(zip(comparison.names, row.values, strict=True)),
        "differences": {name: {key: getattr(one, key) for key in one.__slots__} for name, one in others},
    }


def to_csv(comparison: Comparison) -> str:
    """Comma-separated values: a line for each measure and run; the base has no difference."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["measure", "unit", "frames", "n", "run", "value", "difference", "low", "high"])
    for row in comparison.rows:
        for i, (name, value) in enumerate(zip(comparison.names, row.values, strict=True)):
            one = row.differences[i - 1] if i else None
            ends = ["", "", ""] if one is None else [_repr(end) for end in (one.value, one.low, one.high)]
            writer.writerow([row.label, row.measure.unit, row.frames, row.n, name, _repr(value), *ends])
    return text.getvalue()


def _repr(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\u00d7": r"$\times$",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def _tex(text: str) -> str:
    return re.sub("[\\\\~^\u00d7&%$#_{}]", lambda found: _LATEX[found[0]], text)


def to_latex(comparison: Comparison) -> str:
    """A table for a paper, with the rules of ``booktabs``; a dagger marks differences whose interval holds no zero."""
    others = comparison.names[1:]
    head = ["Measure", "$n$", _tex(comparison.names[0])]
    for name in others:
        head += [_tex(name), r"$\Delta$ [95\,\% CI]"]
    lines = [
        "% facepipe compare: medians over frames, paired differences to the first run,",
        f"% {comparison.frames} frames of {len(comparison.clips)} clip(s), {comparison.blocks} blocks of one second",
        rf"\begin{{tabular}}{{lr{'r' * (1 + 2 * len(others))}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
    ]
    kind = ""
    for row in comparison.rows:
        if row.frames != kind:
            lines.append(r"\midrule")
            if kind:
                lines.append(rf"\multicolumn{{{len(head)}}}{{l}}{{Held-out frames}} \\")
            kind = row.frames
        unit = f" ({_tex(row.measure.unit)})" if row.measure.unit else ""
        cells = [_tex(row.label) + unit, str(row.n), _number(row.values[0], row)]
        for value, one in zip(row.values[1:], row.differences, strict=True):
            cells += [_number(value, row), _interval(one, row)]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _number(value: float, row: Row) -> str:
    return f"${value:.{row.measure.digits}f}$"


def _interval(one: Difference, row: Row) -> str:
    digits = row.measure.digits
    shown = _signed(one.value, digits)
    if one.low is None or one.high is None:
        return f"${shown}$"
    sure = r"^{\dagger}" if one.low > 0 or one.high < 0 else ""
    return f"${shown}{sure}$ [${_signed(one.low, digits)}$, ${_signed(one.high, digits)}$]"


def _signed(value: float, digits: int) -> str:
    """With its sign, but for a zero."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]
