"""Closures over directed acyclic graphs of names.

Owns: the closure and the naming of cycles (STANDARDS P2). May import: the standard library. Nothing recurses: a
chain may be as long as a policy file allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping


def ordered(edges: Mapping[str, Iterable[str]]) -> tuple[list[str], list[list[str]]]:
    """The names, each after all it points to, and the cycles met, each as `a, b, a`.

    Names that are pointed to without being a key are not followed.
    """
    done: dict[str, None] = {}
    cycles: list[list[str]] = []
    for root in edges:
        path: dict[str, None] = {}
        stack = [(root, iter(edges[root]))]
        if root in done:
            continue
        path[root] = None
        while stack:
            name, targets = stack[-1]
            target = next(targets, None)
            if target is None:
                stack.pop()
                del path[name]
                done[name] = None
            elif target in path:
                names = list(path)
                cycles.append([*names[names.index(target) :], target])
            elif target in edges and target not in done:
                path[target] = None
                stack.append((target, iter(edges[target])))
    return list(done), cycles


def closures(edges: Mapping[str, Iterable[str]], take: Callable[[int], None]) -> dict[str, frozenset[str]]:
    """Every name to all it reaches, itself included. The graph has no cycle; `take` is told each closure's size."""
    reached: dict[str, frozenset[str]] = {}
    for name in ordered(edges)[0]:
        targets = edges[name]
        reached[name] = frozenset({name}).union(*(reached[t] for t in targets))
        take(len(reached[name]))
    return reached
