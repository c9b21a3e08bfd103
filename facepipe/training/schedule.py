"""When things happen in a training: every function is of the share that is done, from 0 to 1."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from facepipe.config import ScheduleConfig, TrainConfig

__all__ = ["Clock", "augmentation_strength", "learning_rate"]


@dataclass
class Clock:
    """How much of the training is done: by steps, or by time where `minutes` sets a limit.

    Attributes
    ----------
    config : TrainConfig
        `steps` and `minutes` are used.
    before : float
        Seconds that earlier processes spent on this training.
    """

    config: TrainConfig
    before: float = 0.0
    _start: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Seconds spent on this training, by this process and those before it."""
        return self.before + time.perf_counter() - self._start

    def share(self, step: int) -> float:
        """What is done when `step` steps are, from 0 to 1. Without a limit of time it depends on the step alone."""
        by_steps = step / self.config.steps
        by_time = 0.0 if self.config.minutes is None else self.seconds / (60 * self.config.minutes)
        return min(1.0, max(by_steps, by_time))


def learning_rate(schedule: ScheduleConfig, step: int, share: float) -> float:
    """Factor of the learning rate: a linear warm-up, constant until `hold`, then a half cosine down to `floor`.

    Loshchilov, Hutter 2017, eq. (5), arXiv:1608.03983, with one cycle.
    """
    warm = min(1.0, (step + 1) / max(1, schedule.warmup_steps))
    fallen = _between(schedule.hold, 1.0, share)
    return warm * (schedule.floor + (1 - schedule.floor) * (1 + math.cos(math.pi * fallen)) / 2)


def augmentation_strength(schedule: ScheduleConfig, share: float) -> float:
    """1 until `augment_until`, then linearly down to 0 at `augment_off`."""
    return 1 - _between(schedule.augment_until, schedule.augment_off, share)


def _between(low: float, high: float, share: float) -> float:
    """Where `share` lies between the two, from 0 to 1."""
    if high <= low:
        return float(share >= low)
    return min(1.0, max(0.0, (share - low) / (high - low)))
