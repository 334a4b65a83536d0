"""The lock of a data directory: one `serve` or one `--local` command at a time.

Owns: the lock file. May import: the standard library and `core.errors`. The kernel drops the lock with the
process, so kill -9 leaves nothing to clean up.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from authsvc.core.errors import InvalidRequest

_SETTING = "AUTHSVC_DATA_DIR"


class DataDirectoryLock:
    """Holds a data directory for as long as the block runs; raises `InvalidRequest` where another process does."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InvalidRequest.of(_SETTING, f"{self._path.parent} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise InvalidRequest.of(_SETTING, f"{self._path.parent} is in use by another authsvc process") from error
        self._descriptor = descriptor
        return self

    def fileno(self) -> int:
        """Its descriptor: a child that inherits it holds the directory too. Raises ValueError outside the block."""
        if self._descriptor is None:
            raise ValueError("the lock is not held")
        return self._descriptor

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
