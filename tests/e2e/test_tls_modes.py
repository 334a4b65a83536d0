"""The modes of TLS as a person starts them, on both transports: self_signed, mesh, insecure."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest

from authsvc.api.envoy_messages import CheckRequest, CheckResponse
from authsvc.bootstrap.self_signed import SelfSigned
from authsvc.v1 import authz_pb2, key_admin_pb2, key_pb2, types_pb2
from tests.support.embedded import Caller, Refused
from tests.support.process import Serving, page, refused_start, serving
from tests.support.transports import TRANSPORTS, address_beyond_loopback, skip_where_missing

XFCC = "x-forwarded-client-cert"
OWN = "By=spiffe://prod.example/ns/auth/sa/authsvc;Hash=ab;URI="
SHOP, STRANGER = "spiffe://prod.example/ns/shop/sa/orders", "spiffe://other.example/ns/shop/sa/orders"
EVERYWHERE = {"server.listen": "0.0.0.0:0", "server.http_listen": "0.0.0.0:0", "bootstrap.generate": "true"}
ENVOY = "envoy.service.auth.v3.Authorization/Check"


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    name: str = request.param
    skip_where_missing(name)
    return name


def said(service: Serving) -> list[dict[str, Any]]:
    """Lines of its log that are JSON, what a person reads left out."""
    lines = service.server.log.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def warned(service: Serving) -> list[str]:
    """What it warned of at its start."""
    return [line for line in service.server.log.read_text().splitlines() if line.startswith("authsvc: warning: ")]


@pytest.mark.standard("U1")
def test_self_signed_serves_both_listeners_and_tells_the_pin(tmp_path: Path, transport: str) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    made = SelfSigned(data, ("127.0.0.1", "localhost", "::1"))(int(time.time()))
    settings = {"server.tls.mode": "self_signed", "server.transport": transport}
    trusted = grpc.ssl_channel_credentials(made.anchor)
    with serving(data, settings, credentials=trusted) as service:
        assert service.call("KeyService/GetJwks", key_pb2.GetJwksRequest()).jwks
        (ready,) = [line for line in said(service) if line.get("event") == "ready"]
        admin = json.loads((data / "admin.json").read_text())
        assert ready["pin"] == admin["pin"] == made.pin
        assert admin["certificate"] == made.anchor.decode()
        assert service.operations("/readyz")[0] == 200
        keys = f"https://{service.http}/.well-known/jwks.json"
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            page(keys)
        context = ssl.create_default_context(cafile=data / "tls-ca.crt")
        with urllib.request.urlopen(keys, context=context, timeout=5) as fetched:
            assert fetched.status == 200


@pytest.mark.standard("U1")
def test_self_signed_beyond_loopback_is_reached_by_the_command_line_that_pins_it(
    tmp_path: Path, transport: str
) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    made = SelfSigned(data, ("localhost", "127.0.0.1", "::1"))(int(time.time()))
    settings = {**EVERYWHERE, "server.tls.mode": "self_signed", "server.transport": transport}
    with serving(data, settings, credentials=grpc.ssl_channel_credentials(made.anchor)) as service:
        assert any("bootstrap.generate" in line for line in warned(service))
        asked = subprocess.run(
            [sys.executable, "-m", "authsvc.cli", "keys", "list", "--output", "json"],
            env={**os.environ, "AUTHSVC_DATA_DIR": str(data)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert asked.returncode == 0, asked.stderr
        assert json.loads(asked.stdout)


@pytest.mark.standard("U1")
def test_insecure_is_plaintext_anywhere_and_warned_of(tmp_path: Path, transport: str) -> None:
    settings = {**EVERYWHERE, "server.tls.mode": "insecure", "server.transport": transport}
    host = address_beyond_loopback()
    with serving(tmp_path / "data", settings) as service:
        assert any("server.tls.mode: insecure" in line for line in warned(service))
        port = service.grpc.rpartition(":")[2]
        with grpc.insecure_channel(f"{host}:{port}") as channel:
            assert Caller(channel)("KeyService/GetJwks", key_pb2.GetJwksRequest()).jwks


@pytest.mark.standard("U1", "U14")
def test_beyond_loopback_without_a_mode_the_start_is_refused_in_one_line(tmp_path: Path) -> None:
    settings = {"server.listen": "0.0.0.0:0", "bootstrap.generate": "true"}
    code, lines = refused_start(tmp_path / "data", settings=settings)
    assert code == 2
    (line,) = lines
    assert line.startswith("authsvc: server.listen: `0.0.0.0:0` is not loopback: set server.tls.mode to ")


@pytest.mark.standard("S12", "E10", "U1")
def test_in_a_mesh_the_sidecar_says_who_calls_and_nobody_comes_around_it(tmp_path: Path, transport: str) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "authsvc.toml").write_text(f'[[server.principals]]\npeer = "{SHOP}"\nclient_id = "orders"\n')
    settings = {
        **EVERYWHERE,
        "server.tls.mode": "mesh",
        "server.trust_domain": "prod.example",
        "server.transport": transport,
    }
    host = address_beyond_loopback()
    with serving(data, settings) as service:
        service.create_client("orders")
        service.apply()
        forwarded = {who: ((XFCC, f"URI={SHOP},{OWN}{who}"),) for who in (SHOP, STRANGER)}
        check = authz_pb2.CheckRequest(subject="user:ann", permission="orders:read")
        answer = service.call("AuthzService/Check", check, metadata=forwarded[SHOP])
        assert answer.decision == types_pb2.DECISION_ALLOW
        # Its own word stands before the sidecar's.
        for metadata in (forwarded[STRANGER], ()):
            with pytest.raises(Refused) as refused:
                service.call("AuthzService/Check", check, metadata=metadata)
            assert refused.value.code is grpc.StatusCode.UNAUTHENTICATED
        # It is a caller, and no more than that.
        with pytest.raises(Refused) as refused:
            service.call("KeyAdminService/ListKeys", key_admin_pb2.ListKeysRequest(), metadata=forwarded[SHOP])
        assert refused.value.code is grpc.StatusCode.PERMISSION_DENIED

        assert reason(service.call, forwarded[SHOP]) == "no_route"
        assert reason(service.call, forwarded[STRANGER]) == "caller_not_permitted"
        port = service.grpc.rpartition(":")[2]
        with grpc.insecure_channel(f"{host}:{port}") as channel:
            around = Caller(channel)
            with pytest.raises(Refused) as refused:
                around("AuthzService/Check", check, metadata=forwarded[SHOP])
            assert refused.value.code is grpc.StatusCode.UNAUTHENTICATED
            assert reason(around, forwarded[SHOP]) != "no_route"
        assert page(f"http://{service.http}/.well-known/jwks.json")[0] == 200
        http = service.http.rpartition(":")[2]
        assert page(f"http://{host}:{http}/.well-known/jwks.json")[0] == 403


def reason(caller: Caller, metadata: tuple[tuple[str, str], ...]) -> str:
    """Why Envoy's row denies a request on no route."""
    request = CheckRequest()
    request.attributes.request.http.method = "GET"
    request.attributes.request.http.path = "/nowhere"
    answer = CheckResponse.FromString(caller.raw(ENVOY, request.SerializeToString(), metadata=metadata))
    assert answer.status.code
    assert answer.HasField("denied_response")
    return str(answer.dynamic_metadata.fields["reason"].string_value)
