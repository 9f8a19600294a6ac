"""What a registry is told: never too little, and as things stand now."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from raysparsex.store.announcements import Journal, StoredUnit, StoreEvents
from raysparsex.store.node_ledger import UnitKey
from tests.fakes.segments import segment_id


def key(name: str) -> UnitKey:
    return UnitKey(segment_id(name))


def unit(name: str) -> StoredUnit:
    return StoredUnit(key(name), "t", 10, 5, 0, False, 1.0, False)


class Told:
    """A store's journal over a plain set of names, and a registry's picture of it."""

    def __init__(self, length: int = 100) -> None:
        self.held: set[str] = set()
        self.journal = Journal("node", "life", length)

    def change(self, name: str, is_held: bool) -> None:
        (self.held.add if is_held else self.held.discard)(name)
        self.journal.note([key(name)])

    def since(self, after: int | None, incarnation: str = "life") -> StoreEvents:
        names = {key(name): name for name in "abcdef"}
        return self.journal.since(
            incarnation,
            after,
            lambda: [key(name) for name in self.held],
            lambda asked: unit(names[asked]) if names[asked] in self.held else None,
        )


def test_whoever_knows_nothing_is_told_everything() -> None:
    told = Told()
    told.change("a", True)
    told.change("b", True)
    told.change("b", False)
    answer = told.since(None)
    assert answer == StoreEvents("node", "life", 3, (unit("a"),), (), True)


def test_only_what_changed_is_told_and_as_it_stands() -> None:
    told = Told()
    told.change("a", True)
    told.change("b", True)
    told.change("b", False)
    told.change("c", True)
    answer = told.since(1)
    assert (answer.stored, answer.evicted, answer.is_complete) == (
        (unit("c"),),
        (key("b"),),
        False,
    )
    assert told.since(answer.number).stored == ()
    assert not told.journal.is_behind("life", answer.number)


def test_a_reader_of_an_earlier_life_keeps_what_it_knew() -> None:
    told = Told()
    told.change("a", True)
    assert told.journal.is_behind("earlier life", 1)
    assert told.since(1, "earlier life").is_complete


def test_a_reader_that_slept_too_long_misses_something() -> None:
    told = Told(length=2)
    for name in "abc":
        told.change(name, True)
    assert not told.since(1).is_complete
    assert told.since(0).is_complete


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans(), st.booleans()), max_size=40),
    st.integers(1, 5),
)
def test_a_registry_that_asks_now_and_then_knows_what_is_held(
    changes: list[tuple[str, bool, bool]], length: int
) -> None:
    told = Told(length)
    picture: dict[UnitKey, Any] = {}
    after: int | None = None
    for name, is_held, asks in [*changes, ("a", False, True)]:
        told.change(name, is_held)
        if not asks:
            continue
        answer = told.since(after)
        after = answer.number
        if answer.is_complete:
            picture = {}
        picture |= {unit.key: unit for unit in answer.stored}
        for gone in answer.evicted:
            picture.pop(gone, None)
        assert set(picture) == {key(held) for held in told.held}
