"""The sections of a report that have pictures or move, as HTML; what moves in them is in ``report.js``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from facepipe.report.content import Content
from facepipe.report.html import Html, element, join
from facepipe.report.pieces import interval, notes, number, picture, section, table
from facepipe.report.words import Measure, Number, find_number, measures

__all__ = ["bar", "curves", "footer", "frames", "main", "overview", "title", "training", "worst"]

_HEADLINES = (
    "identity.{net}.margin",
    "identity.{net}.retrieval.frames.top1",
    "pose.l2",
    "expression.l2",
    "outside.ssim",
    "same_identity.psnr",
    "jitter.swapped.residual",
    "time.flow_error.ratio",
    "time.edge_flicker.ratio",
    "image.sharpness.ratio",
)


def bar(links: Sequence[tuple[str, str]]) -> Html:
    """The line at the top: the sections, and the switch between light and dark."""
    jumps = [element("a", title, href=f"#{name}") for name, title in links]
    switch = element("button", "Theme: auto", type="button", id="theme", aria_live="polite")
    return join(
        [
            element("a", "Skip to the content", class_="skip", href="#content"),
            element(
                "header",
                element("span", "facepipe", class_="brand"),
                element("nav", *jumps, aria_label="Sections"),
                switch,
                class_="bar",
            ),
        ]
    )


# ----------------------------------------------------------------------------------------------------------- overview


def overview(content: Content, portraits: Mapping[str, str | None]) -> Html:
    """The first page: what was made from what, by whose leave, and the numbers that matter."""
    counts = content.scores.get("frames", {})
    total = sum(clip.frames for clip in content.clips)
    swapped = sum(int((clip.swapped.face >= 0).sum()) for clip in content.clips if clip.swapped is not None)
    subtitle = (
        f"Face swap by {content.method}. {swapped:,} of {total:,} frames swapped in {len(content.clips)} "
        f"clip{'s' * (len(content.clips) != 1)}."
    )
    lost = counts.get("lost")
    if isinstance(lost, int) and lost:
        subtitle += f" In {lost:,} of them the face was not found again."
    parts = [
        element("p", "Evaluation report", class_="kicker"),
        element("h1", title(content)),
        element("p", subtitle, class_="standfirst"),
        _label(content),
        _people(content, portraits),
        notes([str(text) for text in content.missing], "Not in this report"),
        _headlines(content),
        *_scales(content),
        _ledger(content),
    ]
    return element("section", *parts, id="overview")


def title(content: Content) -> str:
    """Whose face went where."""
    targets = [clip.name for clip in content.clips] or list(content.inputs("target"))
    return f"{_some(list(content.inputs('source')))} → {_some(targets)}"


def _some(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _label(content: Content) -> Html:
    if not content.label:
        return Html("")
    return element(
        "p",
        element("strong", "Synthetic media. "),
        content.label.removeprefix("Synthetic media: ").capitalize(),
        class_="label",
    )


def _people(content: Content, portraits: Mapping[str, str | None]) -> Html:
    names = {side: content.ledger(side)["person"] for side in ("source", "target")}
    shown = [
        ("source", "Source", names["source"] or "gives the identity"),
        ("target", "Target", names["target"] or "gives frame, pose and light"),
        ("swapped", "Swap", f"made by {content.method}"),
    ]
    figures: list[Html] = []
    for i, (key, title, words) in enumerate(shown):
        if i:
            figures.append(element("span", "+" if i == 1 else "=", class_="sign", aria_hidden="true"))
        figures.append(picture(portraits.get(key), words, title=title))
    return element("div", *figures, class_="people")


def _headlines(content: Content) -> Html:
    nets = list(content.scores.get("identity", {}))
    known = {measure.path: measure for _, measure in measures(content.scores)}
    tiles = [
        _tile(known[path], content)
        for pattern in _HEADLINES
        for path in ([pattern.replace("{net}", net) for net in nets] if "{net}" in pattern else [pattern])
        if path in known
    ]
    if not tiles:
        return Html("")
    return join([element("h2", "In short"), element("div", *tiles, class_="tiles")])


def _tile(measure: Measure, content: Content) -> Html:
    spec, found = measure.spec, measure.number
    unit = spec.unit if spec.unit not in ("cosine", "ratio") else ""
    small = [f"95 % {interval(measure)}"] if interval(measure) else []
    small += [f"n = {found.n:,}"] if found.n else []
    beside = spec.path.replace(".swapped.", ".target.")
    if beside != spec.path and (target := find_number(content.scores, beside)) is not None:
        small.insert(0, f"target {number(target.value, spec.digits)}")
    return element(
        "div",
        element("p", measure.label, class_="tile-name"),
        element(
            "p",
            element("span", number(found.value, spec.digits, percent=spec.percent), class_="tile-value"),
            element("span", unit, class_="tile-unit") if unit else "",
            class_="tile-number",
        ),
        element("p", " · ".join(small), class_="tile-small") if small else "",
        element("p", spec.meaning, class_="tile-meaning"),
        class_="tile",
    )


_MARKS = (
    ("floor", "strangers", "mark-floor"),
    ("to_target", "target (leak)", "mark-target"),
    ("to_source", "source", "mark-source"),
    ("ceiling", "the source itself", "mark-ceiling"),
)
_SHAPES = {
    "floor": "M-6 -6L6 6M-6 6L6 -6",
    "to_target": "M0 -8L8 0L0 8L-8 0Z",
    "to_source": "M-7.5 0A7.5 7.5 0 1 1 7.5 0A7.5 7.5 0 1 1 -7.5 0Z",
    "ceiling": "M0 -11L0 11",
}
_SCALE = (-0.1, 1.0)
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def _scales(content: Content) -> list[Html]:
    """For each net a line from strangers to the source itself, and where the swap stands on it."""
    nets = list(content.scores.get("identity", {}))
    known = {net: {key: find_number(content.scores, f"identity.{net}.{key}") for key, _, _ in _MARKS} for net in nets}
    known = {net: found for net, found in known.items() if found["to_source"] is not None}
    if not known:
        return []
    lines = [_scale(net, found, _took_part(content, net)) for net, found in known.items()]
    shown = [mark for mark in _MARKS if any(found[mark[0]] is not None for found in known.values())]
    legend = [element("span", element("i", class_=kind), words) for _, words, kind in shown]
    return [
        element("h3", "Whom the swap looks like"),
        element(
            "p",
            "Median cosine of the swapped faces, with 95 % interval where it is known, on the scale of each net.",
            class_="lead",
        ),
        element("div", *lines, class_="scales"),
        element("p", *legend, class_="legend"),
    ]


def _took_part(content: Content, net: str) -> str:
    trained = content.scores["identity"][net].get("trained_with")
    if trained is None:
        return ""
    return "took part in making the swap" if trained else "took no part in making the swap"


def _scale(net: str, found: Mapping[str, Number | None], words: str) -> Html:
    """A line of one net; its marks lie at shares of the width, so they keep their size on every screen."""
    drawn = [element("line", x1="0%", x2="100%", y1=17, y2=17, class_="axis")]
    drawn += [element("line", x1=_at(tick), x2=_at(tick), y1=13, y2=21, class_="axis") for tick in _TICKS]
    told = []
    for key, name, kind in _MARKS:
        one = found[key]
        if one is None:
            continue
        told.append(f"{name} {number(one.value, 3)}")
        if one.low is not None and one.high is not None:
            ends = {"x1": _at(one.low), "x2": _at(one.high)}
            drawn.append(element("line", **ends, y1=17, y2=17, class_=f"{kind} whisker"))
        drawn.append(element("svg", element("path", d=_SHAPES[key], class_=kind), x=_at(one.value), y=17))
    drawing = element("svg", *drawn, role="img", aria_label=f"{net}: {', '.join(told)}")
    name = element("p", element("strong", net), element("span", words), class_="scale-name")
    values = element("p", " · ".join(told), class_="scale-values")
    return element("div", name, drawing, values, class_="scale")


def _at(value: float) -> str:
    low, high = _SCALE
    return f"{1 + 98 * (min(max(value, low), high) - low) / (high - low):.2f}%"


def _ledger(content: Content) -> Html:
    """Whose faces these are: what was told, and what was not."""
    rows = []
    for side in ("source", "target"):
        entry = content.ledger(side)
        absent = element("em", "not stated", class_="absent")
        rows.append(
            [side.capitalize(), *(entry[name] or absent for name in ("person", "origin", "licence", "consent"))]
        )
    open_ends = any(not value for side in ("source", "target") for value in content.ledger(side).values())
    how = "What is not stated can be added to the configuration: --set ledger.source.consent=…, and so on."
    return join(
        [
            element("h3", "Whose faces, by whose leave"),
            table(
                ("", "Person", "Origin", "Licence", "Consent"),
                rows,
                caption="Origin, licence and consent of the pictures, as the configuration states them",
                sortable=False,
                kind="words said",
            ),
            element("p", how, class_="small") if open_ends else "",
        ]
    )


# ------------------------------------------------------------------------------------------- what moves in the browser


def frames(lead: str = "") -> Html:
    """The slider between target and swap."""
    usual = "Drag the line, or use the arrow keys, to go from target to swap. The frames are evenly spaced."
    return section("frames", "Before and after", element("div", id="looks", class_="looks"), lead=lead or usual)


def curves() -> Html:
    """Curves over time, linked to pictures of the frames."""
    return section(
        "time",
        "Over time",
        element("div", id="curves", class_="curves"),
        lead="All curves share one time axis. Point at a moment to see its frame, click to hold it; the arrow keys go "
        "from frame to frame, Page Up and Down by a second.",
    )


def training(content: Content, preview: str | None) -> Html:
    """The validations of a training, and its last pictures."""
    history = content.run.history
    if not history:
        return Html("")
    best = max(history, key=lambda row: row.get("quality", float("-inf")))
    last = history[-1]
    seconds = last.get("seconds")
    told = f"{len(history)} validations on faces that were never trained on, up to step {last.get('step', '?')}"
    told += f" after {seconds / 60:.1f} minutes" if isinstance(seconds, int | float) else ""
    told += f". The net in use is that of step {best.get('step', '?')}."
    shown = [element("div", id="training-curves", class_="curves plain")]
    if preview:
        shown.append(
            picture(
                preview,
                "Rows: source faces, rebuilt, swapped to the target; target faces, rebuilt, swapped to the source.",
                title="Held-out faces at the last validation",
                kind="preview",
            )
        )
    return section("training", "Training", *shown, lead=told)


_WHY = {
    "pose": "pose off the target's",
    "expression": "expression off the target's",
    "outside_psnr": "changes outside of the mask",
    "flow_error": "flicker inside the face",
    "edge_flicker": "flicker at the mask's edge",
}


def worst(
    content: Content, cards: Mapping[tuple[str, int], Mapping[str, str]], times: Mapping[tuple[str, int], float]
) -> Html:
    """The gallery of frames that a person should look at."""
    shown = []
    for one in content.worst:
        key = (one.clip, one.frame)
        seconds = one.seconds if one.seconds is not None else times.get(key)
        head, _, net = one.why.partition(".")
        why = f"low margin, {net}" if head == "margin" and net else _WHY.get(one.why, one.why)
        images = [
            element("img", src=address, alt=f"{name}, frame {one.frame} of {one.clip}")
            for name, address in cards.get(key, {}).items()
        ]
        at = f"{seconds:.2f} s" if seconds is not None else ""
        place = f"{one.clip}, " if len(content.clips) > 1 else ""
        shown.append(
            element(
                "button",
                element("span", *(images or [element("span", "no picture", class_="blank")]), class_="card-images"),
                element("span", why, class_="card-why"),
                element("span", f"{place}frame {one.frame}" + (f" · {at}" if at else ""), class_="card-place"),
                element("span", _card_values(one.values), class_="card-values"),
                type="button",
                class_="card",
                data_clip=one.clip,
                data_frame=one.frame,
            )
        )
    if not shown:
        return Html("")
    return section(
        "worst",
        "The worst frames",
        element("div", *shown, class_="cards"),
        lead="Target and swap, worst first, no two within a second. A click shows the moment in the curves.",
    )


def _card_values(values: Mapping[str, float]) -> str:
    """The margins, pose and expression of a frame, as far as they were measured."""
    nets = [name.removeprefix("to_source_") for name in values if name.startswith("to_source_")]
    margins = {net: values[f"to_source_{net}"] - values.get(f"to_target_{net}", float("nan")) for net in nets}
    margins |= {name.removeprefix("margin."): value for name, value in values.items() if name.startswith("margin.")}
    told = [f"margin {net} {number(value, 2)}" for net, value in margins.items() if value == value]
    told += [f"pose {number(values['pose_l2'], 1)}°"] if "pose_l2" in values else []
    told += [f"expression {number(values['expression'], 3)}"] if "expression" in values else []
    return ", ".join(told)


def main(parts: Sequence[str]) -> Html:
    """What the page is about."""
    return element("main", *parts, id="content", tabindex=-1)


def footer(content: Content) -> Html:
    """What made the page, and that it is about synthetic media."""
    version = content.run.manifest.get("facepipe", "?")
    return element(
        "footer",
        f"Made by facepipe {version}. The swapped pictures on this page are synthetic media, made for research.",
    )
