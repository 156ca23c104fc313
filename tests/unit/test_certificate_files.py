"""Keys and an authority as files: readable by their owner alone, and what is wrong with one is said."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from shared.adapters.certificates import AuthorityFolder, read_key, write_key
from shared.core.identity.authority import holder
from shared.core.identity.names import Claims, Kind
from shared.errors import Refused

NOW = datetime(2026, 11, 24, tzinfo=UTC)
DAY = timedelta(days=1)
SERVICE = Claims("coordinator", Kind.SERVICE, hosts=("localhost",))


def test_an_authority_is_opened_as_it_was_made(tmp_path):
    made = AuthorityFolder.create(tmp_path / "ca", "ours", NOW, "words")
    again = AuthorityFolder.open(tmp_path / "ca", "words")
    identity = again.make(SERVICE, tmp_path / "services", NOW, DAY)
    certificate = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    assert holder(certificate, made.authority.certificate, NOW) == SERVICE
    assert read_key(identity.key).public_key() == certificate.public_key()
    assert identity.authority == made.file


def test_keys_are_for_their_owner_alone(tmp_path):
    AuthorityFolder.create(tmp_path, "ours", NOW)
    key = tmp_path / "authority.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob("*.partial"))
    key.chmod(0o640)
    with pytest.raises(Refused, match="chmod 600"):
        AuthorityFolder.open(tmp_path)


def test_a_passphrase_keeps_a_key_from_whoever_has_the_file(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    write_key(tmp_path / "key", key, "words")
    assert read_key(tmp_path / "key", "words").private_numbers() == key.private_numbers()
    for wrong in ("", "other"):
        with pytest.raises(Refused, match="passphrase"):
            read_key(tmp_path / "key", wrong)


def test_what_is_missing_or_there_already_is_said(tmp_path):
    with pytest.raises(Refused, match="fedlora ca init"):
        AuthorityFolder.open(tmp_path)
    AuthorityFolder.create(tmp_path, "ours", NOW)
    before = (tmp_path / "authority.key").read_bytes()
    with pytest.raises(Refused, match="has an authority"):
        AuthorityFolder.create(tmp_path, "ours", NOW)
    assert (tmp_path / "authority.key").read_bytes() == before
    with pytest.raises(Refused, match="No such file"):
        read_key(tmp_path / "none")
    (tmp_path / "junk").write_bytes(b"junk")
    (tmp_path / "junk").chmod(0o600)
    with pytest.raises(Refused, match="no key"):
        read_key(tmp_path / "junk")
