"""What is made says what it is: labels, signed content credentials and their reader, and whose faces these are."""

from facepipe.provenance.checking import EXIT_CODES, Verdict, check, worst
from facepipe.provenance.credentials import SIDECAR, Input, label_video, prove, sidecar_of
from facepipe.provenance.identity import Identity, credentials_folder, load_identity, read_roots
from facepipe.provenance.labels import TAG, label, read_label, source_type, statement_of
from facepipe.provenance.ledger import consent_note, ledger_of, missing_consent, require_consent, weight_names

__all__ = [
    "EXIT_CODES",
    "SIDECAR",
    "TAG",
    "Identity",
    "Input",
    "Verdict",
    "check",
    "consent_note",
    "credentials_folder",
    "label",
    "label_video",
    "ledger_of",
    "load_identity",
    "missing_consent",
    "prove",
    "read_label",
    "read_roots",
    "require_consent",
    "sidecar_of",
    "source_type",
    "statement_of",
    "weight_names",
    "worst",
]
