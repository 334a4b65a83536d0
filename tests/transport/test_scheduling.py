"""Threads that carry calls are batch work."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, subprocess, sys, threading
from authsvc.transport.scheduling import work_in_batches

def policies():
    return {os.sched_getscheduler(int(task)) for task in os.listdir("/proc/self/task")}

stop = threading.Event()
threading.Thread(target=stop.wait).start()
work_in_batches()
threading.Thread(target=stop.wait).start()
child = "import os; print(os.sched_getscheduler(0) == os.SCHED_BATCH)"
print(policies() == {os.SCHED_BATCH}, subprocess.check_output([sys.executable, "-c", child], text=True))
stop.set()
"""


def test_every_thread_is_batch_work_and_so_is_what_it_starts() -> None:
    said = subprocess.check_output([sys.executable, "-c", PROGRAM], text=True)
    assert said.split() == ["True", "True"]
