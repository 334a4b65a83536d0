"""What a process owes as PID 1: children of others that it inherits are waited for, or they stay as zombies.

Owns: `Orphans`. May import: the standard library.
"""

from __future__ import annotations

import os
from contextlib import suppress


class Orphans:
    """Reaps children that end and were not started here; those that were are left to whoever waits for them.

    Use it in one thread: where a child is started, and where SIGCHLD is heard.
    """

    def __init__(self) -> None:
        self._own: set[int] = set()

    def own(self, pid: int) -> None:
        """A child of ours, from when it is started."""
        self._own.add(pid)

    def ended(self, pid: int) -> None:
        """It has been waited for."""
        self._own.discard(pid)
        self.reap()

    def reap(self) -> None:
        """Wait for every orphan that has ended."""
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        with suppress(ChildProcessError):  # there are no children at all
            # One of ours is looked at again once it has been waited for.
            while (found := os.waitid(os.P_ALL, 0, look)) is not None and found.si_pid not in self._own:
                os.waitpid(found.si_pid, 0)
