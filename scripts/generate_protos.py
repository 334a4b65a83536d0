"""Write `authsvc/v1` from `protos/`, or with `--check` tell whether it is fresh.

The generator is pinned (grpcio-tools 1.81): its output asks hosts for protobuf 6.33.5 and runs on 6 and 7. The proto
package equals the Python package, so that generated imports are right as they come.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import metadata, resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = Path("authsvc/v1")
GENERATOR = "1.81"
HEADER = '"""Generated from protos/authsvc/v1 by `make protos`; edit nothing here."""\n'


def generate(target: Path) -> None:
    """Write the generated package below `target`; raises SystemExit on a proto that does not compile."""
    version = metadata.version("grpcio-tools")
    if not version.startswith(f"{GENERATOR}."):
        sys.exit(f"grpcio-tools {version} is installed, the pinned generator is {GENERATOR}: make install")
    protos = sorted((PROTOS / PACKAGE).glob("*.proto"))
    common = resources.files("grpc_tools") / "_proto"
    outputs = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
    includes = [f"-I{PROTOS}", f"-I{common}"]
    code = protoc.main(["protoc", *includes, *outputs, *(str(path.relative_to(PROTOS)) for path in protos)])
    if code:
        sys.exit(code)
    package = target / PACKAGE
    package.joinpath("__init__.py").write_text(HEADER)
    for proto in protos:
        # A file of nouns has no services; the empty module would only be read.
        if "\nservice " not in proto.read_text():
            package.joinpath(f"{proto.stem}_pb2_grpc.py").unlink()


def contents(folder: Path) -> dict[str, bytes]:
    """The generated files of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.glob("*.py*")}


def fresh_contents() -> dict[str, bytes]:
    """What the protos give now, by file name."""
    with tempfile.TemporaryDirectory() as name:
        generate(Path(name))
        return contents(Path(name) / PACKAGE)


def stale(fresh: dict[str, bytes]) -> list[str]:
    """Names of committed files that are missing, extra or not what the protos give."""
    committed = contents(ROOT / PACKAGE)
    return sorted(name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))


def main() -> int:
    """Generate, or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when the committed code is stale")
    check = parser.parse_args().check
    fresh = fresh_contents()
    old = stale(fresh)
    if check:
        if old:
            print(f"authsvc/v1 is stale ({', '.join(old)}): run `make protos` and commit")
        return int(bool(old))
    for name in old:
        path = ROOT / PACKAGE / name
        if name in fresh:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(fresh[name])
        else:
            path.unlink()
    print(f"{len(fresh)} files in {PACKAGE}, {len(old)} of them changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
