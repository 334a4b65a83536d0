"""The life cycle under any order of rotations, revocations, retirements and signing."""

from __future__ import annotations

from functools import partial
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from authsvc.core.errors import Conflict, Reason
from authsvc.core.jose import Algorithm
from authsvc.core.keys import (
    LEGAL_CHANGES,
    MAX_PAST,
    MAX_PUBLISHED,
    PUBLISHED,
    SIGNER_LAG,
    KeyRecord,
    KeySchedule,
    KeyState,
    KeyTransition,
    due_for_rotation,
    ensure,
    jwks,
    new_key,
    retire_due,
    revoke,
    rotate,
)
from tests.support.scale import scale

SCHEDULE = KeySchedule(key_ttl=4000, publish_lead=600, max_token_ttl=900, leeway=30, jwks_max_age=300)


class KeyLife(RuleBasedStateMachine):
    """A fleet that rotates, revokes and retires keys and signs with what a lagging replica believes active."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_800_000_000
        self.keys: tuple[KeyRecord, ...] = ()
        self.numbers = count()
        self.tokens: list[tuple[str, int]] = []
        self.signers: list[tuple[str, int]] = []

    def fresh(self, lead: int = SCHEDULE.publish_lead) -> KeyRecord:
        kid = f"k{next(self.numbers)}"
        return new_key(
            kid=kid,
            algorithm=Algorithm.ES256,
            public_jwk={"kid": kid},
            envelope=b"sealed",
            now=self.now,
            activate_after=self.now + lead,
            actor="client:admin",
        )

    def apply(self, change: KeyTransition) -> None:
        before = {key.kid: key for key in self.keys}
        for key in change.changed:
            if key.kid in before:
                assert key.state in LEGAL_CHANGES[before[key.kid].state]
            else:
                assert key.state in {KeyState.PENDING, KeyState.ACTIVE}
        self.keys = change.after
        self.remember_signer()

    def remember_signer(self) -> None:
        (active,) = (key.kid for key in self.keys if key.state is KeyState.ACTIVE)
        if not self.signers or self.signers[-1][0] != active:
            self.signers.append((active, self.now))

    @initialize()
    def begin(self) -> None:
        self.apply(ensure((), self.fresh(0), self.fresh(), now=self.now, actor="service:authsvc"))

    @rule(seconds=st.integers(1, 1200))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(force=st.booleans())
    def turn(self, *, force: bool) -> None:
        standby = next(key for key in self.keys if key.state is KeyState.PENDING)
        early = not force and self.now < standby.create_time + SCHEDULE.publish_lead
        full = sum(key.state in PUBLISHED for key in self.keys) == MAX_PUBLISHED
        change = partial(
            rotate, self.keys, self.fresh(), now=self.now, schedule=SCHEDULE, force=force, actor="client:admin"
        )
        if early or full:
            with pytest.raises(Conflict) as caught:
                change()
            assert caught.value.reason is (Reason.KEY_LEAD_NOT_PASSED if early else Reason.KEY_STATE_CONFLICT)
        else:
            self.apply(change())

    @rule()
    def turn_when_due(self) -> None:
        if due_for_rotation(self.keys, self.now, SCHEDULE):
            self.turn(force=False)

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        kids = data.draw(st.sets(st.sampled_from([key.kid for key in self.keys]), min_size=1))
        replacements = (self.fresh(0), self.fresh())
        self.apply(revoke(self.keys, kids, replacements, now=self.now, reason="leaked", actor="client:admin"))

    @rule()
    def retire(self) -> None:
        self.apply(retire_due(self.keys, self.now))

    @rule(ttl=st.integers(1, SCHEDULE.max_token_ttl), lag=st.integers(0, SIGNER_LAG))
    def sign(self, ttl: int, lag: int) -> None:
        """Sign as a replica does whose snapshot is `lag` seconds old."""
        seen = [kid for kid, since in self.signers if since <= self.now - lag]
        self.tokens.append((seen[-1] if seen else self.signers[0][0], self.now + ttl))

    @invariant()
    def one_key_signs_and_one_stands_by(self) -> None:
        if self.keys:
            states = [key.state for key in self.keys]
            assert states.count(KeyState.ACTIVE) == states.count(KeyState.PENDING) == 1

    @invariant()
    def private_parts_are_where_they_sign_or_will(self) -> None:
        for key in self.keys:
            assert (key.envelope is not None) == (key.state in {KeyState.PENDING, KeyState.ACTIVE})

    @invariant()
    def the_jwks_is_never_empty_and_never_large(self) -> None:
        if self.keys:
            published = {key["kid"] for key in jwks(self.keys, self.now)["keys"]}
            assert {key.kid for key in self.keys if key.state is KeyState.ACTIVE} <= published
            assert 2 <= len(published) <= MAX_PUBLISHED
            assert len(self.keys) <= MAX_PUBLISHED + MAX_PAST

    @invariant()
    def no_live_token_has_lost_its_key_unless_the_key_was_revoked(self) -> None:
        if self.keys:
            published = {key["kid"] for key in jwks(self.keys, self.now)["keys"]}
            revoked = {key.kid for key in self.keys if key.state is KeyState.REVOKED}
            self.tokens = [token for token in self.tokens if self.now < token[1] + SCHEDULE.leeway]
            assert {kid for kid, _ in self.tokens} <= published | revoked


KeyLife.TestCase.settings = settings(max_examples=scale(1000), stateful_step_count=40)


@pytest.mark.standard("K1", "K2", "K3", "K4")
class TestKeyLife(KeyLife.TestCase):  # type: ignore[misc,valid-type]
    """Run the machine."""
