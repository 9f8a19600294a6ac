"""What other nodes hold and what others compute, as far as those who are asked answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raysparsex.ids import SegmentId
from raysparsex.segment.coverage import SegmentRecord
from raysparsex.store.elsewhere import Found, Hints, LeaseWish, find_elsewhere
from tests.fakes.segments import record

A, B, C = record("a"), record("b"), record("c")
WISH = LeaseWish("engine", 3.0, frozenset([A.id]))


class Cluster:
    """A registry, and the stores of three nodes."""

    def __init__(self, hints: Hints) -> None:
        self.hints = hints
        self.stores: dict[str, list[SegmentRecord] | None] = {"here": [], "there": [], "far": []}
        self.asked: list[Mapping[str, Sequence[SegmentId]]] = []

    def acquire(self, segments: Sequence[SegmentId], node: str, wish: LeaseWish) -> Hints:
        assert (list(segments), node, wish) == ([A.id, B.id, C.id], "here", WISH)
        return self.hints

    def release(self, segments: Sequence[SegmentId], holder: str) -> None:
        raise AssertionError("nothing is to be released")

    def records_on(
        self, wanted: Mapping[str, Sequence[SegmentId]]
    ) -> dict[str, dict[SegmentId, SegmentRecord] | None]:
        self.asked.append(wanted)
        return {
            node: None if store is None else {r.id: r for r in store if r.id in wanted[node]}
            for node, store in self.stores.items()
            if node in wanted
        }

    def find(self) -> Found:
        return find_elsewhere([A.id, B.id, C.id], "here", WISH, self, self.records_on)


def test_each_node_is_asked_once_for_what_it_is_said_to_hold() -> None:
    cluster = Cluster(Hints({A.id: "there", B.id: "far", C.id: "there"}))
    cluster.stores |= {"there": [A, C], "far": [B]}
    found = cluster.find()
    assert found.records == {A.id: A, B.id: B, C.id: C}
    assert found.nodes == {A.id: "there", C.id: "there", B.id: "far"}
    assert cluster.asked == [{"there": [A.id, C.id], "far": [B.id]}]


def test_what_left_its_store_since_the_registry_heard_of_it_is_believed_to_be_there() -> None:
    cluster = Cluster(Hints({A.id: "there", B.id: "there"}))
    cluster.stores["there"] = [B]
    assert cluster.find() == Found({B.id: B}, {B.id: "there"})


def test_what_came_to_the_own_node_just_now_is_found_there() -> None:
    cluster = Cluster(Hints({A.id: "here"}))
    cluster.stores["here"] = [A]
    assert cluster.find() == Found({A.id: A})


def test_a_store_that_does_not_answer_hides_what_the_others_say() -> None:
    cluster = Cluster(Hints({A.id: "there", B.id: "far"}, silent=1))
    cluster.stores |= {"there": None, "far": [B]}
    assert cluster.find() == Found({B.id: B}, {B.id: "far"}, silent=2)


def test_what_others_compute_is_told_and_no_store_is_asked_for_it() -> None:
    cluster = Cluster(Hints(computing={A.id: 2.5}))
    assert cluster.find() == Found(computing={A.id: 2.5})
    assert cluster.asked == []
