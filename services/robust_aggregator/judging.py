"""Groups' mean updates, judged as they come: in memory, and made again from the blobs after a restart."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.robust_aggregator.state import GroupSum, aggregate
from shared.core.robust.judging.rows import Judged, Precision, Rows, rows_for
from shared.ports import BlobStore, RandomSource

MOST_ROUNDS = 16  # at once in memory: rows of others are read again when they are needed
COORDINATE_BYTES = 8  # of a sum

Key = tuple[str, ...]


@dataclass
class RowsSoFar:
    """Of one round; one task at a time adds to them."""

    rows: Rows
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass
class Judging:
    """The rounds whose groups a rule judges. Nothing here is durable: a group that is here already is not
    taken in again, one that is not is read from its blob."""

    blobs: BlobStore
    random: RandomSource
    rounds: dict[Key, RowsSoFar] = field(default_factory=dict)

    async def take(self, key: Key, groups: Sequence[GroupSum], most: int) -> RowsSoFar:
        """Take in those of a round's sums that are not here yet.

        Args:
            key: of the round.
            groups: those that have reported, one or more with a sum.
            most: groups that the round has.

        Raises: Rejected for sums of different lengths, or not finite.
        """
        so_far = self.rounds.get(key) or await self._empty(key, groups, most)
        async with so_far.lock:
            known = set(so_far.rows.names)
            for group in groups:
                if group.total is not None and group.group_id not in known:
                    row = aggregate([await self.blobs.get(group.total)], [group.weight])
                    await asyncio.to_thread(so_far.rows.add, group.group_id, row)
        return so_far

    async def finish(self, key: Key, groups: Sequence[GroupSum], most: int) -> Judged:
        """The rule's result, once all groups have reported; what was kept of the round is dropped.

        Raises: as `take`; Refused when the rule does not bear so many hostile ones of so few groups.
        """
        so_far = await self.take(key, groups, most)
        self.drop(key)
        hostile = hostile_rows(groups)
        async with so_far.lock:
            return await asyncio.to_thread(so_far.rows.finish, hostile)

    def drop(self, key: Key) -> None:
        """Forget a round."""
        self.rounds.pop(key, None)

    async def _empty(self, key: Key, groups: Sequence[GroupSum], most: int) -> RowsSoFar:
        total, rule = next((group.total, group.rule) for group in groups if group.total is not None)
        rows = await asyncio.to_thread(
            rows_for,
            rule.core(),
            total.size_bytes // COORDINATE_BYTES,
            most,
            Precision(rule.bits, rule.bound),
            self.random.bytes(32),
        )
        while len(self.rounds) >= MOST_ROUNDS:
            self.drop(next(iter(self.rounds)))
        return self.rounds.setdefault(key, RowsSoFar(rows))


def hostile_rows(groups: Sequence[GroupSum]) -> int:
    """How many of the groups that have a sum may be hostile: as many as clients, each in another group."""
    choice = next(group.rule.core() for group in groups if group.total is not None)
    return choice.hostile
