"""The fake service.

Owns: `FakeAuthsvc`, what a test says to it. May import: grpc and this package.
"""

from __future__ import annotations

import secrets
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import grpc

from authsvc.clock import Clock, SystemClock
from authsvc_client.client import AsyncClient, Client
from authsvc_client.settings import Settings
from authsvc_client.testing.rows import DEFAULT_TTL, Rows, Service
from authsvc_client.testing.state import State
from authsvc_client.testing.watch import Watchers

_WORKERS = 64
"""Each watcher holds one; they are made when they are needed."""


class FakeAuthsvc:
    """A small real authsvc on loopback. It grants nothing until it is told; see `grant`, `limit`, `apply_policy`.

    Each client that it knows may ask everything; who may call the real service is the real service's to test.
    `clock` is its clock; a `authsvc.clock.FakeClock` lets windows and lifetimes pass at once, for verification
    by the service (local verification reads the machine's clock). Use it as a context manager.
    """

    def __init__(
        self,
        policy: str | Mapping[str, Any] | None = None,
        *,
        issuer: str = "https://authsvc.test",
        audience: Sequence[str] = ("app",),
        clock: Clock | None = None,
    ) -> None:
        self.state = State(issuer, clock or SystemClock())
        self.audience = tuple(audience)
        self.watchers = Watchers(self.state)
        self._service = Service(self.state, self.audience, self.watchers)
        self._arrivals: list[str] = []
        self._arrived = threading.Condition()
        self._secrets = tempfile.TemporaryDirectory(prefix="authsvc-fake-")
        self._server: grpc.Server | None = None
        self._port = 0
        if policy is not None:
            self.apply_policy(policy)

    @property
    def address(self) -> str:
        """Where it listens; the same after a stop and a start."""
        return f"127.0.0.1:{self._port}"

    @property
    def key_id(self) -> str:
        """The kid of the key that signs now."""
        return self.state.key_id

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._secrets.cleanup()

    def start(self) -> None:
        """Listen."""
        server = grpc.server(ThreadPoolExecutor(_WORKERS), [Rows(self._service, self._arrive)])
        self._port = server.add_insecure_port(f"127.0.0.1:{self._port}")
        server.start()
        self._server = server

    def stop(self) -> None:
        """Be out of reach, at once; what is known stays."""
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None

    def apply_policy(self, policy: str | Mapping[str, Any]) -> None:
        """Replace the policy by a file's text or its content; grants and limits made before are gone."""
        self.state.apply(policy)

    def grant(
        self, subject: str, permission: str, *, tenant: str = "", resource: str = "", condition: str = ""
    ) -> None:
        """Let the subject hold the permission."""
        self.state.bind(subject, permission, "allow", tenant=tenant, resource=resource, condition=condition)

    def deny(self, subject: str, permission: str, *, tenant: str = "", resource: str = "", condition: str = "") -> None:
        """Deny the permission to the subject, whatever grants it."""
        self.state.bind(subject, permission, "deny", tenant=tenant, resource=resource, condition=condition)

    def limit(
        self,
        name: str,
        *,
        rate: str,
        match: Mapping[str, str],
        domain: str = "api",
        burst: int | None = None,
    ) -> None:
        """Add a limit rule, as the policy's `limits:` section has it."""
        rule: dict[str, Any] = {"domain": domain, "match": dict(match), "rate": rate}
        if burst is not None:
            rule["burst"] = burst
        self.state.limit(name, rule)

    def token(
        self,
        subject: str,
        *,
        client_id: str = "test",
        audience: Sequence[str] = (),
        scope: Sequence[str] = (),
        groups: Sequence[str] = (),
        tenant: str = "",
        ttl: int = DEFAULT_TTL,
    ) -> str:
        """A real token, for `audience` or the fake's own; with a `ttl` below 0 it has expired."""
        return self.state.mint(subject, client_id, audience or self.audience, scope, groups, tenant, ttl)

    def revoke(self, token: str) -> None:
        """Refuse a token."""
        self.state.revoke_token(token)

    def revoke_subject(self, subject: str) -> None:
        """Refuse all tokens minted so far for a subject."""
        self.state.revoke_subject(subject)

    def revoke_client(self, client_id: str) -> None:
        """Refuse all tokens minted so far for a client."""
        self.state.revoke_client(client_id)

    def revoke_issuer(self) -> None:
        """Refuse all tokens minted so far."""
        self.state.revoke_issuer()

    def rotate_key(self) -> str:
        """Sign with a new key from now on; its kid."""
        return self.state.rotate()

    def revoke_key(self, kid: str) -> None:
        """Withdraw a key and refuse its tokens."""
        self.state.revoke_key(kid)

    def publish_for(self, max_age: int) -> None:
        """Let the key set be cached for `max_age` seconds from the next fetch on."""
        self._service.max_age = max_age

    def wait_acknowledged(self, deadline: float = 5.0) -> None:
        """Wait until a watcher holds the present state, so that local verification decides by it.

        Raises TimeoutError after `deadline` seconds.
        """
        if not self.watchers.wait_acknowledged(self.state.revision, deadline):
            raise TimeoutError(f"no watcher acknowledged {self.state.revision}")

    def received(self, method: str) -> int:
        """How many calls of a method, for example `Consume`, have arrived."""
        with self._arrived:
            return self._arrivals.count(method)

    def wait_received(self, method: str, count: int, deadline: float = 5.0) -> None:
        """Wait until so many calls of a method have arrived; raises TimeoutError after `deadline` seconds."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._arrivals.count(method) >= count, deadline):
                raise TimeoutError(f"{method} arrived {self._arrivals.count(method)} times, not {count}")

    def environ(self, client_id: str = "test") -> dict[str, str]:
        """The variables by which `Client.from_env` reaches this fake as the client, which it creates."""
        path = Path(self._secrets.name, client_id)
        if client_id not in self.state.clients:
            self.state.clients[client_id] = secrets.token_urlsafe(32)
            path.write_text(self.state.clients[client_id], encoding="ascii")
            path.chmod(0o600)
        return {
            "AUTHSVC_ADDRESS": self.address,
            "AUTHSVC_CLIENT_ID": client_id,
            "AUTHSVC_CLIENT_SECRET_FILE": str(path),
            "AUTHSVC_ISSUER": self.state.issuer,
            "AUTHSVC_AUDIENCE": " ".join(self.audience),
        }

    def settings(self, client_id: str = "test", **variables: str) -> Settings:
        """Settings for this fake; `variables` as in the environment, for example `AUTHSVC_DEADLINE="2s"`."""
        return Settings.from_env({**self.environ(client_id), **variables})

    def client(self, client_id: str = "test", **variables: str) -> Client:
        """A client of this fake."""
        return Client(self.settings(client_id, **variables))

    def async_client(self, client_id: str = "test", **variables: str) -> AsyncClient:
        """An asyncio client of this fake."""
        return AsyncClient(self.settings(client_id, **variables))

    def _arrive(self, method: str) -> None:
        with self._arrived:
            self._arrivals.append(method)
            self._arrived.notify_all()
