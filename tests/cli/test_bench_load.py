"""The benchmark's load against a real gRPC server: what it counts as right, as wrong and as an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from random import Random

import grpc
import pytest

from authsvc.cli.bench_measure import ASKED, BenchFault, Plan, Result, Subject, measure, subject

METHOD = "/bench.Echo/Echo"
SHORT = Plan(seconds=0.3, warm_up_s=0.1, calls=8, connections=2)
Behaviour = Callable[[bytes, grpc.ServicerContext], bytes]


class _Serves(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic for type checkers only
    def __init__(self, behaviour: Behaviour) -> None:
        self._handler = grpc.unary_unary_rpc_method_handler(behaviour)

    def service(self, _details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        return self._handler


@contextmanager
def answering(behaviour: Behaviour) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[_Serves(behaviour)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def asked(address: str, request: bytes, *, until: bytes = b"") -> Subject:
    with grpc.insecure_channel(address) as channel:
        return subject(channel, "row", METHOD, request, right=lambda _: True, token="t" * 600, until=until)


def loaded(behaviour: Behaviour, request: bytes = b"x" * 430, plan: Plan = SHORT) -> Result:
    """Measured; `behaviour` answers calls from the first one asked on."""
    with answering(behaviour) as address:
        return measure(address, asked(address, request), plan)


def after_asking(right: Behaviour, then: Behaviour) -> Behaviour:
    """`right` while the answer is learnt and for the first calls of the load, then `then`."""
    count = 0

    def behaviour(request: bytes, context: grpc.ServicerContext) -> bytes:
        nonlocal count
        count += 1
        return (right if count <= ASKED + 4 else then)(request, context)

    return behaviour


def echo(request: bytes, _context: grpc.ServicerContext) -> bytes:
    return request


def refuse(_request: bytes, context: grpc.ServicerContext) -> bytes:
    context.set_code(grpc.StatusCode.PERMISSION_DENIED)
    return b""


def fail_late(request: bytes, context: grpc.ServicerContext) -> bytes:
    context.set_code(grpc.StatusCode.INTERNAL)
    return request


@pytest.mark.parametrize("size", [0, 1, 430, 20_000, 60_000])
def test_right_answers_of_every_size_are_counted_and_timed(size: int) -> None:
    result = loaded(echo, b"x" * size)
    assert (result.wrong, result.errors) == (0, 0)
    assert result.calls_per_s > 0
    assert result.p99_ms >= result.p50_ms > 0


@pytest.mark.parametrize("other", [b"x" * 429, b"x" * 431, b"y" * 430], ids=["shorter", "longer", "other"])
def test_another_answer_is_wrong_and_no_call(other: bytes) -> None:
    result = loaded(after_asking(echo, lambda _request, _context: other))
    assert result.calls_per_s == 0
    assert result.wrong > 0


@pytest.mark.parametrize("failing", [refuse, fail_late])
def test_a_status_that_is_not_ok_is_an_error_and_no_call(failing: Behaviour) -> None:
    result = loaded(after_asking(echo, failing))
    assert (result.calls_per_s, result.wrong) == (0, 0)
    assert result.errors > 0


def test_what_differs_from_call_to_call_is_not_compared() -> None:
    random = Random(7)
    varying = loaded(lambda _request, _context: b"same" + random.randbytes(9))
    assert varying.wrong == 0
    assert varying.calls_per_s > 0


def test_an_open_loop_keeps_its_rate_and_counts_the_wait_of_what_is_late() -> None:
    result = loaded(echo, plan=Plan(seconds=0.5, warm_up_s=0.1, calls=8, connections=2, rate=100))
    assert 60 <= result.calls_per_s <= 110
    overloaded = loaded(echo, plan=Plan(seconds=0.5, warm_up_s=0.1, calls=8, connections=1, rate=200_000))
    assert overloaded.p99_ms > 100


def test_a_server_that_is_not_there_is_one_line() -> None:
    with answering(echo) as address:
        row = asked(address, b"x")
    with pytest.raises(BenchFault, match="row: "):
        measure(address, row, SHORT)
