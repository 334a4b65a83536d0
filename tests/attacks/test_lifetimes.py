"""No token outlives what the service can still take back (STANDARDS K3, J21)."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from authsvc.clock import FakeClock
from authsvc.core.clients import Client
from authsvc.core.values import SERVICE_AUDIENCE
from authsvc.usecases.writes import Act
from authsvc.v1 import client_admin_pb2, token_pb2
from tests.support.embedded import Embedded, Refused, embedded

MAX_TTL = 3_600
YEAR = 365 * 86_400


def lengthen(service: Embedded, client_id: str, ttl: int) -> None:
    """Put a client's `token_ttl` above `tokens.max_ttl`, as a record does whose configuration was lowered."""

    def change(client: Client) -> Client:
        return Client(
            client_id=client.client_id,
            audience=client.audience,
            own_audience=client.own_audience,
            token_ttl=ttl,
            create_time=client.create_time,
            secrets=client.secrets,
        )

    now = service.foundation.clock.now()
    draft = Act("authsvc.clients:update", "service:authsvc", now).draft()
    write = service.foundation.record.change_client(client_id, change, draft)
    service.foundation.tail.reach(write.revision, time.monotonic() + 5)


@pytest.mark.standard("K3")
def test_a_client_whose_tokens_would_outlive_the_configured_maximum_is_refused_by_name(tmp_path: Path) -> None:
    with embedded(tmp_path / "data") as service, pytest.raises(Refused) as caught:
        service.create_client("immortal", token_ttl=Duration(seconds=YEAR))
    assert caught.value.reason == "REQUEST_INVALID"
    assert caught.value.fields == ("token_ttl",)


@pytest.mark.standard("K3", "J21")
def test_a_revoked_token_stays_refused_however_long_its_client_wanted_it_to_live(tmp_path: Path) -> None:
    """A revocation is remembered for the longest life of a token: one that lived longer would come back."""
    clock = FakeClock()
    with embedded(tmp_path / "data", clock=clock) as service:
        secret = service.create_client("billing", audience=["orders"], own_audience=["orders"])
        lengthen(service, "billing", YEAR)
        issued = service.issue("billing", secret, audience=["orders"])
        assert issued.expire_time.seconds <= clock.now() + MAX_TTL
        revoke = token_pb2.RevokeTokenRequest(subject="client:billing")
        service.call("TokenService/RevokeToken", revoke, service.admin())

        clock.advance(MAX_TTL + 120)
        service.foundation.record.forget_expired(clock.now())
        service.foundation.tail.advance()
        caller = service.token("billing", secret, audience=[SERVICE_AUDIENCE])
        wanted = token_pb2.VerifyTokenRequest(token=issued.access_token)
        assert not service.call("TokenService/VerifyToken", wanted, caller).valid


@pytest.mark.standard("K3")
def test_a_client_may_ask_for_exactly_the_configured_maximum(tmp_path: Path) -> None:
    with embedded(tmp_path / "data") as service:
        request = client_admin_pb2.CreateClientRequest(client_id="steady", token_ttl=Duration(seconds=MAX_TTL))
        made = service.call("ClientAdminService/CreateClient", request, service.admin())
        issued = service.issue("steady", made.client_secret)
        assert abs(issued.expire_time.seconds - service.foundation.clock.now() - MAX_TTL) <= 1
