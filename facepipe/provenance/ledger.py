"""The ledger: whose faces, from where, under which licence, with whose consent; and whose weights."""

from __future__ import annotations

from typing import Any

from facepipe import weights
from facepipe.config import Config
from facepipe.errors import UsageError
from facepipe.types import SIDES

__all__ = ["consent_note", "ledger_of", "missing_consent", "require_consent", "weight_names"]


def weight_names(config: Config, *, scoring: bool = True) -> set[str]:
    """Names of the weights in the catalogue that a run loads, with or without those of its scores."""
    names: set[str] = {config.detect.detector, config.detect.landmarker, config.detect.embedder}
    if scoring:
        names |= {*config.score.nets, config.score.features}
    return names & set(weights.entries())


def ledger_of(config: Config) -> dict[str, Any]:
    """The whole ledger of a run, as it stands in ``manifest.json``.

    Returns
    -------
    dict
        ``source`` and ``target`` with ``person``, ``origin``, ``licence``, ``consent``; ``weights`` with ``origin``
        and ``licence`` by name, the catalogue's where the configuration says nothing; ``missing``, see
        `missing_consent`.

    Raises
    ------
    UsageError
        The configuration speaks of weights that the catalogue does not know.
    """
    people: dict[str, dict[str, str]] = {side: getattr(config.ledger, side).model_dump() for side in SIDES}
    known, told = weights.entries(), config.ledger.weights
    if unknown := sorted(set(told) - set(known)):
        raise UsageError(f"ledger.weights.{unknown[0]}: the catalogue has no such weights; see facepipe models list")
    nets = {}
    for name in sorted(weight_names(config) | set(told)):
        entry, said = known[name], told.get(name)
        origin = (said.origin if said else "") or "; ".join(str(source) for source in entry.sources)
        nets[name] = {"origin": origin, "licence": (said.licence if said else "") or entry.licence}
    return {**people, "weights": nets, "missing": _missing({**people, "weights": nets})}


def _missing(ledger: dict[str, Any]) -> list[str]:
    rows: list[tuple[str, dict[str, str]]] = [(side, ledger[side]) for side in SIDES]
    rows += [(f"weights.{name}", entry) for name, entry in ledger["weights"].items()]
    return [f"ledger.{name}.{key}" for name, entry in rows for key, text in entry.items() if not text.strip()]


def missing_consent(config: Config) -> list[str]:
    """The entries of the ledger that say nothing, as the keys that give them: ``ledger.source.consent``."""
    missing: list[str] = ledger_of(config)["missing"]
    return missing


def consent_note(config: Config) -> list[str]:
    """One line about the gaps of the ledger, or none where there are none."""
    missing = missing_consent(config)
    told = f"the ledger lacks {', '.join(missing)}; see docs/labels.md, and --require-consent to insist"
    return [told] if missing else []


def require_consent(config: Config) -> None:
    """Refuse a run whose ledger has gaps, where ``ledger.required`` says so.

    Raises
    ------
    UsageError
        Names what is missing and how to give it.
    """
    missing = missing_consent(config)
    if config.ledger.required and missing:
        raise UsageError(
            f"the ledger lacks {', '.join(missing)}; give each in the configuration file or as "
            f"--set {missing[0]}='...' (who is seen, where from, under which licence, reference of the consent)"
        )
