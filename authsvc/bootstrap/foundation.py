"""What administrative verbs need: the record, the state that follows it, and the use cases over both.

Owns: what is made from what below the transports. `serve` builds the rest on it, `--local` commands use it alone.
May import: everything.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from authsvc.bootstrap.first_start import (
    DATABASE_FILE,
    default_issuer,
    ensure_admin,
    key_encryption_key,
    new_client_secret,
    prepare_directory,
)
from authsvc.clock import Clock, SystemClock
from authsvc.config import Config
from authsvc.core.audit import AuditDraft
from authsvc.core.envelopes import NONCE_BYTES, Kek
from authsvc.ids import random_id
from authsvc.log_lines import LogLines, write_standard_output
from authsvc.state.tail import Tail
from authsvc.storage.sql.opening import Opening, open_record
from authsvc.storage.sql.record import SqlRecord
from authsvc.telemetry import LogHandler, SecurityLog, event_line
from authsvc.usecases.clients import Clients
from authsvc.usecases.keyring import Keyring
from authsvc.usecases.keys import KeyFactory, Keys
from authsvc.usecases.policies import Policies
from authsvc.usecases.propagation import Propagation
from authsvc.usecases.revocations import Revocations
from authsvc.usecases.tokens import Tokens
from authsvc.usecases.writes import Writer

_LOGGER = ""
"""The root: what modules of ours and of others log goes where events go, as lines of the same form."""

LOG_GRACE_S = 2.0
"""How long the end waits for a reader of standard output that does not read."""


@dataclass(frozen=True, slots=True)
class ProcessLog:
    """The security log on standard output, and what sends the process's log records there."""

    log: SecurityLog
    handler: LogHandler
    lines: LogLines

    @classmethod
    def started(cls, clock: Clock) -> ProcessLog:
        """Begin to write; from now on log records are lines of it."""
        lines = LogLines(write_standard_output, lambda count: event_line(clock.now(), "log.lost", {"count": count}))
        lines.start()
        log = SecurityLog(lines, now=clock.now)
        handler = LogHandler(log)
        logging.getLogger(_LOGGER).addHandler(handler)
        return cls(log, handler, lines)

    def stop(self) -> None:
        """Take no more log records, and write what waits."""
        logging.getLogger(_LOGGER).removeHandler(self.handler)
        self.lines.stop(LOG_GRACE_S)


@dataclass(frozen=True, slots=True)
class Foundation:
    """What administrative verbs need: the record and the snapshot, and the use cases over them.

    `serve` builds the rest on it; `--local` commands use it alone.
    """

    config: Config
    directory: Path
    clock: Clock
    log: SecurityLog
    process_log: ProcessLog
    issuer: str
    record: SqlRecord
    tail: Tail
    keyring: Keyring
    keys: Keys
    propagation: Propagation
    clients: Clients
    policies: Policies
    revocations: Revocations
    tokens: Tokens

    def close(self) -> None:
        """Stop following the record, and give it up."""
        self.tail.stop()
        self.record.close()
        self.process_log.stop()


def lay_foundation(
    config: Config,
    directory: Path,
    *,
    clock: Clock | None = None,
    accept_new_issuer: bool = False,
) -> Foundation:
    """Open the record and make sure of keys, admin and policy; blocks.

    Raises InvalidRequest naming the setting at fault, Unavailable where the record cannot be reached.
    """
    clock = clock or SystemClock()
    prepare_directory(directory)
    kek = Kek(key_encryption_key(config, directory))
    record = open_record(
        Opening(
            url=config.record.url or f"sqlite:///{directory / DATABASE_FILE}",
            kek=kek,
            issuer=config.issuer,
            accept_new_issuer=accept_new_issuer,
            default_issuer=default_issuer(config),
            password_file=config.record.password_file,
        )
    )
    process_log = ProcessLog.started(clock)
    try:
        return _founded(config, directory, clock, process_log, kek, record)
    except BaseException:
        process_log.stop()
        record.close()
        raise


def _founded(
    config: Config,
    directory: Path,
    clock: Clock,
    process_log: ProcessLog,
    kek: Kek,
    record: SqlRecord,
) -> Foundation:
    log = process_log.log
    mac_key = record.secret("key-row-mac")
    hash_key = record.secret("client-secret-hash")
    factory = KeyFactory(kek, mac_key, config.schedule, partial(secrets.token_bytes, NONCE_BYTES))
    tail_of: list[Tail] = []
    writer = Writer(record, lambda: tail_of[0], log.audit if config.audit.stdout else _keep_quiet)
    propagation = Propagation(record, config.record.max_age)
    keys = Keys(writer, factory, config.keys.algorithm, record.issuer, propagation)
    clients = Clients(
        writer,
        max_token_ttl=config.tokens.max_ttl,
        secret_hash_key=hash_key,
        new_secret=new_client_secret,
        random_id=random_id,
    )
    policies = Policies(
        writer,
        source_path=config.policy.path,
        may_bind_service_roles=config.policy.grants_service_roles,
    )
    now = clock.now()
    keys.ensure(now=now)
    ensure_admin(config, directory, record, clients, now)
    policies.apply_file(now=now)
    tail = Tail(record, factory.authentic, clock, max_age=config.record.max_age)
    tail_of.append(tail)
    tail.start()
    record.listen(tail.hint)
    keyring = Keyring(kek)
    return Foundation(
        config=config,
        directory=directory,
        clock=clock,
        log=log,
        process_log=process_log,
        issuer=record.issuer,
        record=record,
        tail=tail,
        keyring=keyring,
        keys=keys,
        propagation=propagation,
        clients=clients,
        policies=policies,
        revocations=Revocations(
            writer,
            keyring,
            issuer=record.issuer,
            longest_life=config.tokens.max_ttl + config.tokens.leeway + 1,
        ),
        tokens=Tokens(
            issuer=record.issuer,
            settings=config.tokens,
            keyring=keyring,
            secret_hash_key=hash_key,
            random_id=random_id,
            state_age=tail.age,
        ),
    )


def _keep_quiet(_draft: AuditDraft) -> None:
    """The record has it."""
