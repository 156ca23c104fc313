"""The protocols by which updates are summed: a new one is one module and one line here."""

from collections.abc import Mapping

from services.secure_aggregation.protocols.base import Running
from services.secure_aggregation.protocols.mpc3 import Shared
from services.secure_aggregation.protocols.none import Opened
from services.secure_aggregation.protocols.oneshot import Encrypted
from services.secure_aggregation.protocols.secagg import Masked

PROTOCOLS: Mapping[str, type[Running]] = {
    "none": Opened,
    "oneshot": Encrypted,
    "secagg": Masked,
    "mpc3": Shared,
}
