"""Signed content credentials: what they say, who signs, and that no byte of a video changes unseen."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.main import get_command

import facepipe
from facepipe import __version__, cli
from facepipe.cli import main
from facepipe.config import Config, CredentialsConfig
from facepipe.errors import ConfigError, MediaError, UsageError
from facepipe.provenance import (
    EXIT_CODES,
    Identity,
    Input,
    Verdict,
    check,
    label,
    load_identity,
    prove,
    read_sums,
    sidecar_of,
    sign_file,
    sign_folder,
    statement_of,
    worst,
    wrong_files,
)
from facepipe.video import write_image
from facepipe.workspace import file_sha256

Maker = Callable[..., Path]
Signed = Callable[..., Path]
SWAPPED = {"method": "gan", "run": "0123456789abcdef" * 2}


@pytest.fixture
def signed(make_video: Maker, tmp_path: Path) -> Signed:
    """``signed(name, identity=None)``: a labelled and signed video of two generated clips."""

    def make(name: str, identity: Identity | None = None, *, target: Path | None = None) -> Path:
        clips = [target or tmp_path / "clips" / "target.mp4", tmp_path / "clips" / "source.mkv"]
        inputs = [
            Input(clip, side, file_sha256(clip))  # type: ignore[arg-type]
            for clip, side in zip(clips, ("target", "source"), strict=True)
        ]
        tags = label(**SWAPPED, target_sha256=inputs[0].sha256, source_sha256=[inputs[1].sha256])
        path = tmp_path / name
        muxer = {} if path.suffix == ".mkv" else {"movflags": "use_metadata_tags+faststart"}
        made = make_video(path.with_stem(f"{path.stem}-bare"), count=5, metadata=tags, muxer=muxer)
        part = path.with_name(f"{name}.part")
        made.rename(part)
        sign_file(part, path, statement_of(tags) or {}, inputs, identity or load_identity(CredentialsConfig()))
        assert [p.name for p in tmp_path.glob("*.part")] == [part.name]
        part.rename(path)
        return path

    (tmp_path / "clips").mkdir()
    for name in ("target.mp4", "source.mkv"):
        make_video(tmp_path / "clips" / name, count=2)
    return make


# ------------------------------------------------------------------------------------------------ what the videos say


def test_the_library_itself_reads_the_manifest(signed: Signed, tmp_path: Path) -> None:
    """As a stranger would, with nothing of facepipe's."""
    path = signed("x.mp4")
    with path.open("rb") as file, c2pa.Reader("video/mp4", file) as reader:
        store = json.loads(reader.json())
    manifest = store["manifests"][store["active_manifest"]]
    assert store["validation_state"] == "Valid"
    assert manifest["claim_version"] == 2
    assert manifest["title"] == "x.mp4"
    assert manifest["claim_generator_info"][0]["name"] == "facepipe"
    assert manifest["claim_generator_info"][0]["version"] == __version__
    assertions = {one["label"]: one["data"] for one in manifest["assertions"]}
    opened, placed, edited = assertions["c2pa.actions.v2"]["actions"]
    assert [opened["action"], placed["action"], edited["action"]] == ["c2pa.opened", "c2pa.placed", "c2pa.edited"]
    assert edited["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert edited["softwareAgent"] == {"name": "facepipe", "version": __version__}
    assert assertions["org.facepipe.swap"]["run"] == SWAPPED["run"]
    target, source = manifest["ingredients"]
    hashes_ = [file_sha256(tmp_path / "clips" / name) for name in ("target.mp4", "source.mkv")]
    assert [target["instance_id"], source["instance_id"]] == [f"urn:sha256:{one}" for one in hashes_]
    assert [target["relationship"], source["relationship"]] == ["parentOf", "componentOf"]
    assert "clips" not in json.dumps(store)  # neither folders nor file names of the inputs


@pytest.mark.parametrize("name", ["x.mp4", "x.m4v", "x.mov", "x.mkv"])
def test_every_kind_of_video_is_found_intact(signed: Signed, name: str) -> None:
    path = signed(name)
    verdict = check(path)
    assert (verdict.status, verdict.problems, verdict.known) == ("intact", [], True)
    assert verdict.embedded == (name != "x.mkv")
    beside = sidecar_of(path)
    assert (beside is not None and beside.is_file()) == (name == "x.mkv")
    assert verdict.actions == ["c2pa.opened", "c2pa.placed", "c2pa.edited"]
    assert [one["role"] for one in verdict.ingredients] == ["parentOf", "componentOf"]
    assert verdict.label is not None
    assert verdict.label["method"] == "gan"
    assert "intact" in verdict.sentence()


def test_the_pictures_are_those_that_were_written(signed: Signed, tmp_path: Path) -> None:
    from facepipe.video import open_clip

    path = signed("x.mp4")
    with open_clip(path) as reader:
        assert len([frame.image for frame in reader]) == 5


def test_credentials_of_an_input_are_carried_along(signed: Signed, tmp_path: Path) -> None:
    first = signed("first.mp4")
    second = signed("second.mp4", target=first)
    with second.open("rb") as file, c2pa.Reader("video/mp4", file) as reader:
        store = json.loads(reader.json())
    assert len(store["manifests"]) == 2
    assert check(second).status == "intact"


@pytest.mark.parametrize("where", ["mdat", "uuid"])
def test_an_input_with_broken_credentials_is_no_obstacle(signed: Signed, where: str) -> None:
    """The new video says that its input was broken, and is intact itself."""
    first = signed("first.mp4")
    data = bytearray(first.read_bytes())
    start, end = next((start, end) for kind, start, end in _boxes(bytes(data)) if kind == where)
    data[(start + end) // 2] ^= 255
    data[start + 100] ^= 255
    first.write_bytes(data)
    assert check(first).status == "altered"
    assert check(signed("second.mp4", target=first)).status == "intact"


def test_equal_videos_differ_in_the_manifest_alone(signed: Signed, contents: Callable[[Path], Any]) -> None:
    """The C2PA library salts each assertion: the fixture `contents` leaves exactly that box out."""
    one, two = signed("one.mp4"), signed("two.mp4")
    folders = [path.parent / path.stem for path in (one, two)]
    for path, folder in zip((one, two), folders, strict=True):
        folder.mkdir()
        shutil.copy(path, folder / "x.mp4")
    assert one.read_bytes() != two.read_bytes()
    assert contents(folders[0]) == contents(folders[1])
    data = bytearray(one.read_bytes())
    data[-10] ^= 1
    (folders[1] / "x.mp4").write_bytes(data)
    assert contents(folders[0]) != contents(folders[1])


# ---------------------------------------------------------------------------------------------------- what is altered


def _boxes(data: bytes) -> Iterator[tuple[str, int, int]]:
    """Top-level boxes of an mp4: type, start, end."""
    place = 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 4])
        yield data[place + 4 : place + 8].decode("latin-1"), place, place + size
        place += size


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), box=st.sampled_from(["moov", "mdat"]))
def test_one_flipped_bit_is_found(signed: Signed, tmp_path: Path, where: float, bit: int, box: str) -> None:
    path = tmp_path / "whole.mp4"
    if not path.exists():
        signed("whole.mp4")
    data = bytearray(path.read_bytes())
    (start, end) = next((start, end) for kind, start, end in _boxes(bytes(data)) if kind == box)
    data[start + int(where * (end - start))] ^= 1 << bit
    altered = tmp_path / "altered.mp4"
    altered.write_bytes(data)
    assert check(altered).status in ("altered", "unreadable")
    assert check(path).status == "intact"


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_beside_a_sidecar_is_found(signed: Signed, tmp_path: Path, where: float, bit: int) -> None:
    path = tmp_path / "whole.mkv"
    if not path.exists():
        signed("whole.mkv")
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1 << bit
    altered = tmp_path / "altered.mkv"
    altered.write_bytes(data)
    shutil.copy(tmp_path / "whole.c2pa", tmp_path / "altered.c2pa")
    assert check(altered).status in ("altered", "unreadable")


