"""The laws of the wire, which every transport keeps alike; asked by grpcio's own client."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest
from cryptography import x509
from google.protobuf import descriptor_pb2, descriptor_pool

from authsvc.api.envoy_messages import CheckRequest as EnvoyRequest
from authsvc.api.method_table import BATCH_BYTES
from authsvc.api.standard_messages import HealthCheckResponse, ServerReflectionRequest, ServerReflectionResponse
from authsvc.bootstrap.certificates import TlsFiles
from authsvc.core.roles_builtin import ADMIN
from authsvc.transport.streams import MOST_OF_STRANGERS
from authsvc.v1 import authz_pb2
from tests.support.engines import DENIED
from tests.support.pki import live
from tests.support.scale import scale
from tests.support.scenario import FAULTS
from tests.support.transports import (
    AS_CALLER,
    BATCH,
    CHECK,
    ENVOY,
    GRACE,
    HEALTH,
    REFLECT,
    TRANSPORTS,
    WATCH,
    Busy,
    Served,
    address_beyond_loopback,
    asked,
    call,
    code_of,
    connect,
    details_of,
    do,
    error_of,
    needs_ipv6,
    serving,
    skip_where_missing,
)
from tests.support.waiting import wait_for
from tests.transport.conftest import SPIFFE, Authority, Certificates

CREATE = "/authsvc.v1.ClientAdminService/CreateClient"
XFCC = "x-forwarded-client-cert"
NOT_FOUND_TEXT = "100% déjà\\u000avu"


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    name: str = request.param
    skip_where_missing(name)
    return name


@pytest.fixture(scope="module", params=TRANSPORTS)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server of each, which no test ends."""
    skip_where_missing(request.param)
    with serving(request.param) as server:
        yield server


@pytest.fixture
def channel(served: Served) -> Iterator[Any]:
    """A connection to it."""
    with connect(served.port) as opened:
        yield opened


def test_a_row_is_served(channel: Any) -> None:
    assert authz_pb2.CheckResponse.FromString(call(channel, CHECK)).revision.split(".")[0] == "0123abcd-1"


def test_a_transport_gives_what_it_knows_of_a_call(channel: Any) -> None:
    metadata = (*AS_CALLER, ("x-one", "1"), ("x-one", "2"), ("x-raw-bin", b"\x00\xff"))
    seen = do(channel, "who", metadata=metadata, timeout=30)
    assert (seen["method"], seen["address"], seen["identities"]) == (CHECK[1:], "127.0.0.1", [])
    assert seen["authorization"] == [AS_CALLER[0][1]]
    seen["metadata"].pop("user-agent")
    assert seen["metadata"] == {"x-one": "2", "x-raw-bin": "00ff"}
    assert 20 < seen["left"] < 31
    assert do(channel, "who", timeout=None)["left"] is None


@pytest.mark.standard("E10")
def test_headers_do_not_say_who_the_peer_is(channel: Any) -> None:
    spoofed = (
        *AS_CALLER,
        ("x-forwarded-for", "192.0.2.9"),
        ("x-envoy-external-address", "192.0.2.9"),
        ("x-forwarded-client-cert", f"Hash=00;URI={SPIFFE}"),
    )
    seen = do(channel, "who", metadata=spoofed)
    assert (seen["address"], seen["identities"]) == ("127.0.0.1", [])


def test_two_credentials_come_as_two(channel: Any) -> None:
    metadata = (("authorization", "Bearer nobody"), *AS_CALLER)
    assert code_of(lambda: call(channel, CHECK, metadata=metadata)) is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.standard("U3")
