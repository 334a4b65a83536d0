"""Tests that measure: no other may run beside them (`make test-alone`)."""

from __future__ import annotations

import pytest

from tests.support.transports import TRANSPORTS, skip_where_missing


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    name: str = request.param
    skip_where_missing(name)
    return name
