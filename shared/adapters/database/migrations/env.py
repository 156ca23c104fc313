"""Alembic's entry: migrations run on the connection that `migrate` hands over."""

from alembic import context

from shared.adapters.database.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=False)
context.run_migrations()
