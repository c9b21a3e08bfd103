"""The evaluation: protocols, measures of a frame, intervals, identity, buckets, the worst frames, what is missing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.color import rgb2lab

from facepipe import evaluation, geometry, metrics
from facepipe.backends.features import FeatureNet, Features
from facepipe.config import ProtocolName
from facepipe.errors import RunFolderError, UsageError, WeightsMissingError
from facepipe.evaluation import ClipScores, Context, Originals, choose_protocol, originals
from facepipe.evaluation.buckets import KINDS, bucket_section
from facepipe.evaluation.distribution import compare_sets
from facepipe.evaluation.identity import ceiling, identity_section
from facepipe.evaluation.measures import Moment, light, occluded_share, over_time, sharpness_of
from facepipe.evaluation.protocols import PROTOCOLS
from facepipe.evaluation.rows import Rows, interval
from facepipe.evaluation.worst import LOST, badness, worst_frames

DIM = 16


def clip_of(count: int, **columns: Any) -> ClipScores:
    """Scores of so many frames, each found, with these columns."""
    scores = ClipScores.of_length(count)
    for row in range(count):
        scores.put(row, {"frame": row, "pts": row, "seconds": row / 10, "found": True})
        scores.put(row, {name: values[row] for name, values in columns.items()})
    scores.counts = {"total": count, "swapped": count}
    return scores


def unit(rows: Any) -> NDArray[np.float32]:
    rows = np.asarray(rows, np.float64)
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


# ------------------------------------------------------------------------------------------------------- protocols


def test_every_protocol_that_can_be_asked_for_is_known_or_refused_with_the_way_out() -> None:
    for name in get_args(ProtocolName):
        if name == "pose-logits":
            with pytest.raises(
                WeightsMissingError, match=r"'pose-logits' needs the logits .* --protocol pose-degrees"
            ):
                choose_protocol(name)
        else:
            assert choose_protocol(name).name == name
    with pytest.raises(UsageError, match=r"^protocol 'ffpp' is unknown; expected one of facepipe, ffpp-10, "):
        choose_protocol("ffpp")


@given(st.lists(st.booleans(), max_size=1500), st.sampled_from(sorted(PROTOCOLS)))
def test_only_swapped_frames_are_measured(swapped: list[bool], name: str) -> None:
    protocol, done = PROTOCOLS[name], np.array(swapped, bool)
    frames = protocol.frames_of(len(done), done)
    heavy, rare = protocol.heavy_of(frames), protocol.rare_of(frames)
    assert done[frames].all()
    assert len(frames) == (done.sum() if protocol.frames is None else len(frames))
    assert len(frames) <= (protocol.frames or len(done))
    assert set(rare.tolist()) <= set(heavy.tolist()) <= set(frames.tolist())
    assert len(rare) <= 40
    assert len(heavy) >= min(len(frames), 80)


def test_ten_frames_of_a_clip_are_its_first_and_last_and_eight_between() -> None:
    frames = PROTOCOLS["ffpp-10"].frames_of(91, np.ones(91, bool))
    assert frames.tolist() == [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]


# -------------------------------------------------------------------------------------------------------- measures


def landmarks(side: int = 100, left: int = 30, top: int = 20) -> NDArray[np.float64]:
    return np.asarray(geometry.template("ibug68", side) + np.array([left, top]))


@pytest.mark.parametrize("color", [(236, 188, 180), (197, 140, 133), (120, 80, 60), (60, 40, 30)])
def test_brightness_and_skin_tone_are_those_of_lab(color: tuple[int, int, int]) -> None:
    image = np.empty((160, 160, 3), np.uint8)
    image[:] = color
    image[:20] = (0, 255, 0)  # not of the face
    lightness, _, yellow = rgb2lab(np.array([[color]], np.uint8))[0, 0]
    found = light(image, landmarks())
    assert found["brightness"] == pytest.approx(lightness, abs=0.3)
    assert found["skin"] == pytest.approx(math.degrees(math.atan((lightness - 50) / yellow)), abs=1)


def test_a_face_beside_the_picture_has_no_light_and_no_occlusion() -> None:
    image = np.zeros((50, 50, 3), np.uint8)
    assert light(image, landmarks(left=500)) == {"brightness": None, "skin": None}
    assert occluded_share(image[..., 0], landmarks(left=500)) is None


def test_what_the_mask_leaves_out_of_the_face() -> None:
    mask = np.full((160, 160), 255, np.uint8)
    assert occluded_share(mask, landmarks()) == 0
    points = landmarks()
    mask[:, round(float(points[:, 0].mean())) :] = 0
    assert occluded_share(mask, points) == pytest.approx(0.5, abs=0.03)
    assert occluded_share(np.zeros_like(mask), points) == 1


def moving(shift: int, *, brighter: int = 0) -> Moment:
    """A textured picture that moved to the right; the swap is brighter under the mask."""
    noise = np.random.default_rng(0).integers(0, 200, (12, 16, 3)).astype(np.uint8)
    whole = np.asarray(cv2.resize(noise, (240, 180), interpolation=cv2.INTER_CUBIC), np.uint8)
    target = np.ascontiguousarray(np.roll(whole, shift, axis=1))
    mask = np.zeros((180, 240), np.uint8)
    cv2.circle(mask, (120, 90), 50, 255, -1)
    drawn = np.clip(target.astype(np.int64) + brighter, 0, 255)
    return Moment(target, np.where(mask[..., None] > 0, drawn, target).astype(np.uint8), mask)


def test_a_swap_that_is_the_target_changes_as_the_target_does() -> None:
    values = over_time(moving(0), moving(2))
    assert values["flow_error_swapped"] == values["flow_error_target"]
    assert values["edge_flicker_swapped"] == values["edge_flicker_target"]
    assert values["flow_error_target"] is not None
    assert values["flow_error_target"] < 1e-3  # the flow explains it


def test_a_swap_that_flickers_changes_more() -> None:
    values = over_time(moving(0), moving(2, brighter=25))
    assert values["flow_error_swapped"] == pytest.approx((25 / 255) ** 2, rel=0.25)
    steady, flickering = values["edge_flicker_target"], values["edge_flicker_swapped"]
    assert steady is not None
    assert flickering is not None
    assert flickering > steady + 2


def test_without_a_mask_there_is_nothing_that_could_flicker() -> None:
    moment = moving(0)
    nothing = Moment(moment.target, moment.swapped, np.zeros_like(moment.mask))
    assert set(over_time(moment, nothing).values()) == {None}
    assert sharpness_of(nothing) == {"sharpness_swapped": None, "sharpness_target": None}


def test_a_blurred_swap_is_less_sharp_than_its_target() -> None:
    target = np.random.default_rng(0).integers(0, 256, (120, 120, 3)).astype(np.uint8)
    mask = np.zeros((120, 120), np.uint8)
    mask[30:90, 30:90] = 255
    drawn = cv2.GaussianBlur(target, (0, 0), 2)
    found = sharpness_of(Moment(target, np.where(mask[..., None] > 0, drawn, target).astype(np.uint8), mask))
    expected = [
        float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_32F)[31:89, 31:89].std())
        for image in (drawn, target)
    ]
    assert list(found.values()) == pytest.approx(expected, rel=1e-3)  # the seam counts for neither
    assert expected[0] < 0.1 * expected[1]
    same = sharpness_of(Moment(target, target, mask))
    assert same["sharpness_swapped"] == same["sharpness_target"]


# ------------------------------------------------------------------------------------------------------- intervals


def test_blocks_and_not_frames_are_drawn() -> None:
    """Frames that repeat each other say no more than one of them: as many draws as there are blocks."""
    values = np.random.default_rng(1).normal(size=12)
    blocks = np.arange(12)
    once = interval(values, blocks=blocks)
    often = interval(np.repeat(values, 50), blocks=np.repeat(blocks, 50))
    assert once is not None
    assert often is not None
    assert (often["low"], often["high"]) == pytest.approx((once["low"], once["high"]))
    assert (once["n"], often["n"]) == (12, 600)
    naive = interval(np.repeat(values, 50), blocks=np.arange(600))
    assert naive is not None
    assert naive["high"] - naive["low"] < 0.5 * (often["high"] - often["low"])


def test_few_blocks_give_a_number_without_an_interval_and_nothing_gives_nothing() -> None:
    values = np.array([1.0, 2.0, math.nan, 3.0])
    assert interval(values, blocks=np.array([0, 0, 9, 1])) == {"value": 2.0, "low": None, "high": None, "n": 3}
    assert interval(np.array([math.nan]), blocks=np.zeros(1, np.int64)) is None
    assert interval(np.empty(0), blocks=np.empty(0, np.int64)) is None


def test_a_block_is_a_second_of_a_track_of_a_clip() -> None:
    one, two = clip_of(25), clip_of(10)
    for row in range(5):
        one.put(row, {"track": 3})
    rows = Rows({"one": one, "two": two})
    assert len(rows) == 35
    assert [int((rows.blocks == block).sum()) for block in np.unique(rows.blocks)] == [5, 10, 5, 5, 10]


# -------------------------------------------------------------------------------------------------------- identity


def people(
    towards: int, *, count: int = 60, noise: float = 0.1, both_the_same: bool = False
) -> tuple[Rows, Originals]:
    """A swap whose faces look like person 0 (the source) or 1 (the target) of two."""
    random = np.random.default_rng(4)

    def faces(person: int, n: int) -> NDArray[np.float32]:
        return unit(np.eye(DIM)[person] + noise * random.normal(size=(n, DIM)))

    source, target = faces(0, 20), faces(0 if both_the_same else 1, 20)
    swapped = faces(towards, count)
    columns = {
        f"to_{kind}_net": metrics.cosine_similarity(swapped, person.mean(axis=0))
        for kind, person in (("source", source), ("target", target))
    }
    scores = clip_of(count, **columns)
    scores.embeddings["net"] = evaluation.records.Embedded(np.arange(count), swapped)
    return Rows({"clip": scores}), Originals({"net": source}, {"clip": {"net": target}})


def test_a_swap_that_worked_is_found_and_verified() -> None:
    section, missing = identity_section(*parts(people(0)), gallery=8)
    assert section["retrieval"]["frames"]["top1"]["value"] == 1
    assert section["retrieval"]["means"]["top1"]["value"] == 1
    assert section["retrieval"]["frames"]["gallery"] == 16
    assert section["retrieval"]["means"] | {"top1": 0, "top5": 0} == {
        "top1": 0,
        "top5": 0,
        "gallery": 2,
        "identities": 2,
    }
    assert section["verification"]["auc"]["value"] == 1
    assert section["verification"]["eer"]["value"] == 0
    assert (section["verification"]["same"], section["verification"]["different"]) == (60, 60)
    low, high = (section["intervals"]["margin"][end] for end in ("low", "high"))
    assert low < section["margin"] < high
    assert section["to_source"] == pytest.approx(section["ceiling"], abs=0.05)
    assert missing == {"floor"}  # no reference people know this net


def test_a_swap_that_did_nothing_is_found_as_the_target() -> None:
    section, _ = identity_section(*parts(people(1)), gallery=8)
    assert section["retrieval"]["frames"]["top1"]["value"] == 0
    assert section["retrieval"]["frames"]["top5"]["value"] == 0
    assert section["retrieval"]["means"]["top5"]["value"] == 1  # of two people
    assert section["verification"]["auc"]["value"] == 0
    assert section["margin"] < -0.5


def parts(both: tuple[Rows, Originals]) -> tuple[Rows, str, Originals]:
    return both[0], "net", both[1]


def test_whoever_is_the_source_is_nobody_else() -> None:
    """Source and target are one person: nobody is left to be told apart from."""
    section, missing = identity_section(*parts(people(0, both_the_same=True)), gallery=8)
    assert section["retrieval"] is None
    assert section["verification"] is None
    assert {"retrieval", "verification"} <= missing


def test_the_ceiling_leaves_each_face_out_of_its_mean() -> None:
    assert ceiling(unit(np.ones((5, DIM)))) == pytest.approx(1)
    assert ceiling(np.eye(3, DIM, dtype=np.float32)) == pytest.approx(0)  # with itself it would be 1 / sqrt(3)
    assert ceiling(np.eye(2, DIM, dtype=np.float32)) is None


def test_tracks_and_seconds_have_their_own_medians() -> None:
    values = np.concatenate([np.full(20, 0.8), np.full(10, 0.2)])
    scores = clip_of(30, to_source_net=values, to_target_net=np.zeros(30))
    for row in range(20, 30):
        scores.put(row, {"track": 1})
    section, _ = identity_section(Rows({"clip": scores}), "net", Originals({}, {}), gallery=4)
    assert [(t["track"], t["n"], t["margin"]) for t in section["tracks"]] == [(0, 20, 0.8), (1, 10, 0.2)]
    assert [(s["start"], s["stop"], s["n"], s["margin"]) for s in section["over_time"]] == [
        (0, 1, 10, 0.8),
        (1, 2, 10, 0.8),
        (2, 3, 10, 0.2),
    ]


# --------------------------------------------------------------------------------------------------------- buckets


@given(st.lists(st.floats(-90, 90), min_size=1, max_size=30))
def test_every_frame_is_in_one_bucket_of_each_kind(values: list[float]) -> None:
    columns = dict.fromkeys(KINDS, values)
    section, missing = bucket_section(Rows({"clip": clip_of(len(values), **columns)}), [])
    assert not missing
    for kind in KINDS:
        assert sum(bucket["n"] for bucket in section[kind]) == len(values)
        assert [bucket["high"] for bucket in section[kind]][:-1] == [bucket["low"] for bucket in section[kind]][1:]


def test_buckets_have_their_own_scores() -> None:
    yaw, source = [-50.0, 0.0, 20.0, 45.0], [0.1, 0.9, 0.5, 0.3]
    scores = clip_of(4, yaw=yaw, to_source_net=source, to_target_net=[0.0] * 4, pose_l2=[4.0, 1.0, 2.0, 8.0])
    scores.put(0, {"found": False})
    section, missing = bucket_section(Rows({"clip": scores}), ["net"])
    shown = {b["label"]: (b["n"], b["lost"], b["values"]["margin.net"], b["values"]["pose"]) for b in section["yaw"]}
    assert shown == {
        "below 15°": (1, 0, 0.9, 1.0),
        "15° to 30°": (1, 0, 0.5, 2.0),
        "30° to 45°": (0, 0, None, None),
        "45° and more": (2, 1, 0.2, 6.0),  # 45 belongs to what begins there
    }
    assert missing["buckets.occlusion"].startswith("swap.occlusion was off")


def test_skin_tones_have_the_names_of_their_angles() -> None:
    angles = [60.0, 50.0, 30.0, 20.0, 0.0, -40.0]
    section, _ = bucket_section(Rows({"clip": clip_of(6, skin=angles)}), [])
    names = ["dark", "brown", "tan", "intermediate", "light", "very light"]
    assert [(bucket["label"], bucket["n"]) for bucket in section["skin"]] == [(name, 1) for name in names]


# ----------------------------------------------------------------------------------------------------- worst frames


def test_the_worst_frames_come_first_and_say_why() -> None:
    random = np.random.default_rng(0)
    pose, margin = random.normal(3, 0.1, 60), random.normal(0.5, 0.01, 60)
    pose[10], margin[30], pose[11] = 9, 0.2, 8.9  # 11 is a neighbour of 10
    scores = clip_of(60, pose_l2=pose, to_source_net=margin, to_target_net=np.zeros(60))
    scores.put(50, {"found": False})
    rows = Rows({"clip": scores})
    worst = worst_frames(rows, ["net"], 3)
    assert [(one["frame"], one["why"]) for one in worst] == [(50, LOST), (10, "pose"), (30, "margin.net")]
    values, _ = badness(rows, ["net"])
    assert [one["badness"] for one in worst] == pytest.approx(values[[50, 10, 30]].tolist())
    assert worst[1]["values"]["pose_l2"] == 9
    listed = [one["seconds"] for one in worst_frames(rows, ["net"], 60)]
    assert min(abs(a - b) for i, a in enumerate(listed) for b in listed[:i]) >= 1
    assert worst_frames(rows, ["net"], 0) == []


def test_frames_that_do_not_differ_are_not_bad() -> None:
    rows = Rows({"clip": clip_of(20, pose_l2=[2.0] * 20)})
    assert not badness(rows, [])[0].any()
    assert worst_frames(rows, [], 12) == []


# ---------------------------------------------------------------------------------------------------- distributions


def feature_net(dim: int) -> FeatureNet:
    return FeatureNet(
        "fake", "a net, 8x8", dim, lambda images: Features(np.zeros((len(images), dim), np.float32), None)
    )


def faces(count: int, dim: int = 8, shift: float = 0.0, seed: int = 0) -> Features:
    random = np.random.default_rng(seed)
    values = random.normal(shift, 1, (count, dim)).astype(np.float32)
    return Features(values, np.exp(values) / np.exp(values).sum(axis=1, keepdims=True))


def test_distances_between_sets_are_told_with_n_and_interval() -> None:
    near, far = faces(80, seed=1), faces(80, shift=3, seed=2)
    section, missing = compare_sets(feature_net(8), faces(80), near, far)
    assert section is not None
    assert section["samples"] == {"swapped": 80, "target": 80, "source": 80}
    assert section["to_target"]["kernel"]["low"] < 0 < section["to_target"]["kernel"]["high"]
    assert section["to_source"]["kernel"]["low"] > section["to_target"]["kernel"]["high"]
    assert section["to_source"]["frechet"]["value"] == pytest.approx(8 * 9, rel=0.2)
    assert section["class_score"]["swapped"]["n"] == 80
    assert missing == {}


def test_too_few_faces_are_said_and_not_counted() -> None:
    section, missing = compare_sets(feature_net(8), faces(39), faces(80), faces(80))
    assert section is None
    assert missing == {"image.distribution": "39 swapped faces were sampled, 40 are needed"}
    section, missing = compare_sets(feature_net(100), faces(60, 100), faces(60, 100), None)
    assert section is not None
    assert section["to_target"]["frechet"] is None
    assert section["to_target"]["kernel"]["n"] == 60
    assert missing["image.distribution.to_target.frechet"].startswith("60 faces for 100 features")
    assert missing["image.distribution.to_source"] == "0 faces of one set, 40 are needed"


def test_a_net_without_classes_has_no_class_score() -> None:
    plain = Features(faces(50).values, None)
    section, missing = compare_sets(feature_net(8), plain, plain, plain)
    assert section is not None
    assert section["class_score"] == {"swapped": None, "target": None}
    assert missing["image.distribution.class_score.swapped"] == "the feature net has no classes"


# ----------------------------------------------------------------------------------------- summary, files, a real run


def nothings(node: Any, path: str = "") -> Iterator[str]:
    """Where a summary says None, but for the open ends of intervals and buckets and the cells of tables."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key not in ("low", "high", "values", "tracks", "over_time", "missing", "clips", "protocol", "buckets"):
                yield from nothings(value, path if key == "intervals" else f"{path}.{key}".lstrip("."))
    elif node is None:
        yield path


