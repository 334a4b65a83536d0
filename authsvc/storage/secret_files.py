"""Secrets that lie in files: the key-encryption key, certificates' keys, the first admin's credentials.

Owns: how such a file is read and made. May import: the standard library and `core`. A file that the world
can read is refused, because whoever mounted it so believes it is safe.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from authsvc.core.errors import InvalidRequest

KEK_BYTES = 32
_MOST = 64 * 1024


def read_secret(path: Path, setting: str) -> bytes:
    """The file's bytes; raises InvalidRequest naming the setting where it cannot or must not be read."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise InvalidRequest.of(setting, f"{path} is not a file")
            if mode & stat.S_IRWXO:
                raise InvalidRequest.of(setting, f"{path} can be read by everybody; run: chmod o-rwx {path}")
            return file.read(_MOST)
    except OSError as error:
        raise InvalidRequest.of(setting, f"cannot read {path}: {error.strerror}") from None


def write_secret(path: Path, content: bytes, setting: str, *, replace: bool = False) -> bool:
    """Make the file with mode 0600, whole or not at all; False where it was there and `replace` is not set."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            _put(temporary, content)
            if replace:
                temporary.replace(path)
                return True
            os.link(temporary, path)
        except BaseException:
            # It may hold a good part of the secret.
            temporary.unlink(missing_ok=True)
            raise
        temporary.unlink()
    except FileExistsError:
        return False
    except OSError as error:
        raise InvalidRequest.of(setting, f"cannot write {path}: {error.strerror}") from None
    return True


def _put(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def kek_bytes(path: Path, setting: str = "keys.kek") -> bytes:
    """The key-encryption key: 32 bytes as 64 hexadecimal digits, or raw."""
    content = read_secret(path, setting)
    if len(content) == KEK_BYTES:
        return content
    try:
        key = bytes.fromhex(content.decode("ascii").strip())
    except (UnicodeDecodeError, ValueError):
        key = b""
    if len(key) != KEK_BYTES:
        raise InvalidRequest.of(
            setting, f"{path} does not hold 32 bytes as 64 hexadecimal digits; make one: openssl rand -hex 32"
        )
    return key


@dataclass(frozen=True, slots=True)
class AdminCredentials:
    """What the command line needs to speak to a service as an administrator; sent nowhere else."""

    address: str
    client_id: str
    client_secret: str
    certificate: str = ""
    """PEM of the certificate by which the command line then knows the server; empty without TLS."""
    pin: str = ""
    """`sha256/...` of that certificate's public key, for clients that pin."""

    def __repr__(self) -> str:
        return f"AdminCredentials(address={self.address!r}, client_id={self.client_id!r})"

    def to_bytes(self) -> bytes:
        """The file's content."""
        members = {
            "address": self.address,
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "certificate": self.certificate,
            "pin": self.pin,
        }
        return json.dumps(members, indent=2).encode() + b"\n"

    @classmethod
    def read(cls, path: Path) -> AdminCredentials:
        """Read the file; raises InvalidRequest where it is not one."""
        content = read_secret(path, str(path))
        try:
            members = json.loads(content)
            # A file of 0.1.0 has no pin.
            return cls(**{name: str({"pin": "", **members}[name]) for name in cls.__slots__})
        except (ValueError, KeyError, TypeError):
            raise InvalidRequest.of(str(path), "is not a credentials file of authsvc") from None
