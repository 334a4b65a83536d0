"""The tables of the record.

Owns: names and types of every table; the migrations must produce exactly these, which a test compares. May
import: SQLAlchemy. Types are portable. Names are ordered by code point (`C` collation), never by locale.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, LargeBinary, MetaData, Table, Text

metadata = MetaData()

_NAME = Text().with_variant(Text(collation="C"), "postgresql")
_BYTES = LargeBinary()
_INTEGER = BigInteger()

head = Table(
    "head",
    metadata,
    Column("id", _INTEGER, primary_key=True, autoincrement=False, comment="always 1"),
    Column("record", _NAME, nullable=False),
    Column("epoch", _INTEGER, nullable=False),
    Column("number", _INTEGER, nullable=False),
    Column("digest", _BYTES, nullable=False),
    Column("keys_epoch", _INTEGER, nullable=False),
    Column("keys_number", _INTEGER, nullable=False),
    Column("audit_sequence", _INTEGER, nullable=False),
    Column("audit_hash", _BYTES, nullable=False),
)

setting = Table(
    "setting",
    metadata,
    Column("name", _NAME, primary_key=True),
    Column("value", _BYTES, nullable=False),
)

change = Table(
    "change",
    metadata,
    Column("number", _INTEGER, primary_key=True, autoincrement=False),
    Column("epoch", _INTEGER, nullable=False),
    Column("previous", _BYTES, nullable=False),
    Column("digest", _BYTES, nullable=False),
    Column("audit_sequence", _INTEGER, nullable=False),
    Column("create_time", _INTEGER, nullable=False),
    Column("body", Text, nullable=False),
)

signing_key = Table(
    "signing_key",
    metadata,
    Column("kid", _NAME, primary_key=True),
    Column("body", Text, nullable=False),
)

client = Table(
    "client",
    metadata,
    Column("client_id", _NAME, primary_key=True),
    Column("body", Text, nullable=False),
)

deleted_client = Table(
    "deleted_client",
    metadata,
    Column("client_id", _NAME, primary_key=True),
    Column("delete_time", _INTEGER, nullable=False),
)

binding = Table(
    "binding",
    metadata,
    Column("binding_id", _NAME, primary_key=True),
    Column("source", _NAME, primary_key=True),
    Column("subject", _NAME, nullable=False),
    Column("role", _NAME, nullable=False),
    Column("tenant", _NAME, nullable=False),
    Column("resource", _NAME, nullable=False),
    Column("expire_time", _INTEGER),
    Column("condition", Text, nullable=False),
    Column("revoked", Boolean, nullable=False),
    Index("binding_by_subject", "subject", "binding_id", "source"),
    Index("binding_by_role", "role"),
)

revoked_file_binding = Table(
    "revoked_file_binding",
    metadata,
    Column("binding_id", _NAME, primary_key=True),
    Column("revoke_time", _INTEGER, nullable=False),
)

policy = Table(
    "policy",
    metadata,
    Column("id", _INTEGER, primary_key=True, autoincrement=False, comment="always 1"),
    Column("policy_revision", _NAME, nullable=False),
    Column("apply_time", _INTEGER, nullable=False),
    Column("text", Text, nullable=False),
)

revocation = Table(
    "revocation",
    metadata,
    Column("kind", _NAME, primary_key=True),
    Column("digest", _BYTES, primary_key=True),
    Column("epoch", _INTEGER, nullable=False),
    Column("number", _INTEGER, nullable=False),
    Column("expire_time", _INTEGER, nullable=False),
    Index("revocation_by_expire_time", "expire_time"),
)

wrapped_secret = Table(
    "wrapped_secret",
    metadata,
    Column("name", _NAME, primary_key=True),
    Column("envelope", _BYTES, nullable=False),
)

subject_key = Table(
    "subject_key",
    metadata,
    Column("key_id", _BYTES, primary_key=True),
    Column("envelope", _BYTES, nullable=False),
)

audit_chain = Table(
    "audit_chain",
    metadata,
    Column("chain", _NAME, primary_key=True),
    Column("sequence", _INTEGER, nullable=False),
    Column("hash", _BYTES, nullable=False),
)

audit_event = Table(
    "audit_event",
    metadata,
    Column("chain", _NAME, primary_key=True),
    Column("sequence", _INTEGER, primary_key=True, autoincrement=False),
    Column("time", _INTEGER, nullable=False),
    Column("kind", _NAME, nullable=False),
    Column("outcome", _NAME, nullable=False),
    Column("reason", _NAME, nullable=False),
    Column("count", _INTEGER, nullable=False),
    Column("actor_key", _BYTES),
    Column("actor_hash", _BYTES),
    Column("actor", _BYTES),
    Column("subject_key", _BYTES),
    Column("subject_hash", _BYTES),
    Column("subject", _BYTES),
    Column("private", _BYTES, nullable=False),
    Column("detail", Text, nullable=False),
    Column("previous", _BYTES, nullable=False),
    Column("hash", _BYTES, nullable=False),
)

replica = Table(
    "replica",
    metadata,
    Column("replica_id", _NAME, primary_key=True),
    Column("epoch", _INTEGER, nullable=False),
    Column("number", _INTEGER, nullable=False),
    Column("watchers", _INTEGER, nullable=False),
    Column("acknowledged", Text, nullable=False),
    Column("seen_at", _INTEGER, nullable=False, comment="milliseconds by the database's clock"),
)
