"""Stage *train*: the loop, in order, on one page; what it calls is in `facepipe.training`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from facepipe.backends.embedders import InceptionResnetV1
from facepipe.config import Config, TrainConfig
from facepipe.errors import TrainingError, UsageError
from facepipe.networks.summary import Summary, summary
from facepipe.training.data import Loader
from facepipe.training.diary import Diary, Report
from facepipe.training.objective import IdentityLoss, objective, total
from facepipe.training.schedule import Clock, augmentation_strength, learning_rate
from facepipe.training.setup import Setup
from facepipe.training.state import Trainee
from facepipe.training.team import Team
from facepipe.training.validation import Validator, component_psnr, describe
from facepipe.types import SIDES

__all__ = ["interrupted", "run_training", "train_net"]

_LOOK = 10  # steps between two looks at the losses: each look waits for the device
_SNAPSHOT = 100  # steps between two copies of the state that a diverged training goes back to
_YARDSTICKS = (32, 128)  # components that held-out faces are rebuilt from, to compare with
_SETBACKS = 5  # times that it does, at half the learning rate each


def run_training(
    folder: Path,
    config: Config,
    team: Team,
    embedder: Callable[[], InceptionResnetV1] | None,
    progress: Callable[[str, str, int, int | None], None],
) -> Report:
    """Train what `facepipe.training.setup.prepare` wrote, from the newest checkpoint on; every process calls this.

    Parameters
    ----------
    folder : Path
        Of the training.
    config : Config
        `train` and `seed` are used.
    team : Team
        The processes that train together.
    embedder : callable, optional
        Loads the identity net; without it similarities are neither trained nor measured.
    progress : callable
        See `facepipe.pipeline.Progress`.
    """
    if team.size > 1 and config.train.minutes is not None:
        raise UsageError("train.minutes: the clocks of several processes differ; give train.steps")
    for name in ("batch", "swap_batch"):
        if getattr(config.train, name) % team.size:
            raise UsageError(f"train.{name}: expected a multiple of the {team.size} processes")
    start = Setup.read(folder, config, team, embedder)
    if team.leads:
        for count in _YARDSTICKS:
            psnr = component_psnr(start.loader, count)
            getattr(progress, "describe", _quiet)(
                f"{count} principal components: held-out PSNR {psnr['source']:.2f} / {psnr['target']:.2f} dB"
            )
    watch = _Watch(progress, config.train, summary(start.trainee.raw, start.loader.size))
    with interrupted(hear=team.size == 1) as asked:
        report = train_net(
            start.trainee,
            start.loader,
            start.identity,
            config.train,
            team,
            folder,
            facts=start.facts,
            watch=watch,
            notes=start.notes,
            stop=lambda _: asked.is_set(),
        )
    if asked.is_set():
        raise KeyboardInterrupt
    return report


@contextmanager
def interrupted(*, hear: bool = True) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets, so that the step can be finished and saved; the second is as ever."""
    asked, usual = threading.Event(), signal.getsignal(signal.SIGINT)
    heard = hear and threading.current_thread() is threading.main_thread()
    if not heard or usual in (None, signal.SIG_IGN):  # whoever starts a process in the background may want none
        yield asked
        return

    def hold(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, hold)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, usual)


def _quiet(_: object) -> None:
    pass


def _never(_: int) -> bool:
    return False


class _Watch:
    """Tells a pipeline's progress of a training."""

    def __init__(
        self, progress: Callable[[str, str, int, int | None], None], config: TrainConfig, size: Summary
    ) -> None:
        self._progress = progress
        self._describe = getattr(progress, "describe", _quiet)
        self._config = config
        self._begin: tuple[float, float] | None = None
        self._told = -1.0
        self._describe(str(size))

    def __call__(self, report: Report) -> None:
        now = time.perf_counter()
        self._begin = self._begin or (now, report.share)
        steps = round(report.step / max(report.share, 1e-6)) if self._config.minutes else self._config.steps
        done = report.share >= 1
        self._progress("train", "model", report.step, report.step if done else max(steps, report.step + 1))
        passed = report.share - self._begin[1]
        left = (now - self._begin[0]) / passed * (1 - report.share) if passed > 0 else float("nan")
        losses = " ".join(f"{name} {value:.4f}" for name, value in report.losses.items())
        text = f"{report.images_per_second:.0f} images/s, {left / 60:.1f} min left, {losses}"
        if report.scores.get("step", -1) != self._told and report.scores:
            self._told = report.scores["step"]
            self._describe(f"step {report.step}: {describe(report.scores)}; {text}")


