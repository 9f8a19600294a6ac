"""Selectors choose what they say they choose, the same way every time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raysparsex.config import SelectorName
from raysparsex.sparse.token_select import SEEDS, SELECTORS, Evidence, strongest


class FakeEvidence:
    """`Evidence` from plain tensors: attention[s] is what token s attends to."""

    def __init__(
        self,
        mass: list[float],
        deviation: list[float] | None = None,
        attention: dict[int, dict[int, float]] | None = None,
        seed: int = 0,
        offsets: list[int] | None = None,
        question: list[float] | None = None,
    ) -> None:
        self.seed = seed
        self._offsets = torch.tensor(offsets or list(range(len(mass))))
        self._question = torch.tensor(question or mass)
        self._mass = torch.tensor(mass)
        self._deviation = torch.tensor(deviation) if deviation else torch.ones(len(mass))
        self._attention = torch.zeros(len(mass), len(mass))
        for token, targets in (attention or {}).items():
            for target, weight in targets.items():
                self._attention[token, target] = weight
        self.asked: list[str] = []
        self.seeds: list[int] = []

    def attention_mass(self) -> torch.Tensor:
        self.asked.append("mass")
        return self._mass

    def question_mass(self) -> torch.Tensor:
        self.asked.append("question_mass")
        return self._question

    def run_offsets(self) -> torch.Tensor:
        self.asked.append("run_offsets")
        return self._offsets

    def deviation(self) -> torch.Tensor:
        self.asked.append("deviation")
        return self._deviation

    def attended_by(self, seeds: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        self.asked.append("attended_by")
        assert len(seeds) == len(weights)
        self.seeds = sorted(seeds.tolist())
        return weights @ self._attention[seeds]


def chosen(name: SelectorName, evidence: Evidence, count: int, picks: int) -> list[int]:
    return strongest(SELECTORS[name].scores(evidence, count), picks).tolist()


def test_sparse_q_takes_what_the_new_tokens_attend_to() -> None:
    evidence = FakeEvidence([0.1, 0.9, 0.0, 0.5], deviation=[9.0, 0.0, 9.0, 0.0])
    assert chosen(SelectorName.SPARSE_Q, evidence, 4, 2) == [1, 3]
    assert evidence.asked == ["mass"]


def test_two_step_finds_a_token_that_only_a_seed_depends_on() -> None:
    """Nobody asks about 7; but 2, which is asked about, got its meaning from it."""
    mass = [0.1] * 10
    mass[2], mass[7] = 1.0, 0.0
    evidence = FakeEvidence(mass, attention={2: {7: 0.9, 2: 0.1}})
    assert 7 in chosen(SelectorName.TWO_STEP, evidence, 10, 2)
    assert 7 not in chosen(SelectorName.SPARSE_Q, evidence, 10, 9)


def test_two_step_leaves_alone_what_its_new_context_did_not_change() -> None:
    evidence = FakeEvidence(
        [1.0, 0.9, 0.1, 0.1], deviation=[0.0, 1.0, 1.0, 0.0], attention={1: {3: 1.0, 2: 0.5}}
    )
    assert chosen(SelectorName.TWO_STEP, evidence, 4, 2) == [1, 2]


def test_two_step_weighs_both_steps_alike_whatever_their_scale() -> None:
    small = FakeEvidence([1e-6, 3e-6, 0.0], attention={1: {2: 1.0}})
    large = FakeEvidence([1e6, 3e6, 0.0], attention={1: {2: 1.0}})
    two_step = SELECTORS[SelectorName.TWO_STEP]
    torch.testing.assert_close(two_step.scores(small, 3), two_step.scores(large, 3))
    torch.testing.assert_close(two_step.scores(large, 3), torch.tensor([0.25, 0.75, 1.0]))


def test_two_step_looks_back_from_the_strongest_tokens_only() -> None:
    count = 3 * SEEDS
    evidence = FakeEvidence([float(i) for i in range(count)])
    SELECTORS[SelectorName.TWO_STEP].scores(evidence, count)
    assert evidence.seeds == list(range(count - SEEDS, count))


@pytest.mark.parametrize("count", [1, 2, SEEDS - 1, SEEDS])
def test_two_step_serves_prompts_with_few_reused_tokens(count: int) -> None:
    evidence = FakeEvidence([1.0] * count)
    assert SELECTORS[SelectorName.TWO_STEP].scores(evidence, count).shape == (count,)


@pytest.mark.parametrize("name", [SelectorName.TWO_STEP, SelectorName.SPARSE_Q])
def test_evidence_of_nothing_gives_no_nan_and_a_choice_all_the_same(name: SelectorName) -> None:
    evidence = FakeEvidence([0.0] * 5, deviation=[0.0] * 5)
    scores = SELECTORS[name].scores(evidence, 5)
    assert torch.isfinite(scores).all()
    assert strongest(scores, 2).tolist() == [0, 1]


def test_balanced_takes_turns_between_two_step_and_the_most_changed() -> None:
    mass, deviation = [0.0, 0.5, 0.1, 0.0, 0.0], [9.0, 1.0, 1.0, 0.0, 5.0]
    evidence = FakeEvidence(mass, deviation=deviation)
    picked = [chosen(SelectorName.BALANCED, evidence, 5, picks) for picks in (1, 2, 3, 4)]
    assert picked == [[1], [0, 1], [0, 1, 2], [0, 1, 2, 4]]


def test_kv_deviation_takes_what_changed_most() -> None:
    evidence = FakeEvidence([9.0, 0.0, 9.0, 0.0], deviation=[0.1, 0.9, 0.0, 0.5])
    assert chosen(SelectorName.KV_DEVIATION, evidence, 4, 2) == [1, 3]
    assert evidence.asked == ["deviation"]


def test_boundary_takes_the_first_tokens_of_each_run() -> None:
    evidence = FakeEvidence([0.0] * 7, offsets=[0, 1, 2, 3, 0, 1, 2])
    assert chosen(SelectorName.BOUNDARY, evidence, 7, 4) == [0, 1, 4, 5]


def test_query_two_stage_takes_what_the_question_looks_at() -> None:
    evidence = FakeEvidence([9.0, 0.0, 9.0, 0.0], question=[0.1, 0.9, 0.0, 0.5])
    assert chosen(SelectorName.QUERY_TWO_STAGE, evidence, 4, 2) == [1, 3]


def test_mass_and_deviation_weighs_both_alike_whatever_their_scale() -> None:
    evidence = FakeEvidence([1.0, 3.0, 0.0], deviation=[0.0, 1e6, 3e6])
    scores = SELECTORS[SelectorName.MASS_AND_DEVIATION].scores(evidence, 3)
    torch.testing.assert_close(scores, torch.tensor([0.25, 1.0, 0.75]))


def test_random_is_the_same_on_all_ranks_and_differs_between_prompts() -> None:
    one, same, other = (FakeEvidence([0.0] * 500, seed=seed) for seed in (1, 1, 2))
    first = chosen(SelectorName.RANDOM, one, 500, 50)
    assert first == chosen(SelectorName.RANDOM, same, 500, 50)
    assert first != chosen(SelectorName.RANDOM, other, 500, 50)
    assert one.asked == []


def test_random_does_not_touch_the_generator_that_samples_answers() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    chosen(SelectorName.RANDOM, FakeEvidence([0.0] * 10), 10, 5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", [SelectorName.NONE, SelectorName.ALL])
def test_controls_ask_for_no_evidence(name: SelectorName) -> None:
    evidence = FakeEvidence([1.0] * 6)
    SELECTORS[name].scores(evidence, 6)
    assert evidence.asked == []


@pytest.mark.parametrize("name", SelectorName)
def test_only_selectors_that_look_back_cost_the_states_for_it(name: SelectorName) -> None:
    evidence = FakeEvidence([1.0] * 6)
    SELECTORS[name].scores(evidence, 6)
    looked_back = {"attended_by", "question_mass"} & set(evidence.asked)
    assert SELECTORS[name].looks_back is bool(looked_back)


@pytest.mark.parametrize("name", SelectorName)
def test_every_selector_scores_every_reused_token(name: SelectorName) -> None:
    assert SELECTORS[name].scores(FakeEvidence([0.5] * 80), 80).shape == (80,)


def test_ties_go_to_the_earlier_token() -> None:
    assert strongest(torch.zeros(100), 7).tolist() == list(range(7))
    assert strongest(torch.tensor([1.0, 2.0, 1.0, 2.0, 1.0]), 3).tolist() == [0, 1, 3]


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=60), st.data())
def test_the_strongest_are_those_of_a_stable_sort_in_ascending_order(
    scores: list[float], data: st.DataObject
) -> None:
    picks = data.draw(st.integers(0, len(scores)))
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:picks]
    assert strongest(torch.tensor(scores), picks).tolist() == sorted(expected)


@pytest.mark.parametrize("picks", [3, 9])
def test_more_picks_than_tokens_are_all_tokens(picks: int) -> None:
    assert strongest(torch.tensor([0.1, 0.2, 0.3]), picks).tolist() == [0, 1, 2]
