"""What single settings cannot show: unsafe or impossible combinations.

Owns: every rule over more than one setting, and every bound. May import: `core`. Each fault names the setting
that mends it.
"""

from __future__ import annotations

from authsvc.config.judging_listeners import judge_listeners, judge_peers
from authsvc.config.settings import (
    MEMORY,
    Config,
    Counters,
    PolicySource,
    Record,
)
from authsvc.core.errors import FieldViolation
from authsvc.core.jose import SIGNING

HEARTBEAT_SECONDS = 10
"""How often a watcher hears something, whatever happens."""

STORES = ("redis://", "rediss://", "redis+sentinel://", "rediss+sentinel://")
"""What `counters.url` may begin with."""
MOST_WORKERS = 64
"""A worker is for a core; machines with more run several replicas."""


def judge(config: Config, faults: list[FieldViolation]) -> None:
    """What single values cannot show."""
    judge_listeners(config.server, faults)
    if faults:
        return
    judge_peers(config.server, faults)
    _judge_record(config.record, faults)
    _judge_counters(config.counters, faults)
    _judge_times(config, faults)
    rules = (
        (
            not config.issuer or config.issuer.startswith(("https://", "http://")),
            "issuer",
            "is not an http or https URL",
        ),
        (1 <= config.server.replicas <= 1_000, "server.replicas", "is not between 1 and 1000"),
        (1 <= config.server.workers <= MOST_WORKERS, "server.workers", f"is not between 1 and {MOST_WORKERS}"),
        (
            config.processes <= 1 or config.counters.url != MEMORY,
            "counters.url",
            f"is memory: {_several(config)} would each count for itself: name a Redis",
        ),
        (
            config.processes <= 1 or config.record.url.startswith("postgresql:"),
            "record.url",
            f"is SQLite, which {_several(config)} cannot share: name a PostgreSQL",
        ),
        (
            config.keys.algorithm in SIGNING,
            "keys.algorithm",
            f"`{config.keys.algorithm}` does not sign here; it takes ES256, EdDSA or RS256",
        ),
        (
            config.policy.source is not PolicySource.FILE or config.policy.path is not None,
            "policy.path",
            "is required where policy.source is file",
        ),
        (
            2 * HEARTBEAT_SECONDS <= config.sync.max_stale <= 3_600,
            "sync.max_stale",
            "is not between 20s and 1h: watchers hear something every 10s",
        ),
        (config.sync.max_bytes >= 0, "sync.max_bytes", "is below 0"),
        (0.0 <= config.audit.allow_sample <= 1.0, "audit.allow_sample", "is not between 0 and 1"),
        (
            bool(config.bootstrap.admin_client_id) == bool(config.bootstrap.admin_secret_file),
            "bootstrap.admin_client_id",
            "goes with bootstrap.admin_secret_file, both or neither",
        ),
    )
    faults.extend(FieldViolation(name, text) for holds, name, text in rules if not holds)
    if config.on_loopback or config.bootstrap.generate:
        return
    if config.keys.kek is None:
        faults.append(
            FieldViolation("keys.kek", "is required off loopback (or bootstrap.generate = true, for a trial)")
        )
    if not config.bootstrap.admin_client_id:
        faults.append(
            FieldViolation(
                "bootstrap.admin_client_id", "is required off loopback (or bootstrap.generate = true, for a trial)"
            )
        )


def _several(config: Config) -> str:
    return " and ".join(
        f"server.{name} = {count}"
        for name, count in (("workers", config.server.workers), ("replicas", config.server.replicas))
        if count != 1
    )


def _judge_record(record: Record, faults: list[FieldViolation]) -> None:
    scheme, _, rest = record.url.partition("://")
    if scheme not in {"", "sqlite", "postgresql"} or not (rest or not record.url):
        text = "is not of the form sqlite:///PATH or postgresql://USER@HOST/DATABASE"
        faults.append(FieldViolation("record.url", text))
    elif scheme == "postgresql" and (":" in rest.rpartition("@")[0] or "password=" in rest):
        # Flags are read by every user of the machine, and URLs end in logs: so nowhere.
        text = "holds a password: put that into a file, and name it in record.password_file"
        faults.append(FieldViolation("record.url", text))
    if record.password_file is not None and scheme != "postgresql":
        faults.append(FieldViolation("record.password_file", "goes with a record.url of PostgreSQL"))


def _judge_counters(counters: Counters, faults: list[FieldViolation]) -> None:
    url = counters.url
    if url != MEMORY and not url.startswith(STORES):
        text = "is none of memory:, redis://, rediss://, redis+sentinel://, rediss+sentinel://"
        faults.append(FieldViolation("counters.url", text))
    elif ":" in url.partition("://")[2].rpartition("@")[0]:
        text = "holds a password: put that into a file, and name it in counters.password_file"
        faults.append(FieldViolation("counters.url", text))
    files = ("password_file", "sentinel_password_file", "ca", "certificate", "key")
    faults.extend(
        FieldViolation(f"counters.{name}", "goes with a counters.url of a store")
        for name in files
        if url == MEMORY and getattr(counters, name) is not None
    )
    if (counters.certificate is None) != (counters.key is None):
        faults.append(FieldViolation("counters.certificate", "goes with counters.key, both or neither"))
    if not 1 <= counters.deadline <= 1_000:
        faults.append(FieldViolation("counters.deadline", "is not between 1ms and 1s"))


def _judge_times(config: Config, faults: list[FieldViolation]) -> None:
    if not 0 < config.tokens.ttl <= config.tokens.max_ttl:
        faults.append(FieldViolation("tokens.ttl", "is not between 1s and tokens.max_ttl"))
    for text in config.schedule.faults():
        setting, _, what = text.partition(": ")
        faults.append(FieldViolation(setting, what))
