"""Metrics, the security log, traces.

Owns: counters that cost nothing to speak of, their OpenMetrics text, the lines of the security log, spans.
May import: the standard library, `core`; prometheus_client and opentelemetry on need. No identifier is in any label or
span; log values are escaped and capped (STANDARDS U14), and no token or secret reaches a line (J17).
"""

from __future__ import annotations

import json
import logging
import re
import threading
import traceback
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from authsvc.core.audit import AuditDraft
from authsvc.core.errors import Reason

if TYPE_CHECKING:
    from prometheus_client.core import Metric

BUCKETS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
"""Upper bounds of call durations, in seconds."""

MAX_VALUE = 256
MAX_FRAMES = 12

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

# Long runs of base64url or hex are what tokens, secrets, signatures and keys look like.
_SECRET_LIKE = re.compile(r"[A-Za-z0-9_+/=.-]{20,}")


@dataclass(frozen=True, slots=True)
class Gauge:
    """A number that is read when it is asked for."""

    name: str
    help: str
    read: Callable[[], float]


@dataclass(frozen=True, slots=True)
class Total:
    """Numbers that only grow, by the values of one label; read when they are asked for."""

    name: str
    help: str
    label: str
    read: Callable[[], Mapping[str, int]]


class _Durations:
    """How long the calls of one row and outcome took."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def add(self, other: _Durations) -> None:
        """Take another's counts in."""
        self.buckets = [mine + more for mine, more in zip(self.buckets, tuple(other.buckets), strict=True)]
        self.total += other.total


_Key = tuple[str, int, Reason]


class Metrics:
    """Counts calls, each thread in its own table; they are added up when somebody asks."""

    def __init__(self, gauges: Iterable[Gauge | Total] = (), version: str = "") -> None:
        self._local = threading.local()
        self._lock = threading.Lock()
        self._tables: list[tuple[threading.Thread, dict[_Key, _Durations]]] = []
        self._ended: dict[_Key, _Durations] = {}
        self._gauges = tuple(gauges)
        self._version = version

    def observe(self, method: str, code: int, reason: Reason, seconds: float) -> None:
        """One call is over; `method` is a row's name or `unknown`, never what a caller wrote."""
        try:
            table: dict[_Key, _Durations] = self._local.table
        except AttributeError:
            table = self._new_table()
        key = (method, code, reason)
        durations = table.get(key)
        if durations is None:
            durations = table[key] = _Durations()
        durations.buckets[bisect_left(BUCKETS, seconds)] += 1
        durations.total += seconds

    def openmetrics(self) -> bytes:
        """Everything as OpenMetrics text."""
        from prometheus_client import CollectorRegistry  # noqa: PLC0415 - only a scrape needs it
        from prometheus_client.openmetrics.exposition import generate_latest  # noqa: PLC0415 - as above

        registry = CollectorRegistry()
        registry.register(self)
        text: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
        return text

    def collect(self) -> Iterable[Metric]:
        """For prometheus_client: one family after the other."""
        from prometheus_client.core import (  # noqa: PLC0415 - only a scrape needs it
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
            InfoMetricFamily,
        )

        calls = CounterMetricFamily(
            "authsvc_calls", "Calls by row, gRPC code and reason.", labels=("method", "code", "reason")
        )
        durations = HistogramMetricFamily(
            "authsvc_call_duration_seconds", "How long calls took.", labels=("method",), unit="seconds"
        )
        by_method: dict[str, _Durations] = {}
        for (method, code, reason), counted in sorted(self._added_up().items()):
            calls.add_metric((method, str(int(code)), reason.text if reason else ""), sum(counted.buckets))
            by_method.setdefault(method, _Durations()).add(counted)
        for method, counted in by_method.items():
            durations.add_metric((method,), _cumulative(counted.buckets), counted.total)
        yield calls
        yield durations
        for gauge in self._gauges:
            if isinstance(gauge, Gauge):
                yield GaugeMetricFamily(gauge.name, gauge.help, value=gauge.read())
                continue
            total = CounterMetricFamily(gauge.name, gauge.help, labels=(gauge.label,))
            for value, count in gauge.read().items():
                total.add_metric((value,), count)
            yield total
        yield InfoMetricFamily("authsvc_build", "This release.", value={"version": self._version})

    def _new_table(self) -> dict[_Key, _Durations]:
        table: dict[_Key, _Durations] = {}
        self._local.table = table
        with self._lock:
            self._tables.append((threading.current_thread(), table))
        return table

    def _added_up(self) -> dict[_Key, _Durations]:
        with self._lock:
            alive = []
            for thread, table in self._tables:
                if thread.is_alive():
                    alive.append((thread, table))
                else:
                    _take_in(self._ended, table)
            self._tables = alive
            total: dict[_Key, _Durations] = {}
            for source in (self._ended, *(table for _, table in alive)):
                # A copy in one step: its thread goes on counting.
                _take_in(total, source.copy())
        return total


def _take_in(total: dict[_Key, _Durations], table: Mapping[_Key, _Durations]) -> None:
    for key, durations in table.items():
        total.setdefault(key, _Durations()).add(durations)


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
    counted = 0
    rows: list[tuple[str, float]] = []
    for bound, count in zip(bounds, buckets, strict=True):
        counted += count
        rows.append((bound, counted))
    return rows


