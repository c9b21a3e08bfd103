"""Every setting of the pipeline, in one model; unknown keys are refused.

A TOML file, ``--set section.key=value`` on the command line and keyword arguments in Python all end here.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from facepipe.errors import ConfigError

__all__ = [
    "AlignConfig",
    "AugmentConfig",
    "Config",
    "CredentialsConfig",
    "DetectConfig",
    "EngineConfig",
    "LedgerConfig",
    "LedgerEntry",
    "LimitsConfig",
    "LossWeights",
    "ProtocolName",
    "ScheduleConfig",
    "ScoreConfig",
    "SelectConfig",
    "SwapConfig",
    "TrainConfig",
    "WeightsEntry",
    "build",
    "load",
    "to_toml",
]


_LONGEST = 200  # characters of a wrong value that an error shows


class _Section(BaseModel):
    """A group of settings: immutable, no unknown keys, every field documented."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


def _no_nul(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("no path has a NUL in it")
    return path


_Path = Annotated[Path, AfterValidator(_no_nul)]


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
    stride: Annotated[int, Field(ge=1, le=250)] = 8
    """The detector looks at every n-th frame, and at each one where a track is in doubt; 1 is every frame."""
    memory: Annotated[int, Field(ge=0, le=10_000)] = 50
    """Frames after which a face that comes back begins a new track, whoever it is; a cut always begins one."""
    fill: Annotated[int, Field(ge=0, le=1_000)] = 8
    """Gaps of a track up to so many frames get interpolated faces, flagged as filled; 0 leaves them."""
    embedder: Literal["irv1", "sface", "none"] = "irv1"
    """Identity net whose embeddings stand in faces.parquet."""
    embed_stride: Annotated[int, Field(ge=1, le=250)] = 10
    """Every n-th frame is embedded, and besides the first faces of a track and those beside others; 1 is every one."""


class AlignConfig(_Section):
    """Aligned crops."""

    template: Literal["ibug68", "ibug51", "ibug33", "arcface5", "ffhq"] = "ibug68"
    """Canonical landmarks that a face is fitted to by a similarity transform."""
    fit: Literal["umeyama", "procrustes", "robust"] = "umeyama"
    """How: by least squares, with both shapes of one size, or so that a few points that are far off count little."""
    size: Annotated[int, Field(ge=32, le=2048)] | Literal["auto"] = "auto"
    """Side of the crop in pixels; ``auto`` is what each clip's faces need to keep their detail, from 128 to 1024."""
    margin: Annotated[float, Field(ge=-0.4, le=2)] = 0.15
    """Room added on every side of the template, as a fraction of its side."""
    smooth: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Smoothing of the landmarks over time: deviation of their noise, as a multiple of the measured one; 0 is off."""


class SwapConfig(_Section):
    """The swap, and the composite that puts it back into the frame."""

    method: Literal["procrustes", "eigenface", "gan"] = "procrustes"
    """procrustes: the source face nearest in pose and expression, warped; needs no training. eigenface: components of
    the source's face, driven by the target's landmarks; seconds. gan: a net trained on both; minutes to hours."""
    source_person: _Path | None = None
    """A picture of the source person; by default the person with most frames."""
    target_person: _Path | None = None
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
    color: Literal["covariance", "reinhard", "histogram", "sliced", "none"] = "covariance"
    """Colour transfer from the target's face to the swapped one; sliced is sliced optimal transport."""
    color_space: Literal["lab", "linear", "rgb"] = "lab"
    """Where colours are transferred: CIE Lab, linear light, or sRGB as stored."""
    blend: Literal["multiband", "feather", "poisson"] = "multiband"
    """How the swapped face meets the frame."""
    grain: bool = True
    """Give the swapped face the blur and the grain of the frame where it is sharper or cleaner."""
    feather: Annotated[float, Field(ge=0, le=0.5)] = 0.04
    """Width of the mask's soft edge, as a fraction of the face's width."""
    forehead: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = "auto"
    """procrustes: how far the swapped face reaches above the brows, in distances from there to the bottom of the nose;
    1 is the hairline of the canon, and the mesh reaches .47 by itself. auto is .65 for landmarks that end at the
    brows, and no more than the mesh has."""
    occlusion: bool = True
    """What is in front of the target's face stays in front, as far as it can be told: a hand, hair, a microphone."""
    mark: Annotated[float, Field(ge=0, le=4)] = 1.0
    """Strength of the invisible mark in the swapped face, by which ``facepipe verify`` knows it without a label.
    0 leaves it out. See docs/labels.md."""
    blend_truth: bool = False
    """Also write what each frame was blended from, for research on detection, to ``RUN/blend/<clip>``: the soft mask
    in 16 bits, the face before it was blended, its matrix and its source frame. See docs/blend-truth.md."""
    skip: tuple[Literal["profile", "blurred", "cut_off", "misfit", "small", "filled"], ...] = ("profile", "misfit")
    """Faces with one of these flags are not swapped; the frame stays untouched and is counted as skipped."""
    codec: Literal["h264", "lossless"] = "h264"
    """h264 plays everywhere; lossless (H.264 RGB, crf 0) keeps every composited value."""
    crf: Annotated[int, Field(ge=0, le=51)] = 16
    """Quality of h264: 0 best, 51 worst."""
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"] = (
        "veryfast"
    )
    """Effort of x264: slower makes smaller files of the same quality."""


