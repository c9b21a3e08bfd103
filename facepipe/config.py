"""Every setting of the pipeline, in one model; unknown keys are refused.

A TOML file, ``--set section.key=value`` on the command line and keyword arguments in Python all end here.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from facepipe.errors import ConfigError

__all__ = [
    "AlignConfig",
    "Config",
    "DetectConfig",
    "LedgerEntry",
    "LimitsConfig",
    "ScoreConfig",
    "SwapConfig",
    "build",
    "load",
    "to_toml",
]


class _Section(BaseModel):
    """A group of settings: immutable, no unknown keys, every field documented."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class LimitsConfig(_Section):
    """What is refused before it costs memory, and what gets a flag instead of trust."""

    max_pixels: Annotated[int, Field(ge=1)] = 64_000_000
    """Largest frame, height times width, in pixels."""
    max_frames: Annotated[int, Field(ge=1)] | None = None
    """Longest clip in frames; none by default."""
    max_yaw: Annotated[float, Field(gt=0, le=90)] = 50.0
    """Degrees to the side beyond which a face is flagged as profile."""
    min_eye_distance: Annotated[float, Field(ge=0)] = 12.0
    """Pixels between the eyes below which a face is flagged as small."""
    min_sharpness: Annotated[float, Field(ge=0)] = 2.0
    """Standard deviation of the Laplacian in the crop (grey levels) below which a face is flagged as blurred."""
    max_misfit: Annotated[float, Field(gt=0)] = 8.0
    """Residual of the five points to the ArcFace template, in pixels of 112, above which a fit is flagged."""


class DetectConfig(_Section):
    """Finding faces: boxes, landmarks, embeddings."""

    detector: Literal["yunet", "mtcnn", "sfd"] = "yunet"
    """Which detector finds the boxes."""
    landmarker: Literal["facemesh", "dlib68", "fan"] = "facemesh"
    """Which model gives the landmarks."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.6
    """Least confidence of the detector."""
    max_side: Annotated[int, Field(ge=64)] = 640
    """Longest side of the picture that the detector sees."""
    stride: Annotated[int, Field(ge=1, le=250)] = 5
    """The detector looks at every n-th frame, and at each one where a track is in doubt; 1 is every frame."""
    embedder: Literal["irv1", "sface", "none"] = "irv1"
    """Identity net whose embeddings stand in faces.parquet."""


class AlignConfig(_Section):
    """Aligned crops."""

    template: Literal["ibug68", "arcface5", "ffhq"] = "ibug68"
    """Canonical landmarks that a face is fitted to by a similarity transform (Umeyama 1991)."""
    size: Annotated[int, Field(ge=32, le=2048)] = 384
    """Side of the crop in pixels."""
    margin: Annotated[float, Field(ge=-0.4, le=2)] = 0.15
    """Room added on every side of the template, as a fraction of its side."""


class SwapConfig(_Section):
    """The swap, and the composite that puts it back into the frame."""

    method: Literal["procrustes"] = "procrustes"
    """procrustes: the source face nearest in pose and expression, warped; needs no training."""
    source_person: Path | None = None
    """A picture of the source person; by default the person with most frames."""
    target_person: Path | None = None
    """A picture of the person to be replaced; by default the person with most frames."""
    person_similarity: Annotated[float, Field(gt=-1, lt=1)] = 0.4
    """Cosine similarity (irv1) above which two faces count as one person."""
    refine: Literal["piecewise", "none"] = "piecewise"
    """piecewise moves every landmark onto the target's by triangles; none stops after the similarity transform."""
    shape: Annotated[float, Field(ge=0, le=1)] = 1.0
    """How much of the source's own facial proportions is kept: 0 warps it fully onto the target's landmarks."""
    steadiness: Annotated[float, Field(ge=0)] = 1.0
    """How strongly the choice of the source frame resists a change from frame to frame."""
    crossfade: Annotated[int, Field(ge=0, le=25)] = 2
    """Frames before and after a change of the source frame over which the old fades into the new."""
    color: Literal["covariance", "reinhard", "histogram", "none"] = "covariance"
    """Colour transfer from the target's face to the swapped one."""
    blend: Literal["multiband", "feather"] = "multiband"
    """How the swapped face meets the frame."""
    feather: Annotated[float, Field(ge=0, le=0.5)] = 0.08
    """Width of the mask's soft edge, as a fraction of the face's width."""
    skip: tuple[Literal["profile", "blurred", "cut_off", "misfit", "small"], ...] = ("profile", "misfit")
    """Faces with one of these flags are not swapped; the frame stays untouched and is counted as skipped."""
    codec: Literal["h264", "lossless"] = "h264"
    """h264 plays everywhere; lossless (H.264 RGB, crf 0) keeps every composited value."""
    crf: Annotated[int, Field(ge=0, le=51)] = 16
    """Quality of h264: 0 best, 51 worst."""
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"] = (
        "veryfast"
    )
    """Effort of x264: slower makes smaller files of the same quality."""


