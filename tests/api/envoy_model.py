"""A model of what Envoy does with an answer of ext_authz: the oracle of the property tests (STANDARDS E9).

Written from Envoy's own gRPC client and HTTP filter (`ext_authz_grpc_impl.cc`, `ext_authz.cc`), not from our code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError

from authsvc.api.envoy_messages import CheckResponse

Headers = list[tuple[str, str]]


@dataclass(frozen=True)
class Seen:
    """What becomes of a request. `is_error`: counted as an error, so `failure_mode_allow` alone decides."""

    allowed: bool
    is_error: bool = False
    status: int = 200
    upstream: Headers = field(default_factory=list)
    downstream: Headers = field(default_factory=list)
    body: str = ""


@dataclass(frozen=True)
class Envoy:
    """An Envoy. Before 1.37 it looked at `append` alone, since then at `append_action`."""

    failure_mode_allow: bool = False
    reads_append_action: bool = True

    def meets(self, answer: object, client: Headers) -> Seen:
        """What the service behind sees of a request with these headers, or what its client gets.

        `answer` is what came back: bytes are an answer, anything else a status that is not OK.
        """
        if not isinstance(answer, bytes):
            return self._failed(client)
        try:
            message = CheckResponse.FromString(answer)
        except DecodeError:
            return self._failed(client)
        if message.status.code == 0:
            # Whatever else is set: an empty answer and OK with a denied_response let through.
            return Seen(allowed=True, upstream=self._mutated(message.ok_response, client))
        if message.HasField("error_response"):
            return self._failed(client)
        denied = message.denied_response
        return Seen(
            allowed=False,
            status=denied.status.code or 403,
            downstream=self._put([], denied.headers),
            body=denied.body,
        )

    def _failed(self, client: Headers) -> Seen:
        return Seen(allowed=self.failure_mode_allow, is_error=True, status=503, upstream=client)

    def _mutated(self, allowed: Any, client: Headers) -> Headers:
        """Set, add, append, and then remove: what is both set and removed is gone."""
        headers = self._put(client, allowed.headers)
        gone = {name.lower() for name in allowed.headers_to_remove}
        return [(name, value) for name, value in headers if name not in gone or name.startswith(":") or name == "host"]

    def _put(self, headers: Headers, options: Any) -> Headers:
        found = list(headers)
        for option in options:
            name, value = option.header.key, option.header.value or option.header.raw_value.decode("latin-1")
            if not value and not option.keep_empty_value:
                continue
            appends = option.append_action == 0 if self.reads_append_action else option.append.value
            if not appends:
                found = [pair for pair in found if pair[0] != name]
            found.append((name, value))
        return found


ENVOYS = tuple(Envoy(fails, reads) for fails in (False, True) for reads in (False, True))
"""Every kind that a denial has to hold on."""
