"""What is made says what it is: labels, signed content credentials and their reader, and whose faces these are."""

from facepipe.provenance.checking import EXIT_CODES, Verdict, check, worst
from facepipe.provenance.credentials import SIDECAR, Input, prove, sidecar_of, sign_file
from facepipe.provenance.identity import Identity, credentials_folder, load_identity, read_roots
from facepipe.provenance.labels import TAG, label, read_label, source_type, statement_of
from facepipe.provenance.ledger import consent_note, ledger_of, missing_consent, require_consent, weight_names
from facepipe.provenance.sets import SUMS, read_sums, sign_folder, wrong_files

__all__ = [
    "EXIT_CODES",
    "SIDECAR",
    "SUMS",
    "TAG",
    "Identity",
    "Input",
    "Verdict",
    "check",
    "consent_note",
    "credentials_folder",
    "label",
    "ledger_of",
    "load_identity",
    "missing_consent",
    "prove",
    "read_label",
    "read_roots",
    "read_sums",
    "require_consent",
    "sidecar_of",
    "sign_file",
    "sign_folder",
    "source_type",
    "statement_of",
    "weight_names",
    "worst",
    "wrong_files",
]
