"""Write `authsvc/api/envoy.binpb`: the descriptors of Envoy's services that authsvc answers, and what they need.

The source is the wheel `xds-protos`, which overwrites other packages' modules: it is fetched into a throw-away
environment and never installed beside the service. Only its registered descriptors are copied. `google.protobuf` and
`google.rpc` are left out, because protobuf and googleapis-common-protos bring them. Options (Envoy's annotations for
validation and versions) say nothing about the bytes on the wire: they are dropped, and with them the imports of
`udpa`, `xds.annotations`, `validate` and Envoy's own annotations.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.message import Message

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "authsvc" / "api" / "envoy.binpb"
SOURCES = ["xds-protos==1.85.0", "googleapis-common-protos==1.76.0"]
SERVED = ["envoy.service.auth.v3.external_auth", "envoy.service.ratelimit.v3.rls"]
RATE_LIMIT = "envoy/extensions/common/ratelimit/v3/ratelimit.proto"
"""Envoy 1.38 has a field there that the wheel lacks: `RateLimitDescriptor.is_negative_hits`, a bool of number 4."""
BROUGHT_BY_OTHERS = ("google/protobuf/", "google/rpc/")
ONLY_OPTIONS = ("udpa/annotations/", "xds/annotations/", "envoy/annotations/", "validate/")

# Runs in the throw-away environment: prints the served files and all they import, dependencies first.
COLLECT = """
import importlib, sys
from google.protobuf import descriptor_pb2
seen, files = set(), descriptor_pb2.FileDescriptorSet()
def add(file):
    if file.name not in seen:
        seen.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        file.CopyToProto(files.file.add())
for name in sys.argv[1:]:
    add(importlib.import_module(name + "_pb2").DESCRIPTOR)
sys.stdout.buffer.write(files.SerializeToString(deterministic=True))
"""


def collect() -> descriptor_pb2.FileDescriptorSet:
    """Fetch the wheels into a throw-away environment and read the descriptors there."""
    with tempfile.TemporaryDirectory() as name:
        venv.create(name, with_pip=True)
        python = Path(name) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "-q", *SOURCES], check=True)
        done = subprocess.run([python, "-c", COLLECT, *SERVED], check=True, capture_output=True)
    return descriptor_pb2.FileDescriptorSet.FromString(done.stdout)


def reduce(files: descriptor_pb2.FileDescriptorSet) -> descriptor_pb2.FileDescriptorSet:
    """Drop options, and files that no remaining file needs."""
    kept = descriptor_pb2.FileDescriptorSet()
    for file in files.file:
        if file.name.startswith(BROUGHT_BY_OTHERS + ONLY_OPTIONS):
            continue
        clear_options(file)
        wanted = [name for name in file.dependency if not name.startswith(ONLY_OPTIONS)]
        del file.dependency[:], file.public_dependency[:], file.weak_dependency[:]
        file.dependency.extend(wanted)
        kept.file.append(file)
    return kept


def complete(files: descriptor_pb2.FileDescriptorSet) -> descriptor_pb2.FileDescriptorSet:
    """Add what the pinned Envoy says and the wheel does not know yet; nothing once it does."""
    field = descriptor_pb2.FieldDescriptorProto
    for file in files.file:
        for message in file.message_type if file.name == RATE_LIMIT else ():
            if message.name == "RateLimitDescriptor" and all(known.number != 4 for known in message.field):
                message.field.add(
                    name="is_negative_hits",
                    json_name="isNegativeHits",
                    number=4,
                    type=field.TYPE_BOOL,
                    label=field.LABEL_OPTIONAL,
                )
    return files


def clear_options(message: Message) -> None:
    """Remove every `options` member, except what the bytes depend on: map entries and packing."""
    for field, value in message.ListFields():
        if field.name == "options":
            keep = {name: getattr(value, name) for name in ("map_entry", "packed") if _is_set(value, name)}
            message.ClearField("options")
            for name, kept in keep.items():
                setattr(getattr(message, "options"), name, kept)  # noqa: B009 -- Message declares no members
        elif field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                clear_options(part)


def _is_set(options: Message, name: str) -> bool:
    return name in options.DESCRIPTOR.fields_by_name and options.HasField(name)


def main() -> int:
    """Write the file, or check that it is what the wheels give."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when the committed file differs")
    check = parser.parse_args().check
    reduced = complete(reduce(collect()))
    content = reduced.SerializeToString(deterministic=True)
    if check:
        same = TARGET.exists() and TARGET.read_bytes() == content
        print(f"{TARGET.relative_to(ROOT)} is {'fresh' if same else 'stale'}")
        return int(not same)
    TARGET.write_bytes(content)
    print(f"{len(reduced.file)} files, {len(content)} bytes in {TARGET.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
