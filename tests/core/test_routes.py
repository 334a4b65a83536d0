"""Paths that are refused, and routes that decide."""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.patterns import resource_matcher
from authsvc.core.routes import (
    MAX_PATH,
    RequestLine,
    Route,
    RouteRefused,
    clean_path,
    compile_routes,
    match,
)

SEGMENT = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="/\\.%;"), min_size=1, max_size=8
)


@pytest.mark.standard("E5")
@given(st.lists(SEGMENT, min_size=1, max_size=5))
def test_an_encoded_path_of_safe_text_is_decoded_once(segments: list[str]) -> None:
    plain = "/" + "/".join(segments)
    assert clean_path(quote(plain) + "?q=%2F..//") == plain


@pytest.mark.standard("E5")
@given(st.integers(0, 255))
def test_every_byte_is_refused_raw_or_encoded_where_it_could_be_read_differently(byte: int) -> None:
    encoded = f"/a%{byte:02x}b"
    hidden = byte < 0x20 or byte == 0x7F or chr(byte) in "/\\.%;" or byte >= 0x80
    if hidden:
        with pytest.raises(RouteRefused):
            clean_path(encoded)
    else:
        assert clean_path(encoded) == f"/a{chr(byte)}b"
    raw = f"/a{chr(byte)}b"
    if byte <= 0x20 or byte >= 0x7F or chr(byte) in "\\%;#":
        with pytest.raises(RouteRefused):
            clean_path(raw)
    else:
        assert clean_path(raw) == ("/a" if byte == ord("?") else raw)


@pytest.mark.standard("E5")
@pytest.mark.parametrize("path", ["/a%C2%80", "/a%E2%80%A8", "/a%C0%AF", "/a%ED%A0%80", "/" + "a" * MAX_PATH])
def test_controls_and_texts_that_are_not_utf_8_hide_behind_no_encoding(path: str) -> None:
    with pytest.raises(RouteRefused) as caught:
        clean_path(path)
    assert path not in str(caught.value)


@pytest.mark.standard("E5")
@given(st.text(max_size=40) | st.text(alphabet="/.%25aA?;\\#2efF0\x00", max_size=20))
def test_any_path_is_refused_or_holds_nothing_ambiguous(raw: str) -> None:
    try:
        path = clean_path(raw)
    except RouteRefused:
        return
    assert path.startswith("/")
    assert not set(path) & set("\\;\x00")
    assert "%" not in path
    assert "//" not in path
    assert not {".", ".."} & set(path.split("/"))


@pytest.mark.standard("E6")
def test_no_spelling_of_a_path_slips_past_its_route_to_a_later_one() -> None:
    routes = compile_routes([Route("admin", "a:w", path="/admin/{id}"), Route("rest", "a:r", path="/**")])
    for path in ("/admin/7", "/%61dmin/7", "/adm%69n/7?x", "/admin/%37"):
        found = match(routes, RequestLine("GET", path))
        assert found is not None
        assert found.route.name == "admin"
    assert routes.names == ("admin", "rest")


@pytest.mark.standard("E6")
def test_a_captured_wildcard_is_refused_where_it_would_name_a_resource() -> None:
    with_resource = compile_routes([Route("r", "a:r", path="/x/{id}", resource="x/{id}")])
    for path in ("/x/*", "/x/%2a", "/x/a*b"):
        with pytest.raises(RouteRefused):
            match(with_resource, RequestLine("GET", path))
    without = compile_routes([Route("r", "a:r", path="/x/{id}", resource="x")])
    found = match(without, RequestLine("GET", "/x/*"))
    assert found is not None
    assert (found.params, found.resource) == ({"id": "*"}, "x")


@pytest.mark.standard("E6")
def test_captured_braces_are_text_and_never_a_template() -> None:
    routes = compile_routes([Route("r", "a:r", path="/{a}/{b}", resource="{a}/{b}")])
    found = match(routes, RequestLine("GET", "/%7Bb%7D/{a}"))
    assert found is not None
    assert found.resource == "{b}/{a}"


@pytest.mark.standard("E6")
@pytest.mark.parametrize(
    ("host", "matches"),
    [
        ("api.example", True),
        ("API.Example:8443", True),
        ("api.example.", True),
        ("api.example.:443", True),
        ("xapi.example", False),
        ("api.example.evil", False),
        ("[::1]:443", False),
        ("", False),
    ],
)
def test_hosts_are_compared_without_port_and_case(host: str, *, matches: bool) -> None:
    routes = compile_routes([Route("r", "a:r", host="Api.example")])
    assert (match(routes, RequestLine("GET", "/", host)) is not None) == matches


@pytest.mark.standard("E6")
def test_a_key_absent_from_the_match_is_not_looked_at() -> None:
    routes = compile_routes([Route("r", "a:r")])
    found = match(routes, RequestLine("BREW", "/any/thing", "any", "any"))
    assert found is not None
    with pytest.raises(RouteRefused):
        match(routes, RequestLine("GET", "/../x"))


@pytest.mark.standard("P4")
@pytest.mark.parametrize("pattern", ["*a" * 200 + "b", "*a*" * 100 + "/b", "**a" * 200 + "b", "**a*" * 100 + "b"])
def test_matching_takes_linear_time_whatever_the_pattern(pattern: str) -> None:
    begin = time.process_time()
    assert not resource_matcher(pattern)("a" * 1024 + "/")
    assert time.process_time() - begin < 1.0  # exponential or cubic time would be minutes