def test_a_changed_statement_is_found(signed: Signed, tmp_path: Path) -> None:
    path = signed("x.mp4")
    data = path.read_bytes()
    assert data.count(SWAPPED["run"].encode()) == 2  # the plain label, and the signed statement
    for number in (1, 2):
        parts = data.split(SWAPPED["run"].encode(), number)
        forged = SWAPPED["run"].encode().join(parts[:number]) + b"f" * 32 + parts[number]
        altered = tmp_path / "altered.mp4"
        altered.write_bytes(forged)
        verdict = check(altered)
        assert verdict.status == "altered"
        assert "ALTERED" in verdict.sentence()


def test_credentials_of_another_video_do_not_fit(signed: Signed, tmp_path: Path, make_video: Maker) -> None:
    signed("x.mkv")
    other = make_video(tmp_path / "other.mkv", count=4)
    shutil.copy(tmp_path / "x.c2pa", tmp_path / "other.c2pa")
    assert check(other).status == "altered"


def test_without_credentials(make_video: Maker, tmp_path: Path) -> None:
    plain = make_video(tmp_path / "plain.mp4", count=2)
    assert check(plain).status == "none"
    muxer = {"movflags": "use_metadata_tags"}
    tagged = make_video(tmp_path / "tagged.mp4", count=2, metadata=label(**SWAPPED), muxer=muxer)
    verdict = check(tagged)
    assert verdict.status == "unsigned"
    assert verdict.label is not None
    assert verdict.label["method"] == "gan"
    text = tmp_path / "text.mp4"
    text.write_text("text")
    assert check(text).status == "unreadable"
    assert check(tmp_path / "missing.mp4").status == "unreadable"
    (tmp_path / "broken.c2pa").write_bytes(b"no manifest")
    broken = make_video(tmp_path / "broken.mkv", count=2, metadata=label(**SWAPPED))
    assert check(broken).status == "altered"


