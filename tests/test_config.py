"""The configuration: file, environment, flags; every fault at once, each under its setting's name."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authsvc import config
from authsvc.config import Config, PolicySource, TlsMode, load
from authsvc.core.errors import InvalidRequest


def faults(text: str = "", environment: dict[str, str] | None = None, **flags: str) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        load(text, environment or {}, {name.replace("__", "."): value for name, value in flags.items()})
    return {violation.field: violation.description for violation in caught.value.violations}


def test_nothing_set_is_a_service_on_loopback() -> None:
    found = load("", {})
    assert found == Config()
    assert found.on_loopback
    assert found.reflection
    assert [proxy.peer for proxy in found.proxies] == ["loopback"]


def test_flags_beat_the_environment_which_beats_the_file() -> None:
    text = '[server]\nlisten = "127.0.0.1:1"\nhttp_listen = "127.0.0.1:1"\nops_listen = "127.0.0.1:1"\n'
    environment = {"AUTHSVC_SERVER__HTTP_LISTEN": "127.0.0.1:2", "AUTHSVC_SERVER__OPS_LISTEN": "127.0.0.1:2"}
    found = load(text, environment, {"server.ops_listen": "127.0.0.1:3"})
    assert (found.server.listen, found.server.http_listen) == ("127.0.0.1:1", "127.0.0.1:2")
    assert found.server.ops_listen == "127.0.0.1:3"


def test_what_kubernetes_injects_is_ignored_and_a_misspelt_setting_is_not() -> None:
    assert load("", {"AUTHSVC_PORT": "tcp://10.0.0.1:80", "AUTHSVC_SERVICE_HOST": "10.0.0.1"}) == Config()
    assert load("", {"AUTHSVC__ISSUER": "https://a.test"}).issuer == "https://a.test"
    assert "server.listn" in faults(environment={"AUTHSVC_SERVER__LISTN": "127.0.0.1:1"})


def test_a_file_that_is_not_toml_is_named_as_it_was_given() -> None:
    with pytest.raises(InvalidRequest) as refused:
        load("[", {}, file="/etc/authsvc/mine.toml")
    assert refused.value.violations[0].field == "/etc/authsvc/mine.toml"


def test_every_fault_is_listed_at_once() -> None:
    found = faults('colour = "red"\n[server]\nlisten = "here"\n[tokens]\nttl = 5\n[keys]\nalgorithm = "HS256"\n')
    assert found.keys() == {"colour", "tokens.ttl", "keys.algorithm"}


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("server.listen", "here", "host:port"),
        ("server.listen", "0.0.0.0:7070", "loopback"),
        ("server.http_listen", "[::]:7071", "loopback"),
        ("server.transport", "uvicorn", "not served by this release"),
        ("server.tls.mode", "mtls", "not served by this release"),
        ("server.tls.mode", "files", "is required"),
        ("server.tls.certificate", "/tls.crt", "goes with server.tls.mode files"),
        ("server.tls.key", "/tls.key", "goes with server.tls.mode files"),
        ("server.tls.names", "authsvc.test", "goes with server.tls.mode self_signed"),
        ("server.tls.min_version", "1.1", "not served by this release"),
        ("server.client_ca", "/ca.pem", "needs server.tls.mode"),
        ("server.trust_domain", "a/b", "is not a SPIFFE trust domain"),
        ("server.auth_failures", "many", "count/window"),
        ("server.reflection", "perhaps", "true or false"),
        ("record.url", "mysql://db/authsvc", "sqlite"),
        ("record.url", "sqlite:record.db", "sqlite"),
        ("record.url", "postgresql://", "postgresql"),
        ("record.url", "postgresql://ann:horse@db/authsvc", "holds a password"),
        ("record.url", "postgresql://ann:ho/rse@db/authsvc", "holds a password"),
        ("record.url", "postgresql://db/authsvc?password=horse", "holds a password"),
        ("record.password_file", "/run/secrets/record", "goes with"),
        ("counters.url", "mysql://localhost", "is none of memory:"),
        ("server.workers", "0", "is not between"),
        ("server.workers", "1000", "is not between"),
        ("server.workers", "two", "whole number"),
        ("keys.algorithm", "HS256", "ES256"),
        ("keys.algorithm", "ES384", "ES256"),
        ("sync.max_stale", "19s", "between 20s and 1h"),
        ("sync.max_stale", "61m", "between 20s and 1h"),
        ("sync.max_bytes", "-1", "whole number"),
        ("tokens.ttl", "2h", "tokens.max_ttl"),
        ("tokens.ttl", "15", "duration"),
        ("tokens.leeway", "61s", "60s"),
        ("keys.publish_lead", "60d", "keys.publish_lead"),
        ("policy.source", "file", "is required"),
        ("policy.source", "git", "not served by this release"),
        ("audit.allow_sample", "1.5", "between 0 and 1"),
        ("audit.allow_sample", "some", "number"),
        ("bootstrap.admin_client_id", "root", "both or neither"),
        ("issuer", "authsvc.test", "URL"),
    ],
)
def test_a_wrong_value_is_refused_in_a_line_that_names_what_to_do(setting: str, value: str, says: str) -> None:
    found = faults("", None, **{setting.replace(".", "__"): value})
    assert any(says in description for description in found.values()), found


@pytest.mark.standard("K3")
def test_a_token_that_could_outlive_its_keys_visibility_is_refused() -> None:
    assert "keys.ttl" in faults(keys__ttl="30m", tokens__max_ttl="1h")


def test_a_service_beyond_loopback_needs_tls_a_given_key_and_a_given_admin() -> None:
    tls = '[server.tls]\nmode = "files"\ncertificate = "/a.crt"\nkey = "/a.key"\n'
    text = '[server]\nlisten = "0.0.0.0:7070"\n' + tls
    assert faults(text).keys() == {"keys.kek", "bootstrap.admin_client_id"}
    assert load(text + "[bootstrap]\ngenerate = true\n", {}).bootstrap.generate
    assert not load(text + "[bootstrap]\ngenerate = true\n", {}).reflection


@pytest.mark.parametrize(
    "settings",
    [{"server.workers": "2"}, {"server.replicas": "2"}, {"server.workers": "2", "server.replicas": "2"}],
)
def test_several_processes_need_a_record_and_counters_that_they_can_share(settings: dict[str, str]) -> None:
    postgresql, redis = {"record.url": "postgresql://db/authsvc"}, {"counters.url": "redis://counters"}
    assert faults("", None, **settings).keys() == {"record.url", "counters.url"}
    assert faults("", None, **settings, **redis).keys() == {"record.url"}
    (told,) = faults("", None, **settings, **postgresql).values()
    assert all(f"{name} = {count}" in told for name, count in settings.items())
    assert load("", {}, {**settings, **postgresql, **redis}).processes == len(settings) * 2


def test_peers_that_need_certificates_need_a_client_ca() -> None:
    text = '[[server.proxies]]\npeer = "spiffe://a/*"\n[[server.principals]]\npeer = "dns:a"\nclient_id = "a"\n'
    assert faults(text).keys() == {"server.proxies[0].peer", "server.principals"}
    assert faults("[[server.proxies]]\nroutes = ['a']\n") == {"server.proxies[0].peer": "is required"}


def test_a_file_too_can_say_no_negative_size() -> None:
    assert faults("[sync]\nmax_bytes = -1\n") == {"sync.max_bytes": "is below 0"}


@pytest.mark.standard("U1")
@pytest.mark.parametrize("mode", ["self_signed", "mesh", "insecure"])
def test_beyond_loopback_a_mode_of_tls_is_chosen(mode: str) -> None:
    listen = {"server.listen": "0.0.0.0:7070", "server.http_listen": "[::]:7071", "bootstrap.generate": "true"}
    told = faults("", None, **listen)
    assert told.keys() == {"server.listen", "server.http_listen"}
    assert all("set server.tls.mode to self_signed or files" in text for text in told.values())
    assert load("", {}, {**listen, "server.tls.mode": mode}).server.tls.mode == mode
    # Metrics and probes are plain anywhere.
    assert load("", {}, {"server.ops_listen": "0.0.0.0:7072"}).on_loopback


@pytest.mark.standard("S12", "E10")
def test_in_a_mesh_proxies_are_the_own_trust_domains_workloads_and_never_whoever_is_local() -> None:
    mesh = {"server.tls.mode": "mesh", "server.trust_domain": "prod.example"}
    assert [proxy.peer for proxy in load("", {}, mesh).proxies] == ["spiffe://prod.example/**"]
    named = '[[server.principals]]\npeer = "spiffe://a/b"\nclient_id = "a"\n[[server.proxies]]\npeer = "spiffe://a/*"\n'
    assert [proxy.peer for proxy in load(named, {}, mesh).proxies] == ["spiffe://a/*"]
    local = '[server]\ntls = {mode = "mesh"}\n[[server.proxies]]\npeer = "loopback"\n'
    assert "is every caller behind a sidecar" in faults(local)["server.proxies[0].peer"]
    assert "server.client_ca" in faults('[server]\nclient_ca = "/ca"\ntls = {mode = "mesh"}\n')


@pytest.mark.standard("S12")
@pytest.mark.parametrize(
    ("peer", "says"),
    [
        ("", "is required"),
        ("orders", "neither"),
        ("spiffe://*/ns/shop", "neither"),
        ("spiffe://**", "neither"),
        ("spiffe://Prod.example/a", "neither"),
        ("spiffe://prod.example", "neither"),
        ("dns:", "neither"),
        ("dns:a/b", "neither"),
        ("spiffe://prod.example/***", "more than two stars"),
    ],
)
def test_a_peer_is_a_name_of_a_trust_domain_that_is_named(peer: str, says: str) -> None:
    entry = f'peer = "{peer}"\nclient_id = "a"\n'
    text = f'[server]\ntls = {{mode = "mesh"}}\n[[server.principals]]\n{entry}[[server.proxies]]\npeer = "{peer}"\n'
    found = faults(text)
    assert found.keys() == {"server.principals[0].peer", "server.proxies[0].peer"}
    assert all(says in fault for fault in found.values())


def test_a_peer_speaks_as_a_client_that_is_named() -> None:
    text = '[server]\ntls = {mode = "mesh"}\n[[server.principals]]\npeer = "dns:*.shop"\n'
    assert faults(text) == {"server.principals[0].client_id": "is required"}


def test_names_of_a_self_signed_certificate_are_names() -> None:
    text = "[server.tls]\nmode = 'self_signed'\nnames = {names}\n"
    good = ["authsvc", "*.authsvc.svc", "10.0.0.1", "::1", "a_b.test"]
    assert load(text.format(names=good), {}).server.tls.names == tuple(good)
    for bad in ("", "a b", "https://a", "spiffe://a/b", "a..b", "-*.a"):
        assert faults(text.format(names=[bad])).keys() == {"server.tls.names[0]"}


def test_lists_and_tables_are_read() -> None:
    text = '[[server.proxies]]\npeer = "loopback"\nroutes = ["orders-*"]\naudiences = ["orders"]\n'
    (proxy,) = load(text, {}).proxies
    assert (proxy.routes, proxy.audiences, proxy.domains) == (("orders-*",), ("orders",), ("*",))
    assert faults("[[server.proxies]]\npeer = 'loopback'\nroutes = 'x y'\nspeed = 1\n").keys() == {
        "server.proxies[0].speed"
    }


def test_a_section_and_a_value_are_not_mistaken_for_each_other() -> None:
    assert faults('server = "127.0.0.1"\n').keys() == {"server"}
    assert faults("", {}, server="x", server__listen="127.0.0.1:1")
    assert faults("not toml at all") == {"authsvc.toml": faults("not toml at all")["authsvc.toml"]}


def test_every_setting_says_what_it_is() -> None:
    def walk(kind: type) -> None:
        for field in dataclasses.fields(kind):
            assert field.metadata["doc"], f"{kind.__name__}.{field.name}"

    for kind in (Config, config.Server, config.Tls, config.Keys, config.Tokens, config.Policy, config.Audit):
        walk(kind)


def test_enums_print_as_they_are_written() -> None:
    assert TlsMode("files") is TlsMode.FILES
    assert PolicySource("file") is PolicySource.FILE


@given(st.dictionaries(st.sampled_from(["server.listen", "tokens.ttl", "issuer", "x.y"]), st.text(max_size=30)))
def test_no_text_of_a_setting_meets_anything_but_a_fault(flags: dict[str, str]) -> None:
    with contextlib.suppress(InvalidRequest):
        load("", {}, flags)
