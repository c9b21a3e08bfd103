"""The sections of a report that are tables, as HTML: numbers, buckets, failures, method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from facepipe.report.content import Content, Failure
from facepipe.report.html import Html, element
from facepipe.report.pieces import Cell, interval, notes, number, section, table
from facepipe.report.words import Measure, find_number, measures

__all__ = ["buckets", "failures", "method", "numbers"]

_NOT_SHOWN = ("out", "source", "target", "ledger", "engine", "credentials")
_DASH = "\u2013"
_METHODS = {
    "procrustes": "No training. For every target frame the source's frame that is nearest in pose and expression is "
    "taken, aligned by Procrustes analysis, moved onto the target's landmarks by triangles, and blended in.",
    "eigenface": "No training. The source's face is a sum of its principal components, whose weights are predicted "
    "from the target's landmarks; it is warped onto them and blended in.",
    "gan": "Trained on both people: one encoder, a decoder for each. The source's decoder draws the target's code; "
    "what it draws is warped onto the target's landmarks and blended in.",
}


def numbers(content: Content) -> Html:
    """Every number of ``scores.json``, with its interval and its meaning; and the clips beside each other."""
    found: dict[str, list[Measure]] = {}
    for group, measure in measures(content.scores):
        found.setdefault(group, []).append(measure)
    if not found:
        return Html("")
    parts = []
    for group, these in found.items():
        rows: list[Sequence[Cell]] = [
            (
                m.label,
                (number(m.number.value, m.spec.digits, percent=m.spec.percent), m.number.value),
                (interval(m) or "—", m.number.low),
                ("—" if m.number.n is None else f"{m.number.n:,}", m.number.n),
                m.spec.unit,
                {1: "higher", -1: "lower", 0: ""}[m.spec.better],
                m.spec.meaning,
            )
            for m in these
        ]
        head = ("Measure", "Value", "95 % interval", "n", "Unit", "Better", "Meaning")
        parts.append(table(head, rows, caption=group, kind="measures"))
    absent = content.scores.get("missing", {})
    reasons = [f"{name}: {reason}" for name, reason in absent.items()] if isinstance(absent, dict) else []
    return section(
        "numbers",
        "All numbers",
        *parts,
        _clip_table(content),
        _held_out(content),
        notes(reasons, "Not measured, and why"),
        lead="Medians over frames. Intervals draw blocks of one second again, since neighbouring frames are alike. "
        "Click on the name of a column to sort by it.",
    )


def _clip_table(content: Content) -> Html:
    """The main numbers of each clip, where there are several."""
    clips = content.scores.get("clips", {})
    if not isinstance(clips, dict) or len(clips) < 2:
        return Html("")
    nets = list(content.scores.get("identity", {}))
    wanted = [f"identity.{net}.{key}" for net in nets for key in ("margin", "to_source", "to_target")]
    wanted += ["pose.l2", "expression.l2", "outside.ssim", "same_identity.psnr", "jitter.swapped.residual"]
    known = {m.path: m for _, m in measures(content.scores)}
    shown = [path for path in wanted if path in known]
    rows = []
    for name, part in clips.items():
        row: list[Cell] = [str(name)]
        for path in shown:
            one, spec = find_number(part, path), known[path].spec
            value = None if one is None else one.value
            row.append((number(value, spec.digits, percent=spec.percent), value))
        rows.append(row)
    return table(("Clip", *(known[path].label for path in shown)), rows, caption="Clip by clip")


def _held_out(content: Content) -> Html:
    """The numbers on frames that the method never learned from, beside those on all frames."""
    held = content.scores.get("held_out")
    if not isinstance(held, dict):
        return Html("")
    paths = {"pose.l2": "pose", "expression.l2": "expression"}
    rows: list[list[Cell]] = []
    for _, measure in measures(content.scores):
        one = find_number(held, paths.get(measure.path, measure.path))
        if one is not None:
            digits = measure.spec.digits
            cells: list[Cell] = [(number(value, digits), value) for value in (one.value, measure.number.value)]
            rows.append([measure.label, *cells, measure.spec.unit])
    caption = f"Held out: {held.get('n', '?')} frames that the method never learned from, beside all frames"
    return table(("Measure", "Held out", "All frames", "Unit"), rows, caption=caption)


_BUCKETS = {
    "yaw": "How far the head is turned",
    "size": "Size of the face: distance between the eyes",
    "blur": "Sharpness of the target's face",
    "brightness": "Brightness of the face, L*",
    "skin": "Tone of the skin, by the individual typology angle",
    "occlusion": "Share of the face that is covered",
}


def buckets(content: Content) -> Html:
    """Scores by what the target's face is like."""
    known = content.scores.get("buckets", {})
    parts = []
    for kind, found in known.items() if isinstance(known, dict) else ():
        rows_of = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        names = list(dict.fromkeys(name for one in rows_of for name in one.get("values", {})))
        rows = []
        for i, one in enumerate(rows_of):
            n = one.get("n", 0)
            if not n:
                continue
            row: list[Cell] = [element("span", str(one.get("label", "")), data_value=i)]
            row += [(f"{n:,}", n), (f"{one.get('lost', 0):,}", one.get("lost", 0))]
            values = one.get("values", {})
            row += [(number(values.get(name), _bucket_digits(name)), values.get(name)) for name in names]
            rows.append(row)
        head = ("", "Frames", "Lost", *(_bucket_name(name) for name in names))
        parts.append(table(head, rows, caption=_BUCKETS.get(str(kind), str(kind)), kind="buckets"))
        unseen = [str(one.get("label", "")) for one in rows_of if not one.get("n")]
        parts += [element("p", f"No frame: {', '.join(unseen)}.", class_="small")] if unseen else []
    if not parts:
        return Html("")
    return section(
        "buckets",
        "Where it fails",
        *parts,
        lead="Medians by what the target's face is like; the edges are fixed, so that runs can be compared. "
        "Few frames say little.",
    )


