"""What each number of ``scores.json`` is: net, crop, resize, frames, n, unit and meaning, for whoever quotes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from facepipe.evaluation.protocols import Often, Protocol

if TYPE_CHECKING:  # loads torch
    from facepipe.backends.features import FeatureNet

__all__ = ["describe"]

_NETS: Mapping[str, tuple[str, str, str]] = {
    "irv1": ("Inception-ResNet-v1, VGGFace2", "the detector's box with a margin of 32 at 160 px", "160x160"),
    "sface": ("SFace", "aligned by five points to the ArcFace template", "112x112"),
}

# name -> (part of the protocol, on how many frames, unit, meaning)
_MEASURES: Mapping[str, tuple[str, Often, str, str]] = {
    "outside.psnr": ("outside", "all", "dB", "the target's pixels outside of the mask, against the swapped video's"),
    "outside.ssim": ("outside", "rare", "1", "the same, structural similarity (Gaussian window)"),
    "same_identity": (
        "reconstruction",
        "rare",
        "dB, 1",
        "the target rebuilt from that person's other frames, inside the mask",
    ),
    "image.sharpness": ("sharpness", "all", "grey levels", "deviation of the Laplacian under the mask"),
    "pose": ("pose", "all", "degrees", "swapped against target in the same frame; l2 of yaw, pitch and roll"),
    "expression": (
        "expression",
        "all",
        "inter-ocular distances",
        "root mean square over 68 landmarks; pose, size, position and each face's own shape removed",
    ),
    "jitter": ("jitter", "all", "% of the inter-ocular distance", "shake of landmarks that are not smoothed"),
    "time.flow_error": (
        "time",
        "heavy",
        "squared values in [0, 1]",
        "change to the frame before beyond the target's flow (DIS), under the mask",
    ),
    "time.edge_flicker": (
        "time",
        "heavy",
        "grey levels a frame",
        "change of luminance in a band about the mask's edge",
    ),
    "time.identity_variance": ("time", "heavy", "1", "1 - |mean embedding|^2 within a clip, times n / (n - 1)"),
    "buckets": ("buckets", "all", "", "medians by what the target's face is like"),
}

_IDENTITY = "cosine to the mean of the source's faces (to_source) and of the target's (to_target, the leak)"


def describe(
    protocol: Protocol, nets: Sequence[str], features: FeatureNet | None, sections: Mapping[str, Any]
) -> dict[str, Any]:
    """The section ``protocol`` of ``scores.json``.

    Parameters
    ----------
    protocol : Protocol
        What was asked for.
    nets : sequence of str
        Identity nets.
    features : FeatureNet or None
        Net of the distances between sets of faces.
    sections : dict
        The sections of the whole run, for each measure's n.
    """
    landmarks = "landmarks of the swapped video, found afresh, and the target's as stage detect found them"
    measures: dict[str, Any] = {}
    if "identity" in protocol.parts:
        for net in nets:
            name, crop, resize = _NETS.get(net, (net, "", ""))
            n = sections["identity"][net]["n"]
            measures[f"identity.{net}"] = _entry(name, crop, resize, protocol, "heavy", n, "cosine", _IDENTITY)
    for name, (part, often, unit, meaning) in _MEASURES.items():
        if part in protocol.parts:
            net = landmarks if part in ("pose", "expression", "jitter") else ""
            measures[name] = _entry(net, "", "", protocol, often, _count(sections, name), unit, meaning)
    if features is not None and "distribution" in protocol.parts:
        label, _, resize = features.label.rpartition(", ")
        known = sections["image"]["distribution"]
        entry = _entry(
            label,
            "the aligned crop of stage align, of swap and target at one place",
            resize,
            protocol,
            "rare",
            0 if known is None else known["samples"]["swapped"],
            "squared features; kernel: 1",
            "Fréchet and kernel distance of sets of faces, called FID and KID on Inception's features only",
        )
        measures["image.distribution"] = entry
    return {"name": protocol.name, "text": protocol.text, "measures": measures}


def _entry(
    net: str, crop: str, resize: str, protocol: Protocol, often: Often, n: int | None, unit: str, meaning: str
) -> dict[str, Any]:
    frames = protocol.frames_text(often)
    return {"net": net, "crop": crop, "resize": resize, "frames": frames, "n": n, "unit": unit, "meaning": meaning}


def _count(sections: Mapping[str, Any], name: str) -> int | None:
    """The n of a measure, from the first interval below its name; None where there is no single one."""
    node: Any = sections
    for key in name.split("."):
        node = node.get("intervals", node).get(key) if isinstance(node, dict) else None
    while isinstance(node, dict):
        if isinstance(node.get("n"), int):
            return int(node["n"])
        node = next((value for value in node.values() if isinstance(value, dict)), None)
    return None
