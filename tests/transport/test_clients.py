"""Clients that are not grpcio's, each with an HTTP/2 and a gRPC of its own: buf (connect-go), k6 (grpc-go), Envoy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from authsvc.api.standard_messages import HealthCheckRequest, HealthCheckResponse, ServerReflectionRequest
from authsvc.cli.demo_envoy import HOW_TO_GET, find_envoy
from tests.support.ports import free_port, is_listening
from tests.support.scale import scale
from tests.support.servers import running
from tests.support.transports import (
    AS_CALLER,
    CHECK,
    HEALTH,
    REFLECT,
    TRANSPORTS,
    WATCH,
    Served,
    asked,
    call,
    connect,
    details_of,
    do,
    error_of,
    serving,
    skip_where_missing,
)

NAME, VALUE = AS_CALLER[0]
CALLS = scale(4_000)


@pytest.fixture(scope="module", params=TRANSPORTS)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server on each transport."""
    skip_where_missing(request.param)
    with serving(request.param) as server:
        yield server


def program(name: str) -> str:
    """A program of a wheel; the test is skipped where it is not installed, but never in CI."""
    found = Path(sys.executable).with_name(name)
    if not found.exists():
        message = f"no {name} here: make install"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return str(found)


def buf(served: Served, path: str, request: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """One call by `buf curl`, which asks reflection for the messages."""
    known = ["--protocol", "grpc", "--http2-prior-knowledge", "-H", f"{NAME}: {VALUE}"]
    where = f"http://127.0.0.1:{served.port}{path}"
    command = [program("buf"), "curl", *known, "-d", json.dumps(request), where]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_buf_calls_reads_errors_and_finds_its_way_by_reflection(served: Served) -> None:
    answered = buf(served, CHECK, {"permission": "who"})
    assert answered.returncode == 0, answered.stderr
    told = json.loads(json.loads(answered.stdout)["matchedRole"])
    assert (told["method"], told["authorization"]) == ("authsvc.v1.AuthzService/Check", [VALUE])
    refused = buf(served, CHECK, {"permission": "refuse"})
    assert refused.returncode == grpc.StatusCode.NOT_FOUND.value[0] * 8
    error = json.loads(refused.stderr)
    assert (error["code"], error["details"][0]["type"]) == ("not_found", "google.rpc.ErrorInfo")
    assert json.loads(buf(served, HEALTH, {}).stdout)["status"] in {"SERVING", "NOT_SERVING"}
    large = buf(served, CHECK, {"permission": "large:200000"})
    assert len(json.loads(large.stdout)["matchedRole"]) == 200_000


K6 = """\
import grpc from 'k6/net/grpc';
import { check } from 'k6';

export const options = {
  vus: 8,
  iterations: %(calls)d,
  thresholds: { checks: ['rate == 1.0'] },
};
const client = new grpc.Client();
const params = { metadata: { '%(name)s': '%(value)s' }, timeout: '20s' };

export default function () {
  if (__ITER == 0) {
    client.connect('127.0.0.1:%(port)d', { plaintext: true, reflect: true, reflectMetadata: params.metadata });
  }
  const right = client.invoke('%(method)s', { permission: 'who' }, params);
  check(right, { answered: (r) => r.status === grpc.StatusOK && r.message.matchedRole.includes('%(value)s') });
  const wrong = client.invoke('%(method)s', { permission: 'refuse' }, params);
  check(wrong, { refused: (r) => r.status === grpc.StatusNotFound });
  const unknown = client.invoke('%(method)s', { permission: 'who' }, { timeout: '20s' });
  check(unknown, { unauthenticated: (r) => r.status === grpc.StatusUnauthenticated });
}
"""


def test_k6_finds_every_answer_right_over_many_calls(served: Served, tmp_path: Path) -> None:
    script = tmp_path / "script.js"
    method = CHECK.removeprefix("/")
    script.write_text(K6 % {"calls": CALLS, "name": NAME, "value": VALUE, "port": served.port, "method": method})
    command = [program("k6"), "run", "--quiet", "--no-usage-report", "--no-color", str(script)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "K6_NO_USAGE_REPORT": "true", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def through_envoy(served: Served, folder: Path) -> Iterator[Any]:
    """A channel to a real Envoy whose own HTTP/2 speaks to the server."""
    envoy = find_envoy()
    if envoy is None:
        if os.environ.get("CI"):
            pytest.fail(HOW_TO_GET)
        pytest.skip(HOW_TO_GET)
    port = free_port()
    config = folder / "envoy.json"
    config.write_text(json.dumps(_proxy(port, served.port)))
    command: list[str | Path] = [
        envoy,
        "-c",
        config,
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "error",
    ]
    with running(command, log=folder / "log", ready=lambda _server: is_listening(port)), connect(port) as channel:
        yield channel


def _proxy(listen: int, to: int) -> dict[str, Any]:
    extensions = "type.googleapis.com/envoy.extensions"
    manager = f"{extensions}.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = {"@type": f"{extensions}.filters.http.router.v3.Router"}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "authsvc", "timeout": "0s", "max_stream_duration": {}}}

    def address(port: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    return {
        "static_resources": {
            "listeners": [
                {
                    "address": address(listen),
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "http",
                                    "typed_config": {
                                        "@type": manager,
                                        "stat_prefix": "http",
                                        "codec_type": "HTTP2",
                                        "route_config": {
                                            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]
                                        },
                                        "http_filters": [{"name": "router", "typed_config": router}],
                                    },
                                }
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "authsvc",
                    "connect_timeout": "5s",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": f"{extensions}.upstreams.http.v3.HttpProtocolOptions",
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    },
                    "load_assignment": {
                        "cluster_name": "authsvc",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(to)}}]}],
                    },
                }
            ],
        }
    }


def test_an_envoy_before_it_passes_calls_errors_streams_and_deadlines(served: Served, tmp_path: Path) -> None:
    with through_envoy(served, tmp_path) as channel:
        told = do(channel, "who")
        assert told["authorization"] == [VALUE]
        assert len(do(channel, "large:200000")) == 200_000
        error = error_of(lambda: call(channel, CHECK, asked("refuse")))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        status = status_pb2.Status.FromString(details_of(error))
        assert error_details_pb2.ErrorInfo.FromString(status.details[0].value).reason == "CLIENT_NOT_FOUND"
        late = error_of(lambda: call(channel, CHECK, asked("sleep:5"), timeout=0.3))
        assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        compound = [call(channel, CHECK, asked("who")) for _ in range(CALLS // 10)]
        assert all(compound)
        watch: Any = channel.unary_stream(WATCH)(HealthCheckRequest().SerializeToString(), timeout=30)
        first = HealthCheckResponse.FromString(next(watch)).status
        do(channel, f"serving:{'false' if first == 1 else 'true'}")
        assert HealthCheckResponse.FromString(next(watch)).status != first
        watch.cancel()
        both: Any = channel.stream_stream(REFLECT)
        asks = [_list_services() for _ in range(3)]
        assert len(list(both(iter(asks), timeout=10, metadata=AS_CALLER))) == 3


def _list_services() -> bytes:
    request: bytes = ServerReflectionRequest(list_services="*").SerializeToString()
    return request
