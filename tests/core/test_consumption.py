"""Several limits in one call: all or nothing, and what each rule answers."""

from __future__ import annotations

import random

import pytest

from authsvc.core import values
from authsvc.core.consumption import (
    MAX_DESCRIPTORS,
    MAX_ENTRIES,
    Descriptor,
    Hit,
    LimitOutcome,
    check_descriptors,
    consume_all,
    hits_of,
)
from authsvc.core.errors import InvalidRequest
from authsvc.core.limits import Algorithm, LimitRule, LimitRules
from authsvc.core.rates import CounterState, Rate
from tests.support.scale import scale

NOW = 1_800_000_000_000_000
HOUR = 3_600 * 10**6


def rule(name: str, burst: int, key: str = "subject", algorithm: Algorithm = Algorithm.GCRA) -> LimitRule:
    return LimitRule(name, "api", ((key, "*"),), Rate(burst, HOUR), burst, algorithm)


def at_rest(_: bytes) -> CounterState | None:
    return None


def shown(outcomes: tuple[LimitOutcome, ...]) -> list[tuple[str, bool, int]]:
    return [(outcome.rule.name, outcome.allowed, outcome.remaining) for outcome in outcomes]


@pytest.mark.standard("R4")
def test_a_refusal_debits_none_and_shows_what_is_left() -> None:
    wide, narrow = rule("wide", 10), rule("narrow", 1)
    call = consume_all([Hit(wide, b"w", 2), Hit(narrow, b"n", 2)], at_rest, NOW)
    assert not call.taken
    assert shown(call.outcomes) == [("wide", True, 10), ("narrow", False, 1)]
    assert [outcome.retry_after_us for outcome in call.outcomes] == [None, None]


@pytest.mark.standard("R4")
def test_what_passes_is_taken_from_every_rule() -> None:
    call = consume_all([Hit(rule("wide", 10), b"w", 2), Hit(rule("narrow", 3), b"n", 1)], at_rest, NOW)
    assert set(call.taken) == {b"w", b"n"}
    assert shown(call.outcomes) == [("wide", True, 8), ("narrow", True, 2)]


@pytest.mark.standard("R4")
def test_hits_for_one_counter_are_summed_before_they_are_judged() -> None:
    only = rule("only", 3)
    refused = consume_all([Hit(only, b"k", 2), Hit(only, b"k", 2)], at_rest, NOW)
    assert shown(refused.outcomes) == [("only", False, 3)] * 2
    assert not refused.taken
    passed = consume_all([Hit(only, b"k", 2), Hit(only, b"k", 1)], at_rest, NOW)
    assert shown(passed.outcomes) == [("only", True, 0)] * 2


def test_peek_answers_the_same_and_takes_nothing() -> None:
    only = rule("only", 3)
    passed = consume_all([Hit(only, b"k", 2)], at_rest, NOW, peek=True)
    assert (shown(passed.outcomes), passed.taken) == ([("only", True, 3)], {})
    refused = consume_all([Hit(only, b"k", 4)], at_rest, NOW, peek=True)
    assert (shown(refused.outcomes), refused.taken) == ([("only", False, 3)], {})


def test_no_hits_look_and_leave_no_counter_behind() -> None:
    only = rule("only", 3)
    call = consume_all([Hit(only, b"k", 0)], at_rest, NOW)
    assert (shown(call.outcomes), call.taken) == ([("only", True, 3)], {})


def test_a_call_that_meets_no_rule_passes() -> None:
    assert consume_all([], at_rest, NOW).outcomes == ()