Range = tuple[float, float]
"""Least and greatest value, both allowed; ``inf`` and ``-inf`` are no limit."""


class SelectConfig(_Section):
    """Rules for faces: those beyond a range are not learned from and give no source face. None by default.

    Each is ``[least, greatest]``, e.g. ``sharpness = [6, inf]``. How many faces each rule drops is reported. The
    measures are those of ``facepipe faces --sort``, which shows what a range would leave.
    """

    model_config = ConfigDict(allow_inf_nan=True)  # a rule without an end

    yaw: Range | None = None
    """Degrees to the side."""
    pitch: Range | None = None
    """Degrees up or down."""
    sharpness: Range | None = None
    """Standard deviation of the Laplacian in the crop, in grey levels."""
    size: Range | None = None
    """Side of a square of the face box's area, in pixels of the frame."""
    similarity: Range | None = None
    """Cosine to the mean embedding of the person (`detect.embedder`)."""
    light: Range | None = None
    """Mean grey level of the crop's inner half, 0 to 255."""
    confidence: Range | None = None
    """The detector's confidence, 0 to 1."""
    swap: bool = False
    """Also leave the target's faces beyond these ranges as they are; those frames count as skipped."""

    @property
    def ranges(self) -> dict[str, Range]:
        """The rules that are set."""
        return {name: given for name in _POSSIBLE if (given := getattr(self, name)) is not None}

    @field_validator("yaw", "pitch", "sharpness", "size", "similarity", "light", "confidence")
    @classmethod
    def _can_be_kept(cls, given: Range | None, info: ValidationInfo) -> Range | None:
        low, high = _POSSIBLE[str(info.field_name)]
        if given is None:
            return None
        if not given[0] <= given[1]:
            raise ValueError("expected [least, greatest], the least first")
        if given[1] < low or given[0] > high:
            raise ValueError(f"no face can be kept: {info.field_name} lies between {low:g} and {high:g}")
        return given


_POSSIBLE: Mapping[str, Range] = {
    "yaw": (-180, 180),
    "pitch": (-180, 180),
    "sharpness": (0, math.inf),
    "size": (0, math.inf),
    "similarity": (-1, 1),
    "light": (0, 255),
    "confidence": (0, 1),
}


