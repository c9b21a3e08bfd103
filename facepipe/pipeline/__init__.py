"""The stages wired together: what the command line, the Python functions and the scripts all call.

A call of a stage brings up to date whatever it needs and no more: ``swap`` detects and aligns first where that has
not been done with the same inputs and settings. One bad clip does not stop the others; it is an `Outcome` with a
reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from facepipe import evaluation
from facepipe.config import Config, build, load
from facepipe.errors import UsageError
from facepipe.pipeline.context import choose_device, library_versions
from facepipe.pipeline.films import cut_films
from facepipe.pipeline.outcome import Outcome, Progress, Result, Stage
from facepipe.pipeline.running import Run
from facepipe.pipeline.swapping import read_swapped
from facepipe.pipeline.training import assist
from facepipe.provenance import require_consent
from facepipe.report import write_report
from facepipe.types import SIDES, Side
from facepipe.video import Clip, find_clips
from facepipe.workspace import Workspace

__all__ = [
    "Outcome",
    "Progress",
    "Result",
    "align",
    "choose_device",
    "detect",
    "library_versions",
    "read_swapped",
    "resolve",
    "run",
    "score",
    "swap",
    "train",
]


def resolve(
    config: Config | Mapping[str, Any] | Path | str | None = None,
    overrides: Iterable[str] = (),
    **settings: Any,
) -> Config:
    """One `Config` of a file, a mapping or a config, ``section.key=value`` overrides, and top-level keywords.

    Without source and target the run folder's own ``config.toml`` is the base, so that a stage can be called with
    nothing but ``out``.
    """
    settings = {key: value for key, value in settings.items() if value is not None}
    if isinstance(config, str | Path):
        base = load(Path(config)).model_dump(mode="json", exclude_unset=True)
    elif isinstance(config, Config):
        base = config.model_dump(mode="json", exclude_unset=True)
    else:
        base = dict(config or {})
    given = _over(base, settings)
    merged = build(given, overrides)
    if merged.out is None:
        raise UsageError("no run folder: give --out RUN (in Python: out=...)")
    if merged.source is None and merged.target is None and (merged.out / "config.toml").is_file():
        known = load(merged.out / "config.toml").model_dump(mode="json", exclude_none=True)
        merged = build(_over(known, given), overrides)
    if merged.source is None or merged.target is None:
        missing = "source" if merged.source is None else "target"
        raise UsageError(f"no {missing} videos: give --{missing} FOLDER (in Python: {missing}=...)")
    return merged


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings laid over others, section by section."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _over(merged[key], value) if both else value
    return merged


def run(config: Any = None, *, progress: Progress | None = None, **settings: Any) -> Result:
    """Everything: detect, align, swap, score, report.

    Parameters
    ----------
    config : Config, mapping, path of a TOML file, or None
        Settings; see `facepipe.config.Config`.
    progress : callable, optional
        See `Progress`.
    **settings
        Top-level settings such as ``source``, ``target`` and ``out``, and whole sections as mappings.

    Returns
    -------
    Result
        `Result.failed` names the clips that failed; the others are done.

    Raises
    ------
    UsageError, ConfigError
        The call is wrong: a missing folder, an unknown key.
    WeightsMissingError
        A net's weights are not on this machine.
    RunFolderError
        The run folder belongs to another version, or to another process right now.
    NoFaceError
        There is no usable source face at all.
    """
    result = _call("score", config, progress, settings)
    result.report = write_report(result.out, progress=progress)
    return result


def detect(config: Any = None, *, progress: Progress | None = None, **settings: Any) -> Result:
    """Find the faces of all source and target clips: ``faces.parquet``. Parameters as `run`."""
    return _call("detect", config, progress, settings)


def align(config: Any = None, *, progress: Progress | None = None, **settings: Any) -> Result:
    """Cut aligned crops of all faces: ``crops.npy``. Parameters as `run`."""
    return _call("align", config, progress, settings)


def train(config: Any = None, *, progress: Progress | None = None, **settings: Any) -> Result:
    """Train the net of the swap method ``gan`` on both people: ``model/generator.safetensors``. Parameters as `run`.

    Goes on from the newest checkpoint of the run folder, if there is one. Its progress counts steps; where `progress`
    has a method ``describe(text)``, that is told losses, speed, the time left and held-out scores.
    """
    return _call("train", config, progress, settings)


def swap(config: Any = None, *, progress: Progress | None = None, **settings: Any) -> Result:
    """Swap the source person into every target clip: ``swapped/<clip>.mp4``. Parameters as `run`."""
    return _call("swap", config, progress, settings)


def score(config: Any = None, *, progress: Progress | None = None, **settings: Any) -> Result:
    """Measure the swapped videos: ``scores.json`` and ``scores.parquet``. Parameters as `run`."""
    return _call("score", config, progress, settings)


def _call(stage: Stage, config: Any, progress: Progress | None, settings: Mapping[str, Any]) -> Result:
    resolved = resolve(config, **settings)
    assert resolved.source is not None
    assert resolved.target is not None
    assert resolved.out is not None
    for picture in (resolved.swap.source_person, resolved.swap.target_person):
        if picture is not None and not picture.is_file():
            raise UsageError(f"{picture}: no such file; give a picture of the person")
    if stage == "score":
        evaluation.choose_protocol(resolved.score.protocol)  # before anything is done that it would refuse to measure
    require_consent(resolved)
    if resolved.train.view == "crop" and resolved.align.size == "auto" and resolved.swap.method == "gan":
        raise UsageError("train.view=crop: all crops have to be of one size; set it, e.g. align.size=384")
    clips: dict[Side, list[Clip]] = {
        "source": find_clips(resolved.source),
        "target": find_clips(resolved.target),
    }
    if stage == "train":
        from facepipe.training.team import processes

        if processes()[0] > 0:
            return assist(resolved)
    part = resolved.engine.part
    if part is not None:
        if stage in ("train", "score"):
            raise UsageError(
                "a shard does detect, align or swap; one call without --shard afterwards trains, or scores the run"
            )
        # What is trained depends on all clips: a shard of its swaps has to look at all of them.
        if not (stage == "swap" and resolved.swap.method == "gan"):
            clips["target"] = clips["target"][part[0] :: part[1]]
    told = progress or (lambda *_: None)
    with Workspace(resolved.out, shard=resolved.engine.shard) as workspace:
        parts: dict[Side, list[Clip]] = {
            side: cut_films(clips[side], side, resolved, workspace, told) for side in SIDES
        }
        return Run(resolved, workspace, parts, told).up_to(stage)
