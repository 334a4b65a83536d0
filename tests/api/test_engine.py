"""What stands around every row."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.api.calls import Call, Context, Refusal
from authsvc.api.errors import Code
from authsvc.api.method_table import LONGEST_SECONDS, METHODS, PROXY, PUBLIC, Kind
from authsvc.core.errors import Conflict, DeadlineExceeded, Reason, Unauthenticated
from authsvc.core.roles_builtin import ADMIN, AUDITOR, BUILTIN_ROLES, CALLER
from authsvc.v1 import authz_pb2, token_pb2, types_pb2
from tests.support.engines import (
    DENIED,
    PROXY_ADDRESS,
    RECORD,
    Bench,
    HeldState,
    InlineRunner,
    all_services,
    bench,
    fields_of,
    info_of,
    reason_of,
    retry_seconds_of,
    status_of,
)
from tests.support.waiting import wait_for

CHECK = "authsvc.v1.AuthzService/Check"
ISSUE = "authsvc.v1.TokenService/IssueToken"
ENVOY = "envoy.service.auth.v3.Authorization/Check"
AS_CALLER: dict[str, Any] = {"authorization": (f"Bearer {CALLER}",)}
SECRET = "eyJhbGciOiJFUzI1NiJ9.c2VjcmV0LXRva2Vu.c2lnbmF0dXJl"


def failing(fault: BaseException) -> Bench:
    """Check fails with `fault`."""

    def check(request: Any, context: Context) -> Any:
        raise fault

    return bench(all_services(check=check))


def answer_of(tested: Bench, name: str, call: Call) -> bytes | Refusal:
    """The first answer of a row, whatever its kind."""
    row = tested.row(name)
    if row.kind is Kind.UNARY:
        return tested.engine.serve(row, call, b"", InlineRunner())
    return tested.stream(row, call, b"")[0]


@pytest.mark.standard("U2", "U11", "E10")
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("who", ["nobody", "a forger", "a proxy", *BUILTIN_ROLES])
def test_caller_matrix(method: Any, who: str) -> None:
    tested = bench(failures=1_000)
    authorization = {"nobody": (), "a proxy": (), "a forger": ("Bearer no-role",)}.get(who, (f"Bearer {who}",))
    call = Call(method.name, PROXY_ADDRESS if who == "a proxy" else "192.0.2.1", authorization=authorization)
    answer = answer_of(tested, method.name, call)

    if method.permission == PUBLIC:
        assert isinstance(answer, bytes)
    elif method.permission == PROXY:
        # Envoy's rows never answer by an RPC error, and a permission alone makes no proxy.
        assert isinstance(answer, bytes)
        assert answer.startswith(DENIED) == (who != "a proxy")
    elif who in BUILTIN_ROLES and method.permission in BUILTIN_ROLES[who]:
        assert isinstance(answer, bytes)
    else:
        assert isinstance(answer, Refusal)
        known = who in BUILTIN_ROLES
        assert answer.code == (Code.PERMISSION_DENIED if known else Code.UNAUTHENTICATED)
        metadata = info_of(status_of(answer)).metadata
        assert metadata == ({"permission": method.permission} if known else {})


@pytest.mark.standard("U11")
def test_a_method_without_a_row_is_refused() -> None:
    answer = bench().engine.unknown()
    assert answer.code == Code.UNIMPLEMENTED
    assert reason_of(status_of(answer)) == "METHOD_UNKNOWN"


def test_the_answer_carries_the_revision_of_its_snapshot() -> None:
    answer = bench().serve(CHECK, **AS_CALLER)
    assert isinstance(answer, bytes)
    assert authz_pb2.CheckResponse.FromString(answer).revision == f"{RECORD}-1.5"


@pytest.mark.parametrize("garbage", [b"\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe", b"\x08" + b"\xff" * 11])
def test_undecodable_bytes_are_invalid_argument(garbage: bytes) -> None:
    status = bench().refused(CHECK, garbage, **AS_CALLER)
    assert (status.code, reason_of(status)) == (Code.INVALID_ARGUMENT, "REQUEST_UNDECODABLE")


@given(st.binary(max_size=200), st.sampled_from(METHODS))
def test_random_bytes_are_answered_or_refused_clearly(request: bytes, method: Any) -> None:
    tested = bench()
    row = tested.row(method.name)
    call = Call(method.name, PROXY_ADDRESS, authorization=(f"Bearer {ADMIN}",))
    answers = (
        [tested.engine.serve(row, call, request, InlineRunner())]
        if row.kind is Kind.UNARY
        else tested.stream(row, call, request)
    )
    for answer in answers:
        if isinstance(answer, Refusal):
            assert answer.code in {Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION}
    assert "fault" not in tested.log.getvalue()


@pytest.mark.parametrize("method", [m for m in METHODS if "/" in m.name and not m.name.startswith(("grpc", "envoy"))])
def test_a_request_over_the_rows_cap_is_refused_by_its_size(method: Any) -> None:
    tested = bench()
    request = b"\x00" * (method.max_bytes + 1)
    status = tested.refused(method.name, request, authorization=(f"Bearer {ADMIN}",))
    assert (status.code, reason_of(status)) == (Code.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE")
    assert info_of(status).metadata == {"limit_bytes": str(method.max_bytes)}
    assert str(method.max_bytes) in status.message


@pytest.mark.standard("U3", "J17")
@pytest.mark.parametrize("fault", [ValueError(SECRET), SystemExit(SECRET), MemoryError(), asyncio.CancelledError()])
def test_whatever_a_handler_raises_is_internal_and_its_text_stays_home(fault: BaseException) -> None:
    tested = failing(fault)
    status = tested.refused(CHECK, **AS_CALLER)
    assert (status.code, reason_of(status)) == (Code.INTERNAL, "INTERNAL")
    request_id = info_of(status).metadata["request_id"]
    assert request_id in tested.log.getvalue()
    assert type(fault).__name__ in tested.log.getvalue()
    assert SECRET not in tested.log.getvalue() + str(status)


@pytest.mark.standard("U3")
def test_a_handler_that_answers_no_message_is_internal() -> None:
    status = bench(all_services(check=lambda request, context: None)).refused(CHECK, **AS_CALLER)
    assert status.code == Code.INTERNAL


@pytest.mark.standard("E2", "E3")
@pytest.mark.parametrize(
    ("request_bytes", "call", "reason"),
    [
        (b"\xff", {}, "REQUEST_UNDECODABLE 403"),
        (b"\x00" * 300_000, {}, "REQUEST_TOO_LARGE 403"),
        (b"", {"peer_address": "192.0.2.1"}, "CALLER_NOT_PERMITTED 403"),
        (b"", {"deadline": 0.0}, "DEADLINE_EXCEEDED 503"),
    ],
)
def test_envoys_row_refuses_by_its_explicit_denial(request_bytes: bytes, call: dict[str, Any], reason: str) -> None:
    answer = bench().serve(ENVOY, request_bytes, **{"peer_address": PROXY_ADDRESS, **call})
    assert answer == DENIED + f" {reason}".encode()


@pytest.mark.standard("E2")
@pytest.mark.parametrize("fault", [ValueError(), SystemExit(), RecursionError(), KeyboardInterrupt()])
def test_envoys_row_denies_whatever_is_raised(fault: BaseException) -> None:
    tested = bench()
    row = tested.row(ENVOY)

    def check(request: Any, context: Context) -> Any:
        raise fault

    broken = _with_handler(row, check)
    answer = tested.engine.serve(broken, Call(ENVOY, PROXY_ADDRESS), b"", InlineRunner())
    assert answer == DENIED + b" INTERNAL 503"


@pytest.mark.standard("E2")
def test_envoys_row_denies_although_audit_log_and_metrics_are_broken() -> None:
    tested = bench()
    tested.log.close()

    def broken(draft: Any) -> None:
        raise OSError("disk full")

    tested.audit.record = broken  # type: ignore[method-assign]
    answer = tested.serve(ENVOY, b"\xff", peer_address=PROXY_ADDRESS)
    assert answer == DENIED + b" REQUEST_UNDECODABLE 403"


@pytest.mark.standard("E2")
@pytest.mark.parametrize("fault", [Conflict("x"), DeadlineExceeded("x"), ValueError("x")])
def test_a_transport_that_refuses_gets_the_rows_own_way(fault: BaseException) -> None:
    tested = bench()
    denial = tested.engine.refuse(tested.row(ENVOY), Call(ENVOY), fault)
    refused = tested.engine.refuse(tested.row(CHECK), Call(CHECK), fault)
    assert isinstance(denial, bytes)
    assert denial.startswith(DENIED)
    assert isinstance(refused, Refusal)


def test_a_deadline_that_has_passed_does_no_work() -> None:
    tested = failing(AssertionError("worked"))
    assert reason_of(tested.refused(CHECK, deadline=0.0, **AS_CALLER)) == "DEADLINE_EXCEEDED"


@pytest.mark.standard("E3")
def test_the_deadline_is_looked_at_again_after_deciding() -> None:
    seen: list[float] = []

    def check(request: Any, context: Context) -> Any:
        seen.append(context.deadline)
        context.deadline = 0.0
        return authz_pb2.CheckResponse(decision=types_pb2.DECISION_ALLOW)

    tested = bench(all_services(check=check))
    assert reason_of(tested.refused(CHECK, **AS_CALLER)) == "DEADLINE_EXCEEDED"
    assert seen
    assert seen[0] < float("inf")


@pytest.mark.standard("U3")
def test_a_deadline_beyond_the_longest_counts_as_that() -> None:
    left: list[float] = []

    def check(_request: Any, context: Context) -> Any:
        left.append(context.deadline - time.monotonic())
        return authz_pb2.CheckResponse(decision=types_pb2.DECISION_DENY)

    tested = bench(all_services(check=check))
    assert isinstance(tested.serve(CHECK, deadline=time.monotonic() + 1e9, **AS_CALLER), bytes)
    assert isinstance(tested.serve(CHECK, deadline=time.monotonic() + 30.0, **AS_CALLER), bytes)
    assert LONGEST_SECONDS - 5.0 < left[0] <= LONGEST_SECONDS
    assert 25.0 < left[1] <= 30.0


def test_an_async_row_is_served_too() -> None:
    async def check(request: Any, context: Context) -> Any:
        await asyncio.sleep(0)
        return authz_pb2.CheckResponse(decision=types_pb2.DECISION_DENY)

    answer = bench(all_services(check=check)).serve(CHECK, **AS_CALLER)
    assert isinstance(answer, bytes)
    assert authz_pb2.CheckResponse.FromString(answer).decision == types_pb2.DECISION_DENY


def _asking(revision: str) -> bytes:
    return authz_pb2.CheckRequest(min_revision=revision).SerializeToString()


@pytest.mark.standard("U13")
def test_a_revision_that_is_reached_is_answered_at_once() -> None:
    assert isinstance(bench().serve(CHECK, _asking(f"{RECORD}-1.5"), **AS_CALLER), bytes)


@pytest.mark.standard("U13")
@pytest.mark.parametrize("revision", [f"{RECORD}-1.99", "ffffffff-1.1", f"{RECORD}-2.1"])
def test_a_revision_that_is_nowhere_fails_at_once(revision: str) -> None:
    status = bench().refused(CHECK, _asking(revision), **AS_CALLER)
    assert (status.code, reason_of(status)) == (Code.FAILED_PRECONDITION, "REVISION_UNREACHABLE")


@pytest.mark.standard("U13")
@pytest.mark.parametrize("revision", ["x", "0", f"{RECORD}-1.-1", f"{RECORD}-1.5\n", "'; drop table head"])
def test_a_text_that_is_no_revision_names_its_field(revision: str) -> None:
    status = bench().refused(CHECK, _asking(revision), **AS_CALLER)
    assert (status.code, fields_of(status)) == (Code.INVALID_ARGUMENT, ["min_revision"])


@pytest.mark.standard("U13")
def test_a_call_waits_until_the_replica_has_caught_up_and_answers_from_there() -> None:
    state = HeldState(5, newest=7)
    tested = bench(state=state)
    answers: list[bytes | Refusal] = []
    caller = threading.Thread(target=lambda: answers.append(tested.serve(CHECK, _asking(f"{RECORD}-1.7"), **AS_CALLER)))
    caller.start()
    wait_for(lambda: state.waiting == 1)
    assert not answers
    state.move(7)
    caller.join(5)
    assert isinstance(answers[0], bytes)
    assert authz_pb2.CheckResponse.FromString(answers[0]).revision == f"{RECORD}-1.7"


@pytest.mark.standard("U13", "J21")
def test_a_caller_that_was_revoked_while_it_waited_is_refused() -> None:
    state = HeldState(5, newest=7)
    tested = bench(state=state, gone_at=7)
    answers: list[bytes | Refusal] = []
    caller = threading.Thread(target=lambda: answers.append(tested.serve(CHECK, _asking(f"{RECORD}-1.7"), **AS_CALLER)))
    caller.start()
    wait_for(lambda: state.waiting == 1)
    state.move(7)
    caller.join(5)
    assert isinstance(answers[0], Refusal)
    assert answers[0].code == Code.UNAUTHENTICATED


@pytest.mark.standard("U13")
def test_waiters_are_capped() -> None:
    state = HeldState(5, newest=7)
    tested = bench(state=state)
    waiting = [
        threading.Thread(target=tested.serve, args=(CHECK, _asking(f"{RECORD}-1.7")), kwargs=AS_CALLER)
        for _ in range(2)
    ]
    for one in waiting:
        one.start()
    wait_for(lambda: state.waiting == 2)
    status = tested.refused(CHECK, _asking(f"{RECORD}-1.7"), **AS_CALLER)
    state.move(7)
    for one in waiting:
        one.join(5)
    assert (status.code, reason_of(status)) == (Code.RESOURCE_EXHAUSTED, "WAITERS_EXHAUSTED")


@pytest.mark.standard("J17", "S10")
def test_failed_authentication_is_limited_per_address_and_a_right_credential_is_not() -> None:
    tested = bench(failures=3)
    wrong: dict[str, Any] = {"authorization": (f"Bearer {SECRET}",), "peer_address": "192.0.2.1"}
    answers = [tested.refused(CHECK, **wrong) for _ in range(5)]
    codes = [status.code for status in answers]
    assert codes == [Code.UNAUTHENTICATED] * 3 + [Code.RESOURCE_EXHAUSTED] * 2
    assert reason_of(answers[-1]) == "AUTHENTICATION_THROTTLED"
    assert (retry_seconds_of(answers[-1]) or 0) > 0
    assert len({status.SerializeToString() for status in answers[:3]}) == 1

    assert isinstance(tested.serve(CHECK, peer_address="192.0.2.1", **AS_CALLER), bytes)
    assert tested.refused(CHECK, **{**wrong, "peer_address": "192.0.2.2"}).code == Code.UNAUTHENTICATED
    tested.clock.advance(20)
    assert tested.refused(CHECK, **wrong).code == Code.UNAUTHENTICATED
    # Floods reach neither audit nor log, the token nowhere.
    assert sum(draft.reason == "caller_unauthenticated" for draft in tested.audit.drafts) == 5
    assert SECRET not in repr(tested.audit.drafts) + tested.log.getvalue()


@pytest.mark.standard("S10")
def test_a_grant_that_fails_counts_as_failed_authentication() -> None:
    tested = bench()

    def issue(request: Any, context: Context) -> Any:
        context.private["client_id"] = request.client_credentials.client_id
        if request.client_credentials.client_secret != "right":
            raise Unauthenticated("inner", Reason.CLIENT_AUTHENTICATION_FAILED)
        return token_pb2.IssueTokenResponse()

    row = _with_handler(tested.row(ISSUE), issue)

    def ask(secret: str, address: str = "2001:db8::1") -> bytes | Refusal:
        request = token_pb2.IssueTokenRequest()
        request.client_credentials.client_id = "billing"
        request.client_credentials.client_secret = secret
        call = Call(ISSUE, address)
        return tested.engine.serve(row, call, request.SerializeToString(), InlineRunner())

    codes = [answer.code for _ in range(4) if isinstance(answer := ask("wrong"), Refusal)]
    assert codes == [Code.UNAUTHENTICATED] * 3 + [Code.RESOURCE_EXHAUSTED]
    # The rest of the /64 is one address; a right secret is never refused for other people's failures.
    neighbour = ask("wrong", "2001:db8::2")
    assert isinstance(neighbour, Refusal)
    assert neighbour.code == Code.RESOURCE_EXHAUSTED
    assert isinstance(ask("right"), bytes)


@pytest.mark.standard("S10")
def test_a_call_without_credentials_is_no_failed_attempt() -> None:
    tested = bench(failures=1)
    assert [tested.refused(CHECK).code for _ in range(5)] == [Code.UNAUTHENTICATED] * 5


def _deciding(*, allowed: bool) -> list[Any]:
    def check(request: Any, context: Context) -> Any:
        context.subject = "user:ann"
        context.decided(Reason.ALLOWED if allowed else Reason.NO_BINDING, allowed=allowed)
        return authz_pb2.CheckResponse()

    return all_services(check=check)


def test_every_denial_is_audited_and_allows_are_sampled() -> None:
    denials = bench(_deciding(allowed=False), allow_sample=0.0)
    allows = bench(_deciding(allowed=True), allow_sample=0.0)
    for tested in (denials, allows):
        tested.serve(CHECK, peer_address="192.0.2.1", **AS_CALLER)
    assert not allows.audit.drafts
    (draft,) = denials.audit.drafts
    assert (draft.kind, draft.outcome, draft.reason) == ("authsvc.authz:check", "denied", "no_binding")
    assert (draft.actor, draft.subject) == (f"client:{CALLER}", "user:ann")
    assert draft.private == {"address": "192.0.2.1"}
    assert draft.detail["method"] == CHECK


def test_a_read_by_an_administrator_is_audited_and_a_write_commits_its_own_event() -> None:
    tested = bench(allow_sample=0.0)
    for name in ("KeyAdminService/ListKeys", "KeyAdminService/RotateKey"):
        tested.serve(f"authsvc.v1.{name}", authorization=(f"Bearer {ADMIN}",))
    assert [draft.kind for draft in tested.audit.drafts] == ["authsvc.keys:list"]


def test_a_refused_caller_is_audited_on_every_row() -> None:
    tested = bench(allow_sample=0.0)
    tested.refused("authsvc.v1.KeyAdminService/RotateKey", authorization=(f"Bearer {AUDITOR}",))
    (draft,) = tested.audit.drafts
    assert (draft.outcome, draft.reason) == ("denied", "caller_not_permitted")


@pytest.mark.parametrize("name", [CHECK, ISSUE, "authsvc.v1.KeyAdminService/RotateKey"])
def test_what_is_malformed_or_shows_no_credential_fills_no_record(name: str) -> None:
    tested = bench(allow_sample=0.0)
    tested.refused(name, b"\xff", authorization=(f"Bearer {ADMIN}",))
    if name != ISSUE:
        tested.refused(name)
    assert not tested.audit.drafts


def test_metrics_count_by_row_and_code() -> None:
    tested = bench()
    tested.serve(CHECK, **AS_CALLER)
    tested.refused(CHECK)
    text = tested.metrics.openmetrics().decode()
    assert f'authsvc_calls_total{{code="0",method="{CHECK}",reason=""}} 1.0' in text
    assert f'authsvc_calls_total{{code="16",method="{CHECK}",reason="caller_unauthenticated"}} 1.0' in text


def test_a_stream_that_the_transport_ends_ends_with_unavailable() -> None:
    tested = bench()
    row = tested.row("grpc.health.v1.Health/Watch")
    ended = False

    async def watch(request: Any, context: Context) -> AsyncGenerator[Any, None]:
        nonlocal ended
        yield row.request_type()
        ended = True

    call = Call(row.name, cancelled=lambda: ended)
    answers = tested.stream(_with_handler(row, watch), call, b"")
    assert isinstance(answers[-1], Refusal)
    assert reason_of(status_of(answers[-1])) == "SHUTTING_DOWN"


@pytest.mark.standard("J21", "U12")
def test_a_stream_ends_where_its_caller_is_looked_at_again_and_was_revoked_which_is_no_failed_attempt() -> None:
    state = HeldState(5)
    tested = bench(state=state, gone_at=6, failures=1)
    row = replace(tested.row("grpc.health.v1.Health/Watch"), permission=tested.row(CHECK).permission)

    async def watch(_request: Any, context: Context) -> AsyncGenerator[bytes, None]:
        for number in (5, 6):
            state.move(number)
            context.look_again()
            yield context.snapshot.revision_text.encode()

    for _ in range(3):
        state.move(5)
        answers = tested.stream(_with_handler(row, watch), Call(row.name, **AS_CALLER), b"")
        assert answers[0] == f"{RECORD}-1.5".encode()
        assert isinstance(answers[1], Refusal)
        assert reason_of(status_of(answers[1])) == "CALLER_UNAUTHENTICATED"
        assert len(answers) == 2
    assert tested.audit.drafts == []


def _with_handler(row: Any, handler: Any) -> Any:
    return replace(row, handler=handler)
