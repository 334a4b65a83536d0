"""The configuration that the chart renders is one that the service takes, and finds its files where it says."""

from __future__ import annotations

import json
import tomllib
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authsvc.config import load
from tests.support.chart import NEWEST, SIZES, only, rendered, settings_text

FILES_TLS = ('tls={"mode":"files","existingSecret":"tls","clientCa":{"existingSecret":"client-ca"}}',)
OTHERS: dict[str, tuple[str, ...]] = {
    "given secrets on one replica": ('kek.existingSecret="kek"', 'admin.existingSecret="admin"', *FILES_TLS),
    "mesh": ('tls.mode="mesh"',),
    "insecure": ('tls.mode="insecure"',),
    "pyvoy": ('transport="pyvoy"',),
    "a policy file": ('policy.existingConfigMap="policy"',),
    "an issuer": ('issuer="https://auth.example"',),
    "IPv6": ('listenAddress="[::]"',),
    "an ephemeral volume": ("persistence.enabled=false",),
    "a Redis without a password": ('counters.url="redis://redis.data.svc:6379"',),
}


def values_of(tree: Any) -> list[str]:
    """Every text in nested settings."""
    if isinstance(tree, dict):
        return [text for value in tree.values() for text in values_of(value)]
    return [tree] if isinstance(tree, str) else []


def mounts(manifests: str) -> dict[str, str]:
    """Where the server has which volume."""
    pod = only(manifests, "Deployment")["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    assert {mount["name"] for mount in server["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    return {mount["mountPath"]: mount["name"] for mount in server["volumeMounts"]}


def judged(manifests: str) -> None:
    """The service's own loader takes the settings, and each file that they name is in a volume."""
    text = settings_text(manifests)
    load(text, {})
    files = [value for value in values_of(tomllib.loads(text)) if value.startswith("/run/")]
    found = mounts(manifests)
    volumes = {one["name"]: one for one in only(manifests, "Deployment")["spec"]["template"]["spec"]["volumes"]}
    for file in map(PurePosixPath, files):
        volume = volumes[found[str(file.parent)]]
        source = volume.get("secret") or volume["configMap"]
        assert file.name in {item["path"] for item in source["items"]}
        if "secret" in volume:
            assert source["defaultMode"] == 0o440, "authsvc refuses keys that the world can read"


@pytest.mark.parametrize("size", SIZES)
def test_the_settings_of_every_size_are_taken(size: str) -> None:
    judged(rendered(size))


@pytest.mark.parametrize("case", OTHERS)
def test_the_settings_of_other_choices_are_taken(case: str) -> None:
    judged(rendered("", NEWEST, *OTHERS[case]))


def test_sizes_say_what_they_are() -> None:
    medium, large = (load(settings_text(rendered(size)), {}) for size in ("medium", "large"))
    assert (medium.server.replicas, medium.server.workers, medium.server.transport) == (3, 1, "grpcio")
    assert (large.server.replicas, large.server.workers, large.server.transport) == (6, 2, "pyvoy")
    assert medium.issuer == "https://authsvc.auth.svc:7071"
    assert not medium.bootstrap.generate
    assert load(settings_text(rendered("small")), {}).bootstrap.generate


def test_a_setting_given_wins_over_the_charts() -> None:
    server = {"grace": "45s", "proxies": [{"peer": "loopback", "routes": ["a", "b"]}]}
    wanted = json.dumps({"server": server, "audit": {"allow_sample": 1}})
    found = load(settings_text(rendered("small", NEWEST, f"config={wanted}")), {})
    assert (found.server.grace, found.audit.allow_sample) == (45, 1.0)
    assert found.server.proxies[0].routes == ("a", "b")


PLAIN = st.recursive(
    st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(-1e6, 1e6).map(lambda number: round(number, 3))
    | st.text(st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc", "Cn"]), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), inner, min_size=1, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(section=st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), PLAIN, min_size=1, max_size=3))
def test_any_setting_is_written_as_the_value_that_it_is(section: dict[str, Any]) -> None:
    text = settings_text(rendered("small", NEWEST, f"config={json.dumps({'telemetry': section})}"))
    assert tomllib.loads(text)["telemetry"] == section
