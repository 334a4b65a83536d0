"""What answers, what refuses, and for how long, while a store or a replica is lost: measured from outside.

Owns: the faults, the probes beside them, and the table in docs/reliability.md:
`python -m tests.replicas.outages --write docs/reliability.md`, in about two minutes.

Probes call one replica fifty times a second each, before, during and after a fault. What is refused is told with the
time from the first refusal to the last, and from the end of the fault to the first answer after it.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from authsvc.v1 import key_pb2, limit_pb2
from tests.bench.report import circumstances, put_block, table
from tests.replicas.setting import POLICY, three
from tests.support.embedded import Refused
from tests.support.fleet import Trio
from tests.support.postgresql import Postgres, postgres
from tests.support.redis import Store, store
from tests.support.waiting import wait_for

MAX_AGE_S = 5
"""`record.max_age` here: two minutes unless set."""

HOT = ("Check", "VerifyToken", "GetJwks")
PROBES = (*HOT, "IssueToken", "GrantRole", "Consume local", "Consume open", "Consume closed")

_EVERY_S = 0.02
_QUIET_S = 0.5
"""How long all must be well before and after a fault."""
_DECIDED = {
    limit_pb2.DECIDED_BY_STORE: "",
    limit_pb2.DECIDED_BY_LOCAL: "local share",
    limit_pb2.DECIDED_BY_FAILED_OPEN: "failed open",
    limit_pb2.DECIDED_BY_FAILED_CLOSED: "failed closed",
}


class Outcome(NamedTuple):
    """A call: when it began and ended, and what was not as usual; empty where nothing was."""

    begun: float
    ended: float
    odd: str


class Told(NamedTuple):
    """What a probe saw of a fault: how many calls were as usual, what else there was, and times in seconds."""

    usual: int
    odd: Mapping[str, int]
    first: float
    """From the begin of the fault to the first call that was odd; 0 where none was."""
    lasted: float
    """From the first odd call to the end of the last."""
    back: float
    """From the end of the fault to the end of the last odd call; 0 where that was before."""
    slowest: float


@dataclass(frozen=True)
class Fault:
    """What is done, and for how long in seconds; `undo` ends it."""

    name: str
    do: Callable[[], object]
    undo: Callable[[], object] = lambda: None
    seconds: float = 0.0


class Probe:
    """Calls `ask` again and again in a thread; it gives what is odd about the answer."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self.outcomes: list[Outcome] = []
        self._ask = ask
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """End it."""
        self._stopping.set()
        self._thread.join()

    def well_since(self, moment: float) -> bool:
        """Whether calls that began after a moment have ended, all as usual, for long enough."""
        later = [one for one in self.outcomes if one.begun > moment]
        return bool(later) and not any(one.odd for one in later[-5:]) and later[-1].ended - moment > _QUIET_S

    def told(self, begun: float, ended: float) -> Told:
        """What it saw from `begun` on of a fault that ended at `ended`."""
        seen = [one for one in self.outcomes if one.ended > begun]
        odd = [one for one in seen if one.odd]
        last = odd[-1].ended if odd else 0.0
        return Told(
            usual=len(seen) - len(odd),
            odd=Counter(one.odd for one in odd),
            first=odd[0].ended - begun if odd else 0.0,
            lasted=last - odd[0].ended if odd else 0.0,
            back=max(0.0, last - ended) if odd else 0.0,
            slowest=max((one.ended - one.begun for one in seen), default=0.0),
        )

    def _run(self) -> None:
        while not self._stopping.wait(_EVERY_S):
            begun = time.monotonic()
            try:
                odd = self._ask()
            except Refused as refused:
                odd = refused.code.name
            self.outcomes.append(Outcome(begun, time.monotonic(), odd))


