"""Samples as tensors: token ids, positions with skips, and the targets of each loss.

Position skipping (PoSE, arXiv 2309.10400): random gaps before documents show distances that the
text itself is too short for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from training.samples import Sample
from training.tokenizer import PAD, token_at

LOSSES = ("answer", "value", "subject", "said", "text")
FAR = 4096  # the largest position that skipping reaches


@dataclass(slots=True)
class Targets:
    """Flat positions in [B*T] whose hidden states shall predict `word`."""

    at: Tensor
    word: Tensor


@dataclass(slots=True)
class Links:
    """Flat positions `at` whose queries shall find the key at `to`, in the same row."""

    at: Tensor
    to: Tensor


@dataclass(slots=True)
class Batch:
    ids_BT: Tensor
    positions_BT: Tensor
    answer: Targets
    value: Targets
    subject: Targets
    said: Targets
    text: Targets
    links: Links

    @property
    def tokens(self) -> int:
        return int((self.ids_BT != 0).sum())


class Batcher:
    """Draws pools of samples, sorts them by length and cuts them into batches of about `tokens`
    tokens.
    """

    def __init__(self, tokenizer: Tokenizer, rng: Random, tokens: int, skipping: float) -> None:
        self.tokenizer, self.rng, self.tokens, self.skipping = tokenizer, rng, tokens, skipping
        self.word_id = {
            word[1:]: number for word, number in tokenizer.get_vocab().items() if word[0] == "Ġ"
        }
        assert tokenizer.token_to_id(PAD) == 0
        self.ready: list[list[tuple[Sample, Encoding]]] = []

    def next(self, draw: Callable[[], Sample], pool: int = 96) -> Batch:
        if not self.ready:
            samples = [draw() for _ in range(pool)]
            encoded = self.tokenizer.encode_batch([sample.text for sample in samples])
            self._cut(sorted(zip(samples, encoded, strict=True), key=lambda pair: len(pair[1].ids)))
        return self._batch(self.ready.pop())

    def forget(self) -> None:
        """Drop drawn samples, when the curriculum moves on."""
        self.ready.clear()

    def _cut(self, rows: list[tuple[Sample, Encoding]]) -> None:
        batch: list[tuple[Sample, Encoding]] = []
        for row in rows:
            if batch and len(row[1].ids) * (len(batch) + 1) > self.tokens:
                self.ready.append(batch)
                batch = []
            batch.append(row)
        self.ready.append(batch)
        self.rng.shuffle(self.ready)

    def _batch(self, rows: list[tuple[Sample, Encoding]]) -> Batch:
        length = (
            -(-max(len(encoding.ids) for _, encoding in rows) // 32) * 32
        )  # few shapes: kernels are cached by shape
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        positions = torch.arange(length).repeat(len(rows), 1)
        picks: dict[str, list[tuple[int, int]]] = {name: [] for name in (*LOSSES, "links")}
        for number, (sample, encoding) in enumerate(rows):
            ids[number, : len(encoding.ids)] = torch.tensor(encoding.ids)
            self._skip(positions[number], sample, encoding)
            self._pick(picks, number * length, sample, encoding)
        links = torch.tensor(picks.pop("links"), dtype=torch.long).reshape(-1, 2)
        targets = {name: _targets(pairs) for name, pairs in picks.items()}
        return Batch(ids, positions, **targets, links=Links(links[:, 0], links[:, 1]))

    def _skip(self, positions_T: Tensor, sample: Sample, encoding: Encoding) -> None:
        room = FAR - len(encoding.ids)
        if room <= 0 or self.rng.random() >= self.skipping:
            return
        total = int(room * self.rng.random() ** 2)
        shares = [self.rng.random() ** 2 for _ in sample.cuts]
        for cut, share in zip(sample.cuts, shares, strict=True):
            positions_T[token_at(encoding, cut) :] += int(total * share / sum(shares))

    def _pick(
        self, picks: dict[str, list[tuple[int, int]]], base: int, sample: Sample, encoding: Encoding
    ) -> None:
        ids, token = encoding.ids, partial(token_at, encoding)
        for mark in sample.marks:
            picks[mark.role].append((base + token(mark.offset), self.word_id[mark.target]))
        holders = {
            mark.target: token(mark.offset) for mark in sample.marks if mark.role == "subject"
        }
        picks["links"] += [
            (base + token(mark.offset), base + holders[mark.via])
            for mark in sample.marks
            if mark.via
        ]
        starts = {token(offset) for offset in sample.answers}
        picks["answer"] += [(base + at - 1, ids[at]) for at in starts]
        said = {at for start, end in sample.spans for at in range(token(start), token(end - 1) + 1)}
        silent = {token(offset) for offset in sample.silent if offset < len(sample.text)}
        picks["said"] += [(base + at - 1, ids[at]) for at in said - silent - starts]
        text = [
            at
            for at in range(1, len(ids))
            if at not in said and at not in silent and self.rng.random() < 0.3
        ]
        picks["text"] += [(base + at - 1, ids[at]) for at in text]


def _targets(pairs: list[tuple[int, int]]) -> Targets:
    both = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)
    return Targets(both[:, 0], both[:, 1])