def explained(section: dict[str, Any]) -> None:
    missing = section["missing"]
    for path in nothings(section):
        assert any(path == name or path.startswith(name + ".") for name in missing), f"{path} is null without a reason"
    assert all(reason and "\n" not in reason for reason in missing.values())


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_whatever_is_missing_has_a_reason(name: str) -> None:
    pose = {f"pose_{angle}": [1.0] * 30 for angle in ("l2", "angle", "yaw", "pitch", "roll")}
    for clips in ({}, {"a": clip_of(3)}, {"a": clip_of(30, **pose), "b": clip_of(0)}):
        summary = evaluation.summarize(clips, Context(["irv1"], PROTOCOLS[name]))
        explained(summary)
        for part in summary["clips"].values():
            explained(part)
        json.dumps(summary, allow_nan=False)


def test_held_out_frames_are_summarized_on_their_own() -> None:
    source = [0.9] * 20 + [0.5] * 10
    scores = clip_of(30, to_source_net=source, to_target_net=[0.1] * 30, held_out=[i >= 20 for i in range(30)])
    scores.held_out_from = 20
    summary = evaluation.summarize({"clip": scores}, Context(["net"], share=0.2))
    assert summary["held_out"]["n"] == 10
    assert summary["held_out"]["from"] == {"clip": 20}
    assert summary["held_out"]["identity"]["net"]["margin"] == pytest.approx(0.4)
    assert summary["identity"]["net"]["margin"] == pytest.approx(0.8)


