"""Names are refused or taken as they are: nothing is folded, trimmed or normalised."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core import values
from authsvc.core.errors import InvalidRequest
from authsvc.core.values import Revision

Validator = Callable[[str, str], str]

TAKEN: list[tuple[Validator, list[str]]] = [
    (values.subject, ["user:ann", "workload:spiffe://td/ns/a", "okta:00u1", "user:Ann", "user:é", "user:a:b"]),
    (values.permission, ["orders:read", "a:b:c", "A-1.b_c:x"]),
    (values.permission_pattern, ["orders:*", "*:read", "**", "orders:**", "*", "orders"]),
    (values.role, ["viewer", "authsvc.admin", "9-a"]),
    (values.client_id, ["billing", "a", "A.b_c-9"]),
    (values.scope, ["orders.read", "!", "~", "https://api/x"]),
    (values.tenant, ["", "acme"]),
    (values.resource, ["", "orders/eu-7", "orders/ü"]),
    (values.audience, ["orders", "https://api.example/"]),
    (values.kid, ["abc-_9"]),
]
REFUSED: list[tuple[Validator, list[str]]] = [
    (values.subject, ["", "ann", "user:", ":ann", "User:ann", "1:a", "user:*", "user:a\n", "user:" + "a" * 512]),
    (values.permission, ["", "orders", "orders:", ":read", "orders:*", "a:b c", "a:\u2028", "a:" + "b" * 256]),
    (values.permission_pattern, ["", "or*:read", "**:read", "a:**:b", "a::b", "a:b "]),
    (values.role, ["", ".a", "a b", "a" * 129]),
    (values.client_id, ["", "-a", "a/b", "a" * 65]),
    (values.scope, ["", "a b", 'a"', "a\\", "é", "a" * 129]),
    (values.tenant, ["*", "a\x00", "a" * 129]),
    (values.resource, ["a*", "\x7f", "a" * 1025]),
    (values.audience, ["", "a b", "*"]),
    (values.kid, ["", "a/b", "a?b", "../a", "a\n", "a" * 129]),
]


@pytest.mark.parametrize(("validate", "text"), [(validate, text) for validate, texts in TAKEN for text in texts])
def test_a_name_is_taken_as_it_is(validate: Validator, text: str) -> None:
    assert validate(text, "field") is text


@pytest.mark.parametrize(("validate", "text"), [(validate, text) for validate, texts in REFUSED for text in texts])
def test_a_refusal_names_the_field_and_never_the_value(validate: Validator, text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        validate(text, "some.field")
    [violation] = refused.value.violations
    assert violation.field == "some.field"
    assert len(text) < 4 or text not in refused.value.message


@given(st.text(max_size=40), st.sampled_from(["\x00", "\n", "\x85", "\u2028", "\ud800"]), st.text(max_size=40))
def test_a_control_character_is_found_wherever_it_stands(before: str, control: str, after: str) -> None:
    assert values.has_control(before + control + after)


@given(st.from_regex(r"[0-9a-f]{8}", fullmatch=True), st.integers(1, 10**9 - 1), st.integers(0, 10**18 - 1))
def test_a_revision_reads_what_it_writes(record: str, epoch: int, number: int) -> None:
    revision = Revision(record, epoch, number)
    assert Revision.parse(str(revision)) == revision
    assert revision.order == (epoch, number)


@pytest.mark.parametrize(
    "text", ["", "1", "0000000a-1", "0000000a-0.1", "0000000a-1.01", "0000000A-1.1", "0000000a-1.1\n"]
)
def test_what_is_no_revision_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="min_revision"):
        Revision.parse(text)


def test_revisions_are_ordered_by_epoch_and_then_number_within_one_record() -> None:
    first, later, restored = Revision("0000000a", 1, 9), Revision("0000000a", 1, 10), Revision("0000000a", 2, 1)
    assert first < later < restored
    assert restored >= later
    with pytest.raises(ValueError, match="no order"):
        assert first < Revision("0000000b", 1, 10)
