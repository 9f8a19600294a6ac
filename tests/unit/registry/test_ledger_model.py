"""The ledger against a model that is a list: any order of calls gives the same answers."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from raysparsex.ids import RequestId
from raysparsex.registry.ledger import SegmentLedger
from raysparsex.segment.coverage import SegmentRecord
from tests.fakes.segments import record, segment_id

BUDGET = 20
SIZES = {"a": 3, "b": 5, "c": 7, "d": 9, "e": 12, "f": 21}
"""One size per name, as one id means one text; the last is larger than the budget."""

names = st.sampled_from(sorted(SIZES))


class LedgerMachine(RuleBasedStateMachine):
    """`order` is the model: least recently used first."""

    owners = Bundle("owners")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = SegmentLedger(BUDGET * 2, bytes_per_token=2)
        self.order: list[SegmentRecord] = []
        self.pins: dict[RequestId, set[str]] = {}
        self.next_owner = 0

    def held(self, name: str) -> SegmentRecord | None:
        return next((r for r in self.order if r.id == segment_id(name)), None)

    def pinned(self, kept: SegmentRecord) -> bool:
        return any(kept.id == segment_id(n) for pins in self.pins.values() for n in pins)

    @rule(name=names, depth=st.integers(0, 3))
    def add(self, name: str, depth: int) -> None:
        new, old = record(name, SIZES[name], depth), self.held(name)
        wanted = old is None or (depth < old.depth and not self.pinned(old))
        assert self.ledger.wants(new.id, depth) is wanted
        rest = [kept for kept in self.order if kept is not old]
        victims = []
        for candidate in rest:
            if sum(r.token_count for r in rest if r not in victims) + SIZES[name] <= BUDGET:
                break
            if not self.pinned(candidate):
                victims.append(candidate)
        left = [kept for kept in rest if kept not in victims]
        fits = sum(r.token_count for r in left) + SIZES[name] <= BUDGET
        answer = self.ledger.add(new)
        assert answer.accepted is (wanted and fits)
        if answer.accepted:
            assert list(answer.evicted) == [victim.id for victim in victims]
            self.order = [*left, new]
        else:
            assert answer.evicted == ()

    @rule(used=st.lists(names))
    def use(self, used: list[str]) -> None:
        self.ledger.use([segment_id(name) for name in used])
        for name in used:
            kept = self.held(name)
            if kept is not None:
                self.order = [*(r for r in self.order if r is not kept), kept]

    @rule(target=owners, wanted=st.lists(names))
    def pin(self, wanted: list[str]) -> object:
        chosen = [name for name in wanted if self.held(name)]
        if not chosen:
            return multiple()
        owner = RequestId(str(self.next_owner))
        self.next_owner += 1
        self.ledger.pin(owner, [segment_id(name) for name in chosen])
        self.pins[owner] = set(chosen)
        return owner

    @rule(owner=consumes(owners), times=st.integers(1, 2))
    def unpin(self, owner: RequestId, times: int) -> None:
        for _ in range(times):
            self.ledger.unpin(owner)
        self.pins.pop(owner, None)

    @rule()
    def clear(self) -> None:
        gone = {kept.id for kept in self.order if not self.pinned(kept)}
        assert set(self.ledger.clear()) == gone
        self.order = [kept for kept in self.order if kept.id not in gone]

    @invariant()
    def agrees(self) -> None:
        self.ledger.check_integrity()
        for name in SIZES:
            assert self.ledger.find(segment_id(name)) == self.held(name)
        assert self.ledger.segment_count == len(self.order)
        assert self.ledger.held_bytes == 2 * sum(r.token_count for r in self.order)
        assert self.ledger.held_bytes <= self.ledger.budget_bytes
        assert self.ledger.pin_count == sum(map(len, self.pins.values()))


TestLedgerAgainstItsModel = LedgerMachine.TestCase
TestLedgerAgainstItsModel.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None
)
