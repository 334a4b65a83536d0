"""docs/semantics.md is run: every table and every refused policy of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from authsvc.core.bindings import BindingIndex
from authsvc.core.errors import InvalidRequest, Reason
from authsvc.core.patterns import permission_matches, resource_matcher
from authsvc.core.policy import CompiledPolicy, Question, compile_policy, decide
from authsvc.core.policy_document import parse
from authsvc.core.routes import RequestLine, RouteRefused, clean_path, match

DOCUMENT = Path(__file__).parents[2] / "docs" / "semantics.md"
NOW = 1_767_225_600  # 2026-01-01T00:00:00Z
_FAULT = re.compile(r"- `([^`]+)`(?:: (.+))?\Z")


@dataclass
class Row:
    section: str
    line: int
    policy: str
    cells: dict[str, str] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """A cell's text: escapes as JSON writes them, `""` is empty."""
        cell = self.cells.get(name, "")
        return "" if cell == '""' else str(json.loads(f'"{cell}"'))

    def json(self, name: str, default: Any) -> Any:
        return json.loads(self.cells[name]) if self.cells.get(name) else default


@dataclass
class Refused:
    section: str
    policy: str
    faults: list[tuple[str, str]] = field(default_factory=list)


def _read() -> tuple[list[Row], list[Refused]]:
    rows: list[Row] = []
    refused: list[Refused] = []
    section, policy = "", ""
    head: list[str] = []
    lines = iter(enumerate(DOCUMENT.read_text().splitlines(), 1))
    for number, line in lines:
        if line.startswith("## "):
            section, head = line[3:], []
        elif line.startswith("```yaml "):
            block = "\n".join(_block(lines))
            if line.endswith("refused"):
                refused.append(Refused(section, block))
            else:
                policy = block
        elif line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not head:
                head = cells
            elif set(line) - set("|-"):
                rows.append(Row(section, number, policy, dict(zip(head, cells, strict=True))))
        elif fault := _FAULT.match(line):
            refused[-1].faults.append((fault[1], fault[2] or ""))
        else:
            head = []
    return rows, refused


def _block(lines: Iterator[tuple[int, str]]) -> Iterator[str]:
    for _, line in lines:
        if line == "```":
            return
        yield line


ROWS, REFUSED = _read()
_COMPILED: dict[str, CompiledPolicy] = {}


def compiled(text: str) -> CompiledPolicy:
    if text not in _COMPILED:
        _COMPILED[text] = compile_policy(parse(text))
    return _COMPILED[text]


def _of(column: str) -> list[object]:
    found = [row for row in ROWS if column in row.cells]
    assert found
    return [pytest.param(row, id=f"{row.section}-line-{row.line}".replace(" ", "-")) for row in found]


@pytest.mark.standard("P1", "P2", "P4", "P5", "P12")
@pytest.mark.parametrize("row", _of("decision"))
def test_each_question_is_answered_as_the_document_says(row: Row) -> None:
    policy = compiled(row.policy)
    scope = row.json("scope", None)
    token = {"tenant": row.text("token tenant")} if row.cells.get("token tenant") else None
    question = Question(
        subject=row.text("subject"),
        permission=row.text("permission"),
        resource=row.text("resource"),
        tenant=row.text("tenant"),
        groups=tuple(row.json("groups", ())),
        scope=None if scope is None else frozenset(scope),
        context=row.json("context", {}),
        token=token,
    )
    decision = decide(policy, BindingIndex.from_bindings(policy.bindings), question, now=NOW)
    assert (decision.reason.text, decision.allowed) == (row.cells["reason"], row.cells["decision"] == "allow")


@pytest.mark.standard("P4")
@pytest.mark.parametrize("row", _of("permission pattern"))
def test_permission_patterns_match_as_the_document_says(row: Row) -> None:
    matches = permission_matches(row.text("permission pattern"), row.text("permission"))
    assert matches == (row.cells["matches"] == "yes")


@pytest.mark.standard("P4")
@pytest.mark.parametrize("row", _of("resource pattern"))
def test_resource_patterns_match_as_the_document_says(row: Row) -> None:
    assert resource_matcher(row.text("resource pattern"))(row.text("resource")) == (row.cells["matches"] == "yes")


@pytest.mark.standard("E5")
@pytest.mark.parametrize("row", _of("refused"))
def test_paths_are_refused_as_the_document_says(row: Row) -> None:
    try:
        clean_path(row.text("path"))
    except RouteRefused:
        refused = True
    else:
        refused = False
    assert refused == (row.cells["refused"] == "yes")


@pytest.mark.standard("E6")
@pytest.mark.parametrize("row", _of("route"))
def test_the_first_matching_route_decides_as_the_document_says(row: Row) -> None:
    line = RequestLine(row.text("method"), row.text("path"), row.text("host"), row.text("destination"))
    found = match(compiled(row.policy).routes, line)
    assert (found.route.name if found else "") == row.text("route")
    assert (found.resource if found else "") == row.text("resource")


@pytest.mark.standard("P2", "P9", "P12", "P13")
@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: refused.section.replace(" ", "-"))
def test_a_refused_policy_names_every_fault_at_once(refused: Refused) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(refused.policy)
    assert caught.value.reason is Reason.POLICY_INVALID
    found = {v.field: v.description for v in caught.value.violations}
    assert sorted(found) == sorted(path for path, _ in refused.faults)
    for path, text in refused.faults:
        assert text in found[path]


def test_every_policy_of_the_document_is_used() -> None:
    assert len(ROWS) > 150
    assert len(REFUSED) >= 6
    assert all(refused.faults for refused in REFUSED)
