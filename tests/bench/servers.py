"""What is measured: this service on each of its transports, a peer, and a bare server for comparison.

Owns: starting each on the first processor, and the calls with their right answers. Another peer is one more
`Contender`.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from authsvc.api import envoy_messages
from authsvc.cli.bench_measure import Subject, subject
from authsvc.cli.child import started
from authsvc.cli.faults import CommandFault
from authsvc.cli.session import Session, find_target
from authsvc.core.values import SERVICE_AUDIENCE
from authsvc.v1 import authz_pb2, client_admin_pb2, limit_pb2, policy_admin_pb2, token_pb2, types_pb2
from tests.support.ports import free_port
from tests.support.servers import running

SERVER_CPU = min(os.sched_getaffinity(0))
LOAD_CPUS = tuple(sorted(os.sched_getaffinity(0))[1:]) or (SERVER_CPU,)
BATCH = 50
CERBOS = "@cerbos/cerbos-linux-x64@0.55.0"

CHECK, CHECK_CONTEXT, VERIFY, EXT_AUTHZ = "Check", "Check, 430 bytes", "VerifyToken", "ext_authz Check"
BATCH_CHECK, ISSUE, AUTHORIZE, ECHO = f"BatchCheck of {BATCH}", "IssueToken", "Authorize", "echo"

# The same attributes go to both contenders; one of them is looked at.
ATTRIBUTES = {
    "region": "eu-central",
    "department": "fulfilment",
    "status": "PENDING_APPROVAL",
    "owner": "bea.example",
    "channel": "marketplace",
    "warehouse": "leipzig-2",
    "currency": "EUR",
    "priority": "standard",
    "carrier": "parcel-express",
    "customer": "hartmann-und-soehne-kg",
    "delivery": "next-day-before-noon",
    "requested_by": "ann.example",
    "tax_region": "DE-SN",
}
POLICY = """\
version: 1
permissions: {"orders:read": {}, "orders:refund": {}}
roles:
  clerk: {allow: ["orders:read"]}
bindings:
  - {subject: "user:ann.example", role: clerk, tenant: acme, resource: "orders/*"}
  - subject: "user:bob.example"
    role: clerk
    tenant: acme
    resource: "orders/*"
    condition: "context.region == 'eu-central'"
  - {subject: "client:bench", role: clerk}
routes:
  - match: {method: GET, path: "/v1/orders/{id}"}
    permission: "orders:read"
    resource: "orders/{id}"
    audience: orders
limits:
  orders: {domain: bench, match: {path: "*"}, rate: 1000000/1s}
"""
CALL_ID = b"\x1a\x1a"
"""Where `cerbos_call_id` begins, the only member of its answer that differs from call to call."""
CERBOS_POLICY = """\
apiVersion: api.cerbos.dev/v1
resourcePolicy:
  version: default
  resource: orders
  rules:
    - actions: ["read"]
      effect: EFFECT_ALLOW
      roles: [clerk]
      condition: {match: {expr: request.resource.attr.region == "eu-central"}}
