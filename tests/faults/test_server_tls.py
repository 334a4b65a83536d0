"""Certificates of a running service: renewed under it, half renewed, expired, or none that loads."""

from __future__ import annotations

import datetime as dt
import json
import ssl
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from authsvc.v1 import key_pb2
from tests.support.pki import Authority
from tests.support.process import Serving, refused_start, serving
from tests.support.transports import TRANSPORTS, skip_where_missing
from tests.support.waiting import wait_for

NAMES = ("localhost", "127.0.0.1")


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    name: str = request.param
    skip_where_missing(name)
    return name


def files(authority: Authority, folder: Path, transport: str) -> dict[str, str]:
    """Settings of a service with a certificate and without client certificates."""
    settings = {name: value for name, value in authority.write(folder, *NAMES).items() if name != "server.client_ca"}
    return {**settings, "server.transport": transport}


def told(service: Serving, kind: str) -> list[str]:
    """What the service has told of its certificates."""
    return [event["text"] for event in service.events() if event.get("kind") == f"certificate.{kind}"]


def metric(service: Serving, name: str) -> float:
    """One number of its metrics."""
    _, text = service.operations("/metrics")
    return float(next(line for line in text.splitlines() if line.startswith(f"{name} ")).split()[1])


def put(path: Path, content: bytes) -> None:
    """Replace a file as renewals do: whole, by its name."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.touch(mode=0o600)
    fresh.write_bytes(content)
    fresh.replace(path)


def serial(certificate: bytes | str) -> int:
    pem = certificate.encode() if isinstance(certificate, str) else certificate
    return x509.load_pem_x509_certificate(pem).serial_number


def shown(address: str) -> int:
    """The serial number of the certificate that a listener shows to a new connection."""
    host, _, port = address.rpartition(":")
    return serial(ssl.get_server_certificate((host, int(port)), timeout=5))


def fetch_keys(service: Serving) -> None:
    assert service.call("KeyService/GetJwks", key_pb2.GetJwksRequest()).jwks


@pytest.mark.standard("U1")
def test_a_renewed_certificate_is_shown_without_a_restart_and_open_connections_stay(
    tmp_path: Path, transport: str
) -> None:
    authority = Authority()
    settings = files(authority, tmp_path, transport)
    certificate, key = (Path(settings[f"server.tls.{name}"]) for name in ("certificate", "key"))
    first = serial(certificate.read_bytes())
    trusted = grpc.ssl_channel_credentials(authority.pem)
    with serving(tmp_path / "data", settings, credentials=trusted) as service:
        fetch_keys(service)
        listeners = (service.grpc, service.http)
        assert [shown(address) for address in listeners] == [first, first]

        renewed, its_key = authority.issue(*NAMES)
        put(certificate, renewed)
        # Half renewed: the pair does not load, so the one before stays, and that is told.
        wait_for(lambda: told(service, "refused"), 10.0)
        assert "is not the key of the certificate" in told(service, "refused")[0]
        assert metric(service, "authsvc_tls_files_refused") == 1
        assert service.operations("/readyz")[0] == 200
        assert [shown(address) for address in listeners] == [first, first]

        put(key, its_key)
        for address in listeners:
            wait_for(lambda address=address: shown(address) == serial(renewed), 5.0, address)  # type: ignore[misc]
        fetch_keys(service)
        with grpc.secure_channel(service.grpc, trusted) as fresh:
            grpc.channel_ready_future(fresh).result(5)

        wait_for(lambda: metric(service, "authsvc_tls_files_refused") == 0, 10.0)
        put(certificate, b"not a certificate")
        wait_for(lambda: metric(service, "authsvc_tls_files_refused") == 1, 10.0)
        assert [shown(address) for address in listeners] == [serial(renewed)] * 2
        admin = json.loads((service.directory / "admin.json").read_text())
        assert serial(admin["certificate"]) == serial(renewed)


@pytest.mark.standard("U1")
def test_an_admins_file_that_is_none_holds_up_no_renewal(tmp_path: Path, transport: str) -> None:
    authority = Authority()
    settings = files(authority, tmp_path, transport)
    trusted = grpc.ssl_channel_credentials(authority.pem)
    with serving(tmp_path / "data", settings, credentials=trusted) as service:
        put(service.directory / "admin.json", b"{")
        renewed, its_key = authority.issue(*NAMES)
        put(Path(settings["server.tls.certificate"]), renewed)
        put(Path(settings["server.tls.key"]), its_key)
        for address in (service.grpc, service.http):
            wait_for(lambda address=address: shown(address) == serial(renewed), 10.0, address)  # type: ignore[misc]
        wait_for(lambda: metric(service, "authsvc_tls_files_refused") == 0, 10.0)


@pytest.mark.standard("U1", "U14")
def test_an_expired_certificate_is_said_at_start_and_a_renewal_heals_it(tmp_path: Path, transport: str) -> None:
    authority = Authority()
    settings = files(authority, tmp_path, transport)
    certificate, key = (Path(settings[f"server.tls.{name}"]) for name in ("certificate", "key"))
    expired, its_key = authority.issue(*NAMES, valid_for=-dt.timedelta(hours=1))
    put(certificate, expired)
    put(key, its_key)
    trusted = grpc.ssl_channel_credentials(authority.pem)
    with serving(tmp_path / "data", settings, credentials=trusted, readyz=503) as service:
        (text,) = told(service, "untimely")
        assert text.startswith("server.tls.certificate: expired at ")
        assert "server.tls.certificate: expired at " in service.operations("/readyz")[1]
        assert metric(service, "authsvc_tls_certificate_remaining_seconds") < 0
        renewed, its_key = authority.issue(*NAMES)
        put(certificate, renewed)
        put(key, its_key)
        wait_for(lambda: service.operations("/readyz")[0] == 200, 10.0)
        with grpc.secure_channel(service.grpc, trusted) as fresh:
            grpc.channel_ready_future(fresh).result(10)


@pytest.mark.standard("U14")
def test_certificate_files_that_cannot_serve_end_the_start_in_one_line_that_names_the_setting(tmp_path: Path) -> None:
    authority, other = Authority(), tmp_path / "other"
    other.mkdir()
    settings = authority.write(tmp_path, *NAMES)
    wrong = authority.write(other, *NAMES)
    broken = tmp_path / "broken"
    broken.write_text("-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n")
    broken.chmod(0o600)
    certificate, key, client_ca = "server.tls.certificate", "server.tls.key", "server.client_ca"
    world_readable, missing = tmp_path / "open.key", tmp_path / "missing"
    world_readable.write_bytes(Path(settings["server.tls.key"]).read_bytes())
    world_readable.chmod(0o644)
    cases = (
        (
            {key: str(world_readable)},
            f"{key}: {world_readable} can be read by everybody; run: chmod o-rwx {world_readable}",
        ),
        ({key: str(missing)}, f"{key}: cannot read {missing}: No such file or directory"),
        ({certificate: str(missing)}, f"{certificate}: cannot read {missing}: No such file or directory"),
        ({client_ca: str(missing)}, f"{client_ca}: cannot read {missing}: No such file or directory"),
        ({key: wrong[key]}, f"{key}: {wrong[key]} is not the key of the certificate in {settings[certificate]}"),
        ({key: str(broken)}, f"{key}: {broken} holds no unencrypted private key in PEM"),
        ({certificate: str(broken)}, f"{certificate}: {broken} holds no certificate in PEM"),
        ({client_ca: str(broken)}, f"{client_ca}: {broken} holds no certificate in PEM"),
    )
    for change, line in cases:
        code, said = refused_start(tmp_path / "data", settings=settings | change)
        assert (code, said) == (2, [f"authsvc: {line}"])
