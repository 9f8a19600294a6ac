"""FLOPs of prefills, beside counting them token by token."""

from __future__ import annotations

import pytest

from benchmarks.random_model import LLAMA_80M, LlamaShape
from benchmarks.speed.arithmetic import Arithmetic, Computed
from benchmarks.speed.load import Answer

SMALL = Arithmetic(LlamaShape(layers=4, hidden=64, heads=4, kv_heads=2, mlp=96), vocabulary=100)
REPORT = {
    "prefix_tokens": 128,
    "new_tokens": 100,
    "reused_tokens": 300,
    "suspects": 90,
    "recomputed_tokens": 60,
    "full_layers": 2,
}


def matrix_product(rows: int, inner: int, columns: int) -> int:
    """Multiplications and additions."""
    return 2 * rows * inner * columns


def counted_layer(arithmetic: Arithmetic, position: int) -> int:
    """One token through one layer, matrix by matrix."""
    shape = arithmetic.shape
    size = shape.hidden // shape.heads
    keys = position + 1
    return (
        2 * matrix_product(1, shape.hidden, shape.heads * size)
        + 2 * matrix_product(1, shape.hidden, shape.kv_heads * size)
        + 3 * matrix_product(1, shape.hidden, shape.mlp)
        + shape.heads * (matrix_product(1, size, keys) + matrix_product(1, keys, size))
    )


@pytest.mark.parametrize("edges", [(0, 50), (128, 300)])
def test_a_full_prefill_is_the_sum_over_its_tokens(edges: tuple[int, int]) -> None:
    layers = sum(SMALL.shape.layers * counted_layer(SMALL, p) for p in range(*edges))
    logits = matrix_product(1, SMALL.shape.hidden, SMALL.vocabulary)
    assert SMALL.full(*edges) == layers + logits


def test_a_sparse_prefill_takes_each_kind_of_token_through_its_layers() -> None:
    """Even positions are computed, so that their mean is the prompt's."""
    first, end = 0, 401
    positions = range(first, end, 2)
    computed = Computed(new=101, suspects=100, chosen=100, full_layers=1)
    keys_values = 2 * matrix_product(1, 64, 32)
    through = sum(3 * counted_layer(SMALL, p) for p in positions)
    last = (len(positions) - 1) * keys_values + counted_layer(SMALL, end - 1)
    logits = matrix_product(1, 64, 100)
    assert SMALL.sparse(first, end, computed) == pytest.approx(through + last + logits)


def test_suspects_that_are_not_chosen_cost_keys_and_values_at_the_first_sparse_layer() -> None:
    few = Computed(new=100, suspects=200, chosen=50, full_layers=0)
    fewer = Computed(new=100, suspects=50, chosen=50, full_layers=0)
    difference = SMALL.sparse(0, 400, few) - SMALL.sparse(0, 400, fewer)
    assert difference == 150 * 2 * matrix_product(1, 64, 32)


def test_with_all_layers_full_nothing_is_chosen() -> None:
    every = Computed(new=100, suspects=300, chosen=300, full_layers=4)
    assert SMALL.sparse(0, 400, every) == SMALL.sparse(
        0, 400, Computed(new=100, suspects=300, chosen=0, full_layers=4)
    )


def test_recomputing_everything_saves_only_the_last_layer() -> None:
    everything = Computed(new=100, suspects=300, chosen=300, full_layers=1)
    saved = SMALL.full(0, 400) - SMALL.sparse(0, 400, everything)
    last_layer = sum(counted_layer(SMALL, p) for p in range(399))
    # The limit takes computed tokens to lie evenly, the last one aside: within half a position.
    assert saved == pytest.approx(last_layer - 399 * 2 * matrix_product(1, 64, 32), rel=1e-2)


def test_the_limit_of_the_written_case_is_a_little_over_three() -> None:
    arithmetic = Arithmetic(LLAMA_80M, vocabulary=2026)
    for tokens in (4096, 8192):
        reused = round(0.85 * tokens)
        computed = Computed(tokens - reused, reused, round(0.15 * reused), 1)
        ratio = arithmetic.full(0, tokens) / arithmetic.sparse(0, tokens, computed)
        assert 3.1 < ratio < 3.2


def answer(cached: int, report: dict[str, int]) -> Answer:
    return Answer(0.0, 528, cached, (1.0,), report)


def test_plain_answers_count_from_vllms_prefix_on() -> None:
    assert SMALL.prefill(answer(256, {})) == SMALL.full(256, 528)


def test_answers_that_reused_nothing_count_from_the_reports_prefix_on() -> None:
    nothing = REPORT | {"reused_tokens": 0}
    kept = matrix_product(1, 64, 64 + 2 * 2 * 16)  # of the last layer: Q, K and V
    unread = sum(counted_layer(SMALL, position) - kept for position in range(128, 527))
    assert SMALL.prefill(answer(500, nothing)) == SMALL.full(128, 528) - unread


def test_answers_that_reused_count_what_their_report_tells() -> None:
    computed = Computed(new=100, suspects=90, chosen=60, full_layers=2)
    assert SMALL.prefill(answer(0, REPORT)) == SMALL.sparse(128, 528, computed)


def test_an_answer_costs_its_tokens_and_their_logits() -> None:
    logits = matrix_product(1, 64, 100)
    tokens = sum(4 * counted_layer(SMALL, p) for p in range(400, 408))
    assert SMALL.decoded(400, 408) == tokens + 8 * logits
