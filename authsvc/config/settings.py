"""Every setting, its type, default and meaning.

Owns: the one frozen, typed object. May import: the standard library and `core`. Secrets are file paths, never
values; what follows from other settings is computed, never asked twice.
"""

# ruff: noqa: RUF009 - `_doc` is `dataclasses.field` with the sentence that the reference prints

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NewType

from authsvc.core.addresses import is_loopback_address
from authsvc.core.jose import Algorithm
from authsvc.core.keys import KeySchedule
from authsvc.core.limits import OnFailure

Seconds = NewType("Seconds", int)
"""A duration in whole seconds, written as a string with a unit: `"15m"`."""

Milliseconds = NewType("Milliseconds", int)
"""A duration in whole milliseconds, written likewise: `"10ms"`."""

LOOPBACK = "loopback"
"""The peer of `server.proxies` that is whoever connects from this machine."""


MEMORY = "memory:"
"""The counters of one process."""


class TlsMode(StrEnum):
    """How `listen` and `http_listen` speak TLS."""

    UNSET = ""
    FILES = "files"
    SELF_SIGNED = "self_signed"
    MESH = "mesh"
    INSECURE = "insecure"

    @property
    def speaks_tls(self) -> bool:
        """Whether this process does, rather than a sidecar or nobody."""
        return self in {TlsMode.FILES, TlsMode.SELF_SIGNED}


class TlsVersion(StrEnum):
    """The oldest version of TLS that is spoken."""

    TLS_1_3 = "1.3"
    TLS_1_2 = "1.2"


class PolicySource(StrEnum):
    """Where the policy comes from."""

    RECORD = "record"
    FILE = "file"


def _doc(text: str, default: Any = dataclasses.MISSING, **kwargs: Any) -> Any:
    if default is dataclasses.MISSING:
        return field(metadata={"doc": text}, **kwargs)
    return field(default=default, metadata={"doc": text}, **kwargs)


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates of `listen` and `http_listen`."""

    mode: TlsMode = _doc(
        "unset is plaintext, on loopback only; `files` reads certificate and key; `self_signed` makes and renews them "
        "in the data directory, for clients that are given its `tls-ca.crt` or pin the key; `mesh` lets nobody in but "
        "a sidecar on loopback, which does the TLS and says who calls; `insecure` is plaintext anywhere.",
        TlsMode.UNSET,
    )
    certificate: Path | None = _doc("the certificate chain, PEM.", None)
    key: Path | None = _doc("its private key, PEM; readable by owner and group at most.", None)
    names: tuple[str, ...] = _doc(
        "names and addresses of a self-signed certificate besides those listened on and the machine's.", ()
    )
    min_version: TlsVersion = _doc(
        "the oldest version spoken, `1.3` or `1.2`; an Envoy that calls speaks 1.3 only where its own configuration "
        "says so.",
        TlsVersion.TLS_1_3,
    )


@dataclass(frozen=True, slots=True)
class PeerPrincipal:
    """A TLS peer that is a client of ours without a token."""

    peer: str = _doc(
        "a SPIFFE id or `dns:NAME` as it stands in the client certificate, or a pattern: `*` stays between slashes, "
        "`**` crosses, neither in the trust domain. A name beats a pattern, the first pattern the others.",
        "",
    )
    client_id: str = _doc("the client it speaks as.", "")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A peer that may call Envoy's services, and for what."""

    peer: str = _doc(
        "`loopback`, or a pattern of a SPIFFE id or `dns:NAME`; `*` stays between slashes, `**` crosses.", ""
    )
    routes: tuple[str, ...] = _doc("patterns of the names of the policy's routes; `*` alone: all.", ("*",))
    domains: tuple[str, ...] = _doc("limit domains; `*` any.", ("*",))
    audiences: tuple[str, ...] = _doc("audiences of the routes; `*` any.", ("*",))


