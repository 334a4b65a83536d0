"""An administrator's act says whom and what it concerned, and gives no identifier away (STANDARDS U7, U8)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from authsvc.core.audit import RECORD_CHAIN, AuditEvent
from authsvc.core.bindings import binding_id
from authsvc.v1 import key_admin_pb2, policy_admin_pb2
from tests.support.embedded import Embedded, embedded

ROLE = "viewer"
POLICY = f"""
version: 1
permissions: {{"orders:read": {{}}}}
roles: {{{ROLE}: {{allow: ["orders:read"]}}}}
"""


def last(service: Embedded, kind: str) -> AuditEvent:
    events = service.foundation.record.audit_events(RECORD_CHAIN, 0, 1_000)
    return [event for event in events if event.kind == kind][-1]


def subject_of(service: Embedded, event: AuditEvent) -> str | None:
    return None if event.subject is None else service.foundation.record.open_identifier(event.subject)


def grant(service: Embedded) -> str:
    service.apply(POLICY)
    request = policy_admin_pb2.GrantRoleRequest(subject="user:ann", role=ROLE, tenant="acme", resource="orders/ann")
    answer: Any = service.call("PolicyAdminService/GrantRole", request, service.admin())
    return str(answer.binding.binding_id)


@pytest.mark.standard("U7", "U8")
def test_what_was_granted_is_in_the_event_but_nothing_to_guess_the_subject_from(tmp_path: Path) -> None:
    """A binding's id is a hash without a key: beside an erased subject it would tell who that was."""
    with embedded(tmp_path / "data") as service:
        granted = grant(service)
        event = last(service, "authsvc.roles:grant")
        assert subject_of(service, event) == "user:ann"
        assert json.loads(event.detail) == {"role": ROLE}
        assert event.private
        assert granted == binding_id("user:ann", ROLE, "acme", "orders/ann")
        assert granted not in event.detail


@pytest.mark.standard("U7", "U8")
def test_who_lost_which_role_is_in_the_event(tmp_path: Path) -> None:
    with embedded(tmp_path / "data") as service:
        request = policy_admin_pb2.RevokeRoleRequest(binding_id=grant(service))
        service.call("PolicyAdminService/RevokeRole", request, service.admin())
        event = last(service, "authsvc.roles:revoke")
        assert subject_of(service, event) == "user:ann"
        assert json.loads(event.detail) == {"role": ROLE}


@pytest.mark.standard("U7", "K1")
def test_which_keys_changed_is_in_the_event(tmp_path: Path) -> None:
    with embedded(tmp_path / "data") as service:
        request = key_admin_pb2.RotateKeyRequest(force=True)
        answer = service.call("KeyAdminService/RotateKey", request, service.admin())
        changed = json.loads(last(service, "authsvc.keys:rotate").detail)
        assert changed["active"] == answer.active.kid
        assert changed["pending"] == answer.standby.kid
        assert changed["retiring"] == answer.retiring.kid
