"""The life cycle of signing keys, change by change."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core import keys as key_rules
from authsvc.core.errors import Conflict, Internal, NotFound, Reason
from authsvc.core.jose import Algorithm
from authsvc.core.keys import (
    LEGAL_CHANGES,
    MAX_PAST,
    MAX_PUBLISHED,
    KeyRecord,
    KeySchedule,
    KeyState,
    KeyTransition,
    due_for_rotation,
    ensure,
    is_authentic,
    jwks,
    jwks_max_age,
    mac_input,
    new_key,
    retire_due,
    revoke,
    rotate,
    with_mac,
)
from tests.support.forge import EDDSA, ES256, RS256

SCHEDULE = KeySchedule(key_ttl=86_400, publish_lead=600, max_token_ttl=3600, leeway=10, jwks_max_age=300)
MAC_KEY = b"m" * 32
T0 = 1_800_000_000


def fresh(kid: str, now: int = T0, lead: int = SCHEDULE.publish_lead) -> KeyRecord:
    return new_key(
        kid=kid,
        algorithm=Algorithm.ES256,
        public_jwk={"kty": "EC", "kid": kid},
        envelope=b"sealed",
        now=now,
        activate_after=now + lead,
        actor="client:admin",
    )


def first_keys() -> tuple[KeyRecord, ...]:
    return ensure((), fresh("k1", lead=0), fresh("k2"), now=T0, actor="service:authsvc").after


def turn(keys: tuple[KeyRecord, ...], kid: str, now: int, *, force: bool = False) -> KeyTransition:
    return rotate(keys, fresh(kid, now), now=now, schedule=SCHEDULE, force=force, actor="client:admin")


def withdraw(keys: tuple[KeyRecord, ...], *kids: str, now: int = T0, tag: str = "r") -> KeyTransition:
    spare = (fresh(f"{tag}-first", now, lead=0), fresh(f"{tag}-standby", now))
    return revoke(keys, frozenset(kids), spare, now=now, reason="leaked", actor="client:admin")


def states(keys: tuple[KeyRecord, ...]) -> dict[str, str]:
    return {key.kid: key.state.value for key in keys}


def refused(reason: Reason, change: Any, *args: Any, **kwargs: Any) -> None:
    with pytest.raises((Conflict, NotFound)) as caught:
        change(*args, **kwargs)
    assert caught.value.reason is reason


@pytest.mark.standard("K1", "K2")
def test_the_first_keys_are_one_that_signs_and_a_standby() -> None:
    keys = first_keys()
    assert states(keys) == {"k1": "active", "k2": "pending"}
    assert keys[0].activate_time == T0
    again = ensure(keys, fresh("k3"), fresh("k4"), now=T0 + 1, actor="service:authsvc")
    assert not again.changed
    assert not again.forgotten
    assert again.after == keys


@pytest.mark.standard("K1", "K2", "K3")
def test_a_rotation_activates_the_standby_retires_the_old_and_publishes_another() -> None:
    now = T0 + SCHEDULE.publish_lead
    turned = turn(first_keys(), "k3", now)
    assert states(turned.after) == {"k1": "retiring", "k2": "active", "k3": "pending"}
    old, active, standby = turned.after
    assert {key.kid for key in turned.changed} == {"k1", "k2", "k3"}
    assert (old.retire_time, old.expire_time) == (now, now + SCHEDULE.retiring_period)
    assert old.envelope is None
    assert active.envelope is not None
    assert active.activate_time == now
    assert standby.activate_after == now + SCHEDULE.publish_lead
    assert {key.actor for key in turned.changed} == {"client:admin"}


@pytest.mark.standard("K2")
def test_a_standby_is_not_activated_before_its_lead_has_passed_except_by_force() -> None:
    early = T0 + SCHEDULE.publish_lead - 1
    refused(Reason.KEY_LEAD_NOT_PASSED, turn, first_keys(), "k3", early)
    assert states(turn(first_keys(), "k3", early, force=True).after)["k2"] == "active"


@pytest.mark.standard("K1")
@pytest.mark.parametrize("target", KeyState)
@pytest.mark.parametrize("state", KeyState)
def test_only_the_changes_of_the_table_happen(state: KeyState, target: KeyState) -> None:
    key = replace(fresh("k"), state=state)
    if target in LEGAL_CHANGES[state]:
        changed = key_rules._changed(key, target, "user:ann")
        assert (changed.state, changed.actor) == (target, "user:ann")
    else:
        refused(Reason.KEY_STATE_CONFLICT, key_rules._changed, key, target, "user:ann")


@pytest.mark.standard("K1")
def test_revoked_is_reached_from_any_state_and_left_for_none() -> None:
    assert all(KeyState.REVOKED in LEGAL_CHANGES[state] for state in KeyState if state is not KeyState.REVOKED)
    assert not LEGAL_CHANGES[KeyState.REVOKED]
    assert LEGAL_CHANGES.keys() == set(KeyState)


@pytest.mark.standard("K1")
def test_a_rotation_needs_a_standby_and_a_key_that_is_new() -> None:
    keys = first_keys()
    refused(Reason.KEY_STATE_CONFLICT, turn, keys[:1], "k3", T0 + 900)
    refused(Reason.KEY_STATE_CONFLICT, turn, keys, "k1", T0 + 900)
    active = replace(fresh("k9"), state=KeyState.ACTIVE)
    refused(
        Reason.KEY_STATE_CONFLICT, rotate, keys, active, now=T0 + 900, schedule=SCHEDULE, force=False, actor="client:a"
    )


@pytest.mark.standard("K4")
def test_the_number_of_published_keys_is_bounded() -> None:
    keys, count = first_keys(), 2
    while count < MAX_PUBLISHED:
        keys, count = turn(keys, f"n{count}", T0 + count, force=True).after, count + 1
    assert len(jwks(keys, T0)["keys"]) == MAX_PUBLISHED
    refused(Reason.KEY_STATE_CONFLICT, turn, keys, "more", T0 + 100, force=True)
    later = T0 + SCHEDULE.retiring_period + MAX_PUBLISHED
    keys = retire_due(keys, later).after
    assert states(turn(keys, "more", later, force=True).after)["more"] == "pending"


@pytest.mark.standard("K4")
def test_the_number_of_remembered_keys_is_bounded_and_the_oldest_go_first() -> None:
    past = tuple(replace(fresh(f"p{i}", T0 + i), state=KeyState.RETIRED) for i in range(MAX_PAST))
    oldest = replace(fresh("old", T0 - 1), state=KeyState.RETIRING, expire_time=T0)
    gone = retire_due((*past, oldest, *first_keys()), T0)
    assert gone.forgotten == ("old",)
    assert gone.changed == ()
    assert len(gone.after) == MAX_PAST + 2
    kept = retire_due((*past[1:], oldest, *first_keys()), T0)
    assert kept.forgotten == ()
    assert states(kept.changed) == {"old": "retired"}


@pytest.mark.standard("K9")
def test_revoking_the_active_key_promotes_the_standby_without_its_lead_and_adds_another() -> None:
    gone = withdraw(first_keys(), "k1", now=T0 + 1)
    assert states(gone.after) == {"k1": "revoked", "k2": "active", "r-standby": "pending"}
    revoked = gone.after[0]
    assert (revoked.revoke_time, revoked.revoke_reason, revoked.expire_time) == (T0 + 1, "leaked", T0 + 1)
    assert revoked.envelope is None
    assert [key["kid"] for key in jwks(gone.after, T0 + 1)["keys"]] == ["r-standby", "k2"]


@pytest.mark.standard("K9")
def test_revoking_the_standby_adds_one_with_its_lead() -> None:
    gone = withdraw(first_keys(), "k2")
    assert states(gone.after) == {"k1": "active", "k2": "revoked", "r-standby": "pending"}
    assert gone.after[-1].activate_after == T0 + SCHEDULE.publish_lead


@pytest.mark.standard("K9")
def test_revoking_everything_leaves_two_new_keys() -> None:
    keys = turn(first_keys(), "k3", T0 + 600).after
    gone = withdraw(keys, "k1", "k2", "k3", now=T0 + 601)
    assert states(gone.after) == {
        "k1": "revoked",
        "k2": "revoked",
        "k3": "revoked",
        "r-first": "active",
        "r-standby": "pending",
    }


@pytest.mark.standard("K9")
def test_revoking_again_changes_nothing_and_an_unknown_key_is_not_found() -> None:
    gone = withdraw(first_keys(), "k1")
    assert withdraw(gone.after, "k1", now=T0 + 5, tag="s").changed == ()
    refused(Reason.KEY_NOT_FOUND, withdraw, gone.after, "k1", "nobody")


def test_a_key_that_had_left_the_jwks_keeps_its_time_when_it_is_revoked() -> None:
    keys = turn(first_keys(), "k3", T0 + 600).after
    keys = retire_due(keys, T0 + 600 + SCHEDULE.retiring_period).after
    gone = withdraw(keys, "k1", now=T0 + 10**6)
    assert gone.after[0].state is KeyState.REVOKED
    assert gone.after[0].expire_time == T0 + 600 + SCHEDULE.retiring_period


@pytest.mark.standard("K3")
def test_a_retiring_key_is_published_until_its_last_token_has_expired() -> None:
    keys = turn(first_keys(), "k3", T0 + 600).after
    last = T0 + 600 + key_rules.SIGNER_LAG + SCHEDULE.max_token_ttl + SCHEDULE.leeway
    assert not retire_due(keys, last - 1).changed
    assert "k1" in {key["kid"] for key in jwks(keys, last - 1)["keys"]}
    assert states(retire_due(keys, last).changed) == {"k1": "retired"}
    assert "k1" not in {key["kid"] for key in jwks(keys, last)["keys"]}


@pytest.mark.standard("K3")
@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"key_ttl": 0}, "keys.ttl"), ({"publish_lead": 0}, "keys.publish_lead"), ({"leeway": -1}, "tokens.leeway"),
        ({"leeway": 61}, "tokens.leeway"), ({"max_token_ttl": 0}, "tokens.max_ttl"), ({"key_ttl": 599}, "keys.ttl"),
        ({"publish_lead": 299}, "keys.publish_lead"), ({"jwks_max_age": 0}, "keys.publish_lead"),
        ({"publish_lead": 86_401}, "keys.ttl"),
        ({"max_token_ttl": 86_400}, "keys.ttl"), ({"key_ttl": 3669}, "keys.ttl"),
    ],
)  # fmt: skip
def test_a_schedule_under_which_a_token_could_outlive_its_key_is_refused(changes: dict[str, int], setting: str) -> None:
    assert SCHEDULE.faults() == replace(SCHEDULE, key_ttl=3670).faults() == []
    faults = replace(SCHEDULE, **changes).faults()
    assert any(fault.startswith(setting + ":") for fault in faults)
    assert not any("\n" in fault for fault in faults)


def test_a_rotation_is_due_when_the_active_key_has_had_its_time_and_the_standby_is_ready() -> None:
    keys = first_keys()
    due = T0 + SCHEDULE.key_ttl
    assert not due_for_rotation(keys, due - 1, SCHEDULE)
    assert due_for_rotation(keys, due, SCHEDULE)
    late = (keys[0], replace(keys[1], activate_after=due + 1))
    assert not due_for_rotation(late, due, SCHEDULE)
    assert due_for_rotation(late, due + 1, SCHEDULE)
    assert not due_for_rotation(keys[:1], due, SCHEDULE)
    assert not due_for_rotation(keys[1:], due, SCHEDULE)
    assert not due_for_rotation((replace(keys[0], activate_time=None), keys[1]), due, SCHEDULE)


@pytest.mark.standard("K4")
def test_a_jwks_is_never_empty() -> None:
    revoked = replace(fresh("k"), state=KeyState.REVOKED)
    for keys in ((), (revoked,), (replace(revoked, state=KeyState.RETIRED),)):
        with pytest.raises(Internal):
            jwks(keys, T0)


def test_a_jwks_holds_public_members_only() -> None:
    made = [
        new_key(
            kid=key.kid, algorithm=key.algorithm, public_jwk=key.public_jwk(), envelope=b"sealed", now=T0,
            activate_after=T0, actor="client:admin",
        )
        for key in (ES256, EDDSA, RS256)
    ]  # fmt: skip
    allowed = {"kty", "crv", "x", "y", "n", "e", "kid", "alg", "use"}
    published = jwks(made, T0)["keys"]
    assert all(key.keys() <= allowed and key["use"] == "sig" for key in published)
    assert {key["alg"] for key in published} == {"ES256", "EdDSA", "RS256"}
    published[0]["kid"] = "changed"
    assert "changed" not in {key["kid"] for key in jwks(made, T0)["keys"]}


def test_our_keys_sign_with_our_algorithms_only() -> None:
    with pytest.raises(ValueError, match="algorithm"):
        new_key(
            kid="k", algorithm=Algorithm.PS256, public_jwk={}, envelope=b"", now=T0, activate_after=T0, actor="client:a"
        )


@given(st.floats(0, 1), st.integers(1, 10_000))
def test_caches_of_the_jwks_spread_within_the_schedule(jitter: float, longest: int) -> None:
    schedule = replace(SCHEDULE, jwks_max_age=longest)
    assert max(1, int(longest * 0.8) - 1) <= jwks_max_age(schedule, jitter) <= longest


@pytest.mark.standard("K12")
def test_every_field_of_a_key_row_but_envelope_and_mac_is_authenticated() -> None:
    key = with_mac(MAC_KEY, first_keys()[0])
    assert is_authentic(MAC_KEY, key)
    assert not is_authentic(b"n" * 32, key)
    assert not is_authentic(MAC_KEY, replace(key, mac=b""))
    forged: dict[str, Any] = {
        "kid": "k9", "algorithm": Algorithm.EDDSA, "state": KeyState.PENDING, "public_jwk": {"kty": "EC", "kid": "k9"},
        "create_time": T0 + 1, "activate_after": T0 + 1, "activate_time": None, "retire_time": T0, "expire_time": T0,
        "revoke_time": T0, "revoke_reason": "x", "actor": "user:eve",
    }  # fmt: skip
    assert forged.keys() == {field.name for field in fields(KeyRecord)} - {"envelope", "mac"}
    for name, value in forged.items():
        assert not is_authentic(MAC_KEY, replace(key, **{name: value})), name
    assert is_authentic(MAC_KEY, replace(key, envelope=b"rewrapped"))


@pytest.mark.standard("K12")
def test_dates_do_not_slide_into_each_other() -> None:
    key = first_keys()[1]
    one = replace(key, retire_time=7, expire_time=None)
    other = replace(key, retire_time=None, expire_time=7)
    assert mac_input(one) != mac_input(other)
    assert mac_input(replace(key, public_jwk={"b": "1", "a": "2"})) == mac_input(
        replace(key, public_jwk={"a": "2", "b": "1"})
    )
