"""The linear part of a swap net: components of faces, and the best linear net to start from.

Turk and Pentland 1991 (DOI 10.1162/jocn.1991.3.1.71): a face is a mean and a combination of few components. Here the
coefficients of a face on components of *its* person are a part of its code; a decoder turns any code into coefficients
on components of the person *it* draws. All of it is found by a singular value decomposition and a ridge regression, in
seconds, before the first step of the training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Analysis", "Components", "Synthesis", "held_back", "principal_components", "ridge"]

_LIMIT = 4.0  # standard deviations up to which coefficients are taken as they are ...
_BEYOND = 0.5  # ... and the slope beyond: a code that no training face had draws no face that was never seen
_PENALTY = 0.3  # of the ridge regression, in units of the codes' variance: .1 to 1 draw held-out twins alike
_NOISE = 1e-5  # share of a picture that is rounding (float32) rather than a component


def held_back(coefficients: Tensor) -> Tensor:
    """Coefficients in standard deviations, held where training faces are: beyond 4 the slope is a half."""
    held = coefficients.clamp(-_LIMIT, _LIMIT)
    return held + _BEYOND * (coefficients - held)


@dataclass(frozen=True)
class Components:
    """Principal components of flattened pictures.

    Attributes
    ----------
    mean : (D,) Tensor
    basis : (K, D) Tensor
        Orthonormal rows, by falling variance.
    deviation : (K,) Tensor
        Standard deviation along each; more than 0.
    """

    mean: Tensor
    basis: Tensor
    deviation: Tensor

    def coefficients(self, rows: Tensor) -> Tensor:
        """(N, K) of (N, D) pictures, in standard deviations."""
        return (rows - self.mean) @ self.basis.T / self.deviation


def principal_components(rows: Tensor, count: int, *, weight: Tensor | None = None) -> Components:
    """The first components of N pictures, from the N x N matrix of their products.

    Parameters
    ----------
    rows : (N, D) Tensor
        N of at least 2.
    count : int
        At most this many; fewer when the pictures have no more (N - 1, or those of no variance left out).
    weight : (N,) Tensor, optional
        Of each picture; 0 or more. Alike by default.

    Notes
    -----
    Turk and Pentland 1991, section "Calculating eigenfaces": for N below D the eigenvectors of the small matrix give
    those of the large one.
    """
    rows = rows.double()
    share = rows.new_full((len(rows),), 1 / len(rows)) if weight is None else weight.double() / weight.sum()
    mean = share @ rows
    free = (rows - mean) * share.sqrt()[:, None]
    values, vectors = torch.linalg.eigh(free @ free.T)
    order = values.argsort(descending=True)[: min(count, len(rows) - 1)]
    rounding = 1e-24 * (share @ rows.square().sum(1))  # what pictures that are all equal leave over
    order = order[values[order] > torch.maximum(1e-9 * values.max(), rounding)]
    deviation = values[order].sqrt()
    basis = vectors[:, order].T @ free / deviation[:, None]
    return Components(mean.float(), basis.float(), deviation.float())


def ridge(x: Tensor, y: Tensor, weight: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weighted ridge regression with a constant that is not penalised.

    Parameters
    ----------
    x, y : (N, P), (N, Q) Tensor
    weight : (N,) Tensor
        Of each row; 0 or more.
    penalty : float
        Added to the diagonal of the weighted mean of ``x x^T``; in units of x squared.

    Returns
    -------
    matrix : (Q, P) Tensor
    constant : (Q,) Tensor
        ``y`` is about ``x @ matrix.T + constant``.

    Notes
    -----
    Hoerl and Kennard 1970, eq. (2.1), DOI 10.1080/00401706.1970.10488634
    """
    x, y, share = x.double(), y.double(), (weight / weight.sum()).double()[:, None]
    x_mean, y_mean = (share * x).sum(0), (share * y).sum(0)
    free = x - x_mean
    normal = free.T @ (share * free) + penalty * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    matrix = torch.linalg.solve(normal, free.T @ (share * (y - y_mean))).T
    return matrix.float(), (y_mean - matrix @ x_mean).float()