def test_refusals_carry_code_text_and_details(channel: Any) -> None:
    error = error_of(lambda: call(channel, CHECK, b"\xff"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert b"REQUEST_UNDECODABLE" in details_of(error)
    error = error_of(lambda: do(channel, "refuse"))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, NOT_FOUND_TEXT)


@pytest.mark.standard("U3", "U11")
@pytest.mark.parametrize(
    "method",
    [
        "/authsvc.v1.AuthzService/Nothing",
        "/no.Such/Thing",
        CHECK.lower(),
        f"{CHECK}?a=b",
        f"{CHECK}/",
        f"/{CHECK}",
        CHECK.replace("Check", "%43heck"),
    ],
)
def test_what_is_not_a_row_to_the_letter_is_unimplemented(channel: Any, method: str) -> None:
    error = error_of(lambda: call(channel, method))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert b"METHOD_UNKNOWN" in details_of(error)


@pytest.mark.standard("U3")
@pytest.mark.parametrize(
    ("method", "size", "code"),
    [
        (CHECK, 256 * 1024, grpc.StatusCode.INVALID_ARGUMENT),
        (CHECK, 256 * 1024 + 1, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (BATCH, BATCH_BYTES, grpc.StatusCode.INVALID_ARGUMENT),
        (BATCH, BATCH_BYTES + 1, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_message_caps(channel: Any, method: str, size: int, code: grpc.StatusCode) -> None:
    error = error_of(lambda: call(channel, method, b"\x00" * size, timeout=20))
    assert error.code() is code
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        assert str(size - 1) in (error.details() or "")


@pytest.mark.standard("U3")
def test_metadata_is_capped(channel: Any) -> None:
    call(channel, CHECK, metadata=(*AS_CALLER, ("x-much", "a" * 15_000)))
    large = (*AS_CALLER, ("x-much", "a" * 17_000))
    assert code_of(lambda: call(channel, CHECK, metadata=large)) is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.standard("U3")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("when", ["raise", "raise-later"])
def test_whatever_a_handler_raises_is_an_error_without_its_text(channel: Any, when: str, fault: str) -> None:
    error = error_of(lambda: do(channel, f"{when}:{fault}"))
    assert error.code() is not grpc.StatusCode.OK
    assert error.code() in {grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert "secret" not in (error.details() or "")
    assert b"secret" not in details_of(error)


@pytest.mark.standard("E2", "U3")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("when", ["raise", "raise-later"])
def test_on_envoys_row_it_is_the_explicit_denial(channel: Any, when: str, fault: str) -> None:
    request = EnvoyRequest()
    request.attributes.context_extensions["deed"] = f"{when}:{fault}"
    assert call(channel, ENVOY, request.SerializeToString(), metadata=()).startswith(DENIED)


@pytest.mark.standard("U3")
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("answers", [0, 2])
def test_a_stream_that_fails_ends_with_an_error(channel: Any, fault: str, answers: int) -> None:
    requests = [ServerReflectionRequest(file_by_filename="x")] * answers
    requests.append(ServerReflectionRequest(file_by_filename=f"raise:{fault}"))
    stream = channel.stream_stream(REFLECT)(iter([one.SerializeToString() for one in requests]), timeout=5)
    for _ in range(answers):
        next(stream)
    assert code_of(lambda: next(stream)) is grpc.StatusCode.INTERNAL


@pytest.mark.standard("U3", "E3")
def test_an_async_row_ends_at_its_deadline(channel: Any) -> None:
    before = do(channel, "deeds")
    assert code_of(lambda: do(channel, "wait-for-ever", timeout=0.2)) is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for(lambda: bool(do(channel, "deeds")["cancelled"] > before["cancelled"]))
    assert do(channel, "deeds")["waiting"] == 0


@pytest.mark.standard("U3")
def test_a_caller_that_goes_ends_the_row_that_waits_for_a_store(channel: Any) -> None:
    before = do(channel, "deeds")
    waiting = channel.unary_unary(CHECK).future(asked("wait-for-ever"), metadata=AS_CALLER, timeout=60)
    wait_for(lambda: do(channel, "deeds")["waiting"] == before["waiting"] + 1)
    waiting.cancel()
    wait_for(lambda: bool(do(channel, "deeds")["cancelled"] > before["cancelled"]))
    assert do(channel, "deeds")["waiting"] == before["waiting"]


@pytest.mark.standard("U13")
def test_calls_that_wait_for_a_revision_do_not_hold_up_the_others(transport: str) -> None:
    waiting = asked("", min_revision="0123abcd-1.6")
    with serving(transport) as server, connect(server.port) as channel:
        held = [channel.unary_unary(CHECK).future(waiting, metadata=AS_CALLER, timeout=20) for _ in range(2)]
        for _ in range(20):
            call(channel, CHECK)
        assert not any(one.done() for one in held)
        do(channel, "move:6")
        for one in held:
            assert authz_pb2.CheckResponse.FromString(one.result()).revision.endswith("-1.6")
        above = asked("", min_revision="0123abcd-1.7")
        assert code_of(lambda: call(channel, CHECK, above)) is grpc.StatusCode.FAILED_PRECONDITION


def test_health_is_watched(channel: Any) -> None:
    do(channel, "serving:false")
    watched = channel.unary_stream(WATCH)(b"", timeout=20)
    states = [HealthCheckResponse.FromString(next(watched)).status]
    for now in ("true", "false"):
        do(channel, f"serving:{now}")
        states.append(HealthCheckResponse.FromString(next(watched)).status)
    watched.cancel()
    assert states == [2, 1, 2]


def test_a_streams_deadline_is_kept(channel: Any) -> None:
    watched = channel.unary_stream(WATCH)(b"", timeout=0.3)
    next(watched)
    assert code_of(lambda: next(watched)) is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.standard("U3")
def test_a_caller_that_goes_ends_its_stream(channel: Any) -> None:
    asking: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    reflected = channel.stream_stream(REFLECT)(iter(asking.get, None), timeout=20)
    asking.put(ServerReflectionRequest(list_services="").SerializeToString())
    next(reflected)
    assert do(channel, "deeds")["waiting"] == 1
    reflected.cancel()
    wait_for(lambda: do(channel, "deeds")["waiting"] == 0)
    asking.put(None)


@pytest.mark.standard("U3")
def test_a_reader_that_is_slow_holds_up_its_own_stream_alone(channel: Any) -> None:
    pad = ServerReflectionRequest(file_by_filename="pad:100000").SerializeToString()
    padded = channel.stream_stream(REFLECT)(iter([pad]), timeout=30)
    next(padded)
    produced = [do(channel, "deeds")["executed"]]

    def stands() -> bool:
        produced.append(do(channel, "deeds")["executed"])
        # The two questions count themselves.
        return bool(produced[-1] - produced[-2] <= 1)

    wait_for(stands)
    assert produced[-1] < 2_000
    assert do(channel, "who")["method"] == CHECK[1:]
    padded.cancel()
    wait_for(lambda: do(channel, "deeds")["waiting"] == 0)


def test_many_answers_come_in_order_and_all(channel: Any) -> None:
    wanted = [ServerReflectionRequest(file_by_filename=f"many:{n}", host=str(n)) for n in (3, 200, 1)]
    stream = channel.stream_stream(REFLECT)(iter([one.SerializeToString() for one in wanted]), timeout=10)
    hosts = [ServerReflectionResponse.FromString(raw).valid_host for raw in stream]
    assert hosts == ["3"] * 3 + ["200"] * 200 + ["1"]


def test_a_large_answer_arrives_whole(channel: Any) -> None:
    assert do(channel, "large:3000000") == "x" * 3_000_000


def test_reflection_gives_files_with_all_they_import(channel: Any) -> None:
    asked_for = ServerReflectionRequest(file_containing_symbol="authsvc.v1.AuthzService.Check")
    unknown = ServerReflectionRequest(file_by_filename="../../etc/passwd")
    requests = iter([asked_for.SerializeToString(), unknown.SerializeToString(), b""])
    answers = [ServerReflectionResponse.FromString(raw) for raw in channel.stream_stream(REFLECT)(requests, timeout=5)]
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(raw)
        for raw in answers[0].file_descriptor_response.file_descriptor_proto
    ]
    pool, left = descriptor_pool.DescriptorPool(), {file.name: file for file in files}
    while left:
        ready = [f for f in left.values() if not set(f.dependency) & set(left)]
        assert ready
        for file in ready:
            pool.Add(left.pop(file.name))
    assert "Check" in pool.FindServiceByName("authsvc.v1.AuthzService").methods_by_name
    assert [answer.error_response.error_code for answer in answers[1:]] == [5, 3]


@pytest.mark.standard("U3")
def test_streams_are_capped_and_leave_unary_calls_alone(transport: str) -> None:
    with serving(transport, small=True) as server, connect(server.port) as channel:
        held = [channel.unary_stream(WATCH)(b"", timeout=30) for _ in range(3)]
        for one in held:
            next(one)
        beyond = channel.unary_stream(WATCH)(b"", timeout=20)
        assert code_of(lambda: next(beyond)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert channel.unary_unary(HEALTH)(b"", timeout=5)
        held[0].cancel()

        def another() -> bool:
            try:
                next(channel.unary_stream(WATCH)(b"", timeout=20))
            except grpc.RpcError:
                return False
            return True

        # pyvoy learns of it at its next look for callers.
        wait_for(another, 15)


@pytest.mark.standard("U3")
def test_one_address_cannot_hold_every_stream(transport: str) -> None:
    with serving(transport) as server, ExitStack() as stack:
        channels = [stack.enter_context(connect(server.port)) for _ in range(4)]
        held = [channels[n % 4].unary_stream(WATCH)(b"", timeout=60) for n in range(MOST_OF_STRANGERS)]
        for one in held:
            next(one)
        beyond = channels[0].unary_stream(WATCH)(b"", timeout=20)
        assert code_of(lambda: next(beyond)) is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.standard("U4")
def test_a_drain_ends_open_streams_with_unavailable(transport: str) -> None:
    asking: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    with serving(transport) as server, connect(server.port) as channel:
        watched = channel.unary_stream(WATCH)(b"", timeout=20)
        reflected = channel.stream_stream(REFLECT)(iter(asking.get, None), timeout=20)
        asking.put(ServerReflectionRequest(list_services="").SerializeToString())
        next(watched)
        next(reflected)
        started = time.monotonic()
        server.drain()
        assert time.monotonic() - started < GRACE / 2
        for stream in (watched, reflected):
            assert code_of(lambda stream=stream: next(stream)) is grpc.StatusCode.UNAVAILABLE  # type: ignore[misc]
        asking.put(None)


@pytest.mark.standard("U4")
def test_a_drain_finishes_what_is_in_flight(transport: str, tmp_path: Path) -> None:
    with serving(transport, report=tmp_path / "deeds") as server, connect(server.port) as channel:
        held = [channel.unary_unary(CHECK).future(asked("sleep:1.5"), metadata=AS_CALLER, timeout=20) for _ in range(4)]
        wait_for(lambda: do(channel, "deeds")["waiting"] == 4)
        server.drain()
        assert [one.code() for one in held] == [grpc.StatusCode.OK] * 4
        with connect(server.port) as later:
            assert code_of(lambda: call(later, CHECK, timeout=1)) in {
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            }


@pytest.mark.standard("U4")
def test_a_drain_under_load_answers_every_call_that_was_executed(transport: str, tmp_path: Path) -> None:
    with serving(transport, report=tmp_path / "deeds") as server, futures.ThreadPoolExecutor(4) as callers:
        busy = Busy(server.port)
        running = [callers.submit(busy) for _ in range(4)]
        asked_here = 0
        with connect(server.port) as channel:

            def warm() -> bool:
                nonlocal asked_here
                asked_here += 1
                return bool(do(channel, "deeds")["executed"] > scale(4_000))

            wait_for(warm, 60)
        server.drain()
        busy.stop.set()
        results = [one.result() for one in running]
        executed = server.deeds()["executed"]
    assert sum(answered for answered, _ in results) + asked_here == executed
    # What met the stopped server was not executed: no other code may be seen.
    assert set().union(*(codes for _, codes in results)) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def _secure(port: int, certificates: Certificates, pair: tuple[bytes, bytes] | None) -> Any:
    key, certificate = pair or (None, None)
    credentials = grpc.ssl_channel_credentials(certificates.ca, key, certificate)
    return grpc.secure_channel(f"localhost:{port}", credentials, options=(("grpc.use_local_subchannel_pool", 1),))


@pytest.mark.standard("E10", "U1")
def test_identities_come_from_the_verified_certificate(transport: str, certificates: Certificates) -> None:
    with serving(transport, live(certificates.files)) as server:
        with _secure(server.port, certificates, certificates.client) as channel:
            _, admins = Authority().issue(x509.UniformResourceIdentifier("spiffe://prod.example/ns/shop/sa/admin"))
            for spoofed in ((), ((XFCC, f'Hash=ab;Cert="{quote(admins, safe="")}"'),)):
                metadata = (*AS_CALLER, *spoofed)
                seen = do(channel, "who", metadata=metadata)
                evil = ["dns:spiffe://evil/x", "dns:a;URI=spiffe://evil/x"]
                assert seen["identities"] == [SPIFFE, "dns:orders.shop", *evil]
        for pair in (None, certificates.stranger):
            with _secure(server.port, certificates, pair) as channel:
                code = code_of(lambda channel=channel: call(channel, CHECK, timeout=2))  # type: ignore[misc]
                assert code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


@pytest.mark.standard("S12", "E10")
def test_behind_a_sidecar_the_peer_is_the_last_element_that_it_wrote(transport: str) -> None:
    own, claimed = f"By=spiffe://td/ns/authsvc/sa/authsvc;Hash=ab;URI={SPIFFE}", "URI=spiffe://td/ns/shop/sa/admin"
    with serving(transport, host="0.0.0.0", sidecar=True) as server, connect(server.port) as channel:
        for forwarded, identities in (
            (own, [SPIFFE]),
            (f"{claimed},{own}", [SPIFFE]),
            (f"{own},nothing", []),
            ("", []),
        ):
            seen = do(channel, "who", metadata=(*AS_CALLER, (XFCC, forwarded)))
            assert seen["identities"] == identities
        seen = do(channel, "who", metadata=(*AS_CALLER, (XFCC, claimed), (XFCC, own)))
        assert seen["identities"] == [SPIFFE]
        assert do(channel, "who")["identities"] == []


@pytest.mark.standard("S12", "E10")
def test_who_comes_around_the_sidecar_is_refused_on_every_row_in_its_way(transport: str) -> None:
    metadata = (*AS_CALLER, (XFCC, f"URI={SPIFFE}"))
    host = address_beyond_loopback()
    with serving(transport, host="0.0.0.0", sidecar=True) as server, connect(server.port, host) as channel:
        error = error_of(lambda: call(channel, CHECK, metadata=metadata))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert code_of(lambda: call(channel, HEALTH, metadata=metadata)) is grpc.StatusCode.UNAUTHENTICATED
        watch = channel.unary_stream(WATCH)(b"", timeout=5, metadata=metadata)
        assert code_of(lambda: next(watch)) is grpc.StatusCode.UNAUTHENTICATED
        assert call(channel, ENVOY, metadata=metadata).startswith(DENIED)


@pytest.mark.standard("S12")
@needs_ipv6
def test_on_every_address_of_both_families_loopback_is_loopback(transport: str) -> None:
    metadata = (*AS_CALLER, (XFCC, f"URI={SPIFFE}"))
    with serving(transport, host="[::]", sidecar=True) as server:
        for host, address in (("127.0.0.1", "127.0.0.1"), ("[::1]", "::1")):
            with connect(server.port, host) as channel:
                seen = do(channel, "who", metadata=metadata)
                assert seen["identities"] == [SPIFFE]
                assert seen["address"].removeprefix("::ffff:") == address


@pytest.mark.standard("S12", "E10")
def test_a_plain_listener_believes_no_forwarded_certificate(transport: str) -> None:
    with serving(transport) as server, connect(server.port) as channel:
        for forwarded in (f"URI={SPIFFE}", f"Hash=ab;URI={SPIFFE},URI={SPIFFE}", f'Cert="x";URI={SPIFFE}'):
            seen = do(channel, "who", metadata=(*AS_CALLER, (XFCC, forwarded)))
            assert seen["identities"] == []
            assert XFCC not in seen["metadata"]


def test_tls_without_client_certificates_has_no_identities(
    transport: str, certificates: Certificates, plain_files: TlsFiles
) -> None:
    with serving(transport, live(plain_files)) as server, _secure(server.port, certificates, None) as channel:
        for metadata in (AS_CALLER, (*AS_CALLER, (XFCC, f"URI={SPIFFE}"))):
            assert do(channel, "who", metadata=metadata)["identities"] == []
        assert code_of(lambda: call(channel, CREATE)) is grpc.StatusCode.PERMISSION_DENIED
        assert call(channel, CREATE, metadata=(("authorization", f"Bearer {ADMIN}"),)) is not None
