"""Party 0's view of the other two: their links, and their keys once they were asked for them."""

import asyncio
from dataclasses import dataclass

from services.secure_aggregation.parties.link import Links
from shared.errors import FedloraError, Rejected, Unavailable

OTHERS = (1, 2)


@dataclass
class Others:
    """The parties 1 and 2.

    Attributes:
        keys: verify and sealing key of each, in order; None until both have told them.
        trouble: why they have not.
    """

    links: Links
    keys: tuple[tuple[bytes, bytes], ...] | None = None
    trouble: str = "they are being asked"

    async def ask_for_keys(self) -> None:
        """Ask both once."""
        try:
            answers = await asyncio.gather(*(self.links.ask(party, "keys") for party in OTHERS))
            self.keys = tuple(keys_from(answer) for answer in answers)
        except FedloraError as error:
            self.trouble = str(error)

    def known_keys(self) -> tuple[tuple[bytes, bytes], ...]:
        """Verify and sealing key of each. Raises: Unavailable until both have told them."""
        if self.keys is None:
            raise Unavailable(f"the keys of the other parties are not known: {self.trouble}")
        return self.keys


def keys_from(answer: object) -> tuple[bytes, bytes]:
    """Verify and sealing key, as a party told them. Raises: Rejected."""
    match answer:
        case [bytes(verify), bytes(sealing)]:
            return verify, sealing
    raise Rejected("these are not a party's two keys")
