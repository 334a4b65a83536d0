"""The wake-up of replicas on PostgreSQL: LISTEN in a thread of its own.

Owns: that thread and its connection. May import: SQLAlchemy, psycopg. It is a hint and nothing more: whatever is lost
here, the poll of the head row finds within 100 ms (STATE.md).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import psycopg
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from authsvc.core.errors import AuthsvcError
from authsvc.storage.sql.postgresql_errors import CHANNEL

_TURN_SECONDS = 0.5
"""How long it listens before it looks whether to stop, and how long it rests after a fault."""

_log = logging.getLogger(__name__)


def start(engine: Engine, hint: Callable[[], None]) -> Callable[[], None]:
    """Call `hint` after each commit that says so, until the answer is called."""
    stopping = threading.Event()
    thread = threading.Thread(target=_run, args=(engine, hint, stopping), name="authsvc-listener", daemon=True)
    thread.start()

    def stop() -> None:
        stopping.set()
        thread.join()

    return stop


def _run(engine: Engine, hint: Callable[[], None], stopping: threading.Event) -> None:
    while not stopping.is_set():
        try:
            _listen(engine, hint, stopping)
        except (SQLAlchemyError, psycopg.Error, AuthsvcError) as error:
            # The class alone: a driver's words name hosts and users. The tail's own poll says what is wrong.
            _log.info("the wake-up of the record is lost for now (%s)", type(error).__name__)
            stopping.wait(_TURN_SECONDS)


def _listen(engine: Engine, hint: Callable[[], None], stopping: threading.Event) -> None:
    pooled = engine.raw_connection()
    connection = pooled.driver_connection
    # Out of the pool for good: it must not come back listening.
    pooled.detach()
    if not isinstance(connection, psycopg.Connection):
        raise TypeError("not a connection of psycopg")
    with connection:
        connection.autocommit = True
        connection.execute(f"LISTEN {CHANNEL}")
        # What was committed while nobody listened.
        hint()
        while not stopping.is_set():
            if any(connection.notifies(timeout=_TURN_SECONDS, stop_after=1)):
                hint()