def test_rows_are_written_with_null_where_nothing_was_measured(tmp_path: Path) -> None:
    first = clip_of(2, outside_psnr=[None, 40.0], held_out=[False, True])
    second = clip_of(1, only_here=[1.5])
    evaluation.write_rows(tmp_path / "scores.parquet", {"a": first, "b": second}, [])
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table["clip"].to_pylist() == ["a", "a", "b"]
    assert table["outside_psnr"].to_pylist() == [None, 40.0, None]
    assert table["only_here"].to_pylist() == [None, None, 1.5]
    assert table["held_out"].to_pylist() == [False, True, None]
    assert table["found"].to_pylist() == [True, True, True]
    assert table["frame"].to_pylist() == [0, 1, 0]


def test_scores_of_another_version_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"scores.json: no scores yet; run `facepipe score --out"):
        evaluation.read_scores(tmp_path)
    (tmp_path / "scores.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"scores.json: damaged; run `facepipe score --out"):
        evaluation.read_scores(tmp_path)
    (tmp_path / "scores.json").write_text('{"facepipe": "0.1.0", "identity": {}}')
    with pytest.raises(RunFolderError, match=r"scores of version 1, this facepipe reads version 2; run `facepipe"):
        evaluation.read_scores(tmp_path)


def test_missing_reference_people_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path)
    originals.reference_people.cache_clear()
    try:
        with pytest.raises(RunFolderError, match=r"reference_people.npz: the reference people are missing or damaged"):
            originals.reference_people()
    finally:
        originals.reference_people.cache_clear()


