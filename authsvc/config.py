"""The configuration: one frozen, typed object, checked whole at start.

Owns: every setting, its type, default and meaning. May import: the standard library and `core`.
`load` is a pure function of the file's text, the environment and the flags; later ones win. All faults are
listed at once, each with the setting's name. Secrets are file paths, never values. Durations are strings
with a unit. What follows from other settings is computed, never asked twice.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NewType

from authsvc.core.durations import parse_duration
from authsvc.core.errors import FieldViolation, InvalidRequest
from authsvc.core.jose import SIGNING, Algorithm
from authsvc.core.keys import KeySchedule
from authsvc.core.rates import parse_rate

Seconds = NewType("Seconds", int)
"""A duration in whole seconds, written as a string with a unit: `"15m"`."""

ENVIRONMENT_PREFIX = "AUTHSVC_"
MAX_LEEWAY = 60


class TlsMode(StrEnum):
    """How `listen` and `http_listen` speak TLS."""

    UNSET = ""
    FILES = "files"


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

    mode: TlsMode = _doc("unset is plaintext, on loopback only; `files` reads certificate and key.", TlsMode.UNSET)
    certificate: Path | None = _doc("the certificate chain, PEM.", None)
    key: Path | None = _doc("its private key, PEM; readable by owner and group at most.", None)


@dataclass(frozen=True, slots=True)
class PeerPrincipal:
    """A TLS peer that is a client of ours without a token."""

    peer: str = _doc("a SPIFFE id, or `dns:` and a name, as it stands in the client certificate.", "")
    client_id: str = _doc("the client it speaks as.", "")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A peer that may call Envoy's services, and for what."""

    peer: str = _doc("`loopback`, or a glob over a SPIFFE id or `dns:NAME` of the client certificate.", "")
    routes: tuple[str, ...] = _doc("globs over the names of the policy's routes.", ("*",))
    domains: tuple[str, ...] = _doc("limit domains; `*` any.", ("*",))
    audiences: tuple[str, ...] = _doc("audiences of the routes; `*` any.", ("*",))


@dataclass(frozen=True, slots=True)
class Server:
    """Where the service listens, and to whom."""

    listen: str = _doc("gRPC, host:port.", "127.0.0.1:7070")
    http_listen: str = _doc("JWKS over HTTP, host:port.", "127.0.0.1:7071")
    ops_listen: str = _doc("metrics and probes over plain HTTP, host:port; any address.", "127.0.0.1:7072")
    transport: Literal["grpcio"] = _doc("what carries gRPC.", "grpcio")
    tls: Tls = _doc("certificates.", default_factory=Tls)
    client_ca: Path | None = _doc("CA bundle, PEM; where set, clients must show a certificate of it.", None)
    principals: tuple[PeerPrincipal, ...] = _doc("TLS peers mapped to clients.", ())
    proxies: tuple[Proxy, ...] = _doc("who may call Envoy's services; unset: loopback, all routes.", ())
    reflection: bool | None = _doc("gRPC reflection; unset: on loopback only.", None)
    auth_failures: str = _doc("failed authentications an address may have.", "20/1m")
    grace: Seconds = _doc("how long a stop waits for calls in flight.", Seconds(10))


@dataclass(frozen=True, slots=True)
class Record:
    """The record: keys, clients, policy, bindings, revocations, audit."""

    url: str = _doc("`sqlite:///PATH`; unset: `authsvc.db` in the data directory.", "")


@dataclass(frozen=True, slots=True)
class Counters:
    """The counters of limits."""

    url: Literal["memory:"] = _doc("`memory:` counts in this process.", "memory:")


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
        return self.server.proxies or (Proxy(peer="loopback"),)


