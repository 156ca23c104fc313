"""The client's side of the protocols: a new one is one module and one line here."""

from collections.abc import Mapping

from services.client.sessions.base import ClientSession
from services.client.sessions.mpc3 import Shared
from services.client.sessions.none import Opened
from services.client.sessions.oneshot import Encrypted
from services.client.sessions.secagg import Masked

PROTOCOLS: Mapping[str, type[ClientSession]] = {
    "none": Opened,
    "oneshot": Encrypted,
    "secagg": Masked,
    "mpc3": Shared,
}
