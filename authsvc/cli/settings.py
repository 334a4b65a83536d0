"""The configuration as the command line finds it.

Owns: which file is read, and flags such as `--server.listen`. May import: `config`, `storage.data_directory`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from authsvc.cli.faults import Exit, of_error, wrong_use
from authsvc.core.errors import AuthsvcError
from authsvc.storage.data_directory import CONFIG_FILE, data_directory

if TYPE_CHECKING:
    from authsvc.config import Config

FLAGS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Context settings of a command that takes every setting as a flag."""


def load_config(path: Path | None, extra: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> Config:
    """File, environment, flags; raises CommandFault that lists every fault by its setting."""
    from authsvc.config import load

    environment = os.environ if environment is None else environment
    text, given = sources(path, extra, environment)
    try:
        return load(text, environment, given, file=str(path or CONFIG_FILE))
    except AuthsvcError as error:
        raise of_error(error, Exit.WRONG_USE) from None


def sources(
    path: Path | None, extra: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> tuple[str, dict[str, str]]:
    """What `config.load` reads besides the environment: the file's text, and the flags."""
    return _text(path, data_directory(os.environ if environment is None else environment)), flags(extra)


def flags(extra: Sequence[str]) -> dict[str, str]:
    """`--server.listen 127.0.0.1:1` or `--server.listen=127.0.0.1:1` as settings; hyphens may stand for underscores."""
    found: dict[str, str] = {}
    words = iter(extra)
    for word in words:
        name, equals, value = word.partition("=")
        if not name.startswith("--") or len(name) < 3:
            raise wrong_use(f"`{word}` is not an option of this command")
        if not equals:
            following = next(words, None)
            if following is None or following.startswith("--"):
                raise wrong_use(f"{name}: needs a value")
            value = following
        found[name.removeprefix("--").replace("-", "_")] = value
    return found


def _text(path: Path | None, directory: Path) -> str:
    chosen = path or directory / CONFIG_FILE
    if path is None and not chosen.exists():
        return ""
    try:
        return chosen.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise wrong_use(f"cannot read {chosen}: {why}") from None
