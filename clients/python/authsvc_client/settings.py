"""What a client must be told, and where it is told: the environment.

Owns: the settings, their names in the environment, and their faults. May import: the standard library and
`core`. Secrets are file paths. Names with a double underscore are the service's own and are not read here.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from authsvc.core import values
from authsvc.core.durations import parse_duration
from authsvc.core.errors import FieldViolation, InvalidRequest

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


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach the service, and as whom.

    `deadline` is seconds for a whole operation. `audience` is what this service verifies for; `issuer` and
    `audience` are needed only to verify tokens locally. A client certificate may stand for client id and
    secret (the service maps its name to a principal).
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

    @property
    def target(self) -> str:
        """The gRPC target: `dns:///` unless the address names its own resolver."""
        own_resolver = "://" in self.address or self.address.startswith(("unix:", "ipv4:", "ipv6:", "dns:"))
        return self.address if own_resolver else f"dns:///{self.address}"

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken."""
        if self.tls is not Tls.AUTO:
            return self.tls is Tls.ON
        return self.ca_file is not None or self.certificate_file is not None or not self._loopback

    @property
    def _loopback(self) -> bool:
        if self.address.startswith("unix:"):
            return True
        host = self.target.rpartition("/")[2].rpartition(":")[0].strip("[]")
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

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
        )
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
        _, colon, port = text.rpartition(":")
        if text and "://" not in text and not text.startswith("unix:") and not (colon and port.isdigit()):
            self._fault("ADDRESS", f"is not host:port or a gRPC target: {text}")
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
