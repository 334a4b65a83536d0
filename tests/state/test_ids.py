"""Random ids."""

from __future__ import annotations

import os
import re
import threading

from authsvc.ids import random_id


def test_ids_are_128_bits_and_never_come_twice_whoever_draws_them() -> None:
    found: list[str] = []

    def draw() -> None:
        found.extend(random_id() for _ in range(2_000))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == len(found) == 8_000
    assert all(re.fullmatch(r"[0-9a-f]{32}", one) for one in found)


def test_a_forked_process_draws_ids_of_its_own() -> None:
    random_id()
    read, write = os.pipe()
    if not os.fork():
        os.write(write, random_id().encode())
        os._exit(0)
    os.wait()
    theirs = os.read(read, 64).decode()
    assert theirs not in {random_id() for _ in range(1_000)}
