"""Secure aggregation's settings, and its keys."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.secure_aggregation.parties.link import Links
from services.secure_aggregation.protocols.base import Keys
from shared.adapters.certificates import Identity
from shared.adapters.key_file import load_or_make
from shared.core.secagg.mpc3.terms import PARTIES
from shared.core.secagg.sealing import PRIVATE_BYTES, SealingKey
from shared.errors import Refused
from shared.events.base import SHARDS

NAME = "secure_aggregation"


class SecureAggregationSettings(BaseSettings):
    """FEDLORA_SECURE_AGGREGATION_* variables."""

    model_config = SettingsConfigDict(env_prefix="FEDLORA_SECURE_AGGREGATION_", extra="forbid", frozen=True)

    key_file: Path = Field(
        Path("~/.fedlora/aggregation.key"), description="sealing and signing key, made when absent"
    )
    rebuild_s: float = Field(5.0, ge=0, description="after a start, before a passed deadline counts")
    replica: int = Field(
        0, ge=0, description="of `replicas`, which share sessions out; each number runs once,"
    )
    replicas: int = Field(1, ge=1, le=SHARDS, description="or more often: then all but one stand by")
    party: int = Field(0, ge=0, lt=PARTIES, description="of mpc3: 0 is the service, 1 and 2 hold shares")
    party_1_address: str = Field("", description="host:port of party 1; empty: no mpc3")
    party_2_address: str = Field("", description="host:port of party 2")
    party_listen: str = Field("0.0.0.0:7443", description="where party 1 or 2 takes the others' requests")
    party_certificate: Path | None = Field(None, description="PEM; names the party: party-0, -1 or -2")
    party_key: Path | None = Field(None, description="PEM, of the certificate")
    party_ca: Path | None = Field(None, description="PEM, of the authority that made all three certificates")

    @property
    def shards(self) -> tuple[int, ...] | None:
        """Whose sessions are this replica's; None where there is one replica. Raises: Refused."""
        if self.replica >= self.replicas:
            raise Refused(
                "FEDLORA_SECURE_AGGREGATION_REPLICA",
                f"{self.replica} of {self.replicas} replicas",
                f"give 0 to {self.replicas - 1}",
            )
        if self.replicas > 1 and (self.party or self.party_1_address):
            raise Refused(
                "FEDLORA_SECURE_AGGREGATION_REPLICAS", "mpc3's parties have one replica each", "set it to 1"
            )
        return None if self.replicas == 1 else tuple(range(self.replica, SHARDS, self.replicas))

    @property
    def name(self) -> str:
        """Of the service, its queue and its rows."""
        return NAME if self.replicas == 1 else f"{NAME}.{self.replica}-of-{self.replicas}"

    def links(self) -> Links | None:
        """To the other parties; None where no addresses are set. Raises: Refused for settings that lack."""
        given = {1: self.party_1_address, 2: self.party_2_address}
        if not any(given.values()) and self.party == 0:
            return None
        asked = {party: address for party, address in given.items() if party != self.party}
        return Links(self.identity(), {party: host_and_port(party, text) for party, text in asked.items()})

    def identity(self) -> Identity:
        """Certificate, key and authority. Raises: Refused when one is not set."""
        if self.party_certificate is None or self.party_key is None or self.party_ca is None:
            raise Refused(
                "FEDLORA_SECURE_AGGREGATION_PARTY_CERTIFICATE",
                "a party speaks TLS with a certificate of its own",
                "set _PARTY_CERTIFICATE, _PARTY_KEY and _PARTY_CA",
            )
        return Identity(self.party_certificate, self.party_key, self.party_ca)


def host_and_port(party: int, address: str) -> tuple[str, int]:
    """Cut `host:port`. Raises: Refused for something else."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise Refused(
            f"FEDLORA_SECURE_AGGREGATION_PARTY_{party}_ADDRESS",
            f"{address!r} is no address",
            "give host:port",
        )
    return host, int(port)


def load_keys(path: Path) -> Keys:
    """The keys in `path`, made first when the file is absent. Raises: Refused for another content."""
    content = load_or_make(
        path, lambda: SealingKey.generate().to_bytes() + Ed25519PrivateKey.generate().private_bytes_raw()
    )
    if len(content) != PRIVATE_BYTES + 32:
        raise Refused(
            str(path),
            f"holds {len(content)} bytes, {PRIVATE_BYTES + 32} expected",
            "restore the key, or remove the file: clients that trusted it then need a new home",
        )
    return Keys(
        SealingKey.from_bytes(content[:PRIVATE_BYTES]),
        Ed25519PrivateKey.from_private_bytes(content[PRIVATE_BYTES:]),
    )
