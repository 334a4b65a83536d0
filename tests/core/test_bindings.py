"""The index of bindings: persistent, bounded, and equal to a plain list."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.bindings import (
    FLAT,
    MAX_PATTERNS,
    Binding,
    BindingIndex,
    BindingSource,
    binding_id,
    make_binding,
)
from authsvc.core.errors import InvalidRequest

PARTS = st.tuples(
    st.sampled_from(["user:a", "group:g"]),
    st.sampled_from(["r", "s"]),
    st.sampled_from(["", "acme", "other"]),
    st.sampled_from(["", "x/1", "x/2", "x/*", "**"]),
    st.sampled_from([None, 5, 6]),
    st.sampled_from(["", "true"]),
    st.sampled_from(list(BindingSource)),
)


@given(st.lists(st.tuples(st.booleans(), PARTS), max_size=80))
def test_any_run_of_adds_and_removes_equals_a_plain_set(steps: list[tuple[bool, Any]]) -> None:
    index, plain = BindingIndex(), set[Binding]()
    for adds, parts in steps:
        binding = make_binding(*parts)
        before = set(index)
        grown = index.add(binding) if adds else index.remove(binding)
        plain = plain | {binding} if adds else plain - {binding}
        assert set(index) == before  # the index before is untouched
        index = grown
        assert len(index) == len(plain)
    assert set(index) == plain == set(BindingIndex.from_bindings(plain))
    for subject in ("user:a", "group:g", "user:none"):
        assert set(index.of(subject)) == {b for b in plain if b.subject == subject}
        for tenant in ("", "acme", "none"):
            for resource in ("", "x/1", "x/9"):
                found = set(index.candidates(subject, tenant, resource))
                wanted = {
                    b
                    for b in plain
                    if b.subject == subject
                    and b.tenant in ("", tenant)
                    and (not b.resource or "*" in b.resource or b.resource == resource)
                }
                assert len(found) >= len(wanted)
                assert {(k.role, k.tenant, r, e, k.condition, k.source) for k, r, e in found} >= {
                    (b.role, b.tenant, b.resource, b.expire_time, b.condition, b.source) for b in wanted
                }
    assert set(index.subjects()) == {b.subject for b in plain}


def test_ids_are_of_the_content_alone_and_no_two_contents_share_one() -> None:
    base: tuple[str, str, str, str, int, str] = ("user:a", "r", "t", "x", 5, "c")
    ids = {binding_id(*base), binding_id("user:b", *base[1:]), binding_id("user:a", "s", "t", "x", 5, "c")}
    ids |= {binding_id("user:a", "r", "u", "x", 5, "c"), binding_id("user:a", "r", "t", "y", 5, "c")}
    ids |= {binding_id("user:a", "r", "t", "x", 6, "c"), binding_id("user:a", "r", "t", "x", 5, "d")}
    ids |= {binding_id("user:ar", "", "t", "x", 5, "c"), binding_id("user:a", "rt", "", "x", 5, "c")}
    ids |= {binding_id("user:a", "r", "t", "x", None, "c"), binding_id("user:a", "r", "t", "x", None, "5c")}
    assert len(ids) == 11
    assert all(len(made) == 24 for made in ids)
    file, grant = (make_binding(*base, source=source) for source in BindingSource)
    assert file.binding_id == grant.binding_id


def test_the_same_content_from_file_and_grant_is_two_bindings() -> None:
    file, grant = (make_binding("user:a", "r", source=source) for source in BindingSource)
    both = BindingIndex.from_bindings([file, grant, file])
    assert len(both) == 2
    assert list(both.remove(file)) == [grant]


def test_a_revoked_binding_is_never_held() -> None:
    revoked = replace(make_binding("user:a", "r", source=BindingSource.FILE), revoked=True)
    assert len(BindingIndex().add(revoked)) == len(BindingIndex.from_bindings([revoked])) == 0


@pytest.mark.parametrize("resource", ["x/1", "x/{}*", ""])
def test_a_list_that_a_check_would_walk_is_capped(resource: str) -> None:
    def nth(number: int) -> Binding:
        return make_binding("group:g", "r", "acme", resource.format(number), number)

    full = BindingIndex.from_bindings(nth(i) for i in range(MAX_PATTERNS))
    with pytest.raises(InvalidRequest) as caught:
        full.add(nth(MAX_PATTERNS))
    assert caught.value.violations[0].field == "resource"
    with pytest.raises(InvalidRequest):
        BindingIndex.from_bindings([*full, nth(-1)])
    assert full.add(nth(0)) is full
    assert len(full.remove(nth(0)).add(nth(MAX_PATTERNS))) == MAX_PATTERNS
    assert len(full.add(replace(nth(5), tenant="other"))) == MAX_PATTERNS + 1
    assert len(full.add(make_binding("group:g", "r", "acme", "y/exact"))) == MAX_PATTERNS + 1


def test_a_big_group_is_looked_up_by_tenant_and_exact_resource() -> None:
    index = BindingIndex.from_bindings(make_binding("group:big", "r", f"t{i % 10}", f"x/{i}") for i in range(5_000))
    assert len(list(index.candidates("group:big", "t3", "x/13"))) == 1
    assert list(index.candidates("group:big", "t4", "x/13")) == []
    small = BindingIndex.from_bindings(make_binding("user:a", "r", "", f"x/{i}") for i in range(FLAT))
    assert len(list(small.candidates("user:a", "", "x/1"))) == FLAT
    grown = small.add(make_binding("user:a", "r", "", "x/new"))
    assert len(list(grown.candidates("user:a", "", "x/1"))) == 1
    for binding in list(grown):
        grown = grown.remove(binding)
    assert len(grown) == 0
    assert list(grown.subjects()) == []
