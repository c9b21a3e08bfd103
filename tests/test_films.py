"""Long films in parts: no frame lost or doubled, whoever does the work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from facepipe import pipeline
from facepipe.errors import MediaError
from facepipe.provenance import check
from facepipe.results import RunResults
from facepipe.types import Image
from facepipe.video import find_cuts, join_parts, open_clip, open_writer, parts, probe, split_film
from facepipe.workspace import read_marker

Make = Callable[..., Path]
Contents = Callable[[Path], dict[str, str]]
CLOSED, OPEN = "keyint=12:min-keyint=12:scenecut=0", "open-gop=1:keyint=12:min-keyint=12:scenecut=0:bframes=3"


def watch(path: Path) -> tuple[list[int], list[Image]]:
    with open_clip(path) as reader:
        frames = [(frame.pts, frame.image) for frame in reader]
        assert reader.warnings == []
    return [pts for pts, _ in frames], [image for _, image in frames]


def cut(path: Path, frames: int) -> list[Path]:
    cuts = find_cuts(path, frames)
    outs = [path.with_name(f"{path.stem}~{i}{path.suffix}") for i in range(len(cuts.starts))]
    split_film(path, cuts, outs)
    return outs


# ---------------------------------------------------------------------------------------------------- cutting, joining


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("late", [0, 9000])
def test_parts_are_the_film(tmp_path: Path, make_video: Make, suffix: str, late: int) -> None:
    steps = np.where(np.arange(60) % 7 == 3, 7200, 3600)  # frames of two lengths
    film = make_video(
        tmp_path / f"a{suffix}",
        count=60,
        options={"x264-params": CLOSED},
        pts=[late + int(at) for at in np.cumsum(steps) - 3600],
        time_base=Fraction(1, 90000),
        audio=["aac"],
    )
    assert find_cuts(film, 20).starts in ([0, 24, 36], [0, 24, 48])
    outs = cut(film, 20)
    found = [watch(out) for out in outs]
    times, images = watch(film)
    assert [pts for times, _ in found for pts in times] == times
    np.testing.assert_array_equal(np.concatenate([images for _, images in found]), images)
    assert not any(probe(out).has_audio for out in outs)
    assert not list(tmp_path.glob("*.part"))


def test_a_film_is_cut_where_the_scene_changes(tmp_path: Path, make_video: Make, card: Any) -> None:
    """There the encoder broke its rhythm of key frames."""
    other = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    images = [card(96, 128, i) if i < 33 else other for i in range(60)]
    film = make_video(tmp_path / "a.mp4", images=images, options={"x264-params": "keyint=10:min-keyint=1"})
    assert 33 in find_cuts(film, 25).starts
    images = [card(96, 128, i) if i < 42 else other for i in range(60)]
    film = make_video(tmp_path / "b.mp4", images=images, options={"x264-params": "keyint=10:min-keyint=1"})
    assert find_cuts(film, 25).starts == [0, 42]  # 12 away from the middle, and before a rhythmic one at 30


@pytest.mark.parametrize(
    "more",
    [
        {"options": {"x264-params": OPEN}},
        {"options": {"g": "250"}},
        {"count": 30, "options": {"x264-params": CLOSED}},
        {"options": {"x264-params": CLOSED}, "format": "h264"},
    ],
    ids=["open groups", "one group", "short", "no times"],
)
def test_what_cannot_be_cut_stays_whole(tmp_path: Path, make_video: Make, more: dict[str, Any]) -> None:
    film = make_video(tmp_path / "a.mp4", **{"count": 60, **more})
    starts = find_cuts(film, 20).starts
    assert starts == [0]


def test_only_closed_groups_are_cut(tmp_path: Path, make_video: Make) -> None:
    film = make_video(tmp_path / "a.mp4", count=60, options={"x264-params": OPEN})
    with av.open(str(film)) as container:
        index = parts._scan(container, container.streams.video[0])
    assert index is not None
    assert index.keys.sum() == 5
    assert index.closed.sum() < 3


def joined(tmp_path: Path, film: Path, out: Path, **more: Any) -> list[Path]:
    made = []
    like = probe(film)
    for one in cut(film, 20):
        made.append(one.with_name(f"made-{one.stem}.mp4"))
        with open_clip(one) as reader, open_writer(made[-1], like, crf=10) as writer:
            for frame in reader:
                writer.write(frame.image, frame.pts)
    join_parts(made, out, like, audio_from=film if like.has_audio else None, **more)
    return made


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_joined_parts_have_every_frame_and_all_the_sound(tmp_path: Path, make_video: Make, suffix: str) -> None:
    film = make_video(
        tmp_path / "a.mp4", count=60, options={"x264-params": CLOSED}, audio=["aac"], rate=Fraction(24000, 1001)
    )
    out = tmp_path / f"out{suffix}"
    made = joined(tmp_path, film, out, metadata={"comment": "x"}, finish=lambda part: None)
    times, images = watch(out)
    rounding = 0 if suffix == ".mp4" else 0.001
    base, wanted = float(probe(out).time_base), watch(film)[0]
    shift = times[0] * base  # Matroska has no times below zero: sound that begins there moves all
    assert shift <= (0 if suffix == ".mp4" else 0.03)
    there = np.array(wanted) * float(probe(film).time_base)
    np.testing.assert_allclose(np.array(times) * base - shift, there, atol=rounding)
    np.testing.assert_array_equal(images, np.concatenate([watch(one)[1] for one in made]))

    def sound(path: Path) -> list[bytes]:
        with av.open(str(path)) as container:
            return [bytes(packet) for packet in container.demux(audio=0) if packet.size]

    assert sound(out) == sound(film)


def test_parts_that_do_not_fit_are_refused(tmp_path: Path, make_video: Make) -> None:
    film = make_video(tmp_path / "a.mp4", count=60, options={"x264-params": CLOSED})
    one, *_ = joined(tmp_path, film, tmp_path / "out.mp4")
    with pytest.raises(MediaError, match=r"b\.mp4: its parts overlap in time"):
        join_parts([one, one], tmp_path / "b.mp4", probe(film))
    other = make_video(
        tmp_path / "c.mp4", count=5, size=(64, 64), pts=[99999 + i for i in range(5)], time_base=Fraction(1, 12800)
    )
    with pytest.raises(MediaError, match=r"c\.mp4: is coded otherwise than"):
        join_parts([one, other], tmp_path / "b.mp4", probe(film))
    assert not (tmp_path / "b.mp4").exists()
    assert not list(tmp_path.glob("*.part"))


@given(st.permutations(range(12)), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_nothing_is_shown_before_it_is_decoded(order: list[int], step: int) -> None:
    shown: NDArray[np.int64] = np.array(order, np.int64) * step
    decoded = parts._decoding_times(shown, np.sort(shown))
    assert (np.diff(decoded) > 0).all()
    assert (decoded <= shown).all()


# ------------------------------------------------------------------------------------------------------- whole runs

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory, clip_path: Callable[[str], Path], make_video: Make) -> Path:
    """60 frames in groups of 12; in the third group nobody is there."""
    folder = tmp_path_factory.mktemp("film")
    with open_clip(clip_path("WolfgangLanger_Pexels.mp4"), start=240, stop=300) as reader:
        images = [frame.image if not 24 <= frame.index - 240 < 36 else frame.image // 4 * 0 + 90 for frame in reader]
    make_video(folder / "film.mp4", images=images, options={"x264-params": CLOSED}, audio=["aac"])
    return folder


Do = Callable[..., Any]


@pytest.fixture(scope="module")
def do(film: Path, short_clips: Any, quick: tuple[str, ...]) -> Do:
    def run(out: Path, stage: Any = pipeline.run, **more: Any) -> Any:
        given: dict[str, Any] = {"source": short_clips.man, "target": film, "out": out, "part_frames": 12, **more}
        return stage(pipeline.resolve(None, quick, **given))

    return run


@pytest.fixture(scope="module")
def done(do: Do, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    out = tmp_path_factory.mktemp("done") / "RUN"
    return do(out), out


@pytest.mark.slow
def test_a_film_is_one_video_in_the_end(done: tuple[Any, Path], film: Path) -> None:
    result, out = done
    assert not result.failed
    times, images = watch(out / "swapped" / "film.mp4")
    wanted, originals = watch(film / "film.mp4")
    assert times == wanted
    assert probe(out / "swapped" / "film.mp4").has_audio
    change = [float(np.abs(a.astype(int) - b).mean()) for a, b in zip(images, originals, strict=True)]
    assert all((one > 1) == (not 24 <= frame < 36) for frame, one in enumerate(change))
    verdict = check(out / "swapped" / "film.mp4")
    assert verdict.status == "intact"
    assert verdict.label is not None
    assert verdict.label["target_sha256"] == json.loads((out / "parts" / "target" / "film.json").read_text())["film"]
    told = [line for line in result.warnings if "is left as it is" in line]
    assert len(told) == 1
    assert "film~002" in told[0]
    swapped = [one.name for one in RunResults.read(out).clips("target") if one.swapped]
    assert swapped == ["film~000", "film~001", "film~003", "film~004"]
    runs = {check(out / "swapped" / f"{name}.mp4").label["run"] for name in ("film~000", "film", "film~004")}  # type: ignore[index]
    assert len(runs) == 1


def without_places(known: dict[str, str]) -> dict[str, str]:
    """Without the file that knows the hashes of files by where they are."""
    return {name: sha256 for name, sha256 in known.items() if name != "inputs.json"}


@pytest.mark.slow
def test_workers_make_the_same_film_and_it_is_kept(
    done: tuple[Any, Path], do: Do, tmp_path: Path, contents: Contents
) -> None:
    out = tmp_path / "RUN"
    do(out, engine={"workers": 2})
    made = contents(out)
    assert without_places(made) == without_places(contents(done[1]))
    stamp = (out / "swapped" / "film.mp4").stat().st_mtime_ns
    again = do(out, engine={"workers": 2})
    assert {one.status for one in again.outcomes if one.clip != "film"} == {"kept"}
    assert (out / "swapped" / "film.mp4").stat().st_mtime_ns == stamp
    (out / "swapped" / "film~003.mp4").unlink()
    do(out)
    assert without_places(contents(out)) == without_places(made)


@pytest.mark.slow
def test_shards_of_films_are_joined_by_the_last_call(
    done: tuple[Any, Path], do: Do, tmp_path: Path, contents: Contents
) -> None:
    out = tmp_path / "RUN"
    for shard in ("1/2", "2/2"):
        do(out, pipeline.swap, engine={"shard": shard})
        assert not (out / "swapped" / "film.mp4").exists()
    do(out)
    assert contents(out / "swapped") == contents(done[1] / "swapped")


@pytest.mark.slow
def test_a_part_that_fails_is_told_and_the_film_not_joined(done: tuple[Any, Path], do: Do, tmp_path: Path) -> None:
    out = tmp_path / "RUN"
    shutil.copytree(done[1], out)
    part = out / "parts" / "target" / "film~001.mp4"
    part.write_bytes(part.read_bytes()[:200])
    result = do(out)
    reasons = {one.clip: one.reason for one in result.failed}
    assert set(reasons) == {"film~001", "film"}
    assert "not joined, since film~001 failed" in reasons["film"]
    part.unlink()  # what is missing is cut again
    assert not do(out).failed


@pytest.mark.slow
def test_a_film_of_nobody_fails(do: Do, tmp_path: Path, make_video: Make) -> None:
    (tmp_path / "clips").mkdir()
    make_video(tmp_path / "clips" / "empty.mp4", count=60, options={"x264-params": CLOSED})
    result = do(tmp_path / "RUN", target=tmp_path / "clips")
    assert [one.clip for one in result.failed] == ["empty"]
    assert "nothing was swapped in any of its 5 parts" in result.failed[0].reason


def test_a_film_may_stay_whole(do: Do, tmp_path: Path) -> None:
    result = do(tmp_path / "RUN", pipeline.detect, part_frames=0)
    assert [one.clip for one in result.outcomes if one.side == "target"] == ["film"]
    assert not (tmp_path / "RUN" / "parts").exists()
    assert read_marker(tmp_path / "RUN" / "target" / "film" / "detect.json")["frames"] == 60
