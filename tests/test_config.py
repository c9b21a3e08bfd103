"""The settings: one model, unknown keys refused with the nearest one, TOML that reads back equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from facepipe import config as config_module
from facepipe.config import Config, LedgerEntry, build, load, to_toml
from facepipe.errors import ConfigError, UsageError
from facepipe.pipeline import resolve

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).map(Path)
CONFIGS = st.builds(
    lambda source, out, seed, limits, swap, nets, ledger: Config(
        source=source,
        out=out,
        seed=seed,
        limits=limits,
        swap=swap,
        score={"nets": nets},  # type: ignore[arg-type]
        ledger=ledger,
    ),
    source=st.none() | PATHS,
    out=st.none() | PATHS,
    seed=st.integers(0, 2**63 - 1),
    limits=st.fixed_dictionaries(
        {
            "max_pixels": st.integers(1, 10**9),
            "max_frames": st.none() | st.integers(1, 10**6),
            "min_sharpness": st.floats(0, 1e300),
        }
    ),
    swap=st.fixed_dictionaries(
        {
            "source_person": st.none() | PATHS,
            "person_similarity": st.floats(-0.999, 0.999),
            "skip": st.lists(st.sampled_from(["profile", "blurred", "small"]), unique=True).map(tuple),
            "crf": st.integers(0, 51),
        }
    ),
    nets=st.lists(st.sampled_from(["irv1", "sface"]), unique=True).map(tuple),
    ledger=st.dictionaries(
        st.sampled_from(["source", "target"]), st.fixed_dictionaries({"person": TEXT, "consent": TEXT})
    ),
)


@settings(deadline=None, max_examples=150)
@given(CONFIGS)
def test_toml_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, config: Config) -> None:
    path = tmp_path_factory.mktemp("toml") / "config.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert load(path) == config


def test_every_setting_has_a_default_and_a_text() -> None:
    def check(model: type[BaseModel]) -> None:
        for name, field in model.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                check(field.annotation)
            else:
                assert field.description, f"{model.__name__}.{name}"
                assert not field.is_required(), f"{model.__name__}.{name}"

    check(Config)
    assert Config() == build({})


@pytest.mark.parametrize(
    ("data", "near"),
    [
        ({"swap": {"colour": "reinhard"}}, "swap.color"),
        ({"detect": {"strid": 1}}, "detect.stride"),
        ({"sorce": "x"}, "source"),
        ({"limits": {"max_pixel": 5}}, "limits.max_pixels"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest_one(data: dict[str, Any], near: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown key .*did you mean '{near}'") as caught:
        build(data)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UsageError)
    assert isinstance(caught.value, ValueError)


def test_a_key_like_no_other_is_refused_without_a_guess() -> None:
    with pytest.raises(ConfigError) as caught:
        build({"zzzzzzzz": 1})
    assert str(caught.value) == "config: unknown key 'zzzzzzzz'"


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"detect": {"stride": 0}}, "detect.stride"),
        ({"detect": {"detector": "haar"}}, "detect.detector"),
        ({"swap": {"crf": 52}}, "swap.crf"),
        ({"swap": {"feather": -0.1}}, "swap.feather"),
        ({"limits": {"max_pixels": 0}}, "limits.max_pixels"),
        ({"seed": "many"}, "seed"),
    ],
)
def test_wrong_values_name_the_key_and_the_value(data: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(data, origin="my.toml")
    message = str(caught.value)
    assert message.startswith("my.toml: ")
    assert key in message
    assert "\n" not in message


def test_several_faults_are_counted() -> None:
    with pytest.raises(ConfigError, match=r"\(and 1 more\)"):
        build({"a": 1, "b": 2})


def test_overrides_take_toml_values_or_plain_text() -> None:
    config = build(
        {"swap": {"color": "none", "crf": 20}},
        ["swap.color=reinhard", "detect.stride = 1", 'swap.skip=["small"]', "score.nets=['sface']", "source=a b/c"],
    )
    assert (config.swap.color, config.swap.crf, config.detect.stride) == ("reinhard", 20, 1)
    assert config.swap.skip == ("small",)
    assert config.score.nets == ("sface",)
    assert config.source == Path("a b/c")


def test_overrides_leave_the_callers_mapping_alone() -> None:
    data = {"swap": {"color": "none"}}
    build(data, ["swap.color=reinhard", "detect.stride=2"])
    assert data == {"swap": {"color": "none"}}


@pytest.mark.parametrize("override", ["swap.color", "=1", "swap.=1", "seed.x=1"])
def test_malformed_overrides(override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        build({"seed": 1}, [override])


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Config().seed = 3
    with pytest.raises(ValidationError):
        Config().swap.crf = 3


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    cases = {"missing.toml": None, "broken.toml": b"[swap\n", "latin.toml": b"source = '\xff'", "folder.toml": None}
    (tmp_path / "folder.toml").mkdir()
    for name, content in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2


def test_the_file_is_named_in_its_faults(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[swap]\ncolour = 'none'\n")
    with pytest.raises(ConfigError, match=r"my\.toml: unknown key 'swap\.colour'; did you mean 'swap\.color'"):
        load(path)


# ------------------------------------------------------------------------------------------------------- resolve


def test_resolve_of_file_mapping_and_keywords(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("source = 'a'\ntarget = 'b'\n[swap]\ncrf = 7\n")
    from_file = resolve(path, out=tmp_path / "R")
    assert from_file == resolve(str(path), out=tmp_path / "R", source=None)
    assert from_file == resolve({"source": "a", "target": "b", "swap": {"crf": 7}}, out=tmp_path / "R")
    assert from_file == resolve(from_file)
    assert resolve(from_file, ["swap.crf=9"]).swap.crf == 9
    assert resolve(from_file, source="z").source == Path("z")


@pytest.mark.parametrize("missing", ["source", "target", "out"])
def test_resolve_names_what_is_not_given(missing: str) -> None:
    given_ = {key: "x" for key in ("source", "target", "out") if key != missing}
    with pytest.raises(UsageError, match=f"--{missing}"):
        resolve(given_)


def test_resolve_takes_the_run_folders_own_settings(tmp_path: Path) -> None:
    known = build({"source": "a", "target": "b", "out": str(tmp_path), "swap": {"crf": 7}})
    (tmp_path / "config.toml").write_text(to_toml(known))
    assert resolve(out=tmp_path) == known
    changed = resolve(None, ["swap.color=none"], out=tmp_path)
    assert (changed.swap.color, changed.swap.crf, changed.source) == ("none", 7, Path("a"))


def test_the_ledger_knows_two_sides_only() -> None:
    entry = LedgerEntry(person="A. N. Other", consent="form 7")
    ledger = build({"ledger": {"source": entry.model_dump()}}).ledger
    assert (ledger.source, ledger.target, ledger.required) == (entry, LedgerEntry(), False)
    with pytest.raises(ConfigError, match="ledger"):
        build({"ledger": {"nobody": {}}})


def test_settings_are_plain_json() -> None:
    """Keys of the run folder are hashes of this."""
    assert json.loads(json.dumps(Config().model_dump(mode="json"))) == Config().model_dump(mode="json")
    assert set(config_module.__all__) >= {"Config", "build", "load", "to_toml"}
