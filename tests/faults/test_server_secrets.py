"""Nothing that the service says holds a secret, and every line that it writes is one JSON document."""

from __future__ import annotations

import base64
import itertools
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from authsvc.api import envoy_messages
from authsvc.api.method_table import METHODS
from authsvc.bootstrap.first_start import DATABASE_FILE, KEK_FILE
from authsvc.core.envelopes import PRIVATE_KEY, Kek, open_envelope
from authsvc.core.keys import KeyState
from authsvc.storage.secret_files import kek_bytes
from authsvc.storage.sql.opening import Opening, open_record
from authsvc.v1 import (
    authz_pb2,
    client_admin_pb2,
    key_admin_pb2,
    key_pb2,
    limit_pb2,
    policy_admin_pb2,
    token_pb2,
)
from tests.support.embedded import Refused
from tests.support.process import Serving, page, serving
from tests.support.waiting import wait_for

LOUD = {"audit.stdout": "true", "audit.allow_sample": "1.0", "server.auth_failures": "100000/1s"}
ENVOY_CHECK = "envoy.service.auth.v3.Authorization/Check"
OWN = (authz_pb2, client_admin_pb2, key_admin_pb2, key_pb2, limit_pb2, policy_admin_pb2, token_pb2)
SERVICES = {service.full_name: service for module in OWN for service in module.DESCRIPTOR.services_by_name.values()}
DISRUPTIVE = ("RevokeKey", "RotateKey")
"""Rows that would end the tokens of the others; they have calls of their own at the end."""

Text = Callable[[str], str]


def message_class(descriptor: Any) -> type[Message]:
    """The class of a message that is known by its descriptor."""
    return message_factory.GetMessageClass(descriptor)