@dataclass(frozen=True, slots=True)
class Server:
    """Where the service listens, and to whom."""

    listen: str = _doc("gRPC, host:port.", "127.0.0.1:7070")
    http_listen: str = _doc("JWKS over HTTP, host:port.", "127.0.0.1:7071")
    ops_listen: str = _doc("metrics and probes over plain HTTP, host:port; any address.", "127.0.0.1:7072")
    transport: Literal["grpcio", "pyvoy"] = _doc(
        "what carries gRPC: `grpcio`, or `pyvoy`, Envoy with this service inside.", "grpcio"
    )
    workers: int = _doc("how many processes share the ports; more than one needs PostgreSQL and Redis.", 1)
    tls: Tls = _doc("certificates.", default_factory=Tls)
    client_ca: Path | None = _doc(
        "CA bundle, PEM; where set, callers of gRPC must show a certificate of it. HTTP asks for none.", None
    )
    principals: tuple[PeerPrincipal, ...] = _doc("TLS peers mapped to clients.", ())
    trust_domain: str = _doc("this service's SPIFFE trust domain, in `mesh`.", "cluster.local")
    proxies: tuple[Proxy, ...] = _doc(
        "who may call Envoy's services; unset: loopback, in `mesh` every workload of the trust domain, all routes.", ()
    )
    reflection: bool | None = _doc("gRPC reflection; unset: on loopback only.", None)
    auth_failures: str = _doc("failed authentications an address may have.", "20/1m")
    replicas: int = _doc("how many replicas there are; each enforces its share while no store counts for all.", 1)
    grace: Seconds = _doc("how long a stop waits for calls in flight.", Seconds(10))


@dataclass(frozen=True, slots=True)
class Record:
    """The record: keys, clients, policy, bindings, revocations, audit."""

    url: str = _doc(
        "`sqlite:///PATH`; unset: `authsvc.db` in the data directory. Or `postgresql://USER@HOST/DATABASE`, its "
        "certificate verified by the system's authorities, or by `?sslrootcert=FILE`; only on loopback may it say "
        "`?sslmode=disable`.",
        "",
    )
    password_file: Path | None = _doc("the password for PostgreSQL; read anew at each connection.", None)
    max_age: Seconds = _doc("how long answers go on without reaching the record; then all is refused.", Seconds(120))


@dataclass(frozen=True, slots=True)
class Counters:
    """The counters of limits."""

    url: str = _doc(
        "`memory:` counts in this process; `redis://[USER@]HOST[:PORT][/DB]` and `redis+sentinel://HOST,HOST/MASTER` "
        "in a store that replicas share, `rediss` with TLS.",
        MEMORY,
    )
    password_file: Path | None = _doc("the store's password; read anew at each connection.", None)
    sentinel_password_file: Path | None = _doc("the Sentinels' password, where they ask for one.", None)
    ca: Path | None = _doc("CA bundle of `rediss`, PEM; unset: the system's authorities.", None)
    certificate: Path | None = _doc("the certificate that we show to `rediss`, PEM.", None)
    key: Path | None = _doc("its private key, PEM; readable by owner and group at most.", None)
    on_failure: OnFailure = _doc(
        "what a rule that does not say does while the store is out of reach: `open` lets through, `closed` refuses, "
        "`local` gives each replica its share.",
        OnFailure.LOCAL,
    )
    deadline: Milliseconds = _doc("how long a call waits for the store, 1ms to 1s.", Milliseconds(10))


