"""The one mapping of errors to the wire."""

from __future__ import annotations

import base64
import unicodedata
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.api.calls import Refusal
from authsvc.api.errors import GRPC_CODE, Code, denial_status, reason_of, refusal
from authsvc.core import errors
from authsvc.core.errors import FieldViolation, InvalidRequest, Reason, TokenRefused, Unauthenticated
from authsvc.v1 import error_reason_pb2
from tests.support.engines import fields_of, info_of, retry_seconds_of, status_of
from tests.support.engines import reason_of as name_of

KINDS = (
    errors.TokenRefused,
    errors.Unauthenticated,
    errors.PermissionDenied,
    errors.NotFound,
    errors.Conflict,
    errors.Exhausted,
    errors.Unavailable,
    errors.DeadlineExceeded,
    errors.Internal,
)
CLIENT_TRAILER_LIMIT = 8 * 1024


def test_the_mapping_covers_every_reason() -> None:
    assert set(GRPC_CODE) == set(Reason)


def test_reasons_are_those_of_the_wire() -> None:
    ours = {f"REASON_{reason.name}": int(reason) for reason in Reason}
    assert dict(error_reason_pb2.Reason.items()) == ours


@pytest.mark.parametrize("reason", list(Reason))
def test_the_code_is_the_one_that_the_proto_promises(reason: Reason) -> None:
    # Reasons of refusals begin at 60 and their prose with the code, which callers read.
    prose = _prose()[reason.name]
    promised = prose.partition(".")[0].split(" with ")[0]
    if reason >= Reason.REQUEST_INVALID:
        assert promised == GRPC_CODE[reason].name


@pytest.mark.standard("J17")
@pytest.mark.parametrize("reason", [r for r in Reason if GRPC_CODE[r] is Code.UNAUTHENTICATED])
def test_a_bearer_gets_one_answer_for_every_cause(reason: Reason) -> None:
    refused = [
        refusal(TokenRefused("eyJ0b2tlbiI.inner.text", reason, metadata={"kid": "x"}), ""),
        refusal(Unauthenticated("inner text", reason, metadata={"client_id": "x"}), ""),
    ]
    wanted = reason if reason is Reason.CLIENT_AUTHENTICATION_FAILED else Reason.CALLER_UNAUTHENTICATED
    alike = refusal(Unauthenticated("x", wanted), "")
    assert refused == [alike, alike]
    assert "inner" not in repr(refused)


@pytest.mark.standard("J17")
@pytest.mark.parametrize(
    "fault", [ValueError("secret text"), errors.Internal("secret text"), SystemExit("secret text")]
)
def test_inner_text_stays_home(fault: BaseException) -> None:
    answer = refusal(fault, "f00d")
    assert answer.code == Code.INTERNAL
    assert b"secret text" not in answer.details
    assert info_of(status_of(answer)).metadata == {"request_id": "f00d"}


def test_an_answer_is_never_a_refusal_without_a_reason() -> None:
    assert reason_of(errors.NotFound("forgot the reason")) is Reason.INTERNAL
    assert reason_of(errors.Conflict("allowed?", Reason.ALLOWED)) is Reason.INTERNAL


def test_each_fault_names_its_field() -> None:
    fault = InvalidRequest([FieldViolation("checks[3].subject", "is required"), FieldViolation("a", "b")])
    assert fields_of(status_of(refusal(fault, ""))) == ["checks[3].subject", "a"]


def test_a_caller_that_shall_come_back_is_told_when() -> None:
    told = {
        kind: retry_seconds_of(status_of(refusal(fault, "")))
        for kind, fault in {
            "own": errors.Exhausted("x", Reason.AUTHENTICATION_THROTTLED, retry_after=2.5),
            "default": errors.Unavailable("x", Reason.RECORD_UNAVAILABLE),
            "none": errors.Exhausted("x", Reason.REQUEST_TOO_LARGE),
        }.items()
    }
    assert told == {"own": 2.5, "default": 1.0, "none": None}


@pytest.mark.standard("U14")
@given(
    st.lists(st.tuples(st.text(max_size=4000), st.text(max_size=4000)), min_size=1, max_size=60),
    st.dictionaries(st.text(max_size=20), st.text(max_size=4000), max_size=4),
)
def test_whatever_a_fault_says_fits_the_trailers_and_one_line(
    violations: list[tuple[str, str]], metadata: dict[str, str]
) -> None:
    answer = refusal(InvalidRequest([FieldViolation(*v) for v in violations], metadata=metadata), "")
    assert trailer_bytes(answer) < CLIENT_TRAILER_LIMIT
    status = status_of(answer)
    shown = status.message + "".join(fields_of(status))
    assert not any(unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} for c in shown)


@pytest.mark.standard("U14")
@pytest.mark.parametrize("hostile", ["\x00", "x", "\u2028", "\U0001f600"])
def test_the_worst_fault_fits_the_trailers(hostile: str) -> None:
    text = hostile * 100_000
    fault = InvalidRequest([FieldViolation(text, text)] * 1_000, metadata={text + str(i): text for i in range(20)})
    assert trailer_bytes(refusal(fault, "")) < CLIENT_TRAILER_LIMIT


def trailer_bytes(answer: Refusal) -> int:
    """As on the wire: details in base64, the message percent-encoded."""
    return len(base64.b64encode(answer.details)) + len(quote(answer.message))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reason", list(Reason))
def test_every_kind_with_every_reason_is_refused(kind: type[errors.AuthsvcError], reason: Reason) -> None:
    answer = refusal(kind("text", reason), "id")
    assert answer.code != Code.OK
    assert Reason[name_of(status_of(answer))]


@pytest.mark.standard("E2")
@pytest.mark.parametrize("reason", list(Reason))
def test_an_envoy_denial_has_a_status_that_denies(reason: Reason) -> None:
    assert denial_status(reason) in {403, 503}


def _prose() -> dict[str, str]:
    comments: dict[str, str] = {}
    comment: list[str] = []
    text = error_reason_proto()
    for line in map(str.strip, text.splitlines()):
        if line.startswith("//"):
            comment.append(line.removeprefix("//").strip())
        elif line.startswith("REASON_"):
            comments[line.split(" ")[0].removeprefix("REASON_")] = " ".join(comment)
            comment = []
        else:
            comment = []
    return comments


def error_reason_proto() -> str:
    return (Path(__file__).parents[2] / "protos/authsvc/v1/error_reason.proto").read_text()
