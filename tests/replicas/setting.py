"""Three replicas, their stores, and the policy that tests and measurements here use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.fleet import Fleet, Trio, on_postgresql
from tests.support.postgresql import Postgres
from tests.support.redis import Store, store

LIMIT = 50

POLICY = f"""\
version: 1
permissions: {{"orders:read": {{}}, "orders:write": {{}}}}
roles:
  viewer: {{allow: ["orders:read"]}}
bindings:
  - {{subject: "user:ann", role: viewer}}
limits:
  tight: {{domain: tight, match: {{user: "*"}}, rate: {LIMIT}/1h, algorithm: fixed_window, on_failure: closed}}
  wide: {{domain: wide, match: {{user: "*"}}, rate: 1000000/1h, algorithm: fixed_window, on_failure: open}}
  local: {{domain: local, match: {{user: "*"}}, rate: 1000000/1h, algorithm: fixed_window, on_failure: local}}
  closed: {{domain: closed, match: {{user: "*"}}, rate: 1000000/1h, algorithm: fixed_window, on_failure: closed}}
"""


@contextmanager
def three(
    server: Postgres, folder: Path, settings: Mapping[str, str] | None = None, counters: Store | None = None
) -> Iterator[Trio]:
    """Three replicas on a database of their own, which goes with them, and on a store unless one is given."""
    if counters is None:
        with store() as own, three(server, folder, settings, own) as found:
            yield found
        return
    database = server.database()
    shared = {"counters.url": counters.url, "server.replicas": str(Trio.COUNT), **(settings or {})}
    try:
        with Trio(Fleet(folder, on_postgresql(server, database), shared)) as trio:
            yield trio
    finally:
        server.sql(f"DROP DATABASE {database} WITH (FORCE)")
