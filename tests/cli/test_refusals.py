"""What `serve` refuses at start: each fault in one line that names the setting, exit code 2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.pki import Authority
from tests.support.process import command, refused_start, serving
from tests.support.servers import running

KEK, OTHER_KEK = "11" * 32, "22" * 32


def secret(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def refused(directory: Path, *flags: str, settings: Mapping[str, str] | None = None) -> list[str]:
    code, lines = refused_start(directory, *flags, settings=settings)
    assert code == 2, lines
    assert all(line.startswith("authsvc: ") for line in lines), lines
    return [line.removeprefix("authsvc: ") for line in lines]


@pytest.mark.standard("U14")
@pytest.mark.parametrize("name", ["listen", "http_listen"])
def test_another_address_than_loopback_without_tls_is_refused(tmp_path: Path, name: str) -> None:
    given = {
        f"server.{name}": "0.0.0.0:0",
        "keys.kek": str(secret(tmp_path / "kek", KEK)),
        "bootstrap.admin_client_id": "root",
        "bootstrap.admin_secret_file": str(secret(tmp_path / "secret", "s" * 40)),
    }
    modes = "self_signed or files (behind a sidecar mesh; insecure is plaintext)"
    assert refused(tmp_path / "data", settings=given) == [
        f"server.{name}: `0.0.0.0:0` is not loopback: set server.tls.mode to {modes}"
    ]
    assert not (tmp_path / "data" / "authsvc.db").exists()


@pytest.mark.standard("U14")
def test_off_loopback_key_encryption_key_and_administrator_must_be_given(tmp_path: Path) -> None:
    given = Authority().write(tmp_path, "localhost") | {"server.listen": "0.0.0.0:0"}
    lines = refused(tmp_path / "data", settings=given)
    assert [line.partition(":")[0] for line in lines] == ["keys.kek", "bootstrap.admin_client_id"]


@pytest.mark.standard("U14")
def test_every_unknown_setting_is_named_at_once(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir(mode=0o700)
    (directory / "authsvc.toml").write_text('[server]\ncolour = "red"\n[kittens]\ncount = 3\n')
    assert sorted(refused(directory, "--tokens.colour=blue")) == [
        "kittens: is not a setting of this release",
        "server.colour: is not a setting of this release",
        "tokens.colour: is not a setting of this release",
    ]


@pytest.mark.standard("U14")
def test_a_key_file_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    key = secret(tmp_path / "kek", KEK, 0o644)
    assert refused(tmp_path / "data", f"--keys.kek={key}") == [
        f"keys.kek: {key} can be read by everybody; run: chmod o-rwx {key}"
    ]


@pytest.mark.standard("U14")
def test_a_tls_key_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    given = Authority().write(tmp_path, "localhost")
    key = Path(given["server.tls.key"])
    key.chmod(0o604)
    assert refused(tmp_path / "data", settings=given) == [
        f"server.tls.key: {key} can be read by everybody; run: chmod o-rwx {key}"
    ]


@pytest.mark.standard("U14")
def test_another_key_encryption_key_and_another_issuer_than_the_records_are_refused(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    right = {"keys.kek": str(secret(tmp_path / "kek", KEK)), "issuer": "https://id.example"}
    with serving(directory, right):
        pass
    wrong = right | {"keys.kek": str(secret(tmp_path / "other", OTHER_KEK))}
    assert refused(directory, settings=wrong) == [
        "keys.kek: is not the key-encryption key that this record was made with"
    ]
    moved = right | {"issuer": "https://other.example"}
    (line,) = refused(directory, settings=moved)
    assert line.startswith("issuer: is https://other.example, but this record issued for https://id.example")
    accepting = [*command(moved), "--accept-new-issuer"]
    environment = {"AUTHSVC_DATA_DIR": str(directory)}
    with running(accepting, log=tmp_path / "log", ready=lambda server: '"ready"' in server.output(), env=environment):
        pass


@pytest.mark.standard("U14")
def test_an_issuer_is_never_made_of_a_port_that_is_chosen_anew_at_each_start(tmp_path: Path) -> None:
    directory, unset = tmp_path / "data", {"issuer": ""}
    line = "issuer: is required where the port of server.http_listen is chosen at each start"
    assert refused(directory, settings=unset) == [line]
    with serving(directory):
        pass
    with serving(directory, unset):
        """The record remembers one."""


@pytest.mark.standard("U14")
def test_an_address_in_use_and_a_directory_in_use_are_named(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as service:
        assert refused(tmp_path / "data") == [
            f"AUTHSVC_DATA_DIR: {tmp_path / 'data'} is in use by another authsvc process"
        ]
        for name, address in (("listen", service.grpc), ("http_listen", service.http), ("ops_listen", service.ops)):
            (line,) = refused(tmp_path / name, settings={f"server.{name}": address})
            assert line.startswith(f"server.{name}: cannot listen on {address}"), line


@pytest.mark.standard("U14")
def test_a_data_directory_open_to_everybody_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    directory.chmod(0o755)
    assert refused(directory) == [f"AUTHSVC_DATA_DIR: {directory} is open to everybody; run: chmod o-rwx {directory}"]


@pytest.mark.standard("U14")
@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--server.listen"], "--server.listen: needs a value"),
        (["extra"], "`extra` is not an option of this command"),
        (["--server.transport=x"], "server.transport: `x` is not served by this release; it takes grpcio or pyvoy"),
        (["--transport", "x"], "server.transport: `x` is not served by this release; it takes grpcio or pyvoy"),
        (["--tokens.ttl=fast"], "tokens.ttl: `fast` is not a duration such as 250ms, 30s, 15m, 12h or 7d"),
        (["--config=/nowhere.toml"], "cannot read /nowhere.toml: No such file or directory"),
    ],
)
def test_a_flag_that_cannot_be_taken_is_named(tmp_path: Path, flags: list[str], line: str) -> None:
    assert refused(tmp_path / "data", *flags) == [line]
