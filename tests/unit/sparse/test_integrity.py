"""The first layer's keys and values betray what does not belong here."""

from __future__ import annotations

import pytest
import torch

from raysparsex.errors import MisalignedSegment
from raysparsex.sparse.integrity import check_alignment
from tests.fakes.decoder import VOCABULARY, FakeDecoder, FakeLoader

COUNT = 40


def loaded() -> tuple[FakeDecoder, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A decoder, token ids, and the keys and values [1, R, G, D] that its first layer makes."""
    decoder = FakeDecoder(layers=1, length=COUNT)
    tokens = torch.randint(VOCABULARY, (COUNT,), generator=torch.Generator().manual_seed(1))
    decoder.prefill(tokens)
    return decoder, tokens, decoder.keys.clone(), decoder.values.clone()


def check(
    decoder: FakeDecoder, tokens: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> None:
    offsets = torch.cat((torch.arange(15), torch.arange(COUNT - 15)))
    check_alignment(decoder, FakeLoader(keys, values), tokens, torch.arange(COUNT), offsets)


def test_what_belongs_here_passes_and_nothing_is_written() -> None:
    decoder, tokens, keys, values = loaded()
    decoder.calls.clear()
    check(decoder, tokens, keys, values)
    assert not decoder.made("write")
    assert torch.equal(decoder.keys, keys)


@pytest.mark.parametrize("part", ["keys", "values"])
def test_a_segment_of_other_tokens_gives_a_wrong_answer(part: str) -> None:
    decoder, tokens, keys, values = loaded()
    wrong = {"keys": keys, "values": values}[part]
    wrong[0, 15:] = wrong[0, 15:].flip(0)
    with pytest.raises(MisalignedSegment, match=f"{part} at position 15"):
        check(decoder, tokens, keys, values)


def test_keys_turned_wrongly_give_a_wrong_answer() -> None:
    decoder, tokens, keys, values = loaded()
    angle = torch.tensor(0.05)
    one, two = keys[0, 15:, :, 0].clone(), keys[0, 15:, :, 1].clone()
    keys[0, 15:, :, 0] = one * angle.cos() - two * angle.sin()
    keys[0, 15:, :, 1] = two * angle.cos() + one * angle.sin()
    with pytest.raises(MisalignedSegment, match="keys"):
        check(decoder, tokens, keys, values)


def test_values_that_are_no_numbers_give_a_wrong_answer() -> None:
    decoder, tokens, keys, values = loaded()
    values[0, 15, 0, 0] = torch.nan
    with pytest.raises(MisalignedSegment, match="position 15"):
        check(decoder, tokens, keys, values)
