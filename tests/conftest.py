"""Fixtures that several test modules share: generated media and real clips."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def _test_card(height: int, width: int, index: int = 0) -> Image:
    """A smooth picture with black, white and coloured patches; a grey patch in its middle tells `index`."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    x, y = x / max(1, width - 1), y / max(1, height - 1)
    card = np.stack([255 * x, 255 * y, 127.5 * (2 - x - y)], axis=-1)
    h, w = height // 4, width // 4
    for column, colour in enumerate([(0, 0, 0), (255, 255, 255), (200, 40, 40), (40, 60, 200)]):
        card[:h, column * w : (column + 1) * w] = colour
    card[2 * h : 3 * h, w : 3 * w] = 20 + 7 * (index % 30)
    return np.asarray(np.rint(card), np.uint8)


class TestCard(Protocol):
    def __call__(self, height: int, width: int, index: int = 0) -> Image: ...


@pytest.fixture(scope="session")
def card() -> TestCard:
    """``card(height, width, index=0)``: an RGB test picture."""
    return _test_card


def _number_of(image: Image) -> int:
    """The index that a test card tells."""
    height, width = image.shape[:2]
    middle = image[height // 2 + 3 : 3 * height // 4 - 3, width // 4 + 4 : 3 * width // 4 - 4]
    return round((float(middle.mean()) - 20) / 7)


@pytest.fixture(scope="session")
def number_of() -> Callable[[Image], int]:
    """``number_of(image)``: the index, modulo 30, that a test card tells."""
    return _number_of


_MATRICES = {"bt709": (Colorspace.ITU709, 1), "bt601": (Colorspace.ITU601, 6), "bt2020": (Colorspace.BT2020, 9)}


def _make_video(
    path: Path,
    *,
    size: tuple[int, int] = (96, 128),
    count: int = 10,
    images: Sequence[Image] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: dict[str, str] | None = None,
    rate: Fraction = Fraction(25),
    time_base: Fraction | None = None,
    pts: Sequence[int] | None = None,
    space: str = "bt601",
    full: bool = False,
    tagged: bool = True,
    rotation: int = 0,
    mirrored: bool = False,
    audio: Sequence[str] = (),
    audio_start: Fraction = Fraction(0),
    muxer: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    tags: dict[str, Any] | None = None,
    format: str | None = None,  # noqa: A002
) -> Path:
    """Write a clip of test cards (or of `images`) and tones; returns `path`."""
    images = images if images is not None else [_test_card(*size, i) for i in range(count)]
    base = time_base or 1 / rate
    with av.open(str(path), "w", container_options=muxer or {}, format=format) as out:
        out.metadata.update(metadata or {})
        video: Any = out.add_stream(
            codec, rate=rate, options={"crf": "6", **(options or {})} if "264" in codec else {}
        )
        video.height, video.width = images[0].shape[:2]
        video.pix_fmt = pixel_format
        video.codec_context.time_base = base
        matrix, number = _MATRICES[space]
        if tagged:
            video.codec_context.colorspace = number
            video.codec_context.color_range = 2 if full else 1
        for name, value in (tags or {}).items():
            setattr(video.codec_context, name, value)
        if rotation or mirrored:
            video.set_display_rotation(rotation, hflip=mirrored)
        tones = [out.add_stream(name, rate=48000) for name in audio]
        for tone in tones:
            out.mux(list(_tone(tone, len(images) / rate, audio_start)))
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format=pixel_format,
                interpolation=Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
                src_colorspace=matrix,
                dst_colorspace=matrix,
                src_color_range=ColorRange.JPEG,
                dst_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
            )
            frame.pts = index if pts is None else pts[index]
            frame.time_base = base
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


def _tone(stream: Any, seconds: Fraction, start: Fraction) -> Iterator[Any]:
    samples = (np.sin(np.arange(int(48000 * seconds)) * 0.05) * 8000).astype(np.int16)
    stereo = np.repeat(samples, 2)[None]
    for at in range(0, stereo.shape[1], 2048):
        frame = av.AudioFrame.from_ndarray(stereo[:, at : at + 2048], format="s16", layout="stereo")
        frame.sample_rate = 48000
        frame.time_base = Fraction(1, 48000)
        frame.pts = at // 2 + int(start * 48000)
        yield from stream.encode(frame)
    yield from stream.encode(None)


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """``make_video(path, size=(96, 128), count=10, ...)``: write a generated clip; see `_make_video`."""
    return _make_video


