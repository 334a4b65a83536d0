"""Somebody who can really administer is always left (STANDARDS P11)."""

from __future__ import annotations

from pathlib import Path

import pytest

from authsvc.core.roles_builtin import ADMIN
from authsvc.v1 import policy_admin_pb2
from tests.support.embedded import Embedded, Refused, embedded

NARROWED = """
version: 1
permissions: {"orders:read": {}}
bindings:
  - {subject: "client:deputy", role: authsvc.admin, MEMBER}
"""


def only_admin_binding(service: Embedded) -> str:
    asked = policy_admin_pb2.ListRoleBindingsRequest(role=ADMIN, subject="client:admin")
    (binding,) = service.call("PolicyAdminService/ListRoleBindings", asked, service.admin()).bindings
    return str(binding.binding_id)


def take_away(service: Embedded, binding_id: str) -> Refused:
    with pytest.raises(Refused) as caught:
        service.call(
            "PolicyAdminService/RevokeRole",
            policy_admin_pb2.RevokeRoleRequest(binding_id=binding_id),
            service.admin(),
        )
    return caught.value


@pytest.mark.standard("P11")
@pytest.mark.parametrize("subject", ["user:deputy", "workload:deputy", "client:nobody"])
def test_a_subject_that_no_client_is_does_not_count_as_an_admin(tmp_path: Path, subject: str) -> None:
    """`user:deputy` is not `client:deputy`: kinds cannot collide, here either."""
    with embedded(tmp_path / "data") as service:
        service.create_client("deputy")
        grant = policy_admin_pb2.GrantRoleRequest(subject=subject, role=ADMIN)
        service.call("PolicyAdminService/GrantRole", grant, service.admin())
        assert take_away(service, only_admin_binding(service)).reason == "LAST_ADMIN"


@pytest.mark.standard("P11")
@pytest.mark.parametrize(
    "member",
    ["tenant: acme", 'resource: "orders/*"', 'condition: "context.mfa == true"', 'expire_time: "2099-01-01T00:00:00Z"'],
)
def test_an_admin_role_that_holds_only_sometimes_does_not_count(tmp_path: Path, member: str) -> None:
    with embedded(tmp_path / "data", toml="[policy]\ngrants_service_roles = true\n") as service:
        service.create_client("deputy")
        service.apply(NARROWED.replace("MEMBER", member))
        assert take_away(service, only_admin_binding(service)).reason == "LAST_ADMIN"


@pytest.mark.standard("P11")
def test_an_admin_leaves_once_another_is_there(tmp_path: Path) -> None:
    with embedded(tmp_path / "data") as service:
        service.create_client("deputy", roles=[ADMIN])
        service.call(
            "PolicyAdminService/RevokeRole",
            policy_admin_pb2.RevokeRoleRequest(binding_id=only_admin_binding(service)),
            service.admin(),
        )
