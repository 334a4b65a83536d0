"""What the documents say of the program is what the program is: messages, commands, values, metrics, links."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from authsvc.cli.main import build
from authsvc.config import Config

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CHART = ROOT / "helm" / "authsvc"
GUIDES = ("quickstart-kubernetes", "deploy", "mesh", "upgrade", "troubleshooting")
HELM_ITSELF = "Additional property ... is not allowed"
VARIES = "\0"

guides = pytest.mark.parametrize("guide", GUIDES)


def text_of(guide: str) -> str:
    """A guide."""
    return (DOCS / f"{guide}.md").read_text(encoding="utf-8")


def settings(kind: Any = Config, prefix: str = "") -> Iterator[str]:
    """Names of all settings, `a.b`, sections included."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        yield f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            yield from settings(hints[field.name], f"{prefix}{field.name}.")


@cache
def said() -> tuple[str, ...]:
    """Every text in the program and the chart, with a mark where it differs from time to time."""
    found: list[str] = []
    for file in sorted((ROOT / "authsvc").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        inner = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else VARIES for part in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
                found.append(node.value)
    reasons = (ROOT / "protos" / "authsvc" / "v1" / "error_reason.proto").read_text()
    found += [name.lower() for name in re.findall(r"REASON_([A-Z_]+) =", reasons)]
    for file in sorted((CHART / "templates").glob("*.tpl")):
        found += [part.replace("%s", VARIES) for part in re.findall(r'"([^"]+)"', file.read_text())]
    return tuple(found)


def exists(message: str) -> bool:
    """Whether the program can print it: as one text, or as two with a colon between, the first perhaps a setting."""
    before, colon, after = message.rpartition(": ")
    if colon and (before in {*settings(), "authsvc.toml", "..."} or exists(before)) and exists(after):
        return True
    setting, colon, rest = message.partition(": ")
    if colon and setting in set(settings()) and exists(rest):
        return True
    # What differs on the page covers what differs in the code, and more.
    pattern = re.compile(".*".join(map(re.escape, message.split("..."))).replace("`", "."), re.DOTALL)
    return any(pattern.search(text) for text in said())


def messages() -> list[str]:
    """First cells of the tables of troubleshooting.md."""
    rows = re.findall(r"^\| (.+?) \| ", text_of("troubleshooting"), re.MULTILINE)
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row)]


@pytest.mark.parametrize("message", messages())
def test_every_message_that_is_explained_is_still_printed(message: str) -> None:
    assert message == HELM_ITSELF or exists(message)


def test_a_message_that_nobody_prints_would_be_found() -> None:
    assert not exists("the record is on holiday")
    assert not exists("keys.kek: is on holiday")
    assert not exists("keys.nothing: is required off loopback")


def commands(guide: str) -> list[list[str]]:
    """The words after `authsvc` in every line that a reader is told to type."""
    typed = re.findall(r"(?:^ {4}(?:.* -- )?|`)authsvc ([a-z][^`\n]*)", text_of(guide), re.MULTILINE)
    return [words for line in typed if (words := shlex.split(re.sub(r"\s*[|<#].*", "", line)))]


@guides
def test_every_command_that_readers_are_told_to_type_exists_with_its_options(guide: str) -> None:
    known: Any = get_command(build())
    for words in commands(guide):
        command, rest = known, list(words)
        while getattr(command, "commands", None) and rest and not rest[0].startswith("-"):
            assert rest[0] in command.commands, words
            command = command.commands[rest.pop(0)]
        options = {name for param in command.params for name in getattr(param, "opts", ())}
        for word in rest:
            name = word.partition("=")[0]
            if name.startswith("--"):
                assert name in options or name[2:].replace("-", "_") in set(settings()), words


@guides
def test_every_value_of_the_chart_that_is_named_exists(guide: str) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    text = text_of(guide)
    named = set(re.findall(r"`((?:" + "|".join(values) + r")(?:\.[A-Za-z]+)+)`", text))
    named |= {name for name, _ in re.findall(r"--set ([A-Za-z.]+)(=)", text)}
    for name in named - set(settings()):
        if name.startswith("config."):
            assert name.removeprefix("config.") in set(settings()), name
            continue
        node: Any = values
        for part in name.split("."):
            assert part in node, name
            node = node[part]


@guides
def test_every_metric_and_every_setting_that_is_named_exists(guide: str) -> None:
    metrics = set(re.findall(r"`(authsvc_\w+)`", (DOCS / "reference" / "metrics.md").read_text()))
    assert set(re.findall(r"`(authsvc_\w+)\b", text_of(guide))) <= metrics
    sections = {name for name in settings() if "." not in name}
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for name in re.findall(r"`((?:" + "|".join(sections) + r")(?:\.[a-z_]+)+)`", text_of(guide)):
        first, _, rest = name.partition(".")
        of_chart = first in values and rest.partition(".")[0] in values[first]
        assert name in set(settings()) or of_chart or exists(name), name


@guides
def test_every_link_leads_somewhere(guide: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", text_of(guide)):
        path, _, anchor = target.partition("#")
        file = (DOCS / path).resolve() if path else DOCS / f"{guide}.md"
        assert file.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-") for head in heads}, target


@guides
def test_every_file_that_is_named_exists(guide: str) -> None:
    for path in re.findall(r"((?:helm|examples|tests|authsvc)/[\w/.-]+\.(?:yaml|py|md))", text_of(guide)):
        assert (ROOT / path).exists(), path
