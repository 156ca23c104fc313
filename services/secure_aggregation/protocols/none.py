"""Protocol `none`: the service opens each update and adds it. For tests, and for servers that are trusted."""

from collections.abc import Collection

from services.secure_aggregation.protocols.base import Keys, Running, Step, Summed
from services.secure_aggregation.state import FAILED, SUMMED, Session
from shared.core.secagg import fixed_point
from shared.sessions.terms import SessionTerms


class Opened(Running):
    """A plain sum in fixed point, exact, so that it does not depend on the order of arrival."""

    def __init__(self, terms: SessionTerms, keys: Keys) -> None:
        super().__init__(terms, keys)
        self._total = fixed_point.zeros(terms.dimension)

    @property
    def upload_bytes(self) -> int:
        """As `Running`."""
        return self.terms.dimension * fixed_point.BYTES_PER_VALUE

    def take_upload(self, session: Session, client: str, content: bytes) -> None:
        """As `Running`."""
        fixed_point.add(self._total, fixed_point.from_bytes(content, self.terms.dimension))
        self.uploads.add(client)

    def step(self, session: Session, relayed: Collection[str], *, waited: bool) -> Step | None:
        """As `Running`."""
        match self.enough(session, waited=waited):
            case None:
                return None
            case False:
                return Step(FAILED, outcome=self.too_few())
            case _:
                members = tuple(sorted(self.uploads))
                return Step(SUMMED, members, outcome=Summed(fixed_point.decode(self._total), members))
