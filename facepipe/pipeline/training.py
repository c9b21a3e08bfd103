"""Stage train: one net for all clips."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from facepipe import weights
from facepipe.backends.embedders import InceptionResnetV1
from facepipe.config import Config
from facepipe.errors import UsageError
from facepipe.methods.faceset import FaceSet, find_twins
from facepipe.pipeline.context import Context, choose_device
from facepipe.pipeline.faces import FaceStages
from facepipe.pipeline.outcome import Outcome, Result
from facepipe.types import OTHER, SIDES, Side

if TYPE_CHECKING:  # needs torch
    from facepipe.methods.gan import Generator

__all__ = ["Training", "assist"]


class Training:
    """Trains the swap net of a run folder, and loads it."""

    def __init__(self, context: Context, faces: FaceStages) -> None:
        self._context = context
        self._config = context.config
        self._workspace = context.workspace
        self._faces = faces

    def _train_key(self) -> str:
        return self._context.key(
            "train",
            align={
                side: [self._context.keys["align", side, clip.name] for clip in self._context.alive("align", side)]
                for side in SIDES
            },
            settings=self._config.train.model_dump(mode="json"),
            people=[str(self._config.swap.source_person), str(self._config.swap.target_person)],
            seed=self._config.seed,
            **self._faces.rules(),
        )

    def train(self) -> None:
        """Train the swap net, or go on; what it makes is the folder ``model``."""
        from facepipe.stages.train import run_training
        from facepipe.training.setup import prepare, shape_of
        from facepipe.training.team import Team

        start = time.perf_counter()
        key, folder = self._train_key(), self._workspace.root / "model"
        marker = folder / "train.json"
        done, steps = self._workspace.is_done(marker, key), 0
        if not done and self._workspace.shard is not None:
            raise UsageError("a shard does not train: first call `facepipe train` without --shard")
        team = Team.join(self._context.device)
        if not done:
            sets = {side: self._faces.faceset(side) for side in SIDES}
            shape = shape_of(self._config.train, self._context.device)
            prepare(folder, sets, self._config.align, self._config.train, shape)
            marker.unlink(missing_ok=True)
        team.agree(float(done))
        if not done:
            self._context.free_threads()
            report = run_training(
                folder, self._config, team, _judge(self._config, self._identity_net), self._context.progress
            )
            self._context.fix_threads()
            self._context.result.warnings += report.notes
            self._refine_generator(folder, sets)
            state = {"steps": report.step, "scores": report.scores}
            self._workspace.mark_done(marker, key, ["generator.safetensors", "generator.json"], **state)
            steps = max(1, report.step)
        self._context.keys["train", "target", "model"] = key
        seconds = time.perf_counter() - start
        outcome = Outcome("train", "target", "model", "kept" if done else "done", "", steps, seconds)
        self._context.result.outcomes.append(outcome)

    def _identity_net(self) -> InceptionResnetV1:
        net = self._context.models.embedder
        return (
            net
            if isinstance(net, InceptionResnetV1)
            else InceptionResnetV1(weights.path("irv1"), device=self._context.device)
        )

    def _refine_generator(self, folder: Path, sets: dict[Side, FaceSet]) -> None:
        """Give the best net the detail of a finer size."""
        from facepipe.methods.gan import Generator, fit_fine, write_fine

        generator = Generator.load(folder / "generator", self._context.device)
        if not generator.net.shape.linear:
            return
        size = generator.size
        twins = {side: find_twins(sets[side], sets[OTHER[side]], generator.view, size) for side in SIDES}
        write_fine(folder / "generator", generator, {side: fit_fine(generator, sets, twins, side) for side in SIDES})

    @cached_property
    def generator(self) -> Generator:
        """The trained net."""
        from facepipe.methods.gan import Generator

        path = self._workspace.root / "model" / "generator"
        generator = Generator.load(path, self._context.device)
        generator.check(self._config.align, path)
        return generator


def assist(config: Config) -> Result:
    """What all but the first of several processes do: train, once the first has prepared the run folder."""
    from facepipe.stages.train import run_training
    from facepipe.training.team import Team

    assert config.out is not None
    device = choose_device(config.device)
    team = Team.join(device)
    if not team.agree(0.0):

        def embedder() -> InceptionResnetV1:
            return InceptionResnetV1(weights.path("irv1"), device=str(team.device))

        run_training(config.out / "model", config, team, _judge(config, embedder), lambda *_: None)
    return Result(config.out)


def _judge(config: Config, net: Callable[[], InceptionResnetV1]) -> Callable[[], InceptionResnetV1] | None:
    """What loads the identity net of a training; none where neither the loss nor anything else has one."""
    return net if config.train.loss.identity or config.detect.embedder != "none" else None
