"""One of several workers on grpcio: `python -m authsvc.bootstrap.worker`, as `serve --workers` starts it.

Owns: the process around the service there. May import: everything.
"""

from __future__ import annotations

import asyncio
import os
import sys

from authsvc.bootstrap.inside import start
from authsvc.transport.link import READY, Link
from authsvc.transport.worker_process import until_asked_to_end


async def live(link: Link) -> int:
    """Serve until the supervisor, or a signal, asks for the end; the exit code."""
    letter = link.hear()
    if letter is None:
        return 1
    try:
        inside = await start(letter, listens_for_grpc=True)
    except BaseException as fault:  # noqa: BLE001 - whatever it is, the supervisor is told
        link.tell_failed(fault)
        return 1
    link.tell({"event": READY, **inside.told})
    await until_asked_to_end(link)
    await inside.stop(inside.grace)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(live(Link.inherited(os.environ))))
