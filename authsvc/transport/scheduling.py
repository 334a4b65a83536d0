"""How Linux is asked to schedule the threads that carry calls.

Owns: `work_in_batches`. May import: the standard library. A call passes through several threads (Envoy's, the one that
holds the interpreter's lock for it, the loop's; on grpcio the poller's and a row's). By default each of them takes the
processor from the one that woke it, so that every call is three switches; as batch work (SCHED_BATCH, sched(7)) a
thread first finishes what it has, and hands all of it on at once.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_TASKS = Path("/proc/self/task")


def work_in_batches() -> None:
    """Make every thread of this process batch work, and the threads and processes that these start.

    Nothing happens where the system does not let us.

    The price is paid where other processes want the same processor at the same moment: a thread that wakes waits for
    their turn to end, some 3 ms, instead of cutting it short. Its share of the processor stays the same.
    """
    with suppress(OSError, AttributeError):
        for task in _TASKS.iterdir():
            os.sched_setscheduler(int(task.name), os.SCHED_BATCH, os.sched_param(0))
