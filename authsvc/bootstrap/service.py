"""The running service: method table, engine, listeners, upkeep.

Owns: in which order things start and end. May import: everything.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

from google.protobuf.descriptor import ServiceDescriptor

from authsvc import __version__
from authsvc.api import envoy_messages, standard_messages
from authsvc.api.engine import Engine, Surroundings
from authsvc.api.envoy_authz import EnvoyAuthorization
from authsvc.api.envoy_rls import FAULTS, EnvoyRateLimits
from authsvc.api.handlers_admin import ClientAdminHandlers, KeyAdminHandlers, PolicyAdminHandlers
from authsvc.api.handlers_authz import AuthzHandlers, LimitHandlers
from authsvc.api.handlers_tokens import KeyHandlers, TokenHandlers
from authsvc.api.health import Health
from authsvc.api.http import Operations, OwnOperations
from authsvc.api.method_table import MethodTable, Service
from authsvc.api.pages import PageTokens
from authsvc.api.reflection import Reflection
from authsvc.api.throttle import FailedAuthentications
from authsvc.bootstrap.counting import Counting, count_by
from authsvc.bootstrap.foundation import Foundation
from authsvc.bootstrap.serving_tls import certificates, live_tls, tls_gauges
from authsvc.bootstrap.syncing import Syncing
from authsvc.config import TlsMode
from authsvc.core.errors import AuthsvcError
from authsvc.core.rates import parse_rate
from authsvc.ids import random_id
from authsvc.telemetry import Gauge, Metrics, Total, tracing
from authsvc.transport.grpcio_server import GrpcioServer
from authsvc.transport.http_server import HttpServers
from authsvc.transport.sharing import Place
from authsvc.transport.siblings import Siblings
from authsvc.transport.tls import LiveTls
from authsvc.usecases.audit_log import AuditLog
from authsvc.usecases.authz import Authorizer
from authsvc.usecases.envoy import Gate
from authsvc.usecases.key_sets import KeySets
from authsvc.usecases.limits import Limits
from authsvc.usecases.principals import Authenticator
from authsvc.usecases.rls import ProxyQuotas
from authsvc.v1 import (
    authz_pb2,
    client_admin_pb2,
    key_admin_pb2,
    key_pb2,
    limit_pb2,
    policy_admin_pb2,
    token_pb2,
)

UPKEEP_S = 5.0
"""Seconds between two looks at what is due: keys to rotate or retire, revocations to forget."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the service listens, with the ports that were chosen where 0 was asked."""

    grpc: str
    http: str
    ops: str


