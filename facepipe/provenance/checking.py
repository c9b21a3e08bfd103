"""Reading labels back: who signed, what was done, and whether the file is still what was signed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from facepipe.errors import ConfigError, MediaError, one_line
from facepipe.provenance.credentials import ASSERTION, OFFLINE, SIDECAR, mime_of
from facepipe.provenance.identity import credentials_folder, own_root
from facepipe.provenance.labels import read_label
from facepipe.provenance.sets import SUMS, find_set, read_sums
from facepipe.workspace import file_sha256

__all__ = ["EXIT_CODES", "Status", "Verdict", "check", "worst"]

Status = Literal["intact", "none", "altered", "unreadable", "unsigned", "untrusted", "marked"]

EXIT_CODES: dict[Status, int] = {
    "intact": 0,
    "none": 1,
    "altered": 3,
    "unreadable": 4,
    "unsigned": 5,
    "untrusted": 6,
    "marked": 7,
}
"""What ``facepipe verify`` ends with; 2 is a wrong call, as everywhere. Of several files the gravest one counts."""

_GRAVITY: tuple[Status, ...] = ("intact", "none", "marked", "unsigned", "unreadable", "untrusted", "altered")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a file.

    Attributes
    ----------
    path : str
        The file.
    status : Status
        ``intact``: labelled by facepipe, signed, and not a byte of picture, sound or label differs. ``none``: no label
        of facepipe's (other credentials may be there). ``marked``: no label, and facepipe's invisible mark in its
        faces. ``unsigned``: the plain label alone, which anybody can write or copy; the credentials were lost, as they
        are when a file is encoded anew. ``altered``: the file is not what was signed. ``untrusted``: as signed, but
        not by whom it should be. ``unreadable``: no video.
    label : dict or None
        What facepipe says that it did; the signed statement where there is one.
    signer, issuer : str
        Names in the certificate; empty where nothing is signed.
    known : bool
        The signer's chain leads to a root that was given, or to this user's own self-made one.
    embedded : bool
        The manifest is in the file, not beside it.
    time : str
        When it was signed, if a time-stamp authority says so.
    actions : list of str
        What was done, as C2PA names it, in order.
    ingredients : list of dict
        ``role``, ``title`` and ``id`` (``urn:sha256:...``) of each input.
    problems : list of str
        Why it is not intact.
    mark : str
        First eight digits of the id of the run that the mark in its faces tells; empty where none was found.
    """

    path: str
    status: Status
    label: dict[str, Any] | None = None
    signer: str = ""
    issuer: str = ""
    known: bool = False
    embedded: bool = False
    time: str = ""
    actions: list[str] = field(default_factory=list)
    ingredients: list[dict[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    mark: str = ""

    def sentence(self) -> str:
        """One line for people, whatever the label and the file's name hold."""
        marked = f"; the mark in its faces: run {self.mark}" if self.mark else ""
        return one_line(self._said() + marked)

    def _said(self) -> str:
        said = self.label or {}
        by = said.get("software", "facepipe")
        made = f"swapped by {by}, method {said.get('method', 'unknown')}"
        if said.get("swapped") is False:
            made = f"an original, written by {by}"
        elif "dataset" in said:  # what is signed with a set and has no label of its own, as masks
            made = f"a file of a data set by {by}"
        who = f"signed by {self.signer} of {self.issuer}{'' if self.known else ', whom nobody here vouches for'}"
        why = "; ".join(self.problems)
        match self.status:
            case "intact":
                return f"{self.path}: intact; {made}; {who}"
            case "untrusted":
                return f"{self.path}: as signed, but {why}; {made}; {who}"
            case "altered":
                return f"{self.path}: ALTERED ({why}); {made if self.label else 'no readable label'}"
            case "unsigned":
                return f"{self.path}: a plain label without signature; it says: {made}"
            case "unreadable":
                return f"{self.path}: {why}"
            case "marked":
                return f"{self.path}: swapped by facepipe; its label is lost"
        return f"{self.path}: no label of facepipe's{f'; {who}' if self.signer else ''}"


def check(path: Path, *, trust: bytes | None = None) -> Verdict:
    """Read the label of a video or a picture and compare the file with it. Nothing is fetched from a network.

    Parameters
    ----------
    path : Path
        The file. A manifest beside it (`SIDECAR`) is read where it has none inside, and else the signed list of a
        data set that it belongs to (`facepipe.provenance.sets`).
    trust : bytes, optional
        Root certificates in PEM; with them a signer whose chain does not lead there is `untrusted`.

    Returns
    -------
    Verdict

    Raises
    ------
    ConfigError
        The root certificates, given or one's own, are none.
    """
    import c2pa

    name = str(path)
    try:
        plain = read_label(path)
        unreadable = ""
    except MediaError as exc:
        plain, unreadable = None, str(exc).removeprefix(f"{path}: ")
    try:
        with _context(own_root() if trust is None else trust) as context:
            store, embedded = _read_store(path, context)
    except c2pa.C2paError as exc:
        if isinstance(exc, c2pa.C2paError.ManifestNotFound) or (unreadable and not _beside(path)):
            listed = _in_a_set(path, plain, trust)
            if listed is not None and (listed.status == "altered" or not unreadable):
                return listed
            if unreadable:
                return Verdict(name, "unreadable", problems=[unreadable])
            return Verdict(name, "unsigned" if plain else "none", plain)
        problem = "the content credentials cannot be read: " + " ".join(str(exc).split())
        return Verdict(name, "altered", plain, problems=[problem])
    except OSError as exc:
        return Verdict(name, "unreadable", problems=[exc.strerror or str(exc)])
    return _judge(name, store, embedded=embedded, demanded=trust is not None)


def _in_a_set(path: Path, plain: dict[str, Any] | None, trust: bytes | None) -> Verdict | None:
    """What the signed list of a data set says of a file that has no credentials of its own."""
    found = find_set(path)
    if found is None:
        return None
    root, name = found
    whole = _check_list(root / SUMS, (root / SUMS).stat().st_mtime_ns, trust)
    label = whole.label if plain is None else plain
    try:
        same = file_sha256(path) == read_sums(root)[name]
    except OSError:  # it cannot be read at all
        return None
    if not same:
        problems = [f"it is not the file that {root / SUMS} lists", *whole.problems]
        return replace(whole, path=str(path), status="altered", label=label, problems=problems)
    return replace(whole, path=str(path), label=label)


@lru_cache(4)
def _check_list(path: Path, _changed: int, trust: bytes | None) -> Verdict:
    return check(path, trust=trust)


def worst(verdicts: Iterable[Verdict]) -> Status:
    """The gravest status of some."""
    return max((verdict.status for verdict in verdicts), key=_GRAVITY.index, default="none")


def _beside(path: Path) -> bytes | None:
    file = path.with_suffix(SIDECAR)
    return file.read_bytes() if file.is_file() else None


def _context(roots: bytes | None) -> Any:
    """Settings of the C2PA library: nothing is fetched, and these roots are trusted."""
    import c2pa

    if roots is None:
        return c2pa.Context.from_dict(OFFLINE)
    settings = {**OFFLINE, "verify": {**OFFLINE["verify"], "verify_trust": True}}
    settings["trust"] = {"trust_anchors": roots.decode("ascii", "replace")}
    try:
        return c2pa.Context.from_dict(settings)
    except c2pa.C2paError as exc:
        raise ConfigError(
            f"the root certificates are none ({exc}); give others with --trust, or look into {credentials_folder()}"
        ) from exc


def _read_store(path: Path, context: Any) -> tuple[dict[str, Any], bool]:
    """The manifests of a file as the C2PA library reports them, and whether they are inside of it."""
    import c2pa

    mime = mime_of(path)

    def read(beside: bytes | None) -> dict[str, Any]:
        kind = mime or "application/octet-stream"
        with (
            path.open("rb") as stream,
            c2pa.Reader(kind, stream, manifest_data=beside, context=context) as reader,
        ):
            store: dict[str, Any] = json.loads(reader.json())
            return store

    beside = _beside(path)
    if mime is not None:
        try:
            return read(None), True
        except c2pa.C2paError.ManifestNotFound:
            if beside is None:
                raise
    if beside is None:
        raise c2pa.C2paError.ManifestNotFound(f"no {SIDECAR} file beside it")
    return read(beside), False


def _judge(name: str, store: dict[str, Any], *, embedded: bool, demanded: bool) -> Verdict:
    manifest = store["manifests"][store["active_manifest"]]
    results = store.get("validation_results", {}).get("activeManifest", {})
    failures = {row["code"]: str(row.get("explanation") or row["code"]) for row in results.get("failure", [])}
    of_signer = {code for code in failures if code.startswith(("signingCredential.", "timeStamp."))}
    known = store.get("validation_state") == "Trusted"
    label = _statement(store)
    altered = [text for code, text in failures.items() if code not in of_signer]
    invalid = [failures[code] for code in sorted(of_signer - {"signingCredential.untrusted"})]
    strange = ["the signer is none of those asked for"] if demanded and not known else []
    status: Status = (
        "altered" if altered else "none" if label is None else "untrusted" if invalid + strange else "intact"
    )
    signature = manifest.get("signature_info") or {}
    return Verdict(
        name,
        status,
        label,
        signer=str(signature.get("common_name") or "somebody"),
        issuer=str(signature.get("issuer") or "nowhere"),
        known=known,
        embedded=embedded,
        time=str(signature.get("time") or ""),
        actions=[str(action.get("action")) for action in _actions(manifest)],
        ingredients=[
            {"role": str(one.get("relationship")), "title": str(one.get("title")), "id": str(one.get("instance_id"))}
            for one in manifest.get("ingredients", [])
        ],
        problems=altered or invalid + strange,
    )


def _statement(store: dict[str, Any]) -> dict[str, Any] | None:
    """facepipe's statement in the newest manifest that has one: others may have worked on the file since."""
    active = store["active_manifest"]
    manifests = store["manifests"]
    for label in (active, *(name for name in manifests if name != active)):
        for assertion in manifests[label].get("assertions", []):
            if str(assertion.get("label")) == ASSERTION and isinstance(assertion.get("data"), dict):
                return dict(assertion["data"])
    return None


def _actions(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    found = [a for a in manifest.get("assertions", []) if str(a.get("label", "")).startswith("c2pa.actions")]
    return [action for assertion in found for action in assertion["data"].get("actions", [])]
