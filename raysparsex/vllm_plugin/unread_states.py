"""What nobody reads is not computed: of most prompt tokens all of the last layer behind their KV.

A prompt token's keys and values of the last layer are in the cache before it attends. vLLM reads
its state only where a next token is sampled: at each request's last token of the step. Who asks for
logprobs of the prompt reads all of them. llama.cpp leaves the same rows out (`inp_out_ids`).

    tokens of a step   p p p p p p p P | q q q Q | s | t        read: P, Q, s, t

    attention          each request's last token alone, as vLLM's decoding has it (on a CPU)
    o_proj, mlp        rows that are read

Shapes: T tokens of a step, R requests, H heads, D head size, E hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from vllm.config import CompilationMode
from vllm.forward_context import get_forward_context
from vllm.v1.attention.backend import CommonAttentionMetadata

from raysparsex.vllm_plugin.decoder import DecoderModel

if TYPE_CHECKING:
    from vllm.config import VllmConfig

LEAST_ROWS = 16
"""Matrix products of fewer rows may go another way and round differently, which the whole would
not: on a CPU those of 1 to 3 do."""


@dataclass(frozen=True, slots=True)
class ReadRows:
    """Which rows of one forward are read."""

    ends_R: torch.Tensor
    """Each request's last."""
    filled: torch.Tensor
    """These, at least `LEAST_ROWS`, some of them twice."""

    @staticmethod
    def of(metadata: Any, count: int) -> ReadRows | None:
        """Of `count` rows, by the attention's metadata; None: (about) all, or it does not tell."""
        starts: torch.Tensor | None = getattr(metadata, "query_start_loc", None)
        if starts is None or 2 * max(len(starts) - 1, LEAST_ROWS) > count:
            return None
        ends = starts[1:].long() - 1
        return ReadRows(ends, torch.cat((ends, ends[-1:].expand(max(0, LEAST_ROWS - len(ends))))))


class UnreadStates:
    """Stands in front of the last layer's parts, and lets everything through until told."""

    def __init__(self, model: DecoderModel) -> None:
        self.wanted = True
        """Whether anything is left out at all; may change between two steps."""
        self._skips = False
        """Whether the forward that runs now is one of vLLM's of which only the ends are read."""
        self._model = model
        attention, module = model.layers[-1].attention, model.layers[-1].module
        self._attention_name: str = attention.layer_name
        out: Any = module.get_submodule("self_attn.o_proj")
        feed_forward: Any = module.get_submodule("mlp")
        self._whole_attention: Callable[..., torch.Tensor] = attention.impl.forward
        self._whole_out: Callable[[torch.Tensor], tuple[torch.Tensor, Any]] = out.forward
        self._whole_feed_forward: Callable[[torch.Tensor], torch.Tensor] = feed_forward.forward
        if model.device.type == "cpu":  # what other backends do with such a call is not tested
            attention.impl.forward = self._attend
        out.forward = self._project
        feed_forward.forward = self._feed_forward

    def before_forward(self, *, reads_prompts: bool) -> None:
        """vLLM's forward of a step comes next."""
        self._skips = self.wanted and not reads_prompts

    def after_forward(self) -> None:
        """Whatever forward comes next, it is none of a step of vLLM's."""
        self._skips = False

    def _attend(
        self,
        layer: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        attn_metadata: Any,
        output: torch.Tensor,
        **scales: Any,
    ) -> torch.Tensor:
        """Queries [T, H, D] to output [T, H, D], of which rows that nobody reads stay as they are.

        Keys and values are in the cache already.
        """
        rows = ReadRows.of(attn_metadata, len(query)) if self._skips else None
        if rows is None or attn_metadata.causal is not True:
            return self._whole_attention(
                layer, query, key, value, kv_cache, attn_metadata, output, **scales
            )
        ends = rows.ends_R
        few = output.new_empty((len(ends), *output.shape[1:]))
        alone = self._alone(attn_metadata, ends)
        self._whole_attention(
            layer, query[ends], key[ends], value[ends], kv_cache, alone, few, **scales
        )
        return output.index_copy_(0, ends, few)

    def _alone(self, metadata: Any, ends_R: torch.Tensor) -> Any:
        """Metadata of a step that computes each request's last token alone."""
        starts = torch.arange(len(ends_R) + 1, dtype=torch.int32)
        rows = CommonAttentionMetadata(
            query_start_loc=starts,
            query_start_loc_cpu=starts,
            seq_lens=metadata.seq_lens,
            num_reqs=len(ends_R),
            num_actual_tokens=len(ends_R),
            max_query_len=1,
            max_seq_len=metadata.max_seq_len,
            block_table_tensor=metadata.block_table,
            slot_mapping=metadata.slot_mapping[ends_R],
            seq_lens_cpu_upper_bound=metadata.seq_lens,
        )
        return self._model.metadata(rows)[self._attention_name]

    def _project(self, x: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """[T, H * D] to [T, E] and a bias, if any; zeros in rows that nobody reads."""
        rows = self._rows(len(x))
        if rows is None:
            return self._whole_out(x)
        few, bias = self._whole_out(x[rows])
        return few.new_zeros((len(x), *few.shape[1:])).index_copy_(0, rows, few), bias

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        """[T, E] to [T, E], of which rows that nobody reads keep what came in."""
        rows = self._rows(len(x))
        if rows is None:
            return self._whole_feed_forward(x)
        return x.index_copy_(0, rows, self._whole_feed_forward(x[rows]))

    def _rows(self, count: int) -> torch.Tensor | None:
        """Rows of the forward that runs now to be computed; None: all."""
        if not self._skips:
            return None
        metadata: Any = get_forward_context().attn_metadata
        own = metadata.get(self._attention_name) if isinstance(metadata, dict) else None
        rows = ReadRows.of(own, count)
        return None if rows is None else rows.filled


def can_skip(vllm_config: VllmConfig) -> bool:
    """Whether layers run as Python modules, so that what stands in front of one is called."""
    return bool(vllm_config.compilation_config.mode == CompilationMode.NONE)
