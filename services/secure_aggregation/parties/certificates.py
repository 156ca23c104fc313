"""A throw-away authority and one certificate a party: for tests, and for three parties in one process."""

from datetime import datetime, timedelta
from pathlib import Path

from shared.adapters.certificates import AuthorityFolder, Identity
from shared.core.identity.names import Claims, Kind
from shared.core.secagg.mpc3.terms import PARTIES

VALID = timedelta(days=365)


def name_of(party: int) -> str:
    """As its certificate must call it, among the subject's alternative DNS names."""
    return f"party-{party}"


def make_identities(folder: Path, now: datetime, names: tuple[str, ...] = ()) -> tuple[Identity, ...]:
    """Write the certificate of a new authority, and a key and a certificate for each name, valid for a year.

    The authority's key does not stay: it makes no further certificate.

    Args:
        folder: of all files; those of an earlier authority are replaced.
        now: when they begin to be valid.
        names: the parties' by default.
    """
    for left in (folder / "authority.pem", folder / "authority.key"):
        left.unlink(missing_ok=True)
    authority = AuthorityFolder.create(folder, "fedlora throw-away authority", now)
    (folder / "authority.key").unlink()
    parties = names or tuple(name_of(party) for party in range(PARTIES))
    return tuple(authority.make(Claims(name, Kind.SERVICE), folder, now, VALID) for name in parties)
