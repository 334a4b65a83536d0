"""What a client must be told, and where it is told: the environment.

Owns: the settings, their names in the environment, and their faults. May import: the standard library and
`core`. Secrets are file paths. Names with a double underscore are the service's own and are not read here.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from authsvc.core import values
from authsvc.core.durations import parse_duration
from authsvc.core.errors import FieldViolation, InvalidRequest
from authsvc.core.pins import wrong_pins

PREFIX = "AUTHSVC_"

DEFAULT_DEADLINE = 0.25
"""Seconds for a whole operation."""


class OnUnavailable(StrEnum):
    """What an answer is where the service is out of reach."""

    DENY = "deny"
    RAISE = "raise"
    ALLOW = "allow"


class Tls(StrEnum):
    """Whether the connection is encrypted. AUTO: yes, except to this very machine without a CA file."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Verify(StrEnum):
    """Where a guard verifies a bearer's token.

    REMOTE: by the service, in the same round trip as the permission. LOCAL: first here, so that rubbish costs no round
    trip and what is asked may depend on the token; then by the service too, where a permission is required. It needs
    the settings' `issuer`, and their `audience` or the rule's.
    """

    REMOTE = "remote"
    LOCAL = "local"


class Watch(StrEnum):
    """Whether local verification follows the service's revocations.

    OFF: it knows the published keys alone, and sees no revocation.
    """

    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach the service, and as whom.

    `address` is `host:port`, a gRPC target, or several `IP:port` with commas between. Replicas take turns: all
    addresses of a name, or all that are listed. `server_name` is what their certificates say where that is not the
    host of `address`. `deadline` is seconds for a whole operation. `audience` is what this service verifies for;
    `issuer` and `audience` are needed only to verify tokens locally. A client certificate may stand for client id
    and secret (the service maps its name to a principal). `pins` are the keys, `sha256/BASE64` of their SPKI, of which
    the server's chain must hold one; then authorities count only where `ca_file` names them.
    """

    address: str
    client_id: str = ""
    client_secret_file: Path | None = None
    issuer: str = ""
    audience: tuple[str, ...] = ()
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    tls: Tls = Tls.AUTO
    deadline: float = DEFAULT_DEADLINE
    on_unavailable: OnUnavailable = OnUnavailable.DENY
    server_name: str = ""
    verify: Verify = Verify.REMOTE
    watch: Watch = Watch.ON
    pins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises InvalidRequest where the pins cannot be meant."""
        faults = list(self._faults_of_pins())
        if faults:
            raise InvalidRequest([FieldViolation(f"{PREFIX}PINS", fault) for fault in faults])

    def _faults_of_pins(self) -> Iterator[str]:
        if not self.pins:
            return
        if wrong := wrong_pins(self.pins):
            yield f"is not sha256/ and the base64 of 32 bytes: {', '.join(wrong)}"
        if self.tls is Tls.OFF:
            yield "needs TLS, which AUTHSVC_TLS switches off"
        if self.address and not self.peers:
            yield f"needs an address of host and port: {self.address}"

    @property
    def target(self) -> str:
        """The gRPC target: `dns:///` unless the address names its own resolver or is a list."""
        if _names_resolver(self.address):
            return self.address
        first, *others = self.addresses
        if not others:
            return f"dns:///{first}"
        return f"{'ipv6' if first.startswith('[') else 'ipv4'}:{','.join(self.addresses)}"

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of the list, one where it is none."""
        return tuple(part.strip() for part in self.address.split(","))

    @property
    def authority(self) -> str:
        """The name for `:authority` and the certificate; empty where the target's own serves."""
        return self.server_name or (self.addresses[0] if len(self.addresses) > 1 else "")

    @property
    def peers(self) -> tuple[tuple[str, int, str], ...]:
        """Host, port and the name to prove, of each address; empty where a resolver of its own finds them, or none."""
        target = self.address.removeprefix("dns:///").removeprefix("dns:")
        if _names_resolver(target) and not target.startswith(("ipv4:", "ipv6:")):
            return ()
        addresses = target.removeprefix("ipv4:").removeprefix("ipv6:").split(",")
        pairs = [part.strip().rpartition(":") for part in addresses]
        if not all(host and port.isdecimal() for host, _, port in pairs):
            return ()
        return tuple((host.strip("[]"), int(port), self.server_name or host.strip("[]")) for host, _, port in pairs)

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken."""
        if self.tls is not Tls.AUTO:
            return self.tls is Tls.ON
        return bool(self.pins) or self.ca_file is not None or self.certificate_file is not None or not self._loopback

    @property
    def _loopback(self) -> bool:
        if self.address.startswith("unix:"):
            return True
        return all(_is_loopback(_host(address.rpartition("/")[2])) for address in self.addresses)

    def local_audience(self, audience: Sequence[str] = ()) -> frozenset[str]:
        """The audience to verify tokens for locally, the settings' unless given.

        Raises InvalidRequest that names every variable which local verification lacks.
        """
        expected = frozenset(audience or self.audience)
        faults = [
            FieldViolation(PREFIX + name, "is required to verify tokens locally")
            for name, value in (("ISSUER", self.issuer), ("AUDIENCE", expected))
            if not value
        ]
        if faults:
            raise InvalidRequest(faults)
        return expected

    def secret(self) -> str:
        """The client's secret, read anew each time, so that a rotated one is seen without a restart."""
        path = self.client_secret_file
        if path is None:
            raise InvalidRequest.of(f"{PREFIX}CLIENT_SECRET_FILE", "is required")
        return _read(path, f"{PREFIX}CLIENT_SECRET_FILE").decode("utf-8", "replace").strip()

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read `AUTHSVC_*`; raises InvalidRequest that names every variable that is missing or wrong."""
        return _Reader(os.environ if environ is None else environ).settings()


def _names_resolver(address: str) -> bool:
    return "://" in address or address.startswith(("unix:", "ipv4:", "ipv6:", "dns:"))


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _ip(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _read(path: Path, variable: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        fault = error.strerror or type(error).__name__
        raise InvalidRequest.of(variable, f"cannot be read: {fault}: {path}") from None
    if not content.strip():
        raise InvalidRequest.of(variable, f"names an empty file: {path}")
    return content


class _Reader:
    """Reads the variables and gathers their faults, so that all are told at once."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._faults: list[FieldViolation] = []

    def settings(self) -> Settings:
        certificate_file, key_file = self._file("CERTIFICATE_FILE"), self._file("KEY_FILE")
        by_certificate = certificate_file is not None and key_file is not None
        if (certificate_file is None) != (key_file is None):
            self._fault("KEY_FILE" if key_file is None else "CERTIFICATE_FILE", "is required beside the other")
        pins = tuple(self._text("PINS").replace(",", " ").split())
        settings = Settings(
            address=self._address(),
            client_id=self._client_id(required=not by_certificate),
            client_secret_file=self._file("CLIENT_SECRET_FILE", required=not by_certificate),
            issuer=self._text("ISSUER"),
            audience=tuple(self._text("AUDIENCE").replace(",", " ").split()),
            ca_file=self._file("CA_FILE"),
            certificate_file=certificate_file,
            key_file=key_file,
            tls=Tls(self._choice("TLS", Tls)),
            deadline=self._deadline(),
            on_unavailable=OnUnavailable(self._choice("ON_UNAVAILABLE", OnUnavailable)),
            server_name=self._text("SERVER_NAME"),
            verify=Verify(self._choice("VERIFY", Verify)),
            watch=Watch(self._choice("WATCH", Watch)),
        )
        try:
            settings = replace(settings, pins=pins)
        except InvalidRequest as refused:
            self._faults.extend(refused.violations)
        if not self._faults and len(settings.addresses) > 1 and settings.encrypted and not settings.server_name:
            self._fault("SERVER_NAME", "is required: the certificates of several addresses are held to one name")
        if self._faults:
            raise InvalidRequest(self._faults)
        return settings

    def _fault(self, name: str, description: str) -> None:
        self._faults.append(FieldViolation(PREFIX + name, description))

    def _text(self, name: str, *, required: bool = False) -> str:
        text = self._environ.get(PREFIX + name, "").strip()
        if not text and required:
            self._fault(name, "is required")
        return text

    def _address(self) -> str:
        text = self._text("ADDRESS", required=True)
        if not text or _names_resolver(text):
            return text
        addresses = [part.strip() for part in text.split(",")]
        wrong = [part for part in addresses if not re.fullmatch(r"(?:\[[^]]+\]|[^:]+):[0-9]{1,5}", part)]
        families = {type(_ip(_host(part))) for part in addresses}
        if wrong:
            self._fault("ADDRESS", f"is not host:port or a gRPC target: {', '.join(wrong)}")
        elif len(addresses) > 1 and (len(families) > 1 or type(None) in families):
            self._fault("ADDRESS", "lists what are not all IPv4 or all IPv6 addresses; put names behind one DNS name")
        return text

    def _client_id(self, *, required: bool) -> str:
        text = self._text("CLIENT_ID", required=required)
        if text:
            try:
                values.client_id(text, PREFIX + "CLIENT_ID")
            except InvalidRequest as refused:
                self._faults.extend(refused.violations)
        return text

    def _file(self, name: str, *, required: bool = False) -> Path | None:
        text = self._text(name, required=required)
        if not text:
            return None
        try:
            _read(Path(text), PREFIX + name)
        except InvalidRequest as refused:
            self._faults.extend(refused.violations)
        return Path(text)

    def _choice(self, name: str, choices: type[StrEnum]) -> str:
        default = next(iter(choices)).value
        text = self._text(name).lower() or default
        if text not in {choice.value for choice in choices}:
            self._fault(name, f"is not one of {', '.join(choices)}: {text}")
            return default
        return text

    def _deadline(self) -> float:
        text = self._text("DEADLINE") or "250ms"
        try:
            microseconds = parse_duration(text)
        except ValueError as error:
            self._fault("DEADLINE", str(error))
            return DEFAULT_DEADLINE
        if microseconds == 0:
            self._fault("DEADLINE", "is zero")
        return microseconds / 1e6
