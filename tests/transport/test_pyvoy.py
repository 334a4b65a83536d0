"""What is pyvoy's alone: its Envoy, the process around it, and frames that no client of grpcio sends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from authsvc.bootstrap.certificates import TlsFiles
from authsvc.config import TlsVersion
from authsvc.transport.envoy_config import EnvoyPlan, ListenerTls, envoy_config, tls_secrets
from authsvc.transport.link import StartFault
from authsvc.transport.listening import ListenFault
from authsvc.transport.pyvoy_app import GrpcApplication
from authsvc.transport.pyvoy_server import PyvoyServer, _environment, _parts
from tests.support.http2 import DATA, END_STREAM, HEADERS, PREFACE, RESET, connected, frame, headers
from tests.support.pki import live
from tests.support.scenario import FAULTS, scenario
from tests.support.transports import (
    CHECK,
    ENVOY,
    REFLECT,
    Served,
    asked,
    call,
    code_of,
    connect,
    do,
    serving,
    skip_where_missing,
)
from tests.support.waiting import wait_for
from tests.transport.conftest import Authority, Certificates, write_server


@pytest.fixture(autouse=True)
def _here() -> None:
    skip_where_missing("pyvoy")


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A server that no test ends."""
    skip_where_missing("pyvoy")
    with serving("pyvoy") as server:
        yield server


@pytest.mark.parametrize("tls", [False, True])
def test_envoy_itself_accepts_the_configuration(tmp_path: Path, certificates: Certificates, *, tls: bool) -> None:
    envoy, module, libpython = _parts()
    application = "tests.support.scenario:alone"
    material = live(certificates.files).current
    listener_tls = ListenerTls(TlsVersion.TLS_1_3, client_certificates=True) if tls else None
    plan = EnvoyPlan("127.0.0.1:0", module, application, tmp_path, listener_tls)
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(envoy_config(plan)))
    for name, secret in tls_secrets(material).items():
        plan.secret(name).write_text(json.dumps(secret))
    done = subprocess.run(
        [envoy, "--mode", "validate", "-c", config],
        env=_environment(libpython, 0),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.standard("U1")
def test_an_envoy_that_has_ended_stops_no_other_from_getting_new_certificates(tmp_path: Path) -> None:
    authority = Authority()
    files = TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
    write_server(files, authority)
    tls = live(files)
    with serving("pyvoy", tls) as ended:
        assert isinstance(ended.server, PyvoyServer)
        ended.server.process.kill()
        ended.server.kill()
        with serving("pyvoy", tls) as server:
            write_server(files, authority)
            tls.look()
            tls.look()
            assert tls.fault == ""
            fresh = tls.current.chain.decode()
            address = ("127.0.0.1", server.port)
            wait_for(lambda: ssl.get_server_certificate(address, timeout=5) == fresh, 5.0)


@pytest.mark.standard("U1")
def test_the_administration_socket_is_the_owners_alone(served: Served) -> None:
    assert isinstance(served.server, PyvoyServer)
    folder = served.server._folder
    assert folder is not None
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "admin.sock").stat().st_mode) == 0o600


def test_a_port_that_is_taken_is_one_line(served: Served) -> None:
    with pytest.raises(ListenFault, match="in use") as fault:
        PyvoyServer("tests.support.scenario:application").listen(f"127.0.0.1:{served.port}")
    assert "\n" not in str(fault.value)
    assert str(served.port) in str(fault.value)


@pytest.mark.parametrize(
    ("application", "line"),
    [("tests.support.scenario:broken", "policy.path: is not there"), ("tests.support.nothing:here", "Envoy has ended")],
)
def test_a_service_that_does_not_start_is_one_line(application: str, line: str) -> None:
    with pytest.raises((ListenFault, StartFault), match=line):
        PyvoyServer(application).listen("127.0.0.1:0")


