"""vLLM's decoder behind the port of `raysparsex.sparse.decoder`: layers called one by one.

`DecoderModel` is what one worker's model looks like, found once at start-up; `RequestDecoder` is
one request's view of it: positions of its prompt, blocks of its own.

Tokens at scattered positions need no kernel of their own: each run [a, b) of neighbouring positions
is one row of the batch with query length b - a and sequence length b, all rows sharing the
request's blocks. The backends' bottom-right causal mask is then causality by position.

    positions    7 8 9 | 20 | 31 32        query_start_loc  0 3 4 6
    rows           3     1     2           seq_lens         10 21 33
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from vllm import _custom_ops as vllm_ops
from vllm.config import set_current_vllm_config
from vllm.distributed import (
    get_tensor_model_parallel_world_size,
    get_tp_group,
    tensor_model_parallel_all_gather,
    tensor_model_parallel_all_reduce,
)
from vllm.forward_context import set_forward_context
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbeddingBase
from vllm.v1.attention.backend import CommonAttentionMetadata

from raysparsex.errors import UnsupportedModel
from raysparsex.kernels.scattered import ScatteredQueries
from raysparsex.sparse.decoder import HiddenState, Projection
from raysparsex.sparse.rope_align import RopeAligner, Turn, inverse_frequencies
from raysparsex.vllm_plugin.attention import BACKENDS_OWN, AttentionWish, attending, open_kernel
from raysparsex.vllm_plugin.model_identity import keys_per_token_of
from raysparsex.vllm_plugin.paged_cache import PagedCache, find_layout
from raysparsex.vllm_plugin.projection import LayerProjection

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
"""Models whose forward is exactly embedding, decoder layers, norm: what `tests/` checks."""


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One decoder layer of this rank."""

    module: torch.nn.Module
    attention: Any
    cache: PagedCache
    aligner: RopeAligner
    projection: LayerProjection


class DecoderModel:
    """The loaded model, taken apart into what sparse prefill uses.

    Raises UnsupportedModel when the model is not of a shape that is known to be served right.
    """

    def __init__(
        self,
        model: Any,
        vllm_config: VllmConfig,
        kv_cache_config: KVCacheConfig,
        kv_caches: dict[str, torch.Tensor],
        wish: AttentionWish = BACKENDS_OWN,
    ) -> None:
        if type(model).__name__ not in ARCHITECTURES:
            raise UnsupportedModel(
                f"RaySparseX cannot serve architecture {type(model).__name__}: only"
                f" {', '.join(ARCHITECTURES)} are tested"
            )
        self.vllm_config = vllm_config
        self.model = model
        aligners = _Aligners(vllm_config)
        self.layers = [_open_layer(module, kv_caches, aligners) for module in model.model.layers]
        self.device = next(iter(kv_caches.values())).device
        self.names = [layer.attention.layer_name for layer in self.layers]
        self.block_size = self.layers[0].cache.block_size
        self.keys_per_token = keys_per_token_of(vllm_config)
        self.kernel = open_kernel(wish, self.layers[0].attention, kv_caches[self.names[0]])
        # GPU backends size their buffers for so many rows; the CPU's has none to size.
        on_gpu = self.device.type != "cpu"
        self.max_rows = vllm_config.scheduler_config.max_num_seqs if on_gpu else sys.maxsize >> 1
        spec = kv_cache_config.kv_cache_groups[0].kv_cache_spec
        with set_current_vllm_config(vllm_config):
            builder = self.layers[0].attention.get_attn_backend().get_builder_cls()
            self._builder = builder(spec, self.names, vllm_config, self.device)

    def metadata(self, common: CommonAttentionMetadata) -> dict[str, Any]:
        """The backend's metadata for these rows, under every layer's name."""
        return dict.fromkeys(self.names, self._builder.build(0, common))


def _open_layer(
    module: torch.nn.Module, kv_caches: dict[str, torch.Tensor], aligners: _Aligners
) -> DecoderLayer:
    attention = _only(module, Attention, "attention")
    cache = kv_caches[attention.layer_name]
    rotary = _only(module, RotaryEmbeddingBase, "rotary embedding")
    return DecoderLayer(
        module=module,
        attention=attention,
        cache=PagedCache(attention, cache, find_layout(attention, cache)),
        aligner=aligners.of(rotary),
        projection=LayerProjection(module, attention),
    )


