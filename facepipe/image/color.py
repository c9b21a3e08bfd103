"""Colour transfer: the colours of one region made those of another, by a map that may be mixed over frames.

Spaces: "lab" (CIE 1976, D65; L 0 … 100, a and b about -127 … 127), "linear" (light: sRGB without its curve) and "rgb"
(as stored), both 0 … 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facepipe.image._pixels import Mask, Pixels, check_choice, check_mask, check_rgb, cv2
from facepipe.image.transport import Lattice, sliced_transport

__all__ = [
    "ColorMap",
    "ColorStats",
    "apply_color",
    "apply_color_map",
    "color_map",
    "color_stats",
    "match_color",
    "transfer_map",
]

Method = Literal["reinhard", "covariance", "histogram", "sliced", "none"]
Space = Literal["lab", "linear", "rgb"]

Floats = NDArray[np.float32]

_BOXES: dict[str, tuple[list[float], list[float]]] = {
    "lab": ([0, -128, -128], [100, 128, 128]),
    "linear": ([0, 0, 0], [255, 255, 255]),
    "rgb": ([0, 0, 0], [255, 255, 255]),
}
"""Range of each channel."""

_LATTICES = {
    "lab": Lattice([0, -64, -64], [100, 64, 64]),  # what skin, hair and lips need
    "linear": Lattice(*_BOXES["linear"]),
    "rgb": Lattice(*_BOXES["rgb"]),
}

_BINS = 1024
"""Places at which a curve is known, over the range of its channel."""

_POINTS = 2048
"""Colours of each picture for the sliced transport."""

_FLAT = 0.25
"""Variance (of half a grey level or half a unit of Lab) added to every variance: flat regions give no wild gains."""


@dataclass(frozen=True, eq=False)
class ColorStats:
    """Mean and covariance of the colours in a region. Both may be averaged over frames before they are used.

    Attributes
    ----------
    mean : (3,) float64 array
    covariance : (3, 3) float64 array
        In the units of the space.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


def _to_space(image: Pixels, space: str) -> Floats:
    if space == "linear" and image.dtype == np.uint8:
        return _LIGHT[image]
    values = image.astype(np.float32)
    if space == "lab":
        lab: Floats = cv2.cvtColor(values / np.float32(255), cv2.COLOR_RGB2Lab)
        return lab
    return _light(values) if space == "linear" else values


def _from_space(values: Floats, space: str, dtype: np.dtype[Any]) -> Pixels:
    if space == "lab":
        values = cv2.cvtColor(values, cv2.COLOR_Lab2RGB) * np.float32(255)
    elif space == "linear":
        values = _stored(values)
    values = np.clip(values, 0, 255)
    return np.rint(values).astype(np.uint8) if dtype == np.uint8 else values


def _light(stored: Floats) -> Floats:
    """sRGB to light, both 0 … 255 (IEC 61966-2-1)."""
    c = np.clip(stored, 0, 255) / np.float32(255)
    light: Floats = np.where(c <= 0.04045, c / np.float32(12.92), cv2.pow((c + 0.055) / 1.055, 2.4).reshape(c.shape))
    return light * np.float32(255)


def _stored(light: Floats) -> Floats:
    """Light to sRGB, both 0 … 255."""
    c = np.clip(light, 0, 255) / np.float32(255)
    stored: Floats = np.where(
        c <= 0.0031308, c * np.float32(12.92), 1.055 * cv2.pow(c, 1 / 2.4).reshape(c.shape) - 0.055
    )
    return stored * np.float32(255)


_LIGHT = _light(np.arange(256, dtype=np.float32))