def split_listen(listen: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as host and port; raises ValueError with what is wrong."""
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"`{listen}` is not host:port")
    return host.strip("[]"), int(port)


def is_loopback(listen: str) -> bool:
    """Whether a `host:port` can be reached from this machine only."""
    host, _ = split_listen(listen)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load(text: str, environment: Mapping[str, str], flags: Mapping[str, str] | None = None) -> Config:
    """Read the file's text, then the environment, then flags (`server.listen` -> text).

    Raises InvalidRequest with every fault, each under the setting's name.
    """
    faults: list[FieldViolation] = []
    try:
        tree: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest.of("authsvc.toml", f"is not TOML: {error}") from None
    for path, value in {**_from_environment(environment), **(flags or {})}.items():
        _put(tree, path.split("."), value, faults)
    config: Config = _section(Config, tree, "", faults)
    if not faults:
        _judge(config, faults)
    if faults:
        raise InvalidRequest(faults)
    return config


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Names with a double underscore, and `AUTHSVC_ISSUER`-like top-level ones written `AUTHSVC__ISSUER`.

    Others are ignored: Kubernetes injects `AUTHSVC_PORT` and its like for a Service of that name.
    """
    found = {}
    for name, value in environment.items():
        rest = name.removeprefix(ENVIRONMENT_PREFIX)
        if rest != name and "__" in name:
            found[rest.lower().removeprefix("_").replace("__", ".")] = value
    return found


def _put(tree: dict[str, Any], path: list[str], value: str, faults: list[FieldViolation]) -> None:
    node: Any = tree
    for part in path[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            faults.append(FieldViolation(".".join(path), "is not a section"))
            return
    node[path[-1]] = value


def _section(kind: type[Any], tree: Mapping[str, Any], path: str, faults: list[FieldViolation]) -> Any:
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}
    faults.extend(
        FieldViolation(f"{path}{name}", "is not a setting of this release") for name in tree if name not in known
    )
    values = {}
    for name in known & tree.keys():
        try:
            values[name] = _value(hints[name], tree[name], f"{path}{name}", faults)
        except ValueError as error:
            faults.append(FieldViolation(f"{path}{name}", str(error)))
    return kind(**values)


def _value(kind: Any, raw: Any, path: str, faults: list[FieldViolation]) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(raw, Mapping):
            raise ValueError("is a section, not a value")
        return _section(kind, raw, f"{path}.", faults)
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        entries = [part.strip() for part in raw.split(",")] if isinstance(raw, str) and item is str else raw
        if not isinstance(entries, list):
            raise ValueError("is not a list")
        return tuple(_value(item, entry, f"{path}[{i}]", faults) for i, entry in enumerate(entries))
    if kind is Seconds:
        if not isinstance(raw, str):
            raise ValueError('is not a duration such as "15m"')
        return Seconds(parse_duration(raw) // 1_000_000)
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if raw not in choices:
            raise ValueError(f"`{raw}` is not served by this release; it takes {' or '.join(choices)}")
        return raw
    return _scalar(kind, raw)


def _scalar(kind: Any, raw: Any) -> Any:
    if kind is bool:
        if isinstance(raw, bool):
            return raw
        if raw in ("true", "false"):
            return raw == "true"
        raise ValueError("is not true or false")
    if kind is float:
        if isinstance(raw, bool):
            raise ValueError("is not a number")
        try:
            return float(raw)
        except (TypeError, ValueError):
            raise ValueError("is not a number") from None
    if not isinstance(raw, str):
        raise ValueError("is not a text")
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        try:
            return kind(raw)
        except ValueError:
            choices = ", ".join(part.value or "unset" for part in kind)
            raise ValueError(f"`{raw}` is not served by this release; it takes {choices}") from None
    return kind(raw)


def _judge(config: Config, faults: list[FieldViolation]) -> None:
    """What single values cannot show."""

    def fault(name: str, text: str) -> None:
        faults.append(FieldViolation(name, text))

    for name in ("listen", "http_listen", "ops_listen"):
        try:
            split_listen(getattr(config.server, name))
        except ValueError as error:
            fault(f"server.{name}", str(error))
    if faults:
        return
    tls = config.server.tls
    if tls.mode is TlsMode.UNSET:
        for name in ("listen", "http_listen"):
            address = getattr(config.server, name)
            if not is_loopback(address):
                fault(f"server.{name}", f"`{address}` is not loopback: set server.tls.mode to files")
        if config.server.client_ca is not None:
            fault("server.client_ca", "needs server.tls.mode files")
    else:
        for name in ("certificate", "key"):
            if getattr(tls, name) is None:
                fault(f"server.tls.{name}", "is required where server.tls.mode is files")
    if config.server.principals and config.server.client_ca is None:
        fault("server.principals", "needs server.client_ca")
    for index, proxy in enumerate(config.server.proxies):
        if not proxy.peer:
            fault(f"server.proxies[{index}].peer", "is required")
        elif proxy.peer != "loopback" and config.server.client_ca is None:
            fault(f"server.proxies[{index}].peer", "needs server.client_ca")
    try:
        parse_rate(config.server.auth_failures, "server.auth_failures")
    except InvalidRequest as error:
        faults.extend(error.violations)
    if config.issuer and not config.issuer.startswith(("https://", "http://")):
        fault("issuer", "is not an http or https URL")
    if config.record.url and not config.record.url.startswith("sqlite:///"):
        fault("record.url", "is not of the form sqlite:///PATH, the only record of this release")
    if config.keys.algorithm not in SIGNING:
        fault("keys.algorithm", f"`{config.keys.algorithm}` does not sign here; it takes ES256, EdDSA or RS256")
    if not 0 < config.tokens.ttl <= config.tokens.max_ttl:
        fault("tokens.ttl", "is not between 1s and tokens.max_ttl")
    if config.tokens.leeway > MAX_LEEWAY:
        fault("tokens.leeway", "is above 60s")
    for text in config.schedule.faults():
        fault("keys", text)
    if config.policy.source is PolicySource.FILE and config.policy.path is None:
        fault("policy.path", "is required where policy.source is file")
    if not 0.0 <= config.audit.allow_sample <= 1.0:
        fault("audit.allow_sample", "is not between 0 and 1")
    if bool(config.bootstrap.admin_client_id) != bool(config.bootstrap.admin_secret_file):
        fault("bootstrap.admin_client_id", "goes with bootstrap.admin_secret_file, both or neither")
    if not config.on_loopback and not config.bootstrap.generate:
        if config.keys.kek is None:
            fault("keys.kek", "is required off loopback (or bootstrap.generate = true, for a trial)")
        if not config.bootstrap.admin_client_id:
            fault("bootstrap.admin_client_id", "is required off loopback (or bootstrap.generate = true)")
