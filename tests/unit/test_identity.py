"""A certificate is issued for what was expected and nothing else, and believed only while it holds."""

import itertools
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.core.identity.authority import Authority, holder, request_for
from shared.core.identity.names import Claims, Kind
from shared.core.identity.roles import POLICY, Action, Forbidden, Role, allowed, require
from shared.core.identity.tokens import Kept, Purpose, Token
from shared.errors import Rejected

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
WEEK = timedelta(days=7)
VERIFY = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
ANNA = Claims("anna", Kind.CLIENT, VERIFY)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new("the federation", NOW)


def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def test_a_certificate_says_who_holds_it_and_with_what_it_signs(authority):
    mine = key()
    made = authority.issue(request_for(ANNA, mine), replace(ANNA, verify_key=b""), NOW, WEEK)
    assert holder(made, authority.certificate, NOW) == ANNA
    assert made.public_key() == mine.public_key()
    assert made.not_valid_after_utc == NOW + WEEK
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_service_is_reached_where_it_was_allowed_to_be(authority):
    claims = Claims("coordinator", Kind.SERVICE, hosts=("127.0.0.1", "coordinator.example"))
    made = authority.issue(request_for(claims, key()), claims, NOW, WEEK)
    assert set(holder(made, authority.certificate, NOW).hosts) == set(claims.hosts)
    with pytest.raises(Rejected, match="hosts that it was not given"):
        authority.issue(request_for(claims, key()), replace(claims, hosts=()), NOW, WEEK)


@pytest.mark.parametrize(
    ("asked", "expected", "reason"),
    [
        (replace(ANNA, name="bob"), ANNA, "anna expected"),
        (replace(ANNA, kind=Kind.SERVICE), ANNA, "request of service"),
        (replace(ANNA, verify_key=bytes(32)), ANNA, "another key than before"),
        (replace(ANNA, verify_key=b""), replace(ANNA, verify_key=b""), "no key that signs"),
        (replace(ANNA, hosts=("broker",)), ANNA, "hosts that it was not given"),
    ],
)
def test_a_request_gets_no_more_than_was_expected(authority, asked, expected, reason):
    with pytest.raises(Rejected, match=reason):
        authority.issue(request_for(asked, key()), expected, NOW, WEEK)


def test_a_request_that_another_key_signed_is_rejected(authority):
    mine, other = request_for(ANNA, key()), request_for(ANNA, key())
    encoding = serialization.Encoding.DER
    theirs = other.public_bytes(encoding)
    forged = theirs.replace(other.signature, mine.signature)
    if len(mine.signature) != len(other.signature):
        forged = theirs[:-1] + bytes([theirs[-1] ^ 1])
    with pytest.raises(Rejected, match="not signed by its own key"):
        authority.issue(x509.load_der_x509_csr(forged), ANNA, NOW, WEEK)


def test_a_request_of_another_kind_of_key_is_rejected(authority):
    other = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(Rejected, match="P-256"):
        authority.issue(request_for(ANNA, other), ANNA, NOW, WEEK)


def test_what_is_not_of_this_authority_or_of_this_time_is_not_believed(authority):
    made = authority.issue(request_for(ANNA, key()), ANNA, NOW, WEEK)
    for other in (Authority.new("the federation", NOW), Authority.new("another", NOW)):
        with pytest.raises(Rejected, match="not of this federation"):
            holder(made, other.certificate, NOW)
    with pytest.raises(Rejected, match="valid until"):
        holder(made, authority.certificate, NOW + WEEK + timedelta(seconds=1))
    with pytest.raises(Rejected, match="valid until"):
        holder(made, authority.certificate, NOW - timedelta(hours=1))


def test_a_revoked_certificate_is_not_believed_and_others_are(authority):
    lost, kept = (authority.issue(request_for(ANNA, key()), ANNA, NOW, WEEK) for _ in range(2))
    revoked = authority.revoked({lost.serial_number: NOW}, 1, NOW, WEEK)
    assert holder(kept, authority.certificate, NOW, revoked) == ANNA
    with pytest.raises(Rejected, match="is revoked"):
        holder(lost, authority.certificate, NOW, revoked)
    empty = Authority.new("the federation", NOW).revoked({}, 2, NOW, WEEK)
    with pytest.raises(Rejected, match="list of revoked"):
        holder(lost, authority.certificate, NOW, empty)


def test_a_certificate_without_claims_of_ours_is_rejected(authority):
    builder = x509.CertificateBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anna")])
    )
    plain = (
        builder.issuer_name(authority.certificate.subject)
        .public_key(key().public_key())
        .serial_number(7)
        .not_valid_before(NOW)
        .not_valid_after(NOW + WEEK)
        .sign(authority.key, hashes.SHA256())
    )
    with pytest.raises(Rejected, match="no alternative names"):
        holder(plain, authority.certificate, NOW)


@pytest.mark.parametrize("name", ["", "Anna", "a/b", "a" * 42, "anna\n", "#", "client.*"])
def test_a_name_that_would_mean_something_to_the_broker_is_rejected(name):
    with pytest.raises(Rejected, match="is no name"):
        Claims(name, Kind.CLIENT)


def test_a_token_works_once_in_time_and_only_as_it_was_made():
    token = Token.new(Purpose.ENROL, os.urandom)
    kept = Kept(token.digest, NOW + WEEK)
    kept.check(Token.read(str(token)), NOW)
    for changed, reason in (
        (replace(kept, used=True), "used already"),
        (replace(kept, revoked=True), "revoked"),
        (replace(kept, expires_at=NOW), "expired"),
    ):
        with pytest.raises(Rejected, match=reason):
            changed.check(token, NOW)
    for other in (
        replace(token, secret=os.urandom(32)),
        replace(token, token_id="0" * 12),
        replace(token, purpose=Purpose.API),
    ):
        with pytest.raises(Rejected, match="not known"):
            kept.check(other, NOW)


def test_what_is_kept_or_printed_of_a_token_is_not_the_token():
    token = Token.new(Purpose.API, os.urandom)
    secret = str(token).rsplit("_", 1)[1]
    assert secret not in repr(token)
    assert token.secret not in token.digest
    with pytest.raises(Rejected) as rejected:
        Token.read(str(token)[:-3])
    assert secret[:10] not in str(rejected.value)
    for text in ("", "fla_", "x_y_z", "fla_1_2", str(token) + "aaaaaaaa"):
        with pytest.raises(Rejected):
            Token.read(text)


def test_nobody_may_do_what_the_table_does_not_say():
    for action in Action:
        assert not allowed((), action)
        with pytest.raises(Forbidden, match="you are nobody"):
            require((), action)
    for role, action in itertools.product(Role, Action):
        assert allowed((role,), action) == (action in POLICY[role])
    assert not allowed((Role.AUDITOR,), Action.SUBMIT_JOBS)
    assert not allowed((Role.OPERATOR,), Action.READ_AUDIT_LOG)
    assert not allowed((Role.VIEWER,), Action.READ_ADAPTERS)
    assert all(allowed((Role.ADMIN,), action) for action in Action)
    require((Role.VIEWER, Role.AUDITOR), Action.READ_AUDIT_LOG)
