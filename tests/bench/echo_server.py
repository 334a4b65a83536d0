"""A grpcio server that gives back the bytes it got: `python -m tests.bench.echo_server IP:PORT`."""

# ruff: noqa: T201 -- it tells its parent that it is ready

from __future__ import annotations

import sys
from concurrent import futures

import grpc


class _Echo(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic for type checkers only
    """Every method gives back its request."""

    def __init__(self) -> None:
        self._handler = grpc.unary_unary_rpc_method_handler(lambda request, _context: request)

    def service(self, _details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        """The one handler."""
        return self._handler


def main() -> None:
    """Serve until killed, with as many threads as the service has for plain rows."""
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[_Echo()])
    server.add_insecure_port(sys.argv[1])
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
