"""Conventions of the repository that a reader relies on: each has a program that checks it."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.internal import api_implementation

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "authsvc" / "v1"
MAX_LINES = 400
CLOCKS_AND_WORLD = {
    "asyncio",
    "logging",
    "os",
    "random",
    "secrets",
    "socket",
    "subprocess",
    "threading",
    "time",
    "uuid",
}


def python_files(*folders: str) -> list[Path]:
    """Committed and new Python files below the folders, without generated ones."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in found if GENERATED not in path.parents and "__pycache__" not in path.parts)


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def calls(tree: ast.AST) -> Iterator[str]:
    """The dotted names of everything that is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def imported(tree: ast.AST) -> Iterator[str]:
    """The top-level packages of everything that is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_a_module_has_no_need_of_a_table_of_contents() -> None:
    lengths = {
        names(path): len(path.read_text().splitlines()) for path in python_files("authsvc", "clients", "scripts")
    }
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_a_module_opens_with_what_it_owns() -> None:
    silent = [
        names(path)
        for path in python_files("authsvc", "clients/python/authsvc_client", "scripts", "tests/support")
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_the_core_reads_no_clock_no_randomness_and_no_environment() -> None:
    impure = {}
    for path in python_files("authsvc/core"):
        tree = ast.parse(path.read_text())
        asked = CLOCKS_AND_WORLD & set(imported(tree))
        asked |= {
            call for call in calls(tree) if re.fullmatch(r"(datetime\.)?(datetime|date)\.(now|utcnow|today)", call)
        }
        if asked:
            impure[names(path)] = asked
    assert impure == {}


def test_no_test_waits_for_time_to_pass() -> None:
    waiting = ROOT / "tests" / "support" / "waiting.py"
    asleep = [
        names(path)
        for path in python_files("tests", "clients/python")
        if path != waiting and {"time.sleep", "sleep"} & set(calls(ast.parse(path.read_text())))
    ]
    assert asleep == []


def test_no_test_patches_our_own_code() -> None:
    patched = [
        names(path)
        for path in python_files("tests", "clients/python")
        if {"monkeypatch.setattr", "mock.patch", "patch"} & set(calls(ast.parse(path.read_text())))
    ]
    assert patched == []


def test_messages_are_parsed_by_the_bounded_c_parser() -> None:
    """The pure Python one recursed without bound (CVE-2025-4565)."""
    assert api_implementation.Type() == "upb"


def test_make_alone_explains_every_target_a_person_may_ask_for() -> None:
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    explained = dict(re.findall(r"^  make ([a-z-]+) +(\S.*)$", shown, re.MULTILINE))
    wanted = {"run", "test", "check", "campaign", "bench", "lock", "protos", "docs", "format", "clean", "help"}
    assert wanted <= explained.keys()


def project() -> dict[str, object]:
    loaded: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return loaded


def requirement_names(requirements: list[str]) -> set[str]:
    found = {re.split(r"[\[<>=! ]", requirement, maxsplit=1)[0] for requirement in requirements}
    return found - {"authsvc"}


def declared() -> dict[str, set[str]]:
    """Names of direct dependencies: of the base, and of each extra."""
    extras = project()["optional-dependencies"]
    base = project()["dependencies"]
    assert isinstance(extras, dict)
    assert isinstance(base, list)
    return {"Base": requirement_names(base), **{extra: requirement_names(needs) for extra, needs in extras.items()}}


def explained_dependencies() -> dict[str, set[str]]:
    """Names in the first column of each section's table."""
    text = (ROOT / "docs" / "dependencies.md").read_text()
    sections = {}
    for heading, body in re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL):
        name = "Base" if heading.startswith("Base") else heading.removeprefix("Extra ").strip("`")
        rows = re.findall(r"^\| ([^|]+) \|", body, re.MULTILINE)
        sections[name] = {part.strip() for row in rows for part in row.split(",")} - {"package"}
    return sections


def test_every_dependency_has_its_reason() -> None:
    explained = explained_dependencies()
    assert {section: explained[section] for section in declared()} == declared()


@pytest.mark.parametrize(
    ("package", "floor"), [("pyjwt", (2, 13)), ("cryptography", (46, 0, 7)), ("protobuf", (6, 33, 5))]
)
def test_versions_with_known_faults_are_refused(package: str, floor: tuple[int, ...]) -> None:
    base = project()["dependencies"]
    assert isinstance(base, list)
    wanted = ".".join(map(str, floor))
    assert [need for need in base if re.match(rf"{package}>={re.escape(wanted)}(,|$)", need)]


@pytest.mark.parametrize("lock", ["server", "demo", "dev", "semgrep"])
def test_a_lock_fixes_every_package_by_hash_and_names_no_host(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE)
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert [block.splitlines()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_envoys_descriptors_never_come_from_beside_the_service() -> None:
    assert not [path for path in (ROOT / "requirements").glob("*.lock") if "xds-protos" in path.read_text()]
