"""The HTTP applications."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from authsvc.api.http import OwnOperations, ops_application, public_application
from authsvc.core.errors import Reason, Unavailable
from authsvc.telemetry import Gauge, Metrics, SecurityLog
from authsvc.usecases.key_sets import KeySet

JWKS = "/.well-known/jwks.json"
SET = KeySet('{"keys":[{"kid":"k"}]}', '"tag"', 240)


def get(application: Any, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> httpx.Response:
    """One request, without a socket."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://evil.example") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(ask())


def public(key_set: Callable[[], KeySet] = lambda: SET, *, tls: bool = False, log: io.StringIO | None = None) -> Any:
    """The application of `http_listen`."""
    return public_application(key_set, SecurityLog(log or io.StringIO(), now=lambda: 0), tls=tls)


def failing(fault: Exception) -> Callable[[], KeySet]:
    """A key set that cannot be had."""

    def key_set() -> KeySet:
        raise fault

    return key_set


def test_the_jwks_may_be_cached_as_long_as_the_schedule_says() -> None:
    answer = get(public(), JWKS)
    assert answer.json() == {"keys": [{"kid": "k"}]}
    assert answer.headers["content-type"] == "application/jwk-set+json"
    assert (answer.headers["etag"], answer.headers["cache-control"]) == ('"tag"', "public, max-age=240")


@pytest.mark.parametrize("given", ['"tag"', 'W/"tag"', '"old", "tag"', "*"])
def test_a_key_set_that_is_known_is_not_sent_again(given: str) -> None:
    answer = get(public(), JWKS, headers={"if-none-match": given})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", '"tag"')


@pytest.mark.parametrize("given", ['"old"', "tag", "", '"tag', "**"])
def test_another_tag_gets_the_set(given: str) -> None:
    assert get(public(), JWKS, headers={"if-none-match": given}).status_code == 200


@pytest.mark.parametrize(("path", "method"), [(JWKS, "GET"), ("/nothing", "GET"), (JWKS, "POST"), (JWKS + "/", "GET")])
@pytest.mark.parametrize("tls", [True, False])
def test_every_answer_carries_the_security_headers(path: str, method: str, tls: bool) -> None:  # noqa: FBT001
    headers = get(public(tls=tls), path, method).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert ("strict-transport-security" in headers) == tls
    assert "evil.example" not in str(headers)


def test_a_fault_keeps_its_text_and_has_a_request_id() -> None:
    log = io.StringIO()
    answer = get(public(failing(ValueError("inner text")), log=log), JWKS)
    assert answer.status_code == 500
    assert "inner" not in answer.text
    assert answer.json()["request_id"] in log.getvalue()
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_service_that_may_not_answer_says_503() -> None:
    answer = get(public(failing(Unavailable("too old", Reason.RECORD_UNAVAILABLE))), JWKS)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def operations(unready: str = "") -> Any:
    """The application of `ops_listen`."""
    metrics = Metrics([Gauge("authsvc_bindings", "Bindings.", lambda: 3.0)], "0.1.0")
    metrics.observe("authsvc.v1.AuthzService/Check", 0, Reason.ALLOWED, 0.002)
    return ops_application(
        OwnOperations(lambda: unready, metrics.openmetrics, "0.1.0"), SecurityLog(io.StringIO(), now=lambda: 0)
    )


def test_probes() -> None:
    assert get(operations(), "/livez").status_code == 200
    assert get(operations(), "/readyz").status_code == 200
    draining = get(operations("draining"), "/readyz")
    assert (draining.status_code, draining.text) == (503, "draining\n")
    assert get(operations("draining"), "/livez").status_code == 200
    assert get(operations(), "/version").json() == {"version": "0.1.0"}


def test_metrics_are_openmetrics() -> None:
    answer = get(operations(), "/metrics")
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}  # type: ignore[no-untyped-call]
    assert set(families) == {"authsvc_calls", "authsvc_call_duration_seconds", "authsvc_bindings", "authsvc_build"}
    (sample,) = families["authsvc_calls"].samples
    assert sample.labels == {"method": "authsvc.v1.AuthzService/Check", "code": "0", "reason": "allowed"}
