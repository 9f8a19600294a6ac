"""Rows of a step whose state is read, and those that are passed by."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from raysparsex.vllm_plugin import unread_states
from raysparsex.vllm_plugin.decoder import DecoderModel
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


class Projecting(torch.nn.Module):
    """An output projection that knows what it was fed, and hands its bias back as vLLM's do."""

    def __init__(self) -> None:
        super().__init__()
        self.fed: list[list[float]] = []

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, str]:
        self.fed.append(x[:, 0].tolist())
        return x.repeat(1, 2), "bias"


class Attending:
    """A backend's attention that knows its queries and metadata."""

    def __init__(self) -> None:
        self.queries: list[list[float]] = []
        self.metadata: list[Any] = []

    def forward(
        self, layer: Any, query: Any, key: Any, value: Any, cache: Any, metadata: Any, output: Any
    ) -> Any:
        assert len(query) == len(key) == len(value) == len(output)
        self.queries.append(query[:, 0, 0].tolist())
        self.metadata.append(metadata)
        return output.copy_(3 * query)


@pytest.fixture
def module() -> Doubling:
    return Doubling()


@pytest.fixture
def out() -> Projecting:
    return Projecting()


@pytest.fixture
def attention() -> Attending:
    return Attending()


def opened(
    module: Doubling, out: Projecting, attention: Attending, device: str = "cpu"
) -> UnreadStates:
    layer = torch.nn.Module()
    layer.mlp, layer.self_attn = module, torch.nn.Module()
    layer.self_attn.o_proj = out
    last = SimpleNamespace(
        module=layer, attention=SimpleNamespace(layer_name="last", impl=attention)
    )
    model = SimpleNamespace(
        layers=[None, last],
        device=torch.device(device),
        metadata=lambda common: {"first": None, "last": common},
    )
    made = UnreadStates(cast(DecoderModel, model))
    made.before_forward(reads_prompts=False)
    return made


@pytest.fixture
def unread(module: Doubling, out: Projecting, attention: Attending) -> UnreadStates:
    return opened(module, out, attention)


def metadata_of(*tokens: int, causal: bool = True) -> Any:
    """What a backend knows of requests with so many tokens each, all behind 100 others."""
    return SimpleNamespace(
        query_start_loc=torch.tensor([0, *tokens]).cumsum(0).int(),
        seq_lens=torch.tensor(tokens).int() + 100,
        max_seq_len=max(tokens) + 100,
        block_table=torch.arange(len(tokens))[:, None],
        slot_mapping=torch.arange(sum(tokens)) + 1000,
        causal=causal,
    )


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Step:
    """Makes the step of requests with so many tokens each the one that runs."""

    def run(*tokens: int, metadata: Any = ...) -> None:
        at = {"last": metadata_of(*tokens)} if metadata is ... else metadata
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


def attend(attention: Attending, metadata: Any, count: int) -> torch.Tensor:
    """Output of as many queries, 1 ascending; rows that nobody wrote are -1."""
    queries = torch.arange(1.0, count + 1)[:, None, None].expand(-1, 2, 4)
    output = -torch.ones_like(queries)
    return attention.forward(None, queries, queries, queries, None, metadata, output)


def test_each_request_s_last_token_attends_to_all_ahead_of_it(
    attention: Attending, unread: UnreadStates
) -> None:
    tokens = [100, 1, 30]
    given = metadata_of(*tokens)
    output = attend(attention, given, sum(tokens))
    assert attention.queries == [[100.0, 101.0, 131.0]]
    (told,) = attention.metadata
    assert told.query_start_loc.tolist() == told.query_start_loc_cpu.tolist() == [0, 1, 2, 3]
    assert told.seq_lens.tolist() == [200, 101, 130]
    assert told.block_table_tensor.tolist() == [[0], [1], [2]]
    assert told.slot_mapping.tolist() == [1099, 1100, 1130]
    assert (told.num_reqs, told.num_actual_tokens, told.max_query_len) == (3, 3, 1)
    assert told.max_seq_len == 200
    assert [output[row, 1, 3].item() for row in (99, 100, 130)] == [300.0, 303.0, 393.0]
    assert (output == -1).all(dim=(1, 2)).sum() == sum(tokens) - 3


def test_what_is_not_causal_loses_tokens_behind_it(
    attention: Attending, unread: UnreadStates
) -> None:
    attend(attention, metadata_of(100, causal=False), 100)
    assert len(attention.queries[0]) == 100


def test_a_backend_that_was_not_tested_attends_to_a_part(
    module: Doubling, out: Projecting, attention: Attending, step: Step
) -> None:
    opened(module, out, attention, device="meta")
    step(100)
    attend(attention, metadata_of(100), 100)
    module(states(100))
    assert len(attention.queries[0]) == 100
    assert len(module.fed[0]) == LEAST_ROWS


def test_the_projection_of_rows_that_nobody_reads_is_made(
    out: Projecting, unread: UnreadStates, step: Step
) -> None:
    step(50, 14)
    x = states(64)
    x[:49] = float("nan")  # queries that did not attend left what lay in memory
    projected, bias = out(x)
    assert bias == "bias"
    assert out.fed == [[50.0] + [64.0] * (LEAST_ROWS - 1)]
    assert projected.shape == (64, 4)
    assert projected[[49, 63], 3].tolist() == [50.0, 64.0]
    assert not projected[:49].any(), "states of unread rows are not finite"


def test_all_parts_are_whole_where_prompts_are_read(
    module: Doubling, out: Projecting, attention: Attending, unread: UnreadStates, step: Step
) -> None:
    unread.before_forward(reads_prompts=True)
    step(100)
    attend(attention, metadata_of(100), 100)
    out(states(100))
    module(states(100))
    assert len(attention.queries[0]) == len(out.fed[0]) == len(module.fed[0]) == 100
