"""Places that a look-up told: for one fetch, and not for long."""

from __future__ import annotations

import gc
import threading
import time
import weakref

from raysparsex.store.places import Places
from raysparsex.store.shelf_objects import Located
from tests.fakes.clock import Clock
from tests.fakes.segments import segment_id

A, B, C = (segment_id(name) for name in "abc")
STORE = "node"


class Reference:
    """Of an object."""


def told(places: Places, store: str = STORE) -> list[Reference]:
    """A and C lie in one object, B is not held."""
    reference = Reference()
    places.note(store, [A, B, C], Located([reference], [(0, 4), None, (0, 2)]))
    return [reference]


def test_a_fetch_learns_what_the_look_up_told() -> None:
    places = Places()
    references = told(places)
    assert places.take(STORE, [C, B, A]) == Located(references, [(0, 2), None, (0, 4)])


def test_places_in_several_objects_are_numbered_as_they_come() -> None:
    places = Places()
    one, other = Reference(), Reference()
    places.note(STORE, [A, B], Located([one, other], [(0, 0), (1, 0)]))
    assert places.take(STORE, [B, A]) == Located([other, one], [(0, 0), (1, 0)])


def test_a_fetch_from_another_store_asks_that_one() -> None:
    places = Places()
    told(places)
    assert places.take("other", [A, C]) == Located([], [None, None])


def test_an_object_that_stays_in_memory_behind_its_fetch() -> None:
    places = Places()
    alive = weakref.ref(told(places)[0])
    places.take(STORE, [A, C])
    gc.collect()
    assert alive() is None
    assert not places


def test_an_object_that_stays_in_memory_as_no_fetch_came() -> None:
    """Not even when nobody calls any more."""
    places = Places(seconds=0.05)
    alive = weakref.ref(told(places)[0])
    until = time.monotonic() + 20
    while places:
        assert time.monotonic() < until
        time.sleep(0.01)
    gc.collect()
    assert alive() is None


def test_what_is_still_fresh_is_not_forgotten_with_what_is_old() -> None:
    clock = Clock()
    places = Places(seconds=2.0, clock=clock)
    places.note(STORE, [A], Located([Reference()], [(0, 0)]))
    clock.now += 1.5
    places.note(STORE, [B], Located([Reference()], [(0, 0)]))
    clock.now += 1.0
    places.forget_old()
    assert places.take(STORE, [A]).spots == [None]
    assert places.take(STORE, [B]).spots == [(0, 0)]


def test_a_thread_for_each_look_up() -> None:
    """One waits, for all of them."""
    places = Places(seconds=30)
    before = threading.active_count()
    for _ in range(20):
        told(places)
    assert threading.active_count() <= before + 1
