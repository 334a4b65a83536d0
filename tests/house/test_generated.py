"""What is generated is what its sources give today."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

from google.protobuf import descriptor_pb2

from authsvc.api import envoy_messages as envoy

ROOT = Path(__file__).parents[2]


def test_the_generated_protos_are_fresh() -> None:
    script = [sys.executable, str(ROOT / "scripts" / "generate_protos.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_protos_lint_and_have_one_form() -> None:
    buf = Path(sys.executable).with_name("buf")
    for command in (["lint"], ["format", "--diff", "--exit-code"]):
        done = subprocess.run([buf, *command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_envoys_descriptors_hold_what_others_do_not_bring_and_nothing_twice() -> None:
    content = resources.files("authsvc.api").joinpath("envoy.binpb").read_bytes()
    files = [file.name for file in descriptor_pb2.FileDescriptorSet.FromString(content).file]
    assert len(files) == len(set(files))
    assert not [name for name in files if name.startswith("google/")]
    assert "envoy/service/auth/v3/external_auth.proto" in files


def test_a_check_of_envoys_survives_the_wire() -> None:
    request = envoy.CheckRequest()
    http = request.attributes.request.http
    http.headers["authorization"] = "Bearer x"
    http.header_map.headers.add(key="x-raw", raw_value=b"\xff")
    read = envoy.CheckRequest.FromString(request.SerializeToString())
    assert dict(read.attributes.request.http.headers) == {"authorization": "Bearer x"}
    assert read.attributes.request.http.header_map.headers[0].raw_value == b"\xff"


def test_the_field_numbers_are_envoys() -> None:
    """Bytes written by hand: CheckResponse{status{code: 7}, denied_response{status{code: 403}}}."""
    answer = envoy.CheckResponse()
    answer.status.code = 7
    answer.denied_response.status.code = 403
    assert answer.SerializeToString() == bytes.fromhex("0a0208071205" + "0a03089303")
