"""Measure decisions and conditions: `python -m tests.bench.bench_decide [BINDINGS]`. A program, never a timed test."""

# ruff: noqa: T201 -- it speaks to a person

from __future__ import annotations

import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from random import Random

from authsvc.core.bindings import Binding, BindingIndex, make_binding
from authsvc.core.cel import compile_expression
from authsvc.core.conditions import VARIABLES, ConditionFailed
from authsvc.core.policy import CompiledPolicy, Question, compile_policy, decide, service_permissions
from authsvc.core.policy_document import parse
from authsvc.core.policy_questions import decide_lines
from authsvc.core.roles_builtin import CALLER

POLICY = """
version: 1
permissions: {"orders:read": {}, "orders:write": {}}
roles: {viewer: {allow: ["orders:read"]}, editor: {inherits: [viewer], allow: ["orders:write"]}}
groups: {desk: ["user:7"], world: ["group:desk"]}
bindings: [{subject: "group:desk", role: viewer, tenant: acme, resource: "orders/eu-*"}]
"""

WORST = {
    "loops to the budget": "context.many.all(a, context.many.all(b, context.many.all(c, a + b + c >= 0)))",
    "a loop's heaviest turn": "context.many.all(a, string(timestamp(a)) != string(timestamp(a + 1)))",
    "texts joined": "context.ten.map(a, context.long + context.long).size() == 3",
    "text searched": "context.ten.all(a, !context.long.contains('xxxxxxxxy'))",
    "regular expression, long text": "context.ten.all(a, !context.long.matches('(x+x+)+y'))",
    "regular expression, large program": "context.ten.all(a, !context.text.matches('([a-z]*[a-y]*){150}y$'))",
    "regular expression, a state a byte": "context.ten.all(a, !context.ab.matches('[ab]*a[ab]{300}c'))",
    "regular expression, few states a byte": "context.ten.all(a, !context.ab2.matches('[ab]*a[ab]{30}c'))",
    "regular expressions, short text": "context.many.all(a, !subject.matches('z.*q'))",
    "4 KiB without a loop": " && ".join(["context.text != ''"] * 185),
    "durations parsed": "context.many.all(a, duration('1h1m1s1ms1us1ns1h1m1s1ms1us1ns') != duration('1s'))",
}
VALUES = {
    "subject": "user:ann",
    "context": {
        "many": list(range(2_000)),
        "ten": list(range(10)),
        "long": "x" * 200_000,
        "text": "x" * 400,
        "ab": "".join(Random(1).choices("ab", k=110)),
        "ab2": "".join(Random(1).choices("ab", k=480)),
    },
}


def microseconds(call: Callable[[], object], least_seconds: float = 0.2) -> float:
    """The best of three rounds, a call."""
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < least_seconds / 4:
        call()
        count += 1
    rounds = []
    for _ in range(3):
        begin = time.perf_counter()
        for _ in range(count):
            call()
        rounds.append((time.perf_counter() - begin) / count)
    return min(rounds) * 1e6


def bindings(count: int) -> Iterator[Binding]:
    """Half on a million users, half in one big group."""
    for number in range(count // 2):
        yield make_binding(f"user:{number}", "viewer", "acme", "orders/**")
        yield make_binding("group:big", "viewer", f"t{number % 50}", f"orders/{number}")


def decisions(policy: CompiledPolicy, count: int) -> None:
    begin = time.perf_counter()
    index = BindingIndex.from_bindings([*policy.bindings, *bindings(count)])
    print(f"{count:>9,} bindings, made and indexed in {time.perf_counter() - begin:.2f} s")
    gc.collect()
    gc.freeze()
    asks = {
        "own binding, tenant and pattern": Question("user:7", "orders:read", "orders/1", "acme"),
        "denied by default": Question("user:7", "orders:write", "orders/1", "acme"),
        "by one of two groups": Question("user:none", "orders:read", "orders/eu-1", "acme", ("desk",)),
        "exact resource in a big group": Question("user:none", "orders:read", "orders/7", "t7", ("big",)),
        "with a scope and a context": Question(
            "user:7", "orders:read", "orders/1", "acme", (), frozenset(), {"mfa": True}
        ),
    }
    for name, question in asks.items():
        took = microseconds(lambda question=question: decide(policy, index, question, now=0))  # type: ignore[misc]
        print(f"  {took:8.2f} us  {name}: {decide(policy, index, question, now=0).reason.text}")
    fresh = make_binding("user:fresh", "viewer", "acme", "orders/x")
    print(f"  {microseconds(lambda: index.add(fresh)):8.2f} us  one change, a user")
    in_group = make_binding("group:big", "viewer", "t1", "orders/x")
    print(f"  {microseconds(lambda: index.add(in_group)):8.2f} us  one change, a big group")


def memory(count: int) -> None:
    made = list(bindings(count))
    gc.collect()
    tracemalloc.start()
    index = BindingIndex.from_bindings(made)
    print(f"{tracemalloc.get_traced_memory()[0] / len(index):9.0f} bytes a binding beside the texts")
    tracemalloc.stop()


def conditions() -> None:
    for name, text in WORST.items():
        expression = compile_expression(text, VARIABLES)

        def ask(expression: object = expression) -> str:
            try:
                return str(expression.holds(VALUES))  # type: ignore[attr-defined]
            except ConditionFailed as failed:
                return str(failed)

        print(f"  {microseconds(ask):8.2f} us  {name}: {ask()}")


def main() -> None:
    policy = compile_policy(parse(POLICY))
    biggest = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    for count in (1_000, biggest):
        decisions(policy, count)
    memory(min(biggest, 100_000))
    index = BindingIndex.from_bindings([make_binding("client:c", CALLER)])
    took = microseconds(lambda: service_permissions(policy, index, "client:c", now=0))
    print(f"  {took:8.2f} us  the service permissions of a caller")
    answer = decide_lines(policy, 0)
    line = '{"subject": "user:7", "permission": "orders:read", "resource": "orders/eu-1", "tenant": "acme"}'
    print(f"  {microseconds(lambda: json.dumps(answer(json.loads(line)))):8.2f} us  a JSON line")
    print("worst conditions, to stay under 1,000 us")
    conditions()


if __name__ == "__main__":
    main()
