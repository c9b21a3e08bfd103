"""Swap method *gan*: a trained net draws the target's face as the source's. See `facepipe.networks` and stage *train*.

Faces are cut out of the frames by the view that the net was trained with (`facepipe.methods.view`), drawn in batches,
and handed to the composite at a finer size: the net's picture enlarged, and detail that it is too small for, linear in
the coefficients of its linear part, where there is one (`fit_fine`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn

from facepipe.composite import Patch
from facepipe.config import AlignConfig, SwapConfig
from facepipe.errors import CheckpointError, UsageError
from facepipe.methods.faceset import FaceSet, Twins, hints_of, see_rows
from facepipe.methods.plan import Record, reference_faces, rows_to_swap
from facepipe.methods.procrustes import Overlay
from facepipe.methods.view import View, cut_settings, view_of
from facepipe.networks import Architecture, SwapNet
from facepipe.networks.linear import Synthesis, ridge
from facepipe.stored import DAMAGED
from facepipe.types import HINTS, OTHER, SIDES, Faces, Image, Side
from facepipe.workspace import atomic_path, file_sha256, read_json

__all__ = ["Drawn", "Fine", "GanPlan", "Generator", "export_onnx", "fit_fine", "write_fine"]

_FINER = 3  # times the net's size, for what is handed to the composite
_PENALTY = 0.03  # of the detail's regression, in units of coefficients' variance
_TWINS = 0.3  # weight of all twins in it, against the person's own pictures
_BATCH = 16


class Fine(NamedTuple):
    """The detail of one person that a net's picture is too small for: a mean, and what coefficients add to it.

    Attributes
    ----------
    mean : (3 * S * S,) Tensor
    basis : (K, 3 * S * S) Tensor
    """

    mean: Tensor
    basis: Tensor


class Drawn(NamedTuple):
    """Faces as they go to the composite.

    Attributes
    ----------
    images : (N, S, S, 3) uint8 array
        RGB.
    masks : (N, S, S) float32 array
        Where the net sees face, 0 to 1.
    """

    images: Image
    masks: NDArray[np.float32]


@dataclass(frozen=True)
class Generator:
    """A trained net and what it has to be fed with.

    Attributes
    ----------
    net : SwapNet
        In evaluation mode.
    view : View
        What it sees of a face.
    means : dict of Side to (P, D) float64 array
        Mean frontal shapes of both persons.
    facts : dict
        Of its checkpoint: ``template``, ``margin``, ``step``, ``scores``, ``sha256`` and so on.
    fine : dict of Side to Fine
        The detail of each person that is drawn; empty where there is none.
    device : torch.device
        Where it runs.
    """

    net: SwapNet
    view: View
    means: dict[Side, NDArray[np.float64]]
    facts: dict[str, Any]
    fine: dict[Side, Fine]
    device: torch.device

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> Generator:
        """Read ``generator.safetensors`` and its ``.json``.

        Parameters
        ----------
        path : Path
            Without a suffix.
        device : str
            Where it shall run.

        Raises
        ------
        CheckpointError
            It is missing, damaged, or the tensors are not those of its architecture.
        """
        facts = read_json(path.with_name(f"{path.name}.json"))
        file = path.with_name(f"{path.name}.safetensors")
        if not isinstance(facts, dict) or not file.is_file():
            raise CheckpointError(f"{file}: no trained net there; run `facepipe train` on this run folder")
        try:
            if file_sha256(file) != facts["sha256"]:
                raise CheckpointError(f"{file}: damaged, its sha256 is not the one it was written with; train again")
            net = _built(Architecture.of(facts["architecture"]), safetensors.torch.load_file(file))
            view = view_of(facts)
            means = {side: np.array(facts["shapes"][side], np.float64) for side in SIDES}
        except (*DAMAGED, ArithmeticError, RuntimeError, SafetensorError) as exc:
            reason = (str(exc) or type(exc).__name__).splitlines()[0]
            raise CheckpointError(f"{file}: damaged, or of another architecture: {reason}") from exc
        where = torch.device(device)
        net = net.to(where).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        return cls(net, view, means, facts, _read_fine(path, facts, where), where)

    def check(self, align: AlignConfig, path: Path) -> None:
        """Refuse crops that are cut otherwise than those of the training.

        Raises
        ------
        CheckpointError
            Template or margin differ, or the size, where the net sees the crop itself.
        """
        for name in cut_settings(self.facts["view"]):
            trained, given = self.facts[name], getattr(align, name)
            if trained != given:
                raise CheckpointError(
                    f"{path}: trained on crops of {name} {trained}, but these have {given}; "
                    f"align as in the training (align.{name}), or train again"
                )

    @property
    def size(self) -> int:
        """Side of what is drawn for the composite, in pixels."""
        return _FINER * self.net.shape.size if self.net.shape.size < 256 else self.net.shape.size

    def draw(self, images: NDArray[np.uint8], seen: Side, drawn: Side, hints: NDArray[np.float32]) -> Drawn:
        """Draw faces of the person `seen` as the person `drawn`.

        Parameters
        ----------
        images : (N, s, s, 3) uint8 array
            By the view, at the net's size.
        seen, drawn : {"source", "target"}
            Who is in the pictures, and who shall be.
        hints : (N, HINTS) float32 array
            Pose and expression, see `hints_of`.
        """
        with torch.inference_mode():
            whole = _signed(images, self.device)
            whole = whole.contiguous(memory_format=torch.channels_last)
            code = self.net.encode(whole, seen, torch.from_numpy(hints).to(self.device))
            image, mask = self.fine_picture(code, drawn)
            pictures = image.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
            return Drawn(pictures.cpu().numpy(), mask[:, 0].cpu().numpy())

    def fine_picture(self, code: Tensor, drawn: Side) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) pictures, not clamped, and (B, 1, S, S) masks in [0, 1] of codes, at the finer size."""
        size = (self.size, self.size)
        face = self.net.decode(code, drawn)
        fine, image = self.fine.get(drawn), _enlarged(face.image, self.size)
        if fine is not None:
            coefficients = _linear(self.net, drawn).limited(code)
            image = image + torch.addmm(fine.mean, coefficients, fine.basis).unflatten(1, (3, *size))
        if face.mask_logits is None:
            return image, image.new_ones((len(image), 1, *size))
        mask = F.interpolate(face.mask_logits.float(), size, mode="bilinear", align_corners=False).sigmoid()
        return image, mask


