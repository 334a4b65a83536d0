"""Three replicas as processes of their own, on one PostgreSQL and one counter store, stopped and killed one by one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from authsvc_client import Settings
from tests.support.ports import free_ports
from tests.support.postgresql import postgres
from tests.support.process import Serving, serving
from tests.support.redis import store

POLICY: dict[str, Any] = {
    "version": 1,
    "permissions": {"orders:read": {}},
    "roles": {"viewer": {"allow": ["orders:read"]}},
    "bindings": [{"subject": "user:ann", "role": "viewer"}, {"subject": "client:shopper", "role": "viewer"}],
    "limits": {
        "per_path": {"domain": "api", "match": {"path": "*"}, "rate": "1000000/24h", "algorithm": "fixed_window"}
    },
}


@dataclass
class Fleet:
    """Replicas by their number."""

    settings: dict[str, str]
    folder: Path
    ports: list[int]
    secrets: dict[str, str] = field(default_factory=dict)
    admin_token: str = ""
    """Of the first administrator, whose credentials lie with the first replica."""
    _held: dict[int, ExitStack] = field(default_factory=dict)
    replicas: dict[int, Serving] = field(default_factory=dict)

    def start(self, number: int) -> None:
        """Begin one, on its own port and data directory."""
        folder = self.folder / f"replica-{number}"
        folder.mkdir(mode=0o700, exist_ok=True)
        stack = self._held[number] = ExitStack()
        at = {"server.listen": f"127.0.0.1:{self.ports[number]}"}
        self.replicas[number] = stack.enter_context(serving(folder, {**self.settings, **at}))

    def stop(self, number: int) -> None:
        """SIGTERM, and wait until it has drained."""
        assert self.replicas.pop(number).server.stop(30.0) == 0
        self._held.pop(number).close()

    def kill(self, number: int) -> None:
        """SIGKILL."""
        self.replicas.pop(number).server.kill()
        self._held.pop(number).close()

    def close(self) -> None:
        """Stop what runs."""
        threads = [threading.Thread(target=stack.close) for stack in self._held.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def token(self) -> str:
        """Of the client that comes."""
        return next(iter(self.replicas.values())).token("shopper", self.secrets["shopper"], audience=["app"])

    def client_settings(self, **fields: Any) -> Settings:
        """As the client `app`, of all replicas."""
        secret = self.folder / "app-secret"
        secret.write_text(self.secrets["app"])
        return Settings(
            ",".join(f"127.0.0.1:{port}" for port in self.ports),
            client_id="app",
            client_secret_file=secret,
            issuer=self.settings["issuer"],
            audience=("app",),
            **{"deadline": 5.0, **fields},
        )


@contextmanager
def fleet(folder: Path, transport: str, size: int = 3) -> Iterator[Fleet]:
    """`size` replicas that are ready, a policy in force, clients `app` (which asks) and `shopper` (which comes)."""
    with ExitStack() as stack:
        record = stack.enter_context(postgres("fsync=off"))
        counters = stack.enter_context(store())
        kek = folder / "kek"
        kek.write_text("6b" * 32)
        kek.chmod(0o600)
        settings = {
            "issuer": "http://authsvc.test",
            "record.url": record.url(record.database()),
            "record.password_file": str(record.password),
            "keys.kek": str(kek),
            "counters.url": counters.url,
            "server.replicas": str(size),
            "server.transport": transport,
        }
        made = Fleet(settings, folder, list(free_ports(size)))
        stack.callback(made.close)
        for number in range(size):
            made.start(number)
        first = made.replicas[0]
        first.apply(json.dumps(POLICY))
        made.admin_token = first.admin()
        made.secrets["app"] = first.create_client("app", own_audience=["app"], tenants=["*"], domains=["*"])
        made.secrets["shopper"] = first.create_client("shopper", audience=["app"])
        yield made