@pytest.fixture(scope="session")
def clip_path() -> Callable[[str], Path]:
    """``clip_path(name)``: a real clip of the catalogue, from the cache or the folder FACEPIPE_TEST_CLIPS."""

    def find(name: str) -> Path:
        if folder := os.environ.get("FACEPIPE_TEST_CLIPS"):
            found = sorted(Path(folder).rglob(name))
            if not found:
                pytest.fail(f"{name} is not in the folder that FACEPIPE_TEST_CLIPS names")
            return found[0]
        try:
            return Path(importlib.import_module("facepipe.weights").clip(name))
        except (ImportError, OSError, AttributeError) as exc:
            pytest.fail(f"{name} is not in the cache: run 'facepipe models pull', or set FACEPIPE_TEST_CLIPS ({exc})")

    return find


# ---------------------------------------------------------------------------------------- short slices, finished runs


def _cut(source: Path, out: Path, start: int, stop: int, *, audio: bool = False) -> Path:
    """Write frames start..stop-1 of a clip, times from zero, with the whole clip's sound if asked for."""
    from facepipe.video import open_clip, open_writer

    out.parent.mkdir(parents=True, exist_ok=True)
    first: int | None = None
    with (
        open_clip(source, start=start, stop=stop) as reader,
        open_writer(out, reader.info, crf=10, audio_from=source if audio else None) as writer,
    ):
        for frame in reader:
            first = frame.pts if first is None else first
            writer.write(frame.image, frame.pts - first)
    return out


@pytest.fixture(scope="session")
def cut_clip(clip_path: Callable[[str], Path]) -> Callable[..., Path]:
    """``cut_clip(name, out, start, stop, audio=False)``: frames start..stop-1 of a real clip as a clip of its own."""
    return lambda name, out, start, stop, **more: _cut(clip_path(name), out, start, stop, **more)


@dataclass(frozen=True)
class ShortClips:
    """Folders with one short slice each: a man who smiles, and a woman who turns (with sound)."""

    man: Path
    woman: Path
    frames: int


@pytest.fixture(scope="session")
def short_clips(tmp_path_factory: pytest.TempPathFactory, cut_clip: Callable[..., Path]) -> ShortClips:
    """16 frames of each of the two main clips; the people are the clips' only ones."""
    root = tmp_path_factory.mktemp("short")
    cut_clip("single_face.mp4", root / "man" / "man.mp4", 8, 24)
    cut_clip("WolfgangLanger_Pexels.mp4", root / "woman" / "woman.mp4", 240, 256, audio=True)
    return ShortClips(root / "man", root / "woman", 16)


@dataclass(frozen=True)
class FinishedRun:
    """A run of the default settings, man onto woman; do not change its folder."""

    out: Path
    result: Any
    clips: ShortClips


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, short_clips: ShortClips) -> FinishedRun:
    """The pipeline run once on `short_clips`; the same-identity swap may look as near as a tenth of a second."""
    import facepipe

    out = tmp_path_factory.mktemp("finished") / "RUN"
    score = {"reconstruct_frames": 4, "reconstruct_gap": 0.1}
    result = facepipe.run(source=short_clips.man, target=short_clips.woman, out=out, score=score)
    return FinishedRun(out, result, short_clips)


QUICK = (
    "detect.embedder=none",
    'score.nets=["sface"]',
    "score.reconstruct_frames=2",
    "score.reconstruct_gap=0.1",
    "align.size=160",
)


@pytest.fixture(scope="session")
def quick() -> tuple[str, ...]:
    """Overrides under which a whole run takes seconds: without the large identity net."""
    return QUICK


@dataclass(frozen=True)
class QuickRun:
    """A finished run under the overrides of `quick`; do not change its folder."""

    source: Path
    target: Path
    out: Path
    result: Any


@pytest.fixture(scope="session")
def quick_run(tmp_path_factory: pytest.TempPathFactory, short_clips: ShortClips) -> QuickRun:
    """An undisturbed run in seconds."""
    from facepipe import pipeline

    out = tmp_path_factory.mktemp("quick") / "RUN"
    config = pipeline.resolve(None, QUICK, source=short_clips.man, target=short_clips.woman, out=out)
    return QuickRun(short_clips.man, short_clips.woman, out, pipeline.run(config))


_C2PA_BOX = bytes.fromhex(
    "d8fec3d61b0e483c92975828877ec481"
)  # C2PA 2.2, "Embedding manifests into BMFF-based assets": UUID of the box in BMFF files