class ScoreConfig(_Section):
    """What is measured."""

    nets: tuple[Literal["irv1", "sface"], ...] = ("irv1", "sface")
    """Identity nets; the procedure asks for two, one of which took no part in making the swap."""
    reconstruct_frames: Annotated[int, Field(ge=0)] = 24
    """Frames a clip, evenly spaced, on which the same-identity swap is measured; 0 leaves it out."""
    reconstruct_gap: Annotated[float, Field(ge=0)] = 0.5
    """Seconds around a frame that may not be its own source in the same-identity swap."""


class LedgerEntry(_Section):
    """Where faces come from and who agreed to what."""

    person: str = ""
    """Who is seen."""
    origin: str = ""
    """Where the pictures come from."""
    licence: str = ""
    """Under which licence."""
    consent: str = ""
    """Reference of the consent."""


class Config(_Section):
    """A whole run."""

    source: Path | None = None
    """Folder of clips (or one clip) that give the identity."""
    target: Path | None = None
    """Folder of clips (or one clip) whose faces are replaced."""
    out: Path | None = None
    """The run folder."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    seed: int = 0
    """Seed of everything random."""
    limits: LimitsConfig = LimitsConfig()
    detect: DetectConfig = DetectConfig()
    align: AlignConfig = AlignConfig()
    swap: SwapConfig = SwapConfig()
    score: ScoreConfig = ScoreConfig()
    ledger: dict[Literal["source", "target"], LedgerEntry] = Field(default_factory=dict)


def build(data: Mapping[str, Any], overrides: Iterable[str] = (), *, origin: str = "config") -> Config:
    """A `Config` of a nested mapping and ``section.key=value`` overrides.

    Raises
    ------
    ConfigError
        A key is unknown or a value is wrong; the message names the key, and the nearest one that exists.
    """
    merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in data.items()}
    for override in overrides:
        dotted, sign, text = override.partition("=")
        *sections, key = dotted.strip().split(".")
        if not sign or not key:
            raise ConfigError(f"--set {override}: expected section.key=value, e.g. swap.color=reinhard")
        node = merged
        for section in sections:
            node = node.setdefault(section, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--set {override}: {section!r} is a value, not a section")
        node[key] = _parse(text.strip())
    try:
        return Config.model_validate(merged)
    except ValidationError as exc:
        raise ConfigError(_explain(exc, origin)) from exc


def load(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a TOML file; see `build`."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: not a TOML file: {exc}") from exc
    return build(data, overrides, origin=str(path))


def to_toml(config: Config) -> str:
    """The resolved configuration as TOML that `load` reads back to an equal one."""
    return "\n".join(_table(config.model_dump(mode="json", exclude_none=True), ())) + "\n"


def _table(data: dict[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"{key} = {_value(value)}" for key, value in data.items() if not isinstance(value, dict)]
    for key, value in data.items():
        if isinstance(value, dict) and value:
            name = (*path, key)
            lines += ["", f"[{'.'.join(name)}]", *_table(value, name)]
    return lines


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # Basic strings of TOML: the escapes of JSON, except that DEL is escaped as well.
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return repr(value)


def _parse(text: str) -> Any:
    """A TOML value, or the text itself when it is not one (so that strings need no quotes)."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _explain(exc: ValidationError, origin: str) -> str:
    """The first of pydantic's complaints as one line."""
    error = exc.errors()[0]
    dotted = ".".join(str(part) for part in error["loc"])
    more = f" (and {exc.error_count() - 1} more)" if exc.error_count() > 1 else ""
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(dotted, _known_keys(Config), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{origin}: unknown key {dotted!r}{hint}{more}"
    return f"{origin}: {dotted} = {error['input']!r}: {error['msg']}{more}"


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys
