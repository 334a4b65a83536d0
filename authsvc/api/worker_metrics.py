"""The metrics of several workers as one page.

Owns: how OpenMetrics texts are put together. Pure; may import: the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping

_UP = """\
# HELP authsvc_worker_up Whether the worker answers the one that was asked.
# TYPE authsvc_worker_up gauge
"""
_END = "# EOF\n"


def together(pages: Mapping[int, str | None]) -> bytes:
    """The pages of workers as one, each sample with the label `worker`; None where a worker does not answer.

    OpenMetrics wants the samples of a family in one place, its description before them, once.
    """
    described: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for worker, page in pages.items():
        family = ""
        for line in (page or "").removesuffix(_END).splitlines():
            if line.startswith("# "):
                family = line.split(" ", 3)[2]
                lines = described.setdefault(family, [])
                if line not in lines:
                    lines.append(line)
            else:
                samples.setdefault(family, []).append(_labelled(line, worker))
    up = "".join(f'authsvc_worker_up{{worker="{worker}"}} {int(page is not None)}\n' for worker, page in pages.items())
    families = "".join(
        f"{line}\n" for family, lines in described.items() for line in (*lines, *samples.get(family, ()))
    )
    return f"{families}{_UP}{up}{_END}".encode()


def _labelled(sample: str, worker: int) -> str:
    """A name's characters are never `{` or a space (OpenMetrics 1.0, "metricname"), so the first of them ends it."""
    brace, space = sample.find("{"), sample.find(" ")
    if 0 <= brace < space:
        return f'{sample[: brace + 1]}worker="{worker}",{sample[brace + 1 :]}'
    return f'{sample[:space]}{{worker="{worker}"}}{sample[space:]}'
