"""What the client's tests share: both forms of the client behind one call, and clocks that stand still."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from authsvc_client import AsyncClient, Client, Settings

PATIENT = "10s"
"""A deadline for tests that are not about deadlines: two shared cores can be slow."""

BRIEF = "1s"
"""A deadline for tests that wait for it to pass, because nobody is there to answer."""


def _blocking(settings: Settings, operation: Callable[[Any], Any]) -> Any:
    with Client(settings) as client:
        return operation(client)


def _awaiting(settings: Settings, operation: Callable[[Any], Any]) -> Any:
    async def run() -> Any:
        async with AsyncClient(settings) as client:
            return await operation(client)

    return asyncio.run(run())


Ask = Callable[[Settings, Callable[[Any], Any]], Any]


@pytest.fixture(params=[_blocking, _awaiting], ids=["blocking", "awaiting"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Make a client of either form, run one operation, close it."""
    chosen: Ask = request.param
    return chosen
