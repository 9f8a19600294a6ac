"""The order of eviction, against a slow twin that looks at everything every time."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from raysparsex.store.eviction import ValueOrder


def order_of(**worths: tuple[float, int]) -> ValueOrder[str]:
    order: ValueOrder[str] = ValueOrder()
    for key, (seconds, size) in worths.items():
        order.put(key, "group", seconds, size)
    return order


def listed(order: ValueOrder[str], group: str | None = None) -> list[str]:
    with closing(order.ascending(group)) as keys:
        return list(keys)


def test_what_saves_the_fewest_seconds_per_byte_goes_first() -> None:
    order = order_of(dear=(10.0, 10), cheap=(1.0, 10), large=(10.0, 1000))
    assert listed(order) == ["large", "cheap", "dear"]


def test_every_use_is_worth_as_much_as_the_first() -> None:
    order = order_of(used=(1.0, 10), once=(2.5, 10))
    order.use("used", 1.0)
    assert listed(order) == ["used", "once"]
    order.use("used", 1.0)
    assert listed(order) == ["once", "used"]


def test_a_use_of_a_part_counts_as_a_use_of_all() -> None:
    order = order_of(used=(8.0, 10), once=(9.0, 10))
    order.use("used", 0.5)
    assert listed(order) == ["used", "once"]
    order.use("used", 0.75)
    assert listed(order) == ["once", "used"]


def test_what_uses_saved_grows_with_the_thing() -> None:
    """Named by the harm: what came to it later was not used before."""
    order = order_of(grown=(1.0, 10), other=(12.5, 10))
    order.use("grown", 1.0)
    order.put("grown", "group", 10.0, 10)
    assert listed(order) == ["grown", "other"]


def test_of_equal_ones_the_least_recently_used_goes_first() -> None:
    assert listed(order_of(a=(1.0, 10), b=(1.0, 10))) == ["a", "b"]


def test_what_nobody_uses_any_more_is_overtaken_by_age() -> None:
    order = order_of(old=(3.0, 1))
    for number in range(4):
        order.put(f"new{number}", "group", 1.0, 1)
        first = listed(order)[0]
        order.age_with([first])
        order.remove(first)
    assert "old" not in order


def test_a_group_has_an_order_of_its_own() -> None:
    order: ValueOrder[str] = ValueOrder()
    order.put("theirs", "them", 1.0, 1)
    order.put("ours", "us", 2.0, 1)
    assert listed(order, "us") == ["ours"]
    order.remove("ours")
    assert listed(order, "us") == []
    assert listed(order) == ["theirs"]


def test_looking_half_way_changes_something() -> None:
    order = order_of(a=(1.0, 1), b=(2.0, 1), c=(3.0, 1))
    with closing(order.ascending()) as keys:
        assert next(keys) == "a"
        assert next(keys) == "b"
    assert listed(order) == ["a", "b", "c"]


@dataclass
class Slow:
    """All worths in a list; the lowest is looked for each time."""

    age: float = 0.0
    turns: int = 0

    def __post_init__(self) -> None:
        self.held: dict[int, list[float]] = {}

    def touch(self, key: int, seconds: float, size: int, saved: float) -> None:
        self.turns += 1
        priority = self.age + (seconds + saved) / max(1, size)
        self.held[key] = [priority, self.turns, seconds, size, saved]

    def sequence(self) -> list[int]:
        return sorted(self.held, key=lambda key: self.held[key][:2])


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "use", "evict", "remove"]),
        st.integers(0, 9),
        st.integers(1, 5),
        st.integers(1, 4),
    ),
    max_size=60,
)


@given(steps)
def test_the_order_is_the_slow_twins(actions: list[tuple[str, int, int, int]]) -> None:
    fast: ValueOrder[int] = ValueOrder()
    slow = Slow()
    for action, key, seconds, size in actions:
        if action == "put":
            saved = slow.held[key][4] if key in slow.held else 0.0
            fast.put(key, str(key % 2), seconds, size)
            slow.touch(key, seconds, size, saved)
        elif action == "evict" and slow.held:
            lowest = slow.sequence()[0]
            fast.age_with([lowest])
            fast.remove(lowest)
            slow.age = max(slow.age, slow.held.pop(lowest)[0])
        elif key in slow.held and action == "use":
            fast.use(key, seconds / 2)
            _, _, worth, bytes_, saved = slow.held[key]
            slow.touch(key, worth, int(bytes_), saved + seconds / 2)
        elif key in slow.held and action == "remove":
            fast.remove(key)
            del slow.held[key]
    with closing(fast.ascending()) as keys:
        assert list(keys) == slow.sequence()
    for group in ("0", "1"):
        with closing(fast.ascending(group)) as keys:
            assert list(keys) == [key for key in slow.sequence() if str(key % 2) == group]


def test_stale_entries_fill_the_memory() -> None:
    order = order_of(a=(1.0, 1), b=(1.0, 1))
    for _ in range(10_000):
        order.use("a", 1.0)
    assert len(order._all) < 200
    assert len(order._heaps["group"]) < 200
