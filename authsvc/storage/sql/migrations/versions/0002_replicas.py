"""Which replicas follow the record, and what their watchers hold."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_INTEGER = sa.BigInteger()


def upgrade() -> None:
    """Add a table that earlier releases do not look at."""
    op.create_table(
        "replica",
        sa.Column("replica_id", _NAME, primary_key=True),
        sa.Column("epoch", _INTEGER, nullable=False),
        sa.Column("number", _INTEGER, nullable=False),
        sa.Column("watchers", _INTEGER, nullable=False),
        sa.Column("acknowledged", sa.Text, nullable=False),
        sa.Column("seen_at", _INTEGER, nullable=False, comment="milliseconds by the database's clock"),
    )
