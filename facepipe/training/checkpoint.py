"""Checkpoints: tensors as safetensors, everything else as JSON; never a pickle.

A checkpoint is two files. The JSON is written last and holds the sha256 of the tensors: without it, or with another
hash, there is no checkpoint, and the one before it counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from facepipe.errors import CheckpointError
from facepipe.workspace import atomic_path, file_sha256, read_json, write_json

__all__ = [
    "as_json",
    "load",
    "load_newest",
    "newest_state",
    "pack_optimizer",
    "prune",
    "read_state",
    "save",
    "step_path",
    "unpack_optimizer",
]

_NAME = "step-"


def save(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write ``path.safetensors`` and ``path.json``; what was there stays whole if anything fails.

    Parameters
    ----------
    path : Path
        Without a suffix.
    tensors : mapping of str to Tensor
        On any device.
    state : mapping
        What JSON can hold.
    """
    whole = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    with atomic_path(_tensors(path)) as part:
        safetensors.torch.save_file(whole, part)
        sha256 = file_sha256(part)
    write_json(_state(path), {"sha256": sha256, **state})


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and state of a checkpoint.

    Raises
    ------
    CheckpointError
        It is missing, damaged, or not what it claims to be.
    """
    state, file = read_state(path), _tensors(path)
    try:
        if file_sha256(file) != state["sha256"]:
            raise CheckpointError(f"{file}: damaged (its sha256 is not the one it was written with); delete it")
        return safetensors.torch.load_file(file), state
    except OSError as exc:
        raise CheckpointError(f"{file}: cannot be read: {exc.strerror or exc}") from exc
    except safetensors.SafetensorError as exc:
        raise CheckpointError(f"{file}: not a safetensors file (pickles are never read): {exc}") from exc


def read_state(path: Path) -> dict[str, Any]:
    """The JSON of a checkpoint.

    Raises
    ------
    CheckpointError
        It is missing or damaged.
    """
    file = _state(path)
    state = read_json(file)
    if not isinstance(state, dict) or not isinstance(state.get("sha256"), str):
        raise CheckpointError(f"{file}: {'damaged' if file.exists() else 'no such checkpoint'}")
    return state


def load_newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]] | None:
    """The newest checkpoint of a folder that is whole, and what is wrong with newer ones; None without any."""
    troubles: list[str] = []
    for path in sorted(_all(folder), reverse=True):
        try:
            return *load(path), troubles
        except CheckpointError as exc:
            troubles.append(str(exc))
    return None


def newest_state(folder: Path) -> dict[str, Any] | None:
    """The JSON of the newest checkpoint of a folder that is not damaged; None without any."""
    for path in sorted(_all(folder), reverse=True):
        try:
            return read_state(path)
        except CheckpointError:
            continue
    return None


def as_json(data: Any) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(data))


def prune(folder: Path, keep: int) -> None:
    """Delete all checkpoints of a folder but the newest `keep`."""
    for path in sorted(_all(folder), reverse=True)[keep:]:
        _state(path).unlink(missing_ok=True)
        _tensors(path).unlink(missing_ok=True)


def step_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"{_NAME}{step:09d}"


def pack_optimizer(name: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of an optimiser's state, by ``name.parameter.key``; its settings come from the configuration."""
    state = optimizer.state_dict()["state"]
    return {f"{name}.{index}.{key}": value for index, own in state.items() for key, value in own.items()}


def unpack_optimizer(name: str, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser the state that `pack_optimizer` took from one like it."""
    whole = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        prefix, _, rest = key.partition(".")
        if prefix == name:
            index, _, field = rest.partition(".")
            like = parameters[int(index)]
            # In the parameter's own memory format, which files do not keep.
            state.setdefault(int(index), {})[field] = torch.empty_like(like).copy_(value) if value.ndim else value
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def _all(folder: Path) -> Iterator[Path]:
    return (file.with_suffix("") for file in folder.glob(f"{_NAME}*.json"))


def _tensors(path: Path) -> Path:
    return path.with_name(f"{path.name}.safetensors")


def _state(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