"""


class Skipped(Exception):
    """A contender cannot be measured here; one line that says why."""


@dataclass(frozen=True)
class Running:
    """A contender that serves: where, its processes, how long it took to be ready, and its calls by name."""

    address: str
    process: int
    ready_s: float
    rows: dict[str, Subject]

    def processes(self) -> list[int]:
        """The process and all below it."""
        found = [self.process]
        for pid in found:
            with suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += [int(child) for child in (task / "children").read_text().split()]
        return found

    def memory_mb(self) -> float:
        """Resident memory of all its processes, shared pages counted once a process."""
        total = 0
        for pid in self.processes():
            with suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return total * os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass(frozen=True)
class Contender:
    """One that is measured; `start` raises Skipped."""

    name: str
    start: Callable[[], AbstractContextManager[Running]]


def contenders() -> list[Contender]:
    """The peer first: the others are compared with it, round by round."""
    return [
        Contender("cerbos", cerbos),
        Contender("authsvc grpcio", partial(authsvc, "grpcio")),
        Contender("authsvc pyvoy", partial(authsvc, "pyvoy")),
    ]


@contextmanager
def authsvc(transport: str) -> Iterator[Running]:
    """This service as anybody runs it: callers authenticated, metrics on, audit sampled, tracing off."""
    settings = {
        "server.listen": "127.0.0.1:0",
        "server.http_listen": "127.0.0.1:0",
        "issuer": "http://authsvc.test",
        "server.ops_listen": "127.0.0.1:0",
        "server.transport": transport,
        "audit.stdout": "false",
    }
    with tempfile.TemporaryDirectory(prefix="authsvc-bench-") as folder:
        try:
            with (
                started(Path(folder), settings, cpu=SERVER_CPU) as child,
                Session(find_target("", child.credentials)) as session,
            ):
                yield Running(child.grpc, child.process.pid, child.seconds, rows_of(session))
        except CommandFault as fault:
            raise Skipped(str(fault)) from None


def rows_of(session: Session) -> dict[str, Subject]:
    session.call(
        "PolicyAdminService/ApplyPolicy",
        policy_admin_pb2.ApplyPolicyRequest(policy=POLICY),
        policy_admin_pb2.ApplyPolicyResponse,
    )
    made = session.call(
        "ClientAdminService/CreateClient",
        client_admin_pb2.CreateClientRequest(
            client_id="bench", audience=["orders"], own_audience=["orders"], tenants=["acme"], domains=["bench"]
        ),
        client_admin_pb2.CreateClientResponse,
    )
    caller = session.issue("bench", made.client_secret, SERVICE_AUDIENCE).access_token
    token = session.issue("bench", made.client_secret, "orders").access_token
    check = authz_pb2.CheckRequest(
        subject="user:ann.example", permission="orders:read", resource="orders/81734", tenant="acme"
    )
    with_context = authz_pb2.CheckRequest()
    with_context.CopyFrom(check)
    with_context.subject = "user:bob.example"
    with_context.context.update(ATTRIBUTES)
    issue = token_pb2.IssueTokenRequest(audience=["orders"])
    issue.client_credentials.client_id, issue.client_credentials.client_secret = "bench", made.client_secret
    entry = limit_pb2.Entry(key="path", value="/v1/orders/{id}")
    authorize = authz_pb2.AuthorizeRequest(
        token=token,
        permission="orders:read",
        resource="orders/81734",
        consume=[limit_pb2.Consumption(domain="bench", descriptors=[limit_pb2.Descriptor(entries=[entry])])],
    )
    allow = types_pb2.DECISION_ALLOW
    v1, calls = "/authsvc.v1.", partial(subject, session.channel)
    found = [
        calls(CHECK, f"{v1}AuthzService/Check", _bytes(check), right=_allows, token=caller),
        calls(CHECK_CONTEXT, f"{v1}AuthzService/Check", _bytes(with_context), right=_allows, token=caller),
        calls(
            VERIFY,
            f"{v1}TokenService/VerifyToken",
            _bytes(token_pb2.VerifyTokenRequest(token=token)),
            right=lambda answer: token_pb2.VerifyTokenResponse.FromString(answer).valid,
            token=caller,
        ),
        calls(
            EXT_AUTHZ,
            "/envoy.service.auth.v3.Authorization/Check",
            _envoy_asks(token),
            right=lambda answer: (
                envoy_messages.CheckResponse.FromString(answer).WhichOneof("http_response") == "ok_response"
            ),
        ),
        calls(
            BATCH_CHECK,
            f"{v1}AuthzService/BatchCheck",
            _batch(with_context),
            right=lambda answer: (
                [one.decision for one in authz_pb2.BatchCheckResponse.FromString(answer).results] == [allow] * BATCH
            ),
            token=caller,
            items=BATCH,
        ),
        calls(
            ISSUE,
            f"{v1}TokenService/IssueToken",
            _bytes(issue),
            right=lambda answer: bool(token_pb2.IssueTokenResponse.FromString(answer).access_token),
            until=b".",
        ),
        calls(
            AUTHORIZE,
            f"{v1}AuthzService/Authorize",
            _bytes(authorize),
            right=lambda answer: authz_pb2.AuthorizeResponse.FromString(answer).decision == allow,
            token=caller,
        ),
    ]
    return {row.name: row for row in found}


def _batch(check: authz_pb2.CheckRequest) -> bytes:
    """The check about so many resources."""
    request = authz_pb2.BatchCheckRequest(checks=[check] * BATCH)
    for number, one in enumerate(request.checks):
        one.resource = f"orders/{81_734 + number}"
    return _bytes(request)


def _bytes(message: Any) -> bytes:
    serialized: bytes = message.SerializeToString(deterministic=True)
    return serialized


def _allows(answer: bytes) -> bool:
    return authz_pb2.CheckResponse.FromString(answer).decision == types_pb2.DECISION_ALLOW


def _lets_through(answer: bytes) -> bool:
    message = envoy_messages.CheckResponse.FromString(answer)
    return message.status.code == 0 and bool(message.WhichOneof("http_response") == "ok_response")


def _envoy_asks(token: str) -> bytes:
    """What Envoy sends for a GET, set up as docs/envoy.md says: `encode_raw_headers`, and two headers allowed."""
    request = envoy_messages.CheckRequest()
    attributes = request.attributes
    attributes.source.address.socket_address.address = "10.2.7.19"
    attributes.source.address.socket_address.port_value = 41_230
    attributes.destination.address.socket_address.address = "10.2.9.4"
    attributes.destination.address.socket_address.port_value = 8_080
    http = attributes.request.http
    http.id, http.method, http.path, http.host = "4182719230041", "GET", "/v1/orders/81734", "orders.shop.svc"
    http.scheme, http.protocol = "http", "HTTP/1.1"
    for name, value in {":path": http.path, "authorization": f"Bearer {token}"}.items():
        header = http.header_map.headers.add()
        header.key, header.raw_value = name, value.encode()
    return _bytes(request)


@contextmanager
def cerbos() -> Iterator[Running]:
    """Cerbos with the same rule; it is told the caller's roles, as its callers do. It authenticates nobody."""
    binary = _cerbos_binary()
    with tempfile.TemporaryDirectory(prefix="cerbos-") as folder:
        policies = Path(folder) / "policies"
        policies.mkdir()
        (policies / "orders.yaml").write_text(CERBOS_POLICY)
        address, http = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        settings = (
            f"server.grpcListenAddr={address}",
            f"server.httpListenAddr={http}",
            "storage.driver=disk",
            f"storage.disk.directory={policies}",
            "telemetry.disabled=true",
        )
        # Scheduled as ours is, since that alone makes calls cheaper.
        command = ["chrt", "-b", "0", "taskset", "-c", str(SERVER_CPU), str(binary), "server", "--log-level=error"]
        command += [f"--set={setting}" for setting in settings]
        environment = {"GOMAXPROCS": "1"}
        log = Path(folder) / "log"
        with (
            running(command, log=log, ready=lambda _: _healthy(http), env=environment, cwd=Path(folder)) as server,
            grpc.insecure_channel(address) as channel,
        ):
            calls = partial(subject, channel, until=CALL_ID)
            path = "/cerbos.svc.v1.CerbosService/CheckResources"
            allowed = _message((1, b"read"), (2, 1))
            found = [
                calls(
                    name, path, _cerbos_asks(items), right=partial(_counts, allowed, items), items=items, until=CALL_ID
                )
                for name, items in ((CHECK_CONTEXT, 1), (BATCH_CHECK, BATCH))
            ]
            yield Running(address, server.process.pid, 0.0, {row.name: row for row in found})


