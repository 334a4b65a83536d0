"""Alembic's entry: the migrations run on the connection that `schema.bring_up` hands over, in its transaction."""

from alembic import context

from authsvc.storage.sql.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
