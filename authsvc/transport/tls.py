"""What a listener shows and whom it trusts, for as long as it listens.

Owns: the certificates in use, when they are replaced (STANDARDS U1), how bad ones are told of, contexts of `ssl`. May
import: the standard library, `config`, `core.errors`. Where the files are and what is wrong with one is the loader's.

Files are looked at twice a second and whole, because no time stamp and no event of a file system tells of every way in
which they change: edited in place, replaced by name, behind a link that moved (Kubernetes' `..data`).
"""

from __future__ import annotations

import datetime as dt
import os
import ssl
import threading
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from authsvc.config import TlsVersion
from authsvc.core.errors import InvalidRequest

LOOK_SECONDS: Final = 0.5
EXPIRING: Final = 5
"""Told of once less than one part in so many of a certificate's life is left: its renewal is late by then."""

SUITES: Final = tuple(
    f"ECDHE-{kind}-{suite}"
    for suite in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for kind in ("ECDSA", "RSA")
)
"""Of TLS 1.2, where it is asked for: forward-secret and AEAD. Those of TLS 1.3 all are."""

_GRPCIO_SUITES = "GRPC_SSL_CIPHER_SUITES"
_NOT_1_2 = "ECDHE-PSK-CHACHA20-POLY1305"
"""A suite of TLS 1.2 that no handshake can end with, since nobody has a pre-shared key."""


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """A certificate and its key, PEM, which belong together; times are unix seconds."""

    chain: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    """Where set, callers of gRPC must show a certificate of it."""
    not_before: int
    not_after: int
    """When the first certificate of the chain ends."""
    client_ca_not_after: int | None
    """When the last certificate of the CA bundle ends; None without one."""
    anchor: bytes
    """The certificate by which a client that knows no authority can trust this one."""
    pin: str
    """`sha256/...` of the certificate's public key, as clients pin it (RFC 7469 section 2.4)."""

    def faults(self, now: int) -> list[str]:
        """What is wrong with the dates at `now`, a line each."""
        found = []
        if now >= self.not_after:
            found.append(f"server.tls.certificate: expired at {_date(self.not_after)}; its peers refuse it")
        elif now < self.not_before:
            found.append(f"server.tls.certificate: not valid before {_date(self.not_before)}")
        if self.client_ca_not_after is not None and now >= self.client_ca_not_after:
            found.append(f"server.client_ca: expired at {_date(self.client_ca_not_after)}; no caller can be verified")
        return found


Load = Callable[[int], TlsMaterial]
"""What the files hold at a time (unix seconds); raises InvalidRequest naming the setting at fault."""
Replace = Callable[[TlsMaterial], None]
"""Puts other material into use; raises OSError where it cannot, and then is asked again."""
Tell = Callable[[str, Mapping[str, object]], None]


def _tell_nobody(_kind: str, _fields: Mapping[str, object]) -> None:
    """Another process of this service looks at the same files, and tells."""


