"""The sparse prefill against a decoder that logs its calls: who is computed where, and when."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from raysparsex.config import SelectorName
from raysparsex.errors import SegmentUnavailable
from raysparsex.sparse.evidence import READING
from raysparsex.sparse.prefill import PROJECTED, ROWS_LOADED, PieceBound, SparsePrefill
from raysparsex.sparse.stages import Stage, StageClock, clocked
from raysparsex.sparse.token_select import Evidence
from tests.unit.sparse.prefill_run import (
    ALL,
    COUNT,
    LARGE,
    LAYERS,
    NEW,
    PREFIX,
    REUSED,
    Run,
    exact,
)  # fmt: skip

full_layers_of_any_kind = pytest.mark.parametrize("full_layers", [0, 1, 2, LAYERS - 1, LAYERS, 99])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These tensors are far too small for two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("chunk", [1, 7, 32, 10**9])
@full_layers_of_any_kind
def test_every_token_passes_the_full_layers_once_and_in_order(full_layers: int, chunk: int) -> None:
    run = Run(full_layers=full_layers, most=chunk).to_the_end()
    for layer in range(min(full_layers, LAYERS)):
        assert run.forwarded(layer) == sorted(ALL)
    first_of_each_chunk = [call for call in run.decoder.made("forward") if call.layer == 0]
    if full_layers:
        assert max(len(call.positions) for call in first_of_each_chunk) <= chunk


@pytest.mark.parametrize("chunk", [5, 10**9])
@pytest.mark.parametrize("full_layers", [0, 1, 3])
def test_only_new_and_chosen_tokens_pass_the_sparse_layers(full_layers: int, chunk: int) -> None:
    run = Run(full_layers=full_layers, most=chunk).to_the_end()
    computed = run.forwarded(LAYERS - 1)
    assert len(computed) == len(NEW) + 9
    assert set(computed) >= NEW
    for layer in range(full_layers, LAYERS):
        assert run.forwarded(layer) == computed == sorted(computed)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_call_with_more_runs_than_the_backend_has_rows_for(most: int) -> None:
    run = Run(full_layers=1, picks=20, most=30)
    run.decoder.max_runs = most
    run.to_the_end()
    for call in run.decoder.made("forward"):
        gaps = sum(b != a + 1 for a, b in pairwise(call.positions))
        assert gaps < most
        assert 0 < len(call.positions) <= 30
    assert len(run.forwarded(LAYERS - 1)) == len(NEW) + 20
    assert run.forwarded(LAYERS - 1) == sorted(run.forwarded(LAYERS - 1))


@pytest.mark.parametrize("full_layers", [0, 1, 3])
def test_only_what_the_sparse_layers_lack_is_loaded(full_layers: int) -> None:
    behind = list(range(full_layers + 1, LAYERS))
    assert Run(full_layers=full_layers).to_the_end().loader.loaded == [full_layers, *behind]
    # With nothing to choose there is no deviation to measure at L*.
    assert Run(full_layers=full_layers, picks=0).to_the_end().loader.loaded == behind
    assert Run(full_layers=full_layers, picks=len(REUSED)).to_the_end().loader.loaded == []


@pytest.mark.parametrize("full_layers", [LAYERS, 99])
@pytest.mark.parametrize("picks", [0, 9, len(REUSED)])
def test_with_all_layers_full_nothing_is_loaded_and_all_is_exact(
    full_layers: int, picks: int
) -> None:
    run = Run(full_layers=full_layers, picks=picks).to_the_end()
    assert run.loader.loaded == []
    assert {call.layer for call in run.decoder.made("project")} == {LAYERS - 1}
    torch.testing.assert_close(run.decoder.keys, exact().keys)


@pytest.mark.parametrize("chunk", [13, 10**9])
@full_layers_of_any_kind
def test_recomputing_everything_equals_a_plain_prefill(full_layers: int, chunk: int) -> None:
    run = Run(
        full_layers=full_layers,
        picks=len(REUSED),
        selector=SelectorName.ALL,
        most=chunk,
    ).to_the_end()
    plain = exact()
    torch.testing.assert_close(run.decoder.keys, plain.keys, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(run.decoder.values, plain.values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("full_layers", [0, 2, 3])
@pytest.mark.parametrize("picks", [0, 1, 30])
def test_the_cache_ends_with_the_layers_of_the_table(full_layers: int, picks: int) -> None:
    """Fresh keys of all tokens up to L*; from L*+1 on loaded ones, except where computed."""
    run = Run(full_layers=full_layers, picks=picks).to_the_end()
    places = sorted(REUSED - run.chosen)
    kept = [sorted(REUSED).index(place) for place in places]
    fresh = run.decoder.keys[: full_layers + 1]
    torch.testing.assert_close(fresh, exact().keys[: full_layers + 1], rtol=1e-9, atol=1e-9)
    for layer in range(full_layers + 1, LAYERS):
        assert torch.equal(run.decoder.keys[layer, places], run.loader._keys[layer, kept])
        assert torch.equal(run.decoder.values[layer, places], run.loader._values[layer, kept])
        chosen = sorted(run.chosen)
        loaded = run.loader._keys[layer, [sorted(REUSED).index(place) for place in chosen]]
        assert not torch.isclose(run.decoder.keys[layer, chosen], loaded).all(dim=-1).any()
    assert not run.decoder.keys.isnan().any()
    assert not run.decoder.values.isnan().any()


@pytest.mark.parametrize("selector", SelectorName)
def test_any_way_of_slicing_gives_the_same_cache(selector: SelectorName) -> None:
    picks = {SelectorName.NONE: 0, SelectorName.ALL: len(REUSED)}.get(selector, 9)
    whole = Run(selector=selector, picks=picks).to_the_end()
    sliced = Run(selector=selector, picks=picks, most=11).to_the_end()
    assert sliced.chosen == whole.chosen
    torch.testing.assert_close(sliced.decoder.keys, whole.decoder.keys, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunk", [1, 6, 8, 48])
def test_each_piece_computes_a_bounded_number_of_tokens_and_tells_how_many(chunk: int) -> None:
    run = Run(most=chunk)
    told, seen = [], 0
    for work in run.prefill.run():
        calls = [call for call in run.decoder.calls[seen:] if call.what == "forward"]
        seen = len(run.decoder.calls)
        if calls:
            assert work == sum(len(call.positions) for call in calls) <= chunk
        told.append(work)
    loading = 3 * (len(REUSED) // ROWS_LOADED)  # once to be compared, twice to be served
    projected = sum(told) - (2 * COUNT + 2 * (len(NEW) + 9) + loading)
    pieces = -(-COUNT // chunk) - (-(len(NEW) + 9) // chunk)
    assert max(pieces, (COUNT + len(NEW) + 9) / PROJECTED - pieces) <= projected
    asking = 4  # reading keys, and asking them, count for one each on this decoder
    assert projected <= (COUNT + len(NEW) + 9) / PROJECTED + pieces + asking


def test_many_pieces_that_hardly_count_hold_up_a_step() -> None:
    """Where only queries, keys and values are computed, a piece takes as many tokens more."""
    run = Run()
    run.bound.work = 10
    told = list(run.prefill.run())
    assert min(told) >= 1
    projections = [call for call in run.decoder.made("project") if call.layer == 2]
    assert max(len(call.positions) for call in projections) == 10 * PROJECTED


def test_an_engine_that_compiles_for_each_number_of_rows_that_a_slice_may_have() -> None:
    """On a CPU a matrix product is, which takes time and keeps memory: few numbers are wanted."""
    sizes: set[int] = set()
    for bound in range(1, COUNT + 1):
        run = Run(most=bound).to_the_end()
        pieces = [len(call.positions) for call in run.decoder.made("forward") if call.layer == 0]
        assert all(bound * 7 / 8 < piece <= bound for piece in pieces[:-1])
        sizes.update(pieces[:-1])
    assert len(sizes) <= 40
    assert max(sizes) > COUNT // 2


@pytest.mark.parametrize("work", [1, 20, 50])
def test_a_piece_takes_longer_the_further_behind_its_tokens_stand(work: int) -> None:
    whole, run = Run().to_the_end(), Run()
    run.bound.work, run.decoder.keys_per_token = work, 10
    told = list(run.prefill.run())
    assert run.chosen == whole.chosen
    torch.testing.assert_close(run.decoder.keys, whole.decoder.keys, rtol=1e-9, atol=1e-9)
    for call in run.decoder.made("forward"):
        takes = sum(1 + place / 10 for place in call.positions)
        assert len(call.positions) == 1 or takes <= work + 1e-3
    sizes = [len(call.positions) for call in run.decoder.made("forward") if call.layer == 0]
    assert sizes[0] >= sizes[-2]
    every_token = 2 * sum(1 + place / 10 for place in ALL)
    every_token += 2 * sum(1 + place / 10 for place in NEW | run.chosen)
    asked = 2 * len(REUSED) * (PREFIX + COUNT) // 10 + len(NEW) * (PREFIX + COUNT) // 10
    asked += 2 * READING * (PREFIX + COUNT) // 10
    assert sum(told) == pytest.approx(every_token, abs=asked + len(told))
    assert sum(told) > every_token - len(told)


@pytest.mark.parametrize("layer_of_change", [0, 1, 2])
def test_a_bound_that_changes_on_the_way_changes_what_is_computed(layer_of_change: int) -> None:
    whole, changing = Run().to_the_end(), Run(most=40)
    for _ in changing.prefill.run():
        if any(call.layer == layer_of_change for call in changing.decoder.calls):
            changing.bound.tokens = 7
    assert changing.chosen == whole.chosen
    torch.testing.assert_close(changing.decoder.keys, whole.decoder.keys, rtol=1e-9, atol=1e-9)
    last = [call for call in changing.decoder.made("forward") if call.layer == LAYERS - 2]
    assert max(len(call.positions) for call in last) <= 7


@pytest.mark.parametrize("suspects", [None, {*range(17, 30), 38, *range(45, 60), 79}])
def test_time_is_told_by_stage(suspects: set[int] | None) -> None:
    run = Run(suspects=suspects, sought=2, learns=True)
    now = iter(range(10**6))
    clock = StageClock(lambda: float(next(now)))
    prefill = SparsePrefill(run.task, run.decoder, run.loader, run.bound, clock)
    for _ in clocked(prefill.run(), clock, Stage.FULL_LAYERS):
        next(now)
    assert set(clock.seconds) == {
        Stage.FULL_LAYERS, Stage.LOAD, Stage.SCORE, Stage.SPARSE_LAYERS,
    }  # fmt: skip
    assert min(clock.seconds.values()) > 0
    assert clock.enter(None) is None


@pytest.mark.parametrize("full_layers", [1, 2, 3])
def test_a_decoder_that_works_in_place_corrupts_what_selection_looks_back_at(
    full_layers: int,
) -> None:
    """Queries at L*-1 are those that a second, undisturbed prefill has there."""
    seen: dict[int, torch.Tensor] = {}

    class Spy:
        looks_back = True

        def measuring(self, evidence: Evidence, count: int) -> Iterator[int]:
            return iter(())

        def scores(self, evidence: Evidence, count: int) -> torch.Tensor:
            places = torch.tensor(sorted(REUSED))
            for layer in (full_layers - 1, full_layers):
                seen[layer] = evidence._queries_at(layer, places)  # type: ignore[attr-defined]
            return torch.arange(count)

    run = Run(full_layers=full_layers, most=16)
    task = replace(run.task, selector=Spy())
    for _ in SparsePrefill(task, run.decoder, run.loader, PieceBound(LARGE)).run():
        pass
    undisturbed = Run(full_layers=LAYERS)
    decoder = undisturbed.decoder
    at = decoder.place(torch.tensor(sorted(ALL)))
    state = decoder.embed(undisturbed.task.tokens_T)
    for layer in range(full_layers + 1):
        if layer in seen:
            rows = torch.tensor(sorted(REUSED)) - PREFIX
            expected = decoder.project(layer, at, state.copy()).query_THD[rows]
            torch.testing.assert_close(seen[layer], expected, rtol=1e-9, atol=1e-9)
        state = decoder.forward(layer, at, state)
    assert len(seen) == 2


@pytest.mark.parametrize("stop_after", [0, 1, 5, 15])
def test_a_prefill_that_is_stopped_leaves_states_or_goes_on_computing(stop_after: int) -> None:
    run = Run(most=10)
    decoder = run.decoder
    states: list[weakref.ref[torch.Tensor]] = []
    forward = decoder.forward

    def watched(*call: object) -> object:
        state = forward(*call)  # type: ignore[arg-type]
        states.append(weakref.ref(state.hidden_TE))
        return state

    decoder.forward = watched  # type: ignore[method-assign, assignment]
    running = run.prefill.run()
    for _ in range(stop_after):
        next(running)
    calls = len(decoder.calls)
    running.close()  # type: ignore[attr-defined]
    assert len(decoder.calls) == calls
    with pytest.raises(StopIteration):
        next(running)
    del running, run
    gc.collect()
    assert not [state for state in states if state() is not None]


def test_a_failing_load_is_told_to_whoever_runs_the_prefill() -> None:
    run = Run()

    def gone(layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        raise SegmentUnavailable(f"layer {layer}")

    run.loader.load = gone  # type: ignore[method-assign]
    with pytest.raises(SegmentUnavailable):
        run.to_the_end()


def test_a_prompt_of_which_nothing_is_reused_is_simply_computed() -> None:
    run = Run(reused=set(), picks=0).to_the_end()
    assert run.loader.loaded == []
    torch.testing.assert_close(run.decoder.keys, exact().keys, rtol=1e-9, atol=1e-9)


def test_a_prompt_without_new_tokens_still_chooses() -> None:
    """The planner never makes one, since the query tail is new; nothing may break all the same."""
    run = Run(reused=ALL, picks=9).to_the_end()
    assert len(run.forwarded(LAYERS - 1)) == 9


def test_the_task_is_not_written_to() -> None:
    run = Run()
    before = run.task.reused_T.clone()
    run.to_the_end()
    assert torch.equal(run.task.reused_T, before)


def test_a_decoder_is_asked_to_place_tokens_that_do_not_ascend() -> None:
    run = Run(selector=SelectorName.TWO_STEP).to_the_end()
    assert all(positions == sorted(positions) for positions in run.decoder.placed)