class LossWeights(_Section):
    """What the generator minimises: the weight of each term; 0 leaves a term out, and its cost too."""

    l1: Annotated[float, Field(ge=0)] = 1.0
    """Mean absolute error of the rebuilt face."""
    l2: Annotated[float, Field(ge=0)] = 5.0
    """Mean squared error of the rebuilt face: large errors first."""
    dssim: Annotated[float, Field(ge=0)] = 0.3
    """Structural dissimilarity of the rebuilt face."""
    tv: Annotated[float, Field(ge=0)] = 0.0
    """Total variation of the swapped face, a pixel: less noise, and less detail."""
    mask: Annotated[float, Field(ge=0)] = 0.05
    """Cross entropy of the predicted mask, of rebuilt faces and of swapped ones."""
    gan: Annotated[float, Field(ge=0)] = 0.0
    """The adversarial loss of rebuilt and swapped faces."""
    identity: Annotated[float, Field(ge=0)] = 0.1
    """What the swapped face's cosine (irv1) to the person shown lacks to .85, plus half of the leak."""
    twin: Annotated[float, Field(ge=0)] = 1.0
    """Mean absolute error of a swapped face to its twin: what procrustes makes of the same face."""
    background: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Weight of pixels outside of the face in the rebuilt picture, against 1 inside."""


class ScheduleConfig(_Section):
    """When things happen, as shares of the whole training, from 0 to 1."""

    warmup_steps: Annotated[int, Field(ge=0)] = 50
    """Steps over which the learning rate rises."""
    hold: Annotated[float, Field(ge=0, le=1)] = 0.2
    """The learning rate is constant until here, and falls as a half cosine after it."""
    floor: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the learning rate that is left at the end."""
    augment_until: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Jitter, warp and colours are at their strongest until here ..."""
    augment_off: Annotated[float, Field(ge=0, le=1)] = 0.8
    """... and fade to none until here: the end of the training sees the faces as they are."""
    identity_from: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The identity loss begins here."""
    gan_from: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The discriminators begin here."""


class AugmentConfig(_Section):
    """How training faces are varied; standard deviations unless said otherwise."""

    clean: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the faces that are left as they are."""
    rotation: Annotated[float, Field(ge=0)] = 2.0
    """Degrees."""
    scale: Annotated[float, Field(ge=0)] = 0.02
    """Share of the size."""
    shift: Annotated[float, Field(ge=0)] = 0.01
    """Share of the side."""
    warp: Annotated[float, Field(ge=0)] = 0.01
    """Random warp of the input, its target left un-warped; share of the side."""
    warp_to_other: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the inputs that are warped to landmarks of the other person (of near pose). Only with the view crop:
    textures have one shape already."""
    color: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the faces that get the colours of one of the other person's."""
    gain: Annotated[float, Field(ge=0)] = 0.03
    """Contrast."""
    bias: Annotated[float, Field(ge=0)] = 0.02
    """Brightness of each channel, in a range of 2."""
    flip: bool = False
    """Mirror half of the faces: for people whose two sides look alike."""


