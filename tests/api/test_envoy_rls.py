"""Envoy's rate-limit service: a status a descriptor, hits in all their forms, and who is told what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc import config
from authsvc.api import rls_encoding
from authsvc.api.calls import Call, Refusal
from authsvc.api.envoy_messages import RateLimitRequest, RateLimitResponse
from authsvc.api.rate_limit_headers import rate_limit_fields, x_rate_limit_fields
from authsvc.api.rls_encoding import UNIT_OF
from authsvc.core.consumption import DecidedBy, Hit, LimitOutcome
from authsvc.core.errors import Exhausted, Reason, Unavailable
from authsvc.core.limits import LimitRule
from authsvc.core.rates import Rate
from tests.api.rls_world import SHOULD_RATE_LIMIT, Rls, request

OK, OVER_LIMIT = 1, 2
SECOND, MINUTE, HOUR, DAY, MONTH, YEAR, WEEK = 1, 2, 3, 4, 5, 6, 7


def descriptor(
    *, hits: int | None = None, back: bool = False, limit: tuple[int, int] | None = None, **entries: str
) -> Any:
    made = RateLimitRequest().descriptors.add()
    for key, value in entries.items():
        made.entries.add(key=key, value=value)
    if hits is not None:
        made.hits_addend.value = hits
    made.is_negative_hits = back
    if limit is not None:
        made.limit.requests_per_unit, made.limit.unit = limit
    return made


def keyed(*keys: str) -> Any:
    made = RateLimitRequest().descriptors.add()
    for key in keys:
        made.entries.add(key=key, value="x")
    return made


def ann(**more: Any) -> Any:
    return descriptor(user="ann", **more)


def codes(answer: Any) -> list[int]:
    return [status.code for status in answer.statuses]


def remaining(answer: Any) -> list[int]:
    return [status.limit_remaining for status in answer.statuses]


@pytest.fixture
def rls() -> Rls:
    return Rls()


@pytest.mark.standard("R1")
def test_the_limit_passes_and_not_one_hit_more(rls: Rls) -> None:
    answers = [rls.ask(ann()) for _ in range(4)]
    assert [answer.overall_code for answer in answers] == [OK, OK, OK, OVER_LIMIT]
    assert [remaining(answer) for answer in answers] == [[2], [1], [0], [0]]
    limit = answers[0].statuses[0].current_limit
    assert (limit.name, limit.requests_per_unit, limit.unit) == ("per_user", 3, MINUTE)
    assert answers[0].statuses[0].duration_until_reset.seconds == 20
    rls.world.clock.advance(answers[3].statuses[0].duration_until_reset.seconds)
    assert rls.ask(ann()).overall_code == OK


@pytest.mark.standard("R1")
def test_statuses_are_as_many_as_the_descriptors_and_in_their_order(rls: Rls) -> None:
    answer = rls.ask(descriptor(nobody="x"), ann(), descriptor(path="/"), descriptor(user="ann", path="/"))
    assert codes(answer) == [OK] * 4
    assert remaining(answer) == [0, 2, 4, 0]
    assert [status.HasField("current_limit") for status in answer.statuses] == [False, True, True, False]
    assert [status.HasField("duration_until_reset") for status in answer.statuses] == [False, True, True, False]


@pytest.mark.standard("R1")
@pytest.mark.parametrize(("key", "unit"), [("odd", None), ("week", WEEK), ("user", MINUTE)])
def test_a_limit_is_shown_only_where_its_window_is_one_of_envoys_units(rls: Rls, key: str, unit: int | None) -> None:
    (status,) = rls.ask(keyed(key)).statuses
    assert status.HasField("current_limit") == (unit is not None)
    assert status.current_limit.unit == (unit or 0)
    assert status.limit_remaining > 0
    assert status.HasField("duration_until_reset")


@pytest.mark.standard("R1")
def test_of_the_rules_that_a_descriptor_meets_the_one_that_refuses_is_told(rls: Rls) -> None:
    vip = [rls.ask(descriptor(user="vip")) for _ in range(3)]
    assert [answer.overall_code for answer in vip] == [OK, OK, OVER_LIMIT]
    assert vip[2].statuses[0].current_limit.name == "vip"
    assert vip[2].statuses[0].duration_until_reset.seconds == 1800


@pytest.mark.standard("R1", "R4")
def test_one_descriptor_over_its_limit_refuses_all_and_debits_none(rls: Rls) -> None:
    rls.ask(ann(hits=3))
    answer = rls.ask(descriptor(path="/"), ann())
    assert (answer.overall_code, codes(answer), remaining(answer)) == (OVER_LIMIT, [OK, OVER_LIMIT], [5, 0])
    assert remaining(rls.ask(descriptor(path="/", hits=0))) == [5]


@pytest.mark.standard("R2")
def test_a_descriptors_hits_beat_the_requests_and_unset_is_one(rls: Rls) -> None:
    assert remaining(rls.ask(ann(hits=1), descriptor(path="/"), hits=2)) == [2, 3]
    assert remaining(rls.ask(ann(), descriptor(path="/"))) == [1, 2]


@pytest.mark.standard("R2")
def test_no_hits_ask_whether_one_would_pass_and_take_none(rls: Rls) -> None:
    looks = [rls.ask(ann(hits=0)) for _ in range(5)]
    assert {(look.overall_code, *remaining(look)) for look in looks} == {(OK, 3)}
    rls.ask(ann(hits=3))
    over = rls.ask(ann(hits=0))
    assert (over.overall_code, codes(over)) == (OVER_LIMIT, [OVER_LIMIT])
    assert over.statuses[0].duration_until_reset.seconds == 20


@pytest.mark.standard("R2", "R4")
def test_where_a_look_finds_its_limit_reached_the_others_are_not_debited(rls: Rls) -> None:
    rls.ask(ann(hits=3))
    answer = rls.ask(ann(hits=0), descriptor(path="/", hits=2))
    assert (answer.overall_code, codes(answer), remaining(answer)) == (OVER_LIMIT, [OVER_LIMIT, OK], [0, 5])
    free = rls.ask(descriptor(user="bob", hits=0), descriptor(path="/", hits=2))
    assert (free.overall_code, codes(free), remaining(free)) == (OK, [OK, OK], [3, 3])


@pytest.mark.standard("R2")
def test_negative_hits_give_back_at_most_to_rest_and_never_refuse(rls: Rls) -> None:
    rls.ask(ann(hits=3))
    answer = rls.ask(ann(hits=2, back=True))
    assert (answer.overall_code, codes(answer), remaining(answer)) == (OK, [OK], [2])
    assert remaining(rls.ask(ann(hits=2**63, back=True))) == [3]
    assert remaining(rls.ask(ann(back=True))) == [3]


@pytest.mark.standard("R2")
def test_what_is_given_back_is_given_back_though_the_rest_is_refused(rls: Rls) -> None:
    rls.ask(ann(hits=3), descriptor(path="/", hits=5))
    answer = rls.ask(ann(hits=1, back=True), descriptor(path="/"))
    assert (answer.overall_code, codes(answer), remaining(answer)) == (OVER_LIMIT, [OK, OVER_LIMIT], [1, 0])


@pytest.mark.standard("R2")
def test_hits_beyond_all_bounds_are_over_the_limit_and_no_fault(rls: Rls) -> None:
    answer = rls.ask(ann(hits=2**64 - 1))
    assert (answer.overall_code, remaining(answer)) == (OVER_LIMIT, [3])
    assert answer.statuses[0].duration_until_reset.seconds == 60


@pytest.mark.standard("R3")
def test_a_limit_that_comes_with_its_descriptor_stands_in_for_the_rules(rls: Rls) -> None:
    answers = [rls.ask(ann(limit=(5, HOUR))) for _ in range(6)]
    assert [answer.overall_code for answer in answers] == [OK] * 5 + [OVER_LIMIT]
    limit = answers[0].statuses[0].current_limit
    assert (limit.name, limit.requests_per_unit, limit.unit) == ("", 5, HOUR)
    assert remaining(rls.ask(ann())) == [2]
    assert remaining(rls.ask(ann(limit=(8, HOUR)))) == [2]
    assert remaining(rls.ask(ann(limit=(8, DAY)))) == [7]
    assert remaining(rls.ask(descriptor(user="bob", limit=(5, HOUR)))) == [4]
    assert rls.ask(ann(limit=(0, MONTH))).overall_code == OVER_LIMIT
    unlimited = rls.ask(ann(limit=(2**32 - 1, YEAR)))
    assert (unlimited.overall_code, remaining(unlimited)) == (OK, [2**32 - 2])


@pytest.mark.standard("R3")
def test_a_limit_of_a_domain_without_rules_counts_nothing(rls: Rls) -> None:
    answer = rls.ask(ann(limit=(1, DAY)), domain="unknown")
    assert (answer.overall_code, answer.statuses[0].HasField("current_limit")) == (OK, False)


@pytest.mark.standard("R3", "R1")
@pytest.mark.parametrize(
    "wrong",
    [
        [ann(limit=(1, 0))],
        [ann(limit=(1, 7))],
        [ann(limit=(1, 99))],
        [ann(), ann(limit=(1, 0))],
        [],
        [descriptor()],
        [keyed("")],
        [ann()] * 17,
        [keyed(*map(str, range(17)))],
    ],
)
def test_what_a_proxys_configuration_got_wrong_is_an_rpc_error_and_takes_nothing(rls: Rls, wrong: list[Any]) -> None:
    assert rls.refused(*wrong) == 3
    assert rls.refused(ann(), domain="") == 3
    assert remaining(rls.ask(ann(hits=0))) == [3]


def test_a_descriptor_that_names_a_key_twice_meets_no_rule(rls: Rls) -> None:
    twice = ann()
    twice.entries.add(key="user", value="bob")
    assert not rls.ask(twice).statuses[0].HasField("current_limit")


@pytest.mark.parametrize("value", ["", "\x00", "ä\n", "x" * 100_000])
def test_no_word_of_a_client_switches_a_limit_off(rls: Rls, value: str) -> None:
    answers = [rls.ask(descriptor(user=value)).overall_code for _ in range(4)]
    assert answers == [OK] * 3 + [OVER_LIMIT]


@pytest.mark.standard("R12")
def test_the_client_is_told_by_headers(rls: Rls) -> None:
    def told(answer: Any) -> dict[str, str]:
        return {header.key: header.value for header in answer.response_headers_to_add}

    assert told(rls.ask(ann(hits=2), descriptor(path="/"))) == {
        "ratelimit-policy": '"per_user";q=3;w=60, "window";q=5;w=60',
        "ratelimit": '"per_user";r=1;t=40, "window";r=4;t=60',
        "x-ratelimit-limit": '3, 3;w=60;name="per_user", 5;w=60;name="window"',
        "x-ratelimit-remaining": "1",
        "x-ratelimit-reset": "40",
    }
    refused = rls.ask(ann(hits=2), descriptor(path="/"))
    assert told(refused)["retry-after"] == "20"
    assert told(refused)["ratelimit"] == '"per_user";r=1;t=20'
    assert told(refused)["x-ratelimit-reset"] == "20"
    assert told(refused)["content-type"] == "application/problem+json"
    assert json.loads(refused.raw_body)["violated-policies"] == ["per_user"]
    assert not told(rls.ask(descriptor(nobody="x")))


@pytest.mark.standard("R10")
def test_the_answer_says_who_decided() -> None:
    class Broken:
        async def consume(self, hits: Sequence[Hit], *, peek: bool = False) -> Sequence[LimitOutcome]:
            return [LimitOutcome(h.rule, False, 10, 0, 0, 1_000_000, DecidedBy.FAILED_CLOSED) for h in hits]

    rls = Rls(counters=Broken())
    answer = rls.ask(descriptor(closed="x"))
    assert answer.overall_code == OVER_LIMIT
    fields = answer.dynamic_metadata.fields
    assert fields["decided_by"].string_value == "failed_closed"
    assert fields["reason"].string_value == "counters_unavailable"
    assert (fields["rule"].string_value, fields["decision"].string_value) == ("closed", "deny")


@pytest.mark.standard("E10", "R1")
def test_only_a_proxy_and_only_in_its_domains_is_answered() -> None:
    rls = Rls(proxies=[config.Proxy(peer="loopback", domains=("api",))])
    for answer in (
        rls.serve(request(ann()).SerializeToString(), "192.0.2.1"),
        rls.serve(request(ann(), domain="other").SerializeToString()),
    ):
        assert isinstance(answer, bytes)
        assert RateLimitResponse.FromString(answer).overall_code == OVER_LIMIT
    assert remaining(rls.ask(ann(hits=0))) == [3]


@pytest.mark.standard("E10", "E2", "R1")
def test_a_stranger_is_denied_whatever_is_wrong_and_a_proxy_is_told_what_is_out_of_order(rls: Rls) -> None:
    for reason in Reason:
        for fault in (Unavailable("x", reason), Exhausted("x", reason)):
            stranger = rls.engine.refuse(rls.row, Call(SHOULD_RATE_LIMIT, "192.0.2.1"), fault)
            assert isinstance(stranger, bytes)
            assert RateLimitResponse.FromString(stranger).overall_code == OVER_LIMIT
    told = Call(SHOULD_RATE_LIMIT, "127.0.0.1")
    for reason, code in ((Reason.OVERLOADED, 8), (Reason.RECORD_UNAVAILABLE, 14), (Reason.SHUTTING_DOWN, 14)):
        answer = rls.engine.refuse(rls.row, told, Unavailable("x", reason))
        assert isinstance(answer, Refusal)
        assert answer.code == code
    assert isinstance(rls.engine.refuse(rls.row, told, RuntimeError("x")), bytes)
    assert isinstance(rls.engine.refuse(rls.row, told, Exhausted("x", Reason.REQUEST_TOO_LARGE)), bytes)


@pytest.mark.standard("R1", "U3")
@given(garbage=st.binary(max_size=60))
def test_no_bytes_make_an_answer_that_is_unknown(garbage: bytes) -> None:
    answer = Rls().serve(garbage)
    if isinstance(answer, bytes):
        assert RateLimitResponse.FromString(answer).overall_code in {OK, OVER_LIMIT}
    else:
        assert answer.code == 3


@pytest.mark.standard("R12")
@given(
    allowed=st.booleans(),
    remaining=st.integers(0, 2**52),
    wait_us=st.one_of(st.none(), st.integers(0, 2**52)),
    name=st.from_regex("[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", fullmatch=True),
    window_us=st.sampled_from([60_000_000, 1, 15 * 60_000_000]),
    share=st.sampled_from([1, 3]),
)
def test_headers_that_are_written_by_hand_are_the_fields(
    remaining: int, wait_us: int | None, name: str, window_us: int, share: int, *, allowed: bool
) -> None:
    rule = LimitRule(name, "api", (("user", "*"),), Rate(9, window_us), 9)
    reset_us, retry_us = (wait_us or 0, None) if allowed else (0, wait_us)
    outcome = LimitOutcome(rule, allowed, 9 // share, remaining, reset_us, retry_us, DecidedBy.STORE)
    written = RateLimitResponse.FromString(rls_encoding.limit_headers([outcome]))
    fields = {*rate_limit_fields([outcome]), *x_rate_limit_fields([outcome])}
    assert {(header.key, header.value) for header in written.response_headers_to_add} == fields
    assert len(written.response_headers_to_add) == len(fields)


@given(
    remaining=st.integers(0, 2**52),
    wait_us=st.integers(0, 2**52),
    count=st.integers(1, 2**52),
    window_us=st.sampled_from([*UNIT_OF, 15 * 60_000_000, 1]),
    text=st.text(max_size=400),
    allowed=st.booleans(),
)
def test_what_is_written_by_hand_is_what_the_message_says(
    remaining: int, wait_us: int, count: int, window_us: int, text: str, *, allowed: bool
) -> None:
    rule = LimitRule("r" * 128, "api", (("user", "*"),), Rate(count, window_us), 1)
    outcome = LimitOutcome(rule, allowed, 1, remaining, 0, None, DecidedBy.STORE)
    code = OK if allowed else OVER_LIMIT
    written = rls_encoding.head(code) + rls_encoding.status(outcome, wait_us) + rls_encoding.UNMATCHED
    written += rls_encoding.headers([("x-a", text), ("x-b", "")]) + rls_encoding.body(text.encode())
    expected = RateLimitResponse(overall_code=code, raw_body=text.encode())
    told = expected.statuses.add(code=code, limit_remaining=min(remaining, 2**32 - 1))
    told.duration_until_reset.seconds, told.duration_until_reset.nanos = wait_us // 10**6, wait_us % 10**6 * 1_000
    if window_us in UNIT_OF:
        told.current_limit.unit, told.current_limit.name = UNIT_OF[window_us], rule.name
        told.current_limit.requests_per_unit = min(count, 2**32 - 1)
    expected.statuses.add(code=OK)
    expected.response_headers_to_add.add(key="x-a", value=text)
    expected.response_headers_to_add.add(key="x-b")
    assert RateLimitResponse.FromString(written) == expected
