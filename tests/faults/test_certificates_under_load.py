"""Certificates and client CA are rotated under load, and no call is lost (STANDARDS U1)."""

from __future__ import annotations

import ssl
import threading
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
import trustme

from authsvc.v1 import authz_pb2, types_pb2
from tests.support.embedded import Caller, Refused
from tests.support.process import Serving, serving
from tests.support.scale import scale
from tests.support.transports import TRANSPORTS, skip_where_missing
from tests.support.waiting import wait_for

ORDERS = "orders.test"
HERE = ("localhost", "127.0.0.1")
ASKED = authz_pb2.CheckRequest(subject="user:ann", permission="orders:read")
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))


@dataclass
class Volume:
    """Files as Kubernetes mounts a secret: links into a folder whose name is a link too."""

    root: Path
    names = ("tls.crt", "tls.key", "ca.crt")
    count: int = 0

    def put(self, contents: dict[str, bytes]) -> None:
        """All anew in one step, as a kubelet does."""
        self.count += 1
        folder = self.root / f"..{self.count}"
        folder.mkdir()
        for name, content in contents.items():
            _write(folder / name, content)
        moved = self.root / "..data_tmp"
        moved.symlink_to(folder.name)
        moved.replace(self.root / "..data")
        for name in contents:
            if not (self.root / name).is_symlink():
                (self.root / name).symlink_to(f"..data/{name}")

    def edit(self, contents: dict[str, bytes]) -> None:
        """One after the other, in place."""
        for name, content in contents.items():
            (self.root / name).write_bytes(content)

    def replace(self, contents: dict[str, bytes]) -> None:
        """One after the other, each by its name."""
        for name, content in contents.items():
            fresh = self.root / "fresh"
            _write(fresh, content)
            fresh.replace((self.root / name).resolve())


def _write(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


@dataclass
class World:
    """Who issues certificates to whom."""

    servers: trustme.CA = field(default_factory=trustme.CA)
    clients: trustme.CA = field(default_factory=trustme.CA)
    client: trustme.LeafCert = field(init=False)

    def __post_init__(self) -> None:
        self.client = self.clients.issue_cert(ORDERS)

    def server(self) -> dict[str, bytes]:
        """A new certificate of the server's."""
        leaf = self.servers.issue_cert(*HERE)
        return {"tls.crt": leaf.cert_chain_pems[0].bytes(), "tls.key": leaf.private_key_pem.bytes()}

    def credentials(self, leaf: trustme.LeafCert | None = None) -> grpc.ChannelCredentials:
        """What the client holds now, or another leaf."""
        leaf = leaf or self.client
        return grpc.ssl_channel_credentials(
            self.servers.cert_pem.bytes(), leaf.private_key_pem.bytes(), leaf.cert_chain_pems[0].bytes()
        )


@dataclass
class Load:
    """Callers that never pause: some keep a connection, some make one for each call, one fetches keys over HTTP."""

    world: World
    service: Serving
    ended: threading.Event = field(default_factory=threading.Event)
    answered: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    def run(self, pool: futures.Executor) -> list[futures.Future[None]]:
        """Two of each who call, and one who fetches."""
        calling = [
            pool.submit(act, f"{act.__name__} {number}") for act in (self.keeping, self.making) for number in (1, 2)
        ]
        return [*calling, pool.submit(self.fetching, "fetching")]

    def turn(self) -> None:
        """Wait until each has begun anew, with what the world holds now."""
        before = self.answered.copy()
        wait_for(lambda: all(self.answered[kind] > count + 1 for kind, count in before.items()), 20.0, "a turn")

    def keeping(self, kind: str) -> None:
        """One connection for all calls."""
        with grpc.secure_channel(self.service.grpc, self.world.credentials(), OPTIONS) as channel:
            self._repeat(kind, lambda: _check(channel))

    def making(self, kind: str) -> None:
        """A connection a call."""

        def call() -> None:
            with grpc.secure_channel(self.service.grpc, self.world.credentials(), OPTIONS) as channel:
                _check(channel)

        self._repeat(kind, call)

    def fetching(self, kind: str) -> None:
        """A connection a request, over HTTP."""
        trusting = ssl.create_default_context(cadata=self.world.servers.cert_pem.bytes().decode())

        def fetch() -> None:
            with urllib.request.urlopen(
                f"https://{self.service.http}/.well-known/jwks.json", context=trusting, timeout=10
            ) as answer:
                assert answer.status == 200

        self._repeat(kind, fetch)

    def _repeat(self, kind: str, act: Callable[[], None]) -> None:
        while not self.ended.is_set():
            try:
                act()
            except (Refused, OSError, AssertionError) as error:
                self.lost.append(f"{kind}: {error!r}")
            self.answered[kind] += 1
            # Two processors are enough for all who run tests here.
            self.ended.wait(0.005)


def _check(channel: grpc.Channel) -> None:
    answer = Caller(channel)("AuthzService/Check", ASKED)
    assert answer.decision == types_pb2.DECISION_ALLOW


def _lets_in(service: Serving, credentials: grpc.ChannelCredentials) -> bool:
    with grpc.secure_channel(service.grpc, credentials, OPTIONS) as channel:
        try:
            _check(channel)
        except Refused:
            return False
    return True


def _shows(service: Serving, certificate: bytes) -> bool:
    shown = {
        ssl.get_server_certificate(("127.0.0.1", int(address.rpartition(":")[2])), timeout=5)
        for address in (service.grpc, service.http)
    }
    return shown == {ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(certificate.decode()))}


