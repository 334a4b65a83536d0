"""Replicas of one record as processes, each of a release of its own.

Owns: what they share (settings, key-encryption key, administrator), how a test speaks to each, and three of them that
are ended and begun again on their ports.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from authsvc.v1 import authz_pb2, client_admin_pb2, limit_pb2, policy_admin_pb2, token_pb2, types_pb2
from tests.support.embedded import Refused
from tests.support.ports import free_ports
from tests.support.postgresql import Postgres
from tests.support.process import POLICY, Serving, serving
from tests.support.releases import Release, this

ADMIN, ADMIN_SECRET = "root", "a secret that all the replicas know"
KEK = "6b" * 32


@dataclass
class Fleet:
    """What replicas share; `settings` are those that a test adds."""

    folder: Path
    record: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, text in (("kek", KEK), ("admin-secret", ADMIN_SECRET)):
            path = self.folder / name
            path.write_text(text)
            path.chmod(0o600)

    @property
    def shared(self) -> dict[str, str]:
        """The settings of every replica."""
        return {
            **self.record,
            "keys.kek": str(self.folder / "kek"),
            "bootstrap.admin_client_id": ADMIN,
            "bootstrap.admin_secret_file": str(self.folder / "admin-secret"),
            **self.settings,
        }

    @contextmanager
    def replica(
        self, name: str, release: Release | None = None, settings: Mapping[str, str] | None = None
    ) -> Iterator[Member]:
        """A replica with a data directory of its name, ready; stopped at the end."""
        release = release or this()
        with serving(
            self.folder / name, {**self.shared, **(settings or {})}, environment=release.environment
        ) as service:
            yield Member(service)


@dataclass
class Member:
    """A replica, and an administrator's and a caller's words to it."""

    service: Serving
    _token: str = field(default="", init=False)

    def admin(self) -> str:
        """The administrator's token; asked for once."""
        if not self._token:
            self._token = self.service.token(ADMIN, ADMIN_SECRET, audience=["authsvc"])
        return self._token

    def renew(self) -> None:
        """Ask for another token of the administrator: the key of the one before was revoked."""
        self._token = ""

    def apply(self, policy: str = POLICY) -> str:
        """Put a policy in force; the revision."""
        request = policy_admin_pb2.ApplyPolicyRequest(policy=policy)
        return str(self.service.call("PolicyAdminService/ApplyPolicy", request, self.admin()).revision)

    def create_client(self, client_id: str, **request: Any) -> str:
        """Make a client; its secret."""
        wanted = client_admin_pb2.CreateClientRequest(client_id=client_id, **request)
        return str(self.service.call("ClientAdminService/CreateClient", wanted, self.admin()).client_secret)

    def grant(self, subject: str, role: str = "viewer") -> str:
        """Give a role; the revision."""
        request = policy_admin_pb2.GrantRoleRequest(subject=subject, role=role)
        return str(self.service.call("PolicyAdminService/GrantRole", request, self.admin()).revision)

    def revoke_subject(self, subject: str) -> str:
        """Refuse every token of a subject so far; the revision."""
        request = token_pb2.RevokeTokenRequest(subject=subject)
        return str(self.service.call("TokenService/RevokeToken", request, self.admin()).revision)

    def revoke_role(self, binding_id: str) -> str:
        """Take a role away; the revision."""
        request = policy_admin_pb2.RevokeRoleRequest(binding_id=binding_id)
        return str(self.service.call("PolicyAdminService/RevokeRole", request, self.admin()).revision)

    def consume(self, domain: str, user: str, *, hits: int = 1) -> limit_pb2.ConsumeResponse:
        """Take hits of a user, or with 0 look."""
        entry = limit_pb2.Entry(key="user", value=user)
        descriptor = limit_pb2.Descriptor(entries=[entry], hits=hits)
        request = limit_pb2.ConsumeRequest(domain=domain, descriptors=[descriptor])
        answer: limit_pb2.ConsumeResponse = self.service.call("LimitService/Consume", request, self.admin())
        return answer

    def allows(self, subject: str, *, revision: str = "", permission: str = "orders:read") -> bool:
        """Whether the subject may, as of a revision at least."""
        request = authz_pb2.CheckRequest(subject=subject, permission=permission, min_revision=revision)
        answer = self.service.call("AuthzService/Check", request, self.admin())
        return bool(answer.decision == types_pb2.DECISION_ALLOW)

    def verifies(self, token: str, audience: str, *, revision: str = "") -> bool:
        """Whether a token is good, as of a revision at least."""
        request = token_pb2.VerifyTokenRequest(token=token, audience=[audience], min_revision=revision)
        return bool(self.service.call("TokenService/VerifyToken", request, self.admin()).valid)


def stubborn(write: Callable[[], str]) -> str:
    """Write until it is acknowledged: whoever waits too long for its turn is refused, and may ask again."""
    while True:
        try:
            return write()
        except Refused as refused:
            if refused.reason != "RECORD_UNAVAILABLE":
                raise


def on_postgresql(server: Postgres, database: str) -> dict[str, str]:
    """The settings of a record on a server."""
    return {"record.url": server.url(database), "record.password_file": str(server.password)}


class Trio:
    """Three replicas on ports of their own, ended and begun again as a test likes."""

    COUNT = 3

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._ports = free_ports(self.COUNT)
        self._members: list[Member | None] = [None] * self.COUNT
        self._ends = [ExitStack() for _ in range(self.COUNT)]

    def __enter__(self) -> Self:
        try:
            with ThreadPoolExecutor(self.COUNT) as pool:
                list(pool.map(self.begin, range(self.COUNT)))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for end in self._ends:
            end.close()

    def __getitem__(self, index: int) -> Member:
        found = self._members[index % self.COUNT]
        assert found is not None, f"replica {index} is not there"
        return found

    def __iter__(self) -> Iterator[Member]:
        return (member for member in self._members if member is not None)

    @property
    def database(self) -> str:
        """The name of the database that their record is in."""
        return self.fleet.record["record.url"].rpartition("/")[2].partition("?")[0]

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where they listen, whether they are there or not."""
        return tuple(f"127.0.0.1:{port}" for port in self._ports)

    def begin(self, index: int, release: Release | None = None) -> Member:
        """Start one, ready."""
        settings = {"server.listen": self.addresses[index]}
        member = self._ends[index].enter_context(self.fleet.replica(f"replica-{index}", release, settings))
        self._members[index] = member
        return member

    def stop(self, index: int) -> None:
        """SIGTERM, and wait for the end."""
        self[index].service.server.stop()
        self._gone(index)

    def kill(self, index: int) -> None:
        """SIGKILL, as when its machine is lost."""
        self[index].service.server.kill()
        self._gone(index)

    def pause(self, index: int) -> None:
        """It stands still until `go_on`."""
        os.kill(self[index].service.pid, signal.SIGSTOP)

    def go_on(self, index: int) -> None:
        """End a pause."""
        os.kill(self[index].service.pid, signal.SIGCONT)

    def said(self) -> str:
        """Everything that any of them wrote."""
        return "".join(path.read_text(errors="replace") for path in self.fleet.folder.glob("replica-*.log"))

    def _gone(self, index: int) -> None:
        self._members[index] = None
        self._ends[index].close()
