"""Out of the paged cache and back: the very tokens, however segments and blocks lie."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from raysparsex.errors import CorruptSegment, SegmentUnavailable
from raysparsex.ids import BlockId, RequestId
from raysparsex.sparse.rope_align import RopeAligner
from raysparsex.store.arena import Arena, HostTensor
from raysparsex.store.host_memory import HostMemoryStore
from raysparsex.vllm_plugin.metadata import Publication, SegmentAt
from tests.fakes.segments import record, segment_id, span

pytest.importorskip("vllm.model_executor.layers.attention")
from raysparsex.vllm_plugin import transfer as module
from raysparsex.vllm_plugin.transfer import AlignedLoader, HostCopies, read_out

LAYERS, HEADS, SIZE, LENGTH, BLOCK = 3, 2, 8, 200, 10
BLOCKS = [*range(30, 20, -1), *range(5, 15)]
CPU = torch.device("cpu")


class FakeCache:
    """`PagedCache` over one request; remembers how many tokens were read."""

    def __init__(self, layer: int) -> None:
        shape = (2, LENGTH, HEADS, SIZE)
        self.kv = torch.randn(shape, generator=torch.Generator().manual_seed(layer))
        self.read_tokens = 0

    def read_blocks(self, blocks: torch.Tensor | slice) -> tuple[torch.Tensor, torch.Tensor]:
        picked = torch.arange(64)[blocks].tolist()
        self.read_tokens += len(picked) * BLOCK
        order = torch.tensor([BLOCKS.index(block) for block in picked])
        keys, values = self.kv.view(2, -1, BLOCK, HEADS, SIZE)[:, order]
        return keys, values


def fake_model() -> Any:
    exponent = torch.arange(0, SIZE, 2).double() / SIZE
    aligner = RopeAligner(
        rotary_dim=SIZE, head_dim=SIZE, inv_freq=100.0**-exponent, is_neox_style=True
    )
    attention = SimpleNamespace(num_kv_heads=HEADS, head_size=SIZE)
    layers = [
        SimpleNamespace(cache=FakeCache(layer), aligner=aligner, attention=attention)
        for layer in range(LAYERS)
    ]
    return SimpleNamespace(device=CPU, layers=layers, block_size=BLOCK)


def there(model: Any, start: int, end: int) -> torch.Tensor:
    return torch.stack([layer.cache.kv[:, start:end] for layer in model.layers])


def read(model: Any, places: list[tuple[int, int]]) -> list[torch.Tensor]:
    segments = tuple(SegmentAt(record(str(i)), *place) for i, place in enumerate(places))
    publication = Publication(RequestId("r"), [BlockId(block) for block in BLOCKS], segments)
    found = list(read_out(model, publication, HostCopies(CPU, Arena(1 << 20))))
    assert [at for at, _ in found] == list(segments)
    return [kv.tensor() for _, kv in found]


@pytest.mark.parametrize(
    "places",
    [
        [(0, 200)],
        [(0, 20), (20, 50), (50, 51)],
        [(10, 20), (90, 130)],
        [(120, 150), (10, 40), (40, 60)],
        [(150, 200), (0, 10)],
    ],
    ids=["all", "neighbours", "a gap", "queued again", "backwards"],
)
def test_a_segment_is_stored_with_keys_of_other_tokens(places: list[tuple[int, int]]) -> None:
    model = fake_model()
    for kv, (start, end) in zip(read(model, places), places, strict=True):
        assert torch.equal(kv, there(model, start, end))


@pytest.mark.parametrize("most", [1, 25, 60])
def test_a_long_run_read_in_parts_is_stored_otherwise(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_AT_ONCE", most)
    model = fake_model()
    places = [(start, start + 20) for start in range(5, 185, 20)]
    for kv, (start, end) in zip(read(model, places), places, strict=True):
        assert torch.equal(kv, there(model, start, end))


def test_of_layers_loaded_into_one_place_the_last_one_counts() -> None:
    """What `SegmentLoader` says of how long a layer lasts; memory is taken once."""
    model, store = fake_model(), store_with(30)
    loader = AlignedLoader(model, store, [span(7, 37, name="0", base_position=9)])
    first = loader.load(0)[0]
    kept = first.clone()
    second = loader.load(1)[0]
    assert second.data_ptr() == first.data_ptr()
    assert torch.equal(loader.load(0)[0], kept)


def test_what_lies_between_two_segments_is_copied_too() -> None:
    model = fake_model()
    read(model, [(0, 10), (190, 200)])
    assert {layer.cache.read_tokens for layer in model.layers} == {20}


def test_a_stored_segment_keeps_the_whole_portion_in_memory_or_changes_later() -> None:
    model = fake_model()
    places = [(0, 20), (20, 50)]
    before = there(model, 20, 50).clone()
    kept = read(model, places)
    for kv in kept:
        assert kv.untyped_storage().nbytes() == kv.nbytes
    for layer in model.layers:
        layer.cache.kv.zero_()
    assert torch.equal(kept[1], before)


def store_with(*lengths: int) -> HostMemoryStore:
    store = HostMemoryStore(1 << 20)
    for index, length in enumerate(lengths):
        kv = torch.randn(LAYERS, 2, length, HEADS, SIZE)
        store.put(segment_id(str(index)), HostTensor.of(kv))
    return store


def test_spans_are_loaded_in_order_with_keys_turned_and_values_copied() -> None:
    model, store = fake_model(), store_with(30, 40)
    spans = [
        span(10, 25, name="1", offset=5, base_position=105),
        span(50, 80, name="0", base_position=50),
    ]
    loader = AlignedLoader(model, store, spans)
    for layer in range(LAYERS):
        keys, values = loader.load(layer)
        one, zero = (store.get(segment_id(name))[layer] for name in "10")
        assert torch.equal(values, torch.cat((one[1, 5:20], zero[1])))
        assert torch.equal(keys[15:], zero[0]), "no shift, no rounding"
        aligner = model.layers[layer].aligner
        turned = aligner.apply(one[0, 5:20], aligner.rotation(torch.full((15,), 10 - 105), CPU))
        torch.testing.assert_close(keys[:15], turned)
        assert not torch.isclose(keys[:15], one[0, 5:20]).all()


def test_loading_changes_what_is_stored() -> None:
    model, store = fake_model(), store_with(30)
    before = store.get(segment_id("0")).clone()
    AlignedLoader(model, store, [span(0, 30, name="0", base_position=9)]).load(1)
    assert torch.equal(store.get(segment_id("0")), before)


def test_a_segment_that_is_gone_is_noticed_after_the_prefill_began() -> None:
    with pytest.raises(SegmentUnavailable):
        AlignedLoader(fake_model(), store_with(30), [span(0, 30, name="9")])


def test_a_segment_dropped_under_a_running_prefill_breaks_it() -> None:
    store = store_with(30)
    loader = AlignedLoader(fake_model(), store, [span(0, 30, name="0")])
    store.drop(segment_id("0"))
    assert loader.load(2)[0].shape == (30, HEADS, SIZE)


@pytest.mark.parametrize(
    "shape",
    [(LAYERS - 1, 2, 30, HEADS, SIZE), (LAYERS, 2, 29, HEADS, SIZE), (LAYERS, 2, 30, 1, SIZE)],
    ids=["layers", "tokens", "heads"],
)
def test_a_record_of_another_shape_is_loaded(shape: tuple[int, ...]) -> None:
    store = HostMemoryStore(1 << 20)
    store.put(segment_id("0"), HostTensor.of(torch.zeros(shape)))
    with pytest.raises(CorruptSegment):
        AlignedLoader(fake_model(), store, [span(0, 30, name="0")])