def _counts(part: bytes, times: int, answer: bytes) -> bool:
    return answer.count(part) == times


def _cerbos_binary() -> Path:
    """Cerbos from npm, kept in the cache directory of this user."""
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "authsvc-bench" / CERBOS.rpartition("@")[2]
    )
    binary = cache / "node_modules" / "@cerbos" / "cerbos-linux-x64" / "cerbos-linux-x64"
    if not binary.exists():
        if shutil.which("npm") is None:
            raise Skipped("npm is not here, and Cerbos comes from it")
        cache.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--prefix", str(cache), "--no-audit", "--no-fund", "--silent", CERBOS]
        if subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode or not binary.exists():
            raise Skipped(f"npm did not bring {CERBOS}")
    return binary


def _healthy(http: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://{http}/_cerbos/health", timeout=1) as answer:
        return bool(json.load(answer)["status"] == "SERVING")
    return False


def _cerbos_asks(items: int) -> bytes:
    """cerbos.request.v1.CheckResourcesRequest: one principal, `items` resources, one action each."""
    attributes = [
        (4, _message((1, name.encode()), (2, _message((3, value.encode()))))) for name, value in ATTRIBUTES.items()
    ]
    resources = [_message((1, b"orders"), (3, b"%d" % (81_734 + number)), *attributes) for number in range(items)]
    principal = _message((1, b"bob.example"), (3, b"clerk"))
    entries = [(4, _message((1, b"read"), (2, resource))) for resource in resources]
    return _message((1, b"bench"), (3, principal), *entries)


def _message(*fields: tuple[int, bytes | int]) -> bytes:
    """A protobuf message of bytes and numbers below 128: two messages of a peer need no generated code."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts.append(struct.pack("BB", number << 3, value))
        else:
            parts.append(bytes([number << 3 | 2]) + _varint(len(value)) + value)
    return b"".join(parts)


def _varint(value: int) -> bytes:
    coded = bytearray()
    while value >= 128:
        coded.append(value % 128 + 128)
        value //= 128
    return bytes([*coded, value])


@contextmanager
def echo() -> Iterator[Running]:
    """A grpcio server that gives back the bytes it got: what no service in Python on grpcio can be faster than."""
    address = f"127.0.0.1:{free_port()}"
    command = ["taskset", "-c", str(SERVER_CPU), sys.executable, "-m", "tests.bench.echo_server", address]
    body = b"x" * 430
    with tempfile.TemporaryDirectory(prefix="echo-") as folder, grpc.insecure_channel(address) as channel:
        row = partial(subject, channel, ECHO, "/bench.Echo/Echo", body, right=lambda answer: answer == body)
        with running(command, log=Path(folder) / "log", ready=lambda server: "ready" in server.output()) as server:
            yield Running(address, server.process.pid, 0.0, {ECHO: row()})
