"""Replicas of one record as processes, each of a release of its own.

Owns: what they share (settings, key-encryption key, administrator), and how a test speaks to each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from authsvc.v1 import authz_pb2, client_admin_pb2, policy_admin_pb2, token_pb2, types_pb2
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

    def allows(self, subject: str, *, revision: str = "", permission: str = "orders:read") -> bool:
        """Whether the subject may, as of a revision at least."""
        request = authz_pb2.CheckRequest(subject=subject, permission=permission, min_revision=revision)
        answer = self.service.call("AuthzService/Check", request, self.admin())
        return bool(answer.decision == types_pb2.DECISION_ALLOW)

    def verifies(self, token: str, audience: str, *, revision: str = "") -> bool:
        """Whether a token is good, as of a revision at least."""
        request = token_pb2.VerifyTokenRequest(token=token, audience=[audience], min_revision=revision)
        return bool(self.service.call("TokenService/VerifyToken", request, self.admin()).valid)


def on_postgresql(server: Postgres, database: str) -> dict[str, str]:
    """The settings of a record on a server."""
    return {"record.url": server.url(database), "record.password_file": str(server.password)}
