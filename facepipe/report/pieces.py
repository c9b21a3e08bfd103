"""Pieces that all pages are made of: numbers in words, sections, tables that sort, pictures, notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from facepipe.report.html import Html, element, prose
from facepipe.report.words import Measure

__all__ = ["Cell", "interval", "notes", "number", "picture", "section", "table"]

_MINUS = "\u2212"


def number(value: float | None, digits: int, *, percent: bool = False) -> str:
    """A number with a real minus sign; an em dash where there is none."""
    if value is None:
        return "—"
    text = f"{100 * value if percent else value:.{digits}f}"
    return text.replace("-", _MINUS) if float(text) else text.replace("-", "")


def interval(measure: Measure) -> str:
    """The 95 % interval in words, empty where it is not known."""
    found, spec = measure.number, measure.spec
    if found.low is None or found.high is None:
        return ""
    ends = [number(end, spec.digits, percent=spec.percent) for end in (found.low, found.high)]
    return f"{ends[0]} to {ends[1]}"


def section(name: str, title: str, *children: str, lead: str = "") -> Html:
    """A section with a heading, and a sentence of what it is for."""
    intro = [element("p", lead, class_="lead")] if lead else []
    return element("section", element("h2", title), *intro, *children, id=name)


Cell = str | tuple[str, float | None]
"""What a table shows; with a number beside it, that is what it is sorted by, and it is set to the right."""


def table(
    head: Sequence[str], rows: Iterable[Sequence[Cell]], *, caption: str, sortable: bool = True, kind: str = ""
) -> Html:
    """A table whose columns sort on a click on their name."""
    body = [list(row) for row in rows]
    right = [any(isinstance(row[i], tuple) for row in body) for i in range(len(head))]
    names = []
    for name, numeric in zip(head, right, strict=True):
        inner = element("button", name, type="button") if sortable and name and len(body) > 1 else name
        names.append(element("th", inner, scope="col", class_="number" if numeric else None))
    lines = []
    for row in body:
        cells = []
        for i, cell in enumerate(row):
            text, value = cell if isinstance(cell, tuple) else (cell, None)
            attributes: dict[str, Any] = {"class_": "number" if right[i] else None}
            attributes["data_value"] = None if value is None else f"{value!r}"
            cells.append(element("th" if i == 0 else "td", text, scope="row" if i == 0 else None, **attributes))
        lines.append(element("tr", *cells))
    parts = [
        element("caption", caption),
        element("thead", element("tr", *names)),
        element("tbody", *lines),
    ]
    return element(
        "div",
        element("table", *parts, class_=kind or None),
        class_="scroll",
        tabindex=0,
        role="region",
        aria_label=caption,
    )


def notes(texts: Sequence[str], title: str) -> Html:
    """A list of things to know, nothing where there are none."""
    if not texts:
        return Html("")
    items = [element("li", prose(text)) for text in texts]
    return element("div", element("p", title, class_="notes-title"), element("ul", *items), class_="notes")


def picture(address: str | None, words: str, *, title: str = "", kind: str = "") -> Html:
    """A picture with what it is below it; a blank where there is none."""
    shown = element("img", src=address, alt=words) if address else element("div", "no picture", class_="blank")
    below = [element("figcaption", element("strong", title), element("span", words))] if title else []
    return element("figure", shown, *below, class_=kind or None)
