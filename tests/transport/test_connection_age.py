"""Connections do not live for ever, so that callers even out over processes that came later."""

from __future__ import annotations

import time
from typing import Any

import pytest

from authsvc.api.standard_messages import HealthCheckRequest, HealthCheckResponse
from tests.support.http2 import GOAWAY, connected
from tests.support.transports import TRANSPORTS, WATCH, connect, do, serving, skip_where_missing

AGE = 1.0


@pytest.mark.standard("U3")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_old_connection_takes_no_new_calls_and_keeps_its_streams_and_callers_notice_nothing(transport: str) -> None:
    skip_where_missing(transport)
    with serving(transport, connection_age=AGE) as server, connect(server.port) as channel:
        watch: Any = channel.unary_stream(WATCH)(HealthCheckRequest().SerializeToString(), timeout=30)
        assert HealthCheckResponse.FromString(next(watch)).status == 2
        with connected(server.port) as (_, come):
            begun = time.monotonic()
            assert any(frame.kind == GOAWAY for frame in come(10.0))
            # A tenth more or less, so that callers who came together do not come back together.
            assert time.monotonic() - begun > 0.8 * AGE
        end = time.monotonic() + 2 * AGE
        while time.monotonic() < end:
            assert do(channel, "who")
        assert do(channel, "serving:true") == {}
        assert HealthCheckResponse.FromString(next(watch)).status == 1
        watch.cancel()
