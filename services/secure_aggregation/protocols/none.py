"""Protocol `none`: the service opens each update, and adds or judges it. For tests, and for servers that are
trusted."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from services.secure_aggregation.protocols.base import TRUSTED, Failed, Judgement, Keys, Running, Step, Summed
from services.secure_aggregation.state import FAILED, SUMMED, Session
from shared.core.robust.judging.rows import Precision, Rows, rows_for
from shared.core.robust.streaming.screening import refusal
from shared.core.secagg import fixed_point
from shared.errors import Refused, Rejected
from shared.sessions.terms import SessionTerms

LARGEST = fixed_point.LIMIT * fixed_point.SCALE
SCALE = np.float32(fixed_point.SCALE)


class Opened(Running):
    """Updates in fixed point, screened one by one. Without a rule that judges them they are added: the sum is
    exact, so that it does not depend on the order of arrival."""

    def __init__(self, terms: SessionTerms, keys: Keys) -> None:
        super().__init__(terms, keys)
        rule = terms.plan.rule
        self._rows: Rows | None = None
        if rule.single:
            precision, key = Precision(rule.bits, rule.bound), keys.secret("rows", terms.digest)
            self._rows = rows_for(rule.core(), terms.dimension, len(terms.members), precision, key)
        self._kept: dict[str, NDArray[np.float32]] = {}
        self._total = fixed_point.zeros(0 if rule.single else terms.dimension)

    @property
    def upload_bytes(self) -> int:
        """As `Running`."""
        return self.terms.dimension * fixed_point.BYTES_PER_VALUE

    def take_upload(self, session: Session, client: str, content: bytes) -> None:
        """As `Running`."""
        values = fixed_point.from_bytes(content, self.terms.dimension)
        reason = refusal(values, self.terms.dimension, np.int32, LARGEST)
        if reason is not None:
            raise Rejected(reason)
        if self._rows is None:
            fixed_point.add(self._total, values)
            if self.terms.plan.keeps:
                weight = np.float32(self.terms.members[client].weight)
                self._kept[client] = values.astype(np.float32) / SCALE / weight
        else:
            self._rows.add(client, values.astype(np.float32) / SCALE)
        self.uploads.add(client)

    def step(self, session: Session, relayed: Collection[str], *, waited: bool) -> Step | None:
        """As `Running`."""
        match self.enough(session, waited=waited):
            case None:
                return None
            case False:
                return Step(FAILED, outcome=self.too_few())
        members = tuple(sorted(self.uploads))
        if self._rows is None:
            kept = np.stack([self._kept[name] for name in members]) if self._kept else None
            total = fixed_point.decode(self._total)
            return Step(SUMMED, members, outcome=Summed(total, members, updates=kept))
        try:
            return Step(SUMMED, members, outcome=self._judged(session, self._rows))
        except (Refused, Rejected) as error:
            return Step(FAILED, outcome=Failed(str(error)))

    def _judged(self, session: Session, rows: Rows) -> Summed:
        plan = self.terms.plan.rule
        self.require_root(self.uploads, session.out)
        # Whoever sent what cannot be taken was one of those that may be malicious.
        refused = session.refused.keys() - self.uploads
        judged = rows.finish(max(0, plan.malicious - len(refused)))
        if plan.root:
            self.faults = {plan.root: TRUSTED}
        return Summed(
            judged.update, tuple(sorted(judged.weights)), judgement=Judgement(judged.weights, judged.reasons)
        )
