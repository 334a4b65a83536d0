"""The service in a process that another one supervises.

Owns: from the supervisor's letter to a started service. May import: everything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from authsvc.api.engine import Engine
from authsvc.bootstrap.foundation import lay_foundation
from authsvc.bootstrap.letter import Letter
from authsvc.bootstrap.service import Addresses, AuthorizationService
from authsvc.config import load
from authsvc.core.errors import AuthsvcError, InvalidRequest
from authsvc.telemetry import log_the_unexpected
from authsvc.transport.link import StartFault


@dataclass(frozen=True, slots=True)
class Inside:
    """A service that another process supervises; see `pyvoy_lifespan.Serving`."""

    service: AuthorizationService
    addresses: Addresses

    @property
    def engine(self) -> Engine:
        """Serves its rows."""
        return self.service.engine

    @property
    def grace(self) -> float:
        """How long a stop waits for calls in flight, in seconds."""
        return self.service.grace

    @property
    def told(self) -> Mapping[str, Any]:
        """Where it listens, since ports may be chosen here."""
        return asdict(self.addresses)

    def unready(self) -> None:
        """Ask for no more traffic."""
        self.service.health.set_serving(serving=False)

    async def stop(self, grace: float = 0.0) -> None:
        """End everything; what is in flight has `grace` seconds."""
        await self.service.stop(grace)


async def start(given: Mapping[str, Any], *, listens_for_grpc: bool) -> Inside:
    """Start from the supervisor's letter; raises StartFault and ListenFault, each one line."""
    letter = Letter.of(given)
    sys.setswitchinterval(letter.switch_interval)
    try:
        config = load(letter.text, os.environ, letter.flags)
        foundation = lay_foundation(config, letter.directory, accept_new_issuer=letter.accept_new_issuer)
        log_the_unexpected(foundation.log)
        service = AuthorizationService(foundation, environment=os.environ)
        try:
            addresses = await service.start(listens_for_grpc=listens_for_grpc, place=letter.place)
        except BaseException:
            await service.stop(0.0)
            raise
    except AuthsvcError as error:
        raise StartFault(_line(error)) from None
    return Inside(service, addresses)


def _line(error: AuthsvcError) -> str:
    if not isinstance(error, InvalidRequest) or not error.violations:
        return f"{error.reason.text}: {error.message}"
    return "; ".join(f"{at.field}: {at.description}" if at.field else at.description for at in error.violations)
