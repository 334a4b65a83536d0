"""Certificates in use: replaced when their files change, kept when what came cannot be used."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from authsvc.bootstrap.certificates import TlsFiles
from authsvc.clock import FakeClock
from authsvc.core.errors import InvalidRequest
from authsvc.transport.tls import LiveTls, TlsMaterial
from tests.support.pki import Authority
from tests.support.scale import CAMPAIGN

HOUR = 3_600
NAMES = ("localhost",)


class Watched:
    """Files of a server, what is in use of them, and what was told."""

    def __init__(self, folder: Path, *, valid_for: dt.timedelta = dt.timedelta(days=1)) -> None:
        self.authority = Authority()
        settings = self.authority.write(folder, *NAMES)
        self.files = TlsFiles(
            *(Path(settings[name]) for name in ("server.tls.certificate", "server.tls.key", "server.client_ca"))
        )
        if valid_for != dt.timedelta(days=1):
            self.put(*self.authority.issue(*NAMES, valid_for=valid_for))
        self.clock = FakeClock(int(dt.datetime.now(dt.UTC).timestamp()))
        self.told: list[tuple[str, str]] = []
        self.used: list[TlsMaterial] = []
        self.live = LiveTls(self.files, self.clock.now, tell=self._tell)
        self.live.use(self.used.append)

    def put(self, certificate: bytes, key: bytes) -> None:
        """Edit both in place."""
        self.files.certificate.write_bytes(certificate)
        self.files.key.write_bytes(key)

    def look(self) -> None:
        """Twice: what is new is believed the second time."""
        self.live.look()
        self.live.look()

    def _tell(self, kind: str, fields: Mapping[str, object]) -> None:
        self.told.append((kind, str(fields.get("text", ""))))


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    """With a certificate that has a day to go."""
    return Watched(tmp_path)


def in_place(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def by_name(path: Path, content: bytes) -> None:
    fresh = path.with_name("fresh")
    fresh.touch(mode=0o600)
    fresh.write_bytes(content)
    fresh.replace(path)


@pytest.mark.standard("U1")
@pytest.mark.parametrize("change", [in_place, by_name])
def test_a_pair_that_changed_is_used_however_it_changed(
    watched: Watched, change: Callable[[Path, bytes], None]
) -> None:
    certificate, key = watched.authority.issue(*NAMES)
    stamps = [path.stat() for path in (watched.files.certificate, watched.files.key)]
    change(watched.files.certificate, certificate)
    change(watched.files.key, key)
    for path, stamp in zip((watched.files.certificate, watched.files.key), stamps, strict=True):
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    watched.look()
    assert [material.chain for material in watched.used[1:]] == [certificate]
    assert watched.live.current is watched.used[-1]
    assert [kind for kind, _ in watched.told] == ["certificate.renewed"]
    watched.look()
    assert len(watched.used) == 2


@pytest.mark.standard("U1")
def test_a_link_that_moves_to_another_folder_changes_all_in_one_step(tmp_path: Path) -> None:
    authority = Authority()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        authority.write(tmp_path / name, *NAMES)
    data = tmp_path / "..data"
    data.symlink_to("first")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    live = LiveTls(TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key"), FakeClock(_now()).now)
    moved = tmp_path / "..data_tmp"
    moved.symlink_to("second")
    moved.replace(data)
    live.look()
    live.look()
    assert live.current.chain == (tmp_path / "second" / "tls.crt").read_bytes()


@pytest.mark.standard("U1")
def test_another_client_ca_is_used_too(watched: Watched) -> None:
    other = Authority("another")
    assert watched.files.client_ca is not None
    watched.files.client_ca.write_bytes(watched.authority.pem + other.pem)
    watched.look()
    assert watched.live.current.client_ca == watched.authority.pem + other.pem


@pytest.mark.standard("U1", "U14")
def test_what_cannot_be_used_keeps_what_is_in_use_and_is_told_once(watched: Watched) -> None:
    before = watched.live.current
    renewed, its_key = watched.authority.issue(*NAMES)
    watched.files.certificate.write_bytes(renewed)
    watched.live.look()
    # The key may be on its way.
    assert watched.told == []
    assert watched.live.fault
    for _ in range(5):
        watched.look()
    assert watched.live.current is before
    ((kind, text),) = watched.told
    assert kind == "certificate.refused"
    assert text.startswith(f"server.tls.key: {watched.files.key} is not the key of the certificate in ")
    assert "what was loaded before stays in use until" in text
    watched.files.key.write_bytes(its_key)
    watched.look()
    assert (watched.live.current.chain, watched.live.fault) == (renewed, "")
    assert [kind for kind, _ in watched.told] == ["certificate.refused", "certificate.renewed"]


@pytest.mark.standard("U1", "U14")
@pytest.mark.parametrize(
    ("harm", "line"),
    [
        (lambda files: files.certificate.write_text("-----BEGIN CERTIFICATE-----\n"), "holds no certificate in PEM"),
        (lambda files: files.certificate.unlink(), "No such file or directory"),
        (lambda files: files.key.chmod(0o604), "can be read by everybody; run: chmod o-rwx"),
        (lambda files: files.key.write_bytes(b""), "holds no unencrypted private key in PEM"),
        (lambda files: files.client_ca.write_bytes(b""), "holds no certificate in PEM"),
        (lambda files: files.client_ca.unlink(), "No such file or directory"),
    ],
)
def test_every_fault_of_a_file_is_one_line_and_keeps_what_is_in_use(
    watched: Watched, harm: Callable[[TlsFiles], object], line: str
) -> None:
    harm(watched.files)
    watched.look()
    watched.look()
    ((kind, text),) = watched.told
    assert kind == "certificate.refused"
    assert line in text
    assert "\n" not in text
    assert len(watched.used) == 1


@pytest.mark.standard("U1", "U14")
@pytest.mark.parametrize(("offset", "line"), [(-HOUR, "expired at"), (0, "expired at")])
def test_an_expired_pair_never_replaces_one_that_is_good(watched: Watched, offset: int, line: str) -> None:
    until = dt.timedelta(seconds=watched.clock.now() - _now() + offset)
    watched.put(*watched.authority.issue(*NAMES, valid_for=until))
    watched.look()
    watched.look()
    assert len(watched.used) == 1
    assert line in watched.told[0][1]
    assert watched.live.unready_reason() == ""


@pytest.mark.standard("U1", "U14")
def test_a_key_that_the_group_can_read_is_good(watched: Watched) -> None:
    certificate, key = watched.authority.issue(*NAMES)
    watched.put(certificate, key)
    watched.files.key.chmod(0o640)
    watched.look()
    assert watched.live.current.chain == certificate


@pytest.mark.standard("U1")
def test_an_end_that_comes_near_is_told_once_and_readiness_follows_it(tmp_path: Path) -> None:
    watched = Watched(tmp_path, valid_for=dt.timedelta(hours=72))
    watched.clock.advance(48 * HOUR)
    watched.look()
    assert watched.told == []
    watched.clock.advance(23 * HOUR)
    for _ in range(3):
        watched.look()
    ((kind, text),) = watched.told
    assert (kind, text.startswith("server.tls.certificate: expires at ")) == ("certificate.expiring", True)
    assert 0 < watched.live.remaining() <= HOUR
    assert watched.live.client_ca_remaining() > 20 * 24 * HOUR
    assert watched.live.unready_reason() == ""
    watched.clock.advance(2 * HOUR)
    watched.look()
    assert watched.live.unready_reason().startswith("server.tls.certificate: expired at ")
    watched.put(*watched.authority.issue(*NAMES, valid_for=dt.timedelta(days=20)))
    watched.look()
    assert watched.live.unready_reason() == ""


@pytest.mark.standard("U1")
def test_a_client_ca_whose_last_certificate_ended_is_no_readiness(watched: Watched) -> None:
    watched.put(*watched.authority.issue(*NAMES, valid_for=dt.timedelta(days=400)))
    watched.look()
    watched.clock.advance(40 * 24 * HOUR)
    assert watched.live.unready_reason().startswith("server.client_ca: expired at ")


@pytest.mark.standard("U1")
def test_what_could_not_be_put_into_use_is_tried_again(watched: Watched) -> None:
    full = [True]

    def replace(_material: TlsMaterial) -> None:
        if full[0] and len(watched.used) > 1:
            raise OSError(28, "No space left on device")

    watched.live.use(replace)
    watched.put(*watched.authority.issue(*NAMES))
    before = watched.live.current
    watched.look()
    assert watched.live.current is before
    assert "No space left on device" in watched.live.fault
    full[0] = False
    watched.look()
    assert watched.live.current is watched.used[-1]
    assert watched.live.fault == ""


@pytest.mark.standard("U1")
def test_a_bundle_of_which_only_a_part_is_written_yet_is_not_used(watched: Watched) -> None:
    assert watched.files.client_ca is not None
    before, other = watched.live.current, Authority("another")
    watched.files.client_ca.write_bytes(other.pem)
    watched.live.look()
    assert watched.live.current is before
    watched.files.client_ca.write_bytes(other.pem + watched.authority.pem)
    watched.look()
    assert [material.client_ca for material in watched.used[1:]] == [other.pem + watched.authority.pem]


@pytest.mark.standard("U1")
def test_a_file_that_is_half_written_at_any_place_keeps_what_is_in_use(watched: Watched) -> None:
    before = watched.live.current
    wholes = (*watched.authority.issue(*NAMES), watched.authority.pem)
    assert watched.files.client_ca is not None
    for path, whole in zip(
        (watched.files.certificate, watched.files.key, watched.files.client_ca), wholes, strict=True
    ):
        good = path.read_bytes()
        # Without its last line the text is not whole; without the end of that line it may be.
        for length in range(0, len(whole) - 12, 1 if CAMPAIGN else 20):
            path.write_bytes(whole[:length])
            watched.look()
            assert watched.live.current is before
            assert watched.live.fault
        path.write_bytes(good)
        watched.look()
        assert watched.live.fault == ""


@pytest.mark.standard("U1")
def test_whatever_a_look_meets_the_next_one_is_made(watched: Watched) -> None:
    strange = [True]

    def replace(_material: TlsMaterial) -> None:
        if strange[0] and len(watched.used) > 1:
            raise ZeroDivisionError

    watched.live.use(replace)
    watched.put(*watched.authority.issue(*NAMES))
    watched.look()
    assert watched.live.fault == "server.tls: cannot read the files: ZeroDivisionError"
    strange[0] = False
    watched.look()
    assert watched.live.fault == ""


@pytest.mark.standard("U1")
def test_who_has_left_is_not_asked_again(watched: Watched) -> None:
    left: list[TlsMaterial] = []
    watched.live.use(left.append)
    watched.live.leave(left.append)
    watched.live.leave(left.append)
    watched.put(*watched.authority.issue(*NAMES))
    watched.look()
    assert len(left) == 1


@pytest.mark.standard("U14")
@pytest.mark.parametrize(
    "make",
    [
        lambda: rsa.generate_private_key(65537, 1024),
        ed25519.Ed25519PrivateKey.generate,
        lambda: ec.generate_private_key(ec.SECP521R1()),
    ],
)
def test_a_key_that_a_transport_cannot_use_is_refused_by_name(watched: Watched, make: Callable[[], object]) -> None:
    key = make()
    assert isinstance(key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey)
    watched.files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with pytest.raises(InvalidRequest) as refused:
        watched.files(_now())
    assert "is neither RSA of 2048 bits or more nor ECDSA" in refused.value.violations[0].description


def _now() -> int:
    return int(dt.datetime.now(dt.UTC).timestamp())
