"""What stands in the change log is read by every release that may follow it."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

import pytest

from authsvc.core.bindings import Binding, BindingSource
from authsvc.core.clients import Client, ClientSecret
from authsvc.core.errors import InvalidRequest, Reason
from authsvc.core.jose import Algorithm
from authsvc.core.key_manifest import KeyManifest
from authsvc.core.keys import KeyRecord, KeyState
from authsvc.core.revocations import RevocationKind
from authsvc.ports.change_log import (
    BindingPut,
    BindingRemoved,
    ClientDeleted,
    ClientPut,
    Edit,
    KeyForgotten,
    KeyManifestPut,
    KeyPut,
    PolicyPut,
    RevocationPut,
    UnknownEdit,
)
from authsvc.ports.record import PolicyRecord, RevocationMark
from authsvc.storage.sql import change_forms, schema

KEY = KeyRecord(
    kid="kid-1",
    algorithm=Algorithm.ES256,
    state=KeyState.PENDING,
    public_jwk={"kty": "EC"},
    create_time=1,
    activate_after=2,
    activate_time=None,
    retire_time=None,
    expire_time=None,
    revoke_time=None,
    revoke_reason="",
    actor="client:root",
    envelope=b"\x01sealed",
    mac=b"mac",
)
CLIENT = Client(
    "billing",
    display_name="Billing",
    audience=("orders",),
    own_audience=("billing",),
    scope=("orders.read",),
    tenants=("acme",),
    domains=("api",),
    token_ttl=300,
    create_time=1,
    secrets=(ClientSecret("s-1", b"\x00hash", 1, None),),
)
BINDING = Binding(
    "b-1", "user:ann", "viewer", "acme", "orders/*", 1_900_000_000, "context.mfa == true", BindingSource.GRANT
)
MARK = RevocationMark(RevocationKind.SUBJECT, b"\x02" * 16, (1, 7), 9)

RELEASE_0_1_0: list[tuple[Edit, str]] = [
    (
        KeyPut(KEY),
        (
            '["key",{"activate_after":2,"activate_time":null,"actor":"client:root","algorithm":"ES256","create_time":1,'
            '"envelope":"AXNlYWxlZA==","expire_time":null,"kid":"kid-1","mac":"bWFj","public_jwk":{"kty":"EC"},'
            '"retire_time":null,"revoke_reason":"","revoke_time":null,"state":"pending"}]'
        ),
    ),
    (KeyForgotten("kid-1"), '["key_forgotten","kid-1"]'),
    (
        KeyManifestPut(KeyManifest((1, 7), {"kid-1": b"mac"}, b"mac of all")),
        '["key_manifest",[1,7,{"kid-1":"bWFj"},"bWFjIG9mIGFsbA=="]]',
    ),
    (
        ClientPut(CLIENT),
        (
            '["client",{"audience":["orders"],"client_id":"billing","create_time":1,"display_name":"Billing",'
            '"domains":["api"],"expire_time":null,"own_audience":["billing"],"scope":["orders.read"],'
            '"secrets":[["s-1","AGhhc2g=",1,null]],"tenants":["acme"],"token_ttl":300}]'
        ),
    ),
    (ClientDeleted("billing"), '["client_deleted","billing"]'),
    (
        BindingPut(BINDING),
        '["binding",["b-1","user:ann","viewer","acme","orders/*",1900000000,"context.mfa == true","grant"]]',
    ),
    (
        BindingRemoved(BINDING),
        '["binding_removed",["b-1","user:ann","viewer","acme","orders/*",1900000000,"context.mfa == true","grant"]]',
    ),
    (PolicyPut(PolicyRecord("version: 1\n", "r.1.7", 5)), '["policy",["version: 1\\n","r.1.7",5]]'),
    (RevocationPut(MARK), '["revocation",["subject","AgICAgICAgICAgICAgICAg==",1,7,9]]'),
]
"""What release 0.1.0 wrote, to the byte. It grows with a release, and is never changed."""


@pytest.mark.parametrize(("edit", "text"), RELEASE_0_1_0, ids=lambda value: type(value).__name__)
def test_what_a_released_schema_wrote_is_read_and_while_its_releases_are_let_in_written_to_the_byte(
    edit: Edit, text: str
) -> None:
    assert change_forms.decode_edits(f"[{text}]") == (edit,)
    if schema.FLOOR == "0001":
        assert change_forms.encode_edits([edit]) == f"[{text}]"


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Algorithm, ["ES256", "ES384", "ES512", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]),
        (KeyState, ["pending", "active", "retiring", "retired", "revoked"]),
        (BindingSource, ["file", "grant"]),
        (RevocationKind, ["token", "subject", "client", "issuer"]),
    ],
)
def test_a_new_value_in_an_old_form_is_a_form_of_its_own(kind: type[Enum], values: list[str]) -> None:
    # Release 0.1.0 stops at a value that it does not know. Whoever adds one gives it a form, and its value here.
    assert [member.value for member in kind] == values


def test_every_sort_of_edit_has_a_form_and_every_form_a_schema_that_exists() -> None:
    assert {type(edit) for edit, _ in RELEASE_0_1_0} == {
        form.edit for form in change_forms.FORMS if form.since == "0001"
    }
    versions = {known.version for known in schema.SCHEMAS}
    assert all(form.since in versions for form in change_forms.FORMS)
    assert len({form.kind for form in change_forms.FORMS}) == len(change_forms.FORMS)


@pytest.mark.parametrize(("floor", "kind"), [("0001", "binding"), ("9000", "binding"), ("9001", "binding_2")])
def test_a_form_is_written_once_no_release_is_let_in_that_does_not_read_it(floor: str, kind: str) -> None:
    old = next(form for form in change_forms.FORMS if form.edit is BindingPut)
    new = old._replace(kind="binding_2", since="9001")
    assert change_forms.written((*change_forms.FORMS, new), floor)[BindingPut].kind == kind


def test_an_edit_that_none_may_write_is_refused_and_a_kind_that_is_not_known_is_told() -> None:
    form = change_forms.FORMS[0]._replace(since="9001")
    assert form.edit not in change_forms.written((form,), "9000")
    with pytest.raises(InvalidRequest) as refused:
        change_forms.encode_edits([UnknownEdit("hologram")])
    assert refused.value.reason is Reason.FEATURE_NOT_SERVED
    assert change_forms.decode_edits('[["hologram",{"x":1}]]') == (UnknownEdit("hologram"),)


def test_a_binding_of_the_file_and_one_that_is_revoked_need_no_form_of_their_own() -> None:
    filed = BindingPut(replace(BINDING, source=BindingSource.FILE))
    assert change_forms.decode_edits(change_forms.encode_edits([filed])) == (filed,)