class TrainConfig(_Section):
    """The trained swap (method gan)."""

    held_out: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    """Share of each clip's faces, its end in one piece, that is never trained on: results are measured there."""
    model: Literal["auto", "cpu-64", "original-64", "df-128", "liae-256"] = "auto"
    """Preset of the nets; auto is cpu-64 on a CPU and df-128 on a GPU."""
    view: Literal["texture", "crop"] = "texture"
    """What the nets see: faces warped by their landmarks onto one layout (what is drawn is warped back onto the
    target's landmarks), or a square of the aligned crop."""
    architecture: dict[str, Any] = Field(default_factory=dict)
    """Fields of the preset to change, e.g. ``--set train.architecture.down=max``; see `facepipe.networks`."""
    steps: Annotated[int, Field(ge=1)] = 100_000
    """Steps of the whole training."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Time for the training; the schedule follows the clock, and it ends at whichever comes first, this or `steps`.
    Only a training without it can be repeated bit for bit."""
    batch: Annotated[int, Field(ge=1)] = 8
    """Faces of each person a step, over all devices."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Of AdamW; the discriminators have the same."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.99)
    """Decay of AdamW's first and second moments; the discriminators' first is 0.5."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Decoupled, as in AdamW."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of a gradient."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay of the averaged weights that are validated and used for the swap."""
    swap_every: Annotated[int, Field(ge=1)] = 4
    """Every n-th step also swaps a few faces, for the losses of the swap (identity, mask, adversarial, tv)."""
    swap_batch: Annotated[int, Field(ge=1)] = 4
    """Faces of each person that are swapped there, over all devices."""
    gan_kind: Literal["bce", "minimax", "lsgan", "wgan", "wgan-gp", "hinge", "relativistic"] = "hinge"
    """The adversarial loss."""
    discriminator: Literal["patch", "multi-scale", "unet"] = "patch"
    """What judges the faces; there is one for each person."""
    discriminator_width: Annotated[int, Field(ge=8)] = 32
    """Its channels in the first level."""
    spectral: bool = True
    """Spectral normalisation of the discriminators."""
    precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Mixed precision; auto is bf16 on a GPU that has it, fp16 on others, and none on a CPU."""
    compile: bool = False
    """`torch.compile` of the nets: faster on a GPU, after a minute or so."""
    validate_every: Annotated[int, Field(ge=1)] = 500
    """Steps between validations on the held-out frames; each writes a checkpoint and a preview."""
    keep: Annotated[int, Field(ge=1)] = 2
    """Checkpoints that are kept besides the best."""
    patience: Annotated[int, Field(ge=0)] = 20
    """Validations without a better result after which training ends; 0 never ends it."""
    loss: LossWeights = LossWeights()
    schedule: ScheduleConfig = ScheduleConfig()
    augment: AugmentConfig = AugmentConfig()

    @field_validator("architecture")
    @classmethod
    def _is_flat(cls, architecture: dict[str, Any]) -> dict[str, Any]:
        for name, value in architecture.items():
            items = value if isinstance(value, list | tuple) else [value]
            if not all(isinstance(item, bool | int | float | str) for item in items):
                raise ValueError(f"{name}: expected a number, a word, true, false, or numbers in brackets")
        return architecture


ProtocolName = Literal["facepipe", "ffpp-10", "pose-degrees", "pose-logits"]
"""Ways to measure; see `facepipe.evaluation.protocols`."""


class ScoreConfig(_Section):
    """What is measured."""

    protocol: ProtocolName = "facepipe"
    """Preset of measures and frames; see docs/evaluation.md."""
    nets: tuple[Literal["irv1", "sface"], ...] = ("irv1", "sface")
    """Identity nets; the procedure asks for two, one of which took no part in making the swap."""
    reconstruct_frames: Annotated[int, Field(ge=0)] = 24
    """Frames a clip, evenly spaced, on which the same-identity swap is measured; 0 leaves it out."""
    reconstruct_gap: Annotated[float, Field(ge=0)] = 0.5
    """Seconds around a frame that may not be its own source in the same-identity swap."""
    features: Literal["mobilenetv2", "inception", "facenet", "none"] = "mobilenetv2"
    """Net of the distances between sets of faces; inception needs weights of your own; none leaves them out."""
    worst: Annotated[int, Field(ge=0, le=1000)] = 12
    """How many of the worst frames are listed."""


class EngineConfig(_Section):
    """How the work is done; results do not depend on it, and a run folder does not remember it."""

    kind: Literal["local", "ray"] = "local"
    """local: processes of this machine; ray: actors of a Ray cluster, whose machines share the run folder."""
    workers: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] | None = None
    """Processes that do clips side by side, each with its own nets, and where there are several GPUs each on one. auto
    (the command line's default): one for each GPU of the machine or the cluster, or for every four cores where it has
    none. By default the calling process alone, and with ray as with auto. Training is always done here."""
    address: str | None = None
    """Of the Ray cluster: auto, host:port or ray://host:port. Without it RAY_ADDRESS, or one on this machine."""
    shard: str | None = None
    """i/n: only the i-th of n parts of the target clips, 1/n to n/n, beside other processes that do the other parts in
    the same run folder. For detect, align and swap; train and score are done without it afterwards."""

    @field_validator("shard")
    @classmethod
    def _is_a_part(cls, shard: str | None) -> str | None:
        if shard is None:
            return None
        match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", shard)
        if match is None:
            raise ValueError("expected i/n, e.g. 1/8")
        if not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"expected 1/{match[2]} to {match[2]}/{match[2]}")
        return shard

    @property
    def part(self) -> tuple[int, int] | None:
        """The shard's number from 0 on, and how many there are."""
        if self.shard is None:
            return None
        number, count = map(int, self.shard.split("/"))
        return number - 1, count


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


