"""Commands whose argument is an id of ours.

Owns: that an id may begin with a hyphen, as one base64url text in 64 does. May import: click through typer. Nobody who
withdraws a leaked key should have to know what `--` is for.
"""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

_ID = re.compile(r"-[A-Za-z0-9_-]{23,}\Z")
"""A binding's id has 24 characters, a key's 43."""


class IdCommand(TyperCommand):
    """Takes what looks like an id, and is no option of its own, for its argument."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See the base class."""
        options = {name for param in self.params for name in (*param.opts, *param.secondary_opts)}
        ids = [word for word in args if _ID.match(word) and word not in options]
        if ids and "--" not in args:
            args = [word for word in args if word not in ids] + ["--", *ids]
        return super().parse_args(ctx, args)