class AuthorizationService:
    """The running service."""

    def __init__(self, foundation: Foundation, *, environment: Mapping[str, str]) -> None:
        self._found = foundation
        config = foundation.config
        self._log = foundation.log
        self._key_sets = KeySets(config.schedule, random.random)
        replica_id = f"replica-{random_id()}"
        self._syncing = Syncing(foundation, replica_id, self._key_sets, self._log.event)
        pseudonym_key = foundation.record.secret("pseudonyms")
        self._counting = count_by(config, foundation.clock, pseudonym_key, self._log.event, self._syncing.live_replicas)
        self._tls: LiveTls | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        gauges = (*_gauges(foundation, self._counting), *self._syncing.gauges(), *self._tls_gauges())
        self._metrics = Metrics((*gauges, Gauge("authsvc_tasks", "Tasks on the loop.", self._tasks)), __version__)
        self._tracing = tracing(environment, __version__)
        self.audit = AuditLog(
            foundation.record,
            replica_id,
            foundation.clock,
            echo=self._log.audit if config.audit.stdout else None,
            tell=self._log.event,
        )
        services = self._services()
        self.health = Health(service.descriptor.full_name for service in services)
        self.engine = self._engine(services)
        self._grpc: GrpcioServer | None = None
        self._http: HttpServers | None = None
        self._siblings: Siblings | None = None
        self._upkeep: asyncio.Task[None] | None = None

    @property
    def grace(self) -> float:
        """How long a stop waits for calls in flight, in seconds."""
        return self._found.config.server.grace

    async def start(self, *, listens_for_grpc: bool = True, place: Place | None = None) -> Addresses:
        """Listen and serve; raises ListenFault, and InvalidRequest where certificate files are at fault.

        Without `listens_for_grpc` another listens and calls `engine`; the address is the one configured then. One of
        several workers listens where its `place` says, and answers for all of them on the operations listener.
        """
        config = self._found.config
        self._loop = asyncio.get_running_loop()
        # Before anything is started: files may be at fault. Of several processes that look at them, one tells.
        tell = self._log.event if place is None or place.number == 1 else None
        self._tls = tls = live_tls(config, self._found.directory, self._found.clock.now, tell)
        self.audit.start()
        await self._syncing.start()
        await self._counting.start()
        sidecar = config.server.tls.mode is TlsMode.MESH
        server = config.server
        wanted = Addresses(server.listen, server.http_listen, server.ops_listen)
        operations: Operations = OwnOperations(self.unready_reason, self._metrics.openmetrics, __version__)
        if place is not None:
            wanted = Addresses(place.grpc, place.http, place.ops)
            operations = self._siblings = Siblings(place, operations)
            await self._siblings.start()
        grpc, shared = wanted.grpc, place is not None
        if listens_for_grpc:
            self._grpc = GrpcioServer(self.engine, asyncio.get_running_loop(), reuse_port=shared)
            grpc = _with_port(grpc, self._grpc.listen(grpc, tls, sidecar=sidecar))
        self._http = HttpServers(
            key_set=lambda: self._key_sets.of(self._found.tail.current, self._found.clock.now()),
            operations=operations,
            log=self._log,
            reuse_port=shared,
        )
        http, ops = await self._http.listen(wanted.http, wanted.ops, tls, sidecar=sidecar)
        if tls is not None:
            tls.start()
        self._upkeep = asyncio.create_task(self._keep_up())
        self.health.set_serving(serving=True)
        return Addresses(grpc, http, ops)

    async def stop(self, grace: float) -> None:
        """Not ready, drain, end: nothing in flight is lost within `grace` seconds (STANDARDS U4)."""
        self.health.set_serving(serving=False)
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.gather(self._upkeep, return_exceptions=True)
        if self._grpc is not None:
            await asyncio.to_thread(self._grpc.drain, grace)
        if self._http is not None:
            await self._http.close()
        if self._tls is not None:
            await asyncio.to_thread(self._tls.stop)
        if self._siblings is not None:
            await self._siblings.stop()
        await self._counting.stop()
        await self._syncing.stop()
        await asyncio.to_thread(self.audit.stop)
        await asyncio.to_thread(self._found.close)
        if self._tracing is not None:
            self._tracing.shutdown()

    @property
    def tls(self) -> LiveTls | None:
        """The certificates in use; None without TLS, and before `start`."""
        return self._tls

    def unready_reason(self) -> str:
        """Why this replica does not want traffic; empty while it does."""
        if not self.health.serving:
            return "starting or draining"
        return self._found.tail.fault or (self._tls.unready_reason() if self._tls is not None else "")

    def _tasks(self) -> int:
        return 0 if self._loop is None else len(asyncio.all_tasks(self._loop))

    def _tls_gauges(self) -> tuple[Gauge, ...]:
        def tls() -> LiveTls:
            assert self._tls is not None
            return self._tls

        return () if certificates(self._found.config, self._found.directory) is None else tls_gauges(tls)

    def _services(self) -> list[Service]:
        found = self._found
        limits = Limits(self._counting.counters)
        pages = PageTokens(found.record.secret("page-tokens"))
        authorizer = Authorizer(found.tokens, limits)
        gate = Gate(found.tokens, limits)
        envoy = EnvoyAuthorization(gate, pseudonym_key=found.record.secret("pseudonyms"))
        rate_limits = EnvoyRateLimits(ProxyQuotas(limits))
        return [
            Service(_descriptor(token_pb2, "TokenService"), TokenHandlers(found.tokens, found.revocations)),
            Service(_descriptor(key_pb2, "KeyService"), KeyHandlers(self._key_sets)),
            Service(_descriptor(authz_pb2, "AuthzService"), AuthzHandlers(authorizer)),
            Service(_descriptor(limit_pb2, "LimitService"), LimitHandlers(limits)),
            self._syncing.service,
            Service(
                _descriptor(key_admin_pb2, "KeyAdminService"), KeyAdminHandlers(found.keys, found.propagation, pages)
            ),
            Service(_descriptor(client_admin_pb2, "ClientAdminService"), ClientAdminHandlers(found.clients, pages)),
            Service(_descriptor(policy_admin_pb2, "PolicyAdminService"), PolicyAdminHandlers(found.policies, pages)),
            Service(envoy_messages.AUTHORIZATION, envoy, envoy.deny),
            Service(envoy_messages.RATE_LIMIT_SERVICE, rate_limits, rate_limits.deny, FAULTS),
        ]

    def _engine(self, services: list[Service]) -> Engine:
        found = self._found
        config = found.config
        services = [*services, Service(standard_messages.HEALTH, self.health)]
        if config.reflection:
            reflection = Reflection(service.descriptor for service in services)
            services.append(Service(standard_messages.REFLECTION, reflection))
        around = Surroundings(
            authenticator=Authenticator(found.tokens, config.server.principals, config.proxies),
            state=found.tail,
            audit=self.audit,
            metrics=self._metrics,
            log=self._log,
            clock=found.clock,
            failures=FailedAuthentications(parse_rate(config.server.auth_failures, "server.auth_failures")),
            allow_sample=config.audit.allow_sample,
            span=None if self._tracing is None else self._tracing.span,
        )
        return Engine(MethodTable.build(services), around)

    async def _keep_up(self) -> None:
        """Rotate and retire keys when they are due, and forget what expired; a failure is loud and tried again."""
        found = self._found
        while True:
            await asyncio.sleep(UPKEEP_S)
            now = found.clock.now()
            try:
                await found.keys.upkeep(found.tail.current, now=now, deadline=time.monotonic() + 10)
                await asyncio.to_thread(found.record.forget_expired, now)
            except AuthsvcError as error:
                self._log.event("upkeep.failed", {"reason": error.reason.text, "text": error.message})
            except Exception as error:  # noqa: BLE001 upkeep must outlive whatever one round meets
                self._log.fault(random_id(), "upkeep", error)


def _descriptor(module: ModuleType, name: str) -> ServiceDescriptor:
    found: ServiceDescriptor = module.DESCRIPTOR.services_by_name[name]
    return found


def _with_port(listen: str, port: int) -> str:
    return f"{listen.rpartition(':')[0]}:{port}"


def _gauges(found: Foundation, counting: Counting) -> tuple[Gauge | Total, ...]:
    return (
        Gauge("authsvc_state_age_seconds", "Since the state was known to be the record's newest.", found.tail.age),
        Gauge("authsvc_keys_broken", "Key rows that failed their MAC.", lambda: len(found.tail.held.broken_kids)),
        Gauge("authsvc_bindings", "Role bindings in force.", lambda: len(found.tail.held.bindings)),
        Gauge("authsvc_clients", "Clients.", lambda: len(found.tail.held.clients)),
        *counting.gauges(),
    )
