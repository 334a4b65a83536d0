"""What stands for a revoked thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.revocations import RevocationKind, revocation_digest


def test_the_digest_is_the_one_that_the_protos_tell_other_languages() -> None:
    # Computed by a BLAKE2b written from RFC 7693, not by the library in use.
    assert revocation_digest(RevocationKind.TOKEN, "jti").hex() == "f6daa7045d964e3ddea157e2ec9433a7"


@pytest.mark.standard("J21")
@given(st.text(max_size=64), st.sampled_from(RevocationKind), st.sampled_from(RevocationKind))
def test_a_revocation_of_one_kind_concerns_no_other(value: str, one: RevocationKind, other: RevocationKind) -> None:
    assert (revocation_digest(one, value) == revocation_digest(other, value)) is (one is other)
    assert len(revocation_digest(one, value)) == 16
