"""Signed content credentials (C2PA 2.2): inside of the video where its kind allows it, else in a file beside it."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from facepipe import __version__
from facepipe.errors import ConfigError, MediaError
from facepipe.provenance.identity import Identity
from facepipe.provenance.labels import source_type
from facepipe.workspace import atomic_path

__all__ = ["ASSERTION", "MIME", "OFFLINE", "SIDECAR", "Input", "mime_of", "prove", "sidecar_of", "sign_file"]

SIDECAR = ".c2pa"
"""Suffix of the manifest beside a video that cannot hold it."""

ASSERTION = "org.facepipe.swap"
"""Name of the assertion that holds the same statement as the plain label."""

MIME = {
    ".mp4": "video/mp4",
    ".m4v": "video/x-m4v",
    ".mov": "video/quicktime",
    ".avi": "video/avi",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
}
"""The kinds of file that can hold a manifest, by suffix."""

_ANY = "application/octet-stream"

OFFLINE: dict[str, Any] = {
    "verify": {"verify_trust": False, "ocsp_fetch": False, "remote_manifest_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
"""Settings of the C2PA library: nothing is fetched. Trust is another question than integrity, see `checking`."""


@dataclass(frozen=True, slots=True)
class Input:
    """A clip that went into a swap: its file, what it gave, and its hash as the manifest of the run has it."""

    path: Path
    side: Literal["source", "target"]
    sha256: str


def sign_file(part: Path, path: Path, statement: dict[str, Any], inputs: Sequence[Input], identity: Identity) -> None:
    """Give a finished file its content credentials, before it takes its final name.

    Parameters
    ----------
    part : Path
        The file, complete but for its name; it is replaced by the signed one. A kind of file that cannot hold a
        manifest stays as it is and gets one beside `path`, with the suffix `SIDECAR`.
    path : Path
        The final name.
    statement : dict
        What the plain label says; see `facepipe.provenance.statement_of`.
    inputs : sequence of Input
        The target clip and the source clips; they become the ingredients. Without any the file was created here.
    identity : Identity
        Who signs.

    Raises
    ------
    MediaError
        It could not be signed; there is no way to go on without.
    """
    import c2pa

    mime, beside = MIME.get(path.suffix.lower()), sidecar_of(path)
    signed = part.with_name(f"{part.name}.signed.part")
    try:
        manifest = _definition(path, statement, inputs)
        with c2pa.Context.from_dict(OFFLINE) as context, c2pa.Builder(manifest, context) as builder:
            for name, one in _named(inputs).items():
                _add_ingredient(builder, name, one)
            if beside is not None:
                builder.set_no_embed()
            with part.open("rb") as source, signed.open("w+b") as target, _signer(identity) as signer:
                store = builder.sign(signer, mime or _ANY, source, target)
        if beside is not None:
            with atomic_path(beside) as new:
                new.write_bytes(store)
        else:
            os.replace(signed, part)
    except (c2pa.C2paError, OSError) as exc:
        raise MediaError(f"{path}: the content credentials cannot be written: {_reason(exc)}") from exc
    finally:
        signed.unlink(missing_ok=True)


def mime_of(video: Path) -> str | None:
    """The kind of a video that can hold a manifest, as its first bytes say, or else its name; None for another."""
    suffix = video.suffix.lower()
    with video.open("rb") as file:
        start = file.read(12)
    if start.startswith(b"RIFF") and start.endswith(b"AVI "):
        return MIME[".avi"]
    if start.startswith(b"\x1a\x45\xdf\xa3"):  # Matroska, WebM
        return None
    if start[4:8] == b"ftyp":  # ISO/IEC 14496-12, 4.3
        return MIME[".mp4" if suffix == ".avi" else suffix] if suffix in MIME else MIME[".mp4"]
    return MIME.get(suffix)


def sidecar_of(video: Path) -> Path | None:
    """Where the manifest of a video lies that cannot hold it; None for one that can."""
    return None if video.suffix.lower() in MIME else video.with_suffix(SIDECAR)


def prove(identity: Identity) -> None:
    """Sign a few bytes and nothing else, so that a certificate that does not do is told before the work, not after.

    Raises
    ------
    ConfigError
        The C2PA library does not sign with it.
    """
    import c2pa

    manifest = _definition(Path("nothing"), {"digital_source_type": "http://c2pa.org/digitalsourcetype/empty"}, ())
    offline = Identity(identity.chain, identity.key, identity.algorithm)
    try:
        with c2pa.Context.from_dict(OFFLINE) as context, c2pa.Builder(manifest, context) as builder:
            builder.set_no_embed()
            with _signer(offline) as signer:
                builder.sign(signer, _ANY, io.BytesIO(b"facepipe"), io.BytesIO())
    except c2pa.C2paError as exc:
        raise ConfigError(
            f"credentials.certificate: C2PA does not sign with it ({_reason(exc)}); it asks for a chain whose first "
            "certificate is for digital signatures and e-mail protection and is not its own issuer"
        ) from exc


def _signer(identity: Identity) -> Any:
    import c2pa

    facts = (identity.algorithm, identity.chain, identity.key, identity.timestamps)
    return c2pa.Signer.from_info(c2pa.C2paSignerInfo(*facts))


def _definition(path: Path, statement: dict[str, Any], inputs: Sequence[Input]) -> dict[str, Any]:
    """The manifest: the target is opened, the source's face placed, the whole edited (C2PA 2.2, "Actions")."""
    software = {"name": "facepipe", "version": __version__}
    kind = {"digitalSourceType": statement.get("digital_source_type", source_type(None))}
    placed = [name for name, one in _named(inputs).items() if one.side == "source"]
    actions = [
        {"action": "c2pa.opened", "parameters": {"ingredientIds": ["target"]}},
        *([{"action": "c2pa.placed", "parameters": {"ingredientIds": placed}}] if placed else []),
        {"action": "c2pa.edited", "description": "The face was replaced.", "softwareAgent": software, **kind},
    ]
    if not inputs:
        actions = [{"action": "c2pa.created", "softwareAgent": software, **kind}]
    # No action has a time: nobody but a time-stamp authority could vouch for it.
    identifier = {"instance_id": f"xmp:iid:{UUID(run)}"} if _is_uuid(run := str(statement.get("run", ""))) else {}
    return {
        "claim_generator_info": [software],
        "title": path.name,
        **identifier,
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": actions, "allActionsIncluded": True}, "created": True},
            {"label": ASSERTION, "data": statement, "created": True},
        ],
    }


def _is_uuid(text: str) -> bool:
    return len(text) == 32 and all(digit in "0123456789abcdef" for digit in text)


def _named(inputs: Sequence[Input]) -> dict[str, Input]:
    """The inputs by the names that actions call them by inside of the manifest."""
    return {one.side if one.side == "target" else f"source-{i}": one for i, one in enumerate(inputs)}


def _add_ingredient(builder: Any, name: str, one: Input) -> None:
    """Name an input by its hash; the credentials that it has itself are carried along.

    File names are left out: they may tell names of people, and videos go further than run folders.
    """
    facts = {
        "title": f"{one.side} clip",
        "relationship": "parentOf" if one.side == "target" else "componentOf",
        "instance_id": f"urn:sha256:{one.sha256}",
        "label": name,
    }
    import c2pa

    if one.path.is_file() and (mime := mime_of(one.path)):
        with suppress(c2pa.C2paError), one.path.open("rb") as stream:  # a broken file: it is named all the same
            builder.add_ingredient(facts, mime, stream)
            return
    builder.add_ingredient(facts, _ANY, io.BytesIO())


def _reason(exc: Exception) -> str:
    return " ".join(str(exc).split())
