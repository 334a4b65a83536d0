"""Pages of metrics of several workers, put together."""

from __future__ import annotations

from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from authsvc.api.worker_metrics import together
from authsvc.core.errors import Reason
from authsvc.telemetry import Gauge, Metrics


def page(*seconds: float) -> str:
    """A worker's own."""
    metrics = Metrics((Gauge("authsvc_age_seconds", "Of {braces} and spaces.", lambda: 0.5),), "0.1.0")
    for one in seconds:
        metrics.observe("a.Service/Row", 0, Reason.ALLOWED, one)
    return metrics.openmetrics().decode()


def test_each_family_stands_once_and_each_sample_says_whose_it_is() -> None:
    families: Any = text_string_to_metric_families
    found = list(families(together({1: page(0.01, 0.02), 2: page(0.01), 3: None}).decode()))
    assert len({family.name for family in found}) == len(found)
    samples = [sample for family in found for sample in family.samples]
    assert {sample.labels["worker"] for sample in samples if sample.name == "authsvc_age_seconds"} == {"1", "2"}
    calls = {sample.labels["worker"]: sample.value for sample in samples if sample.name == "authsvc_calls_total"}
    assert calls == {"1": 2.0, "2": 1.0}
    up = {sample.labels["worker"]: sample.value for sample in samples if sample.name == "authsvc_worker_up"}
    assert up == {"1": 1.0, "2": 1.0, "3": 0.0}
    alone = [sample for family in families(page(0.01)) for sample in family.samples]
    assert len([sample for sample in samples if sample.labels["worker"] == "2"]) == len(alone) + 1
