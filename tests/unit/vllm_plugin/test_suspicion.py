"""Suspects of a prefill, and what is kept of its end for the next."""

from __future__ import annotations

import gc

import torch

from raysparsex.segment.coverage import ReusedSpan
from raysparsex.sparse.sensitivity import FittedSensitivity
from raysparsex.vllm_plugin.suspicion import EXPLORED, WIDER, SuspectFinder, Suspicion
from tests.fakes.segments import segment_id, span

LAYERS = 4
SPANS = (span(10, 110, name="a"), span(120, 220, name="b", offset=5))
NOBODY = torch.zeros(200, 6)


def find(
    finder: SuspectFinder, share: float | None, spans: tuple[ReusedSpan, ...] = SPANS, seed: int = 1
) -> Suspicion:
    count = sum(s.end - s.start for s in spans)
    return finder.find(share, LAYERS, spans, NOBODY[:count], seed)


def taught() -> SuspectFinder:
    """Has seen, at the first reuse of both segments, that tokens 40..59 of the 200 change."""
    finder = SuspectFinder({})
    first = find(finder, None)
    assert first.suspects_R.all()
    change = torch.zeros(200)
    change[40:60] = 3.0
    finder.learn(first, change)
    return finder


def test_at_the_first_reuse_all_tokens_are_suspects() -> None:
    assert find(SuspectFinder({}), None).suspects_R.all()
    assert find(SuspectFinder({}), 0.1).suspects_R.all()


def test_at_the_second_reuse_those_that_changed_are() -> None:
    suspects = find(taught(), 0.1).suspects_R
    assert suspects[40:60].all()
    assert int(suspects.sum()) < 20 + 200 * EXPLORED * 4


def test_what_was_seen_holds_for_a_part_of_a_segment_as_well() -> None:
    part = (span(7, 57, name="a", offset=20),)
    suspects = find(taught(), 0.4, part).suspects_R
    assert suspects[20:40].all()


def test_tokens_of_a_segment_that_were_never_seen_are_suspects() -> None:
    before_its_part = (span(0, 5, name="b", offset=0), span(10, 110, name="a"))
    suspects = find(taught(), 0.1, before_its_part).suspects_R
    assert suspects[:5].all()
    longer = (span(0, 100, name="a"), span(200, 320, name="b", offset=5))
    assert find(taught(), 0.1, longer).suspects_R[200:].all()


def test_a_forgotten_segment_is_unknown_again() -> None:
    finder = taught()
    finder.forget(segment_id("a"))
    suspects = find(finder, 0.1).suspects_R
    assert suspects[:100].all()
    assert not suspects[100:].all()


def test_what_one_tenants_prompts_made_of_a_public_text_tells_another_nothing() -> None:
    finder = taught()
    assert not find(finder, 0.1).suspects_R.all()
    theirs = finder.find(0.1, LAYERS, SPANS, NOBODY, 1, "another")
    nobodys = find(SuspectFinder({}), 0.1)
    assert theirs.suspects_R.equal(nobodys.suspects_R)
    finder.learn(theirs, torch.ones(200))
    assert find(finder, 0.1).suspects_R.equal(find(taught(), 0.1).suspects_R)
    finder.forget(segment_id("a"))
    assert finder.find(0.1, LAYERS, SPANS, NOBODY, 1, "another").suspects_R[:100].all()


def test_what_was_seen_with_other_full_layers_does_not_count() -> None:
    assert taught().find(0.1, LAYERS + 1, SPANS, NOBODY, 1).suspects_R.all()


def test_a_token_that_was_wrongly_left_out_becomes_suspect_again_when_seen_to_change() -> None:
    finder = taught()
    for seed in range(300):
        suspicion = find(finder, 0.1, seed=seed)
        change = torch.zeros(200)
        change[150] = 9.0  # it changes now, and did not at the first reuse
        finder.learn(suspicion, change[suspicion.suspects_R])
    assert find(finder, 0.1, seed=1000).suspects_R[150]


def test_what_is_learned_is_kept_by_number_of_full_layers() -> None:
    finder = SuspectFinder({})
    for seed in range(50):
        features = torch.randn(200, 6, generator=torch.Generator().manual_seed(seed))
        suspicion = finder.find(None, LAYERS, SPANS, features, seed)
        finder.learn(suspicion, features[:, 0])
    fitted = finder.fitted()
    assert list(fitted) == [LAYERS]
    again = SuspectFinder(fitted).find(0.2, LAYERS, SPANS, features, 0)
    assert again.suspects_R[features[:, 0].topk(30).indices].all()


def test_what_was_picked_for_being_sensitive_teaches_nothing_about_the_others() -> None:
    finder = taught()
    suspicion = find(finder, 0.1)
    assert int(suspicion.teaching_R.sum()) < 20
    assert not suspicion.teaching_R[40:60].all()
    assert find(SuspectFinder({}), None).teaching_R.all()


def test_now_and_then_a_prefill_computes_all_tokens_while_that_teaches_something() -> None:
    weights = FittedSensitivity((1.0,) + (0.0,) * 6, (500,) + (0,) * 49)
    profiled = SuspectFinder({LAYERS: weights})
    assert not find(profiled, None, seed=32).suspects_R.all()
    learning = SuspectFinder({LAYERS: weights})
    find(learning, None)
    learning._models[LAYERS]._next_fit = 0
    assert find(learning, None, seed=32).suspects_R.all()
    assert not find(learning, None, seed=33).suspects_R.all()
    assert not find(learning, 0.2, seed=32).suspects_R.all()


def test_tokens_that_were_never_reused_are_looked_at_more_widely() -> None:
    fitted = FittedSensitivity((1.0,) + (0.0,) * 6, (500,) + (0,) * 49)
    finder = SuspectFinder({LAYERS: fitted})
    first = find(finder, 0.2)
    finder.learn(first, torch.ones(int(first.suspects_R.sum())))
    second = find(finder, 0.2)
    assert int(first.suspects_R.sum()) >= 0.2 * WIDER * 200
    assert int(second.suspects_R.sum()) < int(first.suspects_R.sum())


def test_a_process_grows_with_each_segment_of_which_something_was_seen() -> None:
    """As `HostTensor` tells: what lives as long as a segment is no tensor."""

    def kept() -> int:
        gc.collect()
        return sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects())

    finder = taught()
    before = kept()
    for name in "cdefgh":
        one = find(finder, None, (span(0, 100, name=name),))
        finder.learn(one, torch.arange(100.0))
        del one
    assert find(finder, 0.1, (span(0, 100, name="h"),)).suspects_R[90:].all()
    assert kept() == before
