"""Greedy answers of the torch model: after full prefill, and after naive reuse of documents cached
one by one.

Naive reuse is the lower end of the yardstick: every document's keys and values are computed alone,
then the keys are rotated to where the document stands in the prompt; only the text around the
documents is computed in place.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor

from training import chat
from training.model import KeyValue, Rotation, TinyLlama
from training.tokenizer import END, id_of, token_at
from training.world import Task


class Prefilled(NamedTuple):
    """Caches of all prompt tokens, and the last token's normed hidden state [C]."""

    caches: list[KeyValue]
    last: Tensor


def answer_full(model: TinyLlama, tokenizer: Tokenizer, task: Task) -> str:
    """What the model says after an exact prefill."""
    return _answer(model, tokenizer, prefill(model, chat.encode(tokenizer, task.messages())))


def answer_naive(model: TinyLlama, tokenizer: Tokenizer, task: Task) -> str:
    """What the model says when every document's cache was made without its context."""
    text = chat.text(task.messages())
    encoding = tokenizer.encode(text)
    spans, start = [], 0
    for document in task.documents:
        start = text.index(document, start)
        spans.append((token_at(encoding, start), token_at(encoding, start + len(document) - 1) + 1))
    return _answer(model, tokenizer, _prefill_naive(model, encoding.ids, spans))


@torch.no_grad()
def greedy(model: TinyLlama, state: Prefilled, limit: int, stop: int | None) -> list[int]:
    """Up to `limit` tokens; ends before `stop` where one is given."""
    ids: list[int] = []
    for _ in range(limit):
        ids.append(int(model.lm_head(state.last).argmax()))
        if ids[-1] == stop:
            return ids[:-1]
        state = prefill(model, ids[-1:], state.caches)
    return ids


@torch.no_grad()
def prefill(model: TinyLlama, ids: list[int], past: list[KeyValue] | None = None) -> Prefilled:
    """Compute `ids` behind `past`."""
    begin = past[0].key.shape[2] if past else 0
    hidden, caches = model.hidden(
        torch.tensor([ids]), torch.arange(begin, begin + len(ids))[None], past
    )
    return Prefilled(caches, hidden[0, -1])


@torch.no_grad()
def _prefill_naive(model: TinyLlama, ids: list[int], spans: list[tuple[int, int]]) -> Prefilled:
    """Walk the prompt: text between the spans is computed, the spans are cached alone and moved."""
    past: list[KeyValue] | None = None
    done = 0
    for begin, end in spans:
        if done < begin:
            past = prefill(model, ids[done:begin], past).caches
        alone = [_moved(cache, begin, model) for cache in prefill(model, ids[begin:end]).caches]
        past = (
            [_joined(left, right) for left, right in zip(past, alone, strict=True)]
            if past
            else alone
        )
        done = end
    return prefill(model, ids[done:], past)


@torch.no_grad()
def _moved(cache: KeyValue, distance: int, model: TinyLlama) -> KeyValue:
    rotation = Rotation(torch.tensor([[distance]]), model.size)
    return KeyValue(rotation.apply(cache.key), cache.value)


def _joined(left: KeyValue, right: KeyValue) -> KeyValue:
    return KeyValue(torch.cat([left.key, right.key], 2), torch.cat([left.value, right.value], 2))


def _answer(model: TinyLlama, tokenizer: Tokenizer, state: Prefilled) -> str:
    return tokenizer.decode(greedy(model, state, 12, id_of(tokenizer, END))).strip()
