"""Rules that drop faces: what they keep, what they count, what they say, and where they are obeyed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import facepipe
from facepipe.config import SelectConfig, build, load, to_toml
from facepipe.errors import ConfigError, NoFaceError, UsageError
from facepipe.pipeline import resolve
from facepipe.selection import KEYS, Limit, likeness, select, within
from facepipe.types import Faces, Flag
from facepipe.workspace import read_crops, read_faces, read_json


def table(count: int, seed: int = 0) -> Faces:
    """Faces of one person: everything about them is random, but they look alike."""
    rng = np.random.default_rng(seed)
    empty = Faces.empty(embedding=4)
    vectors = np.eye(4)[0] + 0.2 * rng.normal(size=(count, 4))
    return Faces(
        **{
            **{
                name: np.zeros((count, *getattr(empty, name).shape[1:]), getattr(empty, name).dtype)
                for name in vars(empty)
            },
            "frame": np.arange(count),
            "box": np.concatenate([np.zeros((count, 2)), rng.uniform(10, 90, (count, 2))], 1).astype(np.float32),
            "score": rng.random(count).astype(np.float32),
            "yaw": rng.uniform(-60, 60, count).astype(np.float32),
            "pitch": rng.uniform(-30, 30, count).astype(np.float32),
            "sharpness": rng.uniform(0, 20, count).astype(np.float32),
            "embedding": (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
        }
    )


def crops_of(count: int) -> Any:
    return np.stack([np.full((8, 8, 3), 10 * i, np.uint8) for i in range(count)])


# ----------------------------------------------------------------------------------------------------------- the rules


@settings(deadline=None)
@given(
    yaw=st.none() | st.tuples(st.floats(-70, 0), st.floats(0, 70)),
    sharpness=st.none() | st.tuples(st.floats(0, 10), st.just(math.inf)),
    light=st.none() | st.tuples(st.floats(0, 60), st.floats(60, 255)),
    count=st.integers(0, 12),
)
def test_what_is_kept_obeys_every_rule_and_the_counts_add_up(yaw: Any, sharpness: Any, light: Any, count: int) -> None:
    rules = SelectConfig(yaw=yaw, sharpness=sharpness, light=light)
    faces, asked = table(count), np.arange(count) % 3 != 1
    crops = crops_of(count) if count else np.zeros((0, 8, 8, 3), np.uint8)
    found = select([faces, faces], [asked, ~asked], [crops, crops], rules)
    assert found.total == count
    assert found.kept == sum(int(keep.sum()) for keep in found.rows)
    assert set(found.dropped) <= set(rules.ranges)
    for keep, mine in zip(found.rows, (asked, ~asked), strict=True):
        assert not (keep & ~mine).any()
        values: dict[str, Any] = {
            "yaw": faces.yaw,
            "sharpness": faces.sharpness,
            "light": np.float32(10 * np.arange(count)),
        }
        fine = np.all([(values[key] >= a) & (values[key] <= b) for key, (a, b) in rules.ranges.items()], axis=0)
        np.testing.assert_array_equal(keep, mine & fine)
    assert bool(found.words) == (found.kept < found.total)


def test_a_face_counts_for_the_first_rule_that_it_breaks() -> None:
    faces = table(4)
    faces.yaw[:] = [0, 50, 0, 50]
    faces.sharpness[:] = [9, 9, 1, 1]
    rules = SelectConfig(sharpness=(5, math.inf), yaw=(-20, 20))
    found = select([faces], [np.ones(4, bool)], [()], rules)
    assert found.dropped == {"yaw": 2, "sharpness": 1}
    assert found.words == "3 of 4 faces dropped by rule: 2 yaw, 1 sharpness"
    assert found.emptied_by(rules) == ""
    faces.yaw[0] = 40
    found = select([faces], [np.ones(4, bool)], [()], rules)
    assert found.emptied_by(rules).endswith("3 yaw, 1 sharpness; none is left: widen select.yaw = [-20, 20]")


def test_similarity_is_to_the_mean_of_the_unflagged_faces() -> None:
    faces = table(6)
    faces.embedding[:] = np.eye(4)[[0, 0, 0, 1, 1, 1]]
    faces.flags[3:] = Flag.BLURRED
    found = select([faces], [np.ones(6, bool)], [()], SelectConfig(similarity=(0.9, 1)))
    assert found.rows[0].tolist() == [True] * 3 + [False] * 3
    faces.embedding[[1, 4]] = np.nan
    faces.flags[[1, 4]] |= Flag.FILLED  # nothing speaks against a face that was filled in
    found = select([faces], [np.ones(6, bool)], [()], SelectConfig(similarity=(0.9, 1)))
    assert found.rows[0].tolist() == [True, True, True, False, True, False]
    bare = faces.with_columns(embedding=np.zeros((6, 0), np.float32))
    with pytest.raises(UsageError, match=r"no embeddings; set detect\.embedder"):
        select([bare], [np.ones(6, bool)], [()], SelectConfig(similarity=(0.9, 1)))


def test_a_face_that_was_not_embedded_is_as_alike_as_those_around_it() -> None:
    faces = table(6)
    faces.embedding[:] = np.eye(4)[[0, 0, 0, 0, 1, 1]]
    faces.embedding[[1, 2, 3, 5]] = np.nan
    faces.track[:] = [0, 0, 0, 0, 0, 1]
    faces.flags[2] = Flag.FILLED
    found = likeness(faces, np.eye(4, dtype=np.float32)[0])
    np.testing.assert_allclose(found, [1, 0.75, np.nan, 0.25, 0, np.nan], atol=1e-6)


@pytest.mark.parametrize("limit", [(None, None), (0.0, None), (None, 0.0), (-1.0, 1.0)])
def test_what_was_not_measured_is_within_nothing(limit: Limit) -> None:
    assert within(np.array([np.nan, 0], np.float32), limit).tolist() == [False, True]


# -------------------------------------------------------------------------------------------------- the configuration


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("select.yawn=[-5, 5]", r"unknown key 'select\.yawn'; did you mean 'select\.yaw'\?"),
        ("select.yaw=[5, -5]", "least first"),
        ("select.yaw=[nan, 5]", "least first"),
        ("select.similarity=[1.5, 2]", "no face can be kept: similarity lies between -1 and 1"),
        ("select.sharpness=[-3, -1]", "no face can be kept: sharpness lies between 0 and inf"),
        ("select.light=5", "select.light = 5"),
    ],
)
def test_what_cannot_be_is_one_clear_line(setting: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        build({}, [setting])
    assert "\n" not in str(caught.value)


def test_every_measure_has_a_rule_and_rules_are_kept_in_a_file(tmp_path: Path) -> None:
    rules = SelectConfig(**cast("Any", dict.fromkeys(KEYS, (0, 1))))
    assert tuple(rules.ranges) == KEYS
    config = build({}, ["select.sharpness=[6, inf]", "select.swap=true"])
    (tmp_path / "c.toml").write_text(to_toml(config))
    assert load(tmp_path / "c.toml") == config
    assert config.select.ranges == {"sharpness": (6, math.inf)}


# ------------------------------------------------------------------------------------------------------- the pipeline


def ruled(run: Any, **select: Any) -> Any:
    return facepipe.swap(out=run.out, select=select)


@pytest.mark.models
def test_dropped_faces_give_no_source(copied_run: Any) -> None:
    faces = read_faces(copied_run.out / "source" / "man" / "faces.parquet")
    middle = float(np.median(faces.sharpness))
    result = ruled(copied_run, sharpness=[middle, math.inf], similarity=[0.2, 1])
    assert not result.failed
    expected = int((faces.sharpness < middle).sum())
    assert f"source: {expected} of 16 faces dropped by rule: {expected} sharpness" in result.warnings
    manifest = read_json(copied_run.out / "manifest.json")["select"]
    assert manifest["source"] == {"faces": 16, "dropped": {"sharpness": expected}}
    assert manifest["rules"] == {"sharpness": [middle, None], "similarity": [0.2, 1]}
    used = pq.read_table(copied_run.out / "swapped" / "woman.parquet").to_pydict()
    assert all(used["swapped"])
    assert set(used["source_frame"]) <= set(faces.frame[faces.sharpness >= middle].tolist())


@pytest.mark.models
def test_where_told_dropped_faces_are_not_swapped(copied_run: Any) -> None:
    faces = read_faces(copied_run.out / "target" / "woman" / "faces.parquet")
    crops = read_crops(copied_run.out / "target" / "woman" / "crops.npy")
    inner = crops.shape[1] // 4
    light = crops[:, inner:-inner, inner:-inner].mean((1, 2, 3))  # nearly BT.601 where hardly anything is coloured
    source = read_crops(copied_run.out / "source" / "man" / "crops.npy")[:, inner:-inner, inner:-inner]
    most = float(np.sort(light)[len(light) // 2]) + 0.3
    if source.mean() > most:
        pytest.skip("the source is the brighter one: no rule on light drops only target faces")
    result = ruled(copied_run, light=[0, most], swap=True)
    swapped = np.array(pq.read_table(copied_run.out / "swapped" / "woman.parquet")["swapped"].to_pylist())
    assert 0 < swapped.sum() < len(faces)
    (line,) = [line for line in result.warnings if "not swapped" in line]
    assert f"{int((~swapped).sum())} of 16 faces dropped by rule" in line
    assert line in ruled(copied_run, light=[0, most], swap=True).warnings  # kept now, and said again
    kept = ruled(copied_run, light=[0, most], swap=False)
    assert kept.outcomes[-1].status == "done"
    assert all(pq.read_table(copied_run.out / "swapped" / "woman.parquet")["swapped"].to_pylist())


@pytest.mark.models
def test_nothing_left_names_the_rule(copied_run: Any) -> None:
    with pytest.raises(NoFaceError, match=r"16 of 16 faces dropped by rule: 16 yaw; none is left: widen select\.yaw"):
        ruled(copied_run, yaw=[100, 120])


@pytest.mark.models
def test_a_net_learns_from_none_of_them(copied_run: Any) -> None:
    from facepipe.pipeline.running import Run
    from facepipe.video import find_clips
    from facepipe.workspace import Workspace

    faces = read_faces(copied_run.out / "target" / "woman" / "faces.parquet")
    least = float(np.quantile(faces.sharpness, 0.3))
    config = resolve(None, [f"select.sharpness=[{least}, inf]", "train.held_out=0.1"], out=copied_run.out)
    clips: Any = {"source": find_clips(cast("Path", config.source)), "target": find_clips(cast("Path", config.target))}
    with Workspace(copied_run.out) as workspace:
        run = Run(config, workspace, clips, lambda *_: None)
        run.context.keys.update({("align", side, clip.name): "" for side in clips for clip in clips[side]})
        tables, usable = run.faces.usable("target", clips["target"])
        assert usable.rows[0].tolist() == (faces.sharpness >= least).tolist()
        assert len(tables[0]) == len(faces)
        assert run.faces.learnable(clips["target"][0], np.ones(len(faces), bool)).tolist() == usable.rows[0].tolist()
        with pytest.raises(NoFaceError, match=rf"too few faces .*; {16 - usable.kept} of 16 faces dropped by rule"):
            run.faces.faceset("target")
