"""The method table: what is served, to whom, and that nothing is forgotten."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from authsvc.api import envoy_messages, standard_messages
from authsvc.api.method_table import (
    BATCH_BYTES,
    METHODS,
    PROXY,
    PUBLIC,
    ROW_BYTES,
    Kind,
    MethodTable,
    Service,
    TableFault,
)
from authsvc.core.roles_builtin import SERVICE_PERMISSIONS
from tests.support.engines import ALL_SERVICES, Handlers, all_services, deny

PROTOS = Path(__file__).parents[2] / "protos/authsvc/v1"


@pytest.mark.standard("U11")
def test_every_method_of_every_descriptor_has_a_row() -> None:
    table = MethodTable.build(all_services())
    described = {f"{service.full_name}/{m.name}" for service in ALL_SERVICES for m in service.methods}
    assert set(table.by_name()) == described == {method.name for method in METHODS}


@pytest.mark.standard("U11")
def test_a_method_without_a_line_refuses_to_build() -> None:
    without = [method for method in METHODS if not method.name.endswith("AuthzService/Check")]
    with pytest.raises(TableFault, match=r"authsvc\.v1\.AuthzService/Check has no line"):
        MethodTable.build(all_services(), without)


@pytest.mark.standard("U11")
def test_a_method_without_a_handler_refuses_to_build() -> None:
    with pytest.raises(TableFault, match="Health/Check has no handler"):
        MethodTable.build([Service(standard_messages.HEALTH, object())])


@pytest.mark.standard("E2")
def test_an_envoy_row_must_refuse_by_denial_and_no_other_may() -> None:
    envoy, health = envoy_messages.AUTHORIZATION, standard_messages.HEALTH
    with pytest.raises(TableFault):
        MethodTable.build([Service(envoy, Handlers(envoy))])
    with pytest.raises(TableFault):
        MethodTable.build([Service(health, Handlers(health), deny)])


def test_permissions_are_those_that_the_protos_promise() -> None:
    promised: dict[str, str] = {}
    for file in PROTOS.glob("*.proto"):
        service, comment = "", ""
        for line in map(str.strip, file.read_text().splitlines()):
            if found := re.match(r"service (\w+)", line):
                service = found[1]
            elif line.startswith("//"):
                comment += line.removeprefix("//")
            elif found := re.match(r"rpc (\w+)\(", line):
                caller = re.search(r"Callers: `([^`]+)`", comment)
                promised[f"authsvc.v1.{service}/{found[1]}"] = caller[1] if caller else PUBLIC
                comment = ""
            else:
                comment = ""
    own = {method.name: method.permission for method in METHODS if method.name.startswith("authsvc.")}
    assert own == promised


def test_every_permission_is_one_of_the_service() -> None:
    assert {method.permission for method in METHODS} - {PUBLIC} <= SERVICE_PERMISSIONS
    assert PROXY in SERVICE_PERMISSIONS


def test_only_batches_are_large() -> None:
    large = {method.name.partition("/")[2] for method in METHODS if method.max_bytes != ROW_BYTES}
    assert large == {"BatchCheck", "BatchVerifyTokens"}
    assert BATCH_BYTES == 16 * 1024 * 1024


def test_every_request_may_carry_min_revision_and_every_answer_carries_revision() -> None:
    for row in MethodTable.build(all_services()):
        own = row.name.startswith("authsvc.v1.")
        # A stream of requests says it once, when it opens.
        takes = row.takes_min_revision
        if own and row.kind is Kind.BIDI:
            takes = hasattr(row.request_type().open, "min_revision")  # type: ignore[attr-defined]  # our streams have it
        assert (takes, row.gives_revision) == (own, own), row.name
