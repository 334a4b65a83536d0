"""The supervisor over small programs: what it does where they end, or do not start."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from authsvc.cli.faults import CommandFault
from authsvc.cli.orphans import Orphans
from authsvc.cli.supervisor import Supervisor
from authsvc.transport.link import StartFault
from tests.support.waiting import wait_for_async

SERVES = "print('ready', flush=True); input()"
"""Serves until its standard input ends."""
ENDS = "print('ready', flush=True)"
FAILS = "raise SystemExit(3)"
HANGS = "input()"
"""Never becomes ready."""
STARTS_SLOWLY = "import sys; open({go!r}).read(); print('ready', flush=True); sys.stdin.read()"
"""Becomes ready once somebody has written to a pipe and closed it."""


class Program:
    """A worker that is a few lines of Python; see `supervisor.Worker`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.drained = False
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def begin(self) -> None:
        command = [sys.executable, "-c", self._text]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def await_ready(self) -> Mapping[str, Any]:
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ready\n":
            self.kill()
            raise StartFault("it cannot")
        return {"text": self._text}

    def drain(self, grace: float) -> None:
        self.drained = True
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(grace)
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


class Team:
    """Programs under a supervisor, and what was said of them."""

    def __init__(self, text_of: Callable[[int, int], str], count: int, *, grace: float = 10.0) -> None:
        """`text_of` gives the program of a number and its turn, from 0."""
        self.said: list[tuple[int, str]] = []
        self.made: list[Program] = []
        self._text_of = text_of
        self._turns = dict.fromkeys(range(1, count + 1), 0)
        self.heard = asyncio.Event()
        self.supervisor = Supervisor(self._make, count, grace=grace, orphans=Orphans(), say=self._say)

    def _make(self, number: int) -> Program:
        turn = self._turns[number]
        self._turns[number] += 1
        program = Program(self._text_of(number, turn))
        self.made.append(program)
        return program

    def _say(self, number: int, text: str) -> None:
        self.said.append((number, text))
        self.heard.set()

    def ended(self) -> bool:
        return all(program.process.poll() is not None for program in self.made)


def test_what_ends_starts_again_after_pauses_that_grow() -> None:
    async def run() -> Team:
        team = Team(lambda number, turn: [ENDS, FAILS, SERVES][min(turn, 2)] if number == 2 else SERVES, 2)
        await team.supervisor.start()
        stopped = asyncio.Event()
        running = asyncio.create_task(team.supervisor.run(stopped))
        async with asyncio.timeout(30):
            while not team.said or team.said[-1][1] != "is ready again":
                team.heard.clear()
                await team.heard.wait()
            stopped.set()
            await running
        return team

    team = asyncio.run(run())
    assert team.said == [
        (2, "has ended with 0; it starts again in 0.2 s"),
        (2, "has not started: it cannot; it starts again in 0.4 s"),
        (2, "is ready again"),
    ]
    assert team.ended()


def test_whatever_keeps_one_from_starting_again_the_others_go_on() -> None:
    def text_of(number: int, turn: int) -> str:
        if (number, turn) == (2, 1):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return ENDS if (number, turn) == (2, 0) else SERVES

    async def run() -> Team:
        team = Team(text_of, 2)
        await team.supervisor.start()
        stopped = asyncio.Event()
        running = asyncio.create_task(team.supervisor.run(stopped))
        async with asyncio.timeout(30):
            while not team.said or team.said[-1][1] != "is ready again":
                assert not running.done()
                team.heard.clear()
                await asyncio.wait([running, asyncio.create_task(team.heard.wait())], return_when="FIRST_COMPLETED")
            stopped.set()
            await running
        return team

    team = asyncio.run(run())
    assert "No space left on device" in team.said[1][1]
    assert team.ended()


def test_a_lone_one_that_ends_by_itself_ends_the_whole() -> None:
    async def run() -> None:
        team = Team(lambda _number, _turn: ENDS, 1)
        await team.supervisor.start()
        await team.supervisor.run(asyncio.Event())

    with pytest.raises(CommandFault, match="has ended with 0 by itself"):
        asyncio.run(run())


@pytest.mark.parametrize("failing", [1, 2])
def test_one_that_cannot_start_at_all_ends_those_that_did(failing: int) -> None:
    async def run() -> Team:
        team = Team(lambda number, _turn: FAILS if number == failing else SERVES, 3)
        with pytest.raises(StartFault, match="it cannot"):
            await team.supervisor.start()
        return team

    team = asyncio.run(run())
    assert team.ended()
    # The first is tried alone: its fault is told once.
    assert len(team.made) == (1 if failing == 1 else 3)


def test_a_stop_does_not_wait_for_a_pause() -> None:
    async def run() -> Team:
        team = Team(lambda number, turn: (ENDS if turn == 0 else FAILS) if number == 2 else SERVES, 2)
        await team.supervisor.start()
        stopped = asyncio.Event()
        running = asyncio.create_task(team.supervisor.run(stopped))
        async with asyncio.timeout(30):
            # The fourth pause is longer than a second.
            while len(team.said) < 4:
                team.heard.clear()
                await team.heard.wait()
            stopped.set()
            async with asyncio.timeout(1):
                await running
        return team

    assert asyncio.run(run()).ended()


async def starting_again(team: Team, stopped: asyncio.Event) -> asyncio.Task[None]:
    """The supervisor at work, once the second program of number 2 has begun."""
    await team.supervisor.start()
    running = asyncio.create_task(team.supervisor.run(stopped))
    await wait_for_async(lambda: len(team.made) == 3, what="the second start")
    return running


@pytest.mark.standard("U4")
def test_a_stop_drains_one_that_is_about_to_serve_for_it_may_have_been_connected_to(tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)

    def begun() -> int:
        """A descriptor, above 0, once the program waits for it."""
        try:
            return os.open(go, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return 0

    async def run() -> Team:
        slowly = STARTS_SLOWLY.format(go=str(go))
        team = Team(lambda number, turn: (ENDS, slowly)[turn] if number == 2 else SERVES, 2)
        stopped = asyncio.Event()
        async with asyncio.timeout(30):
            running = await starting_again(team, stopped)
            waits = await wait_for_async(begun, what="the second program")
            stopped.set()
            await wait_for_async(lambda: team.made[0].drained, what="the drain of the first")
            os.close(waits)
            await running
        return team

    team = asyncio.run(run())
    assert team.ended()
    assert [program.drained for program in team.made] == [True, False, True]
    assert team.made[2].process.returncode == 0


def test_a_stop_waits_no_longer_than_the_grace_for_one_that_does_not_come_to_serve() -> None:
    async def run() -> Team:
        team = Team(lambda number, turn: (ENDS, HANGS)[turn] if number == 2 else SERVES, 2, grace=0.5)
        stopped = asyncio.Event()
        async with asyncio.timeout(30):
            running = await starting_again(team, stopped)
            stopped.set()
            await running
        return team

    team = asyncio.run(run())
    assert team.ended()
    assert [program.drained for program in team.made] == [True, False, False]
