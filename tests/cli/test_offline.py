"""The commands that need no server: JSON lines in, JSON lines out."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from authsvc.cli.lines import MAX_LINE
from authsvc.core.jose import Algorithm, PrivateKey
from tests.support.command_line import CommandLine
from tests.support.forge import forge
from tests.support.scale import scale

KEY = PrivateKey.generate(Algorithm.ES256)
ISSUER, AUDIENCE = "https://id.example", "orders"


def jwks(folder: Path, *keys: PrivateKey) -> Path:
    path = folder / "jwks.json"
    path.write_text(json.dumps({"keys": [key.public_jwk() for key in keys or (KEY,)]}))
    return path


def token(**changes: object) -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "x", "exp": int(time.time()) + 600, **changes}
    return forge({"alg": "ES256", "kid": KEY.kid, "typ": "at+jwt"}, claims, KEY)


def test_a_token_a_line_is_answered_a_line_in_order(nobody: CommandLine, tmp_path: Path) -> None:
    lines = [token(), token(exp=1), token(iss="https://evil.example"), token(aud="other"), "no token", token()]
    expected = ["", "token_expired", "token_issuer_unknown", "token_audience_mismatch", "token_malformed", ""]
    words = ["token", "verify", "--jwks", str(jwks(tmp_path)), "--issuer", ISSUER, "--audience", AUDIENCE]
    words += ["--typ", "at+jwt", "--algorithm", "ES256"]
    answers = nobody.json_lines(*words, given="\n".join(lines))
    assert answers == [{"valid": not reason, "reason": reason} for reason in expected]


def test_what_is_not_given_is_not_checked(nobody: CommandLine, tmp_path: Path) -> None:
    words = ("token", "verify", "--jwks", jwks(tmp_path))
    lines = "\n".join([token(iss="https://evil.example"), token(aud="other"), token(exp=1)])
    assert [answer["valid"] for answer in nobody.json_lines(*words, given=lines)] == [True, True, False]


def test_one_token_is_an_argument_a_file_or_standard_input(nobody: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(token() + "\n")
    words = ("token", "verify", "--jwks", jwks(tmp_path))
    for told in (nobody(*words, token()), nobody(*words, f"@{path}"), nobody(*words, "-", given=token() + "\n")):
        assert (told.code, told.lines[0].split()) == (0, ["valid", "yes"])
    told = nobody(*words, token(exp=1))
    assert (told.code, told.lines[1].split()) == (1, ["reason", "token_expired"])


def test_a_token_of_another_key_does_not_verify(nobody: CommandLine, tmp_path: Path) -> None:
    other = jwks(tmp_path, PrivateKey.generate(Algorithm.ES256))
    answers = nobody.json_lines("token", "verify", "--jwks", other, given=token())
    assert answers == [{"valid": False, "reason": "token_key_unknown"}]


def test_decode_shows_everything_and_says_that_nothing_is_verified(nobody: CommandLine) -> None:
    forged = forge({"alg": "ES256", "kid": "x"}, {"sub": "anybody"}, lambda _: b"no signature")
    told = nobody("token", "decode", forged)
    assert told.code == 0
    assert "NOT VERIFIED" in told.err
    shown = nobody.json("token", "decode", forged)
    assert shown == {"verified": False, "header": {"alg": "ES256", "kid": "x"}, "claims": {"sub": "anybody"}}
    assert nobody("token", "decode", "no token").code == 1


def test_questions_are_decided_by_the_policy_file(nobody: CommandLine, policy_file: Path) -> None:
    lines = [
        {"subject": "user:ann", "permission": "orders:read"},
        {"subject": "user:ann", "permission": "orders:write"},
        {"subject": "user:eve", "permission": "orders:write", "tenant": "acme", "context": {"mfa": True}},
        {"subject": "user:eve", "permission": "orders:refund", "tenant": "acme", "context": {"mfa": True}},
        {"subject": "user:ann", "permission": "orders:fly"},
        {"permissions": "orders:read"},
    ]
    answers = nobody.json_lines(
        "policy", "decide", "--policy", policy_file, given="\n".join(json.dumps(line) for line in lines)
    )
    assert [(answer["decision"], answer["reason"]) for answer in answers] == [
        ("allow", "allowed"),
        ("deny", "no_binding"),
        ("allow", "allowed"),
        ("deny", "denied_by_role"),
        ("deny", "permission_undeclared"),
        ("deny", "question_invalid"),
    ]
    assert answers[0]["role"] == "viewer"


def call(at: float, subject: str = "user:ann") -> dict[str, object]:
    return {"at": at, "domain": "api", "descriptors": [{"entries": [{"key": "subject", "value": subject}]}]}


def test_limits_are_simulated_and_drawn(nobody: CommandLine, policy_file: Path, tmp_path: Path) -> None:
    svg = tmp_path / "picture.svg"
    given = "\n".join(json.dumps(call(at)) for at in (0, 0, 0.5, 1800.5))
    answers = nobody.json_lines("limits", "simulate", "--policy", policy_file, "--svg", svg, given=given)
    assert [answer["allowed"] for answer in answers] == [True, True, False, True]
    assert answers[2]["results"][0]["retry_after"] == 1799.5
    assert ET.fromstring(svg.read_text()).tag.endswith("svg")


@pytest.mark.parametrize("kind", ["policy", "limits"])
def test_a_line_that_cannot_be_read_is_answered_and_the_rest_goes_on(
    nobody: CommandLine, policy_file: Path, kind: str
) -> None:
    good = {"subject": "user:ann", "permission": "orders:read"} if kind == "policy" else call(1)
    given = b"\n".join([json.dumps(good).encode(), b"{", b"", b"\xff\xfe", json.dumps(good).encode()])
    verb = "decide" if kind == "policy" else "simulate"
    words = (kind, verb, "--policy", policy_file, "--output", "json")
    answers = nobody.json_lines(*words, given=given, code=1)
    assert [answer.get("line") for answer in answers] == [None, 2, 4, None]
    assert answers[1]["error"] == "is not a JSON object in UTF-8"


@pytest.mark.parametrize("kind", ["policy", "limits"])
@pytest.mark.parametrize("hostile", ["[" * 100_000, '{"a":' * 100_000, r'{"\ud800": 1}', r'{"subject": "\udfff"}'])
def test_a_hostile_line_takes_no_answer_from_its_neighbours(
    nobody: CommandLine, policy_file: Path, kind: str, hostile: str
) -> None:
    question = json.dumps({"subject": "user:ann", "permission": "orders:read"})
    verb, good = ("decide", question) if kind == "policy" else ("simulate", json.dumps(call(1)))
    told = nobody(kind, verb, "--policy", policy_file, "--stdin", given="\n".join([good, hostile] * 2))
    first, second, third, fourth = map(json.loads, told.lines)
    assert first.get("decision", first.get("allowed")) in {"allow", True}
    assert third.get("decision", third.get("allowed")) in {"allow", True}
    assert "error" in second or second["decision"] == "deny"
    assert "error" in fourth or fourth["decision"] == "deny"


def test_a_line_without_end_is_answered_once(nobody: CommandLine, policy_file: Path) -> None:
    question = json.dumps({"subject": "user:ann", "permission": "orders:read"}).encode()
    longest = question.ljust(MAX_LINE)
    given = b"\n".join([question, longest, longest + b" ", question, b"x" * 64 * MAX_LINE])
    answers = nobody.json_lines("policy", "decide", "--policy", policy_file, given=given, code=1)
    assert [answer.get("decision") for answer in answers] == ["allow", "allow", None, "allow", None]
    assert [answer.get("line") for answer in answers] == [None, None, 3, None, 5]
    assert answers[2]["error"] == f"is longer than {MAX_LINE} bytes"


def test_a_call_that_is_at_fault_is_named_by_its_field(nobody: CommandLine, policy_file: Path) -> None:
    wrong = json.dumps({"at": 1, "domain": "api", "descriptors": [{"entries": [{"value": "x"}]}]})
    told = nobody("limits", "simulate", "--policy", policy_file, "--stdin", given=wrong)
    assert told.code == 1
    assert json.loads(told.out)["error"].startswith("descriptors[0].entries[0].key: ")
    assert told.faults == ["authsvc: 1 of 1 lines could not be read"]


def test_thousands_of_lines_are_each_answered_once(nobody: CommandLine, policy_file: Path) -> None:
    count = scale(100_000)
    line = '{"subject": "user:ann", "permission": "orders:read"}\n'
    answers = nobody.json_lines("policy", "decide", "--policy", policy_file, given=line * count)
    assert len(answers) == count
    assert {answer["reason"] for answer in answers} == {"allowed"}


def test_a_line_is_answered_before_the_next_one_is_written(policy_file: Path) -> None:
    command = [sys.executable, "-m", "authsvc.cli", "policy", "decide", "--policy", str(policy_file), "--stdin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for permission, reason in (("orders:read", "allowed"), ("orders:write", "no_binding")):
            process.stdin.write(json.dumps({"subject": "user:ann", "permission": permission}) + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["reason"] == reason
        process.stdin.close()
        assert process.wait(10) == 0


def test_lint_counts_what_is_right_and_names_every_fault(nobody: CommandLine, policy_file: Path) -> None:
    told = nobody.json("policy", "lint", policy_file)
    assert told["valid"] is True
    assert (told["permissions"], told["roles"], told["tests_passed"]) == (3, 2, 1)
    broken = policy_file.read_text().replace("role: viewer", "role: nobody").replace("expect: allow", "expect: perhaps")
    policy_file.write_text(broken)
    told_wrong = nobody("policy", "lint", policy_file)
    assert told_wrong.code == 1
    assert [line.partition(": ")[2].partition(":")[0] for line in told_wrong.faults] == [
        "tests[0].expect",
        "bindings[0].role",
    ]


def test_a_file_that_is_no_policy_at_all_is_named(nobody: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("a: b: c")
    for words in (("policy", "lint", path), ("policy", "decide", "--policy", path, "--stdin")):
        told = nobody(*words)
        assert (told.code, len(told.faults)) == (1, 1)
        assert told.faults[0].startswith(f"authsvc: {path}: is not YAML: ")


def test_a_policy_whose_own_test_fails_is_not_right(nobody: CommandLine, policy_file: Path) -> None:
    policy_file.write_text(policy_file.read_text().replace("expect: allow", "expect: deny"))
    assert nobody("policy", "lint", policy_file).faults == ["authsvc: tests[0]: expected deny, got allowed"]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (
            ["policy", "decide", "--policy", "POLICY"],
            "give --stdin: questions are read from standard input, one a line",
        ),
        (["limits", "simulate", "--policy", "POLICY"], "give --stdin: calls are read from standard input, one a line"),
        (["check", "user:ann", "orders:read", "--context", "[" * 100_000], "--context: is not a JSON object"),
        (["policy", "lint", "/nowhere"], "cannot read /nowhere: No such file or directory"),
        (["token", "verify", "--stdin"], "--stdin, --issuer, --typ, --algorithm and --leeway go with --jwks"),
        (["token", "verify", "--jwks", "/nowhere", "-"], "--jwks: cannot read /nowhere: No such file or directory"),
        (["token", "verify", "--jwks", "POLICY", "x"], "the JWKS is not a JSON object"),
        (["token", "verify", "--jwks", "POLICY", "--algorithm", "none", "x"], "--algorithm: `none` is not one of"),
        (["token", "decode", ""], "TOKEN: is required"),
        (["token", "issue", "billing"], "--secret-file: is required with CLIENT_ID; `-` reads standard input"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    nobody: CommandLine, policy_file: Path, words: list[str], fault: str
) -> None:
    told = nobody(*(policy_file if word == "POLICY" else word for word in words))
    assert (told.code, len(told.faults)) == (2, 1), told
    assert told.faults[0].startswith(f"authsvc: {fault}")
