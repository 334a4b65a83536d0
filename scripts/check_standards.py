"""Keep docs/standards.md in step with the tests: which test proves which line.

The document holds every line as `- **J1** text`; below each, this script writes the tests whose marker
`@pytest.mark.standard("J1")` names it. They are found by reading the tests' syntax, so nothing is imported. It fails
when the document is stale, when a marker names a line that does not exist, and when a line that is owed has no test.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "standards.md"
TEST_FOLDERS = ("tests", "clients/python/tests")

OWED = (
    *(f"J{n}" for n in range(1, 22)),
    *(f"A{n}" for n in range(1, 7)),
    *("K1", "K2", "K3", "K4", "K6", "K9", "K12"),
    *("P1", "P2", "P3", "P4", "P5", "P6", "P8", "P9", "P12", "P13"),
    *("E1", "E2", "E3", "E4", "E5", "E6", "E7", "E10"),
    *("R1", "R2", "R3", "R4", "R5", "R6", "R7", "R9", "R10", "R12"),
    *("S9", "S10", "U1", "U3", "U4", "U5", "U6", "U11", "U12", "U13", "U14"),
)
"""The lines that the code of today must prove. A line joins this list with the release that serves it."""

_LINE = re.compile(r"- \*\*([A-Z][0-9]+)\*\* ")
_PROOF = "  - proved by "
_OPEN = "  - not served yet"
_MISSING = "  - **no test yet**"


def marked(tree: ast.AST, path: str, scope: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Pairs of line id and test, as `path::Class::function`; a module's mark gives the path alone."""
    for node in ast.iter_child_nodes(tree):
        inner = scope
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inner = (*scope, node.name)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "standard":
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value, "::".join((path, *scope))
        yield from marked(node, path, inner)


def proofs() -> dict[str, list[str]]:
    """The tests of each line."""
    found: dict[str, set[str]] = defaultdict(set)
    for folder in TEST_FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            name = str(file.relative_to(ROOT))
            for line, test in marked(ast.parse(file.read_text()), name):
                found[line].add(test)
    return {line: sorted(tests) for line, tests in found.items()}


def rewritten(document: str, tests: dict[str, list[str]]) -> str:
    """The document with the tests of today below each line."""
    lines: list[str] = []
    for line in document.splitlines():
        if line.startswith((_PROOF, _OPEN, _MISSING)):
            continue
        lines.append(line)
        if match := _LINE.match(line):
            proved = tests.get(match[1], [])
            if proved:
                lines.append(_PROOF + ", ".join(f"`{test}`" for test in proved))
            else:
                lines.append(_MISSING if match[1] in OWED else _OPEN)
    return "\n".join(lines) + "\n"


def faults(document: str, tests: dict[str, list[str]]) -> list[str]:
    """Everything that is out of step."""
    known = set(re.findall(r"^- \*\*([A-Z][0-9]+)\*\* ", document, re.MULTILINE))
    found = [f"{line} is owed and has no test" for line in OWED if line not in tests]
    found += [f"{line} is owed and not in the document" for line in OWED if line not in known]
    found += [f"{line} is named by {tests[line][0]} and not in the document" for line in sorted(tests.keys() - known)]
    if rewritten(document, tests) != document:
        found.append("docs/standards.md is stale: run `make docs` and commit")
    return found


def main() -> int:
    """Check, or write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="bring the document into step before checking")
    write = parser.parse_args().write
    document, tests = DOCUMENT.read_text(), proofs()
    if write:
        document = rewritten(document, tests)
        DOCUMENT.write_text(document)
    found = faults(document, tests)
    for fault in found:
        print(fault)
    if not found:
        print(f"standards: {len(OWED)} lines are owed, all have tests")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
