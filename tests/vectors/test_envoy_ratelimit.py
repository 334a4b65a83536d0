"""Configurations and cases of envoyproxy/ratelimit, as far as the policy's rules say the same.

There the most specific entry alone applies, here every rule that a descriptor meets: a case in which two of its entries
could apply, or one without a limit, says something that our rules do not say, and is left out. So are wildcards within
a value, shadow mode and `unlimited`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from authsvc.api.envoy_messages import RateLimitRequest
from tests.api.rls_world import Rls

UNITS = {"SECOND": (1, "1s"), "MINUTE": (2, "1m"), "HOUR": (3, "1h"), "DAY": (4, "1d")}
PLAIN = {"unit", "requests_per_unit", "name"}
Keys = tuple[tuple[str, str | None], ...]
Tree = Mapping[str, Any]


def entries_of(tree: Tree, above: Keys = ()) -> Iterator[tuple[Keys, Tree | None]]:
    """Every entry of a configuration with its path, and its limit."""
    for entry in tree.get("descriptors") or ():
        path = (*above, (entry["key"], entry.get("value")))
        yield path, entry.get("rate_limit")
        yield from entries_of(entry, path)


def meets(path: Keys, entries: Sequence[tuple[str, str]]) -> bool:
    """Whether our rule of that path is met."""
    return len(path) == len(entries) and all(
        key == known and value in {None, said} for (known, value), (key, said) in zip(path, entries, strict=True)
    )


def same_meaning(files: Sequence[Tree], entries: Sequence[tuple[str, str]]) -> bool:
    """Whether the rules that we make of the files say what the files say about these entries."""
    paths = [(path, limit) for tree in files for path, limit in entries_of(tree)]
    if not entries or any(value and "*" in value for path, _ in paths for _, value in path):
        return False
    met = [limit for path, limit in paths if meets(path, entries)]
    return len(met) <= 1 and all(limit and limit.keys() <= PLAIN for limit in met)


def policy_of(files: Sequence[Tree]) -> str:
    """The rules, each entry with a limit one."""
    limits: dict[str, Tree] = {}
    for tree in files:
        for path, limit in entries_of(tree):
            if limit and limit.get("unit"):
                _, window = UNITS[limit["unit"].upper()]
                limits[limit.get("name") or f"r{len(limits)}"] = {
                    "domain": tree["domain"],
                    "match": {key: "*" if value is None else value for key, value in path},
                    "rate": f"{limit['requests_per_unit']}/{window}",
                }
    return yaml.safe_dump({"version": 1, "limits": limits})


def cases(folder: Path) -> Iterator[tuple[Tree, Sequence[Tree], Sequence[tuple[str, str]]]]:
    for case in json.loads((folder / "cases.json").read_text())["descriptor_match"]:
        names = [case["config"]] if isinstance(case["config"], str) else case["config"]
        files = [yaml.safe_load((folder / "config" / Path(name).name).read_text()) for name in names]
        entries = [(entry["key"], entry["value"]) for entry in case["entries"]]
        if same_meaning(files, entries):
            yield case, files, entries


@pytest.mark.standard("R1", "R3")
def test_what_a_descriptor_meets_is_what_the_usual_service_finds(corpora: Path) -> None:
    tried = 0
    for case, files, entries in cases(corpora / "rate-limits"):
        rls = Rls(policy=policy_of(files))
        request = RateLimitRequest()
        descriptor = request.descriptors.add()
        for key, value in entries:
            descriptor.entries.add(key=key, value=value)
        if override := case.get("request_limit_override"):
            descriptor.limit.requests_per_unit = override["requests_per_unit"]
            descriptor.limit.unit = UNITS[override["unit"]][0]
        (status,) = rls.ask(descriptor, domain=case["domain"]).statuses
        expected = case["expect_limit"]
        assert status.HasField("current_limit") == (expected is not None), case
        if expected is not None:
            told = (status.current_limit.requests_per_unit, status.current_limit.unit)
            assert told == (expected["requests_per_unit"], UNITS[expected["unit"]][0]), case
            assert (
                status.current_limit.name.removeprefix("r").isdigit()
                or override
                or (status.current_limit.name == expected["name"])
            )
        tried += 1
    assert tried >= 12
