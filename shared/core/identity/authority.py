"""A federation's certificate authority: what it signs, and what it takes back.

One level, keys on P-256, validity in days. A signing request proves that its sender has the key; of what it
asks for nothing is taken over but what the authority was told to expect.
Source: RFC 5280 (certificates, CRLs), RFC 2986 (requests).
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.core.identity.names import KIND, VERIFY_KEY, Claims, Kind
from shared.errors import Rejected

AUTHORITY_VALID = timedelta(days=3650)
BACKDATED = timedelta(minutes=5)  # clocks of a federation differ by less


@dataclass(frozen=True)
class Authority:
    """Whose signature a federation trusts. `key` is secret."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls, name: str, now: datetime) -> Self:
        """A fresh one, valid for ten years."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(name)
        certificate = (
            _builder(subject, subject, key.public_key(), now, now + AUTHORITY_VALID)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    def issue(
        self, request: x509.CertificateSigningRequest, expected: Claims, now: datetime, valid: timedelta
    ) -> x509.Certificate:
        """A certificate for what was expected.

        Args:
            request: signed by the key that is certified.
            expected: name and kind that the sender may have. Its verify key and hosts may be left empty: then
                a client's key is taken from the request, and hosts are none.
            now: when it begins to be valid.
            valid: for how long, at most as long as the authority.

        Raises: Rejected unless the request is signed, of a P-256 key, and claims what was expected.
        """
        key, claims = checked(request), Claims.read(request)
        if (claims.name, claims.kind) != (expected.name, expected.kind):
            raise Rejected(f"a request of {claims.kind} {claims.name}, {expected.name} expected")
        if expected.verify_key and claims.verify_key != expected.verify_key:
            raise Rejected(f"{claims.name} signs with another key than before: enrol it as a new client")
        if claims.kind is Kind.CLIENT and not claims.verify_key:
            raise Rejected(f"{claims.name} names no key that signs its uploads")
        if not set(claims.hosts) <= set(expected.hosts):
            raise Rejected(f"{claims.name} asks for hosts that it was not given: {', '.join(claims.hosts)}")
        until = min(now + valid, self.certificate.not_valid_after_utc)
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if claims.kind is Kind.SERVICE:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return (
            _builder(_subject(claims.name), self.certificate.subject, key, now, until)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(_alternatives(claims), critical=False)
            .add_extension(issuer, critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def revoked(
        self, serials: Mapping[int, datetime], number: int, now: datetime, valid: timedelta
    ) -> x509.CertificateRevocationList:
        """The list of what is taken back.

        Args:
            serials: serial number -> since when.
            number: of this list; each is larger than the one before.
            now: when it is made.
            valid: until the next one, at the latest.
        """
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - BACKDATED)
            .next_update(now + valid)
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for serial, since in sorted(serials.items()):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, hashes.SHA256())


def request_for(claims: Claims, key: ec.EllipticCurvePrivateKey) -> x509.CertificateSigningRequest:
    """What the holder of `key` sends to the authority. The key stays where it is."""
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_subject(claims.name))
        .add_extension(_alternatives(claims), critical=False)
        .sign(key, hashes.SHA256())
    )


def checked(request: x509.CertificateSigningRequest) -> ec.EllipticCurvePublicKey:
    """The key that the request is about. Raises: Rejected unless it is on P-256 and signed the request."""
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Rejected("the request is not of a P-256 key")
    if not request.is_signature_valid:
        raise Rejected("the request is not signed by its own key")
    return key


def holder(
    certificate: x509.Certificate,
    authority: x509.Certificate,
    now: datetime,
    revoked: x509.CertificateRevocationList | None = None,
) -> Claims:
    """Who holds a certificate of this authority.

    Raises: Rejected for another authority's, an expired and a revoked one, and where the list of revoked ones
        is another authority's.
    """
    public = authority.public_key()
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise Rejected("the certificate is not of this federation's authority") from None
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise Rejected(f"the certificate is valid until {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if revoked is not None:
        if not isinstance(public, ec.EllipticCurvePublicKey) or not revoked.is_signature_valid(public):
            raise Rejected("the list of revoked certificates is not of this federation's authority")
        if revoked.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
            raise Rejected("the certificate is revoked")
    return Claims.read(certificate)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _alternatives(claims: Claims) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(KIND + claims.kind)]
    if claims.verify_key:
        names.append(x509.UniformResourceIdentifier(VERIFY_KEY + claims.verify_key.hex()))
    for host in (claims.name, *claims.hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return x509.SubjectAlternativeName(names)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
