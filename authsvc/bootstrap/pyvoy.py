"""The service inside Envoy: what pyvoy imports there.

Owns: the application by its name. May import: everything.
"""

from __future__ import annotations

from functools import partial

from authsvc.bootstrap.inside import start
from authsvc.transport.pyvoy_lifespan import PyvoyApplication

application = PyvoyApplication(partial(start, listens_for_grpc=False))
