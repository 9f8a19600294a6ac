"""Evidence against a dense computation that is written out; tolerance 1e-5, sums are in float32."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from raysparsex.sparse import evidence as module
from raysparsex.sparse.evidence import MAX_QUERIES, LayerEvidence
from tests.fakes.decoder import FakeDecoder

HEADS, GROUPS, SIZE = 4, 2, 6


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These tensors are far too small for two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Case:
    """A filled cache, fixed queries for every position, and some reused tokens."""

    def __init__(self, *, count: int = 150, layer: int = 2, reused: slice = slice(20, 70)) -> None:
        random = torch.Generator().manual_seed(count)
        self.decoder = FakeDecoder(layers=4, length=count + 30, heads=HEADS, groups=GROUPS)
        shape = (4, count, GROUPS, SIZE)
        self.decoder.keys[:, :count] = torch.randn(shape, generator=random, dtype=torch.float64)
        self.queries = torch.randn(4, count, HEADS, SIZE, generator=random, dtype=torch.float64)
        self.count, self.layer = count, layer
        self.reused = torch.arange(count)[reused]
        is_new = torch.ones(count, dtype=torch.bool)
        is_new[:10] = False  # the prefix
        is_new[self.reused] = False
        self.new = is_new.nonzero().flatten()
        self.change = torch.rand(len(self.reused), 2, generator=random)
        self.asked: list[int] = []

    def evidence(self) -> LayerEvidence:
        return LayerEvidence(
            decoder=self.decoder,
            layer=self.layer,
            candidates_S=self.reused,
            new_Q=self.new,
            squared_change_S2=self.change,
            run_offsets_S=torch.arange(len(self.reused)),
            queries_at=self.queries_at,
            count=self.count,
            seed=0,
        )

    def queries_at(self, layer: int, positions: torch.Tensor) -> torch.Tensor:
        self.asked.append(layer)
        return self.queries[layer, positions]

    def dense(self, layer: int, positions: torch.Tensor) -> torch.Tensor:
        """Attention weights [H, Q, N], head by head."""
        rows = []
        for head in range(HEADS):
            keys = self.decoder.keys[layer, : self.count, head // (HEADS // GROUPS)]
            scores = self.queries[layer, positions, head] @ keys.T * self.decoder.scale
            future = torch.arange(self.count) > positions[:, None]
            rows.append(scores.masked_fill(future, float("-inf")).softmax(-1))
        return torch.stack(rows)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual.double(), expected.double(), rtol=1e-5, atol=1e-6)


@pytest.fixture(params=[5000, 1 << 23], ids=["few queries", "all queries"])
def _tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much is held at once."""
    monkeypatch.setattr(module, "TILE_WEIGHTS", request.param)


@pytest.mark.usefixtures("_tile")
@pytest.mark.parametrize("count", [90, 200])
def test_attention_mass_is_that_of_all_new_tokens_over_all_heads(count: int) -> None:
    case = Case(count=count)
    dense = case.dense(case.layer, case.new).sum(dim=(0, 1))
    close(case.evidence().attention_mass(), dense[case.reused])
    assert case.asked == [case.layer]


def test_measuring_in_pieces_gives_what_asking_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE_WEIGHTS", 5000)
    case = Case(count=200)
    asked, measured = case.evidence(), case.evidence()
    queries = list(measured.measuring_mass())
    assert len(queries) > 3
    assert sum(queries) == module.READING + int((case.new > case.reused[0]).sum())
    case.queries_at = lambda *_: pytest.fail("measured again")  # type: ignore[method-assign]
    mass = measured.attention_mass()
    monkeypatch.undo()
    case.queries_at = Case(count=200).queries_at  # type: ignore[method-assign]
    close(mass, asked.attention_mass())


def test_a_new_token_gives_no_mass_to_what_comes_after_it() -> None:
    case = Case()
    case.new = case.new[case.new < 20]
    assert not case.evidence().attention_mass().any()


def test_in_long_prompts_some_queries_vote_for_all_and_the_last_is_one_of_them() -> None:
    case = Case(count=700)
    assert len(case.new) > MAX_QUERIES
    asked: list[torch.Tensor] = []
    queries_at = case.queries_at
    case.queries_at = lambda layer, at: (asked.append(at), queries_at(layer, at))[1]  # type: ignore[method-assign]
    mass = case.evidence().attention_mass()
    [voters] = asked
    in_front = int((case.new < case.reused[0]).sum())
    assert len(voters) == len(set(voters.tolist()))
    assert MAX_QUERIES - in_front <= len(voters) < MAX_QUERIES
    assert voters[0] > case.reused[0], "those in front see none of the candidates"
    assert voters[-1] == case.new[-1]
    assert set(voters.tolist()) <= set(case.new.tolist())
    assert voters.diff().max() <= 2 * (len(case.new) // MAX_QUERIES + 1)
    close(mass, case.dense(case.layer, voters).sum(dim=(0, 1))[case.reused])


@pytest.mark.usefixtures("_tile")
@pytest.mark.parametrize("layer", [0, 1, 3])
@pytest.mark.parametrize("seeds", [1, 40, 70])
def test_what_seeds_attend_to_counts_their_strongest_head_in_both_layers(
    layer: int, seeds: int
) -> None:
    case = Case(layer=layer, count=220, reused=slice(20, 120))
    chosen = torch.randperm(100, generator=torch.Generator().manual_seed(1))[:seeds]
    weights = torch.rand(seeds)
    total = torch.zeros(case.count, dtype=torch.float64)
    for at in {max(0, layer - 1), layer}:
        dense = case.dense(at, case.reused[chosen]).amax(dim=0)
        total += weights.double() @ dense
    close(case.evidence().attended_by(chosen, weights), total[case.reused])
    assert case.asked == sorted({max(0, layer - 1), layer})


def test_deviation_adds_the_changes_of_key_and_value() -> None:
    case = Case()
    close(case.evidence().deviation(), case.change[:, 0].sqrt() + case.change[:, 1].sqrt())


def test_at_layer_zero_all_tokens_deviate_alike() -> None:
    assert Case(layer=0).evidence().deviation().tolist() == [1.0] * 50


def test_ranks_choose_different_tokens() -> None:
    """All evidence is summed (or maximised) over ranks before a selector sees it."""
    case = Case()
    evidence = case.evidence()
    case.decoder.sum_over_ranks = lambda tensor: tensor * 3  # type: ignore[method-assign]
    case.decoder.max_over_ranks = lambda tensor: torch.full_like(tensor, 0.5)  # type: ignore[method-assign]
    dense = case.dense(case.layer, case.new).sum(dim=(0, 1))
    close(evidence.attention_mass(), 3 * dense[case.reused])
    close(
        evidence.deviation(),
        (3 * case.change[:, 0]).sqrt() + (3 * case.change[:, 1]).sqrt(),
    )
    weights = torch.tensor([0.25, 0.75])
    assert evidence.attended_by(torch.tensor([3, 49]), weights).unique().tolist() == [1.0]


def test_measuring_writes_nothing() -> None:
    case = Case()
    before = case.decoder.keys.clone()
    evidence = case.evidence()
    evidence.attention_mass()
    evidence.attended_by(torch.arange(5), torch.ones(5))
    evidence.deviation()
    torch.testing.assert_close(case.decoder.keys, before, equal_nan=True)
    assert case.decoder.calls == []


def test_keys_beyond_the_prompt_are_seen() -> None:
    """Slots behind the prompt hold NaN in the fake: anything that reads them turns NaN."""
    assert torch.isfinite(Case().evidence().attention_mass()).all()
