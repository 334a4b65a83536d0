"""Metrics and the security log."""

from __future__ import annotations

import io
import json
import logging
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc import telemetry
from authsvc.core.audit import AuditDraft
from authsvc.core.errors import Reason
from authsvc.telemetry import MAX_VALUE, LogHandler, Metrics, SecurityLog

TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ1c2VyOmFubiJ9.c2lnbmF0dXJlLXNpZ25hdHVyZQ"


def lines(text: io.StringIO) -> list[dict[str, Any]]:
    """The events that were written."""
    return [json.loads(line) for line in text.getvalue().splitlines()]


@pytest.mark.standard("U14")
@given(st.text(), st.text())
def test_whatever_a_value_holds_is_one_line_of_ascii(actor: str, resource: str) -> None:
    text = io.StringIO()
    SecurityLog(text, now=lambda: 7).audit(
        AuditDraft("authsvc.authz:check", "denied", 7, actor=actor, private={"resource": resource})
    )
    assert text.getvalue().isascii()
    assert text.getvalue().count("\n") == 1
    (event,) = lines(text)
    assert event["resource"] == resource or len(resource) > MAX_VALUE


@pytest.mark.standard("U14")
def test_a_value_is_capped() -> None:
    text = io.StringIO()
    SecurityLog(text, now=lambda: 7).event("x", {"path": "a" * 1_000_000})
    assert len(text.getvalue()) < 2 * MAX_VALUE


@pytest.mark.standard("J17")
def test_a_fault_shows_where_it_came_from_and_no_token() -> None:
    text = io.StringIO()
    try:
        raise ValueError(f"cannot read {TOKEN}")
    except ValueError as fault:
        SecurityLog(text, now=lambda: 7).fault("id", "row", fault)
    (event,) = lines(text)
    assert event["text"] == "cannot read [masked]"
    assert "test_telemetry.py" in event["frames"][0]


@pytest.mark.standard("J17", "U14")
def test_what_libraries_log_is_masked_and_escaped() -> None:
    text = io.StringIO()
    record = logging.LogRecord("library", logging.WARNING, "", 0, "bad token %s\nkind: forged", (TOKEN,), None)
    LogHandler(SecurityLog(text, now=lambda: 7)).handle(record)
    (event,) = lines(text)
    assert event["text"] == "bad token [masked]\nkind: forged"


def test_a_closed_stream_harms_nobody() -> None:
    text = io.StringIO()
    log = SecurityLog(text, now=lambda: 7)
    text.close()
    log.event("x", {})


def test_counts_of_all_threads_add_up_also_of_those_that_ended() -> None:
    metrics = Metrics()

    def count() -> None:
        for _ in range(500):
            metrics.observe("row", 0, Reason.ALLOWED, 0.001)

    for _ in range(2):
        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        metrics.openmetrics()
    text = metrics.openmetrics().decode()
    assert 'authsvc_calls_total{code="0",method="row",reason="allowed"} 4000.0' in text
    assert 'authsvc_call_duration_seconds_bucket{le="0.001",method="row"} 4000.0' in text
    assert 'authsvc_call_duration_seconds_bucket{le="0.0005",method="row"} 0.0' in text
    assert not metrics._tables


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
    ],
)
def test_no_exporter_no_tracing(environment: dict[str, str]) -> None:
    assert telemetry.tracing(environment, "0") is None