def filled(kind: type[Message], text: Text, depth: int = 0) -> Message:
    """A message with every string filled by `text` of its field's name, three messages deep."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        if field.containing_oneof and message.WhichOneof(field.containing_oneof.name):
            continue
        target: Any = getattr(message, field.name)
        if field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                target.append(text(field.name))
            else:
                setattr(message, field.name, text(field.name))
        elif field.message_type is not None and field.message_type.full_name.startswith("authsvc.") and depth < 3:
            if field.name == "proof":
                continue
            inner = filled(message_class(field.message_type), text, depth + 1)
            if field.is_repeated:
                target.append(inner)
            else:
                target.CopyFrom(inner)
    return message


def rows() -> Iterator[tuple[str, type[Message]]]:
    """Every unary row of ours and its request."""
    for method in METHODS:
        service, _, name = method.name.partition("/")
        if service in SERVICES and name not in DISRUPTIVE:
            yield method.name, message_class(SERVICES[service].methods_by_name[name].input_type)


class Told:
    """Asks, and keeps what callers were told by errors."""

    def __init__(self, service: Serving) -> None:
        self._service = service
        self.errors: list[str] = []
        self.codes: set[grpc.StatusCode] = set()

    def ask(self, method: str, request: bytes, *metadata: tuple[str, str]) -> bytes:
        """One call; empty where it was refused."""
        try:
            return self._service.call.raw(method, request, metadata=metadata, timeout=20.0)
        except Refused as refused:
            self.codes.add(refused.code)
            self.errors.append(f"{refused} {refused.metadata} {refused.fields}")
            return b""


def envoy_request(token: str, path: str) -> bytes:
    """What Envoy asks for a request with this credential."""
    request = envoy_messages.CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.host = "GET", path, "orders.shop"
    http.headers["authorization"] = f"Bearer {token}"
    answer: bytes = request.SerializeToString()
    return answer


def private_keys(directory: Path) -> list[bytes]:
    """The private halves that the record holds, unsealed."""
    kek = Kek(kek_bytes(directory / KEK_FILE))
    with closing(open_record(Opening(f"sqlite:///{directory / DATABASE_FILE}", kek, issuer=""))) as record:
        return [
            open_envelope(kek, key.envelope, PRIVATE_KEY, key.kid, key.algorithm)
            for key in record.load().keys.keys
            if key.envelope is not None and key.state in {KeyState.ACTIVE, KeyState.PENDING}
        ]


def written_forms(secret: bytes) -> list[str]:
    """How bytes could come to stand in a text; the middle, since a private key's ends are the same in all."""
    middle = secret[len(secret) // 3 : len(secret) // 3 + 24]
    return [middle.hex(), base64.b64encode(middle).decode()[:28], repr(middle)[2:-1]]


def broken(token: str) -> list[str]:
    """A token, and what people make of one by accident."""
    head, payload, signature = token.split(".")
    return [
        token,
        f"{head}.{payload}.{signature[:-8]}AAAAAAAA",
        f"{head}.{payload}",
        f" {token}",
        f"{token}, {token}",
        f"Bearer {token}",
    ]


@pytest.mark.standard("J17", "U14", "S9")
@pytest.mark.timeout(180)
def test_no_token_secret_or_key_is_in_any_log_line_metric_or_error(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with serving(directory, LOUD, environment={"PYTHONASYNCIODEBUG": "1"}) as service:
        service.apply()
        admin, told = service.admin(), Told(service)
        secret = service.create_client("shop", audience=["orders", "authsvc"], own_audience=["orders"])
        token = service.token("shop", secret, audience=["orders"])
        other = service.token("shop", secret, audience=["authsvc"])
        wrong_secret = f"{secret[:-8]}00000000"
        root = json.loads((directory / "admin.json").read_text())["client_secret"]

        def in_place(name: str) -> str:
            return {"token": token, "client_secret": secret, "client_id": "shop"}.get(name, "")

        def misplaced(name: str) -> str:
            # As scripts do whose variables are in the wrong order. Administrators' identifiers are meant to be written
            # down, so no secret is tried as a subject, a role or the client of an administrative row.
            places = {"token": secret, "client_secret": token, "client_id": "shop", "token_id": token}
            return {**places, "tenant": wrong_secret, "resource": token, "policy": secret}.get(name, "")

        credentials = [*(("authorization", f"Bearer {one}") for one in (admin, *broken(other))), ("x-token", token)]
        for (method, kind), text in itertools.product(rows(), (in_place, misplaced)):
            for credential in credentials:
                told.ask(method, filled(kind, text).SerializeToString(), credential)
            told.ask(method, token.encode(), credentials[0])
        verify = "authsvc.v1.TokenService/VerifyToken"
        for one in broken(token):
            told.ask(verify, token_pb2.VerifyTokenRequest(token=one).SerializeToString(), credentials[0])
            told.ask(ENVOY_CHECK, envoy_request(one, f"/v1/orders/{one}?access_token={one}"))
        for client, given in (("shop", secret), ("shop", wrong_secret), ("shop", token), (secret, "shop"), (token, "")):
            grant = token_pb2.ClientCredentials(client_id=client, client_secret=given)
            told.ask(
                "authsvc.v1.TokenService/IssueToken",
                token_pb2.IssueTokenRequest(client_credentials=grant).SerializeToString(),
            )
        for path in ("/.well-known/jwks.json", f"/{token}", f"/x?access_token={token}&client_secret={secret}"):
            page(f"http://{service.http}{path}")
            page(f"http://{service.ops}{path}")
        rotate = key_admin_pb2.RotateKeyRequest(force=True).SerializeToString()
        keys = private_keys(directory)
        assert told.ask("authsvc.v1.KeyAdminService/RotateKey", rotate, credentials[0])
        keys += private_keys(directory)
        # A fault of ours, whose own words hold a secret: it is not a valid source of a binding.
        with closing(sqlite3.connect(directory / DATABASE_FILE)) as record, record:
            record.execute("UPDATE binding SET source = ? WHERE subject = 'client:shop'", (secret,))
        bindings = policy_admin_pb2.ListRoleBindingsRequest(subject="client:shop").SerializeToString()
        told.ask("authsvc.v1.PolicyAdminService/ListRoleBindings", bindings, credentials[0])

        metrics = service.operations("/metrics")[1]
        kek = kek_bytes(directory / KEK_FILE)
        service.server.stop()

        log = service.server.log.read_text()
        assert '"kind":"fault"' in log
        assert '"text":"\'[masked]\'"' in log
        assert len(service.events()) > 100
        assert told.errors
        assert not told.codes & {grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED}
        secrets = [secret, wrong_secret, root, kek.hex(), *written_forms(kek)]
        for one in (token, other, admin):
            secrets += one.split(".")[1:]
        for key in keys:
            secrets += written_forms(key)
        for place, said in (("log", log), ("metrics", metrics), ("errors", "\n".join(told.errors))):
            assert [line[:300] for line in said.splitlines() if any(found in line for found in secrets)] == [], place
        assert "shop" not in metrics


CONTROLS = 'a\n{"kind":"fake","outcome":"allowed"}\r\n\x1b[2J\x00\u2028\u202e"\\'


@pytest.mark.standard("U14")
def test_every_log_line_is_one_json_document_whatever_identifiers_hold(tmp_path: Path) -> None:
    with serving(tmp_path / "data", LOUD) as service:
        service.apply()
        told, admin = Told(service), ("authorization", f"Bearer {service.admin()}")

        def prefixed(name: str) -> str:
            return f"user:{CONTROLS}" if name in {"subject", "groups"} else CONTROLS

        for (method, kind), text in itertools.product(rows(), (lambda _name: CONTROLS, prefixed)):
            told.ask(method, filled(kind, text).SerializeToString(), admin)
            told.ask(method, filled(kind, text).SerializeToString())
        told.ask(ENVOY_CHECK, envoy_request(CONTROLS, f"/{CONTROLS}"))
        grant = policy_admin_pb2.GrantRoleRequest(subject=f"user:{'x' * 5_000}", role="viewer").SerializeToString()
        told.ask("authsvc.v1.PolicyAdminService/GrantRole", grant, admin)
        wait_for(lambda: any(event.get("outcome") == "denied" for event in service.events()), 5.0, "denials")
        service.server.stop()
        events = service.events()
        assert not [event for event in events if event.get("kind") == "fake"]
        assert {"kind", "time"} <= set(next(event for event in events if event.get("kind")))
        for line in service.server.log.read_text().splitlines():
            assert line.isascii()
            assert line.isprintable()
            assert len(line) < 16_384
