"""States that come in chunks: handed on as they are, joined when others are asked for."""

from __future__ import annotations

import pytest
import torch

from raysparsex.sparse.decoder import ChunkStates, HiddenState

TOKENS = 10
WHOLE = HiddenState(torch.randn(TOKENS, 3), torch.randn(TOKENS, 3))


def chunked(*edges: int) -> ChunkStates:
    chunks = [slice(*pair) for pair in zip((0, *edges), (*edges, TOKENS), strict=True)]
    return ChunkStates([(rows, WHOLE.rows(rows)) for rows in chunks])


def is_equal(one: HiddenState, other: HiddenState) -> bool:
    assert one.residual_TE is not None
    assert other.residual_TE is not None
    return torch.equal(one.hidden_TE, other.hidden_TE) and torch.equal(
        one.residual_TE, other.residual_TE
    )


@pytest.mark.parametrize("edges", [(), (4,), (4, 7)])
@pytest.mark.parametrize("asked", [(), (4,), (7,), (1, 2, 3), (4, 7)])
def test_each_token_has_its_own_state_however_chunks_change(
    edges: tuple[int, ...], asked: tuple[int, ...]
) -> None:
    states = chunked(*edges)
    for pair in zip((0, *asked), (*asked, TOKENS), strict=True):
        rows = slice(*pair)
        assert is_equal(states.rows(rows), WHOLE.rows(rows))


def test_states_that_the_same_chunks_read_again_are_not_copied() -> None:
    rows = chunked(4).rows(slice(4, TOKENS))
    assert rows.hidden_TE.data_ptr() == WHOLE.hidden_TE[4:].data_ptr()


def test_in_front_of_the_first_layer_there_is_no_residual() -> None:
    state = HiddenState(WHOLE.hidden_TE, None)
    assert ChunkStates([(slice(0, TOKENS), state)]).rows(slice(2, 5)).residual_TE is None