DOCS = Path(__file__).parents[1] / "docs" / "evaluation.md"


@pytest.mark.models
def test_the_columns_and_keys_of_a_real_run_stand_in_the_documentation(run_folder: Any) -> None:
    text = DOCS.read_text(encoding="utf-8")
    table = pq.read_table(run_folder.out / "scores.parquet")
    rows = text.split("## scores.parquet")[1].split("## ")[0]
    told = set(
        re.findall(r"`([a-z_<>0-9]+)`", "".join(line.split("|")[1] for line in rows.splitlines() if "|" in line))
    )
    told |= {name.replace("<net>", net) for name in told for net in ("irv1", "sface")}
    assert set(table.column_names) <= told
    scores = evaluation.read_scores(run_folder.out)
    keys = set(re.findall(r"^([a-z_]+)\b", text.split("## scores.json")[1].split("```")[1], flags=re.MULTILINE))
    assert set(scores) <= keys | {"method"}
    explained(scores)


@pytest.mark.models
def test_a_real_swap_is_measured_in_every_part(run_folder: Any) -> None:
    scores = run_folder.result.scores
    assert scores["protocol"]["name"] == "facepipe"
    assert scores["image"]["reconstruction"]["psnr"]["value"] == scores["same_identity"]["psnr"]
    assert scores["pose"]["l2"]["n"] == 16
    assert 0 < scores["pose"]["yaw"]["value"] < 6
    assert 0 < scores["expression"]["l2"]["value"] < 0.1
    assert scores["image"]["sharpness"]["ratio"]["value"] < 1.2
    assert scores["time"]["flow_error"]["target"]["value"] < scores["time"]["flow_error"]["swapped"]["value"] * 2
    for net in ("irv1", "sface"):
        identity = scores["identity"][net]
        assert identity["retrieval"]["means"]["top1"]["value"] > 0.8
        assert identity["verification"]["auc"]["value"] > 0.95
        assert identity["ceiling"] > identity["to_source"]
    assert "16 swapped faces" in scores["missing"]["image.distribution"]
    assert "irises" in scores["missing"]["gaze"]
    assert scores["held_out"] is None
    assert sum(bucket["n"] for bucket in scores["buckets"]["yaw"]) == 16
    rows = pq.read_table(run_folder.out / "scores.parquet").to_pylist()
    assert np.median([row["pose_l2"] for row in rows]) == pytest.approx(scores["pose"]["l2"]["value"])
    assert scores["protocol"]["measures"]["pose"]["n"] == 16


