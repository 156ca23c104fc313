"""What a certificate says besides a name: the kind of its holder, and the key that signs its uploads."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from cryptography import x509
from cryptography.x509.oid import NameOID

from shared.errors import Rejected

VERIFY_KEY = "urn:fedlora:verify-key:"
KIND = "urn:fedlora:kind:"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}")


class Kind(StrEnum):
    """What a certificate may be used for."""

    CLIENT = "client"  # a worker, or a key holder: logs in as a client alone
    SERVICE = "service"  # logs in, and is connected to


@dataclass(frozen=True)
class Claims:
    """Of a certificate or of a signing request.

    Attributes:
        name: common name; the login at the broker, the database and the cache.
        kind: what it is for.
        verify_key: Ed25519, 32 bytes, of everything that the holder signs; empty for none.
        hosts: DNS names and addresses where a service may be reached, beside its name.
    """

    name: str
    kind: Kind
    verify_key: bytes = b""
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise Rejected(f"{self.name!r} is no name: lower-case letters, digits, - and _, 41 at most")
        if len(self.verify_key) not in (0, 32):
            raise Rejected(f"a verify key of {len(self.verify_key)} bytes, 32 expected")

    @classmethod
    def read(cls, source: x509.Certificate | x509.CertificateSigningRequest) -> Self:
        """Raises: Rejected for anything that was not made here."""
        names = [str(one.value) for one in source.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if len(names) != 1 or len(source.subject) != 1:
            raise Rejected("the subject is not one common name")
        try:
            found = source.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (x509.ExtensionNotFound, ValueError):
            raise Rejected("it has no alternative names") from None
        uris = found.get_values_for_type(x509.UniformResourceIdentifier)
        kinds = [uri.removeprefix(KIND) for uri in uris if uri.startswith(KIND)]
        keys = [uri.removeprefix(VERIFY_KEY) for uri in uris if uri.startswith(VERIFY_KEY)]
        if len(kinds) != 1 or kinds[0] not in list(Kind) or len(keys) > 1:
            raise Rejected("it does not say what it is for")
        try:
            verify_key = bytes.fromhex(keys[0]) if keys else b""
        except ValueError:
            raise Rejected("its verify key is not hexadecimal") from None
        addresses = [str(address) for address in found.get_values_for_type(x509.IPAddress)]
        hosts = [*found.get_values_for_type(x509.DNSName), *addresses]
        return cls(names[0], Kind(kinds[0]), verify_key, tuple(h for h in hosts if h != names[0]))