def train_net(
    trainee: Trainee,
    loader: Loader,
    identity: IdentityLoss | None,
    config: TrainConfig,
    team: Team,
    folder: Path,
    *,
    facts: Mapping[str, Any],
    watch: Callable[[Report], None] = _quiet,
    notes: Iterable[str] = (),
    stop: Callable[[int], bool] = _never,
) -> Report:
    """Train until the steps or minutes are done, or nothing gets better.

    Parameters
    ----------
    trainee : Trainee
        Nets, optimisers and all else that a checkpoint holds; trained in place.
    loader : Loader
        Makes the batches.
    identity : IdentityLoss, optional
        For the identity loss and for validation.
    config : TrainConfig
        Settings.
    team : Team
        The processes that train together.
    folder : Path
        For checkpoints, previews and TensorBoard's events.
    facts : mapping
        What checkpoints shall say of the net's pictures.
    watch : callable
        Hears of the training every few steps and after each validation.
    notes : iterable of str
        What a person should know already.
    stop : callable
        Asked after each step whether to end here, as if killed; the state is saved first.

    Raises
    ------
    TrainingError
        Losses were not finite again and again.
    """
    weights, schedule, clock = config.loss, config.schedule, Clock(config, trainee.seconds)
    validator = Validator(loader, identity)
    diary = Diary(folder, trainee.step, validator, team, facts)
    for text in notes:
        diary.note(text)
    share, setbacks = clock.share(trainee.step), 0
    trainee.keep_snapshot()
    with loader.batches(trainee.step) as taken:
        while share < 1 and not diary.stale(config.patience):
            # What this step sees, and how fast it learns from it
            batch = loader.make(next(taken), augmentation_strength(schedule, share))
            trainee.set_rates(learning_rate(schedule, trainee.step, share))
            with trainee.autocast():
                seen, hints = (
                    {side: getattr(batch.pairs[side], name) for side in SIDES} for name in ("input", "hints")
                )
                rebuilt, swaps = trainee.net(seen, batch.swapped, hints)
            # Discriminators, on what was drawn
            game = trainee.game if batch.swapped and share >= schedule.gan_from else None
            if game is not None:
                trainee.step_critics(batch, rebuilt, swaps, team)
            # Generator: rebuilt faces, swapped faces
            judge = identity if weights.identity and share >= schedule.identity_from else None
            with trainee.autocast():
                terms = objective(rebuilt, swaps, batch, weights, judge, game)
            trainee.step_generator(total(terms, weights), team)
            trainee.seconds, share = clock.seconds, clock.share(trainee.step)
            diary.add(terms)
            # Every few steps: are losses finite, what do people see
            if trainee.step % _LOOK == 0 and not diary.look():
                setbacks += 1
                if setbacks > _SETBACKS:
                    raise TrainingError(
                        f"{folder}: losses were not finite {setbacks} times; lower train.learning_rate"
                    )
                diary.note(f"step {trainee.step}: losses not finite; back to those of {trainee.back_to_snapshot()}")
            elif trainee.step % _SNAPSHOT == 0:
                trainee.keep_snapshot()
                diary.warn_of_collapse(game, trainee.step)
            # Every many: measure, save
            if trainee.step % config.validate_every == 0 or share >= 1:
                diary.validate(trainee, config.keep)
            if trainee.step % _LOOK == 0 or share >= 1:
                watch(diary.report(trainee, share, config.batch))
            if stop(trainee.step):
                diary.save(trainee, config.keep)
                break
    diary.close()
    return diary.report(trainee, share, config.batch)