@pytest.mark.models
def test_ten_frames_are_scored_as_papers_do(copied_run: Any, quick: tuple[str, ...]) -> None:
    from facepipe import pipeline

    config = pipeline.resolve(None, [*quick, "score.protocol=ffpp-10"], out=copied_run.out)
    result = pipeline.score(config)
    scores = result.scores
    assert scores is not None
    assert scores["frames"]["scored"] == 10
    assert scores["identity"]["sface"]["retrieval"]["frames"]["top1"]["n"] == 10
    assert scores["expression"]["l2"]["n"] == 10
    assert scores["outside"]["psnr"] is None
    assert scores["missing"]["outside"] == "the protocol ffpp-10 does not ask for it"
    explained(scores)
    assert pq.read_table(copied_run.out / "scores.parquet")["frame"].to_pylist() == [0, 2, 3, 5, 7, 8, 10, 12, 13, 15]


@pytest.mark.models
def test_damaged_scores_are_made_again(copied_run: Any, quick: tuple[str, ...]) -> None:
    from facepipe import pipeline

    config = pipeline.resolve(None, quick, out=copied_run.out)
    before = pipeline.score(config).scores
    for damage in ("{", '{"version": 1}'):
        (copied_run.out / "scores.json").write_text(damage)
        result = pipeline.score(config)
        assert [o.status for o in result.outcomes if o.stage == "score"] == ["done"]
        assert result.scores == before


