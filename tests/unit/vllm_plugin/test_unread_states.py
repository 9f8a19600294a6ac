"""Rows of a step whose state is read, and those that are passed by."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
import torch

from raysparsex.vllm_plugin import unread_states
from raysparsex.vllm_plugin.decoder import DecoderLayer
from raysparsex.vllm_plugin.unread_states import LEAST_ROWS, UnreadStates

Step = Callable[..., None]


class Doubling(torch.nn.Module):
    """A feed-forward that knows what it was fed."""

    def __init__(self) -> None:
        super().__init__()
        self.fed: list[list[float]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.fed.append(x[:, 0].tolist())
        return 2 * x


class Layer(NamedTuple):
    """Of a `DecoderLayer` what is asked for."""

    module: torch.nn.Module
    attention: Any


@pytest.fixture
def module() -> Doubling:
    return Doubling()


@pytest.fixture
def unread(module: Doubling) -> UnreadStates:
    layer = torch.nn.Module()
    layer.mlp = module
    made = UnreadStates(cast(DecoderLayer, Layer(layer, SimpleNamespace(layer_name="last"))))
    made.before_forward(reads_prompts=False)
    return made


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Step:
    """Makes the step of requests with so many tokens each the one that runs."""

    def run(*tokens: int, metadata: Any = ...) -> None:
        ends = torch.tensor([0, *tokens]).cumsum(0).int()
        at = {"last": SimpleNamespace(query_start_loc=ends)} if metadata is ... else metadata
        context = SimpleNamespace(attn_metadata=at)
        monkeypatch.setattr(unread_states, "get_forward_context", lambda: context)

    return run


def states(count: int) -> torch.Tensor:
    return torch.arange(1.0, count + 1)[:, None].repeat(1, 2)


def test_each_request_s_last_token_is_computed(
    module: Doubling, unread: UnreadStates, step: Step
) -> None:
    tokens = [100, 1, 30, *[1] * 20]
    step(*tokens)
    out = module(states(sum(tokens)))
    ends = torch.tensor(tokens).cumsum(0).tolist()
    assert module.fed == [[float(end) for end in ends]]
    assert [out[end - 1, 0] for end in ends] == [2.0 * end for end in ends]
    assert bool(out.isfinite().all())


def test_few_rows_are_filled_up_so_that_products_round_as_the_whole(
    module: Doubling, unread: UnreadStates, step: Step
) -> None:
    step(50, 14)
    out = module(states(64))
    assert module.fed == [[50.0] + [64.0] * (LEAST_ROWS - 1)]
    assert out[49, 1] == 100.0
    assert out[63, 1] == 128.0


@pytest.mark.parametrize("tokens", [[1] * 64, [1, 2] * 20, [2 * LEAST_ROWS - 1], [1]])
def test_where_little_is_unread_all_is_computed(
    module: Doubling, unread: UnreadStates, step: Step, tokens: list[int]
) -> None:
    step(*tokens)
    assert torch.equal(module(states(sum(tokens))), 2 * states(sum(tokens)))


def test_the_boundary_is_half(module: Doubling, unread: UnreadStates, step: Step) -> None:
    step(2 * LEAST_ROWS)
    module(states(2 * LEAST_ROWS))
    assert len(module.fed[0]) == LEAST_ROWS


@pytest.mark.parametrize("metadata", [None, [{}, {}], {}, {"last": SimpleNamespace()}])
def test_a_forward_that_does_not_tell_of_its_requests_is_left_alone(
    module: Doubling, unread: UnreadStates, step: Step, metadata: Any
) -> None:
    """Such as that by which vLLM finds how much memory it needs, or one of a backend whose metadata
    is another."""
    step(100, metadata=metadata)
    module(states(100))
    assert len(module.fed[0]) == 100


@pytest.mark.parametrize(("wanted", "reads_prompts"), [(False, False), (True, True)])
def test_all_is_computed_if_it_is_read_or_wished(
    module: Doubling, unread: UnreadStates, step: Step, wanted: bool, reads_prompts: bool
) -> None:
    unread.wanted = wanted
    unread.before_forward(reads_prompts=reads_prompts)
    step(100)
    module(states(100))
    assert len(module.fed[0]) == 100


def test_a_forward_that_is_not_vllms_lacks_states(
    module: Doubling, unread: UnreadStates, step: Step
) -> None:
    unread.after_forward()
    step(100)
    module(states(100))
    assert len(module.fed[0]) == 100
