"""Errors are a closed tree with documented reasons."""

from __future__ import annotations

import pytest

from authsvc.core import errors
from authsvc.core.errors import AuthsvcError, FieldViolation, InvalidRequest, Reason
from authsvc.v1 import error_reason_pb2


def test_every_reason_is_on_the_wire_with_its_number() -> None:
    wire = {name.removeprefix("REASON_"): number for name, number in error_reason_pb2.Reason.items()}
    assert {reason.name: reason.value for reason in Reason} == wire


def test_the_base_is_never_raised() -> None:
    with pytest.raises(TypeError):
        AuthsvcError("some text")


def test_an_invalid_request_lists_every_field() -> None:
    refused = InvalidRequest([FieldViolation("a.b", "is required"), FieldViolation("", "is odd")])
    assert refused.message == "a.b: is required; is odd"
    assert refused.reason is Reason.REQUEST_INVALID


def test_a_reason_given_stands_before_the_usual_one() -> None:
    kinds = [kind for kind in AuthsvcError.__subclasses__() if kind is not InvalidRequest]
    for kind in kinds:
        assert kind("x").reason is kind.default_reason
        assert kind("x", Reason.TOKEN_EXPIRED, metadata={"a": "b"}).metadata == {"a": "b"}
        assert kind("x", Reason.TOKEN_EXPIRED).reason is Reason.TOKEN_EXPIRED


def test_waiting_is_told_only_where_it_helps() -> None:
    assert errors.Exhausted("x").retry_after is None
    assert errors.Exhausted("x", retry_after=1.5).retry_after == 1.5


def test_people_read_a_reason_in_lower_case() -> None:
    assert Reason.TOKEN_EXPIRED.text == "token_expired"
