"""Tokens: a random secret that is shown once, and what is kept of it.

`fle_<id>_<secret>` enrols one client once, `fla_<id>_<secret>` lets a person use the API. The secret has 256
random bits: its SHA-256 tells nothing of it, and there is nothing to guess that a slow hash would guard.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

from shared.core.randomness import RandomBytes
from shared.core.secagg.sealing import bind
from shared.errors import Rejected

DOMAIN = b"fedlora/token/v1"
ID_BYTES, SECRET_BYTES = 6, 32


class Purpose(StrEnum):
    """What a token is for; its prefix, so that scanners find one that was published by mistake."""

    ENROL = "fle"
    API = "fla"


@dataclass(frozen=True)
class Token:
    """As its owner has it. Never logged, never stored by the server."""

    purpose: Purpose
    token_id: str
    secret: bytes

    @classmethod
    def new(cls, purpose: Purpose, random: RandomBytes) -> Self:
        """A fresh one."""
        return cls(purpose, random(ID_BYTES).hex(), random(SECRET_BYTES))

    @classmethod
    def read(cls, text: str) -> Self:
        """Raises: Rejected for anything but a token; the message never repeats it."""
        parts = text.strip().split("_", 2)
        if len(parts) != 3 or parts[0] not in list(Purpose):
            raise Rejected("this is not a token of fedlora")
        try:
            secret = base64.b32decode(parts[2].upper() + "====", casefold=True)
        except ValueError:
            raise Rejected("the token is cut short or changed") from None
        if len(secret) != SECRET_BYTES or len(parts[1]) != 2 * ID_BYTES:
            raise Rejected("the token is cut short or changed")
        return cls(Purpose(parts[0]), parts[1], secret)

    def __str__(self) -> str:
        return f"{self.purpose}_{self.token_id}_" + base64.b32encode(self.secret).decode().rstrip("=").lower()

    def __repr__(self) -> str:
        return f"Token({self.purpose}, {self.token_id}, ...)"

    @property
    def digest(self) -> bytes:
        """What the server keeps."""
        content = bind(DOMAIN, self.purpose.encode(), self.token_id.encode(), self.secret)
        return hashlib.sha256(content).digest()


@dataclass(frozen=True)
class Kept:
    """What a server knows of a token.

    Attributes:
        digest: `Token.digest`.
        expires_at: it is refused from then on.
        used: for one that works once.
        revoked: by a person.
    """

    digest: bytes
    expires_at: datetime
    used: bool = False
    revoked: bool = False

    def check(self, token: Token, now: datetime) -> None:
        """Raises: Rejected unless it is this token, and still good. Compared in constant time."""
        if not hmac.compare_digest(self.digest, token.digest):
            raise Rejected("the token is not known")
        if self.revoked:
            raise Rejected("the token was revoked")
        if self.used:
            raise Rejected("the token was used already: ask for another one")
        if now >= self.expires_at:
            raise Rejected("the token has expired: ask for another one")