class Scene:
    """Three replicas, their stores, and probes of the first replica."""

    def __init__(self, server: Postgres, counters: _Counters, trio: Trio) -> None:
        self.server = server
        self.counters = counters
        self.trio = trio
        self.acknowledged: list[str] = []
        trio[0].apply(POLICY)
        self._secret = trio[0].create_client("probe", audience=["orders"])
        self._token = trio[0].service.token("probe", self._secret, audience=["orders"])
        self._database = trio.database

    def faults(self, *, seconds: float, beyond: float) -> list[Fault]:
        """Every fault; those that last do so for `seconds`, and one for `beyond` `record.max_age`."""
        server, counters, trio = self.server, self.counters, self.trio
        return [
            Fault("PostgreSQL restarts", partial(server.end, signal.SIGINT), server.begin),
            Fault("PostgreSQL crashes and recovers", partial(server.end, signal.SIGQUIT), server.begin),
            Fault("every connection to PostgreSQL is cut", partial(server.cut, self._database)),
            Fault("PostgreSQL stands still", server.pause, server.go_on, seconds),
            Fault("PostgreSQL is away longer than record.max_age", server.end, server.begin, MAX_AGE_S + beyond),
            Fault("Redis is killed, another begins empty", counters.kill, counters.begin, seconds),
            Fault("Redis stands still", counters.pause, counters.go_on, seconds),
            Fault("another replica is killed", partial(trio.kill, 1), partial(trio.begin, 1)),
            Fault("another replica stands still", partial(trio.pause, 1), partial(trio.go_on, 1), seconds),
        ]

    def seen(self, fault: Fault) -> dict[str, Told]:
        """Let it happen; what each probe saw."""
        probes = {name: Probe(partial(self._ask, name)) for name in PROBES}
        try:
            self._settle(probes, time.monotonic())
            begun = time.monotonic()
            fault.do()
            threading.Event().wait(fault.seconds)
            fault.undo()
            ended = time.monotonic()
            self._settle(probes, ended)
        finally:
            for probe in probes.values():
                probe.stop()
        return {name: probe.told(begun, ended) for name, probe in probes.items()}

    def lost(self) -> set[str]:
        """Acknowledged writes that are not there."""
        rows = self.server.sql("SELECT subject FROM binding", database=self._database)
        return set(self.acknowledged) - {str(subject) for (subject,) in rows}

    @staticmethod
    def _settle(probes: Mapping[str, Probe], since: float) -> None:
        wait_for(lambda: all(probe.well_since(since) for probe in probes.values()), 60.0, "all being well again")

    def _ask(self, name: str) -> str:
        member = self.trio[0]
        match name.split():
            case ["Check"]:
                return "" if member.allows("user:ann") else "denied"
            case ["VerifyToken"]:
                return "" if member.verifies(self._token, "orders") else "not valid"
            case ["GetJwks"]:
                return "" if member.service.call("KeyService/GetJwks", key_pb2.GetJwksRequest()).jwks else "empty"
            case ["IssueToken"]:
                return "" if member.service.token("probe", self._secret, audience=["orders"]) else "none"
            case ["GrantRole"]:
                subject = f"user:outage-{next(_COUNT)}"
                member.grant(subject)
                self.acknowledged.append(subject)
                return ""
            case ["Consume", domain]:
                (result,) = member.consume({"open": "wide"}.get(domain, domain), "probe").results
                return _DECIDED[result.decided_by]
            case _:
                raise AssertionError(name)


_COUNT = itertools.count()


class _Counters:
    """A store that is ended and begun again on its port."""

    def __init__(self) -> None:
        self._end = ExitStack()
        self._store = self._end.enter_context(store())

    @property
    def store(self) -> Store:
        """The one that runs, or ran."""
        return self._store

    def kill(self) -> None:
        """SIGKILL."""
        self._store.server.kill()
        self._end.close()

    def begin(self) -> None:
        """Another, empty, on the same port."""
        self._store = self._end.enter_context(store(port=self._store.port))

    def pause(self) -> None:
        """It stands still."""
        self._store.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End a pause."""
        self._store.signal(signal.SIGCONT)

    def close(self) -> None:
        """End it for good."""
        self._end.close()


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """Everything started, with stores of its own."""
    counters = _Counters()
    settings = {"record.max_age": f"{MAX_AGE_S}s"}
    try:
        with postgres() as server, three(server, folder, settings, counters.store) as trio:
            yield Scene(server, counters, trio)
    finally:
        counters.close()


def page(found: Mapping[str, tuple[float, Mapping[str, Told]]]) -> list[str]:
    """The block of docs/reliability.md: of each fault how long it lasted and what each probe saw."""
    rows = []
    for name, (seconds, told) in found.items():
        hot = [told[probe] for probe in HOT]
        cells = [_cell(max(hot, key=lambda one: (one.lasted, one.slowest)))]
        cells += [_cell(told[probe]) for probe in PROBES if probe not in HOT]
        rows.append([f"{name}, {seconds:.0f} s" if seconds else name, *cells])
    how = (
        f"Three replicas on PostgreSQL and Redis, `record.max_age` {MAX_AGE_S} s, seen by callers of one of them, "
        "fifty calls a second of each sort. `ok`: every call was answered as usual, and how long the slowest took. "
        "Else what was told instead and how often, over how long, and until when after the fault's end."
    )
    head = ["fault", ", ".join(HOT), *(probe for probe in PROBES if probe not in HOT)]
    return [how, "", *table(head, rows), "", circumstances()]


def _cell(told: Told) -> str:
    if not told.odd:
        return f"ok, {told.slowest * 1_000:.0f} ms"
    calls = told.usual + sum(told.odd.values())
    what = ", ".join(f"{odd} {count}" for odd, count in told.odd.items())
    after = f", until {told.back:.1f} s after" if told.back > 0 else ""
    begin = f", from {told.first:.1f} s on" if told.first > 1.0 else ""
    return f"{what} of {calls}, over {told.lasted:.1f} s{begin}{after}"


def main() -> None:
    """Measure, and write or print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", type=Path, help="the page whose block is replaced; unset: print it")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="authsvc-outages-") as folder, scene(Path(folder)) as stage:
        faults = stage.faults(seconds=3.0, beyond=3.0)
        lines = page({fault.name: (fault.seconds, stage.seen(fault)) for fault in faults})
        if stage.lost():
            raise SystemExit(f"{len(stage.lost())} acknowledged writes were lost")
    lines += ["", f"Of {len(stage.acknowledged):,} acknowledged writes none was lost."]
    if given.write is None:
        sys.stdout.write("\n".join([*lines, ""]))
    else:
        put_block("outages", lines, given.write)


if __name__ == "__main__":
    main()