@dataclass(frozen=True, slots=True)
class Keys:
    """Signing keys and the key-encryption key."""

    algorithm: Algorithm = _doc("what new keys sign with: ES256, EdDSA or RS256.", Algorithm.ES256)
    ttl: Seconds = _doc("how long a key signs before the next takes over.", Seconds(30 * 86400))
    publish_lead: Seconds = _doc("how long a key is published before it signs.", Seconds(3600))
    kek: Path | None = _doc("file with the key-encryption key; unset: generated in the data directory.", None)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Access tokens."""

    ttl: Seconds = _doc("how long a token lives unless its request or client says otherwise.", Seconds(900))
    max_ttl: Seconds = _doc("the longest life a request may ask for.", Seconds(3600))
    leeway: Seconds = _doc("clock difference allowed at exp, nbf, iat; at most 60s.", Seconds(10))


@dataclass(frozen=True, slots=True)
class Policy:
    """Where the policy comes from."""

    source: PolicySource = _doc("`record`: ApplyPolicy; `file`: only `path`.", PolicySource.RECORD)
    path: Path | None = _doc("the policy file, for source `file`.", None)
    grants_service_roles: bool = _doc("whether a policy may bind `authsvc.*` roles.", False)


@dataclass(frozen=True, slots=True)
class Sync:
    """What services that watch hold themselves."""

    max_stale: Seconds = _doc(
        "how long a watcher decides by what it holds without hearing anything; then it asks, or refuses.", Seconds(30)
    )
    max_bytes: int = _doc("the largest state that watchers are sent; above it they are told to ask.", 32 * 1024 * 1024)


@dataclass(frozen=True, slots=True)
class Audit:
    """The audit log."""

    allow_sample: float = _doc("share of allows that is kept; denials and admin acts are kept whole.", 0.01)
    stdout: bool = _doc("whether events are also written to standard output, as JSON lines.", True)


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """The first start."""

    generate: bool = _doc("generate key-encryption key and admin also off loopback; warned at each start.", False)
    admin_client_id: str = _doc("an admin client to make sure of.", "")
    admin_secret_file: Path | None = _doc("its secret.", None)


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set."""

    issuer: str = _doc("`iss` of our tokens, a URL; unset: made from http_listen at the first start.", "")
    server: Server = _doc("listeners.", default_factory=Server)
    record: Record = _doc("record.", default_factory=Record)
    counters: Counters = _doc("counters.", default_factory=Counters)
    keys: Keys = _doc("keys.", default_factory=Keys)
    tokens: Tokens = _doc("tokens.", default_factory=Tokens)
    policy: Policy = _doc("policy.", default_factory=Policy)
    sync: Sync = _doc("watchers.", default_factory=Sync)
    audit: Audit = _doc("audit.", default_factory=Audit)
    bootstrap: Bootstrap = _doc("first start.", default_factory=Bootstrap)

    @property
    def schedule(self) -> KeySchedule:
        """The key schedule that follows from `keys` and `tokens`."""
        return KeySchedule(
            key_ttl=self.keys.ttl,
            publish_lead=self.keys.publish_lead,
            max_token_ttl=self.tokens.max_ttl,
            leeway=self.tokens.leeway,
            jwks_max_age=max(1, min(300, self.keys.publish_lead // 2)),
        )

    @property
    def processes(self) -> int:
        """How many processes serve the record: the workers of all replicas."""
        return self.server.replicas * self.server.workers

    @property
    def on_loopback(self) -> bool:
        """Whether gRPC and HTTP listen on loopback only."""
        return is_loopback(self.server.listen) and is_loopback(self.server.http_listen)

    @property
    def reflection(self) -> bool:
        """Whether reflection is served."""
        chosen = self.server.reflection
        return is_loopback(self.server.listen) if chosen is None else chosen

    @property
    def proxies(self) -> tuple[Proxy, ...]:
        """Who may call Envoy's services."""
        if self.server.proxies:
            return self.server.proxies
        mesh = self.server.tls.mode is TlsMode.MESH
        return (Proxy(peer=f"spiffe://{self.server.trust_domain}/**" if mesh else LOOPBACK),)


def split_listen(listen: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as host and port; raises ValueError with what is wrong."""
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"`{listen}` is not host:port")
    return host.strip("[]"), int(port)


def is_loopback(listen: str) -> bool:
    """Whether a `host:port` can be reached from this machine only."""
    host, _ = split_listen(listen)
    return host == "localhost" or is_loopback_address(host)
