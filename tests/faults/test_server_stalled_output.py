"""Whoever collects standard output has stopped reading: the service answers and ends as if nobody had looked."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

import pytest

from authsvc.v1 import token_pb2
from tests.support.embedded import Refused
from tests.support.process import serving

WRITES = 40
PIPE_BYTES = 4_096


@pytest.mark.standard("U4")
def test_a_pipe_that_nobody_reads_stalls_no_write_no_denial_and_no_stop(tmp_path: Path) -> None:
    end, beginning = os.pipe()
    fcntl.fcntl(beginning, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    try:
        with serving(tmp_path / "data", {"audit.stdout": "true"}, standard_output=beginning) as service:
            for number in range(WRITES):
                wanted = token_pb2.RevokeTokenRequest(token_id=f"t-{number}")
                service.call("TokenService/RevokeToken", wanted, service.admin(), timeout=5.0)
                with pytest.raises(Refused):
                    service.call("TokenService/RevokeToken", wanted, "no token", timeout=5.0)
            service.server.process.send_signal(signal.SIGTERM)
            assert service.server.process.wait(10) == 0, service.server.output()
        written = os.read(end, 2 * PIPE_BYTES)
        assert len(written) > PIPE_BYTES // 2, "the pipe was full"
    finally:
        os.close(end)
        os.close(beginning)
