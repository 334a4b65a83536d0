"""Role bindings and their index.

Owns: what a binding is, its id, what is wrong with one, and the persistent index that a check reads. May import:
the standard library, immutables, and `core.{errors,values,patterns,conditions}`.

The index keeps a binding as `(kind, resource, expire_time)`; kinds are interned, and a subject with more than
`FLAT` bindings is indexed by tenant and then by exact resource, so that no check walks a long list.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from itertools import chain

from immutables import Map

from authsvc.core.conditions import Condition, condition_of
from authsvc.core.errors import InvalidRequest
from authsvc.core.patterns import is_pattern

FLAT = 8
"""Up to so many bindings of a subject are one list."""

MAX_PATTERNS = 1_000
"""Bindings of one subject and tenant that a check has to look at one by one: those without resource or with a
pattern, and those of one exact resource."""


class BindingSource(StrEnum):
    """Who a binding belongs to: the policy file, or a grant."""

    FILE = "file"
    GRANT = "grant"


@dataclass(frozen=True, slots=True)
class Binding:
    """A role given to a subject.

    Empty `tenant` and `resource` mean all of them, `expire_time` is unix seconds or None for never, an empty
    `condition` is always true. `revoked` marks a file's binding that was taken away and stays away over later applies.
    """

    binding_id: str
    subject: str
    role: str
    tenant: str = ""
    resource: str = ""
    expire_time: int | None = None
    condition: str = ""
    source: BindingSource = BindingSource.GRANT
    revoked: bool = False


def binding_id(
    subject: str,
    role: str,
    tenant: str = "",
    resource: str = "",
    expire_time: int | None = None,
    condition: str = "",
) -> str:
    """The id of a binding: a hash of its content, the same whoever gives it.

    Every part is length-prefixed, so that no two contents share the hashed bytes.
    """
    digest = sha256(b"authsvc binding 1")
    for part in (subject, role, tenant, resource, "" if expire_time is None else str(expire_time), condition):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(4, "big") + data)
    return urlsafe_b64encode(digest.digest()[:18]).decode()


def make_binding(
    subject: str,
    role: str,
    tenant: str = "",
    resource: str = "",
    expire_time: int | None = None,
    condition: str = "",
    source: BindingSource = BindingSource.GRANT,
) -> Binding:
    """A binding with its id computed."""
    made = binding_id(subject, role, tenant, resource, expire_time, condition)
    return Binding(made, subject, role, tenant, resource, expire_time, condition, source)


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """What many bindings share. Interned in an index, compared by identity.

    `program` is the compiled condition, None where there is none. One that does not compile (a record written by
    another release) is one that always fails, so that it gives nothing and its denies apply (STANDARDS P5).
    """

    role: str
    tenant: str
    condition: str
    source: BindingSource
    program: Condition | None


Entry = tuple[Kind, str, int | None]
_KindKey = tuple[str, str, str, BindingSource]


@dataclass(frozen=True, slots=True)
class _Tenant:
    """A large subject's bindings of one tenant: `walked` have no resource or a pattern, `exact` are by resource."""

    walked: Map[Entry, None]
    exact: Map[str, tuple[Entry, ...]]


_Large = Map[str, _Tenant]
_EMPTY: _Tenant = _Tenant(Map(), Map())


