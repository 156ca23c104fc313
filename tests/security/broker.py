"""A broker that lets in who has a certificate of the federation, and the identities that try it."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from shared.core.identity.authority import Authority, request_for
from shared.core.identity.names import Claims, Kind

VALID = timedelta(days=1)


@dataclass(frozen=True)
class Files:
    """What a process has of its identity."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Federation:
    """An authority whose files lie in a folder."""

    authority: Authority
    folder: Path

    @classmethod
    def new(cls, folder: Path, name: str = "authority") -> "Federation":
        """A fresh one."""
        made = cls(Authority.new(name, datetime.now(UTC)), folder)
        made.authority_file.write_bytes(_pem(made.authority.certificate))
        return made

    @property
    def authority_file(self) -> Path:
        """PEM."""
        return self.folder / "authority.pem"

    def enrol(
        self, name: str, kind: Kind = Kind.CLIENT, *, ago: timedelta = timedelta(), file: str = ""
    ) -> Files:
        """Key and certificate of a new identity, made so long ago."""
        verify = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        hosts = ("localhost", "127.0.0.1") if kind is Kind.SERVICE else ()
        claims = Claims(name, kind, b"" if kind is Kind.SERVICE else verify, hosts)
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC) - ago
        certificate = self.authority.issue(request_for(claims, key), claims, now, VALID)
        files = Files(self.folder / f"{file or name}.pem", self.folder / f"{file or name}.key")
        files.certificate.write_bytes(_pem(certificate))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files

    def context(self, files: Files | None) -> ssl.SSLContext:
        """What a client of the broker uses."""
        context = ssl.create_default_context(cafile=str(self.authority_file))
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if files is not None:
            context.load_cert_chain(files.certificate, files.key)
        return context


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
