"""What is kept of a training while it goes on: losses, validations, checkpoints, pictures, events for TensorBoard."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facepipe.training import checkpoint
from facepipe.training.game import Game
from facepipe.training.state import Trainee
from facepipe.training.team import Team
from facepipe.training.validation import Validator
from facepipe.video import write_image
from facepipe.workspace import atomic_path, read_json, write_json

__all__ = ["Diary", "Report"]

_MEMORY = 0.9  # of the running means of the losses, from look to look


@dataclass(frozen=True)
class Report:
    """How a training stands.

    Attributes
    ----------
    step : int
        Steps done.
    share : float
        Of the whole training, from 0 to 1.
    images_per_second : float
        Faces trained on, of both persons and by all processes, since this process began; validation not counted.
    losses : dict of str to float
        Running means of the terms, not weighted.
    scores : dict of str to float
        Of the last validation; see `Validator`.
    notes : tuple of str
        What went wrong and was mended.
    """

    step: int
    share: float
    images_per_second: float
    losses: dict[str, float]
    scores: dict[str, float]
    notes: tuple[str, ...] = ()


class Diary:
    """Keeps the books of one training.

    Parameters
    ----------
    folder : Path
        ``step-*.safetensors`` and ``.json``: the newest checkpoints; ``generator.*``: the best averaged net so far;
        ``history.json``: all validations; ``previews/``; ``events/`` for TensorBoard.
    step : int
        Where the training stands; what a killed process wrote beyond it is forgotten.
    validator : Validator
        Measures.
    team : Team
        Only its first process writes.
    facts : mapping
        What a checkpoint shall say besides the trainee's state: what the net's pictures are.
    """

    def __init__(self, folder: Path, step: int, validator: Validator, team: Team, facts: Mapping[str, Any]) -> None:
        self._folder = folder
        self._validator = validator
        self._team = team
        self._facts = facts
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._means: dict[str, float] = {}
        self._notes: list[str] = []
        self.history = _history(folder / "history.json", step)
        self._events: Any = None
        if team.leads:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(folder / "events", purge_step=step + 1)
        self._first, self._away, self._begin = step, 0.0, time.perf_counter()  # the set-up is no training

    # Losses

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Count in the terms of a step; the device is not waited for."""
        for name, term in terms.items():
            value = term.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def look(self) -> bool:
        """Read the terms since the last look, means over all processes; whether all were finite."""
        names = sorted(self._sums)
        values = torch.stack([self._sums[name] / self._counts[name] for name in names])
        self._team.average([values])
        found = dict(zip(names, values.tolist(), strict=True))
        self._sums, self._counts = {}, {}
        if not all(math.isfinite(value) for value in found.values()):
            return False
        for name, value in found.items():
            self._means[name] = _MEMORY * self._means.get(name, value) + (1 - _MEMORY) * value
        return True

    def note(self, text: str) -> None:
        """Keep something that a person should know."""
        self._notes.append(text)

    def warn_of_collapse(self, game: Game | None, step: int) -> None:
        """Note when a discriminator has won: the generator learns nothing from it."""
        for side in () if game is None else game.won:
            text = f"the discriminator of the {side} tells nearly all faces right"
            if not any(text in note for note in self._notes):
                self.note(f"step {step}: {text}; lower train.loss.gan or train.discriminator_width")

    def report(self, trainee: Trainee, share: float, batch: int) -> Report:
        """How it stands."""
        seconds = time.perf_counter() - self._begin - self._away
        speed = 2 * batch * (trainee.step - self._first) / max(seconds, 1e-9)
        scores = self.history[-1] if self.history else {}
        return Report(trainee.step, share, speed, dict(self._means), dict(scores), tuple(self._notes))

    # Validations

    def validate(self, trainee: Trainee, keep: int) -> None:
        """Measure the averaged net on held-out faces; save a checkpoint, and the net when it is the best so far."""
        begin = time.perf_counter()
        scores = self._validator(trainee.averaged) if self._team.leads else {}
        quality = self._team.agree(scores.get("quality", 0.0))
        best = max((row["quality"] for row in self.history), default=-math.inf)
        row = {"step": trainee.step, "seconds": round(trainee.seconds, 3), **scores, "quality": quality}
        self.history.append(row)
        if self._team.leads:
            if quality > best:
                self._save_generator(trainee, row)
            self.save(trainee, keep)
            self._write_events(trainee)
        self._away += time.perf_counter() - begin

    def stale(self, patience: int) -> bool:
        """Whether the last `patience` validations brought nothing better."""
        if not patience or len(self.history) <= patience:
            return False
        qualities = [row["quality"] for row in self.history]
        return max(qualities[-patience:]) <= max(qualities[:-patience])

    def save(self, trainee: Trainee, keep: int) -> None:
        """Write a checkpoint, then delete all but the newest `keep`."""
        if not self._team.leads:
            return
        tensors, state = trainee.pack()
        write_json(self._folder / "history.json", self.history)
        checkpoint.save(checkpoint.step_path(self._folder, trainee.step), tensors, {**state, **self._facts})
        checkpoint.prune(self._folder, keep)

    def _save_generator(self, trainee: Trainee, scores: Mapping[str, float]) -> None:
        _, state = trainee.pack()
        facts = {"architecture": state["architecture"], "step": trainee.step, "scores": dict(scores), **self._facts}
        checkpoint.save(self._folder / "generator", trainee.averaged.state_dict(), facts)

    def _write_events(self, trainee: Trainee) -> None:
        step = trainee.step
        for name, value in self._means.items():
            self._events.add_scalar(f"loss/{name}", value, step)
        for name, value in self.history[-1].items():
            if name not in ("step", "seconds"):
                self._events.add_scalar(f"held-out/{name}", value, step)
        picture = self._validator.preview(trainee.averaged)
        self._events.add_image("held-out", picture, step, dataformats="HWC")
        self._events.flush()
        with atomic_path(self._folder / "previews" / f"step-{step:09d}.png") as part:
            png = part.with_suffix(".png")
            write_image(png, picture)
            png.replace(part)

    def close(self) -> None:
        """End the events, take the monitor off the net."""
        self._validator.close()
        if self._events is not None:
            self._events.close()


def _history(path: Path, step: int) -> list[dict[str, float]]:
    """The validations up to a step; nothing where the file is not what this module wrote."""
    known = read_json(path)
    try:
        return [row for row in known or [] if row["step"] <= step]
    except (TypeError, KeyError, IndexError):
        return []
