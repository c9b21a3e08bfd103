"""The evaluation: protocols, what is measured on a frame, and the numbers that it comes to. See docs/evaluation.md."""

from __future__ import annotations

from facepipe.evaluation.distribution import LEAST_FACES, face_picture
from facepipe.evaluation.files import can_read, read_scores, write_rows
from facepipe.evaluation.originals import SAMPLES, Judge, embed_rows, mean_of, reference_people
from facepipe.evaluation.protocols import PROTOCOLS, Protocol, choose_protocol
from facepipe.evaluation.records import ClipScores, Originals
from facepipe.evaluation.summary import VERSION, Context, summarize

__all__ = [
    "LEAST_FACES",
    "PROTOCOLS",
    "SAMPLES",
    "VERSION",
    "ClipScores",
    "Context",
    "Judge",
    "Originals",
    "Protocol",
    "can_read",
    "choose_protocol",
    "embed_rows",
    "face_picture",
    "mean_of",
    "read_scores",
    "reference_people",
    "summarize",
    "write_rows",
]