def _without_manifest(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".c2pa":
        return b"%d" % len(data)
    place = data.find(_C2PA_BOX) - 8 if path.suffix == ".mp4" else -1
    if place < 0:
        return data
    size = int.from_bytes(data[place : place + 4])
    assert data[place + 4 : place + 8] == b"uuid"
    return data[:place] + b"%d" % size + data[place + size :]


@pytest.fixture(scope="session", autouse=True)
def own_credentials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The self-made certificate of the tests; that of the user is left alone."""
    folder = tmp_path_factory.mktemp("credentials") / "own"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACEPIPE_CREDENTIALS", str(folder))
        yield folder


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, str]]:
    """``contents(folder)``: path -> sha256 of every visible file below it but ``config.toml``.

    Of an mp4 the box with the C2PA manifest is left out, and of a ``.c2pa`` file all: the C2PA library salts every
    assertion with 16 random bytes and names each manifest by a random number. Its length is part of the hash, and so
    is all else of the video.
    """

    def read(folder: Path) -> dict[str, str]:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(_without_manifest(path)).hexdigest()
            for path in files
            if path.name != "config.toml"
        }

    return read


class FacesOf(Protocol):
    def __call__(self, path: Path, wanted: range, size: int = 160) -> tuple[Any, Image, dict[int, Image]]: ...


@pytest.fixture(scope="session")
def faces_of() -> FacesOf:
    """``faces_of(path, frames)``: a table of the faces of some frames, their crops stacked, the frames by index."""
    from facepipe.config import AlignConfig, DetectConfig, LimitsConfig
    from facepipe.finder import load_models
    from facepipe.stages.align import align_faces
    from facepipe.stages.detect import detect_faces
    from facepipe.video import open_clip

    config = DetectConfig(embedder="none", stride=1, fill=0)  # the frames may be apart

    def gather(path: Path, wanted: Sequence[int], size: int = 160) -> tuple[Any, Image, dict[int, Image]]:
        with open_clip(path, stop=max(wanted) + 1) as reader:
            frames = [frame for frame in reader if frame.index in wanted]
            faces = detect_faces(frames, load_models(config), config, LimitsConfig(), reader.info.size)
        crops: list[Image] = []
        faces = align_faces(frames, faces, AlignConfig(size=size), LimitsConfig(), crops.append)
        return faces, np.stack(crops), {frame.index: frame.image for frame in frames}

    return gather


@dataclass(frozen=True)
class CopiedRun:
    """A finished run of its own, which may be changed; its faces carry made-up embeddings, one direction a side."""

    out: Path
    clips: dict[str, str]


@pytest.fixture
def copied_run(tmp_path: Path, quick_run: QuickRun) -> CopiedRun:
    """`quick_run` in a folder of its own, with embeddings."""
    import shutil

    from facepipe.workspace import read_faces, write_faces

    out = tmp_path / "RUN"
    shutil.copytree(quick_run.out, out)
    for number, (side, name) in enumerate((("source", "man"), ("target", "woman"))):
        path = out / side / name / "faces.parquet"
        faces = read_faces(path)
        noise = 0.05 * np.random.default_rng(number).normal(size=(len(faces), 16))
        vectors = np.eye(2, 16)[number] + noise
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        write_faces(path, faces.with_columns(embedding=unit.astype(np.float32)))
    return CopiedRun(out, {"source": "man", "target": "woman"})


# ------------------------------------------------------------------------------------------------------ a real browser


@dataclass(frozen=True)
class OpenPage:
    """A page in the browser, and what went wrong in it: requests that left the file, errors, messages."""

    page: Any
    requests: list[str]
    errors: list[str]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A Chromium of this machine, driven by Playwright; skips where either is missing."""
    import shutil

    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    known = os.environ.get("FACEPIPE_TEST_BROWSER") or next(filter(None, map(shutil.which, names)), None)
    if known is None:
        pytest.skip("no browser on this machine: apt-get install chromium, or set FACEPIPE_TEST_BROWSER")
    with sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=known, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., OpenPage]]:
    """``open_page(path, width=1280, dark=False)``: open a file; every request but the file's own is refused and kept.

    At the end of the test there must have been none, and no error and no warning on the console.
    """
    opened: list[OpenPage] = []

    def start(path: Path, *, width: int = 1280, dark: bool = False) -> OpenPage:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        shown = OpenPage(context.new_page(), [], [])
        address = path.resolve().as_uri()

        def judge(route: Any) -> None:
            if route.request.url.partition("#")[0] == address:
                route.continue_()
            else:
                shown.requests.append(route.request.url)
                route.abort()

        shown.page.route("**/*", judge)
        shown.page.on("pageerror", lambda error: shown.errors.append(str(error)))
        shown.page.on("console", lambda message: shown.errors.append(f"{message.type}: {message.text}"))
        shown.page.goto(address)
        opened.append(shown)
        return shown

    yield start
    for shown in opened:
        shown.page.context.close()
        assert shown.requests == []
        assert shown.errors == []
