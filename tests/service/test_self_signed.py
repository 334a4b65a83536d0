"""Certificates of the service's own making: made once, renewed by themselves, their key stays."""

from __future__ import annotations

import socket
import ssl
import stat
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from authsvc.bootstrap.self_signed import LIFE, SelfSigned, self_signed
from authsvc.bootstrap.serving_tls import live_tls
from authsvc.clock import FakeClock, SystemClock
from authsvc.config import load
from authsvc.core.errors import InvalidRequest
from authsvc.transport.tls import LiveTls
from tests.support.pki import Authority
from tests.support.transports import TRANSPORTS, do, serving, skip_where_missing

DAY = 86_400
NAMES = ("authsvc.test", "127.0.0.1", "localhost")


def names_in(chain: bytes) -> list[str]:
    found = x509.load_pem_x509_certificate(chain).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in found]


@pytest.mark.standard("U1")
def test_key_and_certificate_are_made_once_for_the_owner_alone(tmp_path: Path) -> None:
    source, clock = SelfSigned(tmp_path, NAMES), FakeClock()
    first = source(clock.now())
    assert names_in(first.chain) == list(NAMES)
    assert first.pin.startswith("sha256/")
    assert first.faults(clock.now()) == []
    files = (source.certificate, source.authority, source.key)
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600] * 3
    assert first.chain.endswith(first.anchor)
    assert source.authority.read_bytes() == first.anchor
    assert SelfSigned(tmp_path, NAMES)(clock.now()) == first


@pytest.mark.standard("U1")
def test_it_renews_itself_in_time_and_a_pin_outlives_it(tmp_path: Path) -> None:
    clock, told = FakeClock(), []
    config = load("", {}, {"server.tls.mode": "self_signed"})
    live = live_tls(config, tmp_path, clock.now, lambda kind, _fields: told.append(kind))
    assert live is not None
    first = live.current
    for _ in range(2 * LIFE.days):
        clock.advance(DAY)
        live.look()
        assert live.remaining() > 29 * DAY
        assert live.unready_reason() == ""
    assert live.current.chain != first.chain
    assert (live.current.pin, live.current.anchor) == (first.pin, first.anchor)
    # Neither refused nor expiring: nobody has anything to do.
    assert set(told) == {"certificate.renewed"}
    assert 2 <= len(told) <= 4


@pytest.mark.standard("U1")
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_client_that_was_given_the_authoritys_certificate_once_trusts_every_renewal(
    tmp_path: Path, transport: str
) -> None:
    skip_where_missing(transport)
    source, clock = SelfSigned(tmp_path, NAMES), SystemClock()
    first = source(clock.now() - 80 * DAY)
    live = LiveTls(source, clock.now)
    assert live.current.chain != first.chain
    with serving(transport, live) as server:
        trusted = grpc.ssl_channel_credentials(first.anchor)
        with grpc.secure_channel(f"localhost:{server.port}", trusted) as channel:
            assert do(channel, "who")
        # OpenSSL's verification, as curl's and most others', is of another make than grpcio's.
        context = ssl.create_default_context(cadata=first.anchor.decode())
        # As Python does by default from 3.13 on.
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="authsvc.test") as secure,
        ):
            assert secure.version() == "TLSv1.3"


@pytest.mark.standard("U1")
def test_other_names_or_another_key_make_another_certificate(tmp_path: Path) -> None:
    clock = FakeClock()
    first = SelfSigned(tmp_path, NAMES)(clock.now())
    renamed = SelfSigned(tmp_path, (*NAMES, "::1"))(clock.now())
    assert names_in(renamed.chain) == [*NAMES, "::1"]
    assert (renamed.pin, renamed.anchor) == (first.pin, first.anchor)
    (tmp_path / "tls.key").unlink()
    other = SelfSigned(tmp_path, NAMES)(clock.now())
    assert other.pin != first.pin
    assert other.anchor != first.anchor


def test_what_is_half_written_is_made_anew(tmp_path: Path) -> None:
    source, clock = SelfSigned(tmp_path, NAMES), FakeClock()
    first = source(clock.now())
    source.certificate.write_text("-----BEGIN CERTIFICATE-----\n")
    again = source(clock.now())
    assert (names_in(again.chain), again.pin) == (list(NAMES), first.pin)


@pytest.mark.standard("U14")
def test_a_key_that_is_open_or_broken_is_no_reason_to_make_another(tmp_path: Path) -> None:
    source, clock = SelfSigned(tmp_path, NAMES), FakeClock()
    source(clock.now())
    source.key.chmod(0o644)
    with pytest.raises(InvalidRequest) as refused:
        source(clock.now())
    assert "can be read by everybody" in refused.value.violations[0].description
    source.key.chmod(0o600)
    source.key.write_text("")
    with pytest.raises(InvalidRequest) as refused:
        source(clock.now())
    assert "holds no unencrypted private key" in refused.value.violations[0].description


def test_callers_may_still_have_to_show_a_certificate_and_its_faults_make_no_new_one(tmp_path: Path) -> None:
    client_ca, clock = tmp_path / "ca.crt", FakeClock()
    client_ca.write_bytes(Authority().pem)
    first = SelfSigned(tmp_path, NAMES, client_ca)(clock.now())
    assert first.client_ca == client_ca.read_bytes()
    client_ca.write_text("")
    with pytest.raises(InvalidRequest):
        SelfSigned(tmp_path, NAMES, client_ca)(clock.now())
    assert SelfSigned(tmp_path, NAMES)(clock.now()).chain == first.chain


@pytest.mark.parametrize(
    ("listen", "more", "expected"),
    [
        ("127.0.0.1:0", "", ["127.0.0.1", "localhost", "::1"]),
        ("10.1.2.3:0", "authsvc,0:0:0::9", ["10.1.2.3", "authsvc", "::9", "localhost"]),
        ("authsvc.test:0", "", ["authsvc.test", "localhost"]),
    ],
)
def test_names_are_those_listened_on_and_those_given(
    tmp_path: Path, listen: str, more: str, expected: list[str]
) -> None:
    settings = {"server.listen": listen, "server.http_listen": listen, "server.tls.mode": "self_signed"}
    if more:
        settings["server.tls.names"] = more
    config = load("", {}, {**settings, "bootstrap.generate": "true"})
    source = self_signed(config, tmp_path)
    assert list(source.names) == expected
    assert names_in(source(FakeClock().now()).chain) == expected


def test_on_every_address_the_machines_own_name_is_among_them(tmp_path: Path) -> None:
    settings = {"server.listen": "0.0.0.0:0", "server.http_listen": "[::]:0", "server.tls.mode": "self_signed"}
    config = load("", {}, {**settings, "bootstrap.generate": "true"})
    assert {"localhost", "127.0.0.1", "::1"} < set(self_signed(config, tmp_path).names)
