"""Which addresses are this machine's own."""

from __future__ import annotations

import pytest

from authsvc.core.addresses import is_address, is_loopback_address


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.6", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_this_machine_however_it_is_written(address: str) -> None:
    assert is_loopback_address(address)


@pytest.mark.parametrize("address", ["10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", "localhost", "", "127.0.0.1:80"])
def test_everything_else_is_not(address: str) -> None:
    assert not is_loopback_address(address)


@pytest.mark.parametrize("text", ["10.0.0.1", "::1"])
def test_an_address_is_one(text: str) -> None:
    assert is_address(text)


@pytest.mark.parametrize("text", ["localhost", "", "127.0.0.1:80"])
def test_a_name_is_no_address(text: str) -> None:
    assert not is_address(text)
