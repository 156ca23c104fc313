"""Certificates, keys and an authority as files: keys are made where they are used, and stay there."""

import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from shared.core.identity.authority import Authority, request_for
from shared.core.identity.names import Claims
from shared.errors import Refused

CERTIFICATE, KEY = "authority.pem", "authority.key"
PEM = serialization.Encoding.PEM


class Identity(NamedTuple):
    """Files of one holder: its certificate, its key, and the authority that it trusts."""

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True)
class AuthorityFolder:
    """`authority.pem`, which everyone has, and `authority.key`, which nobody else may have."""

    folder: Path
    authority: Authority

    @classmethod
    def create(cls, folder: Path, name: str, now: datetime, passphrase: str = "") -> Self:
        """Make an authority. Raises: Refused where there is one already."""
        if (folder / KEY).exists() or (folder / CERTIFICATE).exists():
            raise Refused("folder", f"{folder} has an authority", "name a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        authority = Authority.new(name, now)
        write_key(folder / KEY, authority.key, passphrase)
        write_certificate(folder / CERTIFICATE, authority.certificate)
        return cls(folder, authority)

    @classmethod
    def open(cls, folder: Path, passphrase: str = "") -> Self:
        """Raises: Refused without an authority, or without its passphrase."""
        try:
            certificate = x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes())
        except (OSError, ValueError):
            raise Refused("folder", f"{folder} has no authority", "make one: fedlora ca init") from None
        return cls(folder, Authority(read_key(folder / KEY, passphrase), certificate))

    @property
    def file(self) -> Path:
        """The authority's certificate."""
        return self.folder / CERTIFICATE

    def make(self, claims: Claims, folder: Path, now: datetime, valid: timedelta) -> Identity:
        """Key and certificate of a holder on this machine, such as a service beside the authority."""
        folder.mkdir(parents=True, exist_ok=True)
        made = Identity(folder / f"{claims.name}.pem", folder / f"{claims.name}.key", self.file)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.authority.issue(request_for(claims, key), claims, now, valid)
        write_key(made.key, key)
        write_certificate(made.certificate, certificate)
        return made


def write_certificate(path: Path, certificate: x509.Certificate) -> None:
    """PEM, whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(certificate.public_bytes(PEM))
    partial.replace(path)


def write_key(path: Path, key: ec.EllipticCurvePrivateKey, passphrase: str = "") -> None:
    """PKCS 8 in PEM, for its owner alone, encrypted where there is a passphrase; whole or not at all."""
    locked: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        locked = serialization.BestAvailableEncryption(passphrase.encode())
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, locked))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_key(path: Path, passphrase: str = "") -> ec.EllipticCurvePrivateKey:
    """Inverse. Raises: Refused for a file that is missing, open to others, locked, or no P-256 key."""
    try:
        if path.stat().st_mode & 0o077:
            raise Refused("key", f"{path} can be read by others", f"run: chmod 600 {path}")
        key = serialization.load_pem_private_key(path.read_bytes(), passphrase.encode() or None)
    except OSError as error:
        raise Refused("key", f"{path}: {error.strerror}", "give the path of the key") from None
    except TypeError:
        wanted = "it has none" if passphrase else "it is encrypted"
        raise Refused("key", f"{path}: the passphrase does not fit: {wanted}", "give the right one") from None
    except ValueError:
        raise Refused("key", f"{path} is no key, or the passphrase is wrong", "give the right one") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Refused("key", f"{path} is not a P-256 key", "make a new one")
    return key