class BindingIndex:
    """All bindings in force, by subject. Immutable: `add` and `remove` give the next index.

    Adding what is there and removing what is not changes nothing. Revoked bindings are never held.
    """

    __slots__ = ("_count", "_kinds", "_subjects")

    def __init__(
        self,
        subjects: Map[str, tuple[Entry, ...] | _Large] | None = None,
        kinds: Map[_KindKey, Kind] | None = None,
        count: int = 0,
    ) -> None:
        self._subjects: Map[str, tuple[Entry, ...] | _Large] = Map() if subjects is None else subjects
        self._kinds: Map[_KindKey, Kind] = Map() if kinds is None else kinds
        self._count = count

    def __len__(self) -> int:
        return self._count

    @classmethod
    def from_bindings(cls, bindings: Iterable[Binding]) -> BindingIndex:
        """An index of many bindings, in one pass. Raises as `add` does."""
        kinds: dict[_KindKey, Kind] = {}
        gathered: dict[str, dict[Entry, None]] = {}
        for binding in bindings:
            if binding.revoked:
                continue
            key = _key(binding)
            kind = kinds.get(key)
            if kind is None:
                kind = kinds[key] = _kind(key)
            gathered.setdefault(binding.subject, {})[(kind, binding.resource, binding.expire_time)] = None
        subjects = {
            subject: tuple(entries) if len(entries) <= FLAT else _large(entries)
            for subject, entries in gathered.items()
        }
        return cls(Map(subjects), Map(kinds), sum(map(len, gathered.values())))

    def add(self, binding: Binding) -> BindingIndex:
        """The index with this binding too.

        Raises InvalidRequest where the subject has MAX_PATTERNS bindings in this tenant that a check must walk.
        """
        if binding.revoked or self._holds(binding):
            return self
        key = _key(binding)
        kinds = self._kinds
        if (kind := kinds.get(key)) is None:
            kind = _kind(key)
            kinds = kinds.set(key, kind)
        entry = (kind, binding.resource, binding.expire_time)
        held = self._subjects.get(binding.subject, ())
        grown: tuple[Entry, ...] | _Large
        if isinstance(held, Map):
            grown = _with(held, entry)
        elif len(held) < FLAT:
            grown = (*held, entry)
        else:
            grown = _large((*held, entry))
        return BindingIndex(self._subjects.set(binding.subject, grown), kinds, self._count + 1)

    def remove(self, binding: Binding) -> BindingIndex:
        """The index without this binding; only the one of the same source goes."""
        if not self._holds(binding):
            return self
        entry = (self._kinds[_key(binding)], binding.resource, binding.expire_time)
        held = self._subjects[binding.subject]
        left: tuple[Entry, ...] | _Large
        left = _without(held, entry) if isinstance(held, Map) else tuple(e for e in held if e != entry)
        subjects = self._subjects.set(binding.subject, left) if left else self._subjects.delete(binding.subject)
        return BindingIndex(subjects, self._kinds, self._count - 1)

    def candidates(self, subject: str, tenant: str, resource: str) -> Iterable[Entry]:
        """What a check of this subject, tenant and resource has to look at.

        A superset of what matches: tenant, pattern, expiry and condition are still to be compared.
        """
        held = self._subjects.get(subject, ())
        if not isinstance(held, Map):
            return held
        found: list[Iterable[Entry]] = []
        for name in (tenant, "") if tenant else ("",):
            if (part := held.get(name)) is not None:
                found.append(part.walked)
                found.append(part.exact.get(resource, ()))
        return chain.from_iterable(found)

    def entries(self, subject: str) -> Iterable[Entry]:
        """A subject's own bindings as the index holds them: an id costs more than all else about one."""
        return _all(self._subjects.get(subject, ()))

    def of(self, subject: str) -> Iterator[Binding]:
        """A subject's own bindings, each with its id."""
        for kind, resource, expire_time in self.entries(subject):
            yield make_binding(subject, kind.role, kind.tenant, resource, expire_time, kind.condition, kind.source)

    def subjects(self) -> Iterator[str]:
        """Every subject that holds a binding."""
        return iter(self._subjects)

    def __iter__(self) -> Iterator[Binding]:
        for subject in self._subjects:
            yield from self.of(subject)

    def _holds(self, binding: Binding) -> bool:
        kind = self._kinds.get(_key(binding))
        if kind is None:
            return False
        entry = (kind, binding.resource, binding.expire_time)
        held = self._subjects.get(binding.subject, ())
        if not isinstance(held, Map):
            return entry in held
        part = held.get(binding.tenant, _EMPTY)
        return entry in (part.walked if _is_walked(entry) else part.exact.get(binding.resource, ()))


def _key(binding: Binding) -> _KindKey:
    return (binding.role, binding.tenant, binding.condition, binding.source)


def _kind(key: _KindKey) -> Kind:
    role, tenant, condition, source = key
    return Kind(role, tenant, condition, source, condition_of(condition) if condition else None)


def _is_walked(entry: Entry) -> bool:
    return not entry[1] or is_pattern(entry[1])


def _all(held: tuple[Entry, ...] | _Large) -> Iterable[Entry]:
    if not isinstance(held, Map):
        return held
    return chain.from_iterable(chain(p.walked, *p.exact.values()) for p in held.values())


def _large(entries: Iterable[Entry]) -> _Large:
    walked: dict[str, dict[Entry, None]] = {}
    exact: dict[str, dict[str, tuple[Entry, ...]]] = {}
    for entry in entries:
        tenant = entry[0].tenant
        if _is_walked(entry):
            list_ = walked.setdefault(tenant, {})
            list_[entry] = None
            _check_room(len(list_))
        else:
            by_resource = exact.setdefault(tenant, {})
            by_resource[entry[1]] = (*by_resource.get(entry[1], ()), entry)
            _check_room(len(by_resource[entry[1]]))
    return Map({t: _Tenant(Map(walked.get(t, {})), Map(exact.get(t, {}))) for t in walked.keys() | exact.keys()})


def _with(held: _Large, entry: Entry) -> _Large:
    kind, resource, _ = entry
    part = held.get(kind.tenant, _EMPTY)
    if _is_walked(entry):
        _check_room(len(part.walked) + 1)
        part = _Tenant(part.walked.set(entry, None), part.exact)
    else:
        bucket = (*part.exact.get(resource, ()), entry)
        _check_room(len(bucket))
        part = _Tenant(part.walked, part.exact.set(resource, bucket))
    return held.set(kind.tenant, part)


def _without(held: _Large, entry: Entry) -> _Large:
    kind, resource, _ = entry
    part = held[kind.tenant]
    if _is_walked(entry):
        part = _Tenant(part.walked.delete(entry), part.exact)
    else:
        bucket = tuple(e for e in part.exact[resource] if e != entry)
        part = _Tenant(part.walked, part.exact.set(resource, bucket) if bucket else part.exact.delete(resource))
    return held.set(kind.tenant, part) if part.walked or part.exact else held.delete(kind.tenant)


def _check_room(count: int) -> None:
    if count > MAX_PATTERNS:
        raise InvalidRequest.of(
            "resource",
            f"a subject has at most {MAX_PATTERNS} bindings a tenant without an exact resource, and a resource",
        )
