"""Limit rules: which descriptor meets them, whose counter they debit, and what the section may say."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authsvc.core.errors import FieldViolation
from authsvc.core.limits import Algorithm, LimitRule, LimitRules, OnFailure, compile_limits
from authsvc.core.rates import MAX_UNITS, Rate
from tests.support.scale import scale

BODY = {"domain": "api", "match": {"subject": "*"}, "rate": "100/15m"}


RATE = Rate(10, 10**6)


def rule(name: str = "r", domain: str = "api", **match: str) -> LimitRule:
    return LimitRule(name, domain, tuple(sorted(match.items())), RATE, 10)


def faults_of(section: object) -> dict[str, str]:
    faults: list[FieldViolation] = []
    compile_limits(section, faults)
    return {fault.field: fault.description for fault in faults}


def names(rules: LimitRules, domain: str, *entries: tuple[str, str]) -> set[str]:
    return {found.name for found, _ in rules.match(domain, entries)}


def test_the_example_of_the_contract_compiles() -> None:
    faults: list[FieldViolation] = []
    per_user = {**BODY, "burst": 20, "algorithm": "gcra", "on_failure": "local"}
    rules = compile_limits({"per_user": per_user}, faults)
    assert not faults
    found = rules.by_name["per_user"]
    assert (found.domain, found.match, found.rate) == ("api", (("subject", "*"),), Rate(100, 900_000_000))
    assert (found.burst, found.algorithm, found.on_failure) == (20, Algorithm.GCRA, OnFailure.LOCAL)


def test_what_is_not_given_is_the_rates_count_gcra_and_left_to_the_service() -> None:
    found = compile_limits({"per_user": BODY}, []).by_name["per_user"]
    assert (found.burst, found.meter.limit) == (100, 100)
    assert (found.algorithm, found.on_failure) == (Algorithm.GCRA, None)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"domain": None}, "domain"),
        ({"domain": ""}, "domain"),
        ({"domain": 7}, "domain"),
        ({"domain": "a\nb"}, "domain"),
        ({"match": None}, "match"),
        ({"match": {}}, "match"),
        ({"match": ["subject"]}, "match"),
        ({"match": {f"k{n}": "*" for n in range(17)}}, "match"),
        ({"match": {"port": 80}}, "match.port"),
        ({"match": {"subject": None}}, "match.subject"),
        ({"match": {"subject": "user:*"}}, "match.subject"),
        ({"match": {"": "*"}}, "match"),
        ({"match": {7: "*"}}, "match"),
        ({"rate": None}, "rate"),
        ({"rate": 100}, "rate"),
        ({"rate": "100/fortnight"}, "rate"),
        ({"burst": 0}, "burst"),
        ({"burst": True}, "burst"),
        ({"burst": 1.5}, "burst"),
        ({"burst": "20"}, "burst"),
        ({"burst": 101, "algorithm": "fixed_window"}, "burst"),
        ({"algorithm": "leaky"}, "algorithm"),
        ({"algorithm": ["gcra"]}, "algorithm"),
        ({"algorithm": None}, "algorithm"),
        ({"on_failure": "shrug"}, "on_failure"),
        ({"on_failure": {}}, "on_failure"),
        ({"shadow": True}, "shadow"),
        ({"Rate": "1/1s"}, "Rate"),
        ({"rate": "1/30d", "burst": MAX_UNITS}, "rate"),
    ],
)
def test_a_fault_is_named_by_its_path(change: dict[str, Any], path: str) -> None:
    assert list(faults_of({"a": BODY | change})) == [f"limits.a.{path}"]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"algorithm": "sliding_window"}, "algorithm"),
        ({"algorithm": "concurrency"}, "algorithm"),
        ({"algorithm": "calendar_quota"}, "algorithm"),
        ({"count": "failures"}, "count"),
        ({"exceeded": "challenge"}, "exceeded"),
    ],
)
def test_what_a_later_release_serves_is_refused_by_name(change: dict[str, Any], path: str) -> None:
    found = faults_of({"a": BODY | change})
    assert list(found) == [f"limits.a.{path}"]
    assert found[f"limits.a.{path}"].endswith("is not served by this release")


def test_all_faults_are_told_at_once() -> None:
    section = {"good": BODY, "a": {"count": 1, "rate": "x"}, "b c": BODY, "d": 7, 9: BODY}
    assert set(faults_of(section)) == {
        "limits.a.count",
        "limits.a.domain",
        "limits.a.match",
        "limits.a.rate",
        "limits.b c",
        "limits.d",
        "limits.9",
    }


def test_a_section_that_is_no_mapping_is_refused() -> None:
    assert list(faults_of(["a"])) == ["limits"]


@pytest.mark.standard("R8")
def test_a_rule_beyond_the_arithmetic_is_refused_at_load() -> None:
    assert "2^52" in faults_of({"a": BODY | {"rate": "1/1d", "burst": 60_000}})["limits.a.rate"]
    assert not faults_of({"a": BODY | {"rate": "1/1d", "burst": 50_000}})
    assert not faults_of({"a": BODY | {"rate": "1000000000/1s"}})


def test_a_rule_matches_where_its_keys_equal_the_descriptors() -> None:
    rules = LimitRules.of(
        [
            rule("user", subject="*"),
            rule("login", path="/auth", remote_address="*"),
            rule("other", domain="shop", subject="*"),
            rule("ann", subject="user:ann"),
        ]
    )
    assert names(rules, "api", ("subject", "user:bob")) == {"user"}
    assert names(rules, "api", ("subject", "user:ann")) == {"user", "ann"}
    assert names(rules, "api", ("subject", "user:ann"), ("tenant", "acme")) == set()
    assert names(rules, "api", ("path", "/auth"), ("remote_address", "::1")) == {"login"}
    assert names(rules, "api", ("remote_address", "::1"), ("path", "/auth")) == {"login"}
    assert names(rules, "api", ("remote_address", "::1"), ("path", "/AUTH")) == set()
    assert names(rules, "shop", ("subject", "user:ann")) == {"other"}
    assert names(rules, "none", ("subject", "user:ann")) == set()
    assert names(rules, "api", ("subject", "*")) == {"user"}


def test_matching_equals_a_reference_that_looks_at_every_rule() -> None:
    chance = random.Random(1)
    for _ in range(scale(1000)):
        made = [
            rule(
                f"r{n}",
                chance.choice("de"),
                **{key: chance.choice("*xy") for key in chance.sample("abc", chance.randint(1, 3))},
            )
            for n in range(chance.randrange(12))
        ]
        rules = LimitRules.of(made)
        for _ in range(10):
            domain = chance.choice("de")
            entries = {key: chance.choice("xyz") for key in chance.sample("abc", chance.randint(1, 3))}
            expected = {
                each.name
                for each in made
                if each.domain == domain
                and {key for key, _ in each.match} == set(entries)
                and all(value in {"*", entries[key]} for key, value in each.match)
            }
            assert names(rules, domain, *entries.items()) == expected


texts = st.text(max_size=6)


@pytest.mark.standard("R5")
@given(one=st.tuples(texts, texts), other=st.tuples(texts, texts))
@example(one=("1b2", "3"), other=("1", "2b3"))
@example(one=("\x00", ""), other=("", "\x00"))
def test_two_descriptors_share_a_counter_only_if_they_are_equal(one: tuple[str, str], other: tuple[str, str]) -> None:
    both = rule(a="*", b="*")
    keys = {both.counter_key(dict(zip("ab", pair, strict=True))) for pair in (one, other)}
    assert (len(keys) == 1) == (one == other)


@pytest.mark.standard("R5")
def test_a_counters_key_holds_the_rules_id_and_revision() -> None:
    one, other = rule("one", subject="*"), rule("other", subject="*")
    key = one.counter_key({"subject": "user:ann"})
    assert one.name.encode() in key
    assert one.revision.encode() in key
    assert key != other.counter_key({"subject": "user:ann"})
    assert key != one.shared_key()


@pytest.mark.standard("R5", "R14")
def test_the_revision_changes_with_algorithm_window_and_match_and_with_nothing_else() -> None:
    base, anybody = rule(subject="*"), (("subject", "*"),)
    same = [
        rule("renamed", subject="*"),
        LimitRule("r", "api", anybody, Rate(11, 10**6), 11),
        LimitRule("r", "api", anybody, RATE, 3),
        LimitRule("r", "api", anybody, RATE, 10, on_failure=OnFailure.OPEN),
    ]
    different = [
        LimitRule("r", "api", anybody, Rate(10, 10**6 + 1), 10),
        LimitRule("r", "api", anybody, RATE, 10, Algorithm.FIXED_WINDOW),
        rule(subject="user:ann"),
        rule(tenant="*"),
        rule(subject="*", tenant="*"),
        rule(domain="shop", subject="*"),
    ]
    assert {each.revision for each in same} == {base.revision}
    assert len({each.revision for each in [base, *different]}) == 1 + len(different)


@pytest.mark.standard("R15")
def test_a_route_counts_a_stranger_by_its_address() -> None:
    rules = LimitRules.of([rule("user", subject="*")])
    ((_, known),) = rules.match_route(["user"], {"subject": "user:ann", "remote_address": "10.0.0.1"})
    ((_, stranger),) = rules.match_route(["user"], {"remote_address": "10.0.0.1"})
    ((_, another),) = rules.match_route(["user"], {"remote_address": "10.0.0.2"})
    ((_, posing),) = rules.match_route(["user"], {"subject": "10.0.0.1"})
    assert len({known, stranger, another, posing}) == 4


def test_a_route_meets_only_the_rules_it_names_and_whose_named_values_are_equal() -> None:
    rules = LimitRules.of(
        [rule("all", method="*"), rule("posts", method="POST", tenant="*"), rule("unnamed", method="*")]
    )
    request = {"method": "GET", "subject": "user:ann"}
    assert [found.name for found, _ in rules.match_route(["posts", "all"], request)] == ["all"]
    request["method"] = "POST"
    assert [found.name for found, _ in rules.match_route(["posts", "all"], request)] == ["posts", "all"]


@pytest.mark.standard("R5")
def test_counters_of_a_tenant_else_a_subject_lie_together_and_the_shared_one_lies_with_its_domain() -> None:
    def partition(match: dict[str, str], domain: str = "api") -> bytes:
        of = LimitRule("r", domain, tuple(sorted((key, "*") for key in match)), Rate(1, 1), 1)
        return of.partition(of.counter_key(match))

    acme = partition({"tenant": "acme"})
    assert partition({"subject": "user:ann", "path": "/", "tenant": "acme"}) == acme
    assert partition({"tenant": "acme"}, "other") != acme
    ann = partition({"subject": "user:ann"})
    assert partition({"path": "/", "subject": "user:ann"}) == ann != partition({"subject": "user:bob"})
    assert partition({"b": "1", "a": "2"}) == partition({"a": "2"})
    of = LimitRule("r", "api", (("subject", "*"),), Rate(1, 1), 1)
    assert ann.startswith(of.partition(of.shared_key()))


def test_a_domain_is_known_where_a_rule_is_of_it() -> None:
    rules = LimitRules.of([rule(domain="api", a="*")])
    assert rules.knows("api")
    assert not rules.knows("ap")