class WeightsEntry(_Section):
    """Where a net's weights come from; what is empty is taken from the catalogue."""

    origin: str = ""
    """Where the file comes from."""
    licence: str = ""
    """Under which licence."""


class LedgerConfig(_Section):
    """Whose faces and whose weights; it goes into manifest.json and onto the report. See docs/labels.md."""

    required: bool = False
    """Refuse to start while an entry is missing, as --require-consent does."""
    source: LedgerEntry = LedgerEntry()
    target: LedgerEntry = LedgerEntry()
    weights: dict[str, WeightsEntry] = Field(default_factory=dict)
    """By name of the catalogue, e.g. [ledger.weights.yunet]."""


class CredentialsConfig(_Section):
    """Who signs the content credentials of swapped videos; without, a certificate made on first use."""

    certificate: _Path | None = None
    """Certificate chain in PEM, the signer's certificate first."""
    key: _Path | None = None
    """Its private key in PEM, without a password."""
    timestamps: str | None = None
    """Address of a time-stamp authority (RFC 3161); without, signing needs no network, and nobody vouches for the
    time."""


class Config(_Section):
    """A whole run."""

    source: _Path | None = None
    """Folder of clips (or one clip) that give the identity."""
    target: _Path | None = None
    """Folder of clips (or one clip) whose faces are replaced."""
    out: _Path | None = None
    """The run folder."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of everything random."""
    part_frames: Annotated[int, Field(ge=0)] = 4500
    """Films of more than twice as many frames are cut at key frames into parts of about so many, which workers share
    and which need little more memory than short clips; 0 leaves them whole."""
    limits: LimitsConfig = LimitsConfig()
    detect: DetectConfig = DetectConfig()
    align: AlignConfig = AlignConfig()
    select: SelectConfig = SelectConfig()
    train: TrainConfig = TrainConfig()
    swap: SwapConfig = SwapConfig()
    score: ScoreConfig = ScoreConfig()
    engine: EngineConfig = EngineConfig()
    ledger: LedgerConfig = LedgerConfig()
    credentials: CredentialsConfig = CredentialsConfig()


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
    except (ValueError, RecursionError) as exc:  # not only TOMLDecodeError: numbers of 5000 digits, deep nesting
        raise ConfigError(f"{path}: not a TOML file: {exc}") from exc
    return build(data, overrides, origin=str(path))


def to_toml(config: Config) -> str:
    """The resolved configuration as TOML that `load` reads back to an equal one."""
    return "\n".join(_table(config.model_dump(mode="json", exclude_none=True), ())) + "\n"


def _table(data: dict[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"{_key(key)} = {_value(value)}" for key, value in data.items() if not isinstance(value, dict)]
    for key, value in data.items():
        if isinstance(value, dict) and value:
            name = (*path, key)
            lines += ["", f"[{'.'.join(map(_key, name))}]", *_table(value, name)]
    return lines


def _key(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # Basic strings of TOML: the escapes of JSON, except that DEL is escaped as well.
        if not value.isascii() and value.encode("utf-8", "ignore").decode() != value:
            raise ConfigError(f"{value!r}: is no Unicode text, and TOML holds no other; rename the file or folder")
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return repr(value)


def _parse(text: str) -> Any:
    """A TOML value, or the text itself when it is not one (so that strings need no quotes)."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _explain(exc: ValidationError, origin: str) -> str:
    """The first of pydantic's complaints as one line."""
    error = exc.errors()[0]
    dotted = ".".join(str(part) for part in error["loc"])
    more = f" (and {exc.error_count() - 1} more)" if exc.error_count() > 1 else ""
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(dotted, _known_keys(Config), n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{origin}: unknown key {dotted!r}{hint}{more}"
    return f"{origin}: {dotted} = {_short(error['input'])}: {error['msg']}{more}"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python shows no numbers of more than 4300 digits
        return "a number too long to be shown"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _known_keys(field.annotation, f"{prefix}{name}.")
    return keys
