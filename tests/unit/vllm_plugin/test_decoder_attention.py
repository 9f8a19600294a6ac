"""A call of the decoder goes to the attention that was chosen when its tokens were placed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

from raysparsex.kernels.choice import Figure, Shape, Work
from raysparsex.kernels.scattered import ScatteredQueries
from raysparsex.kernels.tiling import TILINGS
from raysparsex.sparse.decoder import HiddenState
from raysparsex.vllm_plugin import decoder as module
from raysparsex.vllm_plugin.attention import AttentionWish, ScatteredKernel
from raysparsex.vllm_plugin.decoder import RequestDecoder

SHAPE = Shape("A GPU", heads=4, kv_heads=2, head_size=64, dtype="float16", block_size=16)
POSITIONS = torch.tensor([7, 8, 9, 20, 31, 32])
MOST_ROWS = 64
FASTER = Figure(SHAPE, Work(tokens=6, runs=3, keys=33), 1.0, 2.0, "theirs")


class Implementation:
    """As vLLM's, of which a layer calls `forward`."""

    scale = 0.25

    def forward(self) -> str:
        return "the backend's own"


class Layer:
    """Says which attention it found while it ran."""

    def __init__(self) -> None:
        self.attention = SimpleNamespace(impl=Implementation(), layer_name="first")
        self.found: list[bool] = []
        self.module = self._run

    def _run(
        self, positions: torch.Tensor, hidden: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        self.found.append("forward" in vars(self.attention.impl))
        return hidden, residual


class Model:
    """What a request's decoder reads of a `DecoderModel`; no engine behind it."""

    device = torch.device("cpu")
    block_size = SHAPE.block_size
    max_rows = MOST_ROWS
    keys_per_token = 4096
    names = ("first",)
    vllm_config = None

    def __init__(self, wish: AttentionWish | None) -> None:
        self.layers = [Layer()]
        self.kernel = None if wish is None else ScatteredKernel(wish, SHAPE, TILINGS[0])

    def metadata(self, rows: Any) -> dict[str, Any]:
        return {"first": ("of the backend", rows.num_reqs)}


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The metadata that layers would have run with, in the place of vLLM's forward context."""
    seen: list[Any] = []

    @contextmanager
    def note(metadata: Any, *_: Any, **__: Any) -> Iterator[None]:
        seen.append(metadata)
        yield

    monkeypatch.setattr(module, "set_forward_context", note)
    return seen


def decoder(wish: AttentionWish | None) -> tuple[RequestDecoder, Layer]:
    model: Any = Model(wish)
    return RequestDecoder(model, [5, 2, 9]), model.layers[0]


def forward(wish: AttentionWish | None, contexts: list[Any]) -> tuple[bool, Any]:
    """Whether the layer found our kernel, and the metadata it ran with."""
    asked, layer = decoder(wish)
    at = asked.place(POSITIONS)
    for _ in range(2):
        asked.forward(0, at, HiddenState(torch.zeros(6, 8), None))
    assert layer.found[0] == layer.found[1]
    assert contexts[0] is contexts[1], "made once for all layers"
    assert layer.attention.impl.forward() == "the backend's own"
    return layer.found[0], contexts[0]["first"]


def test_without_a_kernel_each_run_is_a_row_of_the_backends(contexts: list[Any]) -> None:
    assert forward(None, contexts) == (False, ("of the backend", 3))


def test_our_kernel_takes_all_tokens_of_the_request(contexts: list[Any]) -> None:
    ours, queries = forward(AttentionWish("scattered"), contexts)
    assert ours
    assert isinstance(queries, ScatteredQueries)
    assert queries.positions_T.tolist() == POSITIONS.tolist()
    assert queries.blocks_RW.tolist() == [[5, 2, 9]]


def test_where_figures_speak_for_it_ours_is_taken(contexts: list[Any]) -> None:
    assert forward(AttentionWish("measured", (FASTER,)), contexts)[0]


def test_where_figures_say_nothing_it_is_the_backends(contexts: list[Any]) -> None:
    assert forward(AttentionWish("measured"), contexts) == (False, ("of the backend", 3))


@pytest.mark.parametrize("wish", [None, AttentionWish("measured", (FASTER,))])
def test_rows_stay_as_few_as_the_backend_takes(wish: AttentionWish | None) -> None:
    assert decoder(wish)[0].max_runs == MOST_ROWS


def test_our_kernel_takes_any_number_of_runs() -> None:
    assert decoder(AttentionWish("scattered"))[0].max_runs > 10**9