class _Drawing(nn.Module):
    """A generator as one module: pictures in [-1, 1], and their hints, to the finer pictures and masks."""

    def __init__(self, generator: Generator, seen: Side, drawn: Side) -> None:
        super().__init__()
        self.net = generator.net
        self._generator = generator
        self._seen: Side = seen
        self._drawn: Side = drawn

    def forward(self, images: Tensor, hints: Tensor | None = None) -> tuple[Tensor, Tensor]:
        image, mask = self._generator.fine_picture(self.net.encode(images, self._seen, hints), self._drawn)
        return image.clamp(-1, 1), mask


def export_onnx(generator: Generator, path: Path, *, seen: Side = "target", drawn: Side = "source") -> None:
    """Write a generator as ONNX, for any runtime that reads it; needs the extra ``onnx``.

    Inputs ``images``: (N, 3, s, s) float32 RGB in [-1, 1], by the view, any N; and ``hints``: (N, HINTS)
    float32, pose and expression by `hints_of`, where the architecture takes them. Outputs ``pictures``: (N, 3, S, S)
    in [-1, 1], and ``masks``: (N, 1, S, S) in [0, 1].

    Parameters
    ----------
    generator : Generator
        What to write.
    path : Path
        The file.
    seen, drawn : {"source", "target"}
        Who is in the pictures, and who shall be.

    Raises
    ------
    UsageError
        The extra is not installed.
    """
    try:
        import onnxscript  # noqa: F401 - torch's exporter needs it
    except ImportError as exc:
        raise UsageError("writing ONNX needs more packages: pip install 'facepipe[onnx]'") from exc
    size = generator.net.shape.size
    examples = {"images": torch.zeros(2, 3, size, size, device=generator.device)}
    if generator.net.shape.hints:
        examples["hints"] = torch.zeros(2, HINTS, device=generator.device)
    several = torch.export.Dim("faces", min=1, max=4096)
    with atomic_path(path) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, of its own deprecations
        torch.onnx.export(
            _Drawing(generator, seen, drawn).eval(),
            tuple(examples.values()),
            part,
            input_names=list(examples),
            output_names=["pictures", "masks"],
            dynamic_shapes=tuple({0: several} for _ in examples),
            external_data=False,
            verbose=False,
        )


