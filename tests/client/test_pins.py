"""Pinned keys: only who holds one of them is spoken to, and a change of certificates is not noticed."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from cryptography import x509

from authsvc.bootstrap.self_signed import SelfSigned
from authsvc.core.pins import pin_of
from authsvc_client import AsyncClient, Client, InvalidRequest, Settings, Tls, Unavailable
from authsvc_client.chains import LOOK_AGAIN
from authsvc_client.operations import Operations
from authsvc_client.testing import FakeAuthsvc
from authsvc_client.testing.rows import Rows
from authsvc_client.wire import Wire
from tests.client.conftest import PATIENT, Ask
from tests.support.waiting import wait_for

HOST = "127.0.0.1"
SPARE = f"sha256/{'A' * 43}="


def pin(certificate: trustme.Blob | bytes) -> str:
    """The pin of the first certificate."""
    pem = certificate if isinstance(certificate, bytes) else certificate.bytes()
    return pin_of(x509.load_pem_x509_certificates(pem)[0])


def pair(certificate: trustme.LeafCert, *more: trustme.Blob) -> tuple[bytes, bytes]:
    """Key and chain as a server takes them, with more behind its end."""
    chain = b"".join(each.bytes() for each in (*certificate.cert_chain_pems, *more))
    return certificate.private_key_pem.bytes(), chain


@contextmanager
def presenting(authsvc: FakeAuthsvc, key_and_chain: tuple[bytes, bytes], port: int = 0) -> Iterator[int]:
    """The fake under TLS with this certificate; its port."""
    server = grpc.server(
        ThreadPoolExecutor(16), [Rows(authsvc._service, authsvc._arrive)], options=[("grpc.so_reuseport", 0)]
    )
    bound = server.add_secure_port(f"{HOST}:{port}", grpc.ssl_server_credentials([key_and_chain]))
    server.start()
    try:
        yield bound
    finally:
        server.stop(None).wait()


def pinned(authsvc: FakeAuthsvc, port: int, *pins: str, **variables: str) -> Settings:
    return authsvc.settings(
        AUTHSVC_ADDRESS=f"{HOST}:{port}",
        AUTHSVC_PINS=" ".join(pins),
        **{"AUTHSVC_DEADLINE": PATIENT, **variables},
    )


def allowed(client: Any) -> Any:
    return client.check("user:ann", "orders:read")


@pytest.fixture
def root() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def granted(authsvc: FakeAuthsvc) -> FakeAuthsvc:
    authsvc.grant("user:ann", "orders:read")
    return authsvc


@pytest.mark.parametrize("which", ["leaf", "intermediate", "root in the CA file"])
def test_a_pinned_leaf_or_authority_is_believed(
    granted: FakeAuthsvc, root: trustme.CA, ask: Ask, tmp_path: Path, which: str
) -> None:
    certificate = root.create_child_ca().issue_cert(HOST)
    variables = {}
    if which == "root in the CA file":
        chosen = pin(root.cert_pem)
        variables["AUTHSVC_CA_FILE"] = str(tmp_path / "ca.pem")
        root.cert_pem.write_to_path(variables["AUTHSVC_CA_FILE"])
    else:
        chosen = pin(certificate.cert_chain_pems[["leaf", "intermediate"].index(which)])
    with presenting(granted, pair(certificate)) as port:
        assert ask(pinned(granted, port, chosen, SPARE, **variables), allowed)


def test_local_verification_is_followed_over_a_pinned_connection(granted: FakeAuthsvc, root: trustme.CA) -> None:
    certificate, token = root.issue_cert(HOST), granted.token("user:ann")
    chosen = pin(certificate.cert_chain_pems[0])
    with presenting(granted, pair(certificate)) as port, Client(pinned(granted, port, chosen, SPARE)) as client:
        client.prepare()
        wait_for(lambda: client.watched_revision)
        assert client.verify(token).subject == "user:ann"
        assert client.statistics.asked == 0


def test_a_server_without_a_pinned_key_is_refused_and_the_line_says_what_it_has(
    granted: FakeAuthsvc, root: trustme.CA, ask: Ask, tmp_path: Path
) -> None:
    certificate = root.issue_cert(HOST)
    ca_file = tmp_path / "ca.pem"
    root.cert_pem.write_to_path(ca_file)
    with presenting(granted, pair(certificate)) as port:
        settings = pinned(granted, port, SPARE, SPARE.replace("A=", "B="), AUTHSVC_CA_FILE=str(ca_file))
        answer = ask(settings, allowed)
        assert (answer.allowed, answer.unavailable) == (False, True)
        with pytest.raises(Unavailable) as refused:
            ask(settings, lambda c: c.prepare())
    assert f"presents no key of AUTHSVC_PINS, but {pin(certificate.cert_chain_pems[0])}" in refused.value.message
    assert "\n" not in refused.value.message
    assert granted.received("Check") == granted.received("IssueToken") == 0


def test_whoever_has_a_certificate_of_another_trusted_authority_is_refused(
    granted: FakeAuthsvc, root: trustme.CA, ask: Ask, tmp_path: Path
) -> None:
    ours, other = root.issue_cert(HOST), trustme.CA()
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(root.cert_pem.bytes() + other.cert_pem.bytes())
    with presenting(granted, pair(other.issue_cert(HOST))) as port:
        variables = {"AUTHSVC_CA_FILE": str(ca_file)}
        assert ask(granted.settings(AUTHSVC_ADDRESS=f"{HOST}:{port}", **variables), lambda c: c.prepare()) is None
        settings = pinned(granted, port, pin(ours.cert_chain_pems[0]), SPARE, **variables)
        assert not ask(settings, allowed)


def test_a_pinned_certificate_that_is_shown_but_did_not_sign_gives_nothing(
    granted: FakeAuthsvc, root: trustme.CA, ask: Ask
) -> None:
    """The chain that is fetched holds the pinned authority; the one that counts does not end in it."""
    thief = trustme.CA().issue_cert(HOST)
    with presenting(granted, pair(thief, root.cert_pem)) as port:
        assert not ask(pinned(granted, port, pin(root.cert_pem), SPARE, AUTHSVC_DEADLINE="1s"), allowed)
    assert granted.received("IssueToken") == 0


@pytest.mark.parametrize("fault", ["name", "date"])
def test_a_pinned_key_does_not_excuse_a_wrong_name_or_date(
    granted: FakeAuthsvc, root: trustme.CA, ask: Ask, fault: str
) -> None:
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    certificate = root.issue_cert("other.test") if fault == "name" else root.issue_cert(HOST, not_after=yesterday)
    with presenting(granted, pair(certificate)) as port:
        chosen = pin(certificate.cert_chain_pems[0])
        assert not ask(pinned(granted, port, chosen, SPARE, AUTHSVC_DEADLINE="1s"), allowed)
        if fault == "name":
            assert ask(pinned(granted, port, chosen, SPARE, AUTHSVC_SERVER_NAME="other.test"), allowed)


def test_a_self_signed_certificate_is_believed_by_its_key_and_so_is_its_successor(
    granted: FakeAuthsvc, tmp_path: Path, ask: Ask
) -> None:
    now = int(time.time())
    make = SelfSigned(tmp_path, (HOST,))
    earlier, later = make(now - 70 * 86_400), make(now)
    assert earlier.chain != later.chain
    for made in (earlier, later):
        with presenting(granted, (made.key, made.chain)) as port:
            assert ask(pinned(granted, port, made.pin, SPARE), allowed)


class Loaded:
    """Callers that never stop, and how their calls ended."""

    def __init__(self, settings: Settings) -> None:
        self.ended: Counter[bool] = Counter()
        self.now = 1000.0
        self._wire = Wire(settings)
        self._settings = settings
        self.operations = Operations(settings, self._wire, monotonic=lambda: self.now)
        self._stop = threading.Event()

    @contextmanager
    def running(self) -> Iterator[Loaded]:
        with ThreadPoolExecutor(5) as pool:
            ends = [pool.submit(self._block) for _ in range(4)]
            ends.append(pool.submit(asyncio.run, self._await()))
            try:
                yield self
            finally:
                self._stop.set()
            for end in ends:
                end.result(30)
        self._wire.close()

    def goes_on(self) -> None:
        wanted = self.ended[True] + 60
        wait_for(lambda: self.ended[True] >= wanted, 30.0, lambda: f"more than {self.ended}")

    def _block(self) -> None:
        while not self._stop.wait(0.003):
            answer = self._wire.run(self.operations.consume("api", [{"path": "/"}]), 10.0)
            self.ended[answer.allowed] += 1

    async def _await(self) -> None:
        async with AsyncClient(self._settings) as client:
            while not self._stop.is_set():
                self.ended[(await client.check("user:ann", "orders:read")).allowed] += 1
                await asyncio.to_thread(self._stop.wait, 0.003)


class Renewing:
    """The fake, presenting whatever `change` said last, and ending connections by age as the service does."""

    def __init__(self, authsvc: FakeAuthsvc, key_and_chain: tuple[bytes, bytes]) -> None:
        self.handshakes = 0
        """Since the last change."""
        self._held = key_and_chain
        credentials = grpc.dynamic_ssl_server_credentials(
            self._present(), self._present, require_client_authentication=False
        )
        rows = Rows(authsvc._service, authsvc._arrive)
        self._server = grpc.server(ThreadPoolExecutor(32), [rows], options=[("grpc.max_connection_age_ms", 200)])
        self.port = self._server.add_secure_port(f"{HOST}:0", credentials)
        self._server.start()

    def change(self, key_and_chain: tuple[bytes, bytes]) -> None:
        self._held, self.handshakes = key_and_chain, 0

    def _present(self) -> grpc.ServerCertificateConfiguration:
        self.handshakes += 1
        return grpc.ssl_server_certificate_configuration([self._held])

    def close(self) -> None:
        self._server.stop(None).wait()


def test_a_change_from_one_pinned_leaf_to_another_loses_no_call(granted: FakeAuthsvc, root: trustme.CA) -> None:
    before, after = root.issue_cert(HOST), root.issue_cert(HOST)
    pins = [pin(each.cert_chain_pems[0]) for each in (before, after)]
    with ExitStack() as stack:
        replicas = [stack.enter_context(closing(Renewing(granted, pair(before)))) for _ in range(2)]
        settings = granted.settings(
            AUTHSVC_ADDRESS=",".join(f"{HOST}:{replica.port}" for replica in replicas),
            AUTHSVC_SERVER_NAME=HOST,
            AUTHSVC_PINS=",".join(pins),
            AUTHSVC_DEADLINE=PATIENT,
        )
        with Loaded(settings).running() as load:
            for replica in replicas:
                load.goes_on()
                replica.change(pair(after))
                wait_for(lambda replica=replica: replica.handshakes, what="a connection")  # type: ignore[misc]
                load.goes_on()
                # As time goes by: the next calls look what the replicas present now.
                load.now += LOOK_AGAIN
                load.goes_on()
            wait_for(lambda: min(replica.handshakes for replica in replicas) > 6, what="connections to both")
            load.goes_on()
    assert not load.ended[False]
    assert granted.received("Consume") + granted.received("Check") == load.ended[True]


def test_a_read_finds_a_lone_replica_that_came_back_with_another_pinned_leaf(
    granted: FakeAuthsvc, root: trustme.CA
) -> None:
    before, after = root.issue_cert(HOST), root.issue_cert(HOST)
    pins = [pin(each.cert_chain_pems[0]) for each in (before, after)]
    with presenting(granted, pair(before)) as port:
        client = Client(pinned(granted, port, *pins))
        assert allowed(client)
    with client, presenting(granted, pair(after), port):
        assert allowed(client)


@pytest.mark.parametrize(
    "wrong",
    ["sha256/AAAA", SPARE.removeprefix("sha256/"), SPARE.replace("sha256", "sha1"), SPARE.replace("=", ""), "ab:cd"],
)
def test_a_pin_of_another_form_is_refused_in_one_line(authsvc: FakeAuthsvc, wrong: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        authsvc.settings(AUTHSVC_PINS=f"{SPARE} {wrong}")
    assert str(refused.value) == f"AUTHSVC_PINS: is not sha256/ and the base64 of 32 bytes: {wrong}"


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"AUTHSVC_TLS": "off"}, "needs TLS, which AUTHSVC_TLS switches off"),
        ({"AUTHSVC_ADDRESS": "unix:/run/authsvc"}, "needs an address of host and port"),
        ({"AUTHSVC_ADDRESS": "xds:///authsvc"}, "needs an address of host and port"),
        ({"AUTHSVC_ADDRESS": "authsvc"}, "AUTHSVC_ADDRESS: is not host:port"),
        ({"AUTHSVC_ADDRESS": ""}, "AUTHSVC_ADDRESS: is required"),
    ],
)
def test_pins_that_nothing_could_be_held_to_are_refused(
    authsvc: FakeAuthsvc, variables: dict[str, str], told: str
) -> None:
    with pytest.raises(InvalidRequest, match=told):
        authsvc.settings(AUTHSVC_PINS=SPARE, **variables)


def test_one_pin_is_warned_of_and_two_are_not(authsvc: FakeAuthsvc, caplog: pytest.LogCaptureFixture) -> None:
    Client(authsvc.settings(AUTHSVC_PINS=f"{SPARE} {SPARE}"))
    (record,) = caplog.records
    assert (record.levelno, "pin the next key too" in record.message) == (logging.WARNING, True)
    caplog.clear()
    Client(authsvc.settings(AUTHSVC_PINS=f"{SPARE},{SPARE.replace('A=', 'B=')}"))
    assert not caplog.records


def test_pins_mean_tls_to_this_machine_too() -> None:
    assert Settings("127.0.0.1:1", pins=(SPARE,)).encrypted
    with pytest.raises(InvalidRequest, match="AUTHSVC_PINS"):
        Settings("127.0.0.1:1", pins=(SPARE,), tls=Tls.OFF)
