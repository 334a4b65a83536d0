"""docs/standards.md tells the truth about which test proves which line."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_standards.py"


@pytest.fixture(scope="module")
def standards() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_standards", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_in_step_and_every_line_owed_has_a_test() -> None:
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_marks_are_found_wherever_pytest_takes_them(standards: ModuleType) -> None:
    tree = ast.parse(
        "import pytest\n"
        "pytestmark = pytest.mark.standard('J1')\n"
        "@pytest.mark.standard('J2', 'J3')\n"
        "class TestA:\n"
        "    @pytest.mark.standard('J4')\n"
        "    async def test_b(self): ...\n"
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.standard('J5'))])\n"
        "def test_c(x): ...\n"
    )
    assert sorted(standards.marked(tree, "t.py")) == [
        ("J1", "t.py"),
        ("J2", "t.py::TestA"),
        ("J3", "t.py::TestA"),
        ("J4", "t.py::TestA::test_b"),
        ("J5", "t.py::test_c"),
    ]


def test_a_gap_a_stale_table_and_an_unknown_line_are_each_named(standards: ModuleType) -> None:
    document = "".join(f"- **{line}** law\n" for line in (*standards.OWED, "Z9"))
    tests = {line: [f"t.py::{line}"] for line in standards.OWED}
    fresh = standards.rewritten(document, tests)
    assert standards.faults(fresh, tests) == []
    assert standards.rewritten(fresh, tests) == fresh
    assert "Z9** law\n  - not served yet" in fresh

    missing = {line: found for line, found in tests.items() if line != "J1"}
    assert "J1 is owed and has no test" in standards.faults(standards.rewritten(document, missing), missing)
    assert any("stale" in fault for fault in standards.faults(fresh, {**tests, "J1": ["t.py::other"]}))
    unknown = {**tests, "Q1": ["t.py::q"]}
    assert standards.faults(standards.rewritten(document, unknown), unknown) == [
        "Q1 is named by t.py::q and not in the document"
    ]