def _signed(images: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """(N, 3, H, W) float32 in [-1, 1] of (N, H, W, 3) uint8."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def _linear(net: SwapNet, side: Side) -> Synthesis:
    return cast("Synthesis", net.synthesis[side])


def _enlarged(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images, (size, size), mode="bicubic", align_corners=False)


@torch.inference_mode()
def fit_fine(generator: Generator, sets: dict[Side, FaceSet], twins: dict[Side, Twins], drawn: Side) -> Fine:
    """The detail of the person `drawn`: what their pictures have at the finer size and lose at the net's.

    The uppermost level of a Laplacian pyramid (Burt and Adelson 1983, DOI 10.1109/TCOM.1983.1095851), by a ridge
    regression from the coefficients that the trained net gives. All that the net's size can show stays the net's.

    Parameters
    ----------
    generator : Generator
        The trained net; its own `fine` is not used.
    sets : dict of Side to FaceSet
        Both persons.
    twins : dict of Side to Twins
        Of each person's learnable faces, by `find_twins` at the generator's `size`.
    drawn : {"source", "target"}
        Whose part is fitted.
    """
    net, size, other = generator.net, generator.size, OTHER[drawn]
    pictures = _signed(_learnable(sets[drawn], generator.view, size))
    strange = torch.from_numpy(twins[other].pictures).permute(0, 3, 1, 2).float()
    strange = torch.lerp(pictures.mean(0), strange[:, :3] / 127.5 - 1, strange[:, 3:] / 255)
    detail = torch.cat((pictures, strange))
    for part in detail.split(_BATCH):
        small = F.interpolate(part, (net.shape.size,) * 2, mode="bicubic", align_corners=False, antialias=True)
        part -= _enlarged(small, size)
    coefficients = []
    for side in (drawn, other):
        images = _signed(_learnable(sets[side], generator.view, net.shape.size))
        hints = torch.from_numpy(sets[side].hints()[sets[side].train])
        for part, known in zip(images.split(_BATCH), hints.split(_BATCH), strict=True):
            code = net.encode(part.to(generator.device), side, known.to(generator.device))
            coefficients.append(_linear(net, drawn).limited(code).cpu())
    weight = torch.full((len(detail),), 1 / len(pictures))
    weight[len(pictures) :] = _TWINS / max(1, len(strange))
    matrix, constant = ridge(torch.cat(coefficients), detail.flatten(1), weight, _PENALTY)
    return Fine(constant, matrix.T.contiguous())


def _learnable(faces: FaceSet, view: View, size: int) -> NDArray[np.uint8]:
    """(N, size, size, 3) uint8: the learnable faces."""
    return np.stack([image for image, _ in see_rows(faces, np.flatnonzero(faces.train), view, size)])


def write_fine(path: Path, generator: Generator, fine: dict[Side, Fine]) -> None:
    """Write ``generator-fine.safetensors`` beside the generator at `path`, in half precision."""
    tensors = {f"{side}.{name}": value.half() for side, one in fine.items() for name, value in one._asdict().items()}
    with atomic_path(_fine_path(path)) as part:
        safetensors.torch.save_file(tensors, part, {"generator": generator.facts["sha256"]})


def _check_shapes(file: Path, shape: Architecture) -> None:
    """Raise where the tensors are not those of the architecture: before it takes memory, whatever it says."""
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in SwapNet(shape).state_dict().items()}
    with safetensors.safe_open(file, "pt") as opened:
        found = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    if found != wanted:
        name = min(found.items() ^ wanted.items())[0]
        raise ValueError(f"{name} is {found.get(name)}, expected {wanted.get(name)}")


def _fine_path(path: Path) -> Path:
    return path.with_name(f"{path.name}-fine.safetensors")


def _built(shape: Architecture, tensors: dict[str, Tensor]) -> SwapNet:
    """The net with these tensors; it is built when they are known to fit, so that nothing is larger than its file."""
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in SwapNet(shape).state_dict().items()}
    if wanted != {name: tensor.shape for name, tensor in tensors.items()}:
        raise ValueError("its tensors are not those of its architecture")
    net = SwapNet(shape)
    net.load_state_dict(tensors)
    return net


def _read_fine(path: Path, facts: dict[str, Any], device: torch.device) -> dict[Side, Fine]:
    """What `write_fine` wrote for this very generator; nothing when it belongs to another or is damaged."""
    try:
        with safetensors.safe_open(_fine_path(path), "pt") as file:
            if (file.metadata() or {}).get("generator") != facts.get("sha256"):
                return {}
            tensors = {name: file.get_tensor(name).float().to(device) for name in file.keys()}  # noqa: SIM118
        sides = [side for side in SIDES if f"{side}.mean" in tensors]
        return {side: Fine(tensors[f"{side}.mean"], tensors[f"{side}.basis"]) for side in sides}
    except (*DAMAGED, safetensors.SafetensorError):
        return {}


class GanPlan:
    """The swap of one clip by a trained net; see `facepipe.methods.plan.Plan`.

    Parameters
    ----------
    generator : Generator
        The net.
    faces : Faces
        All faces of the clip.
    rows : (N,) bool array
        Those of the target person.
    config : SwapConfig
        Faces with a flag of ``skip`` are left out; `shape` and `refine` are used.
    drawn : {"source", "target"}
        The source for a swap; the target to rebuild.
    """

    batch = _BATCH

    def __init__(
        self,
        generator: Generator,
        faces: Faces,
        rows: NDArray[np.bool_],
        config: SwapConfig,
        *,
        drawn: Side = "source",
    ) -> None:
        self.faces = faces[rows_to_swap(faces, rows, config)]
        reference = reference_faces(faces, rows, self.faces)
        self._hints = hints_of(self.faces, reference)
        self._generator = generator
        self._drawn: Side = drawn
        self._overlay = Overlay(generator.means[drawn], reference, config)

    def patches(self, rows: Sequence[int], frames: Sequence[Image]) -> list[Patch | None]:
        """The faces as the net draws them; the mask is where both the target and the drawn face have face."""
        generator, faces = self._generator, [self.faces[row] for row in rows]
        view, size = generator.view, generator.net.shape.size
        images = [
            view.see(frame, face, face.frame_to_crop[0], size).image for frame, face in zip(frames, faces, strict=True)
        ]
        drawn = generator.draw(np.stack(images), "target", self._drawn, self._hints[list(rows)])
        return [
            view.put(self._overlay, image, mask, face, frame.shape[:2])
            for image, mask, face, frame in zip(drawn.images, drawn.masks, faces, frames, strict=True)
        ]

    def record(self, row: int) -> Record:
        """No single source face."""
        return Record(int(self.faces.face[row]))