@pytest.mark.standard("R4", "R8")
def test_random_calls_equal_a_reference_that_remembers_every_hit() -> None:
    chance = random.Random(4)
    for _ in range(scale(500)):
        kinds = [Algorithm.FIXED_WINDOW, Algorithm.GCRA]
        rules = [rule(f"r{n}", chance.randint(1, 12), algorithm=chance.choice(kinds)) for n in range(3)]
        states: dict[bytes, CounterState] = {}
        taken = dict.fromkeys(((each.name, key) for each in rules for key in "ab"), 0)
        for _ in range(30):
            chosen = [(chance.choice(rules), chance.choice("ab"), chance.randrange(4)) for _ in range(3)]
            wanted = dict.fromkeys(((each.name, key) for each, key, _ in chosen), 0)
            for each, key, hits in chosen:
                wanted[each.name, key] += hits
            limits = {each.name: each.burst for each in rules}
            passes = all(not n or taken[place] + n <= limits[place[0]] for place, n in wanted.items())
            call = consume_all(
                [Hit(each, f"{each.name}{key}".encode(), hits) for each, key, hits in chosen], states.get, NOW
            )
            assert all(outcome.allowed for outcome in call.outcomes) == passes
            for place, n in wanted.items():
                taken[place] += n if passes else 0
            states |= {key: verdict.state for key, verdict in call.taken.items()}
            for (each, key, _), outcome in zip(chosen, call.outcomes, strict=True):
                assert outcome.remaining == each.burst - taken[each.name, key]


def test_hits_come_in_the_order_of_the_descriptors() -> None:
    rules = LimitRules.of([rule("by_subject", 1), rule("by_tenant", 1, "tenant")])
    descriptors = [
        Descriptor((("tenant", "acme"),), 2),
        Descriptor((("colour", "red"),)),
        Descriptor((("subject", "user:ann"),), 0),
    ]
    hits = hits_of(rules, "api", descriptors)
    assert [(hit.rule.name, hit.hits) for hit in hits] == [("by_tenant", 2), ("by_subject", 0)]


ANN = (("subject", "user:ann"),)


@pytest.mark.parametrize(
    ("domain", "descriptors", "paths"),
    [
        ("", [Descriptor(ANN)], ["domain"]),
        ("a\x00", [Descriptor(ANN)], ["domain"]),
        ("a" * 257, [Descriptor(ANN)], ["domain"]),
        ("api", [Descriptor((("k" * 257, "v"),))], ["descriptors[0].entries[0].key"]),
        ("api", [], ["descriptors"]),
        ("api", [Descriptor(ANN)] * 17, ["descriptors"]),
        ("api", [Descriptor(ANN), Descriptor(())], ["descriptors[1].entries"]),
        ("api", [Descriptor(tuple((f"k{n}", "") for n in range(17)))], ["descriptors[0].entries"]),
        ("api", [Descriptor(ANN * 2)], ["descriptors[0].entries"]),
        ("api", [Descriptor((("", "x"),))], ["descriptors[0].entries[0].key"]),
        ("api", [Descriptor((("k", "\n"),), -1)], ["descriptors[0].entries[0].value", "descriptors[0].hits"]),
        ("api", [Descriptor((("k", "v" * 1025),))], ["descriptors[0].entries[0].value"]),
    ],
)
def test_a_request_at_fault_names_each_field(domain: str, descriptors: list[Descriptor], paths: list[str]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_descriptors(domain, descriptors)
    assert [fault.field for fault in refused.value.violations] == paths


def test_a_request_up_to_every_bound_has_no_fault() -> None:
    entries = tuple((f"{n:02}" + "k" * (values.MAX_NAME - 2), "v" * values.MAX_RESOURCE) for n in range(MAX_ENTRIES))
    check_descriptors("a" * values.MAX_NAME, [Descriptor(entries, 0)] * MAX_DESCRIPTORS)


def test_the_path_of_the_message_around_stands_before_the_field() -> None:
    check_descriptors("api", [Descriptor((("k", ""),), 0)])
    with pytest.raises(InvalidRequest) as refused:
        check_descriptors("", [Descriptor(ANN)], "consume[3]")
    assert [fault.field for fault in refused.value.violations] == ["consume[3].domain"]
