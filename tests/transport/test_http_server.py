"""HTTP over real sockets."""

from __future__ import annotations

import asyncio
import io
import ssl

import httpx
import pytest

from authsvc.api.http import OwnOperations
from authsvc.bootstrap.certificates import TlsFiles
from authsvc.telemetry import SecurityLog
from authsvc.transport.http_server import HttpServers
from authsvc.transport.listening import ListenFault, host_and_port
from authsvc.usecases.key_sets import KeySet
from tests.support.pki import live
from tests.support.transports import address_beyond_loopback, needs_ipv6
from tests.transport.conftest import Certificates


def servers() -> HttpServers:
    """Both listeners, with one key set."""
    return HttpServers(
        key_set=lambda: KeySet('{"keys":[]}', '"t"', 60),
        operations=OwnOperations(lambda: "", lambda: b"# EOF\n", "0.1.0"),
        log=SecurityLog(io.StringIO(), now=lambda: 0),
    )


def test_both_listeners_over_loopback() -> None:
    async def scenario() -> list[int]:
        both = servers()
        http, ops = await both.listen("127.0.0.1:0", "[::1]:0", None)
        try:
            async with httpx.AsyncClient() as client:
                answers = [
                    await client.get(f"http://{http}/.well-known/jwks.json"),
                    await client.get(f"http://{http}/metrics"),
                    await client.get(f"http://{ops}/metrics"),
                    await client.get(f"http://{ops}/.well-known/jwks.json"),
                ]
        finally:
            await both.close()
        return [answer.status_code for answer in answers]

    assert asyncio.run(scenario()) == [200, 404, 200, 404]


@pytest.mark.standard("U1")
def test_tls_from_files_and_no_old_version(certificates: Certificates, plain_files: TlsFiles) -> None:
    async def scenario() -> tuple[httpx.Response, bool]:
        both = servers()
        http, _ = await both.listen("127.0.0.1:0", "127.0.0.1:0", live(plain_files))
        port = host_and_port(http)[1]
        try:
            trusting = ssl.create_default_context(cadata=certificates.ca.decode())
            async with httpx.AsyncClient(verify=trusting) as client:
                answer = await client.get(f"https://localhost:{port}/.well-known/jwks.json")
            return answer, await _handshakes(port, ssl.TLSVersion.TLSv1_1)
        finally:
            await both.close()

    answer, old = asyncio.run(scenario())
    assert answer.status_code == 200
    assert "strict-transport-security" in answer.headers
    assert not old


async def _handshakes(port: int, version: ssl.TLSVersion) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = version
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    except (ssl.SSLError, ConnectionError):
        return False
    writer.close()
    return True


@pytest.mark.standard("S12")
def test_behind_a_sidecar_only_loopback_is_answered() -> None:
    host = address_beyond_loopback()

    async def scenario() -> list[int]:
        both = servers()
        http, ops = await both.listen("0.0.0.0:0", "0.0.0.0:0", None, sidecar=True)
        try:
            async with httpx.AsyncClient() as client:
                urls = [f"http://{name}:{host_and_port(http)[1]}/.well-known/jwks.json" for name in ("127.0.0.1", host)]
                urls.append(f"http://{host}:{host_and_port(ops)[1]}/livez")
                return [(await client.get(url)).status_code for url in urls]
        finally:
            await both.close()

    assert asyncio.run(scenario()) == [200, 403, 200]


@needs_ipv6
def test_every_address_means_both_families() -> None:
    async def scenario() -> list[int]:
        both = servers()
        http, _ = await both.listen("[::]:0", "127.0.0.1:0", None)
        try:
            async with httpx.AsyncClient() as client:
                port = host_and_port(http)[1]
                urls = [f"http://{host}:{port}/.well-known/jwks.json" for host in ("127.0.0.1", "[::1]")]
                return [(await client.get(url)).status_code for url in urls]
        finally:
            await both.close()

    assert asyncio.run(scenario()) == [200, 200]


def test_an_address_in_use_is_one_line() -> None:
    async def scenario() -> str:
        first, second = servers(), servers()
        http, _ = await first.listen("127.0.0.1:0", "127.0.0.1:0", None)
        try:
            with pytest.raises(ListenFault) as fault:
                await second.listen(http, "127.0.0.1:0", None)
        finally:
            await first.close()
            await second.close()
        return str(fault.value)

    assert asyncio.run(scenario()).endswith("Address already in use")


@pytest.mark.parametrize("address", ["", "localhost", "localhost:", "localhost:http", "1.2.3.4:70000", "a:-1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ListenFault):
        host_and_port(address)


def test_addresses() -> None:
    assert host_and_port("[::1]:80") == ("::1", 80)
    assert host_and_port("localhost:0") == ("localhost", 0)
