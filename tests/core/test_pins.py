"""Pins are those that everybody else computes."""

from __future__ import annotations

import base64
import hashlib

import pytest
import trustme
from cryptography import x509

from authsvc.core.pins import pin_of, pinned, wrong_pins

WELL_KNOWN = "sha256/C5+lpZ7tcVwmwQIMcRtPbsQtWLABXhQzejna0wHFr8M="


def certificate(authority: trustme.CA, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.issue_cert(name).cert_chain_pems[0].bytes())


def test_a_pin_is_the_hash_of_the_public_key_alone() -> None:
    authority = trustme.CA()
    one, other = certificate(authority, "a.test"), certificate(authority, "b.test")
    assert pin_of(one) != pin_of(other)
    encoded = one.tbs_certificate_bytes
    found = [encoded[at : at + 91] for at in range(len(encoded) - 90)]
    digest = base64.b64decode(pin_of(one).removeprefix("sha256/"))
    # The 91 bytes of a P-256 key's SubjectPublicKeyInfo, as they stand in the certificate (RFC 5280 section 4.1).
    assert any(hashlib.sha256(part).digest() == digest for part in found)


def test_certificates_of_pinned_keys_are_found_in_their_order() -> None:
    authority = trustme.CA()
    chain = [certificate(authority, f"{name}.test") for name in "abc"]
    assert pinned(chain, [pin_of(chain[2]), WELL_KNOWN, pin_of(chain[0])]) == [chain[0], chain[2]]
    assert pinned(chain, []) == []


@pytest.mark.parametrize(
    "wrong", ["", "sha256/", WELL_KNOWN.upper(), WELL_KNOWN[:-1], WELL_KNOWN + "=", WELL_KNOWN.replace("+", "-"), "a:b"]
)
def test_what_has_another_form_is_named(wrong: str) -> None:
    assert wrong_pins([WELL_KNOWN, wrong]) == [wrong]
