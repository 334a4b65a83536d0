"""What must be made anew in a child process.

Owns: the list of objects that hold channels, threads or locks, and the hook that renews them after a fork.
May import: the standard library. A lock that another thread held at the fork stays held in the child for
ever, and a channel of the parent must not be spoken on: so each object replaces both.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """Holds state that belongs to one process."""

    def renew_after_fork(self) -> None:
        """Replace locks, channels and flights, without touching the old ones; runs in the child."""


_held: weakref.WeakSet[Forkable] = weakref.WeakSet()


def watch(held: Forkable) -> None:
    """Renew `held` in every child process, for as long as it lives."""
    _held.add(held)


def _renew_all() -> None:
    for held in list(_held):
        held.renew_after_fork()


# Not on every platform: where there is no fork there is nothing to renew.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
