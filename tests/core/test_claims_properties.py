"""No change to a token survives verification."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authsvc.core.claims import check_now, sign_token, verify, verify_signature_and_claims
from authsvc.core.errors import TokenRefused
from authsvc.core.jose import PrivateKey
from tests.support.forge import (
    AUDIENCE,
    DRAFT,
    EDDSA,
    ES256,
    NOW,
    OTHER,
    RS256,
    draft,
    forge,
    header,
    payload,
    reason_of,
    trust,
)
from tests.support.scale import scale

KEYS = (ES256, EDDSA, RS256)
TRUST = trust(*KEYS)
TOKENS = {key.algorithm: sign_token(key, DRAFT) for key in KEYS}
TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=12)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def outcome(token: str | bytes) -> object:
    return reason_of(lambda: verify(token, TRUST, now=NOW, leeway=0, audience=AUDIENCE))


@pytest.mark.standard("J6", "J8")
@settings(max_examples=scale(20_000))
@given(
    token=st.sampled_from(sorted(TOKENS.values())),
    at=st.integers(0, 10_000),
    edit=st.sampled_from(["replace", "insert", "delete", "swap"]),
    char=st.characters(codec="utf-8"),
)
def test_a_mutated_token_never_verifies(token: str, at: int, edit: str, char: str) -> None:
    place = at % (len(token) - 1)
    changed = {
        "replace": token[:place] + char + token[place + 1 :],
        "insert": token[:place] + char + token[place:],
        "delete": token[:place] + token[place + 1 :],
        "swap": token[:place] + token[place + 1] + token[place] + token[place + 2 :],
    }[edit]
    assert outcome(token) is None
    if changed != token:
        assert outcome(changed) is not None


@settings(max_examples=scale(2000))
@given(st.text(max_size=200) | st.binary(max_size=200) | st.from_regex(r"[\w-]{0,40}\.[\w-]{0,40}\.[\w-]{0,40}"))
def test_anything_is_refused_and_nothing_raises_but_a_refusal(token: str | bytes) -> None:
    assert outcome(token) is not None


@pytest.mark.standard("J14", "J15")
@settings(max_examples=scale(4000))
@given(name=st.sampled_from([*payload(), "nbf", "groups", "x"]), value=JSON_VALUES)
def test_whatever_a_claim_holds_it_is_read_typed_or_refused(name: str, value: Any) -> None:
    token = forge(header(), json.dumps(payload() | {name: value}))
    try:
        verified = verify_signature_and_claims(token, TRUST)
    except TokenRefused:
        return
    for texts in (verified.audience, verified.scope, verified.groups, verified.roles):
        assert all(type(text) is str for text in texts)
        assert "" not in texts
    assert all((verified.issuer, verified.subject, verified.client_id, verified.token_id))
    times = (verified.issue_time, verified.expire_time, verified.not_before or 0)
    assert all(type(time) is int and 0 <= time < 1 << 40 for time in times)


@pytest.mark.standard("J2", "J9", "J10", "J11")
@settings(max_examples=scale(4000))
@given(name=st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jku", "jwk", "x5u", "x5c", "zip"]), value=JSON_VALUES)
def test_whatever_a_header_holds_another_key_never_verifies(name: str, value: Any) -> None:
    token = forge(json.dumps(header() | {name: value}), payload(), OTHER)
    assert outcome(token) is not None


@pytest.mark.standard("A1", "J21")
@settings(max_examples=scale(1000))
@given(
    texts=st.tuples(TEXTS, TEXTS, TEXTS),
    audience=st.lists(TEXTS, min_size=1, max_size=3),
    scope=st.lists(st.from_regex(r"[!#-\[\]-~]{1,9}", fullmatch=True), max_size=3),
    roles=st.lists(TEXTS, max_size=3),
    tenant=st.just("") | TEXTS,
    minted_at=st.tuples(st.integers(1, 10**9 - 1), st.integers(0, 10**18 - 1)),
    key=st.sampled_from([ES256, EDDSA]),
)
def test_every_draft_survives_signing(
    *,
    texts: tuple[str, str, str],
    audience: list[str],
    scope: list[str],
    roles: list[str],
    tenant: str,
    minted_at: tuple[int, int],
    key: PrivateKey,
) -> None:
    made = draft(
        subject=texts[0], client_id=texts[1], token_id=texts[2], audience=tuple(audience), scope=tuple(scope),
        roles=tuple(roles), groups=tuple(roles), tenant=tenant, minted_at=minted_at,
    )  # fmt: skip
    read = verify(sign_token(key, made), TRUST, now=NOW, leeway=0, audience=frozenset(audience[:1]))
    for name in ("subject", "client_id", "token_id", "audience", "scope", "roles", "groups", "tenant", "minted_at"):
        assert getattr(read, name) == getattr(made, name)


@pytest.mark.standard("J15")
@given(now=st.integers(NOW - 2000, NOW + 2000), nbf=st.integers(NOW - 1000, NOW + 1000), leeway=st.integers(0, 60))
def test_valid_now_is_the_interval_and_nothing_else(now: int, nbf: int, leeway: int) -> None:
    token = verify_signature_and_claims(forge(header(), payload(nbf=nbf)), TRUST)
    holds = now < NOW + 900 + leeway and now >= max(nbf, NOW) - leeway
    assert (reason_of(lambda: check_now(token, now=now, leeway=leeway, audience=AUDIENCE)) is None) is holds
