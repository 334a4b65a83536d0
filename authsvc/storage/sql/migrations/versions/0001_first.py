"""The first schema: the whole record, audit under per-subject keys from the first day."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_BYTES = sa.LargeBinary()
_INTEGER = sa.BigInteger()


def upgrade() -> None:
    """Create every table. A migration is frozen once released: it names nothing of `tables`."""
    op.create_table(
        "head",
        sa.Column("id", _INTEGER, primary_key=True, autoincrement=False, comment="always 1"),
        sa.Column("record", _NAME, nullable=False),
        sa.Column("epoch", _INTEGER, nullable=False),
        sa.Column("number", _INTEGER, nullable=False),
        sa.Column("digest", _BYTES, nullable=False),
        sa.Column("keys_epoch", _INTEGER, nullable=False),
        sa.Column("keys_number", _INTEGER, nullable=False),
        sa.Column("audit_sequence", _INTEGER, nullable=False),
        sa.Column("audit_hash", _BYTES, nullable=False),
    )
    op.create_table(
        "setting",
        sa.Column("name", _NAME, primary_key=True),
        sa.Column("value", _BYTES, nullable=False),
    )
    op.create_table(
        "change",
        sa.Column("number", _INTEGER, primary_key=True, autoincrement=False),
        sa.Column("epoch", _INTEGER, nullable=False),
        sa.Column("previous", _BYTES, nullable=False),
        sa.Column("digest", _BYTES, nullable=False),
        sa.Column("audit_sequence", _INTEGER, nullable=False),
        sa.Column("create_time", _INTEGER, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "signing_key",
        sa.Column("kid", _NAME, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "client",
        sa.Column("client_id", _NAME, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_table(
        "deleted_client",
        sa.Column("client_id", _NAME, primary_key=True),
        sa.Column("delete_time", _INTEGER, nullable=False),
    )
    op.create_table(
        "binding",
        sa.Column("binding_id", _NAME, primary_key=True),
        sa.Column("source", _NAME, primary_key=True),
        sa.Column("subject", _NAME, nullable=False),
        sa.Column("role", _NAME, nullable=False),
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("resource", _NAME, nullable=False),
        sa.Column("expire_time", _INTEGER),
        sa.Column("condition", sa.Text, nullable=False),
        sa.Column("revoked", sa.Boolean, nullable=False),
    )
    op.create_index("binding_by_subject", "binding", ["subject", "binding_id", "source"])
    op.create_index("binding_by_role", "binding", ["role"])
    op.create_table(
        "revoked_file_binding",
        sa.Column("binding_id", _NAME, primary_key=True),
        sa.Column("revoke_time", _INTEGER, nullable=False),
    )
    op.create_table(
        "policy",
        sa.Column("id", _INTEGER, primary_key=True, autoincrement=False, comment="always 1"),
        sa.Column("policy_revision", _NAME, nullable=False),
        sa.Column("apply_time", _INTEGER, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
    op.create_table(
        "revocation",
        sa.Column("kind", _NAME, primary_key=True),
        sa.Column("digest", _BYTES, primary_key=True),
        sa.Column("epoch", _INTEGER, nullable=False),
        sa.Column("number", _INTEGER, nullable=False),
        sa.Column("expire_time", _INTEGER, nullable=False),
    )
    op.create_index("revocation_by_expire_time", "revocation", ["expire_time"])
    op.create_table(
        "wrapped_secret",
        sa.Column("name", _NAME, primary_key=True),
        sa.Column("envelope", _BYTES, nullable=False),
    )
    op.create_table(
        "subject_key",
        sa.Column("key_id", _BYTES, primary_key=True),
        sa.Column("envelope", _BYTES, nullable=False),
    )
    op.create_table(
        "audit_chain",
        sa.Column("chain", _NAME, primary_key=True),
        sa.Column("sequence", _INTEGER, nullable=False),
        sa.Column("hash", _BYTES, nullable=False),
    )
    op.create_table(
        "audit_event",
        sa.Column("chain", _NAME, primary_key=True),
        sa.Column("sequence", _INTEGER, primary_key=True, autoincrement=False),
        sa.Column("time", _INTEGER, nullable=False),
        sa.Column("kind", _NAME, nullable=False),
        sa.Column("outcome", _NAME, nullable=False),
        sa.Column("reason", _NAME, nullable=False),
        sa.Column("count", _INTEGER, nullable=False),
        sa.Column("actor_key", _BYTES),
        sa.Column("actor_hash", _BYTES),
        sa.Column("actor", _BYTES),
        sa.Column("subject_key", _BYTES),
        sa.Column("subject_hash", _BYTES),
        sa.Column("subject", _BYTES),
        sa.Column("private", _BYTES, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("previous", _BYTES, nullable=False),
        sa.Column("hash", _BYTES, nullable=False),
    )