@pytest.mark.standard("U1")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_certificates_and_client_ca_rotate_under_load_and_no_call_is_lost(tmp_path: Path, transport: str) -> None:
    skip_where_missing(transport)
    world, volume, data = World(), Volume(tmp_path / "tls"), tmp_path / "data"
    volume.root.mkdir()
    volume.put({**world.server(), "ca.crt": world.clients.cert_pem.bytes()})
    data.mkdir(mode=0o700)
    (data / "authsvc.toml").write_text(f'[[server.principals]]\npeer = "dns:{ORDERS}"\nclient_id = "orders"\n')
    settings = {
        "server.transport": transport,
        "server.tls.mode": "files",
        "server.tls.certificate": str(volume.root / "tls.crt"),
        "server.tls.key": str(volume.root / "tls.key"),
        "server.client_ca": str(volume.root / "ca.crt"),
    }
    with serving(data, settings, credentials=world.credentials()) as service:
        service.create_client("orders")
        service.apply()
        load = Load(world, service)
        with futures.ThreadPoolExecutor(5) as pool:
            running = load.run(pool)
            try:
                for _ in range(scale(20)):
                    _rotate_certificates(world, volume, service)
                    _rotate_client_ca(world, volume, service, load)
            finally:
                load.ended.set()
        for done in running:
            done.result()
        assert load.lost == []
        assert len(load.answered) == len(running)
        assert min(load.answered.values()) > 20
        assert service.operations("/readyz")[0] == 200
        assert [event for event in service.events() if event.get("kind") == "certificate.refused"] == []


def _rotate_certificates(world: World, volume: Volume, service: Serving) -> None:
    """In each of the ways in which files change."""
    for change in (volume.edit, volume.replace, volume.put):
        fresh = world.server()
        whole = {**fresh, "ca.crt": (volume.root / "ca.crt").read_bytes()}
        change(whole if change == volume.put else fresh)
        wait_for(lambda fresh=fresh: _shows(service, fresh["tls.crt"]), 20.0, change.__name__)  # type: ignore[misc]


def _rotate_client_ca(world: World, volume: Volume, service: Serving, load: Load) -> None:
    """Both are trusted while clients change theirs, then only the new one."""
    old, new = world.clients, trustme.CA()
    leaving, coming = world.client, new.issue_cert(ORDERS)
    volume.edit({"ca.crt": old.cert_pem.bytes() + new.cert_pem.bytes()})
    wait_for(lambda: _lets_in(service, world.credentials(coming)), 20.0, "the new client CA")
    assert _lets_in(service, world.credentials(leaving))
    world.clients, world.client = new, coming
    load.turn()
    volume.replace({"ca.crt": new.cert_pem.bytes()})
    wait_for(lambda: not _lets_in(service, world.credentials(leaving)), 20.0, "the old client CA gone")
    assert _lets_in(service, world.credentials(coming))
