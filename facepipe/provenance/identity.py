"""Who signs: a certificate chain and key of the user's, or ones that are made here on first use.

A self-made certificate proves that a file is what the holder of the key signed, and not who that is.
"""

from __future__ import annotations

import datetime
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from facepipe.config import CredentialsConfig
from facepipe.errors import ConfigError, UsageError
from facepipe.folders import user_folder

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

__all__ = ["Identity", "credentials_folder", "load_identity", "own_root", "read_roots"]

_YEARS = 30
_CHAIN, _KEY, _ROOT = "chain.pem", "key.pem", "root.pem"


@dataclass(frozen=True, slots=True)
class Identity:
    """What signs.

    Attributes
    ----------
    chain : bytes
        Certificates in PEM, the signer's first.
    key : bytes
        Its private key, PKCS #8 in PEM.
    algorithm : str
        Of the signature, as C2PA names it: ``ed25519``, ``es256``, ``es384``, ``es512`` or ``ps256``.
    timestamps : str or None
        Address of a time-stamp authority (RFC 3161).
    """

    chain: bytes
    key: bytes
    algorithm: str
    timestamps: str | None = None

    def __repr__(self) -> str:
        return f"Identity(algorithm={self.algorithm!r}, timestamps={self.timestamps!r})"  # never the key


def credentials_folder() -> Path:
    """Folder of the self-made certificate: ``$FACEPIPE_CREDENTIALS``, or in the platform's folder for settings."""
    if told := os.environ.get("FACEPIPE_CREDENTIALS"):
        return Path(told).expanduser()
    return user_folder("settings") / "credentials"


def own_root() -> bytes | None:
    """The self-made root certificate of this user in PEM, or None where nothing was signed yet."""
    try:
        return (credentials_folder() / _ROOT).read_bytes()
    except OSError:
        return None


def read_roots(path: Path) -> bytes:
    """Root certificates in PEM, as `facepipe.provenance.check` trusts them.

    Raises
    ------
    ConfigError
        There are none in the file.
    """
    from cryptography import x509

    pem = _bytes_of(path)
    try:
        x509.load_pem_x509_certificates(pem)
    except ValueError as exc:
        raise ConfigError(f"{path}: no certificates in PEM: {exc}") from exc
    return pem


def load_identity(config: CredentialsConfig) -> Identity:
    """The user's certificate and key where they are configured, else the self-made ones, made on first use.

    Raises
    ------
    ConfigError
        One of certificate and key is missing, they cannot be read, do not belong together, or are not valid now.
    UsageError
        The self-made ones cannot be kept in their folder.
    """
    if config.certificate is None and config.key is None:
        folder = _own_folder()
        return _read(folder / _CHAIN, folder / _KEY, config.timestamps)
    if config.certificate is None or config.key is None:
        have, lack = ("key", "certificate") if config.certificate is None else ("certificate", "key")
        raise ConfigError(f"credentials.{have} is given without credentials.{lack}; give both, or neither")
    return _read(config.certificate, config.key, config.timestamps)


def _read(chain: Path, key: Path, timestamps: str | None) -> Identity:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    pem = _bytes_of(chain), _bytes_of(key)
    try:
        certificate = x509.load_pem_x509_certificates(pem[0])[0]
    except ValueError as exc:
        raise ConfigError(f"{chain}: no certificate chain in PEM, the signer's certificate first: {exc}") from exc
    try:
        private = serialization.load_pem_private_key(pem[1], None)
    except (ValueError, TypeError) as exc:
        raise ConfigError(f"{key}: no private key in PEM without a password: {exc}") from exc
    if private.public_key() != certificate.public_key():
        raise ConfigError(f"{key}: not the key of the first certificate of {chain}")
    now = datetime.datetime.now(datetime.UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        until = f"{certificate.not_valid_before_utc:%Y-%m-%d} to {certificate.not_valid_after_utc:%Y-%m-%d}"
        raise ConfigError(f"{chain}: valid from {until}, which is not now; give another certificate")
    pkcs8 = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Identity(pem[0], pkcs8, _algorithm(private, key), timestamps)


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror or exc}") from exc


def _algorithm(key: PrivateKeyTypes, path: Path) -> str:
    """Name of the signature of a kind of key; C2PA 2.2, "Digital signatures"."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in curves:
        return curves[key.curve.name]
    raise ConfigError(f"{path}: expected an Ed25519, P-256, P-384, P-521 or RSA key")


def _own_folder() -> Path:
    """The folder with the self-made certificate and key; made whole or not at all, by the first who comes."""
    folder = credentials_folder()
    if not (folder / _CHAIN).is_file():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".credentials-") as made:
                part = Path(made) / "new"
                part.mkdir(mode=0o700)
                _make_own(part)
                part.rename(folder)
        except OSError as exc:
            if not (folder / _CHAIN).is_file():  # else another process was quicker
                raise UsageError(
                    f"{folder}: the self-made certificate cannot be kept there ({exc.strerror or exc}); "
                    "set FACEPIPE_CREDENTIALS, or configure credentials.certificate and credentials.key"
                ) from exc
    return folder


def _make_own(folder: Path) -> None:
    """A root that signs one certificate and is forgotten: C2PA takes no certificate that signs itself."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    root_key, key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    root = _certificate("facepipe self-made root", root_key, None, root_key)
    signer = _certificate("facepipe self-made certificate", key, root, root_key)
    pem = [certificate.public_bytes(serialization.Encoding.PEM) for certificate in (signer, root)]
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with os.fdopen(os.open(folder / _KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
    (folder / _CHAIN).write_bytes(b"".join(pem))
    (folder / _ROOT).write_bytes(pem[1])


def _certificate(
    name: str, key: PrivateKeyTypes, issuer: x509.Certificate | None, by: PrivateKeyTypes
) -> x509.Certificate:
    """A certificate as C2PA 2.2 asks for ("X.509 certificates"): the signer has an extended key usage."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    is_root = issuer is None
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "facepipe (self-made)"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    # Fixed length, so that manifests signed by different self-made certificates are equally long.
    serial = 1 << 157 | int.from_bytes(os.urandom(19))
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    usage |= {"encipher_only": False, "decipher_only": False}
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())  # type: ignore[arg-type]
        .serial_number(serial)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365 * _YEARS))
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=not is_root, key_cert_sign=is_root, crl_sign=is_root, **usage),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)  # type: ignore[arg-type]
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)  # type: ignore[arg-type]
    )
    if not is_root:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(by, None)  # type: ignore[arg-type]
