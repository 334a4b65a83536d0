"""Statuses on the wire are those of google.rpc."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from authsvc_client.status import read_status, write_status


def test_what_is_written_is_googles_status() -> None:
    encoded = write_status(8, "a limit is reached", reason="LIMIT_EXCEEDED", retry_after=1.25)
    status = status_pb2.Status.FromString(encoded)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert (status.code, status.message) == (8, "a limit is reached")
    assert (info.reason, info.domain) == ("LIMIT_EXCEEDED", "authsvc")
    assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == (1, 250_000_000)


def test_googles_status_is_read() -> None:
    status = status_pb2.Status(code=3, message="no")
    details = (
        error_details_pb2.ErrorInfo(reason="REQUEST_INVALID", domain="authsvc", metadata={"cap": "8"}),
        error_details_pb2.BadRequest(
            field_violations=[error_details_pb2.BadRequest.FieldViolation(field="subject", description="is required")]
        ),
        error_details_pb2.DebugInfo(detail="not ours to read"),
    )
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    found = read_status(status.SerializeToString())
    assert found.reason == "REQUEST_INVALID"
    assert found.metadata == (("cap", "8"),)
    assert found.violations == (("subject", "is required"),)
    assert found.retry_after is None


def test_another_domains_reason_is_not_ours() -> None:
    packed = Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason="TOKEN_EXPIRED", domain="elsewhere"))
    assert read_status(status_pb2.Status(details=[packed]).SerializeToString()).reason == ""


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_an_error(encoded: bytes) -> None:
    read_status(encoded)
