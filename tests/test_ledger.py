"""The ledger of consent and licences: what is missing is said once, and refused where that is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from facepipe import weights
from facepipe.cli import main
from facepipe.config import Config, build
from facepipe.errors import UsageError
from facepipe.provenance import consent_note, ledger_of, missing_consent, require_consent, weight_names

PERSON = {"person": "A. N. Other", "origin": "own camera", "licence": "own work", "consent": "form 7"}
WHOLE = {"source": PERSON, "target": {**PERSON, "person": "Somebody Else"}}
PEOPLE = [f"ledger.{side}.{name}" for side in ("source", "target") for name in PERSON]


def test_an_empty_ledger_lacks_both_people() -> None:
    assert missing_consent(Config()) == PEOPLE
    assert missing_consent(build({"ledger": {"target": PERSON}})) == PEOPLE[:4]
    assert missing_consent(build({"ledger": WHOLE})) == []
    assert missing_consent(build({"ledger": {**WHOLE, "source": {**PERSON, "consent": "  "}}})) == [
        "ledger.source.consent"
    ]


def test_each_missing_key_is_one_that_set_takes() -> None:
    missing = missing_consent(Config())
    assert missing_consent(build({}, [f"{key}=x" for key in missing])) == []


def test_weights_are_those_of_the_run_with_what_the_catalogue_says() -> None:
    config = build({"ledger": {"weights": {"irv1": {"licence": "asked the authors"}}}})
    found = ledger_of(config)["weights"]
    assert set(found) == weight_names(config) >= {"yunet", "facemesh", "irv1", "sface"}
    assert found["irv1"]["licence"] == "asked the authors"
    assert found["irv1"]["origin"].startswith("package ")
    assert found["yunet"]["licence"] == weights.entries()["yunet"].licence
    assert set(weight_names(config, scoring=False)) == {"yunet", "facemesh", "irv1"}


def test_weights_that_nobody_knows_are_refused() -> None:
    with pytest.raises(UsageError, match=r"ledger\.weights\.yunnet: the catalogue has no such weights"):
        missing_consent(build({"ledger": {"weights": {"yunnet": {"licence": "MIT"}}}}))


def test_gaps_are_a_note_and_on_demand_a_refusal() -> None:
    (note,) = consent_note(Config())
    assert all(key in note for key in PEOPLE)
    assert consent_note(build({"ledger": WHOLE})) == []
    require_consent(Config())
    with pytest.raises(UsageError, match=r"ledger\.source\.person.*--set ledger\.source\.person=") as raised:
        require_consent(build({"ledger": {"required": True}}))
    assert "\n" not in str(raised.value)
    require_consent(build({"ledger": {**WHOLE, "required": True}}))


def test_the_command_refuses_before_it_makes_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clips").mkdir()
    call = ["run", "--source", f"{tmp_path}/clips", "--target", f"{tmp_path}/clips", "--out", f"{tmp_path}/RUN"]
    with pytest.raises(SystemExit) as ended:
        main([*call, "--require-consent"])
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert told.startswith("facepipe: the ledger lacks ledger.source.person, ")
    assert told.count("\n") == 1
    assert not (tmp_path / "RUN").exists()


@pytest.mark.models
def test_the_manifest_of_a_run_has_the_ledger_and_its_gaps(quick_run: Any) -> None:
    ledger = json.loads((quick_run.out / "manifest.json").read_text())["ledger"]
    assert ledger["missing"] == PEOPLE
    assert ledger["source"] == dict.fromkeys(PERSON, "")
    assert ledger["weights"]["yunet"]["licence"]
    assert [note for note in quick_run.result.warnings if "ledger" in note] == consent_note(Config())
