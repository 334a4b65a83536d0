"""A service process under a measured load of questions, and what of the machine its processes hold."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from authsvc.cli.bench_measure import Plan, Result, Subject, measure, subject
from authsvc.v1 import authz_pb2
from tests.support.process import Serving, children, serving
from tests.support.transports import CHECK

QUESTION = authz_pb2.CheckRequest(subject="user:ann", permission="orders:read")
AT_MOST = Plan(seconds=2.0, warm_up_s=0.5, calls=64, connections=4)
"""The closed loop in which a service answers most."""
_TASKS = re.compile(r"^authsvc_tasks (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Held:
    """What processes hold."""

    memory: int
    descriptors: int
    threads: int
    tasks: int


@dataclass
class Loaded:
    """A service, a call of it, and the processes that serve."""

    service: Serving
    check: Subject
    processes: list[int]

    def measure(self, plan: Plan) -> Result:
        """What comes of a load."""
        return measure(self.service.grpc, self.check, plan, self.processes)

    def held(self) -> Held:
        """What it holds now."""
        tasks = _TASKS.search(self.service.operations("/metrics")[1])
        assert tasks
        return Held(
            memory=sum(memory(pid) for pid in self.processes),
            descriptors=sum(entries(pid, "fd") for pid in self.processes),
            threads=sum(entries(pid, "task") for pid in self.processes),
            tasks=int(tasks[1]),
        )


def memory(pid: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def entries(pid: int, of: str) -> int:
    """How many entries there are of `fd` or of `task`."""
    return sum(1 for _ in Path(f"/proc/{pid}/{of}").iterdir())


@contextmanager
def loaded(directory: Path, transport: str) -> Iterator[Loaded]:
    """A service with the policy of a load."""
    with serving(directory, {"server.transport": transport}) as service:
        service.apply()
        channel: Any = service.call.channel
        check = subject(
            channel,
            "Check",
            CHECK,
            QUESTION.SerializeToString(),
            right=lambda answer: authz_pb2.CheckResponse.FromString(answer).decision == 1,
            token=service.admin(),
        )
        yield Loaded(service, check, [service.pid, *children(service.pid)])


def goodput(result: Result) -> float:
    """Right answers for a second of the service's processor time: who else uses the machine hardly matters."""
    assert result.server_cpu
    return result.calls_per_s / result.server_cpu