def _selected(image: Pixels, mask: Mask | None, space: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Colours (3, N) of the pixels with weight, and the weights (N,), which sum to 1."""
    check_choice(space, get_args(Space), "space")
    check_rgb(image)
    pixels = image.reshape(1, -1, 3)
    weights = np.ones(pixels.shape[1], np.float32)
    if mask is not None:
        weights = check_mask(mask, image.shape).reshape(-1)
        chosen = np.flatnonzero(weights > 0)
        if not chosen.size:
            raise ValueError("mask: expected at least one pixel of the image in it, but got none")
        pixels, weights = pixels.take(chosen, axis=1), weights[chosen]
    w = weights.astype(np.float64)
    return np.ascontiguousarray(_to_space(pixels, space)[0].T, dtype=np.float64), w / w.sum()


def color_stats(image: Pixels, mask: Mask | None = None, *, space: Space = "lab") -> ColorStats:
    """Mean and covariance of an image's colours.

    Parameters
    ----------
    image : (H, W, 3) uint8 or float32 array, RGB
    mask : (H, W) float32 or bool array, optional
        Weight of each pixel.
    space : {"lab", "linear", "rgb"}

    Raises
    ------
    ValueError
        Not RGB, or nothing in the mask.
    """
    return _stats(*_selected(image, mask, space))


def _stats(values: NDArray[np.float64], w: NDArray[np.float64]) -> ColorStats:
    """Of colours (3, N) with weights (N,) that sum to 1."""
    mean = values @ w
    centred = values - mean[:, None]
    return ColorStats(mean, (centred * w) @ centred.T)


def transfer_map(
    stats: ColorStats, reference: ColorStats, *, method: Method = "reinhard", max_gain: float = 3.0
) -> NDArray[np.float64]:
    """The affine colour map that gives an image the statistics of a reference.

    Parameters
    ----------
    stats, reference : ColorStats
        Of the image and of what it shall look like, in the same space.
    method : {"reinhard", "covariance", "none"}
        Match mean and spread of each channel (Reinhard et al. 2001, there in l-alpha-beta), or mean and covariance by
        the linear Monge-Kantorovich map, which moves colours least (Pitié & Kokaram 2007), or nothing.
    max_gain : float
        No direction of colour space is stretched or squeezed by more than this factor.

    Returns
    -------
    (3, 4) float64 array
        ``[A | t]``: new = A old + t.

    References
    ----------
    E. Reinhard et al., "Color transfer between images", IEEE CG&A 21 (2001) 34-41. DOI 10.1109/38.946629
    F. Pitié, A. Kokaram, "The linear Monge-Kantorovitch linear colour mapping for example-based colour transfer",
    CVMP 2007. DOI 10.1049/cp:20070055
    """
    check_choice(method, ("reinhard", "covariance", "none"), "method")
    if not max_gain >= 1:
        raise ValueError(f"max_gain: expected 1 or more, but got {max_gain}")
    if method == "none":
        return np.eye(3, 4)
    flat = _FLAT * np.eye(3)
    u, v = stats.covariance + flat, reference.covariance + flat
    if method == "reinhard":  # section "Statistics and color correction": the ratio of standard deviations
        A = np.diag(np.sqrt(np.diag(v) / np.diag(u)))
    else:  # eq. for the MK map: T = U^(-1/2) (U^(1/2) V U^(1/2))^(1/2) U^(-1/2)
        root = _symmetric_power(u, 0.5)
        back = _symmetric_power(u, -0.5)
        A = back @ _symmetric_power(root @ v @ root, 0.5) @ back
    gains, axes = np.linalg.eigh((A + A.T) / 2)
    A = (axes * np.clip(gains, 1 / max_gain, max_gain)) @ axes.T
    return np.column_stack([A, reference.mean - A @ stats.mean])


def _symmetric_power(matrix: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    result: NDArray[np.float64] = (vectors * np.maximum(values, 1e-12) ** power) @ vectors.T
    return result


def apply_color(image: Pixels, affine: ArrayLike, *, space: Space = "lab") -> Pixels:
    """Send every colour through an affine map.

    Parameters
    ----------
    image : (H, W, 3) uint8 or float32 array, RGB
    affine : (3, 4) array
        From `transfer_map`.
    space : {"lab", "linear", "rgb"}
        The space of the map.

    Returns
    -------
    (H, W, 3) array of the image's dtype
        Clipped to 0 … 255, and rounded when uint8.
    """
    check_choice(space, get_args(Space), "space")
    check_rgb(image)
    a = np.asarray(affine, dtype=np.float64)
    if a.shape != (3, 4):
        raise ValueError(f"affine: expected shape (3, 4), but got {a.shape}")
    if _is_identity(a):
        return image.copy()
    return _from_space(cv2.transform(_to_space(image, space), a), space, image.dtype)


def _is_identity(affine: NDArray[np.float64]) -> bool:
    """But for rounding; then there is no round trip through the space."""
    return bool(np.allclose(affine, np.eye(3, 4), rtol=0, atol=1e-6))


@dataclass(frozen=True, eq=False)
class ColorMap:
    """A map of colours, as `color_map` makes it. Maps of one method and space can be mixed from frame to frame.

    Attributes
    ----------
    space : {"lab", "linear", "rgb"}
        Where it works.
    affine : (3, 4) float64 array
        ``[A | t]``: the linear part.
    curves : (3, 1024) float32 array or None
        What is added to each channel besides, at even steps over its range.
    lattice : (17, 17, 17, 3) float32 array or None
        What is added besides to the colours at the nodes of a lattice.
    """

    space: Space
    affine: NDArray[np.float64]
    curves: Floats | None = None
    lattice: Floats | None = None

    def mixed(self, other: ColorMap, share: float) -> ColorMap:
        """The map that sends every colour to ``(1 - share)`` of where this one sends it and `share` of the other's.

        Raises
        ------
        ValueError
            The other map is of another space or method.
        """

        def mix(a: Any, b: Any) -> Any:
            return None if a is None else ((1 - share) * a + share * b).astype(a.dtype)

        kinds = [(one.space, one.curves is None, one.lattice is None) for one in (self, other)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"expected a map of the same space and method, but got {kinds[1]} for {kinds[0]}")
        parts = ((self.affine, other.affine), (self.curves, other.curves), (self.lattice, other.lattice))
        return ColorMap(self.space, *(mix(a, b) for a, b in parts))


def color_map(
    image: Pixels,
    reference: Pixels,
    *,
    method: Method = "reinhard",
    mask: Mask | None = None,
    reference_mask: Mask | None = None,
    space: Space = "lab",
    max_gain: float = 3.0,
) -> ColorMap:
    """The map that gives an image the colours of a reference, judged by what lies in the masks.

    Parameters
    ----------
    image, reference : (H, W, 3) uint8 or float32 arrays, RGB
        Their sizes may differ.
    method : {"reinhard", "covariance", "histogram", "sliced", "none"}
        As in `transfer_map`; "histogram" matches the cumulative histogram of each channel; "sliced" matches the whole
        distribution: it adds to the covariance's map what `sliced_transport` finds left to do, smoothed.
    mask, reference_mask : (H, W) float32 or bool arrays, optional
        Weights for the statistics.
    space : {"lab", "linear", "rgb"}
    max_gain : float
        See `transfer_map`; not for "histogram".

    Raises
    ------
    ValueError
        Not RGB, an unknown option, or nothing in a mask.
    """
    check_choice(method, get_args(Method), "method")
    have, have_w = _selected(image, mask, space)
    want, want_w = _selected(reference, reference_mask, space)
    if method == "histogram":
        return ColorMap(space, np.eye(3, 4), curves=_histogram_curves(have, have_w, want, want_w, space))
    linear: Any = "covariance" if method == "sliced" else method
    affine = transfer_map(_stats(have, have_w), _stats(want, want_w), method=linear, max_gain=max_gain)
    if method != "sliced":
        return ColorMap(space, affine)
    start, goal = _even(have, have_w), _even(want, want_w)
    moved = start @ affine[:, :3].T + affine[:, 3]
    left = sliced_transport(moved, goal) - moved
    return ColorMap(space, affine, lattice=_LATTICES[space].fit(start, left))


def apply_color_map(image: Pixels, colors: ColorMap) -> Pixels:
    """Send every colour of an (H, W, 3) RGB image through a map; clipped to 0 … 255, and rounded when uint8."""
    extra = [part for part in (colors.curves, colors.lattice) if part is not None]
    if not any(np.abs(part).max() > 1e-3 for part in extra):  # as an equal picture's, but for rounding
        return apply_color(image, colors.affine, space=colors.space)
    values = _to_space(check_rgb(image), colors.space)
    moved = values if _is_identity(colors.affine) else cv2.transform(values, colors.affine)
    if colors.curves is not None:
        low, high = np.array(_BOXES[colors.space], np.float32)
        bins = np.clip((values - low) * ((_BINS - 1) / (high - low)) + np.float32(0.5), 0, _BINS - 1).astype(np.int32)
        moved = moved + np.stack([curve[bins[..., c]] for c, curve in enumerate(colors.curves)], -1)
    if colors.lattice is not None:
        moved = moved + _LATTICES[colors.space].at(colors.lattice, values)
    return _from_space(moved, colors.space, image.dtype)


def _even(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(_POINTS, 3) of the colours (3, N), in their order, as often as their weights say."""
    steps = (np.arange(_POINTS) + 0.5) / _POINTS
    chosen = np.minimum(np.searchsorted(np.cumsum(weights), steps), len(weights) - 1)
    return np.ascontiguousarray(values[:, chosen].T)


def match_color(
    image: Pixels,
    reference: Pixels,
    *,
    method: Method = "reinhard",
    mask: Mask | None = None,
    reference_mask: Mask | None = None,
    space: Space = "lab",
    max_gain: float = 3.0,
) -> Pixels:
    """Give an image the colours of a reference: `apply_color_map` of `color_map`, whose parameters these are.

    The whole image is changed, also what lies outside of the mask.

    Returns
    -------
    (H, W, 3) array of the image's dtype
    """
    options: Any = {"mask": mask, "reference_mask": reference_mask, "space": space, "max_gain": max_gain}
    if method == "none":
        return check_rgb(image).copy()
    return apply_color_map(image, color_map(image, reference, method=method, **options))


def _histogram_curves(
    have: NDArray[np.float64],
    have_w: NDArray[np.float64],
    want: NDArray[np.float64],
    want_w: NDArray[np.float64],
    space: str,
) -> Floats:
    """Per channel, v -> Q_want(F_have(v)) less v; colours beyond all that are there move as the last of them."""
    curves = []
    for c, span in enumerate(zip(*_BOXES[space], strict=True)):
        x, f = _cumulative(have[c], have_w, span)
        y, g = _cumulative(want[c], want_w, span)
        curves.append(np.interp(np.linspace(*span, _BINS), x, np.interp(f, g, y) - x))
    return np.array(curves, np.float32)


def _cumulative(
    values: NDArray[np.float64], weights: NDArray[np.float64], span: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean value of each bin that is not empty, and the share of the weight below its middle."""
    bins = np.clip((values - span[0]) * (_BINS / (span[1] - span[0])), 0, _BINS - 1).astype(np.int64)
    mass = np.bincount(bins, weights, _BINS)
    filled = mass > 0
    centre = np.bincount(bins, weights * values, _BINS)[filled] / mass[filled]
    mass = mass[filled]
    return centre, np.cumsum(mass) - mass / 2
