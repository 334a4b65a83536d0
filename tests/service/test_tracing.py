"""Trace spans, to a real collector over OTLP: one a call, joined to the caller's trace, without a secret."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from authsvc.v1 import authz_pb2
from tests.support.process import serving
from tests.support.waiting import wait_for

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Collector(http.server.ThreadingHTTPServer):
    """Takes what an OTLP exporter posts."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[bytes] = []

    @property
    def all(self) -> bytes:
        return b"".join(self.received)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Collector  # type: ignore[mutable-override]  # the one that this handler is made for

    def do_POST(self) -> None:
        self.server.received.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        return


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.standard("U8", "J17")
def test_a_call_is_a_span_of_its_callers_trace_and_names_nobody(tmp_path: Path, collector: Collector) -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_address[1]}",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    with serving(tmp_path / "data", environment=environment) as service:
        token = service.admin()
        question = authz_pb2.CheckRequest(subject="user:ann", permission="orders:read")
        parent = (("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),)
        service.call("AuthzService/Check", question, token, metadata=parent)
        wait_for(lambda: b"AuthzService/Check" in collector.all, 10, lambda: "the span of the call")
    sent = collector.all
    assert bytes.fromhex(TRACE) in sent
    assert b"user:ann" not in sent
    assert token.encode() not in sent
    assert token.rpartition(".")[2].encode() not in sent