def test_credentials_without_a_swap_are_no_label(make_video: Maker, tmp_path: Path) -> None:
    """A camera's, for instance."""
    path, bare = tmp_path / "camera.mp4", make_video(tmp_path / "bare.mp4", count=2)
    identity = load_identity(CredentialsConfig())
    kind = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
    created = {"actions": [{"action": "c2pa.created", "digitalSourceType": kind}]}
    manifest = {"assertions": [{"label": "c2pa.actions.v2", "data": created, "created": True}]}
    info = c2pa.C2paSignerInfo(identity.algorithm, identity.chain, identity.key, None)
    with c2pa.Context() as context, c2pa.Builder(manifest, context) as builder, c2pa.Signer.from_info(info) as signer:
        builder.sign_file(bare, path, signer)
    verdict = check(path)
    assert (verdict.status, verdict.label, verdict.actions) == ("none", None, ["c2pa.created"])
    assert "no label of facepipe's; signed by" in verdict.sentence()


def test_the_gravest_of_several_counts() -> None:
    verdicts = [Verdict("x", status) for status in EXIT_CODES]
    assert worst(verdicts) == "altered"
    assert worst(verdicts[:2]) == "none"
    assert worst(verdicts[:1]) == "intact"
    assert len(set(EXIT_CODES.values()) | {2}) == len(EXIT_CODES) + 1
    assert EXIT_CODES["intact"] == 0


# --------------------------------------------------------------------------------------------------------- who signs


def test_the_self_made_certificate_is_made_once_and_kept_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a" / "own"
    monkeypatch.setenv("FACEPIPE_CREDENTIALS", str(folder))
    first = load_identity(CredentialsConfig())
    prove(first)
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert load_identity(CredentialsConfig()) == first
    assert "PRIVATE" not in repr(first)
    assert b"PRIVATE" not in first.chain
    assert sorted(p.name for p in folder.iterdir()) == ["chain.pem", "key.pem", "root.pem"]
    assert [p.name for p in folder.parent.iterdir()] == ["own"]


