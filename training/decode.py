"""Greedy answers of the torch model: after full prefill, and after naive reuse of documents cached
one by one.

Naive reuse is the lower end of the yardstick: the keys and values of every reusable message's
content are computed in a prompt that holds nothing else, then the keys are rotated to where it
stands in the prompt; only the text around it is computed in place.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from training import chat
from training.model import KeyValue, Rotation, TinyLlama
from training.tokenizer import END, id_of, token_at
from training.world import Layout, Message, Task

CONTENT_AT = 2  # a prompt begins with <|bos|> and a role


class Prefilled(NamedTuple):
    """Caches of all prompt tokens, and the last token's normed hidden state [C]."""

    caches: list[KeyValue]
    last: Tensor


class Span(NamedTuple):
    """Tokens [begin, end) of a prompt: the content of one reusable message; `alone` are the ids
    up to its end when it stands alone.
    """

    begin: int
    end: int
    alone: list[int]


def answer_full(
    model: TinyLlama, tokenizer: Tokenizer, task: Task, layout: Layout = "messages"
) -> str:
    """What the model says after an exact prefill."""
    return _answer(model, tokenizer, prefill(model, chat.encode(tokenizer, task.messages(layout))))


def answer_naive(model: TinyLlama, tokenizer: Tokenizer, task: Task) -> str:
    """What the model says when every reusable message's cache was made without its context."""
    return _answer(model, tokenizer, prefill_naive(model, *prompt_of(tokenizer, task)))


def prompt_of(tokenizer: Tokenizer, task: Task) -> tuple[list[int], list[Span]]:
    """The prompt's ids, one message for each part, and its reusable spans in order."""
    messages = task.messages("messages")
    encoding = tokenizer.encode(chat.text(messages))
    return encoding.ids, [_span(tokenizer, encoding, messages, n) for n in task.reusable]


def _span(tokenizer: Tokenizer, encoding: Encoding, messages: list[Message], number: int) -> Span:
    """One message's content in the prompt, and the ids up to its end when it stands alone."""
    start, stop = chat.content_at(messages, number)
    begin, end = token_at(encoding, start), token_at(encoding, stop - 1) + 1
    alone = chat.encode(tokenizer, [messages[number]])
    content = encoding.ids[begin:end]
    assert alone[CONTENT_AT : CONTENT_AT + len(content)] == content
    return Span(begin, end, alone[: CONTENT_AT + len(content)])


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
def prefill_naive(model: TinyLlama, ids: list[int], spans: list[Span]) -> Prefilled:
    """Walk the prompt: text between the spans is computed, the spans are cached alone and moved."""
    past: list[KeyValue] | None = None
    done = 0
    for begin, end, alone in spans:
        past = prefill(model, ids[done:begin], past).caches
        moved = [_moved(cache, begin - CONTENT_AT, model) for cache in prefill(model, alone).caches]
        past = [_joined(left, right) for left, right in zip(past, moved, strict=True)]
        done = end
    return prefill(model, ids[done:], past)


@torch.no_grad()
def _moved(cache: KeyValue, distance: int, model: TinyLlama) -> KeyValue:
    """The content's keys, turned to where it stands, and its values."""
    rotation = Rotation(torch.tensor([[distance]]), model.size)
    return KeyValue(rotation.apply(cache.key[:, :, CONTENT_AT:]), cache.value[:, :, CONTENT_AT:])


def _joined(left: KeyValue, right: KeyValue) -> KeyValue:
    return KeyValue(torch.cat([left.key, right.key], 2), torch.cat([left.value, right.value], 2))


def _answer(model: TinyLlama, tokenizer: Tokenizer, state: Prefilled) -> str:
    return tokenizer.decode(greedy(model, state, 12, id_of(tokenizer, END))).strip()
