"""A naive evaluator of checks, written from the text of CONTRACT alone.

Works on the policy as plain data, has no tables and no index, and shares no code with `authsvc.core`. It is the oracle
of STANDARDS P8. Random policies and questions are made here too, from small alphabets, so that things meet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

Policy = dict[str, Any]
Ask = dict[str, Any]


class Fails(Exception):
    """The condition fails to evaluate."""


def _mfa(ask: Ask) -> bool:
    if "mfa" not in ask["context"]:
        raise Fails
    value = ask["context"]["mfa"]
    return isinstance(value, bool) and value


def _low(ask: Ask) -> bool:
    value = ask["context"].get("level")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Fails
    return value < 3


def _not_bool(ask: Ask) -> bool:
    value = ask["context"].get("mfa")
    if not isinstance(value, bool):
        raise Fails
    return value


CONDITIONS: dict[str, Callable[[Ask], bool]] = {
    "context.mfa == true": _mfa,
    "context.level < 3": _low,
    "context.mfa": _not_bool,
    "tenant == 'acme'": lambda ask: ask.get("tenant", "") == "acme",
    "'a' in groups": lambda ask: "group:a" in ask["all_groups"],
    "size(scope) > 0": lambda ask: bool(ask.get("scope")),
    "resource.startsWith('x/')": lambda ask: ask.get("resource", "").startswith("x/"),
}


def decide(policy: Policy, ask: Ask, now: int) -> tuple[bool, str]:
    """Whether the question is allowed, and why, walking everything."""
    texts = [ask["subject"], ask["permission"], ask.get("resource", ""), ask.get("tenant", "")]
    texts += [*ask.get("groups", []), *(ask.get("scope") or [])]
    if any("*" in text or any(ord(c) < 32 or ord(c) == 127 for c in text) for text in texts):
        return False, "question_invalid"
    if ask["permission"] not in policy["permissions"]:
        return False, "permission_undeclared"
    if "token_tenant" in ask and ask["token_tenant"] != ask.get("tenant", ""):
        return False, "tenant_mismatch"
    if not _in_scope(policy, ask):
        return False, "scope_insufficient"
    groups = _all_groups(policy, ask)
    ask = {"context": {}, **ask, "all_groups": groups}
    allows = denies = False
    for binding in policy["bindings"]:
        if binding["subject"] != ask["subject"] and binding["subject"] not in groups:
            continue
        if not _applies(binding, ask, now):
            continue
        holds = _condition(binding, ask)
        for role in _roles(policy, binding["role"]):
            spec = policy["roles"][role]
            if any(permission(p, ask["permission"]) for p in spec.get("deny", [])) and holds in (True, None):
                denies = True
            if any(permission(p, ask["permission"]) for p in spec.get("allow", [])) and holds is True:
                allows = True
    if denies:
        return False, "denied_by_role"
    return (True, "allowed") if allows else (False, "no_binding")


def _in_scope(policy: Policy, ask: Ask) -> bool:
    scope = ask.get("scope")
    if scope is None:
        return True
    if not scope:
        return not policy["scopes"]
    return any(permission(p, ask["permission"]) for name in scope for p in policy["scopes"].get(name, []))


def _all_groups(policy: Policy, ask: Ask) -> set[str]:
    groups = {"group:" + name for name in ask.get("groups", [])}
    while True:
        more = {
            "group:" + name
            for name, members in policy["groups"].items()
            if any(member == ask["subject"] or member in groups for member in members)
        }
        if more <= groups:
            return groups
        groups |= more


def _roles(policy: Policy, role: str) -> Iterator[str]:
    yield role
    for parent in policy["roles"][role].get("inherits", []):
        yield from _roles(policy, parent)


def _applies(binding: dict[str, Any], ask: Ask, now: int) -> bool:
    if binding.get("tenant") and binding["tenant"] != ask.get("tenant", ""):
        return False
    if binding.get("expires") is not None and now >= binding["expires"]:
        return False
    if not binding.get("resource"):
        return True
    return bool(ask.get("resource")) and resource(binding["resource"], ask["resource"])


def _condition(binding: dict[str, Any], ask: Ask) -> bool | None:
    if not binding.get("condition"):
        return True
    try:
        return CONDITIONS[binding["condition"]](ask)
    except Fails:
        return None


def permission(pattern: str, asked: str) -> bool:
    """A permission pattern, segment by segment."""

    def walk(pattern: list[str], asked: list[str]) -> bool:
        if not pattern or not asked:
            return not pattern and not asked
        if pattern == ["**"]:
            return True
        return pattern[0] in ("*", asked[0]) and walk(pattern[1:], asked[1:])

    return walk(pattern.split(":"), asked.split(":"))


def resource(pattern: str, asked: str) -> bool:
    """A resource pattern, character by character, trying everything."""
    if pattern.startswith("**"):
        return any(resource(pattern[2:], asked[i:]) for i in range(len(asked) + 1))
    if pattern.startswith("*"):
        end = asked.find("/") if "/" in asked else len(asked)
        return any(resource(pattern[1:], asked[i:]) for i in range(end + 1))
    if not pattern or not asked:
        return pattern == asked
    return pattern[0] == asked[0] and resource(pattern[1:], asked[1:])


PERMISSIONS = ["o:r", "o:w", "o:i:r", "p:r", "O:r", "q:x"]
PATTERNS = ["o:r", "o:w", "p:r", "o:*", "o:**", "*:r", "**", "*:*:r", "q:**"]
RESOURCES = ["x/1", "x/12", "x/1/y", "y/1", "x/", "X/1", "x/\u00e9", "x/e\u0301"]
RESOURCE_PATTERNS = ["x/1", "x/*", "x/1*", "x/**", "**", "*/1", "**/y", "x/*/y", "**1*", "x/\u00e9", "y/1"]
SUBJECTS = ["user:ann", "user:bob", "client:ann", "user:Ann"]
GROUPS = ["a", "b", "c", "A"]
TENANTS = ["acme", "Acme", "other"]


def _some(random: Random, choices: list[str], most: int) -> list[str]:
    return [random.choice(choices) for _ in range(random.randint(0, most))]


def random_policy(random: Random) -> Policy:
    """A policy without a fault; roles and groups point only backwards, so that they have no cycle."""
    roles: dict[str, Any] = {}
    for index in range(random.randint(1, 5)):
        roles[f"r{index}"] = {
            "inherits": _some(random, [*roles], 2) if roles else [],
            "allow": _some(random, PATTERNS[:-1], 2),
            "deny": _some(random, PATTERNS, 1) if random.random() < 0.3 else [],
        }
    groups: dict[str, list[str]] = {}
    for name in random.sample(GROUPS, random.randint(0, len(GROUPS))):
        groups[name] = _some(random, [*SUBJECTS, *("group:" + g for g in groups), "group:elsewhere"], 3)
    holders = [*SUBJECTS, *("group:" + g for g in GROUPS), "group:elsewhere"]
    bindings = []
    for _ in range(random.randint(0, 25)):
        binding: dict[str, Any] = {"subject": random.choice(holders), "role": random.choice([*roles])}
        if random.random() < 0.4:
            binding["tenant"] = random.choice(TENANTS)
        if random.random() < 0.5:
            binding["resource"] = random.choice(RESOURCE_PATTERNS)
        if random.random() < 0.3:
            binding["expires"] = random.choice([9, 10, 11])
        if random.random() < 0.3:
            binding["condition"] = random.choice([*CONDITIONS])
        bindings.append(binding)
    scopes = {s: _some(random, PATTERNS[:-1], 2) for s in random.sample(["s", "t", "S"], random.choice([0, 2, 3]))}
    declared: dict[str, dict[str, str]] = {p: {} for p in ["o:r", "o:w", "p:r", *_some(random, PERMISSIONS, 4)]}
    return {"permissions": declared, "roles": roles, "groups": groups, "bindings": bindings, "scopes": scopes}


def random_ask(random: Random) -> Ask:
    """A question over the same names."""
    ask: Ask = {"subject": random.choice(SUBJECTS), "permission": random.choice(PERMISSIONS)}
    if random.random() < 0.02:
        ask["permission"] = random.choice(["o:*", "**", "o:r\n"])
    if random.random() < 0.7:
        ask["resource"] = random.choice([*RESOURCES, *RESOURCES, "x/*"])
    if random.random() < 0.6:
        ask["tenant"] = random.choice(TENANTS)
    if random.random() < 0.3:
        ask["token_tenant"] = ask.get("tenant", "") if random.random() < 0.8 else random.choice(TENANTS)
    if random.random() < 0.4:
        ask["groups"] = _some(random, [*GROUPS, "elsewhere", "none"], 2)
    if random.random() < 0.4:
        ask["scope"] = _some(random, ["s", "t", "S", "u"], 2)
    ask["context"] = random.choice(
        [{}, {"mfa": True}, {"mfa": False, "level": 2}, {"mfa": "true", "level": 3.5}, {"level": "2"}, {"mfa": 1}]
    )
    return ask


def as_yaml(policy: Policy) -> str:
    """The policy as a file."""
    bindings = []
    for binding in policy["bindings"]:
        stated = {name: value for name, value in binding.items() if name != "expires"}
        if "expires" in binding:
            stated["expire_time"] = f"1970-01-01T00:00:{binding['expires']:02d}Z"
        bindings.append(stated)
    return json.dumps({"version": 1, **policy, "bindings": bindings})
