"""How the command line speaks to a service.

Owns: address and credentials, the caller's token, and what an RPC error looks like. May import: grpcio,
`v1`, `storage.secret_files`. Credentials are sent to the address in their own file and nowhere else, pinned to the
certificate in it; the token lives in memory and ends with the command.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message

from authsvc.cli.faults import CommandFault, Exit, Fault, of_error, wrong_use
from authsvc.core.errors import AuthsvcError, FieldViolation
from authsvc.core.values import SERVICE_AUDIENCE
from authsvc.storage.data_directory import ADMIN_FILE, data_directory
from authsvc.storage.secret_files import AdminCredentials
from authsvc.v1 import token_pb2

DEADLINE_S = 10.0
DEFAULT_ADDRESS = "127.0.0.1:7070"
_DETAILS = "grpc-status-details-bin"
_UNREACHABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Target:
    """Which service, and as whom; without credentials only public rows answer."""

    address: str
    certificate: str = ""
    credentials: AdminCredentials | None = field(default=None, repr=False)
    missing: str = ""
    """Why there are no credentials, for the command that needs them."""


def find_target(address: str, credentials: Path | None, environment: Mapping[str, str] | None = None) -> Target:
    """The service that the options name.

    A credentials file that was named must be there and be for the address; the data directory's own is used where it
    fits.
    """
    path = credentials or data_directory(os.environ if environment is None else environment) / ADMIN_FILE
    if credentials is None and not path.exists():
        return Target(address or DEFAULT_ADDRESS, missing=f"there are no credentials in {path}; give --credentials")
    try:
        found = AdminCredentials.read(path)
    except AuthsvcError as error:
        raise of_error(error, Exit.WRONG_USE) from None
    if address and address != found.address:
        missing = f"the credentials in {path} are for {found.address} and are sent nowhere else; give --credentials"
        if credentials is not None:
            raise wrong_use(missing)
        return Target(address, missing=missing)
    return Target(found.address, found.certificate, found)


class Session:
    """A connection to one service."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.channel = open_channel(target)
        self._token = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()

    def call(self, method: str, request: Message, answer: type[M], *, token: str | None = None) -> M:
        """Call a row, `Service/Method`, as the session's client, with `token` as its bearer.

        Raises CommandFault: what the service refused, or that it cannot be reached.
        """
        bearer = self.token() if token is None else token
        return self._unary(method, request, answer, (("authorization", f"Bearer {bearer}"),))

    def public(self, method: str, request: Message, answer: type[M]) -> M:
        """Call a row without saying who calls."""
        return self._unary(method, request, answer, ())

    def token(self) -> str:
        """The session's own access token for the service, asked for once."""
        if not self._token:
            own = self.target.credentials
            if own is None:
                raise wrong_use(self.target.missing)
            self._token = self.issue(own.client_id, own.client_secret, SERVICE_AUDIENCE).access_token
        return self._token

    def forget(self) -> None:
        """Ask for a new token at the next call: the one held was revoked."""
        self._token = ""

    def issue(self, client_id: str, client_secret: str, *audience: str) -> token_pb2.IssueTokenResponse:
        """A token for a client's secret."""
        request = token_pb2.IssueTokenRequest(audience=audience)
        request.client_credentials.client_id = client_id
        request.client_credentials.client_secret = client_secret
        return self.public("TokenService/IssueToken", request, token_pb2.IssueTokenResponse)

    def _unary(self, method: str, request: Message, answer: type[M], metadata: tuple[tuple[str, str], ...]) -> M:
        row: Callable[..., Any] = self.channel.unary_unary(
            method if method.startswith("/") else f"/authsvc.v1.{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        try:
            found: M = row(request, timeout=DEADLINE_S, metadata=metadata)
        except grpc.RpcError as error:
            raise fault_of(error, self.target.address) from None
        return found


def open_channel(target: Target) -> grpc.Channel:
    """A channel to the target: plain where its file holds no certificate, else pinned to that certificate."""
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", 64 << 20)]
    if not target.certificate:
        return grpc.insecure_channel(target.address, options)
    pinned, name = _pin(target.certificate)
    if name:
        options.append(("grpc.ssl_target_name_override", name))
    return grpc.secure_channel(target.address, grpc.ssl_channel_credentials(pinned), options)


def _pin(chain: str) -> tuple[bytes, str]:
    """The server's own certificate as the only root, and a name that it bears.

    The file names the certificate, so it is that certificate which is checked, by whatever name the address is.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        certificate = x509.load_pem_x509_certificates(chain.encode())[0]
    except ValueError:
        raise wrong_use("the credentials file holds no certificate that can be read") from None
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return certificate.public_bytes(Encoding.PEM), ""
    known = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return certificate.public_bytes(Encoding.PEM), known[0] if known else ""


def fault_of(error: grpc.RpcError, address: str) -> CommandFault:
    """An RPC error as one line: reason, fields, when to try again."""
    code: grpc.StatusCode = error.code()
    details = next((item.value for item in error.trailing_metadata() or () if item.key == _DETAILS), None)
    fault = _described(error.details() or "", details)
    if fault is None and code in _UNREACHABLE:
        return CommandFault(Fault(f"cannot reach the service at {address}: {_why(code, error)}"), Exit.UNREACHABLE)
    if fault is None:
        fault = Fault(error.details() or "the service gave no reason", code.name.lower())
    return CommandFault(fault, Exit.REFUSED)


def _why(code: grpc.StatusCode, error: grpc.RpcError) -> str:
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {DEADLINE_S:g} s"
    text = (error.details() or "").lower()
    if "refused" in text:
        return "connection refused"
    return "TLS failed" if "ssl" in text or "handshak" in text else "no connection"


def _described(message: str, details: str | bytes | None) -> Fault | None:
    """The fault that google.rpc.Status describes, None where the peer sent none."""
    if not isinstance(details, bytes):
        return None
    from google.rpc import error_details_pb2, status_pb2

    status = status_pb2.Status.FromString(details)
    reason, fields, retry_after = "", [], None
    for packed in status.details:
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if packed.Unpack(info):
            reason = info.reason.lower()
        elif packed.Unpack(bad):
            fields = [FieldViolation(fault.field, fault.description) for fault in bad.field_violations]
        elif packed.Unpack(retry):
            retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return Fault(message, reason, tuple(fields), retry_after)
