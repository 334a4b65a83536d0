"""The forms in which edits stand in the change log, and which releases read each.

Owns: the list of forms, and the choice of the one that is written. May import: `codec`, `schema`, `ports`.

A change body is a list of `[kind, value]`. Replicas of two releases follow one log during an update and a rollback, and
whoever meets a kind that it does not know must stop, because skipping it would make its snapshot a lie. So a form is
written only where no release that is still let in lacks it: by releases whose schemas shut out those before `since`.
That is one release after the one that first reads it. Until then the edit's older form is written, and where there is
none, the write is refused as not served by this release.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from authsvc.core.errors import InvalidRequest, Reason
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
from authsvc.ports.record import PolicyRecord
from authsvc.storage.sql import codec, schema


class Form(NamedTuple):
    """One form of one sort of edit; releases that know the schema `since` read it.

    Another field, or another value of an enumeration in it, makes another form: releases before would trip over it.
    """

    kind: str
    since: str
    edit: type
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Edit]


FORMS = (
    Form("key", "0001", KeyPut, lambda edit: codec.key_values(edit.key), lambda value: KeyPut(codec.key_of(value))),
    Form("key_forgotten", "0001", KeyForgotten, lambda edit: edit.kid, KeyForgotten),
    Form(
        "key_manifest",
        "0001",
        KeyManifestPut,
        lambda edit: codec.manifest_values(edit.manifest),
        lambda value: KeyManifestPut(codec.manifest_of(value)),
    ),
    Form(
        "client",
        "0001",
        ClientPut,
        lambda edit: codec.client_values(edit.client),
        lambda value: ClientPut(codec.client_of(value)),
    ),
    Form("client_deleted", "0001", ClientDeleted, lambda edit: edit.client_id, ClientDeleted),
    Form(
        "binding",
        "0001",
        BindingPut,
        lambda edit: codec.binding_values(edit.binding),
        lambda value: BindingPut(codec.binding_of(value)),
    ),
    Form(
        "binding_removed",
        "0001",
        BindingRemoved,
        lambda edit: codec.binding_values(edit.binding),
        lambda value: BindingRemoved(codec.binding_of(value)),
    ),
    Form(
        "policy",
        "0001",
        PolicyPut,
        lambda edit: codec.policy_values(edit.policy),
        lambda value: PolicyPut(PolicyRecord(*value)),
    ),
    Form(
        "revocation",
        "0001",
        RevocationPut,
        lambda edit: codec.mark_values(edit.mark),
        lambda value: RevocationPut(codec.mark_of(value)),
    ),
)
"""Every form that this release reads; of one sort of edit the later ones come later."""


def written(forms: Sequence[Form], floor: str) -> Mapping[type, Form]:
    """The form of each sort of edit that a release writes whose records only schemas from `floor` on can use."""
    return {form.edit: form for form in forms if form.since <= floor}


_WRITTEN = written(FORMS, schema.FLOOR)
_READ: Mapping[str, Form] = {form.kind: form for form in FORMS}


def encode_edits(edits: Sequence[Edit]) -> str:
    """The body of a change row; raises InvalidRequest FEATURE_NOT_SERVED for an edit without a form to write."""
    return codec.dump([_encoded(edit) for edit in edits])


def decode_edits(body: str) -> tuple[Edit, ...]:
    """The edits of a change row; `UnknownEdit` for a kind that this release does not know."""
    return tuple(_decoded(kind, value) for kind, value in json.loads(body))


def _encoded(edit: Edit) -> list[Any]:
    form = _WRITTEN.get(type(edit))
    if form is None:
        what = "is read by this release, and written by none before the next"
        raise InvalidRequest.of("", what, Reason.FEATURE_NOT_SERVED)
    return [form.kind, form.encode(edit)]


def _decoded(kind: str, value: Any) -> Edit:
    form = _READ.get(kind)
    return UnknownEdit(kind) if form is None else form.decode(value)