def test_many_at_once_make_one_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEPIPE_CREDENTIALS", str(tmp_path / "own"))
    found: list[Identity] = []
    threads = [threading.Thread(target=lambda: found.append(load_identity(CredentialsConfig()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({identity.key for identity in found}) == 1


def test_where_no_certificate_can_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FACEPIPE_CREDENTIALS", str(tmp_path / "file" / "own"))
    with pytest.raises(UsageError, match="FACEPIPE_CREDENTIALS"):
        load_identity(CredentialsConfig())


KEYS: dict[str, Callable[[], Any]] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "es256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "es384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "es512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ps256": lambda: rsa.generate_private_key(65537, 2048),
}


def write_chain(folder: Path, key: Any, *, days: int = 10, usage: bool = True) -> tuple[CredentialsConfig, bytes]:
    """A laboratory's own authority and a certificate that it gave; its root too."""
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=20 if days < 0 else 1)
    root_key = ec.generate_private_key(ec.SECP256R1())
    chain = []
    for name, own, is_root in (("laboratory", key, False), ("authority", root_key, True)):
        subject, issuer = (
            x509.Name(
                [
                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, "University"),
                    x509.NameAttribute(NameOID.COMMON_NAME, n),
                ]
            )
            for n in (name, "authority")
        )
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(own.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(not is_root, False, False, False, False, is_root, is_root, False, False), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        )
        if usage and not is_root:
            builder = builder.add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
            )
        chain.append(builder.sign(root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    folder.mkdir(exist_ok=True)
    (folder / "chain.pem").write_bytes(b"".join(chain))
    (folder / "key.pem").write_bytes(secret)
    return CredentialsConfig(certificate=folder / "chain.pem", key=folder / "key.pem"), chain[1]


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_certificate_of_ones_own(signed: Signed, tmp_path: Path, algorithm: str) -> None:
    config, root = write_chain(tmp_path / "pki", KEYS[algorithm]())
    identity = load_identity(config)
    assert identity.algorithm == algorithm
    prove(identity)
    path = signed("x.mp4", identity)
    alone = check(path)
    assert (alone.status, alone.known, alone.signer, alone.issuer) == ("intact", False, "laboratory", "University")
    assert "nobody here vouches for" in alone.sentence()
    trusted = check(path, trust=root)
    assert (trusted.status, trusted.known) == ("intact", True)


def test_a_stranger_s_signature_is_told_from_one_s_own(signed: Signed, tmp_path: Path) -> None:
    """Whoever alters a video can sign it anew, but not as somebody else."""
    config, root = write_chain(tmp_path / "pki", KEYS["es256"]())
    own = signed("own.mp4")
    with pytest.raises(ConfigError, match="root certificates are none"):
        check(own, trust=b"")
    verdict = check(own, trust=root)
    assert (verdict.status, verdict.problems) == ("untrusted", ["the signer is none of those asked for"])
    assert check(signed("theirs.mp4", load_identity(config)), trust=root).status == "intact"


def test_mistakes_with_certificates_are_one_line(tmp_path: Path) -> None:
    good, _ = write_chain(tmp_path / "good", KEYS["es256"]())
    other, _ = write_chain(tmp_path / "other", KEYS["es256"]())
    old, _ = write_chain(tmp_path / "old", KEYS["es256"](), days=-5)
    (tmp_path / "text").write_text("text")
    mistakes = [
        (CredentialsConfig(certificate=good.certificate), "credentials.certificate is given without credentials.key"),
        (CredentialsConfig(key=good.key), "credentials.key is given without credentials.certificate"),
        (CredentialsConfig(certificate=good.certificate, key=other.key), "not the key of the first certificate"),
        (CredentialsConfig(certificate=tmp_path / "no", key=good.key), "cannot be read"),
        (CredentialsConfig(certificate=tmp_path / "text", key=good.key), "no certificate chain in PEM"),
        (CredentialsConfig(certificate=good.certificate, key=tmp_path / "text"), "no private key in PEM"),
        (old, "which is not now"),
    ]
    for config, words in mistakes:
        with pytest.raises(ConfigError, match=words) as raised:
            load_identity(config)
        assert "\n" not in str(raised.value)
    useless, _ = write_chain(tmp_path / "useless", KEYS["es256"](), usage=False)
    with pytest.raises(ConfigError, match="C2PA does not sign with it"):
        prove(load_identity(useless))


def test_a_run_tells_a_useless_certificate_before_the_work(make_video: Maker, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    clip = make_video(tmp_path / "clips" / "clip.mp4", count=2)
    config, _ = write_chain(tmp_path / "pki", KEYS["es256"](), usage=False)
    with pytest.raises(ConfigError, match="C2PA does not sign with it"):
        facepipe.swap(source=clip, target=clip, out=tmp_path / "RUN", credentials=config.model_dump())
    assert not (tmp_path / "RUN" / "source").exists()


def test_what_cannot_be_signed_is_not_left_unsigned(make_video: Maker, tmp_path: Path) -> None:
    part = tmp_path / "x.mp4.part"
    part.write_bytes(b"this is no video")
    clip = make_video(tmp_path / "clip.mp4", count=2)
    inputs = [Input(clip, "target", "0" * 64), Input(clip, "source", "0" * 64)]
    with pytest.raises(MediaError, match=r"x\.mp4: the content credentials cannot be written"):
        sign_file(part, tmp_path / "x.mp4", {}, inputs, load_identity(CredentialsConfig()))
    assert sorted(os.listdir(tmp_path)) == ["clip.mp4", "x.mp4.part"]


# --------------------------------------------------------------------------------------------------------- no switch


def _settings(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        nested = hasattr(field.annotation, "model_fields")
        yield from _settings(field.annotation, f"{prefix}{name}.") if nested else [(prefix + name, field)]


LABELS = ("label", "sign", "credential", "c2pa", "provenance", "metadata", "manifest", "watermark", "tag")


def test_no_setting_turns_labels_off() -> None:
    told = {name: field for name, field in _settings(Config) if any(word in name for word in LABELS)}
    assert set(told) == {"credentials.certificate", "credentials.key", "credentials.timestamps"}
    assert not any(field.annotation is bool for field in told.values())


def test_no_option_turns_labels_off() -> None:
    commands = [get_command(cli.app)]
    names: set[str] = set()
    while commands:
        command: Any = commands.pop()
        commands += getattr(command, "commands", {}).values()
        names |= {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    assert "--require-consent" in names  # it looked into the commands
    assert not {name for name in names if any(word in name for word in LABELS)}


def test_a_picture_has_a_plain_label(tmp_path: Path) -> None:
    """There is no signature, and it is said."""
    path = tmp_path / "a.png"
    write_image(path, np.zeros((8, 8, 3), np.uint8))
    assert check(path).status == "none"
    write_image(path, np.zeros((8, 8, 3), np.uint8), tags=label(method="procrustes", run="0"))
    verdict = check(path)
    assert verdict.status == "unsigned"
    assert verdict.label is not None
    assert verdict.label["method"] == "procrustes"


# ------------------------------------------------------------------------------------------------------ signed folders


@pytest.fixture
def data_set(make_video: Maker, tmp_path: Path) -> Path:
    root = tmp_path / "SET"
    (root / "below").mkdir(parents=True)
    make_video(root / "below" / "a.mp4", count=2, metadata=label(**SWAPPED), muxer={"movflags": "use_metadata_tags"})
    original = {"facepipe": json.dumps({"software": "facepipe", "swapped": False})}
    write_image(root / "b.png", np.zeros((8, 8, 3), np.uint8), tags=original)
    write_image(root / "c.png", np.zeros((8, 8, 3), np.uint8))
    (root / "d.json").write_text("{}")
    sign_folder(root, {"dataset": "x", **SWAPPED}, load_identity(CredentialsConfig()))
    return root


def test_one_signature_vouches_for_a_folder(data_set: Path) -> None:
    assert list(read_sums(data_set)) == ["b.png", "below/a.mp4", "c.png", "d.json"]
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=data_set, check=True)
    for name, word in (
        ("b.png", "an original, written by"),
        ("below/a.mp4", "method gan"),
        ("c.png", "a file of a data set"),
    ):
        verdict = check(data_set / name)
        assert (verdict.status, verdict.known, verdict.embedded) == ("intact", True, False)
        assert word in verdict.sentence()
    assert list(wrong_files(data_set)) == []


def test_verify_tells_of_all_media_of_a_signed_folder(data_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["verify", str(data_set)])
    assert done.value.code == 0
    told = [line.partition(": intact")[0] for line in capsys.readouterr().out.splitlines()]
    assert told == [str(data_set / name) for name in ("b.png", "below/a.mp4", "c.png")]
    (data_set / "below" / "a.mp4").unlink()
    with pytest.raises(SystemExit) as done:
        main(["verify", "--no-mark", str(data_set)])
    assert done.value.code == EXIT_CODES["unreadable"]


def test_what_changed_in_a_signed_folder_is_found(data_set: Path) -> None:
    whole = {path: path.read_bytes() for path in data_set.rglob("*") if path.is_file()}
    for name in ("b.png", "below/a.mp4", "d.json"):
        data = bytearray(whole[data_set / name])
        data[len(data) // 2] ^= 1
        (data_set / name).write_bytes(data)
        assert list(wrong_files(data_set)) == [f"{data_set / name}: not the file that SHA256SUMS lists"]
        assert name == "d.json" or check(data_set / name).status == "altered"
        (data_set / name).write_bytes(whole[data_set / name])
    (data_set / "e.txt").touch()
    (data_set / "d.json").unlink()
    assert list(wrong_files(data_set)) == [
        f"{data_set / 'd.json'}: missing, and SHA256SUMS lists it",
        f"{data_set / 'e.txt'}: not in SHA256SUMS",
    ]
    assert check(data_set / "b.png").status == "intact"
    sums = data_set / "SHA256SUMS"  # who rewrites the list too is found by its signature
    sums.write_text(sums.read_text().replace("d.json", "f.json"))
    assert check(data_set / "b.png").status == "altered"


def test_a_folder_that_somebody_else_signed_is_untrusted(data_set: Path, tmp_path: Path) -> None:
    _, root = write_chain(tmp_path, ed25519.Ed25519PrivateKey.generate())
    assert check(data_set / "b.png", trust=root).status == "untrusted"


def test_a_list_names_only_what_is_below_it(tmp_path: Path) -> None:
    names = ["../x.mp4", "/etc/passwd", "a/../../b", "", ".", "a\0b", "good name.png", "sub/\u2028x.png"]
    (tmp_path / "SHA256SUMS").write_text("".join(f"{'0' * 64}  {name}\n" for name in names), encoding="utf-8")
    assert list(read_sums(tmp_path)) == ["good name.png", "sub/\u2028x.png"]
    (tmp_path / "SHA256SUMS").write_bytes(b"\xff\xfe")
    assert read_sums(tmp_path) == read_sums(tmp_path / "nowhere") == {}
