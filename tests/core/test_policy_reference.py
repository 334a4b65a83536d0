"""The decision equals the naive reference, and is a function of its inputs alone."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from authsvc.core.bindings import BindingIndex
from authsvc.core.patterns import permission_matches, resource_matcher
from authsvc.core.policy import CompiledPolicy, Question, Together, compile_policy, decide, list_permissions
from authsvc.core.policy_document import parse
from tests.core import reference_policy as reference
from tests.support.scale import scale

NOW = 10
SEEDS = range(scale(10_000))
ASKS = 25


def question_of(ask: reference.Ask) -> Question:
    scope = ask.get("scope")
    return Question(
        subject=ask["subject"],
        permission=ask["permission"],
        resource=ask.get("resource", ""),
        tenant=ask.get("tenant", ""),
        groups=tuple(ask.get("groups", ())),
        scope=None if scope is None else frozenset(scope),
        context=ask["context"],
        token={"tenant": ask["token_tenant"]} if "token_tenant" in ask else None,
    )


def compiled(policy: reference.Policy) -> tuple[CompiledPolicy, BindingIndex]:
    made = compile_policy(parse(reference.as_yaml(policy)))
    return made, BindingIndex.from_bindings(made.bindings)


@pytest.mark.standard("P1", "P3", "P4", "P5", "P8")
def test_every_decision_and_its_reason_equal_the_reference() -> None:
    outcomes = set()
    for seed in SEEDS:
        random = Random(seed)
        policy = reference.random_policy(random)
        made, index = compiled(policy)
        for _ in range(ASKS):
            ask = reference.random_ask(random)
            decision = decide(made, index, question_of(ask), now=NOW)
            outcome = (decision.allowed, decision.reason.text)
            assert outcome == reference.decide(policy, ask, NOW), (seed, policy, ask)
            outcomes.add(outcome)
    assert len(outcomes) == 7  # every reason was met


@pytest.mark.standard("P3", "P8")
def test_an_index_grown_and_shrunk_step_by_step_decides_as_a_fresh_one() -> None:
    for seed in SEEDS[::10]:
        random = Random(seed)
        policy = reference.random_policy(random)
        made, fresh = compiled(policy)
        other, _ = compiled(reference.random_policy(random))
        steps = [*made.bindings, *other.bindings]
        random.shuffle(steps)
        index = BindingIndex()
        for binding in steps:
            index = index.add(binding)
        for binding in other.bindings:
            if binding not in made.bindings:
                index = index.remove(binding)
        assert len(index) == len(fresh)
        assert {b.binding_id for b in index} == {b.binding_id for b in made.bindings}
        for _ in range(ASKS):
            question = question_of(reference.random_ask(random))
            stepwise, at_once = (decide(made, i, question, now=NOW) for i in (index, fresh))
            assert (stepwise.allowed, stepwise.reason) == (at_once.allowed, at_once.reason)


@pytest.mark.standard("P6")
def test_interleaved_questions_on_shared_policies_equal_fresh_evaluation() -> None:
    """There is no cache of decisions in this release: the decision is a function of all its inputs."""
    random = Random(6)
    policies = [reference.random_policy(random) for _ in range(20)]
    shared = [compiled(policy) for policy in policies]
    for _ in range(scale(20_000)):
        place = random.randrange(len(policies))
        question, now = question_of(reference.random_ask(random)), random.choice([8, 9, 10, 11])
        fresh, index = compiled(policies[place])
        warm = decide(*shared[place], question, now=now)
        cold = decide(fresh, index, question, now=now)
        assert (warm.allowed, warm.reason, warm.role, warm.binding_id) == (
            cold.allowed,
            cold.reason,
            cold.role,
            cold.binding_id,
        )


@pytest.mark.standard("P6", "P8")
def test_questions_that_come_together_are_decided_as_each_alone() -> None:
    """Also where a condition reads the resource, and where contexts are equal in Python but not in a condition."""
    conditions = (
        "resource.startsWith('x/1')",
        "context.n == true",
        "context.n == 1",
        "tenant == 'acme'",
        "size(scope) == 1",
        "subject == 'user:ann' || 'a' in groups",
    )
    for seed in SEEDS:
        random = Random(seed)
        policy = reference.random_policy(random)
        for binding in policy["bindings"]:
            if random.random() < 0.5:
                binding["condition"] = random.choice(conditions)
        made, index = compiled(policy)
        contexts: list[dict[str, Any]] = [{"n": 1}, {"n": True}, {"n": 1.0}, {}]
        together = Together()
        asked = question_of(reference.random_ask(random))._replace(permission="o:r", token=None, context=contexts[0])
        for _ in range(ASKS):
            other = question_of(reference.random_ask(random))._replace(context=random.choice(contexts))
            # The same question with one member changed.
            changed = random.choice(["resource", "resource", "tenant", "subject", "groups", "scope", "context"])
            asked = asked._replace(**{changed: getattr(other, changed)})
            alone = decide(made, index, asked, now=NOW)
            assert decide(made, index, asked, now=NOW, together=together) == alone


@pytest.mark.standard("P7")
def test_what_is_listed_passes_and_what_passes_is_listed() -> None:
    for seed in SEEDS[::4]:
        random = Random(seed)
        policy = reference.random_policy(random)
        made, index = compiled(policy)
        ask = reference.random_ask(random)
        if "*" in ask["permission"] or "\n" in ask["permission"]:
            continue
        listed = list_permissions(made, index, question_of(ask), now=NOW)
        passing = {p for p in policy["permissions"] if reference.decide(policy, {**ask, "permission": p}, NOW)[0]}
        assert set(listed) == passing
        assert list(listed) == sorted(listed)


@pytest.mark.standard("P4", "P8")
def test_patterns_equal_the_reference_over_random_texts() -> None:
    random = Random(4)
    matched = 0
    for _ in range(scale(200_000)):
        pattern = "".join(random.choice(["a", "b", "/", "*", "**", ".", "a"]) for _ in range(random.randint(0, 7)))
        text = "".join(random.choice("aab/.") for _ in range(random.randint(0, 8)))
        if "***" in pattern:
            continue
        expected = reference.resource(pattern, text)
        assert resource_matcher(pattern)(text) == expected, (pattern, text)
        matched += expected
        segments = [random.choice(["a", "b", "*"]) for _ in range(random.randint(1, 3))]
        if random.random() < 0.3:
            segments.append("**")
        asked = [random.choice("ab") for _ in range(random.randint(1, 4))]
        expected = reference.permission(":".join(segments), ":".join(asked))
        assert permission_matches(":".join(segments), ":".join(asked)) == expected, (segments, asked)
    assert matched > 100
