"""The rendered pod, run by `podman play kube`, behind a real Envoy: it answers, and its end loses nothing in flight."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from authsvc.cli.demo_envoy import find_envoy
from tests.support.chart import NAMESPACE, NEWEST, only, rendered
from tests.support.command_line import CommandLine
from tests.support.containers import IMAGE, Podman, podman
from tests.support.embedded import Caller
from tests.support.load import CHECK, CONSUME, ENDS, ISSUE, REVOKE, Load, executed, revocations
from tests.support.pki import Authority
from tests.support.ports import free_port, is_listening
from tests.support.postgresql import PASSWORD, postgres
from tests.support.process import Serving, page
from tests.support.redis import store
from tests.support.scale import scale
from tests.support.servers import Server, running
from tests.support.transports import TRANSPORTS
from tests.support.waiting import wait_for

REPOSITORY, _, TAG = IMAGE.rpartition(":")
OWN_IMAGE = f"image={json.dumps({'repository': REPOSITORY, 'tag': TAG, 'pullPolicy': 'Never'})}"
CALLERS = 6
CALLS = scale(10_000)
HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
TYPE = "type.googleapis.com/envoy.extensions"


@dataclass(frozen=True)
class Pod:
    """A pod that is ready, and an Envoy before it."""

    run: Podman
    container: str
    grace: int
    port: int
    service: Serving
    """As callers see it, through Envoy."""


def envoy_config(listen: int, port: int, certificate: Path, host: str) -> str:
    """A proxy of gRPC: plain on loopback, verified TLS to the pod."""
    connections = {
        "@type": f"{TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{TYPE}.filters.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "authsvc", "timeout": "0s"}}],
                }
            ]
        },
    }
    trusted = {
        "trusted_ca": {"filename": str(certificate)},
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": host}}],
    }
    tls = {
        "@type": f"{TYPE}.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": host,
        "common_tls_context": {
            "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
            "validation_context": trusted,
        },
    }
    cluster = {
        "name": "authsvc",
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            HTTP: {
                "@type": f"type.googleapis.com/{HTTP}",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        "load_assignment": {
            "cluster_name": "authsvc",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}],
        },
    }
    listener = {
        "name": "edge",
        "address": address(listen),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connections}]}
        ],
    }
    return json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})


def address(port: int) -> dict[str, Any]:
    """A port of loopback, for Envoy."""
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@contextmanager
def before(port: int, data: Path, host: str, folder: Path) -> Iterator[tuple[Server, str]]:
    """An Envoy before a pod; its address."""
    listen, file = free_port(), folder / "envoy.json"
    file.write_text(envoy_config(listen, port, data / "tls-ca.crt", host))
    words = [str(find_envoy()), "-c", str(file), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    with running(words, log=folder / "envoy.log", ready=lambda _: is_listening(listen)) as server:
        yield server, f"127.0.0.1:{listen}"


def answers_ready(ops: int) -> bool:
    """Whether the pod says so."""
    try:
        return page(f"http://127.0.0.1:{ops}/readyz")[0] == 200
    except OSError:
        return False


@pytest.fixture(params=TRANSPORTS)
def pod(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pod]:
    """The smallest size as it is rendered, but for the image's name and free ports."""
    run = podman(tmp_path)
    name, (grpc_port, http_port, ops) = f"authsvc-{secrets.token_hex(4)}", (free_port(), free_port(), free_port())
    ports = {"listen": f"0.0.0.0:{grpc_port}", "http_listen": f"0.0.0.0:{http_port}"}
    manifests = rendered(
        "small",
        NEWEST,
        f'fullnameOverride="{name}"',
        OWN_IMAGE,
        f'transport="{request.param}"',
        f"opsPort={ops}",
        f"config={json.dumps({'server': ports, 'audit': {'allow_sample': 1.0, 'stdout': False}})}",
    )
    with ExitStack() as stack:
        container = stack.enter_context(run.pod(manifests, tmp_path))
        wait_for(lambda: answers_ready(ops), 30.0, lambda: run("logs", container))
        data = run.volume(name) / "data"
        server, listen = stack.enter_context(before(grpc_port, data, f"{name}.{NAMESPACE}.svc", tmp_path))
        channel = stack.enter_context(grpc.insecure_channel(listen))
        service = Serving(server, data, listen, "", f"127.0.0.1:{ops}", 0.0, Caller(channel))
        grace = only(manifests, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        yield Pod(run, container, grace, grpc_port, service)


@pytest.mark.standard("U4")
def test_the_rendered_pod_answers_smoke_through_envoy_and_its_end_loses_nothing_in_flight(
    pod: Pod, tmp_path: Path
) -> None:
    service = pod.service
    credentials = tmp_path / "admin.json"
    own = json.loads((service.directory / "admin.json").read_text())
    credentials.write_text(json.dumps(own | {"address": service.grpc, "certificate": ""}))
    credentials.chmod(0o600)
    steps = json.loads(CommandLine(tmp_path / "nobody")("smoke", "--credentials", credentials, "-o", "json").out)
    assert [step["ok"] for step in steps] == [True] * 8
    # What `helm test` runs, and what NOTES tell to type.
    asked = pod.run(
        "exec", pod.container, "authsvc", "smoke", "--address", f"127.0.0.1:{pod.port}", "--any-certificate"
    )
    assert "serving" in asked
    assert "authsvc.admin" in pod.run("exec", pod.container, "authsvc", "clients", "list")
    policy = "version: 1\npermissions: {}\n"
    pod.run("exec", "--interactive", pod.container, "authsvc", "policy", "apply", "/dev/stdin", given=policy)

    service.apply()
    secret = service.create_client("shop", audience=["orders"])
    load = Load(service, service.admin(), secret)
    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(load.work, number) for number in range(CALLERS)]
        try:
            wait_for(lambda: load.answered.total() >= CALLS, 120.0, "calls")
            done_before = revocations(service.directory)
            assert done_before <= len(load.revoked) + CALLERS
            pod.run("pod", "stop", "--time", str(pod.grace), pod.container.removesuffix("-authsvc"))
        finally:
            load.stop.set()
        codes = set().union(*(caller.result(30) for caller in callers))
    assert pod.run.state(pod.container) == (False, 0), "it ended by itself, within its grace period"
    assert codes <= ENDS
    done = executed(service.directory)
    assert (done[CHECK] - 1, done[CONSUME] - 1) == (load.answered[CHECK], load.answered[CONSUME]), "one each by smoke"
    assert done[ISSUE] > load.answered[ISSUE] > 0
    assert revocations(service.directory) == load.answered[REVOKE] == len(load.revoked)


