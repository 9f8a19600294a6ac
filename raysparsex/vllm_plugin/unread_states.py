"""What nobody reads is not computed: the last layer's feed-forward of most prompt tokens.

Behind the last layer's attention a prompt token's keys and values are in the cache, and vLLM reads
its state only where a next token is sampled: at each request's last token of the step. Who asks for
logprobs of the prompt reads all of them. llama.cpp leaves the same rows out (`inp_out_ids`).

    tokens of a step   p p p p p p p P | q q q Q | s | t        read: P, Q, s, t

Shapes: T tokens of a step, E hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from vllm.config import CompilationMode
from vllm.forward_context import get_forward_context

from raysparsex.vllm_plugin.decoder import DecoderLayer

if TYPE_CHECKING:
    from vllm.config import VllmConfig

LEAST_ROWS = 16
"""Matrix products of fewer rows may go another way and round differently, which the whole would
not: on a CPU those of 1 to 3 do."""


class UnreadStates:
    """Stands in front of one layer's feed-forward, and lets everything through until told."""

    def __init__(self, layer: DecoderLayer) -> None:
        """`layer`: the last one."""
        self.wanted = True
        """Whether anything is left out at all; may change between two steps."""
        self._skips = False
        """Whether the forward that runs now is one of vLLM's of which only the ends are read."""
        self._attention_name: str = layer.attention.layer_name
        feed_forward: Any = layer.module.get_submodule("mlp")
        self._whole: Callable[[torch.Tensor], torch.Tensor] = feed_forward.forward
        feed_forward.forward = self._forward

    def before_forward(self, *, reads_prompts: bool) -> None:
        """vLLM's forward of a step comes next."""
        self._skips = self.wanted and not reads_prompts

    def after_forward(self) -> None:
        """Whatever forward comes next, it is none of a step of vLLM's."""
        self._skips = False

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        """[T, E] to [T, E], of which rows that nobody reads keep what came in."""
        rows = self._rows(len(x)) if self._skips else None
        if rows is None:
            return self._whole(x)
        return x.index_copy_(0, rows, self._whole(x[rows]))

    def _rows(self, count: int) -> torch.Tensor | None:
        """Rows that are read, at least `LEAST_ROWS`, some of them twice; None: (about) all."""
        metadata: Any = get_forward_context().attn_metadata
        own = metadata.get(self._attention_name) if isinstance(metadata, dict) else None
        starts: torch.Tensor | None = getattr(own, "query_start_loc", None)
        if starts is None:  # no requests, or a backend that does not tell
            return None
        ends = starts[1:].long() - 1
        if 2 * max(len(ends), LEAST_ROWS) > count:
            return None
        return torch.cat((ends, ends[-1:].expand(max(0, LEAST_ROWS - len(ends)))))


def can_skip(vllm_config: VllmConfig) -> bool:
    """Whether layers run as Python modules, so that what stands in front of one is called."""
    return bool(vllm_config.compilation_config.mode == CompilationMode.NONE)
