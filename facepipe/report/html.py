"""HTML that cannot be broken by what it shows, and a page that asks nothing of a network.

Text is escaped wherever it enters: only `Html` passes as it is. A page has its style, its script, its data and its
pictures inside; a Content-Security-Policy names the hashes of the two that may run, and forbids all else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

__all__ = ["Html", "element", "join", "json_text", "page", "prose", "template"]

_VOID = frozenset({"img", "input"})
_DRAWN = frozenset({"line", "circle", "path"})  # of SVG, closed in themselves


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def join(parts: Iterable[str]) -> Html:
    """Parts after each other; what is not `Html` is escaped."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part, quote=False) for part in parts))


def element(name: str, *children: str, **attributes: str | int | float | bool | None) -> Html:
    """An element; children and values of attributes are escaped.

    Parameters
    ----------
    name : str
        Of the element.
    *children : str
        Texts, or `Html`.
    **attributes
        ``class_`` is ``class``; other underscores are hyphens. None and False leave one out, True has no value.
    """
    shown = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = key.rstrip("_").replace("_", "-")
        shown.append(f" {attribute}" if value is True else f' {attribute}="{html.escape(str(value))}"')
    opened = f"<{name}{''.join(shown)}"
    if name in _DRAWN:
        return Html(f"{opened}/>")
    return Html(f"{opened}>" if name in _VOID else f"{opened}>{join(children)}</{name}>")


def prose(text: str) -> Html:
    """A text in which what stands in backticks is code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return join([text])
    return join(element("code", part) if i % 2 else part for i, part in enumerate(parts))


def json_text(data: Any) -> Html:
    """JSON that may stand inside of a script element: it cannot end it, nor open a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    escapes = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    # Names of files may hold bytes that are no text at all; they come as lone surrogates.
    return Html(re.sub("[<>&\u2028\u2029]", lambda found: escapes[found[0]], _plain(text)))


def template(name: str) -> str:
    """A file of the package's folder ``template``."""
    return (files("facepipe.report") / "template" / name).read_text(encoding="utf-8")


def page(title: str, body: Html, data: Mapping[str, Any]) -> str:
    """A whole page: ``page.html`` with style, script, data and body filled in."""
    style, script = template("report.css"), template("report.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "title": html.escape(title),
        "style": style,
        "script": script,
        "body": body,
        "data": json_text(data),
    }
    return _plain(re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template("page.html")))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _plain(text: str) -> str:
    """Text that UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode()
