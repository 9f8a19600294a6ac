"""How long a miss takes tells nothing about what other tenants hold.

Measured at the look-up alone: segments are named beforehand, so that what is compared is the part
that could depend on what is held, and not lost in what cannot.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from raysparsex.ids import SegmentId, TrustSalt
from raysparsex.segment.coverage import SegmentRecord
from raysparsex.segment.trust_scope import TrustScope, trust_salt
from raysparsex.vllm_plugin.request_planner import RequestPlanner
from tests.fakes.engine import FakeEngine
from tests.fakes.segments import random_tokens

HOLDER = trust_salt("holder", None, TrustScope.TENANT)
PROBER = trust_salt("prober", None, TrustScope.TENANT)
DOCUMENTS = [random_tokens(2000, seed=1), random_tokens(2000, seed=2)]
ROUNDS = 500
"""Each measures twice in every combination of document and engine."""
BOUND = 0.05
"""Share of a miss's time by which the two kinds may differ, beside what noise alone makes."""


@dataclass
class Times:
    """Nanoseconds of look-ups of one kind, in two halves that were measured in turn."""

    halves: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))

    @property
    def median(self) -> float:
        return statistics.median([*self.halves[0], *self.halves[1]])

    @property
    def noise(self) -> float:
        """How much the halves differ, which were measured alike."""
        one, other = (statistics.median(half) for half in self.halves)
        return abs(one - other) / min(one, other)


def engines() -> list[FakeEngine]:
    """The first document is held in the first engine, the second in the second."""
    made = [FakeEngine() for _ in DOCUMENTS]
    for engine, document in zip(made, DOCUMENTS, strict=True):
        engine.run(document, salt=HOLDER, reuse="exact")
    return made


def look_up(engine: FakeEngine, document: list[int], salt: TrustSalt) -> Callable[[], bool]:
    """Plans a request for the document; whether it found any of it."""
    request = engine.add([*random_tokens(40, seed=3), *document, 7], salt=salt)
    tracked, planner = engine.half._tracked[request.request_id], engine.half._planner  # type: ignore[index]
    planner.segments(tracked)
    return lambda: planner.plan(tracked) is not None


def measured(salt: TrustSalt) -> tuple[Times, Times]:
    """Times of look-ups of what the holder holds, and of what nobody holds."""
    two = engines()
    cells = [
        (look_up(engine, document, salt), int(engine is two[place]), half)
        for place, document in enumerate(DOCUMENTS)
        for engine in two
        for half in range(2)
    ]
    order = random.Random(0)
    times: dict[int, Times] = defaultdict(Times)
    with no_collection():
        for _ in range(ROUNDS):
            order.shuffle(cells)
            for look, is_held, half in cells:
                began = time.perf_counter_ns()
                found = look()
                times[is_held].halves[half].append(time.perf_counter_ns() - began)
                assert found is bool(is_held and salt == HOLDER)
    return times[1], times[0]


@contextmanager
def no_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def told_apart(salt: TrustSalt) -> bool:
    """Whether the times of this tenant's look-ups tell what is held from what is not."""
    held, free = measured(salt)
    apart = abs(held.median - free.median) / free.median
    return apart > BOUND + max(held.noise, free.noise)


def test_a_miss_takes_as_long_whether_or_not_another_tenant_holds_the_document() -> None:
    """The one test here that asserts times, because the time is what must not tell.

    4,000 look-ups, in an order that is shuffled each round; both documents are looked up in both
    engines, so that neither text nor memory layout favours a side; what equal look-ups differ by in
    the same run is added to the bound; a failure counts only if it comes twice.
    """
    assert not told_apart(PROBER) or not told_apart(PROBER)


def test_the_same_measurement_tells_a_hit_from_a_miss() -> None:
    """What proves that the test above could fail: whose document it is sees the difference."""
    assert told_apart(HOLDER) or told_apart(HOLDER)


def test_the_same_is_looked_up_whether_or_not_another_tenant_holds_the_document() -> None:
    asked = []
    for engine in engines():
        finds = Finds(engine)
        request = engine.add(DOCUMENTS[0], salt=PROBER)
        tracked = engine.half._tracked[request.request_id]  # type: ignore[index]
        planner = RequestPlanner(engine.settings, engine.half._facts, finds)
        assert planner.plan(tracked) is None
        missing = planner.missing(tracked)
        assert len(missing) == 2 * len(planner.segments(tracked).ids)
        asked.append((finds.made, missing))
    assert asked[0] == asked[1]


class Finds:
    """An engine's ledger, and what was asked of it."""

    def __init__(self, engine: FakeEngine) -> None:
        self._ledger = engine.half.ledger
        self.made: list[tuple[SegmentId, SegmentRecord | None]] = []

    def __call__(self, segment: SegmentId) -> SegmentRecord | None:
        found = self._ledger.find(segment)
        self.made.append((segment, found))
        return found
