"""Suspects and sought tokens of a sparse prefill: who passes the full layers, and who is added."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from raysparsex.sparse.prefill import PieceBound, SparsePrefill
from raysparsex.sparse.token_select import Evidence
from tests.unit.sparse.prefill_run import COUNT, LARGE, LAYERS, NEW, PREFIX, REUSED, Run


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These tensors are far too small for two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SUSPECTS = {*range(17, 30), 38, *range(45, 60), 79}


@pytest.mark.parametrize("chunk", [1, 7, 10**9])
@pytest.mark.parametrize("full_layers", [1, 2, LAYERS - 1])
def test_full_layers_compute_new_tokens_and_suspects_only(full_layers: int, chunk: int) -> None:
    run = Run(full_layers=full_layers, suspects=SUSPECTS, most=chunk)
    run.to_the_end()
    for layer in range(full_layers):
        assert run.forwarded(layer) == sorted(NEW | SUSPECTS)
    assert len(run.chosen) == 9
    assert run.chosen <= SUSPECTS


@pytest.mark.parametrize("full_layers", [1, 2, LAYERS - 1])
def test_whoever_is_no_suspect_keeps_its_loaded_values_in_every_layer(full_layers: int) -> None:
    run = Run(full_layers=full_layers, suspects=SUSPECTS).to_the_end()
    for row, place in enumerate(sorted(REUSED)):
        if place not in SUSPECTS:
            for layer in range(LAYERS):
                assert torch.equal(run.decoder.keys[layer, place], run.loader._keys[layer, row])
                assert torch.equal(run.decoder.values[layer, place], run.loader._values[layer, row])
    assert not run.decoder.keys[:, : PREFIX + COUNT].isnan().any()


def test_a_budget_above_the_suspects_takes_all_of_them() -> None:
    run = Run(suspects=SUSPECTS, picks=len(SUSPECTS) + 5).to_the_end()
    assert run.chosen == SUSPECTS
    assert run.prefill.picks == len(SUSPECTS)


@pytest.mark.parametrize("picks", [0, 9, len(SUSPECTS)])
@pytest.mark.parametrize("full_layers", [1, 3])
def test_what_context_changed_is_learned_whoever_is_chosen(full_layers: int, picks: int) -> None:
    run = Run(full_layers=full_layers, suspects=SUSPECTS, picks=picks, learns=True).to_the_end()
    assert run.prefill.deviation_S is not None
    everyone = Run(full_layers=LAYERS, suspects=None).to_the_end().decoder
    rows = [row for row, place in enumerate(sorted(REUSED)) if place in SUSPECTS]
    places = torch.tensor(sorted(SUSPECTS))
    keys = everyone.keys[full_layers, places] - run.loader._keys[full_layers, rows]
    values = everyone.values[full_layers, places] - run.loader._values[full_layers, rows]
    change = sum(part.square().sum((1, 2)).sqrt() for part in (keys, values))
    if full_layers == 1:  # deeper, the unsuspected have had their part in it
        torch.testing.assert_close(run.prefill.deviation_S.double(), change, rtol=1e-5, atol=1e-6)
    assert len(run.prefill.deviation_S) == len(SUSPECTS)


def test_nothing_is_learned_where_no_context_has_come_in_or_nobody_asked() -> None:
    assert Run(full_layers=0, learns=True).to_the_end().prefill.deviation_S is None
    assert Run(full_layers=2, learns=False).to_the_end().prefill.deviation_S is None
    assert Run(full_layers=LAYERS, learns=True).to_the_end().prefill.deviation_S is None


SOUGHT = 4


def suspects_of(run: Run) -> set[int]:
    return {sorted(REUSED)[row] for row in run.prefill.suspects_R.nonzero().flatten().tolist()}


@pytest.mark.parametrize("chunk", [3, 10**9])
@pytest.mark.parametrize("full_layers", [1, 2, 3])
def test_what_the_question_looks_at_is_computed_too_and_last(full_layers: int, chunk: int) -> None:
    run = Run(full_layers=full_layers, suspects=SUSPECTS, sought=SOUGHT, most=chunk)
    run.to_the_end()
    added = suspects_of(run) - SUSPECTS
    assert len(added) == SOUGHT
    for layer in range(full_layers):
        assert run.forwarded(layer) == [*sorted(NEW | SUSPECTS), *sorted(added)]


def test_the_sought_are_those_that_any_new_token_behind_them_attends_to_most() -> None:
    run = Run(full_layers=3, suspects=SUSPECTS, sought=SOUGHT)
    seen: list[torch.Tensor] = []
    read_keys = run.decoder.read_keys

    def watched(layer: int, count: int) -> torch.Tensor:
        keys = read_keys(layer, count)
        seen.append(keys.clone() if layer == 2 else torch.empty(0))
        return keys

    run.decoder.read_keys = watched  # type: ignore[method-assign]
    run.to_the_end()
    question = torch.arange(80, PREFIX + COUNT)
    queries = _queries(2, question)
    groups = seen[0].shape[1]
    keys = seen[0].repeat_interleave(queries.shape[1] // groups, dim=1)
    scores = torch.einsum("qhd,nhd->hqn", queries, keys.to(queries)) * run.decoder.scale
    hidden = torch.arange(PREFIX + COUNT) > question[:, None]
    peaks = scores.masked_fill(hidden, float("-inf")).softmax(-1).amax((0, 1))
    rest = sorted(REUSED - SUSPECTS, key=lambda place: -peaks[place].item())
    assert suspects_of(run) - SUSPECTS == set(rest[:SOUGHT])


def _queries(layer: int, positions: torch.Tensor) -> torch.Tensor:
    """Queries of new tokens at a layer, from a prefill of the same task that keeps them."""
    fresh = Run(full_layers=3, suspects=SUSPECTS)
    states: dict[str, torch.Tensor] = {}

    class Spy:
        looks_back = True

        def measuring(self, evidence: Evidence, count: int) -> Iterator[int]:
            return iter(())

        def scores(self, evidence: Evidence, count: int) -> torch.Tensor:
            states["queries"] = evidence._queries_at(layer, positions)  # type: ignore[attr-defined]
            return torch.arange(count)

    for _ in SparsePrefill(
        replace(fresh.task, selector=Spy()), fresh.decoder, fresh.loader, PieceBound(LARGE)
    ).run():
        pass
    return states["queries"]


@pytest.mark.parametrize("sought", [1, SOUGHT, 10**6])
def test_any_way_of_slicing_seeks_the_same(sought: int) -> None:
    whole = Run(full_layers=2, suspects=SUSPECTS, sought=sought).to_the_end()
    sliced = Run(full_layers=2, suspects=SUSPECTS, sought=sought, most=11).to_the_end()
    assert suspects_of(sliced) == suspects_of(whole)
    assert sliced.chosen == whole.chosen
    torch.testing.assert_close(sliced.decoder.keys, whole.decoder.keys, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("picks", [0, 9, 10**6])
def test_where_all_are_suspects_or_no_layer_is_full_nobody_is_sought(picks: int) -> None:
    for layers in (0, 2, LAYERS):
        plain = Run(full_layers=layers, picks=picks).to_the_end()
        seeking = Run(full_layers=layers, picks=picks, sought=5).to_the_end()
        assert [call.positions for call in seeking.decoder.calls] == [
            call.positions for call in plain.decoder.calls
        ]
