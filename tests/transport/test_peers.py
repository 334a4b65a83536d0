"""Who the peer is by `x-forwarded-client-cert`: of our own listener, and of a mesh's sidecar."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from authsvc.core.errors import Unauthenticated
from authsvc.transport.peers import of_certificate, of_sidecar
from tests.transport.conftest import SPIFFE, Authority

LOOPBACK = "127.0.0.6"
ADMIN = "spiffe://prod.example/ns/shop/sa/admin"


def ours(*names: x509.GeneralName) -> bytes:
    """The header that our own Envoy writes."""
    _, pem = Authority().issue(*names)
    return f'Hash=ab;Cert="{quote(pem, safe="")}"'.encode()


@pytest.mark.standard("E10", "S12")
def test_our_own_listener_tells_the_certificate_and_its_names_are_read_from_it() -> None:
    names = (x509.UniformResourceIdentifier(SPIFFE), x509.DNSName("a.b"), x509.DNSName("c"))
    assert of_certificate(ours(*names)) == (SPIFFE, "dns:a.b", "dns:c")
    assert of_certificate(ours(x509.UniformResourceIdentifier("https://no/x"))) == ()
    assert of_certificate(ours()) == ()


@pytest.mark.standard("E10", "S12")
@pytest.mark.parametrize("name", [f"a;URI={ADMIN}", f'a",URI={ADMIN}', f"a,URI={ADMIN}", ADMIN])
def test_a_dns_name_never_passes_for_a_spiffe_id(name: str) -> None:
    assert of_certificate(ours(x509.DNSName(name))) == (f"dns:{name}",)


@pytest.mark.standard("E10", "S12")
@pytest.mark.parametrize(
    "header", [b"", b"nothing", f"URI={ADMIN}".encode(), b'Cert=""', b'Cert="%00"', b'Cert="a";Cert="a"', b'Cert="']
)
def test_what_our_own_listener_would_not_write_is_nobody(header: bytes) -> None:
    assert of_certificate(header) == ()


@pytest.mark.standard("S12")
@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f'By=spiffe://td/a;Hash=ab;Subject="";URI={SPIFFE}', (SPIFFE,)),
        (f"URI={ADMIN},By=spiffe://td/a;URI={SPIFFE}", (SPIFFE,)),
        (f'URI={ADMIN},Hash=a;Subject="CN=x,O=y";URI={SPIFFE}', (SPIFFE,)),
        (f'Subject="CN=x,URI={ADMIN}";URI={SPIFFE}', (SPIFFE,)),
        (rf'Subject="CN=\",URI={ADMIN}";URI={SPIFFE}', (SPIFFE,)),
        (f"URI={SPIFFE};DNS=a.b", (SPIFFE,)),
        ("Hash=ab;URI=;DNS=a.b;DNS=c", ("dns:a.b", "dns:c")),
        ("Hash=ab;DNS=spiffe://evil/x", ("dns:spiffe://evil/x",)),
        (f"URI=;DNS=a;URI={ADMIN}", ()),
        (f"URI={SPIFFE};URI={ADMIN}", ()),
        ("URI=https://no/x;DNS=a", ()),
        (f"URI={ADMIN},", ()),
        (f"URI={ADMIN},nothing", ()),
        (f'URI={ADMIN},"', ()),
        (f'"{ADMIN}', ()),
        ("", ()),
    ],
)
def test_only_the_last_element_counts_and_it_names_one_peer(header: str, expected: tuple[str, ...]) -> None:
    assert of_sidecar(LOOPBACK, header.encode()) == expected


@pytest.mark.standard("S12")
@given(st.text(max_size=60))
def test_whatever_a_caller_puts_before_it_the_sidecars_element_decides(before: str) -> None:
    """A sidecar ends what stands before with a comma; an open quotation makes the whole header nobody's."""
    found = of_sidecar(LOOPBACK, f"{before},Hash=ab;URI={SPIFFE}".encode("utf-8", "replace"))
    assert found in {(SPIFFE,), ()}


@pytest.mark.standard("S12")
@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "", "localhost"])
def test_who_comes_around_the_sidecar_is_refused_whatever_it_says(address: str) -> None:
    with pytest.raises(Unauthenticated, match="sidecar"):
        of_sidecar(address, f"URI={SPIFFE}".encode())
