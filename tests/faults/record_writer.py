"""A process that writes to a record and says on standard output what was acknowledged, until it is killed.

`python record_writer.py TARGET PREFIX`, the target a file or a URL. Three threads, a line a write: `grant
user:P-n`, `client P-n`, `token P-n`, `policy NUMBER` (the revision's).
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from pathlib import Path

from authsvc.core.envelopes import Kek
from authsvc.core.revocations import RevocationKind
from authsvc.ports.record import Record, Revocation
from authsvc.storage.sql.opening import Opening, open_record
from tests.support.record_values import NOW, POLICY, client, draft, file_binding, granted

KEK = Kek(b"k" * 32)
THREADS = 3


def opening(target: str | Path) -> Opening:
    """What the record of a file or a URL is opened with."""
    url = target if isinstance(target, str) and "://" in target else f"sqlite:///{target}"
    return Opening(url, KEK, "https://auth.example")


def write(record: Record, name: str, turn: int) -> str:
    """One write of the kind whose turn it is, and what to say of it."""
    match turn % 4:
        case 0:
            record.grant(granted(f"user:{name}"), draft(subject=f"user:{name}"))
            return f"grant user:{name}"
        case 1:
            record.create_client(client(name), [granted(f"client:{name}")], draft(subject=f"client:{name}"))
            return f"client {name}"
        case 2:
            record.revoke([Revocation(RevocationKind.TOKEN, name, NOW + 60)], draft())
            return f"token {name}"
        case _:
            bindings = [file_binding(f"user:{name}-{n}") for n in range(20)]
            written = record.apply_policy(f"{POLICY}# {name}\n", bindings, draft(), expected_revision=None)
            return f"policy {written.revision.number}"


def work(record: Record, prefix: str, turns: itertools.count[int]) -> None:
    """Write for ever; one system call a line, so that lines of threads do not mix."""
    for turn in turns:
        os.write(1, f"{write(record, f'{prefix}-{turn}', turn)}\n".encode())


if __name__ == "__main__":
    shared = open_record(opening(sys.argv[1]))
    counter = itertools.count()
    workers = [threading.Thread(target=work, args=(shared, sys.argv[2], counter)) for _ in range(THREADS)]
    for worker in workers:
        worker.start()
