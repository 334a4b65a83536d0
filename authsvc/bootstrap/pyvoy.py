"""The service inside Envoy: what pyvoy imports there.

Owns: from the supervisor's letter to a started service. May import: everything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from authsvc.api.engine import Engine
from authsvc.bootstrap.foundation import lay_foundation
from authsvc.bootstrap.service import Addresses, AuthorizationService
from authsvc.config import load
from authsvc.core.errors import AuthsvcError, InvalidRequest
from authsvc.telemetry import log_the_unexpected
from authsvc.transport.link import StartFault
from authsvc.transport.pyvoy_lifespan import PyvoyApplication


@dataclass(frozen=True, slots=True)
class Inside:
    """A service whose gRPC listener is Envoy's; see `pyvoy_lifespan.Serving`."""

    service: AuthorizationService
    addresses: Addresses

    @property
    def engine(self) -> Engine:
        """Serves its rows."""
        return self.service.engine

    @property
    def told(self) -> Mapping[str, Any]:
        """Where HTTP is served, since the ports are chosen here."""
        return {"http": self.addresses.http, "ops": self.addresses.ops}

    def unready(self) -> None:
        """Ask for no more traffic."""
        self.service.health.set_serving(serving=False)

    async def stop(self) -> None:
        """End everything."""
        await self.service.stop(0.0)


async def start(given: Mapping[str, Any]) -> Inside:
    """Start from the letter of `cli.serve_pyvoy`; raises StartFault and ListenFault, each one line."""
    sys.setswitchinterval(given["switch_interval"])
    try:
        config = load(given["text"], os.environ, given["flags"])
        foundation = lay_foundation(
            config, Path(given["directory"]), accept_new_issuer=bool(given["accept_new_issuer"])
        )
        log_the_unexpected(foundation.log)
        service = AuthorizationService(foundation, environment=os.environ)
        try:
            addresses = await service.start(listens_for_grpc=False)
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


application = PyvoyApplication(start)