@pytest.mark.standard("U4")
def test_envoy_ends_with_its_supervisor(tmp_path: Path) -> None:
    program = (
        "from authsvc.transport.pyvoy_server import PyvoyServer\n"
        "server = PyvoyServer('tests.support.scenario:application')\n"
        "print(server.listen('127.0.0.1:0'), server.process.pid, server._folder, flush=True)\n"
        "input()\n"
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert supervisor.stdout is not None
    *numbers, folder = supervisor.stdout.readline().split()
    port, envoy = map(int, numbers)
    with connect(port) as channel:
        assert do(channel, "who")
    assert Path(folder).is_dir()
    supervisor.send_signal(signal.SIGKILL)
    supervisor.communicate()

    def gone() -> bool:
        try:
            os.kill(envoy, 0)
        except ProcessLookupError:
            return True
        return Path(f"/proc/{envoy}/stat").read_text().split()[2] == "Z"

    wait_for(gone)
    # A copy of the TLS key lies in it.
    wait_for(lambda: not Path(folder).exists())


@pytest.mark.standard("U3")
def test_a_compressed_call_is_unimplemented(served: Served) -> None:
    with connect(served.port) as channel:
        compressed = {"compression": grpc.Compression.Gzip}
        assert code_of(lambda: call(channel, CHECK, asked("x" * 500), **compressed)) is grpc.StatusCode.UNIMPLEMENTED


def _ends_by_trailers(port: int, first: bytes) -> bool:
    """Whether the first stream ends by headers: a status of ours, and not by a reset."""
    with connected(port, PREFACE + first) as (_, come):
        for one in come(10.0):
            if one.stream == 1 and one.kind == RESET:
                return False
            if one.stream == 1 and one.kind == HEADERS and one.flags & END_STREAM:
                return True
    return False


@pytest.mark.standard("U3")
def test_a_body_that_never_comes_ends_at_the_callers_deadline(served: Served) -> None:
    begun = time.monotonic()
    assert _ends_by_trailers(served.port, headers(1, CHECK, (b"grpc-timeout", b"300m")))
    assert 0.2 < time.monotonic() - begun < 3


@pytest.mark.standard("U3")
def test_a_length_above_the_cap_is_refused_from_its_prefix(served: Served) -> None:
    prefix = b"\0" + (300_000).to_bytes(4, "big")
    begun = time.monotonic()
    assert _ends_by_trailers(served.port, headers(1, CHECK) + frame(DATA, 0, 1, prefix))
    assert time.monotonic() - begun < 3


@pytest.mark.standard("U3")
def test_who_is_refused_for_an_encoding_is_told_which_are_taken() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"\x01\0\0\0\0"}

    async def send(event: Any) -> None:
        sent.append(event)

    headers = [(b"content-type", b"application/grpc")]
    scope = {"method": "POST", "raw_path": CHECK.encode(), "query_string": b"", "client": None, "headers": headers}
    asyncio.run(GrpcApplication(scenario().engine).serve(scope, receive, send))
    assert (b"grpc-accept-encoding", b"identity") in sent[0]["headers"]
    assert sent[-1]["headers"][0] == (b"grpc-status", b"12")


@pytest.mark.standard("U3", "E2")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("path", [CHECK, ENVOY, REFLECT])
def test_whatever_breaks_while_a_request_is_read_ends_with_a_status(path: str, fault: str) -> None:
    """The framing itself, under a loop of the test: every await on the way in fails."""
    sent: list[Any] = []

    async def receive() -> Any:
        raise FAULTS[fault]("secret inner text")

    async def send(event: Any) -> None:
        sent.append(event)

    async def run() -> None:
        application = GrpcApplication(scenario().engine)
        scope = {
            "type": "http",
            "method": "POST",
            "raw_path": path.encode(),
            "query_string": b"",
            "client": ("127.0.0.1", 1),
            "headers": [(b"content-type", b"application/grpc")],
        }
        await application.serve(scope, receive, send)

    asyncio.run(run())
    statuses = [value for event in sent for name, value in event.get("headers", ()) if name == b"grpc-status"]
    body = b"".join(event.get("body", b"") for event in sent)
    if path == ENVOY:
        assert (statuses, body[5:11]) == ([b"0"], b"denied")
    else:
        assert len(statuses) == 1
        assert statuses != [b"0"]
