"""The tables, the same for every service and both databases (docs/adr/0007)."""

import sqlalchemy as sa

metadata = sa.MetaData()
# Keys are compared byte by byte, so that a prefix is a range.
_Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")
_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

inbox = sa.Table(
    "inbox",
    metadata,
    sa.Column("service", _Text, primary_key=True),
    sa.Column("event_id", _Text, primary_key=True),
    sa.Column("handled_at", sa.Float, nullable=False, index=True),  # seconds since the epoch
)

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    sa.Column("service", _Text, nullable=False),
    sa.Column("event_id", _Text, nullable=False),
    sa.Column("owner", _Text, nullable=False),  # the replica that committed it, and publishes it first
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("envelope", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("service", "event_id"),
)

states = sa.Table(
    "states",
    metadata,
    sa.Column("service", _Text, primary_key=True),
    sa.Column("kind", _Text, primary_key=True),
    sa.Column("key", _Text, primary_key=True),
    sa.Column("body", sa.LargeBinary, nullable=False),
)

deadlines = sa.Table(
    "deadlines",
    metadata,
    sa.Column("service", _Text, primary_key=True),
    sa.Column("name", _Text, primary_key=True),
    sa.Column("subject", _Text, primary_key=True),
    sa.Column("due_at", sa.Float, nullable=False, index=True),
    sa.Column("event_id", _Text, nullable=False),
    sa.Column("correlation_id", _Text, nullable=False),
    sa.Column("traceparent", _Text, nullable=False),
)

journal = sa.Table(
    "journal",
    metadata,
    sa.Column("stream", _Text, primary_key=True),
    sa.Column("sequence", _Id, primary_key=True, autoincrement=False),
    sa.Column("previous_sha256", _Text, nullable=False),
    sa.Column("entry_sha256", _Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)
