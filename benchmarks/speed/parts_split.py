"""Tokens split and named per second, in one thread, and the same from a request's list of tokens.

chat        random tokens, a declared boundary every 200, as of messages          the row asked for
text        random tokens, nothing declared
repeats     a page of 500 tokens again and again, with rows of one token
dense       a declared boundary every 40 tokens: more cuts than text has by itself
from list   a list of Python integers made an array, special tokens looked for, split, named
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np

from benchmarks.speed.parts_samples import seconds_of_each
from benchmarks.speed.rows import Row
from benchmarks.speed.samples import row
from raysparsex.config import SegmentConfig
from raysparsex.ids import ModelFingerprint, TrustSalt
from raysparsex.segment.identity import SegmentHasher, as_tokens
from raysparsex.segment.split import Tokens, boundaries_at, split

GOAL = 20e6
VOCABULARY = 128_000
SPECIAL = np.arange(VOCABULARY, VOCABULARY + 256)
LENGTHS = {"1k": 1024, "8k": 8192, "32k": 32_768, "128k": 131_072}
MESSAGE, DENSE = 200, 40
MOST_SAMPLES = 2000

CONFIG = SegmentConfig()
HASHER = SegmentHasher(ModelFingerprint("model"), TrustSalt("tenant"))


def rows(samples: int) -> list[Row]:
    """The row asked for, of 8k tokens, and others beside it. `samples`: of 8k tokens."""
    found = []
    for name, run, tokens in _cases():
        count = min(max(5, samples * LENGTHS["8k"] // tokens), MOST_SAMPLES)
        rates = [tokens / seconds for seconds in seconds_of_each(run, count)]
        goal = GOAL if tokens >= LENGTHS["8k"] else None
        found.append(row(name, rates, "1/s", goal=goal, note=f"{tokens} tokens, one thread"))
    return found


def _cases() -> Iterator[tuple[str, Callable[[], object], int]]:
    yield "split_tokens_per_s", _whole(*_chat(LENGTHS["8k"])), LENGTHS["8k"]
    for label, count in LENGTHS.items():
        if label != "8k":
            yield f"split_tokens_per_s_{label}", _whole(*_chat(count)), count
    count = LENGTHS["32k"]
    yield "split_tokens_per_s_text", _whole(_random(count), []), count
    yield "split_tokens_per_s_repeats", _whole(_repeats(count), []), count
    dense = list(range(DENSE, count, DENSE))
    yield "split_tokens_per_s_dense", _whole(_random(count), dense), count
    yield "split_tokens_per_s_from_list", _from_list(count), count


def _whole(tokens: Tokens, declared: list[int]) -> Callable[[], object]:
    return lambda: HASHER.ids(tokens, split(tokens, declared, CONFIG))


def _from_list(count: int) -> Callable[[], object]:
    tokens, declared = _chat(count)
    tokens[declared] = SPECIAL[0]
    listed: list[int] = tokens.tolist()

    def run() -> object:
        ids = as_tokens(listed)
        return HASHER.ids(ids, split(ids, boundaries_at(ids, SPECIAL), CONFIG))

    return run


def _random(count: int) -> Tokens:
    return np.random.default_rng(count).integers(0, VOCABULARY, count).astype(np.int32)


def _chat(count: int) -> tuple[Tokens, list[int]]:
    return _random(count), list(range(MESSAGE, count, MESSAGE))


def _repeats(count: int) -> Tokens:
    page, blank = _random(500), np.full(60, 7, dtype=np.int32)
    pages = chain.from_iterable((page, blank) for _ in range(count // 560 + 1))
    tokens: Tokens = np.concatenate(list(pages))[:count]
    return tokens
