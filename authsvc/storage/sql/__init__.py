"""The record in SQL: SQLAlchemy Core, Alembic for the schema.

`opening.open_record` gives a `SqlRecord`; nothing is imported here, so that a command that needs no record
does not pay for SQLAlchemy.
"""