def _only(module: torch.nn.Module, kind: type, name: str) -> Any:
    found = [child for child in module.modules() if isinstance(child, kind)]
    if len(found) != 1:
        raise UnsupportedModel(f"a decoder layer has {len(found)} {name} modules, not one")
    return found[0]


class _Aligners:
    """One aligner for each rotary embedding; vLLM shares those that are alike between layers."""

    def __init__(self, vllm_config: VllmConfig) -> None:
        self._parameters = vllm_config.model_config.hf_text_config.rope_parameters
        self._made: dict[int, RopeAligner] = {}

    def of(self, rotary: Any) -> RopeAligner:
        """The aligner, checked against the table that vLLM rotates with."""
        if id(rotary) not in self._made:
            frequencies = inverse_frequencies(self._parameters, rotary.rotary_dim)
            _check_frequencies(frequencies, rotary.cos_sin_cache)
            self._made[id(rotary)] = RopeAligner(
                rotary_dim=rotary.rotary_dim,
                head_dim=rotary.head_size,
                inv_freq=frequencies,
                is_neox_style=rotary.is_neox_style,
                fused_turn=fused_turn(rotary),
            )
        return self._made[id(rotary)]


def fused_turn(rotary: Any) -> Turn | None:
    """vLLM's own kernel, on a CPU: one pass over the keys where torch takes eight.

    Its table has the keys' dtype, so it serves float32. On a GPU it has not been tried.
    """
    if rotary.cos_sin_cache.device.type != "cpu":
        return None
    head_size, is_neox_style = rotary.head_size, rotary.is_neox_style

    def turn(keys_THD: torch.Tensor, table_N2F: torch.Tensor, rows_T: torch.Tensor) -> None:
        heads = keys_THD.view(len(keys_THD), -1)
        vllm_ops.rotary_embedding(rows_T, heads, None, head_size, table_N2F, is_neox_style)

    return turn


def _check_frequencies(frequencies: torch.Tensor, table: torch.Tensor) -> None:
    """Refuse RoPE whose table [positions, cos | sin] is not one fixed rotation per position."""
    positions = torch.linspace(0, len(table) - 1, 9).long()
    cos, sin = table[positions.to(table.device)].double().cpu().chunk(2, dim=-1)
    angles = positions[:, None].double() * frequencies.double()
    magnitude = torch.hypot(cos, sin)
    error = torch.hypot(cos / magnitude - angles.cos(), sin / magnitude - angles.sin())
    # float32 tables are off by about position * 6e-8; bfloat16 ones by 2^-8.
    if error.max() > 0.02:
        raise UnsupportedModel(
            "the model's RoPE is not one fixed rotation per position, so cached keys cannot be"
            " moved (dynamic NTK and longrope are of this kind)"
        )


@dataclass(frozen=True, slots=True)
class RowPlacement:
    """Where the tokens of one call stand: rows of neighbouring positions, and slots."""

    positions_T: torch.Tensor
    slots_T: torch.Tensor
    slot_mapping: dict[str, torch.Tensor]
    rows: CommonAttentionMetadata
    queries: ScatteredQueries | None
    """None: the backend's attention takes the rows. Else our kernel takes these."""


