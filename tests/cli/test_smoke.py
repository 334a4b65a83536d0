"""`authsvc smoke` where it does not know the server's certificate, as in the chart's test pod."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.command_line import CommandLine
from tests.support.pki import Authority
from tests.support.ports import free_port
from tests.support.process import serving


def test_any_certificate_that_the_address_shows_is_taken_and_no_secret_is_sent_to_it(tmp_path: Path) -> None:
    settings = Authority().write(tmp_path, "authsvc.auth.svc")
    del settings["server.client_ca"]
    nobody = CommandLine(tmp_path / "nobody")
    with serving(tmp_path / "data", settings=settings) as service:
        told = nobody("smoke", "--address", service.grpc, "--any-certificate", "--output", "json")
        assert [(step["ok"], step["answer"]) for step in json.loads(told.out)][::2] == [
            (True, "serving"),
            (True, "refused: caller_unauthenticated"),
        ]
        assert nobody("smoke", "--address", service.grpc).code == 3, "an unknown certificate is not taken unasked"
        own = service.directory / "admin.json"
        refused = nobody("smoke", "--any-certificate", "--credentials", own)
        assert (refused.code, "sent to nobody unproved" in refused.err) == (2, True)


def test_an_address_without_a_service_or_without_a_port_is_one_line(tmp_path: Path) -> None:
    nobody = CommandLine(tmp_path)
    gone = f"127.0.0.1:{free_port()}"
    unreachable = nobody("smoke", "--any-certificate", "--address", gone)
    assert (unreachable.code, unreachable.faults) == (
        3,
        [f"authsvc: cannot reach the service at {gone}: Connection refused"],
    )
    assert nobody("smoke", "--any-certificate", "--address", "authsvc").code == 2
