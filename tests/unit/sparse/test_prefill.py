"""The sparse prefill against a decoder that logs its calls: who is computed where, and when."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, pairwise

import pytest
import torch

from raysparsex.config import SelectorName
from raysparsex.errors import SegmentUnavailable
from raysparsex.sparse.prefill import PrefillTask, SliceBounds, SparsePrefill
from raysparsex.sparse.token_select import SELECTORS, Evidence
from tests.fakes.decoder import VOCABULARY, Call, FakeDecoder, FakeLoader

PREFIX, COUNT, LAYERS = 10, 90, 5
ALL = set(range(PREFIX, PREFIX + COUNT))
REUSED = {*range(15, 40), *range(45, 80)}
NEW = ALL - REUSED
LARGE = SliceBounds(token_layers=10**9, chunk_tokens=10**9)

full_layers_of_any_kind = pytest.mark.parametrize("full_layers", [0, 1, 2, LAYERS - 1, LAYERS, 99])


def prompt(seed: int = 1) -> torch.Tensor:
    return torch.randint(
        VOCABULARY, (PREFIX + COUNT,), generator=torch.Generator().manual_seed(seed)
    )


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These tensors are far too small for two."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Run:
    """A decoder with its prefix in place, a loader with foreign values, and a task."""

    def __init__(
        self,
        *,
        full_layers: int = 2,
        picks: int = 9,
        selector: SelectorName = SelectorName.TWO_STEP,
        bounds: SliceBounds = LARGE,
        reused: set[int] = REUSED,
        suspects: set[int] | None = None,
        sought: int = 0,
        learns: bool = False,
    ) -> None:
        self.decoder = FakeDecoder(layers=LAYERS, length=PREFIX + COUNT)
        tokens = prompt()
        self.decoder.prefill(tokens[:PREFIX])
        self.decoder.calls.clear()
        places = torch.tensor(sorted(reused), dtype=torch.long)
        foreign = FakeDecoder(layers=LAYERS, length=PREFIX + COUNT)
        foreign.prefill(torch.cat((prompt(2)[:PREFIX], tokens[PREFIX:])))
        self.loader = FakeLoader(foreign.keys[:, places], foreign.values[:, places])
        mask = torch.tensor([place in reused for place in sorted(ALL)])
        self.task = PrefillTask(
            tokens_T=tokens[PREFIX:],
            first=PREFIX,
            reused_T=mask,
            suspects_R=torch.tensor(
                [suspects is None or place in suspects for place in sorted(reused)],
                dtype=torch.bool,
            ),
            run_offsets_R=torch.arange(len(reused)),
            full_layers=full_layers,
            selector=SELECTORS[selector],
            picks=picks,
            seed=7,
            sought=sought,
            learns=learns,
        )
        self.prefill = SparsePrefill(self.task, self.decoder, self.loader, bounds)

    def to_the_end(self) -> Run:
        self.slices = sum(1 for _ in self.prefill.run())
        return self

    def forwarded(self, layer: int) -> list[int]:
        """Positions that a layer computed; of the last layer, only K and V are computed."""
        calls = [call for call in self.decoder.made("forward") if call.layer == layer]
        if layer == LAYERS - 1:
            assert not calls
            calls = self._projected_at_last()
        return [place for call in calls for place in call.positions]

    def _projected_at_last(self) -> list[Call]:
        """Projections of the last layer that were written; for L* at the end, the second ones."""
        log = self.decoder.calls
        written = [
            one
            for one, two in pairwise(log)
            if (one.what, two.what) == ("project", "write")
            and one.layer == LAYERS - 1
            and one.positions == two.positions
        ]
        suspects = int(self.prefill.suspects_R.sum())
        if self.prefill._first_sparse == LAYERS - 1 and self.task.picks < suspects:
            covered = list(accumulate(len(call.positions) for call in written))
            return written[covered.index(len(NEW) + suspects) + 1 :]
        return written

    @property
    def chosen(self) -> set[int]:
        return set(self.forwarded(LAYERS - 1)) - NEW


def exact() -> FakeDecoder:
    decoder = FakeDecoder(layers=LAYERS, length=PREFIX + COUNT)
    decoder.prefill(prompt())
    return decoder


@pytest.mark.parametrize("chunk", [1, 7, 32, 10**9])
@full_layers_of_any_kind
def test_every_token_passes_the_full_layers_once_and_in_order(full_layers: int, chunk: int) -> None:
    run = Run(full_layers=full_layers, bounds=SliceBounds(10**9, chunk)).to_the_end()
    for layer in range(min(full_layers, LAYERS)):
        assert run.forwarded(layer) == sorted(ALL)
    first_of_each_chunk = [call for call in run.decoder.made("forward") if call.layer == 0]
    if full_layers:
        assert max(len(call.positions) for call in first_of_each_chunk) <= chunk


@pytest.mark.parametrize("chunk", [5, 10**9])
@pytest.mark.parametrize("full_layers", [0, 1, 3])
def test_only_new_and_chosen_tokens_pass_the_sparse_layers(full_layers: int, chunk: int) -> None:
    run = Run(full_layers=full_layers, bounds=SliceBounds(10**9, chunk)).to_the_end()
    computed = run.forwarded(LAYERS - 1)
    assert len(computed) == len(NEW) + 9
    assert set(computed) >= NEW
    for layer in range(full_layers, LAYERS):
        assert run.forwarded(layer) == computed == sorted(computed)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_call_with_more_runs_than_the_backend_has_rows_for(most: int) -> None:
    run = Run(full_layers=1, picks=20, bounds=SliceBounds(10**9, 30))
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
        bounds=SliceBounds(40, chunk),
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
    sliced = Run(selector=selector, picks=picks, bounds=SliceBounds(17, 11)).to_the_end()
    assert sliced.chosen == whole.chosen
    torch.testing.assert_close(sliced.decoder.keys, whole.decoder.keys, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("token_layers", "chunk"), [(1, 1), (1, 8), (64, 8), (40, 64), (120, 16)])
def test_a_slice_computes_more_than_its_bound_allows(token_layers: int, chunk: int) -> None:
    run = Run(bounds=SliceBounds(token_layers, chunk))
    spent, slices = [], 0
    seen = 0
    for _ in run.prefill.run():
        work = [call for call in run.decoder.calls[seen:] if call.what != "write"]
        seen = len(run.decoder.calls)
        spent.append(sum(len(call.positions) for call in work))
        slices += 1
    # One slice also asks for the queries of the chosen layers: a step of its own, once per prompt.
    asked = sum(len(c.positions) for c in run.decoder.made("project")) - COUNT
    assert sorted(spent)[-2] < token_layers + chunk
    assert sorted(spent)[-1] < token_layers + chunk + asked
    assert slices == pytest.approx((2 * COUNT + COUNT + 3 * (len(NEW) + 9)) / token_layers, rel=1)


def test_a_large_slice_is_not_interrupted() -> None:
    assert Run().to_the_end().slices == 0


@pytest.mark.parametrize("full_layers", [1, 2, 3])
def test_a_decoder_that_works_in_place_corrupts_what_selection_looks_back_at(
    full_layers: int,
) -> None:
    """Queries at L*-1 are those that a second, undisturbed prefill has there."""
    seen: dict[int, torch.Tensor] = {}

    class Spy:
        looks_back = True

        def scores(self, evidence: Evidence, count: int) -> torch.Tensor:
            places = torch.tensor(sorted(REUSED))
            for layer in (full_layers - 1, full_layers):
                seen[layer] = evidence._queries_at(layer, places)  # type: ignore[attr-defined]
            return torch.arange(count)

    run = Run(full_layers=full_layers, bounds=SliceBounds(10**9, 16))
    task = replace(run.task, selector=Spy())
    for _ in SparsePrefill(task, run.decoder, run.loader, LARGE).run():
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
    run = Run(bounds=SliceBounds(20, 10))
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


SUSPECTS = {*range(17, 30), 38, *range(45, 60), 79}


@pytest.mark.parametrize("chunk", [1, 7, 10**9])
@pytest.mark.parametrize("full_layers", [1, 2, LAYERS - 1])
def test_full_layers_compute_new_tokens_and_suspects_only(full_layers: int, chunk: int) -> None:
    run = Run(full_layers=full_layers, suspects=SUSPECTS, bounds=SliceBounds(10**9, chunk))
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
    bounds = SliceBounds(10**9, chunk)
    run = Run(full_layers=full_layers, suspects=SUSPECTS, sought=SOUGHT, bounds=bounds)
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

        def scores(self, evidence: Evidence, count: int) -> torch.Tensor:
            states["queries"] = evidence._queries_at(layer, positions)  # type: ignore[attr-defined]
            return torch.arange(count)

    for _ in SparsePrefill(
        replace(fresh.task, selector=Spy()), fresh.decoder, fresh.loader, LARGE
    ).run():
        pass
    return states["queries"]


@pytest.mark.parametrize("sought", [1, SOUGHT, 10**6])
def test_any_way_of_slicing_seeks_the_same(sought: int) -> None:
    whole = Run(full_layers=2, suspects=SUSPECTS, sought=sought).to_the_end()
    sliced = Run(
        full_layers=2, suspects=SUSPECTS, sought=sought, bounds=SliceBounds(17, 11)
    ).to_the_end()
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
