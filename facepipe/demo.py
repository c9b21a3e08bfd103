"""The demo: two small real clips, each person swapped into the other's clip, by several methods, all scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from facepipe import pipeline, weights
from facepipe.compare import compare_runs, write_comparison
from facepipe.viewer import preview

__all__ = ["CLIPS", "Method", "run_demo"]

Method = Literal["procrustes", "eigenface", "gan"]

_BESIDE: Mapping[Method, tuple[Method, ...]] = {
    "procrustes": (),
    "eigenface": ("eigenface",),
    "gan": ("eigenface", "gan"),
}

CLIPS = ("single_face.mp4", "WolfgangLanger_Pexels.mp4")


def run_demo(
    out: Path,
    *,
    method: Method = "gan",
    minutes: float = 3.0,
    progress: pipeline.Progress | None = None,
) -> tuple[list[pipeline.Result], list[Path]]:
    """Swap each of `CLIPS` onto the other without training, and the first onto the second with a trained net too.

    Parameters
    ----------
    out : Path
        Gets a run folder for each direction and method.
    method : {"gan", "eigenface", "procrustes"}
        ``procrustes`` leaves out all else; ``eigenface`` and ``gan`` are made beside it.
    minutes : float
        Of training, for ``gan``.
    progress : callable, optional
        See `facepipe.pipeline.Progress`.

    Returns
    -------
    results : list of Result
        One a run.
    pictures : list of Path
        A contact sheet and a swapped video for each; the comparison of the methods; the last report.

    Raises
    ------
    WeightsMissingError
        Weights or clips are not in the cache and could not be fetched.
    """
    weights.pull_all([*weights.default_names(), *CLIPS])
    runs: list[tuple[str, str, Method]] = [(*CLIPS, "procrustes"), (*CLIPS[::-1], "procrustes")]
    runs += [(*CLIPS, other) for other in _BESIDE[method]]
    results, pictures = [], []
    for source, target, how in runs:
        name = f"{Path(source).stem}-onto-{Path(target).stem}" + ("" if how == "procrustes" else f"-{how}")
        result = pipeline.run(
            source=weights.clip(source),
            target=weights.clip(target),
            out=out / name,
            swap={"method": how},
            train={"minutes": minutes, "validate_every": 200},
            progress=progress,
        )
        results.append(result)
        swapped = out / name / "swapped" / f"{Path(target).stem}.mp4"
        sheet = out / f"{name}.png"
        preview(out / name, out=sheet)
        pictures += [sheet, swapped]
    one_way = [result.out for result, (source, *_) in zip(results, runs, strict=True) if source == CLIPS[0]]
    if len(one_way) > 1 and not any(result.failed for result in results):
        pictures.append(write_comparison(compare_runs(one_way), out / "comparison.html", progress=progress))
    if (report := results[-1].report) is not None:
        pictures.append(report)
    return results, pictures