class RequestDecoder:
    """`PagedDecoder` of one request whose blocks vLLM has allocated."""

    def __init__(self, model: DecoderModel, block_ids: list[int]) -> None:
        self._model = model
        self._blocks = torch.tensor(block_ids, dtype=torch.int32, device=model.device)
        self.layer_count = len(model.layers)
        self.scale = model.layers[0].attention.impl.scale
        any_runs = model.kernel is not None and model.kernel.takes_any_runs
        self.max_runs = sys.maxsize >> 1 if any_runs else model.max_rows
        self.keys_per_token = model.keys_per_token
        self._metadata: tuple[RowPlacement, dict[str, Any]] | None = None

    def place(self, positions_T: torch.Tensor) -> RowPlacement:
        """See `PagedDecoder.place`."""
        size = self._model.block_size
        slots = self._blocks[positions_T // size].long() * size + positions_T % size
        rows, kernel = self._rows(positions_T, slots), self._model.kernel
        return RowPlacement(
            positions_T=positions_T,
            slots_T=slots,
            slot_mapping=dict.fromkeys(self._model.names, slots),
            rows=rows,
            queries=kernel.queries(positions_T.cpu(), rows.num_reqs, self._blocks)
            if kernel is not None
            else None,
        )

    def embed(self, tokens_T: torch.Tensor) -> HiddenState:
        """See `PagedDecoder.embed`."""
        return HiddenState(self._model.model.embed_input_ids(tokens_T), None)

    def forward(self, layer: int, at: RowPlacement, state: HiddenState) -> HiddenState:
        """See `PagedDecoder.forward`."""
        metadata = self._metadata_for(at)
        entry = self._model.layers[layer]
        with (
            attending(entry.attention, at.queries),
            set_forward_context(
                metadata,
                self._model.vllm_config,
                num_tokens=len(at.positions_T),
                slot_mapping=at.slot_mapping,
                skip_compiled=True,
            ),
        ):
            hidden, residual = entry.module(at.positions_T, state.hidden_TE, state.residual_TE)
        return HiddenState(hidden, residual)

    def project(self, layer: int, at: RowPlacement, state: HiddenState) -> Projection:
        """See `PagedDecoder.project`."""
        with self._projecting(at):
            return self._model.layers[layer].projection.all_of(at.positions_T, state)

    def keys_values(
        self, layer: int, at: RowPlacement, state: HiddenState
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `PagedDecoder.keys_values`."""
        with self._projecting(at):
            return self._model.layers[layer].projection.keys_values(at.positions_T, state)

    def write(
        self, layer: int, at: RowPlacement, key_TGD: torch.Tensor, value_TGD: torch.Tensor
    ) -> None:
        """See `PagedDecoder.write`."""
        self._model.layers[layer].cache.write(key_TGD, value_TGD, at.slots_T)

    def read_keys(self, layer: int, count: int) -> torch.Tensor:
        """See `PagedDecoder.read_keys`."""
        return self._model.layers[layer].cache.read(self._blocks, 0, count)[0]

    def sum_over_ranks(self, tensor: torch.Tensor) -> torch.Tensor:
        """See `PagedDecoder.sum_over_ranks`."""
        total: torch.Tensor = tensor_model_parallel_all_reduce(tensor)
        return total

    def max_over_ranks(self, tensor: torch.Tensor) -> torch.Tensor:
        """See `PagedDecoder.max_over_ranks`."""
        if get_tensor_model_parallel_world_size() > 1:
            group = get_tp_group().device_group
            torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX, group=group)
        return tensor

    def gather_over_ranks(self, tensor_TF: torch.Tensor) -> torch.Tensor:
        """See `PagedDecoder.gather_over_ranks`."""
        if get_tensor_model_parallel_world_size() == 1:
            return tensor_TF
        gathered: torch.Tensor = tensor_model_parallel_all_gather(tensor_TF.contiguous(), dim=-1)
        return gathered

    def _rows(self, positions_T: torch.Tensor, slots_T: torch.Tensor) -> CommonAttentionMetadata:
        positions = positions_T.cpu()
        starts = torch.cat((torch.tensor([True]), positions[1:] != positions[:-1] + 1))
        first = starts.nonzero().flatten()
        ends = torch.cat((first[1:], torch.tensor([len(positions)])))
        query_start_loc = torch.cat((first, ends[-1:])).int()
        seq_lens = (positions[ends - 1] + 1).int()
        device, count = self._model.device, len(first)
        blocks = -(-int(seq_lens[-1]) // self._model.block_size)
        return CommonAttentionMetadata(
            query_start_loc=query_start_loc.to(device),
            query_start_loc_cpu=query_start_loc,
            seq_lens=seq_lens.to(device),
            num_reqs=count,
            num_actual_tokens=len(positions),
            max_query_len=int((ends - first).max()),
            max_seq_len=int(seq_lens[-1]),
            block_table_tensor=self._blocks[:blocks].expand(count, -1).contiguous(),
            slot_mapping=slots_T,
            seq_lens_cpu_upper_bound=seq_lens,
            positions=positions_T,
        )

    def _projecting(self, at: RowPlacement) -> AbstractContextManager[None]:
        """The forward context of tokens that do not attend."""
        context: AbstractContextManager[None] = set_forward_context(
            None, self._model.vllm_config, num_tokens=len(at.positions_T), skip_compiled=True
        )
        return context

    def _metadata_for(self, at: RowPlacement) -> dict[str, Any]:
        """Built when first attended with, kept while the same tokens go through the layers."""
        if self._metadata is None or self._metadata[0] is not at:
            unread = dict.fromkeys(self._model.names, at.queries)
            self._metadata = at, unread if at.queries else self._model.metadata(at.rows)
        return self._metadata[1]
