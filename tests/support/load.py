"""Callers in a closed loop against a service process, who keep count of what was answered."""

from __future__ import annotations

import itertools
import sqlite3
import threading
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from authsvc.bootstrap.first_start import DATABASE_FILE
from authsvc.v1 import authz_pb2, limit_pb2, token_pb2
from tests.support.embedded import Caller, Refused
from tests.support.process import Serving

ENDS = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
"""How a call may end that met the stop; neither was executed (docs/decisions/0001)."""

CHECK, ISSUE = "authsvc.v1.AuthzService/Check", "authsvc.v1.TokenService/IssueToken"
CONSUME, REVOKE = "authsvc.v1.LimitService/Consume", "authsvc.v1.TokenService/RevokeToken"


def executed(directory: Path) -> Counter[str]:
    """How many calls of each row were executed, by the audit log of a service that samples everything."""
    asked = "SELECT json_extract(detail, '$.method'), SUM(count) FROM audit_event GROUP BY 1"
    with closing(sqlite3.connect(directory / DATABASE_FILE)) as database:
        return Counter({method: count for method, count in database.execute(asked) if method})


def revocations(directory: Path) -> int:
    """How many revocations the record holds."""
    with closing(sqlite3.connect(directory / DATABASE_FILE)) as database:
        (count,) = database.execute("SELECT COUNT(*) FROM revocation").fetchone()
        return int(count)


@dataclass
class Load:
    """Callers in a closed loop, each on a connection of its own, and what became of their calls."""

    service: Serving
    admin: str
    secret: str
    answered: Counter[str] = field(default_factory=Counter)
    revoked: list[str] = field(default_factory=list)
    """Ids of tokens whose revocation was acknowledged."""
    stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def work(self, number: int) -> set[grpc.StatusCode]:
        """Call until the stop; the codes of the calls that were not answered."""
        codes: set[grpc.StatusCode] = set()
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
        with grpc.insecure_channel(self.service.grpc, options) as channel:
            call = Caller(channel)
            for turn in itertools.count():
                if self.stop.is_set():
                    return codes
                try:
                    self._one(call, number, turn)
                except Refused as refused:
                    codes.add(refused.code)
                    self.stop.wait(0.02)
        return codes

    def _one(self, call: Caller, number: int, turn: int) -> None:
        match turn % 8:
            case 0:
                grant = token_pb2.ClientCredentials(client_id="shop", client_secret=self.secret)
                call("TokenService/IssueToken", token_pb2.IssueTokenRequest(client_credentials=grant))
                self._count(ISSUE)
            case 1:
                token_id = f"t-{number}-{turn}"
                call("TokenService/RevokeToken", token_pb2.RevokeTokenRequest(token_id=token_id), self.admin)
                with self._lock:
                    self.revoked.append(token_id)
                self._count(REVOKE)
            case 2 | 3:
                entry = limit_pb2.Entry(key="user", value=f"user:{number}")
                hit = limit_pb2.ConsumeRequest(domain="api", descriptors=[limit_pb2.Descriptor(entries=[entry])])
                call("LimitService/Consume", hit, self.admin)
                self._count(CONSUME)
            case _:
                question = authz_pb2.CheckRequest(subject="user:ann", permission="orders:read")
                call("AuthzService/Check", question, self.admin)
                self._count(CHECK)

    def _count(self, method: str) -> None:
        with self._lock:
            self.answered[method] += 1
