"""Settings from the environment: what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from authsvc_client import InvalidRequest, OnUnavailable, Settings, Tls


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    return {
        "AUTHSVC_ADDRESS": "authsvc.prod:8443",
        "AUTHSVC_CLIENT_ID": "billing",
        "AUTHSVC_CLIENT_SECRET_FILE": str(secret),
    }


def test_three_variables_are_enough(environ: dict[str, str]) -> None:
    settings = Settings.from_env(environ)
    assert settings.target == "dns:///authsvc.prod:8443"
    assert settings.secret() == "s3cret"
    assert settings.encrypted
    assert settings.deadline == 0.25
    assert settings.on_unavailable is OnUnavailable.DENY


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"AUTHSVC_ADDRESS": ""}, "AUTHSVC_ADDRESS"),
        ({"AUTHSVC_ADDRESS": "authsvc.prod"}, "AUTHSVC_ADDRESS"),
        ({"AUTHSVC_ADDRESS": "a.prod:1,b.prod:1"}, "AUTHSVC_ADDRESS"),
        ({"AUTHSVC_ADDRESS": "127.0.0.1:1,[::1]:1"}, "AUTHSVC_ADDRESS"),
        ({"AUTHSVC_ADDRESS": "127.0.0.1:1,127.0.0.2"}, "AUTHSVC_ADDRESS"),
        ({"AUTHSVC_ADDRESS": "10.0.0.5:1,10.0.0.6:1"}, "AUTHSVC_SERVER_NAME"),
        ({"AUTHSVC_CLIENT_ID": ""}, "AUTHSVC_CLIENT_ID"),
        ({"AUTHSVC_CLIENT_ID": "no spaces"}, "AUTHSVC_CLIENT_ID"),
        ({"AUTHSVC_CLIENT_SECRET_FILE": ""}, "AUTHSVC_CLIENT_SECRET_FILE"),
        ({"AUTHSVC_CLIENT_SECRET_FILE": "/nowhere/secret"}, "AUTHSVC_CLIENT_SECRET_FILE"),
        ({"AUTHSVC_CA_FILE": "/nowhere/ca"}, "AUTHSVC_CA_FILE"),
        ({"AUTHSVC_CERTIFICATE_FILE": __file__}, "AUTHSVC_KEY_FILE"),
        ({"AUTHSVC_KEY_FILE": __file__}, "AUTHSVC_CERTIFICATE_FILE"),
        ({"AUTHSVC_TLS": "maybe"}, "AUTHSVC_TLS"),
        ({"AUTHSVC_DEADLINE": "fast"}, "AUTHSVC_DEADLINE"),
        ({"AUTHSVC_DEADLINE": "0s"}, "AUTHSVC_DEADLINE"),
        ({"AUTHSVC_ON_UNAVAILABLE": "shrug"}, "AUTHSVC_ON_UNAVAILABLE"),
    ],
)
def test_a_wrong_variable_is_named_in_one_line(environ: dict[str, str], changed: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Settings.from_env({**environ, **changed})
    assert [violation.field for violation in refused.value.violations] == [named]
    assert "\n" not in str(refused.value)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidRequest) as refused:
        Settings.from_env({"AUTHSVC_TLS": "maybe"})
    assert {violation.field for violation in refused.value.violations} == {
        "AUTHSVC_ADDRESS",
        "AUTHSVC_CLIENT_ID",
        "AUTHSVC_CLIENT_SECRET_FILE",
        "AUTHSVC_TLS",
    }


def test_the_services_own_names_and_kubernetes_are_not_looked_at(environ: dict[str, str]) -> None:
    noise = {"AUTHSVC_SERVER__LISTEN": "nonsense", "AUTHSVC_PORT": "tcp://10.0.0.1:443", "AUTHSVC_ADDRES": "x:1"}
    assert Settings.from_env({**environ, **noise}) == Settings.from_env(environ)


def test_a_secret_is_never_shown(environ: dict[str, str]) -> None:
    assert "s3cret" not in repr(Settings.from_env(environ))


def test_a_rotated_secret_is_seen(environ: dict[str, str]) -> None:
    settings = Settings.from_env(environ)
    Path(environ["AUTHSVC_CLIENT_SECRET_FILE"]).write_text("newer")
    assert settings.secret() == "newer"


@pytest.mark.parametrize(
    ("settings", "encrypted"),
    [
        (Settings("127.0.0.1:1"), False),
        (Settings("[::1]:1"), False),
        (Settings("localhost:1"), False),
        (Settings("127.0.0.1:1,127.0.0.2:1"), False),
        (Settings("127.0.0.1:1,10.0.0.1:1"), True),
        (Settings("unix:/run/authsvc"), False),
        (Settings("127.0.0.1:1", ca_file=Path("ca.pem")), True),
        (Settings("127.0.0.1:1", tls=Tls.ON), True),
        (Settings("127.0.0.2.example:1"), True),
        (Settings("authsvc:1"), True),
        (Settings("authsvc:1", tls=Tls.OFF), False),
    ],
)
def test_plaintext_is_spoken_to_this_machine_only_unless_told(settings: Settings, encrypted: bool) -> None:  # noqa: FBT001
    assert settings.encrypted is encrypted


@pytest.mark.parametrize(
    ("address", "target", "authority"),
    [
        ("authsvc:7070", "dns:///authsvc:7070", ""),
        ("127.0.0.1:1", "dns:///127.0.0.1:1", ""),
        ("127.0.0.1:1, 127.0.0.1:2", "ipv4:127.0.0.1:1,127.0.0.1:2", "127.0.0.1:1"),
        ("[::1]:1,[::1]:2", "ipv6:[::1]:1,[::1]:2", "[::1]:1"),
        ("xds:///authsvc", "xds:///authsvc", ""),
    ],
)
def test_an_address_is_a_name_or_a_list(environ: dict[str, str], address: str, target: str, authority: str) -> None:
    settings = Settings.from_env({**environ, "AUTHSVC_ADDRESS": address, "AUTHSVC_TLS": "off"})
    assert (settings.target, settings.authority) == (target, authority)
    assert Settings(address, server_name="authsvc").authority == "authsvc"


@pytest.mark.parametrize(
    ("settings", "peers"),
    [
        (Settings("authsvc:7070"), (("authsvc", 7070, "authsvc"),)),
        (Settings("dns:///authsvc:7070", server_name="auth.prod"), (("authsvc", 7070, "auth.prod"),)),
        (Settings("[::1]:1, [::2]:2"), (("::1", 1, "::1"), ("::2", 2, "::2"))),
        (Settings("ipv4:10.0.0.5:1,10.0.0.6:2", server_name="a"), (("10.0.0.5", 1, "a"), ("10.0.0.6", 2, "a"))),
        (Settings("xds:///authsvc"), ()),
        (Settings("unix:/run/authsvc"), ()),
        (Settings("authsvc"), ()),
    ],
)
def test_peers_are_host_port_and_name(settings: Settings, peers: tuple[tuple[str, int, str], ...]) -> None:
    assert settings.peers == peers