def test_a_replica_of_several_starts_on_what_is_given_and_takes_its_administrator_beside_the_record(
    tmp_path: Path,
) -> None:
    run = podman(tmp_path)
    name, (grpc_port, http_port, ops) = f"authsvc-{secrets.token_hex(4)}", (free_port(), free_port(), free_port())
    ports = {"listen": f"0.0.0.0:{grpc_port}", "http_listen": f"0.0.0.0:{http_port}"}
    certificate, key = Authority().issue(f"{name}.{NAMESPACE}.svc")
    given = {
        "authsvc-record": {"password": PASSWORD},
        "authsvc-counters": {"password": "counting"},
        "authsvc-kek": {"kek": "6b" * 32},
        "authsvc-admin": {"secret": secrets.token_hex(32)},
        "authsvc-tls": {"tls.crt": certificate.decode(), "tls.key": key.decode()},
    }
    with ExitStack() as stack:
        database, counters = stack.enter_context(postgres("fsync=off")), stack.enter_context(store())
        counters.ask("CONFIG", "SET", "requirepass", "counting")
        manifests = rendered(
            "medium",
            NEWEST,
            f'fullnameOverride="{name}"',
            OWN_IMAGE,
            f"opsPort={ops}",
            f'record.url="{database.url(database.database())}"',
            f'counters.url="{counters.url}"',
            f"config={json.dumps({'server': ports})}",
        )
        container = stack.enter_context(run.pod(manifests, tmp_path, given))
        wait_for(lambda: answers_ready(ops), 30.0, lambda: run("logs", container))
        # As the notes of the chart tell.
        create = ("clients", "create", "ann", "--admin", "--local", "--config", "/etc/authsvc/authsvc.toml")
        run("exec", container, "authsvc", *create, "--save", "/tmp/ann.json")
        asked = ("authsvc", "clients", "list", "--credentials", "/tmp/ann.json", "--output", "json")
        clients = json.loads(run("exec", container, *asked))["clients"]
        assert {one["client_id"] for one in clients} == {"admin", "ann"}
        assert "authsvc_counters_store_up 1.0" in page(f"http://127.0.0.1:{ops}/metrics")[1]
        smoke = ("authsvc", "smoke", "--address", f"127.0.0.1:{grpc_port}", "--any-certificate")
        assert "serving" in run("exec", container, *smoke)
