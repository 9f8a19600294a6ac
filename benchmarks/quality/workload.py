"""What is asked: prompts made of blocks, some of which may be held from elsewhere.

    prompt      head  block  block  block ...  question  tail
    isolated    head  block  tail                           a block computed on its own
    inside      head  other  block  tail                    a block computed behind other text
    lesson      head  other  blocks in another order  another question  tail

*Other* text is a block of a neighbouring item of the same family. Two sources: the generated worlds
of `training.world`, and a file of token ids for a model with a task of its own. Knows no server.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from tokenizers import Tokenizer

from raysparsex.errors import InvalidConfig
from training import chat
from training.world import FAMILIES, LOCAL_FAMILIES, Message, Task, generate

Origin = Literal["isolated", "inside"]
ORIGINS: tuple[Origin, ...] = ("isolated", "inside")
Ids = tuple[int, ...]
LOCAL = {*LOCAL_FAMILIES, "local", "control"}
"""Families whose questions one block answers; all others need several."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, and the offsets at which the client says that segments begin."""

    ids: Ids
    declared: Ids = ()


@dataclass(frozen=True, slots=True)
class Block:
    """A run of a prompt: a message, or a declared segment."""

    ids: Ids
    reusable: bool = True


@dataclass(frozen=True, slots=True)
class Item:
    """One question with what stands before it."""

    family: str
    head: Ids
    blocks: tuple[Block, ...]
    question: Ids
    tail: Ids
    answer: Ids
    declares: bool
    """Whether block edges are told to the server; in a chat it sees them by itself."""

    @property
    def prompt(self) -> Prompt:
        """What is tested."""
        return self.compose([*(block.ids for block in self.blocks), self.question])

    def compose(self, runs: Sequence[Ids]) -> Prompt:
        """Runs between head and tail."""
        ids, edges = list(self.head), []
        for run in runs:
            edges.append(len(ids))
            ids += run
        edges.append(len(ids))
        inner = tuple(edge for edge in edges if 0 < edge < len(ids) + len(self.tail))
        return Prompt((*ids, *self.tail), inner if self.declares else ())


@dataclass(frozen=True, slots=True)
class Workload:
    """The items of each family, from one seed."""

    families: dict[str, list[Item]]
    seed: int

    @property
    def cross(self) -> list[str]:
        """Families whose answers need several blocks."""
        return [family for family in self.families if family not in LOCAL]

    @property
    def digest(self) -> str:
        """Names the prompts and their answers."""
        texts = (repr((item, self.seed)) for items in self.families.values() for item in items)
        return hashlib.sha256("".join(texts).encode()).hexdigest()[:16]

    def to_publish(self, family: str, index: int, origin: Origin) -> list[Prompt]:
        """The prompts whose prefill leaves the item's reusable blocks to others."""
        item = self.families[family][index]
        blocks = [block.ids for block in item.blocks if block.reusable]
        if origin == "isolated":
            return [item.compose([block]) for block in blocks]
        others = self._others(family, index)
        return [item.compose([others[n % len(others)], block]) for n, block in enumerate(blocks)]

    def lesson(self, family: str, index: int, number: int) -> Prompt:
        """Another use of the item's reusable blocks: behind other text, in another order."""
        items = self.families[family]
        item, rng = items[index], Random(f"{self.seed}/{family}/{index}/lesson {number}")
        blocks = [block.ids for block in item.blocks if block.reusable]
        rng.shuffle(blocks)
        question = items[(index + 1 + number) % len(items)].question
        return item.compose([rng.choice(self._others(family, index)), *blocks, question])

    def _others(self, family: str, index: int) -> list[Ids]:
        items = self.families[family]
        neighbour = items[(index + 1) % len(items)]
        return [block.ids for block in neighbour.blocks if block.reusable]


def generated(model: Path, families: Iterable[str], count: int, seed: int) -> Workload:
    """`count` held-out worlds of each family; the same for the same seed."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    made: dict[str, list[Item]] = {}
    for family in families:
        name = next((known for known in FAMILIES if known == family), None)
        if name is None:
            raise InvalidConfig("--families", f"there is no {family!r}", ", ".join(FAMILIES))
        rng = Random(f"quality {seed} {family}")
        made[family] = [_item(tokenizer, generate(rng, name)) for _ in range(count)]
    return Workload(made, seed)


def from_file(path: Path, count: int | None, seed: int) -> Workload:
    """Items given as JSON lines {"family", "segments": [[id]], "question": [id], "answer": [id]}.

    At most `count` of each family, the first ones. Edges of segments are declared to the server.
    """
    made: dict[str, list[Item]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            item = _item_of(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            allowed = 'one JSON object with "family", "segments", "question" and "answer"'
            raise InvalidConfig(f"{path}:{number}", f"cannot be read ({error})", allowed) from error
        items = made.setdefault(item.family, [])
        if count is None or len(items) < count:
            items.append(item)
    return Workload(made, seed)


def _item(tokenizer: Tokenizer, task: Task) -> Item:
    """Special tokens cut the text, so a prompt's ids are those of its messages, one by one."""
    messages = task.messages("messages")
    blocks = [_message_ids(tokenizer, message) for message in messages]
    reusable = set(task.reusable)
    return Item(
        family=task.family,
        head=tuple(tokenizer.encode("<|bos|>").ids),
        blocks=tuple(Block(ids, n in reusable) for n, ids in enumerate(blocks[:-1])),
        question=blocks[-1],
        tail=tuple(tokenizer.encode("<|assistant|>").ids),
        answer=tuple(tokenizer.encode(f" {task.answer}").ids),
        declares=False,
    )


def _message_ids(tokenizer: Tokenizer, message: Message) -> Ids:
    text = chat.text([message]).removeprefix("<|bos|>").removesuffix("<|assistant|>")
    return tuple(tokenizer.encode(text).ids)


def _item_of(entry: dict[str, list[int] | list[list[int]] | str]) -> Item:
    return Item(
        family=str(entry["family"]),
        head=(),
        blocks=tuple(Block(_ids(segment)) for segment in entry["segments"]),
        question=_ids(entry["question"]),
        tail=(),
        answer=_ids(entry["answer"]),
        declares=True,
    )


def _ids(values: object) -> Ids:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError("token ids must be a list of integers")
    return tuple(values)
