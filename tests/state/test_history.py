"""What is remembered between two states, and what is forgotten rather than guessed."""

from __future__ import annotations

from authsvc.core.revocations import RevocationKind, revocation_digest
from authsvc.ports.change_log import BindingPut, Change, Edit, KeyForgotten, RevocationPut
from authsvc.ports.record import RevocationMark
from authsvc.state.history import MOST_CHANGES, MOST_MARKS, History, Moves, Position
from tests.support.record_values import NOW, granted


def at(number: int, digest: bytes = b"") -> Position:
    """A state of the first epoch."""
    return Position((1, number), digest or b"%d" % number)


def change(number: int, *edits: Edit) -> Change:
    """The change that leads to `at(number)`."""
    return Change(1, number, b"%d" % (number - 1), b"%d" % number, edits)


def mark(name: str) -> RevocationMark:
    """A revoked token."""
    return RevocationMark(RevocationKind.TOKEN, revocation_digest(RevocationKind.TOKEN, name), (1, 1), NOW)


def history(*changes: Change) -> History:
    """From the empty record on."""
    made = History(at(0))
    for one in changes:
        made.add(one)
    return made


FOUR = (
    change(1, RevocationPut(mark("a"))),
    change(2, BindingPut(granted())),
    change(3, KeyForgotten("k"), RevocationPut(mark("b"))),
    change(4, RevocationPut(mark("c"))),
)


def test_what_lies_between_two_states_is_their_marks_in_order_and_whether_a_key_changed() -> None:
    found = history(*FOUR)
    assert found.between(at(0), at(4)) == Moves((mark("a"), mark("b"), mark("c")), keys=True)
    assert found.between(at(1), at(2)) == Moves((), keys=False)
    assert found.between(at(3), at(4)) == Moves((mark("c"),), keys=False)
    assert found.between(at(4), at(4)) == Moves((), keys=False)


def test_a_state_of_another_history_or_a_newer_one_is_not_known() -> None:
    found = history(*FOUR)
    assert found.between(at(2, b"lost"), at(4)) is None
    assert found.between(at(0), at(5)) is None
    assert found.between(at(3), at(2)) is None


def test_after_a_restart_nothing_before_it_is_known() -> None:
    found = history(*FOUR)
    found.restart(at(4, b"anew"))
    assert found.between(at(4), at(4, b"anew")) is None
    found.add(Change(2, 5, b"anew", b"5", (RevocationPut(mark("d")),)))
    assert found.between(at(4, b"anew"), Position((2, 5), b"5")) == Moves((mark("d"),), keys=False)


def test_only_so_many_changes_are_remembered() -> None:
    found = history(*(change(number + 1) for number in range(MOST_CHANGES + 5)))
    newest = at(MOST_CHANGES + 5)
    assert found.between(at(5), newest) is None
    assert found.between(at(6), newest) == Moves((), keys=False)


def test_only_so_many_marks_are_remembered_and_one_change_of_more_leaves_its_own_state_known() -> None:
    many = [RevocationPut(mark("x"))] * (MOST_MARKS - 1)
    found = history(change(1, *many), change(2, *many[:1]))
    moves = found.between(at(0), at(2))
    assert moves is not None
    assert len(moves.marks) == MOST_MARKS
    found.add(change(3, *many[:1]))
    assert found.between(at(0), at(3)) is None
    assert found.between(at(1), at(3)) == Moves((mark("x"),) * 2, keys=False)
    found.add(change(4, *many, *many[:2]))
    assert found.between(at(3), at(4)) is None
    assert found.between(at(4), at(4)) == Moves((), keys=False)
