"""gRPC framing by itself: every way in which bytes can be cut, and what is not gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc.api.calls import Received, Refusal, Unread
from authsvc.core.errors import Exhausted, InvalidRequest
from authsvc.transport import grpc_framing as framing

CAP = 1_000
SPIFFE = "spiffe://prod.example/ns/shop/sa/orders"


def receiving(chunks: Sequence[bytes], *, end: str = "half-close") -> framing.Receive:
    """A caller that sends these, then half-closes, or goes."""
    events: list[Any] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if end == "half-close" and events:
        events[-1]["more_body"] = False
    elif end == "gone":
        events.append({"type": "http.disconnect"})

    async def receive() -> Any:
        # Whoever asks after the end hangs here, as STATE warns: the test then fails by its IndexError.
        return events.pop(0)

    return receive


def all_messages(chunks: Sequence[bytes], *, end: str = "half-close") -> list[Received]:
    async def read() -> list[Received]:
        return [message async for message in framing.messages(receiving(chunks, end=end), CAP)]

    return asyncio.run(read())


def one(chunks: Sequence[bytes], *, end: str = "half-close") -> Received:
    return asyncio.run(framing.one_message(receiving(chunks, end=end), CAP))


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    borders = [0, *sorted({position % (len(data) + 1) for position in at}), len(data)]
    return [data[a:b] for a, b in pairwise(borders)]


@given(st.lists(st.binary(max_size=60), max_size=6), st.lists(st.integers(min_value=0), max_size=8))
def test_messages_come_out_as_they_went_in_however_they_are_cut(messages: list[bytes], at: list[int]) -> None:
    wire = b"".join(framing.framed(message) for message in messages)
    assert all_messages(cut(wire, at)) == messages


@given(st.binary(max_size=60), st.lists(st.integers(min_value=0), max_size=4))
def test_one_message_is_one_however_it_is_cut(message: bytes, at: list[int]) -> None:
    assert one(cut(framing.framed(message), at)) == message


@pytest.mark.standard("U3")
@given(st.binary(min_size=1, max_size=60), st.data())
def test_a_message_cut_short_is_refused(message: bytes, data: st.DataObject) -> None:
    wire = framing.framed(message)
    short = wire[: data.draw(st.integers(min_value=0, max_value=len(wire) - 1))]
    with pytest.raises(InvalidRequest):
        one([short])
    if short:
        with pytest.raises(InvalidRequest):
            all_messages([short])


@pytest.mark.standard("U3")
@pytest.mark.parametrize("count", [0, 2, 3])
def test_not_one_message_is_refused_where_one_belongs(count: int) -> None:
    with pytest.raises(InvalidRequest):
        one([framing.framed(b"a") * count])


@pytest.mark.standard("U3")
@pytest.mark.parametrize("end", ["half-close", "open"])
def test_a_length_above_the_cap_is_judged_before_its_bytes_come(end: str) -> None:
    prefix = b"\0" + (CAP + 1).to_bytes(4, "big")
    assert one([prefix], end=end) == Unread(CAP + 1)
    assert all_messages([framing.framed(b"a"), prefix[:3], prefix[3:]], end=end) == [b"a", Unread(CAP + 1)]
    assert one([framing.framed(b"x" * CAP)], end=end if end == "half-close" else "half-close") == b"x" * CAP


@pytest.mark.standard("U3")
def test_compressed_messages_are_refused() -> None:
    for call in (one, all_messages):
        with pytest.raises(framing.CompressionRefused):
            call([b"\x01\x00\x00\x00\x00"])
    with pytest.raises(framing.CompressionRefused):
        framing.Head([(b"grpc-encoding", b"gzip")])
    framing.Head([(b"grpc-encoding", b"identity")])


def test_a_caller_that_goes_is_not_a_fault_of_the_request() -> None:
    for call in (one, all_messages):
        with pytest.raises(framing.ClientLeft):
            call([framing.framed(b"abc")[:4]], end="gone")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1H", 3600), ("2M", 120), ("3S", 3), ("4m", 0.004), ("5u", 0.000005), ("6n", 6e-9), ("99999999n", 0.099999999)],
)
def test_a_timeout_in_every_unit(text: str, seconds: float) -> None:
    assert framing.parse_timeout(text.encode()) == pytest.approx(seconds)


@pytest.mark.standard("U3")
@pytest.mark.parametrize("text", ["", "S", "1", "1s", "-1S", "+1S", "1_0S", " 1S", "123456789S", "1.5S", "1SS"])
def test_a_timeout_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        framing.parse_timeout(text.encode())


@pytest.mark.standard("U3")
def test_metadata_has_a_cap_with_the_cost_of_each_pair() -> None:
    framing.Head([(b"a", b"b" * 100)] * 100)
    with pytest.raises(Exhausted):
        framing.Head([(b"a", b"")] * 500)


@pytest.mark.standard("U3")
def test_a_header_that_came_twice_counts_twice_and_is_not_lost() -> None:
    head = framing.Head([(b"authorization", b"Bearer a"), (b"x", b"1"), (b"authorization", b"Bearer b")])
    assert head.authorization == ("Bearer a", "Bearer b")
    with pytest.raises(Exhausted):
        framing.Head([(b"a", b"b" * 2_000)] * 10)


def test_binary_metadata_comes_with_or_without_padding() -> None:
    head = framing.Head([(b"a-bin", b"AP8"), (b"b-bin", b"AP8="), (b"c-bin", b"*"), (b"te", b"trailers")])
    assert dict(head.metadata) == {"a-bin": b"\x00\xff", "b-bin": b"\x00\xff", "c-bin": b"*"}


@pytest.mark.parametrize(
    ("value", "is_grpc"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/grpc;x", True),
        ("application/grpc-web", False),
        ("application/json", False),
        ("", False),
    ],
)
def test_what_is_grpc_says_so(value: str, is_grpc: bool) -> None:  # noqa: FBT001 - a parameter of the table
    assert framing.Head([(b"content-type", value.encode())]).is_grpc is is_grpc


def test_trailers_escape_the_message_and_leave_out_padding() -> None:
    headers = dict(framing.trailers(Refusal(5, "50% déjà\n", b"\x00"))["headers"])
    assert headers == {
        b"grpc-status": b"5",
        b"grpc-message": b"50%25 d%C3%A9j%C3%A0%0A",
        b"grpc-status-details-bin": b"AA",
    }
