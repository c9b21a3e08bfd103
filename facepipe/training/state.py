"""All that changes while a net trains: what a checkpoint holds, and what a training that diverged goes back to."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from facepipe.config import TrainConfig
from facepipe.errors import CheckpointError
from facepipe.networks import Architecture, Face, SwapNet
from facepipe.training.checkpoint import pack_optimizer, unpack_optimizer
from facepipe.training.data import Batch
from facepipe.training.game import Game
from facepipe.training.team import Team
from facepipe.types import Side

__all__ = ["Trainee", "precision_of"]

_AVERAGE = 4  # steps between two updates of the averaged weights
_SLOWER = 0.5  # of the learning rate after losses that were not finite


def precision_of(name: str, device: torch.device) -> torch.dtype | None:
    """The dtype of mixed precision: ``auto`` is bfloat16 or float16 on a GPU, none elsewhere."""
    if name == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


class Trainee:
    """Nets, averaged weights, optimisers, and where the training stands.

    Parameters
    ----------
    shape : Architecture
        Of the net.
    config : TrainConfig
        Settings.
    device : torch.device
        Where all of it lies.
    seed : int
        Of the weights that the nets start with.

    Attributes
    ----------
    raw, net : SwapNet
        The net, and the same compiled where that was asked for.
    averaged : SwapNet
        Exponential moving average of its weights: what is validated and used.
    game : Game or None
        The discriminators.
    step : int
        Steps done.
    seconds : float
        Time spent.
    """

    def __init__(self, shape: Architecture, config: TrainConfig, device: torch.device, seed: int = 0) -> None:
        self._config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.raw = SwapNet(shape)
            self.game = Game(config) if config.loss.gan else None
        self.raw.to(device).to(memory_format=torch.channels_last)
        if self.game is not None:
            self.game.to(device).to(memory_format=torch.channels_last)
        self.net: Any = torch.compile(self.raw) if config.compile else self.raw
        average = get_ema_multi_avg_fn(config.ema**_AVERAGE)
        self._average = AveragedModel(self.raw, multi_avg_fn=average)
        _share(self.raw.constants(), self.averaged)  # one copy of them, which no average has to be taken of
        self._device = device
        self._optimizer = self._adam(self.raw, config.betas)
        self._critic_optimizer = None if self.game is None else self._adam(self.game, (0.5, config.betas[1]))
        self._precision = precision_of(config.precision, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._precision is torch.float16)
        self.step = 0
        self.seconds = 0.0
        self._slower = 1.0
        self._snapshot: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def _adam(self, module: nn.Module, betas: tuple[float, float]) -> torch.optim.Optimizer:
        config, fused = self._config, self._device.type in ("cpu", "cuda", "mps")
        return torch.optim.AdamW(
            module.parameters(), config.learning_rate, betas, weight_decay=config.weight_decay, fused=fused
        )

    @property
    def averaged(self) -> SwapNet:
        """See the class."""
        return cast("SwapNet", self._average.module)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of mixed precision, for forward passes."""
        if self._precision is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, self._precision)

    def begin(self) -> None:
        """Take the net's weights as they are for the first of the average: after they were set from outside."""
        self._average.module.load_state_dict(self.raw.state_dict())

    # Steps

    def set_rates(self, factor: float) -> None:
        """Scale the learning rates of all optimisers."""
        for optimizer in (self._optimizer, self._critic_optimizer):
            for group in () if optimizer is None else optimizer.param_groups:
                group["lr"] = self._config.learning_rate * factor * self._slower

    def step_critics(
        self, batch: Batch, rebuilt: Mapping[Side, Face], swapped: Mapping[Side, Face], team: Team
    ) -> None:
        """One step of the discriminators."""
        assert self.game is not None
        assert self._critic_optimizer is not None
        with self.autocast():
            loss = self.game.discriminate(batch, rebuilt, swapped)
        loss.backward()
        team.average_gradients(self.game.parameters())
        self._critic_optimizer.step()
        self._critic_optimizer.zero_grad()
        self.game.clip()

    def step_generator(self, loss: Tensor, team: Team) -> None:
        """One step of the generator; counts it."""
        self._scaler.scale(loss).backward()
        team.average_gradients(self.raw.parameters())
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self.raw.parameters(), self._config.clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        self.step += 1
        if self.step % _AVERAGE == 0:
            self._average.update_parameters(self.raw)

    # State

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and numbers from which `unpack` makes the same state; the tensors are not copies."""
        tensors = {f"net.{name}": value for name, value in self.raw.state_dict().items()}
        shared = {f"module.{name}" for name in self.raw.constants()}
        tensors |= {f"averaged.{k}": value for k, value in self._average.state_dict().items() if k not in shared}
        tensors |= pack_optimizer("optimizer", self._optimizer)
        if self.game is not None and self._critic_optimizer is not None:
            tensors |= {f"game.{name}": value for name, value in self.game.state_dict().items()}
            tensors |= pack_optimizer("critics", self._critic_optimizer)
        state = {
            "architecture": asdict(self.raw.shape),
            "step": self.step,
            "seconds": self.seconds,
            "slower": self._slower,
            "scaler": self._scaler.state_dict(),
        }
        return tensors, state

    def unpack(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take over what `pack` gave.

        Raises
        ------
        CheckpointError
            It is that of another net.
        """
        try:
            self.raw.load_state_dict(_below("net", tensors))
            constants = {f"module.{name}": value for name, value in self.raw.constants().items()}
            self._average.load_state_dict({**_below("averaged", tensors), **constants})
            unpack_optimizer("optimizer", self._optimizer, tensors)
            known = _below("game", tensors)
            if self.game is not None and self._critic_optimizer is not None and known:
                self.game.load_state_dict(known)
                unpack_optimizer("critics", self._critic_optimizer, tensors)
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
            self._slower = float(state["slower"])
            if state["scaler"]:
                self._scaler.load_state_dict(dict(state["scaler"]))
        except (KeyError, RuntimeError, TypeError, ValueError) as exc:
            reason = str(exc).splitlines()[0]
            raise CheckpointError(f"the checkpoint belongs to another net: {reason}") from exc

    def keep_snapshot(self) -> None:
        """Keep a copy of the state, on the device."""
        tensors, state = self.pack()
        self._snapshot = {name: value.detach().clone() for name, value in tensors.items()}, state

    def back_to_snapshot(self) -> int:
        """Take over the copy again, but for the count of steps: what comes next are other faces. At half the rate.

        Returns
        -------
        int
            The step that the copy is of.
        """
        assert self._snapshot is not None
        step, seconds = self.step, self.seconds
        self.unpack(*self._snapshot)
        back, self.step, self.seconds = self.step, step, seconds
        self._slower *= _SLOWER
        self._snapshot[1]["slower"] = self._slower
        return back


def _share(values: Mapping[str, Tensor], net: nn.Module) -> None:
    """Give a net the very buffers of another, by their names in the state."""
    for name, value in values.items():
        place, _, last = name.rpartition(".")
        setattr(net.get_submodule(place), last, value)


def _below(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
