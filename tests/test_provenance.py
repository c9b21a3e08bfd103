"""The label that every swapped video carries, and its reader."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import c2pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facepipe import __version__
from facepipe.errors import MediaError
from facepipe.provenance import TAG, label, read_label, source_type, statement_of
from facepipe.video import read_metadata

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(min_size=1, max_size=9), JSON, max_size=4))
def test_a_label_is_a_sentence_and_json(facts: dict[str, Any]) -> None:
    tags = label(**facts)
    assert set(tags) == {"comment", TAG}
    assert "Synthetic media" in tags["comment"]
    statement = json.loads(tags[TAG])
    assert {name: statement[name] for name in facts} == facts
    if "swapped" not in facts:
        assert statement["swapped"] is True


def test_what_it_says() -> None:
    statement = json.loads(label(method="procrustes")[TAG])
    assert statement["software"] == f"facepipe {__version__}"
    assert label(a=1, b=2) == label(b=2, a=1)  # equal runs make equal bytes


@pytest.mark.parametrize(
    ("method", "term"),
    [
        ("procrustes", "compositeCapture"),
        ("eigenface", "compositeWithTrainedAlgorithmicMedia"),
        ("gan", "compositeWithTrainedAlgorithmicMedia"),
        (None, "compositeWithTrainedAlgorithmicMedia"),
    ],
)
def test_the_source_type_is_one_of_iptc_s(method: str | None, term: str) -> None:
    """C2PA's library knows the same names."""
    assert source_type(method) == f"http://cv.iptc.org/newscodes/digitalsourcetype/{term}"
    assert re.sub(r"(?<!^)(?=[A-Z])", "_", term).upper() in c2pa.C2paDigitalSourceType.__members__
    statement = statement_of(label(method=method))
    assert statement is not None
    assert statement["digital_source_type"] == source_type(method)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_it_is_read_back_from_a_video(make_video: Callable[..., Path], tmp_path: Path, suffix: str) -> None:
    muxer = {} if suffix == ".mkv" else {"movflags": "use_metadata_tags"}
    tags = label(method="procrustes", run="abc", note="ü € 😀")
    path = make_video(tmp_path / f"x{suffix}", metadata=tags, muxer=muxer, count=2)
    statement = read_label(path)
    assert statement is not None
    assert (statement["method"], statement["run"], statement["note"]) == ("procrustes", "abc", "ü € 😀")


def test_videos_without_a_label(make_video: Callable[..., Path], tmp_path: Path) -> None:
    assert read_label(make_video(tmp_path / "plain.mp4", count=2)) is None
    for text in ("no json", "[1, 2]", '"x"'):
        path = make_video(tmp_path / "odd.mp4", count=2, metadata={TAG: text}, muxer={"movflags": "use_metadata_tags"})
        assert read_metadata(path)[TAG] == text
        assert read_label(path) is None


def test_what_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "x.mp4"
    path.write_text("not a video")
    with pytest.raises(MediaError, match=str(path)):
        read_label(path)
    with pytest.raises(MediaError, match="no such file"):
        read_label(tmp_path / "missing.mp4")
