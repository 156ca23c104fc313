"""The first tables: inbox, outbox, states, deadlines, journal."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")
_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

APPEND_ONLY = """
CREATE FUNCTION journal_is_append_only() RETURNS trigger AS $$
BEGIN RAISE EXCEPTION 'the journal is append-only'; END $$ LANGUAGE plpgsql
"""


def upgrade() -> None:
    op.create_table(
        "inbox",
        sa.Column("service", _Text, primary_key=True),
        sa.Column("event_id", _Text, primary_key=True),
        sa.Column("handled_at", sa.Float, nullable=False, index=True),
    )
    op.create_table(
        "outbox",
        sa.Column("id", _Id, primary_key=True, autoincrement=True),
        sa.Column("service", _Text, nullable=False),
        sa.Column("event_id", _Text, nullable=False),
        sa.Column("owner", _Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("service", "event_id"),
    )
    op.create_table(
        "states",
        sa.Column("service", _Text, primary_key=True),
        sa.Column("kind", _Text, primary_key=True),
        sa.Column("key", _Text, primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "deadlines",
        sa.Column("service", _Text, primary_key=True),
        sa.Column("name", _Text, primary_key=True),
        sa.Column("subject", _Text, primary_key=True),
        sa.Column("due_at", sa.Float, nullable=False, index=True),
        sa.Column("event_id", _Text, nullable=False),
        sa.Column("correlation_id", _Text, nullable=False),
        sa.Column("traceparent", _Text, nullable=False),
    )
    op.create_table(
        "journal",
        sa.Column("stream", _Text, primary_key=True),
        sa.Column("sequence", _Id, primary_key=True, autoincrement=False),
        sa.Column("previous_sha256", _Text, nullable=False),
        sa.Column("entry_sha256", _Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(APPEND_ONLY)
        op.execute(
            "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON journal "
            "FOR EACH ROW EXECUTE FUNCTION journal_is_append_only()"
        )
        op.execute(
            "CREATE TRIGGER never_emptied BEFORE TRUNCATE ON journal "
            "FOR EACH STATEMENT EXECUTE FUNCTION journal_is_append_only()"
        )
    else:
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER append_only_{verb.lower()} BEFORE {verb} ON journal "
                "BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END"
            )