class Lines(Protocol):
    """Takes lines: `log_lines.LogLines`, or any text stream."""

    def write(self, text: str, /) -> object:
        """Take one line, its end included."""


def event_line(time: int, kind: str, fields: Mapping[str, object]) -> str:
    """One event as a line of JSON in ASCII."""
    shown = {"time": time, "kind": kind, **{key: shown_value(value) for key, value in fields.items()}}
    return json.dumps(shown, ensure_ascii=True, separators=(",", ":")) + "\n"


class SecurityLog:
    """JSON lines, one an event, for whoever collects standard output."""

    def __init__(self, lines: Lines, *, now: Callable[[], int]) -> None:
        self._lines = lines
        self._now = now

    def event(self, kind: str, fields: Mapping[str, object]) -> None:
        """Write one event; a stream that is closed loses it, the caller never notices."""
        with suppress(OSError, ValueError):
            self._lines.write(event_line(self._now(), kind, fields))

    def audit(self, draft: AuditDraft) -> None:
        """Write an audit event as it happens; the record keeps it sealed."""
        self.event(
            draft.kind,
            {
                "outcome": draft.outcome,
                "reason": draft.reason,
                "actor": draft.actor,
                "subject": draft.subject,
                "count": draft.count,
                **draft.detail,
                **draft.private,
            },
        )

    def fault(self, request_id: str, method: str, exception: BaseException) -> None:
        """Write an exception down: its type, its text without what looks like a secret, and where it came from."""
        frames = traceback.extract_tb(exception.__traceback__)[-MAX_FRAMES:]
        self.event(
            "fault",
            {
                "request_id": request_id,
                "method": method,
                "exception": type(exception).__name__,
                "text": without_secrets(str(exception)),
                "frames": [f"{_module(f.filename)}:{f.lineno} {f.name}" for f in reversed(frames)],
            },
        )


class LogHandler(logging.Handler):
    """Sends the process's log records to a SecurityLog."""

    def __init__(self, log: SecurityLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """One record, one line."""
        # Our own messages name keys and revisions and are written with care; what others say is masked.
        own = record.name.partition(".")[0] == "authsvc"
        text = record.getMessage() if own else without_secrets(record.getMessage())
        self._log.event("log", {"level": record.levelname.lower(), "logger": record.name, "text": text})
        if record.exc_info is not None and record.exc_info[1] is not None:
            self._log.fault("", record.name, record.exc_info[1])


def log_the_unexpected(log: SecurityLog) -> None:
    """From now on this process's warnings are log records, and a thread that dies of an exception is a line of `log`.

    Left alone, Python prints both to standard error: many lines, unmasked.
    """
    logging.captureWarnings(capture=True)

    def died(ended: threading.ExceptHookArgs) -> None:
        if ended.exc_value is not None:
            log.fault("", "thread", ended.exc_value)

    threading.excepthook = died


def shown_value(value: object) -> object:
    """A value as a log line may hold it: numbers as they are, text capped; json escapes the rest."""
    if isinstance(value, bool | int | float) or value is None:
        return value
    if isinstance(value, list):
        return [shown_value(item) for item in value]
    text = str(value)
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "…"


def without_secrets(text: str) -> str:
    """Text in which every run that could be a token, a secret or a key is masked."""
    return _SECRET_LIKE.sub("[masked]", text)


def _module(filename: str) -> str:
    return "/".join(filename.rsplit("/", 2)[-2:])


class Span(Protocol):
    """An open span."""

    def set_attribute(self, key: str, value: int, /) -> object:
        """Note a number."""


OpenSpan = Callable[[str, Mapping[str, str | bytes]], AbstractContextManager[Span]]
"""Opens the span of a call, from a row's name and the caller's metadata, whose `traceparent` it continues."""

_EXPORTER_SETTINGS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


@dataclass(frozen=True, slots=True)
class Tracing:
    """How to open a span; `shutdown` sends what is left."""

    span: OpenSpan
    shutdown: Callable[[], None]


def tracing(environment: Mapping[str, str], version: str) -> Tracing | None:
    """Tracing as `OTEL_*` configures it; None, and nothing imported, where no exporter is named."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return None
    if not any(environment.get(name) for name in _EXPORTER_SETTINGS):
        return None
    return _otlp_tracing(version)


def _otlp_tracing(version: str) -> Tracing:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - 0.3 s
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - as above
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - as above
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - as above
    from opentelemetry.trace import SpanKind  # noqa: PLC0415 - as above
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415 - as above

    provider = TracerProvider(resource=Resource.create({"service.name": "authsvc", "service.version": version}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer("authsvc", version)
    propagator = TraceContextTextMapPropagator()

    def span(name: str, metadata: Mapping[str, str | bytes]) -> AbstractContextManager[Span]:
        carrier = {key: value for key in ("traceparent", "tracestate") if isinstance(value := metadata.get(key), str)}
        return tracer.start_as_current_span(
            name,
            context=propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"rpc.system": "grpc"},
        )

    return Tracing(span, provider.shutdown)
