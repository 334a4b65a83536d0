"""Commands that ask a service: answers, forms, exit codes, and where credentials go."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import grpc
import pytest

from authsvc.storage.secret_files import AdminCredentials
from tests.support.command_line import CommandLine
from tests.support.pki import Authority
from tests.support.ports import free_port
from tests.support.process import Serving, serving


def name(prefix: str) -> str:
    """A client id that no other test of the session has."""
    return f"{prefix}-{secrets.token_hex(4)}"


def test_a_client_is_made_with_its_secret_shown_once(admin: CommandLine) -> None:
    billing = name("billing")
    made = admin.json("clients", "create", billing, "--audience", "orders", "--own-audience", "orders")
    assert made["client"]["roles"] == ["authsvc.caller"]
    assert made["client"]["audience"] == ["orders", "authsvc"]
    assert len(made["client_secret"]) > 40
    listed = {client["client_id"]: client for client in admin.json("clients", "list")["clients"]}
    assert listed[billing]["own_audience"] == ["orders"]
    assert made["client_secret"] not in json.dumps(listed)
    told = admin("clients", "create", billing)
    assert told.code == 1
    assert told.faults[0].startswith("authsvc: client_exists: ")


def test_a_saved_secret_is_not_shown_and_works(admin: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "billing.json"
    made = admin.json("clients", "create", name("billing"), "--audience", "orders", "--save", path)
    assert "client_secret" not in made
    assert path.stat().st_mode & 0o777 == 0o600
    token = admin("token", "issue", "--credentials", path, "--audience", "orders").out.strip()
    assert token.count(".") == 2
    assert admin("keys", "list", "--credentials", path).faults[0].startswith("authsvc: caller_not_permitted: ")


def test_no_secret_is_made_that_the_file_cannot_take(admin: CommandLine, tmp_path: Path) -> None:
    first, second = name("first"), name("second")
    held, note = tmp_path / "held.json", tmp_path / "note"
    note.write_text("not to be lost")
    note.chmod(0o600)
    admin.json("clients", "create", first, "--save", held)
    before = held.read_bytes()
    for path in (held, note, tmp_path / "nowhere" / "x.json", tmp_path):
        told = admin("clients", "create", second, "--save", path)
        assert (told.code, len(told.faults)) == (2, 1), told
        told = admin("clients", "rotate-secret", second, "--save", path)
        assert (told.code, len(told.faults)) == (2, 1), told
    assert (held.read_bytes(), note.read_text()) == (before, "not to be lost")
    assert second not in {client["client_id"] for client in admin.json("clients", "list")["clients"]}
    admin.json("clients", "rotate-secret", first, "--save", held)
    assert held.read_bytes() != before


def test_a_secret_is_rotated_and_read_from_a_file(admin: CommandLine, tmp_path: Path) -> None:
    billing = name("billing")
    admin.json("clients", "create", billing)
    told = admin.json("clients", "rotate-secret", billing, "--overlap", "0s")
    path = tmp_path / "secret"
    path.write_text(told["client_secret"] + "\n")
    assert admin.json("token", "issue", billing, "--secret-file", path)["token_type"] == "Bearer"
    refused = admin("token", "issue", billing, "--secret-file", "-", given="wrong")
    assert (refused.code, refused.faults) == (
        1,
        ["authsvc: client_authentication_failed: the client is not authenticated"],
    )


def test_a_token_is_issued_verified_and_revoked(admin: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "billing.json"
    billing = name("billing")
    admin.json("clients", "create", billing, "--audience", "orders", "--save", path)
    token = admin("token", "issue", "--credentials", path, "--audience", "orders", "--ttl", "5m").out.strip()
    verify = ("token", "verify", "-", "--audience", "orders", "--output", "json")
    valid = json.loads(admin(*verify, given=token).out)
    assert (valid["valid"], valid["reason"], valid["token"]["subject"]) == (True, "", f"client:{billing}")
    assert admin("token", "revoke", "-", given=token).code == 0
    refused = admin(*verify, given=token)
    assert refused.code == 1
    assert json.loads(refused.out)["reason"] == "token_revoked"
    assert token not in refused.err + admin("token", "revoke", "-", given=token).out


def test_a_check_is_answered_with_its_reason_and_the_exit_code(admin: CommandLine) -> None:
    allowed = admin.json("check", "user:ann", "orders:read")
    assert (allowed["decision"], allowed["reason"], allowed["matched_role"]) == ("allow", "allowed", "viewer")
    denied = admin.json("check", "user:ann", "orders:write", code=1)
    assert (denied["decision"], denied["reason"]) == ("deny", "no_binding")
    eve = ("check", "user:eve", "orders:write", "--tenant", "acme", "--context")
    assert admin.json(*eve, '{"mfa": true}')["decision"] == "allow"
    assert admin.json(*eve, '{"mfa": false}', code=1)["decision"] == "deny"
    table = admin("check", "user:ann", "orders:read")
    assert table.lines[:2] == ["decision         allow", "reason           allowed"]


def test_a_limit_is_consumed_until_it_refuses(admin: CommandLine) -> None:
    words = ("limits", "consume", "api", f"subject={name('user:u')}")
    assert admin.json(*words, "--peek")["results"][0]["remaining"] == 2
    assert [admin.json(*words)["allowed"] for _ in range(2)] == [True, True]
    refused = admin.json(*words, code=1)
    assert refused["results"][0]["retry_after"] > 0
    assert refused["results"][0]["decided_by"] == "store"
    (left,) = admin.json("limits", "show", *words[2:])["results"]
    assert (left["rule"], left["remaining"], left["allowed"]) == (refused["results"][0]["rule"], 0, True)
    assert "decided_by" in admin("limits", "show", *words[2:]).lines[0]
    assert admin.json("limits", "show", "api", "nobody=x")["results"] == []


def test_roles_are_granted_listed_and_revoked(admin: CommandLine) -> None:
    subject = f"user:{name('zoe')}"
    granted = admin.json("roles", "grant", subject, "viewer", "--expire-time", "2099-01-01T00:00:00Z")["binding"]
    assert (granted["source"], granted["expire_time"]) == ("grant", "2099-01-01T00:00:00Z")
    assert admin("check", subject, "orders:read").code == 0
    (listed,) = admin.json("roles", "list", "--subject", subject)["bindings"]
    assert listed == granted
    admin.json("roles", "revoke", granted["binding_id"])
    assert admin("check", subject, "orders:read").code == 1
    assert admin("roles", "revoke", granted["binding_id"]).faults[0].startswith("authsvc: binding_not_found: ")


def test_a_policy_is_tried_and_shown(admin: CommandLine, policy_file: Path) -> None:
    applied = admin.json("policy", "apply", policy_file, "--dry-run")
    assert applied["tests_passed"] == 1
    assert admin("policy", "show").out == policy_file.read_text()
    policy_file.write_text("version: 1\nroles: {a: {allow: [nonsense]}, b: {inherits: [c]}}\n")
    told = admin("policy", "apply", policy_file)
    assert told.code == 1
    assert [line.removeprefix("authsvc: ").partition(":")[0] for line in told.faults] == [
        "roles.a.allow[0]",
        "roles.b.inherits[0]",
    ]
    conflict = admin("policy", "apply", policy_file.with_name("policy.yaml"), "--expected-revision", "no-such")
    assert conflict.code == 1


def test_keys_are_rotated_and_revoked(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    admin = CommandLine(directory)
    with serving(directory):
        listed = admin.json("keys", "list")["keys"]
        assert sorted(key["state"] for key in listed) == ["active", "pending"]
        early = admin("keys", "rotate")
        assert early.code == 1
        assert early.faults[0].startswith("authsvc: key_lead_not_passed: ")
        rotated = admin.json("keys", "rotate", "--force", "--algorithm", "EdDSA")
        assert (rotated["retiring"]["state"], rotated["standby"]["algorithm"]) == ("retiring", "eddsa")
        active = rotated["active"]["kid"]
        dry = admin.json("keys", "revoke", active, "--reason", "leaked", "--dry-run")
        assert dry["revoked_kids"] == [active]
        told = admin.json("keys", "revoke", active, "--reason", "leaked")
        assert told["active_kid"] == rotated["standby"]["kid"]
        states = {key["kid"]: key["state"] for key in admin.json("keys", "list")["keys"]}
        assert states[active] == "revoked"
        assert admin("keys", "list").lines[0].split()[:3] == ["kid", "algorithm", "state"]


def test_propagation_shows_each_replica_and_what_its_watchers_hold(admin: CommandLine) -> None:
    told = admin.json("keys", "propagation")
    (replica,) = told["replicas"]
    assert (replica["watchers"], replica["acknowledged"]) == (0, 0)
    assert 0 <= replica["age"] < 30
    lines = admin("keys", "propagation", "--holding", told["holding"]).lines
    assert lines[0].split() == ["replica_id", "revision", "watchers", "acknowledged", "age"]
    assert lines[1].startswith(replica["replica_id"])
    assert "holding: is not a revision" in admin("keys", "propagation", "--holding", "nonsense").err


@pytest.mark.parametrize("first", ["-", "--", "-o", "-h"])
def test_an_id_that_begins_with_a_hyphen_is_an_id(admin: CommandLine, first: str) -> None:
    kid, binding_id = first.ljust(43, "A"), first.ljust(24, "A")
    for words in (("keys", "revoke", kid, "--reason", "leaked"), ("keys", "revoke", "--reason", "leaked", kid)):
        assert admin(*words).faults[0].startswith("authsvc: key_not_found: ")
    assert admin("roles", "revoke", binding_id).faults[0].startswith("authsvc: binding_not_found: ")
    assert admin("roles", "revoke", "--", binding_id).faults[0].startswith("authsvc: binding_not_found: ")


def test_smoke_with_an_administrators_credentials_tries_everything(admin: CommandLine) -> None:
    steps = json.loads(admin("smoke", "--output", "json").out)
    assert [step["step"] for step in steps if not step["ok"]] == []
    assert len(steps) == 8


def test_smoke_without_credentials_tries_what_is_public(nobody: CommandLine, service: Serving) -> None:
    told = nobody("smoke", "--address", service.grpc, "--output", "json")
    assert told.code == 0
    assert [step["answer"] for step in json.loads(told.out)][::2] == ["serving", "refused: caller_unauthenticated"]
    unreachable = nobody("smoke", "--address", f"127.0.0.1:{free_port()}")
    assert unreachable.code == 3


def test_credentials_are_sent_to_the_address_in_their_file_and_nowhere_else(
    admin: CommandLine, service: Serving, tmp_path: Path
) -> None:
    elsewhere = f"127.0.0.1:{free_port()}"
    told = admin("keys", "list", "--address", elsewhere)
    assert told.code == 2
    assert "are sent nowhere else" in told.err
    path = tmp_path / "copy.json"
    path.write_bytes((service.directory / "admin.json").read_bytes())
    path.chmod(0o600)
    assert "are sent nowhere else" in admin("keys", "list", "--credentials", path, "--address", elsewhere).err
    assert CommandLine(tmp_path / "none", {"AUTHSVC_CREDENTIALS": str(path)})("keys", "list").code == 0
    path.chmod(0o644)
    assert "can be read by everybody" in admin("keys", "list", "--credentials", path).err


def test_a_service_that_is_not_there_is_exit_code_3_in_both_forms(nobody: CommandLine, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    path = tmp_path / "admin.json"
    path.write_bytes(AdminCredentials(address, "admin", "s" * 43).to_bytes())
    path.chmod(0o600)
    told = nobody("check", "user:ann", "orders:read", "--credentials", path, "--output", "json")
    line = f"cannot reach the service at {address}: connection refused"
    assert (told.code, told.faults) == (3, [f"authsvc: {line}"])
    assert json.loads(told.out) == {"error": {"reason": "", "message": line, "fields": [], "retry_after": None}}


def test_a_refusal_names_its_reason_and_field_in_both_forms(admin: CommandLine) -> None:
    told = admin("check", "ann", "orders:read", "--output", "json")
    assert told.code == 1
    assert told.faults == ["authsvc: request_invalid: subject: is not of the form kind:name"]
    error = json.loads(told.out)["error"]
    assert error["fields"] == [{"field": "subject", "description": "is not of the form kind:name"}]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["keys", "revoke"], "give a KID or --all-keys, not both"),
        (["keys", "revoke", "abc"], "--reason: is required; it is kept with the key"),
        (["keys", "rotate", "--algorithm", "HS256"], "--algorithm: `HS256` is not ES256, EdDSA or RS256"),
        (["token", "revoke"], "give one of TOKEN, --token-id, --subject, --client-id, --issuer"),
        (
            ["token", "revoke", "x", "--token-id", "y"],
            "give one of TOKEN, --token-id, --subject, --client-id, --issuer",
        ),
        (["limits", "consume", "api", "subject"], "`subject` is not KEY=VALUE"),
        (["clients", "create", "x", "--token-ttl", "soon"], "--token-ttl: `soon` is not a duration"),
        (["roles", "grant", "user:a", "viewer", "--expire-time", "soon"], "--expire-time: `soon` is not a time"),
        (["check", "user:a", "orders:read", "--context", "[]"], "--context: is not a JSON object"),
        (["keys", "list", "--credentials", "/nowhere"], "/nowhere: cannot read /nowhere"),
    ],
)
def test_wrong_use_is_told_before_anything_is_asked(nobody: CommandLine, words: list[str], fault: str) -> None:
    told = nobody(*words)
    assert (told.code, len(told.faults)) == (2, 1), told
    assert told.faults[0].startswith(f"authsvc: {fault}")


@pytest.mark.parametrize("words", [["fly"], ["keys", "list", "--colour"], ["check", "user:ann"]])
def test_what_typer_refuses_is_exit_code_2_too(nobody: CommandLine, words: list[str]) -> None:
    assert nobody(*words).code == 2


def test_a_lost_administrator_is_replaced_beside_the_record(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    cli = CommandLine(directory)
    path = tmp_path / "root.json"
    made = cli.json("clients", "create", "root", "--admin", "--local", "--save", path)
    assert made["client"]["roles"] == ["authsvc.admin"]
    rotated = cli.json("clients", "rotate-secret", "admin", "--local", "--overlap", "0s")
    assert rotated["client_secret"]
    with serving(directory, {"issuer": ""}) as running:
        moved = json.loads(path.read_text()) | {"address": running.grpc}
        path.write_text(json.dumps(moved))
        assert cli("clients", "list", "--credentials", path).code == 0
        told = cli("clients", "create", "late", "--admin", "--local")
        assert (told.code, told.faults) == (
            1,
            [f"authsvc: AUTHSVC_DATA_DIR: {directory} is in use by another authsvc process"],
        )


def test_the_server_certificate_is_pinned(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    authority = Authority()
    settings = authority.write(tmp_path, "authsvc.example")
    del settings["server.client_ca"]
    trusted = grpc.ssl_channel_credentials(authority.pem)
    with serving(directory, settings, credentials=trusted):
        admin = CommandLine(directory)
        assert admin("keys", "list").code == 0
        path = directory / "admin.json"
        other, _ = authority.issue("authsvc.example")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"certificate": other.decode()}))
        told = admin("keys", "list")
        assert (told.code, len(told.faults)) == (3, 1)


def test_check_config_prints_what_holds_and_no_secret(nobody: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "authsvc.toml"
    file.write_text('[tokens]\nttl = "5m"\n[server]\nlisten = "127.0.0.1:1"\n')
    cli = CommandLine(nobody.directory, {"AUTHSVC_SERVER__LISTEN": "127.0.0.1:2", "AUTHSVC_PORT": "tcp://10.0.0.1"})
    told = cli.json("check-config", "--config", file, "--server.http_listen", "127.0.0.1:3")
    assert told["tokens"]["ttl"] == "5m"
    assert told["server"]["listen"] == "127.0.0.1:2"
    assert told["server"]["http_listen"] == "127.0.0.1:3"
    assert "server.listen" in cli("check-config", "--config", file).out
    file.write_text('[tokens]\nttl = "5x"\ncolour = 1\n')
    wrong = cli("check-config", "--config", file)
    assert wrong.code == 2
    assert sorted(line.partition(": ")[2].partition(":")[0] for line in wrong.faults) == ["tokens.colour", "tokens.ttl"]


def test_completion_is_offered_for_shells(nobody: CommandLine) -> None:
    told = nobody("--show-completion", "bash")
    assert told.code == 0
    assert "_AUTHSVC_COMPLETE" in told.out
