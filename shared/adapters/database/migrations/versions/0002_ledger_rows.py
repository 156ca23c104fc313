"""The accountant's ledger of a job, one row with every client in it, becomes one row a client."""

from datetime import datetime

import msgpack
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

states = sa.table("states", *(sa.column(name) for name in ("service", "kind", "key", "body")))


def upgrade() -> None:
    connection = op.get_bind()
    mine = states.c.service == "accountant"
    kind = mine & (states.c.kind == "ledger")
    ledgers = [msgpack.unpackb(body) for (body,) in connection.execute(sa.select(states.c.body).where(kind))]
    connection.execute(sa.delete(states).where(kind))
    for ledger in ledgers:
        job_id = ledger["job_id"]
        for client_id, spending in ledger["clients"].items():
            key = f"job/{job_id}/{client_id}" if job_id else f"client/{client_id}"
            _insert("ledger", key, {"job_id": job_id, "client_id": client_id, "spending": spending})
    reservations = connection.execute(sa.select(states.c.body).where(mine & (states.c.kind == "reservation")))
    terms: dict[str, tuple[datetime, float, float]] = {}
    for (body,) in reservations.all():
        held = msgpack.unpackb(body, timestamp=3)
        first = held["expires_at"], held["epsilon_limit"], held["delta"]
        terms[held["job_id"]] = min(first, terms.get(held["job_id"], first))
    for job_id, (_, epsilon, delta) in terms.items():
        _insert("terms", job_id, {"job_id": job_id, "epsilon": epsilon, "delta": delta})


def _insert(kind: str, key: str, body: dict[str, object]) -> None:
    values = {"service": "accountant", "kind": kind, "key": key, "body": msgpack.packb(body)}
    op.get_bind().execute(sa.insert(states).values(values))
