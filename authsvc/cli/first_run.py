"""What `make run` does once everything is installed: the service on loopback, the walk, and then it goes on.

Owns: the first screen that anybody sees. May import: `cli`. The service keeps the person's own data directory, so a
second `make run` finds what the first one left.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from authsvc.cli.faults import CommandFault

LOG_FILE = "serve.log"

NEXT = """
The service runs on: gRPC {grpc}, JWKS http://{http}/.well-known/jwks.json, metrics http://{ops}/metrics
Its data and its administrator are in {directory}, its log is {log}
Try next, in another terminal:
  {program} clients create billing --audience orders --own-audience orders --domain api --save billing.json
  {program} token issue --credentials billing.json
  {program} policy apply examples/policy.yaml
  {program} check user:ann orders:read --tenant acme --resource orders/eu-7 --context '{{"mfa": true}}'
  {program} smoke
  {program} bench
Ctrl-C stops it."""


def first_run() -> int:
    """Start, walk, stay; the exit code."""
    from authsvc.cli.child import started
    from authsvc.cli.demo import own_service
    from authsvc.cli.output import Form
    from authsvc.cli.steps import Answer, Walk
    from authsvc.storage.data_directory import data_directory

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    directory = data_directory(os.environ)
    log = directory / LOG_FILE
    walk = Walk(Form.TABLE)
    try:
        with started(directory, {}, environment=os.environ, log=log) as child:
            walk.title("authsvc: the service is up, and this is what it does")
            walk.add("start your service", Answer(True, f"ready on {child.grpc}"), child.seconds * 1000)
            own_service(walk, envoy=True)
            program = os.path.relpath(os.path.join(os.path.dirname(sys.executable), "authsvc"))  # noqa: PTH118, PTH120 - text for a person
            told = {"grpc": child.grpc, "http": child.http, "ops": child.ops, "directory": directory, "log": log}
            walk.title(NEXT.format(program=program, **told), style="")
            while not stopped.wait(0.2):
                if child.process.poll() is not None:
                    print(f"authsvc: the service ended with {child.process.returncode}; see {log}", file=sys.stderr)
                    return 1
    except CommandFault as fault:
        for line in fault.fault.lines():
            print(f"authsvc: {line}", file=sys.stderr)
        return int(fault.code)
    return 0 if walk.ok else 1


if __name__ == "__main__":
    sys.exit(first_run())
