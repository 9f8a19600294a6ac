"""Segments between the paged cache and the store: reading out, and loading back aligned.

On a CPU both sides are the same memory and a copy is a copy. On CUDA, copies to the host go to
pinned memory on a stream of their own; copies to the device are made layer by layer as they are
needed, in stream order. The CUDA side has not been run on a GPU yet.

What is copied again and again goes through memory that stays: new memory costs more than a copy.

Shapes: L layers, N tokens, G KV heads, D head size, R reused tokens of a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from raysparsex.errors import CorruptSegment
from raysparsex.ids import BlockId
from raysparsex.segment.coverage import ReusedSpan
from raysparsex.sparse.rope_align import Rotation
from raysparsex.sparse.stages import Stage, StageClock
from raysparsex.store.arena import Arena, HostTensor
from raysparsex.store.base import SegmentStore
from raysparsex.vllm_plugin.decoder import DecoderModel
from raysparsex.vllm_plugin.metadata import Publication, SegmentAt

READ_AT_ONCE = 1024
"""Tokens. Blocks of a CPU hold 128, and both ends of a run may be in the middle of one: of runs of
512 tokens a fifth of what is read is thrown away."""


class HostCopies:
    """Copies device tensors to memory of an arena without holding up the device."""

    def __init__(self, device: torch.device, arena: Arena) -> None:
        """`arena`: pinned, if the device is not the host."""
        self._arena = arena
        self._staging: torch.Tensor | None = None
        self._under_way: list[HostTensor] = []
        """Where copies may still write: dropped meanwhile, it must not be handed out again."""
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def to_host(self, tensor: torch.Tensor) -> HostTensor:
        """The tensor in host memory of its own; on CUDA filled once `wait` has returned."""
        host = self._arena.empty(tensor.shape, tensor.dtype)
        if self._stream is None:
            host.tensor().copy_(tensor)
            return host
        self._stream.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(self._stream):
            host.tensor().copy_(tensor, non_blocking=True)
        tensor.record_stream(self._stream)
        self._under_way.append(host)
        return host

    def staging(self, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        """Room for what `to_host` is to copy, good until the next call."""
        if self._stream is not None:  # copies out of it may still be under way
            return like.new_empty(shape)
        needed = math.prod(shape)
        if self._staging is None or self._staging.numel() < needed:
            self._staging = like.new_empty(needed)
        return self._staging[:needed].view(*shape)

    @property
    def are_done_at_once(self) -> bool:
        """Whether a copy is complete when `to_host` returns."""
        return self._stream is None

    @property
    def are_done(self) -> bool:
        """Whether every copy issued so far is complete."""
        if self._stream is not None and not self._stream.query():
            return False
        self._under_way.clear()
        return True

    def wait(self) -> None:
        """Return when every copy issued so far is complete."""
        if self._stream is not None:
            self._stream.synchronize()
        self._under_way.clear()


def read_out(
    model: DecoderModel, publication: Publication, copies: HostCopies
) -> Iterator[tuple[SegmentAt, HostTensor]]:
    """KV [L, 2, N, G, D] of each segment of a publication, read from the request's blocks."""
    size = model.block_size
    for run in _runs(publication.segments):
        first, last = run[0].start // size, -(-run[-1].end // size)
        blocks = _index(publication.blocks[first:last], model.device)
        kv = _whole_blocks(model, blocks, copies)
        for at in run:
            yield at, copies.to_host(kv[:, :, at.start - first * size : at.end - first * size])


def _index(blocks: list[BlockId], device: torch.device) -> torch.Tensor | slice:
    """What picks these blocks. Most requests' blocks lie side by side, where nothing is gathered,
    which halves the time."""
    if blocks == list(range(blocks[0], blocks[0] + len(blocks))):
        return slice(blocks[0], blocks[-1] + 1)
    return torch.tensor(blocks, dtype=torch.int32, device=device)


def _whole_blocks(
    model: DecoderModel, blocks: torch.Tensor | slice, copies: HostCopies
) -> torch.Tensor:
    """KV [L, 2, B * S, G, D] of these blocks, good until the next call."""
    kv: torch.Tensor | None = None
    for index, layer in enumerate(model.layers):
        for half, part in enumerate(layer.cache.read_blocks(blocks)):
            if kv is None:
                kv = copies.staging((len(model.layers), 2, *part.shape), part)
            kv[index, half] = part
    assert kv is not None
    return kv.flatten(2, 3)


def _runs(segments: Sequence[SegmentAt]) -> Iterator[list[SegmentAt]]:
    """Segments that follow each other without a gap, to be read at once; not too many."""
    run: list[SegmentAt] = []
    for at in segments:
        if run and (run[-1].end != at.start or at.end - run[0].start > READ_AT_ONCE):
            yield run
            run = []
        run.append(at)
    if run:
        yield run


class AlignedLoader:
    """`SegmentLoader` over a store: the reused spans' K and V, keys rotated to their new place.

    Holds the stored tensors from the start, so what a plan counts on cannot leave under it. Raises
    SegmentUnavailable or CorruptSegment at construction, before anything is computed.
    """

    def __init__(
        self,
        model: DecoderModel,
        store: SegmentStore,
        spans: Sequence[ReusedSpan],
        clock: StageClock | None = None,
    ) -> None:
        self._clock = clock or StageClock()
        self._model = model
        self._spans = [_layers_of(store, span, model) for span in spans]
        self._shifts_R = torch.cat(
            [torch.full((span.end - span.start,), span.shift) for span in spans]
        )
        self._rotations: dict[int, Rotation] = {}
        self._place: torch.Tensor | None = None

    def load(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """See `SegmentLoader.load`."""
        kv = self._gathered([layers[layer] for layers in self._spans])
        with self._clock.on(Stage.ALIGN):
            aligner = self._model.layers[layer].aligner
            return aligner.turn(kv[0], self._rotation(layer)), kv[1]

    def _gathered(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """[2, R, G, D] on the model's device, of which every layer is loaded into the same place:
        new memory for each costs more than the copying."""
        if self._model.device.type != "cpu":
            return torch.cat(parts, dim=1).to(self._model.device)
        if self._place is None:
            shape = (2, len(self._shifts_R), *parts[0].shape[2:])
            self._place = torch.empty(shape, dtype=parts[0].dtype)
        return torch.cat(parts, dim=1, out=self._place)

    def values(self, layer: int) -> torch.Tensor:
        """[R, G, D]: the stored values alone, on the model's device."""
        return torch.cat([layers[layer][1] for layers in self._spans]).to(self._model.device)

    def _rotation(self, layer: int) -> Rotation:
        """Layers that share an aligner share its angles."""
        aligner = self._model.layers[layer].aligner
        if id(aligner) not in self._rotations:
            rotation = aligner.rotation(self._shifts_R, self._model.device)
            self._rotations[id(aligner)] = rotation
        return self._rotations[id(aligner)]


def _layers_of(
    store: SegmentStore, span: ReusedSpan, model: DecoderModel
) -> tuple[torch.Tensor, ...]:
    """KV [2, N, G, D] of a reused span's N tokens for each layer, parted once: to index a tensor
    takes as long as to copy some tokens."""
    kv = store.get(span.segment)
    rows = slice(span.offset, span.offset + span.end - span.start)
    attention = model.layers[0].attention
    expected = (len(model.layers), 2, attention.num_kv_heads, attention.head_size)
    if (*kv.shape[:2], *kv.shape[3:]) != expected or kv.shape[2] < rows.stop:
        raise CorruptSegment(f"stored KV of shape {tuple(kv.shape)} does not fit its plan")
    return kv[:, :, rows].unbind()
