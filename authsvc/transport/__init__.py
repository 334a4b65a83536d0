"""Transports: bytes in, bytes out, no rule of the product.

Owns: sockets, TLS, threads, HTTP/2 limits, drain. Imports `api`; knows rows only by name and shape.
"""

import os

# grpcio's core writes lines of its own to standard error, for example beside the one that says why an address cannot be
# served. It reads this when it is imported, so it stands before any transport; a person's own setting wins.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