def _bucket_digits(name: str) -> int:
    return {"pose": 2, "expression": 4, "outside_psnr": 1}.get(name, 3)


def _bucket_name(name: str) -> str:
    head, _, net = name.partition(".")
    words = {
        "margin": "Margin",
        "to_source": "To source",
        "pose": "Pose error,\u00a0°",
        "expression": "Expression error",
        "outside_psnr": "Outside PSNR,\u00a0dB",
    }.get(head, head)
    return f"{words}, {net}" if net else words


def failures(content: Content) -> Html:
    """Clips that failed, and frames by what went wrong."""
    parts = []
    if content.failed:
        rows = [[str(one.get(key, "")) for key in ("clip", "side", "stage", "reason")] for one in content.failed]
        parts.append(table(("Clip", "Side", "Stage", "Reason"), rows, caption="Clips that failed", kind="words"))
    if content.failures:
        head = ("Reason", "Clip", "Frames", "Share", "Longest stretches")
        parts.append(table(head, map(_failure_row, content.failures), caption="Frames that are not as they should be"))
    if not parts:
        parts.append(
            element(
                "p",
                "None: every clip came through, every frame was swapped, and every face was found again."
                if content.scores
                else "None so far.",
                class_="lead",
            )
        )
    return section("failures", "Failures", *parts)


def _failure_row(one: Failure) -> list[Cell]:
    share = one.frames / max(1, one.total)
    where = ", ".join(f"{a}" if a == b else f"{a}{_DASH}{b}" for a, b in one.where)
    return [one.reason, one.clip, (f"{one.frames:,}", one.frames), (f"{100 * share:.1f} %", share), f"frames {where}"]


# -------------------------------------------------------------------------------------------------------------- method


def method(content: Content) -> Html:
    """How it was made and measured: for whoever quotes the numbers or wants to repeat them."""
    manifest, scores = content.run.manifest, content.scores
    known = scores.get("protocol")
    protocol: Mapping[str, Any] = known if isinstance(known, dict) else {}
    parts = [element("p", _METHODS.get(content.method, f"Method {content.method}."), class_="prose")]
    parts.append(element("p", _TRUTH, class_="prose"))
    if protocol:
        name = element("strong", str(protocol.get("name", "")))
        parts.append(element("p", "Protocol ", name, ": ", str(protocol.get("text", "")), class_="prose"))
        parts.append(_protocol_table(protocol))
    inputs = [
        (
            f"{side}/{name}",
            str(facts.get("path", "")).rsplit("/", 1)[-1],
            element("code", str(facts.get("sha256", ""))),
        )
        for side in ("source", "target")
        for name, facts in content.inputs(side).items()
    ]
    if inputs:
        parts.append(table(("Clip", "File", "SHA-256"), inputs, caption="Inputs", kind="words"))
    if content.weights:
        rows = [
            (
                name,
                one["licence"] or "not stated",
                one["origin"] or "not stated",
                element("code", one["sha256"] or "—"),
            )
            for name, one in content.weights.items()
        ]
        parts.append(table(("Net", "Licence", "Origin", "SHA-256"), rows, caption="Weights", kind="words"))
    versions = manifest.get("versions", {})
    told = [f"facepipe {manifest.get('facepipe', '?')}", f"seed {manifest.get('seed', '?')}"]
    told += [f"{name} {version}" for name, version in versions.items()] if isinstance(versions, dict) else []
    parts.append(element("p", ", ".join(told) + ".", class_="small"))
    parts.append(_settings(content))
    return section("method", "Method and protocol", *parts)


_TRUTH = (
    "A real swap has no ground truth: nobody knows what the frame would look like. PSNR and SSIM therefore stand only "
    "where there is one: outside of the mask, which must stay the target's, and for the same-identity swap, a person "
    "rebuilt from that person's other frames. Identity means nothing without its net, its crop and a floor: all "
    "similarities stand beside what unrelated people score."
)


def _protocol_table(protocol: Mapping[str, Any]) -> Html:
    known = protocol.get("measures")
    entries = known.items() if isinstance(known, dict) else ()
    keys = ("net", "crop", "resize", "frames", "n", "unit", "meaning")
    rows: list[list[Cell]] = []
    for name, one in entries:
        texts: list[Cell] = [str(name)]
        for key in keys:
            value = one.get(key)
            texts.append(
                (f"{value:,}", value) if isinstance(value, int) else "—" if value in (None, "") else str(value)
            )
        rows.append(texts)
    if not rows:
        return Html("")
    head = ("Measure", "Net", "Crop", "Resize", "Frames", "n", "Unit", "Meaning")
    return table(head, rows, caption="What each number stands on", kind="words")


def _settings(content: Content) -> Html:
    rows = [
        (element("code", name), element("code", _value(value)))
        for name, value in _flat(content.run.settings)
        if name.partition(".")[0] not in _NOT_SHOWN
    ]
    if not rows:
        return Html("")
    shown = table(("Setting", "Value"), rows, caption="The resolved configuration", kind="words")
    return element("details", element("summary", f"All {len(rows)} settings"), shown)


def _value(value: Any) -> str:
    """Of a path its last part: where a folder lies is nobody's business."""
    whole = isinstance(value, str) and Path(value).is_absolute()
    return Path(value).name if whole else str(value)


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
