"""What an error of PostgreSQL means, and the channel of its wake-up.

Owns: words for SQLSTATEs and for refused connections. May import: SQLAlchemy's errors; no driver, so that a record on
SQLite costs none. The answer never repeats the driver's text, which names hosts, users and values.
"""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

CHANNEL = "authsvc_change"
NOTIFY = f"NOTIFY {CHANNEL}"

UNREADABLE = "record.password_file cannot be read, or everybody can read it"

_STATES = {
    "23": "another writer was first",
    "25006": "the record cannot be written: its database only reads",
    "25P03": "the record gave up a transaction that stood still",
    "28": "the record's database refuses this user or its password",
    "3D000": "the record's database does not exist",
    "40": "the record is locked by another writer",
    "42501": "the record's database lets this user not do what it must",
    "53": "the record's database has no room left for this",
    "53100": "the record's disk is full",
    "53300": "the record's database takes no more connections",
    "55P03": "the record is locked by another writer",
    "57": "the record's database stops or starts",
    "57014": "the record took too long to answer",
}
"""By SQLSTATE, else by its first two characters, its class (PostgreSQL's appendix A)."""

_REFUSALS = (
    (UNREADABLE, UNREADABLE, True),
    ("certificate verify failed", "the record's database shows a certificate that does not verify", True),
    ("does not match host name", "the record's database shows a certificate of another name", True),
    ("root certificate file", "the certificates that the record's database is judged by cannot be read", True),
    ("does not support SSL", "the record's database speaks no TLS, which is asked of it", True),
    ("authentication failed", _STATES["28"], True),
    ("no password supplied", "the record's database asks for a password, and none is given", True),
    ("no pg_hba.conf entry", "the record's database refuses this host, user or database", True),
    ("database system is", _STATES["57"], False),
    ("too many clients", _STATES["53300"], False),
    ("remaining connection slots", _STATES["53300"], False),
    ("session is read-only", "the record's database is a standby", False),
    ("server is in hot standby", "the record's database is a standby", False),
    ("does not exist", "the record's database, or its user, does not exist", True),
    ("invalid connection option", "the URL of the record holds a parameter that means nothing", True),
)
"""Parts of what a refused connection says, its meaning, and whether waiting does not mend it.

libpq gives no SQLSTATE there; a server that speaks another language falls through to `_UNREACHABLE`.
"""

_UNREACHABLE = "the record's database does not answer"
_LOCKED_STATES = ("40P01", "55P03")
_LASTING_STATES = ("28", "3D000", "42501")


def meaning(error: DBAPIError) -> str:
    """What a driver's error means."""
    state = _state(error)
    if state:
        return _STATES.get(state) or _STATES.get(state[:2]) or "the record's database fails"
    return next((text for part, text, _ in _REFUSALS if part in str(error.orig)), _UNREACHABLE)


def is_lasting(error: DBAPIError) -> bool:
    """Whether the database or the way to it is set up wrongly, which waiting does not mend."""
    state = _state(error)
    if state:
        return state.startswith(_LASTING_STATES)
    return next((lasting for part, _, lasting in _REFUSALS if part in str(error.orig)), False)


def gave_way(error: DBAPIError) -> bool:
    """Whether a lock was not to be had in time, or two waited for each other."""
    return _state(error) in _LOCKED_STATES


def _state(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""
