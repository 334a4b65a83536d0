"""The limit on failed authentication."""

from __future__ import annotations

import pytest

from authsvc.api.throttle import MAX_KEYS, FailedAuthentications, network_of
from authsvc.core.rates import Rate

SECOND = 1_000_000
RATE = Rate(3, 30 * SECOND)


@pytest.mark.standard("S10")
@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8:0:0::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2", True),
        ("", "not an address", True),
    ],
)
def test_an_address_is_a_v4_address_or_a_v6_network(one: str, other: str, same: bool) -> None:  # noqa: FBT001
    assert (network_of(one) == network_of(other)) == same


@pytest.mark.standard("S10")
def test_failures_are_limited_and_forgiven_in_time() -> None:
    failures = FailedAuthentications(RATE)
    waits = [failures.failed("192.0.2.1", "", 0) for _ in range(4)]
    assert waits == [None, None, None, 10.0]
    assert failures.failed("192.0.2.2", "", 0) is None
    assert failures.failed("192.0.2.1", "", 10 * SECOND) is None


@pytest.mark.standard("S10")
def test_a_stranger_cannot_use_up_a_clients_failures() -> None:
    failures = FailedAuthentications(RATE)
    failures.succeeded("198.51.100.1", "billing")
    for place in range(50):
        failures.failed(f"192.0.2.{place}", "billing", 0)
    assert failures.failed("198.51.100.1", "billing", 0) is None


@pytest.mark.standard("S10")
def test_a_client_that_proved_itself_is_limited_wherever_it_did() -> None:
    failures = FailedAuthentications(RATE)
    for place in range(4):
        failures.succeeded(f"192.0.2.{place}", "billing")
    waits = [failures.failed(f"192.0.2.{place}", "billing", 0) for place in range(4)]
    assert waits == [None, None, None, 10.0]


@pytest.mark.standard("U3")
def test_memory_is_bounded() -> None:
    failures = FailedAuthentications(RATE)
    for number in range(MAX_KEYS + 10):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        failures.failed(address, "", 0)
        failures.succeeded(address, "c")
    assert len(failures._states) == len(failures._proven) == MAX_KEYS
