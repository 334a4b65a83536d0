"""The client and a service process that is killed and comes back."""

from __future__ import annotations

import json
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import grpc

from authsvc.v1 import client_admin_pb2, policy_admin_pb2, token_pb2
from authsvc_client import Client, Settings
from tests.client.conftest import PATIENT
from tests.support.embedded import Caller
from tests.support.ports import free_ports, is_listening
from tests.support.servers import Server, running
from tests.support.waiting import wait_for

POLICY = {
    "version": 1,
    "permissions": {"orders:read": {}},
    "roles": {"viewer": {"allow": ["orders:read"]}},
    "bindings": [{"subject": "user:ann", "role": "viewer"}],
}


def _prepare(address: str, data: Path) -> str:
    """Put the policy in force and make a client; its secret."""
    admin = json.loads((data / "admin.json").read_text())
    grant = token_pb2.ClientCredentials(client_id=admin["client_id"], client_secret=admin["client_secret"])
    with grpc.insecure_channel(address) as channel:
        call = Caller(channel)
        wanted = token_pb2.IssueTokenRequest(client_credentials=grant, audience=["authsvc"])
        token = call("TokenService/IssueToken", wanted).access_token
        policy = policy_admin_pb2.ApplyPolicyRequest(policy=json.dumps(POLICY))
        call("PolicyAdminService/ApplyPolicy", policy, token)
        create = client_admin_pb2.CreateClientRequest(client_id="app", own_audience=["app"])
        return str(call("ClientAdminService/CreateClient", create, token).client_secret)


def test_a_killed_service_denies_within_the_deadline_and_is_found_when_it_is_back(tmp_path: Path) -> None:
    listen, http, ops = free_ports(3)
    data = tmp_path / "data"
    command = [sys.executable, "-m", "authsvc.cli", "serve"]
    for name, port in (("listen", listen), ("http_listen", http), ("ops_listen", ops)):
        command += [f"--server.{name}", f"127.0.0.1:{port}"]

    def ready(_server: Server) -> bool:
        return is_listening(listen) and is_listening(ops)

    def serving(log: str) -> AbstractContextManager[Server]:
        return running(command, log=tmp_path / log, ready=ready, env={"AUTHSVC_DATA_DIR": str(data)}, deadline_s=30)

    secret_file = tmp_path / "secret"
    settings = Settings(
        f"127.0.0.1:{listen}", client_id="app", client_secret_file=secret_file, deadline=float(PATIENT.rstrip("s"))
    )
    hasty = Settings(f"127.0.0.1:{listen}", client_id="app", client_secret_file=secret_file)
    with Client(settings) as client, Client(hasty) as impatient:
        with serving("first") as server:
            secret_file.write_text(_prepare(f"127.0.0.1:{listen}", data))
            assert client.check("user:ann", "orders:read")
            impatient.prepare(10.0)
            server.kill()
            begun = time.monotonic()
            denied = impatient.check("user:ann", "orders:read")
            assert time.monotonic() - begun < 2.0
            assert (denied.allowed, denied.unavailable) == (False, True)
        with serving("second"):
            wait_for(lambda: client.check("user:ann", "orders:read").allowed, 15.0, "the service being found again")