@pytest.mark.models
def test_a_run_with_nothing_to_score_says_so(
    tmp_path: Path, short_clips: Any, clip_path: Any, quick: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    from facepipe.cli import main

    words = [word for item in quick for word in ("--set", item)]
    given = [
        "--source",
        str(short_clips.man),
        "--target",
        str(clip_path("no_face.mp4")),
        "--out",
        str(tmp_path / "RUN"),
    ]
    with pytest.raises(SystemExit) as ended:
        main(["score", *given, *words])
    assert ended.value.code == 1
    told = capsys.readouterr().err
    assert "no_face.mp4: no face found in " in told


@pytest.mark.models
def test_a_video_of_another_size_is_told_by_its_name(copied_run: Any, quick: tuple[str, ...], card: Any) -> None:
    from facepipe import pipeline
    from facepipe.video import open_clip, open_writer

    video = copied_run.out / "swapped" / "woman.mp4"
    with open_clip(video) as reader:
        info, times = reader.info, [frame.pts for frame in reader]
    half = SimpleNamespace(**{name: getattr(info, name) for name in info.__dataclass_fields__})
    half.size = (180, 320)
    with open_writer(video, half, audio_from=None) as writer:  # type: ignore[arg-type]
        for pts in times:
            writer.write(card(180, 320), pts)
    (copied_run.out / "score.json").unlink()
    result = pipeline.score(pipeline.resolve(None, quick, out=copied_run.out))
    (failed,) = result.failed
    assert failed.reason.startswith(f"{video}: is 320x180 with a mask of 640x360, and the target is 640x360")