class Analysis(nn.Module):
    """Coefficients of a picture on the components of the person who is seen in it.

    Each person has a half of the code to themselves, the other is 0: what a decoder makes of the one's codes says
    nothing of what it makes of the other's. Components common to both were tried: a decoder then also drew whatever it
    shared by chance with pictures of the other person, and held-out swaps were 2 and 12 dB further from their twins.
    After the coefficients come the hints, and last a 1: who is seen.

    Parameters
    ----------
    count : int
        Numbers of both halves, K.
    pixels : int
        Numbers of a picture, D.
    hints : int
        Numbers that are known of a picture besides, H.
    """

    basis: Tensor
    offset: Tensor

    def __init__(self, count: int, pixels: int, hints: int = 0) -> None:
        super().__init__()
        self.width = count // 2
        self.rest = count - 2 * self.width
        self.hints = hints
        self.count = self.width - hints - 1
        self.register_buffer("basis", torch.zeros(2, self.count, pixels))
        self.register_buffer("offset", torch.zeros(2, self.count))

    def forward(self, image: Tensor, person: int, hints: Tensor | None = None) -> Tensor:
        """(B, K) of (B, 3, S, S) pictures of person 0 or 1, and their (B, H) hints; without any they are 0."""
        with torch.autocast(image.device.type, enabled=False):
            found = F.linear(image.float().flatten(1), self.basis[person]) - self.offset[person]
        if self.hints:
            found = torch.cat((found, found.new_zeros(len(found), self.hints) if hints is None else hints), 1)
        before = person * self.width
        return F.pad(F.pad(found, (0, 1), value=1.0), (before, self.width - before + self.rest))

    @torch.no_grad()
    def start(self, rows: tuple[Tensor, Tensor]) -> None:
        """Take the first components of each person's pictures (N, D)."""
        self.basis.zero_()
        for person, pictures in enumerate(rows):
            found = principal_components(pictures, self.count)
            # One scale for all components: what varies little in pictures shall not weigh much in codes.
            basis = found.basis / found.deviation.square().mean().sqrt()
            self.basis[person, : len(basis)] = basis
            self.offset[person] = self.basis[person] @ found.mean


class Synthesis(nn.Module):
    """A person's mean face and components, combined as a code says.

    Nothing of it is trained: gradient steps on the map from codes to coefficients, or on the components, fitted the
    training faces at once and lost half a decibel of the held-out ones in 500 steps.

    Parameters
    ----------
    code : int
        Numbers of a code.
    count : int
        Components, K.
    size : int
        Side of the pictures.
    """

    mean: Tensor
    basis: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, code: int, count: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.zeros(3 * size * size))
        self.register_buffer("basis", torch.zeros(count, 3 * size * size))
        self.register_buffer("weight", torch.zeros(count, code))
        self.register_buffer("bias", torch.zeros(count))

    def limited(self, code: Tensor) -> Tensor:
        """(B, K) coefficients of (B, C) codes, in standard deviations, held where training faces are."""
        return held_back(F.linear(code, self.weight, self.bias))

    def forward(self, code: Tensor) -> Tensor:
        """(B, 3, S, S) of (B, C) codes."""
        with torch.autocast(code.device.type, enabled=False):  # 8 bits of mantissa would be seen
            picture = torch.addmm(self.mean, self.limited(code.float()), self.basis)
        return picture.view(-1, 3, self.size, self.size)

    @torch.no_grad()
    def start(self, analysis: Analysis, person: int, own: Tensor, twins: Tensor, strange_codes: Tensor) -> None:
        """Find this person's components, and how codes become coefficients on them.

        A picture of this person is projected onto the components, as far as the analysis sees it; that is the best
        that a linear net can do for pictures it has not seen. The codes of the *other* person are mapped so that their
        twins are drawn, by a ridge regression.

        Parameters
        ----------
        analysis : Analysis
            Started.
        person : int
            Who this is, 0 or 1.
        own : (N, D) Tensor
            This person's pictures.
        twins, strange_codes : (M, D), (M, K) Tensor
            This person doing what the other does in M pictures, and the codes of those.
        """
        width = analysis.width
        found = _stacked(principal_components(own, len(self.basis) // 2), twins, len(self.basis))
        count = len(found.basis)
        self.mean.copy_(found.mean)
        self.basis.zero_()
        self.basis[:count] = found.basis * found.deviation[:, None]
        weight = self.weight.zero_()
        self.bias.zero_()
        basis = analysis.basis[person]
        squares = basis.square().sum(1, keepdim=True).clamp_min(1e-12)
        own_half = weight[:count, person * width :][:, : analysis.count]
        own_half.copy_(found.basis @ (basis / squares).T / found.deviation[:, None])
        first = (1 - person) * width
        seen = strange_codes[:, first : first + width - 1]
        wanted = found.coefficients(twins).clamp(-_LIMIT, _LIMIT)
        matrix, constant = ridge(seen, wanted, seen.new_ones(len(seen)), _PENALTY)
        weight[:count, first : first + width - 1] = matrix
        weight[:count, first + width - 1] = constant


def _stacked(own: Components, twins: Tensor, most: int) -> Components:
    """Components of own pictures, and those of what the twins have beyond them, a constant difference included."""
    free = twins - own.mean
    along = free @ own.basis.T
    rest = free - along @ own.basis
    beyond = principal_components(torch.cat((rest, -rest)), most - len(own.basis))  # about 0, not about their mean
    seen = beyond.deviation > _NOISE * free.square().sum(1).mean().sqrt()  # else: what rounding left over
    # The scale of a component is that of the pictures which need it.
    needed = torch.maximum(own.deviation, along.square().mean(0).sqrt())
    deviation = torch.cat((needed, beyond.deviation[seen]))
    return Components(own.mean, torch.cat((own.basis, beyond.basis[seen])), deviation)
