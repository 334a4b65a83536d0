"""What a supervisor hands down to a process that serves.

Owns: `Letter`, and its form in JSON. May import: `transport.sharing`, the standard library: whoever supervises reads
this too and stays small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from authsvc.transport.sharing import Place


@dataclass(frozen=True, slots=True)
class Letter:
    """What the service is started from; `place` where it is one of several workers."""

    text: str
    """Of the configuration file; the environment is inherited."""
    flags: Mapping[str, str]
    directory: Path
    accept_new_issuer: bool
    switch_interval: float
    place: Place | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON can say it."""
        place = None if self.place is None else {**asdict(self.place), "folder": str(self.place.folder)}
        return {**{name: getattr(self, name) for name in _PLAIN}, "directory": str(self.directory), "place": place}

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Letter:
        """The letter that was told, whatever else stands beside it."""
        place = plain["place"]
        return cls(
            **{name: plain[name] for name in _PLAIN},
            directory=Path(plain["directory"]),
            place=None if place is None else Place(**{**place, "folder": Path(place["folder"])}),
        )


_PLAIN = ("text", "flags", "accept_new_issuer", "switch_interval")
