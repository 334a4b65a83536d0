"""A client and its secrets end at a moment, not after it."""

from __future__ import annotations

import pytest

from authsvc.core.clients import Client


@pytest.mark.standard("A2")
def test_a_clients_subject_is_its_id_under_its_own_kind() -> None:
    assert Client("billing").subject == "client:billing"


def test_a_client_lives_until_its_moment() -> None:
    assert Client("billing").live(1 << 40)
    assert Client("billing", expire_time=100).live(99)
    assert not Client("billing", expire_time=100).live(100)
