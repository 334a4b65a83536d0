# ruff: noqa: INP001 - a module beside the package, see below
"""The pytest plugin of authsvc-client, loaded by its entry point.

Owns: the fixture. May import: pytest. A module of its own, because pytest imports plugins at each start and
before coverage begins: the client and the fake are imported only when a test asks for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from authsvc_client.testing import FakeAuthsvc


@pytest.fixture
def authsvc() -> Iterator[FakeAuthsvc]:
    """A fake authsvc that grants nothing yet, listening on loopback; stopped at the test's end."""
    from authsvc_client.testing import FakeAuthsvc  # noqa: PLC0415 - see above

    with FakeAuthsvc() as fake:
        yield fake