class LiveTls:
    """The certificates in use. What does not load, does not belong together or is out of date never replaces them."""

    def __init__(
        self,
        load: Load,
        now: Callable[[], int],
        *,
        tell: Tell = _tell_nobody,
        minimum: TlsVersion = TlsVersion.TLS_1_3,
    ) -> None:
        """Load for the first time; raises InvalidRequest. Dates are only told of: a renewal may be on its way."""
        self._load = load
        self._now = now
        self._tell = tell
        self.minimum = minimum
        self._current = load(now())
        self._users: list[Replace] = []
        self._seen: TlsMaterial | None = None
        self._fault = ""
        self._fault_before = ""
        self._told = ""
        self._told_expiring: TlsMaterial | None = None
        self._using = threading.Lock()
        self._ended = threading.Event()
        self._looking: threading.Thread | None = None
        for text in self._current.faults(now()):
            tell("certificate.untimely", {"text": text})

    @property
    def current(self) -> TlsMaterial:
        """What is in use; the same object for as long as it is."""
        return self._current

    @property
    def fault(self) -> str:
        """Why what the files hold is not in use, empty while it is."""
        return self._fault

    def remaining(self) -> float:
        """Seconds until the certificate in use ends, negative afterwards."""
        return float(self._current.not_after - self._now())

    def client_ca_remaining(self) -> float:
        """Seconds until the last certificate of the client CA ends; infinite without one."""
        end = self._current.client_ca_not_after
        return float("inf") if end is None else float(end - self._now())

    def unready_reason(self) -> str:
        """Why no caller can connect; empty while they can."""
        faults = self._current.faults(self._now())
        return faults[0] if faults else ""

    def use(self, replace: Replace) -> None:
        """Call `replace` with what is in use now, and whenever it is replaced; not on the caller's thread then."""
        with self._using:
            replace(self._current)
            self._users.append(replace)

    def leave(self, replace: Replace) -> None:
        """Call it no more; nothing where it was not called."""
        with suppress(ValueError):
            self._users.remove(replace)

    def start(self) -> None:
        """Look at the files twice a second, in a thread of its own, until `stop`."""
        self._looking = threading.Thread(target=self._keep_looking, name="certificates", daemon=True)
        self._looking.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        if self._looking is not None:
            self._looking.join()
            self._looking = None

    def look(self) -> None:
        """Put what the files hold into use, or tell once why it is not.

        Either when it is seen for the second time: a look may fall between two files that change, or find a bundle
        half written that reads as a whole one.
        """
        now = self._now()
        seen_before, self._seen = self._seen, None
        try:
            found = self._seen = self._load(now)
            self._fault = "" if found == self._current else "; ".join(found.faults(now))
            if found == seen_before != self._current and not self._fault:
                self._replace(found)
        except InvalidRequest as error:
            self._fault = "; ".join(f"{at.field}: {at.description}" for at in error.violations)
        except OSError as error:
            self._fault = f"server.tls: cannot put the new certificate into use: {error.strerror}"
        except Exception as error:  # noqa: BLE001 - whatever a file makes a parser raise, the next one is looked at
            self._fault = f"server.tls: cannot read the files: {type(error).__name__}"
        self._tell_of_faults(now)

    def _replace(self, found: TlsMaterial) -> None:
        # Whoever begins meanwhile would be given what goes, and never hear of what comes.
        with self._using:
            for replace in tuple(self._users):
                replace(found)
            self._current = found
        self._tell("certificate.renewed", {"not_after": _date(found.not_after), "pin": found.pin})

    def _tell_of_faults(self, now: int) -> None:
        current = self._current
        fault, fault_before = self._fault, self._fault_before
        self._fault_before = fault
        if not fault:
            self._told = ""
        elif fault == fault_before != self._told:
            self._told = fault
            text = f"{fault}; what was loaded before stays in use until {_date(current.not_after)}"
            self._tell("certificate.refused", {"text": text})
        left, life = current.not_after - now, current.not_after - current.not_before
        if 0 < left < life // EXPIRING and self._told_expiring is not current:
            self._told_expiring = current
            text = f"server.tls.certificate: expires at {_date(current.not_after)}; renew it"
            self._tell("certificate.expiring", {"text": text})

    def _keep_looking(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.look()


def limit_grpcio(environment: MutableMapping[str, str], minimum: TlsVersion) -> None:
    """Say to grpcio, which has no setting for it, from which version on it speaks TLS.

    It reads its environment when it is imported, so this comes before; its clients in this process follow it too.
    """
    environment[_GRPCIO_SUITES] = _NOT_1_2 if minimum is TlsVersion.TLS_1_3 else ":".join(SUITES)


def server_context(material: TlsMaterial, minimum: TlsVersion) -> ssl.SSLContext:
    """A context that shows the certificate and asks callers for none; raises ssl.SSLError where the two do not load."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2 if minimum is TlsVersion.TLS_1_2 else ssl.TLSVersion.TLSv1_3
    context.set_ciphers(":".join(SUITES))
    context.options |= ssl.OP_NO_RENEGOTIATION
    # `ssl` reads files only, and this one is in memory, so that the key gets no second copy on a disk.
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(material.key + b"\n" + material.chain)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    return context


def _date(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat()
