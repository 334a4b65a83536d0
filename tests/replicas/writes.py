"""How many writes a record on PostgreSQL takes, each with its change row and its audit event.

Owns: the measurement, and its table in docs/reliability.md:
`python -m tests.replicas.writes --write docs/reliability.md`, on a quiet machine, in half a minute.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from authsvc.core.envelopes import Kek
from authsvc.core.errors import Unavailable
from authsvc.storage.sql.opening import Opening, open_record
from tests.bench.report import circumstances, put_block, table
from tests.replicas.setting import POLICY, three
from tests.support.embedded import Refused
from tests.support.postgresql import Postgres, postgres
from tests.support.record_values import draft, granted

SECONDS = 5.0
_WARM_UP = 20


class Rate(NamedTuple):
    """What so many writers did: writes a second, those refused, and milliseconds of this process's time for each."""

    writes: float
    refused: int
    processor_ms: float


def measure(write: Callable[[str], object], writers: int, seconds: float = SECONDS) -> Rate:
    """`write` subjects of different names by so many threads for so long."""
    for turn in range(_WARM_UP):
        write(f"user:warm-{writers}-{turn}")
    end = time.monotonic() + seconds

    def run(index: int) -> tuple[int, int]:
        done = refused = 0
        while time.monotonic() < end:
            try:
                write(f"user:{writers}-{index}-{done}")
                done += 1
            except (Refused, Unavailable):
                refused += 1
        return done, refused

    begun, used = time.monotonic(), time.process_time()
    with ThreadPoolExecutor(writers) as pool:
        counts = list(pool.map(run, range(writers)))
    lasted, used = time.monotonic() - begun, time.process_time() - used
    done = sum(count for count, _ in counts)
    return Rate(done / lasted, sum(refused for _, refused in counts), used / max(1, done) * 1_000)


def _in_one_process(server: Postgres, writers: int) -> Rate:
    url = server.url(server.database())
    opening = Opening(url, Kek(b"k" * 32), "https://auth.example", password_file=server.password)
    record = open_record(opening)
    try:
        return measure(lambda subject: record.grant(granted(subject), draft()), writers)
    finally:
        record.close()


def _on_three_replicas(server: Postgres, folder: Path, writers: int) -> Rate:
    with three(server, folder) as trio:
        trio[0].apply(POLICY)
        for member in trio:
            member.admin()
        return measure(lambda subject: trio[hash(subject)].grant(subject), writers)


def main() -> None:
    """Measure, and write or print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", type=Path, help="the page whose block is replaced; unset: print it")
    given = parser.parse_args()
    with postgres() as server, tempfile.TemporaryDirectory(prefix="authsvc-writes-") as folder:
        rows = []
        for writers in (1, 8):
            rate = _in_one_process(server, writers)
            rows.append((f"the record alone, {writers} writers", rate, f"{rate.processor_ms:.1f}"))
        rows.append(("GrantRole on three replicas, 24 callers", _on_three_replicas(server, Path(folder), 24), ""))
    lines = table(
        ["", "writes a second", "refused", "processor ms a write"],
        [[name, f"{rate.writes:.0f}", str(rate.refused), processor] for name, rate, processor in rows],
    )
    lines += ["", circumstances()]
    if given.write is None:
        sys.stdout.write("\n".join([*lines, ""]))
    else:
        put_block("writes", lines, given.write)


if __name__ == "__main__":
    main()
