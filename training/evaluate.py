"""Measures raysparsex-tiny on worlds it has not seen: exact greedy answers per family, short and
long prompts.

    python -m training.evaluate --count 100 --json /tmp/quality.json

Every part is a message of its own. `full` is an exact prefill; `naive` uses reusable messages that
were cached alone (see `decode`). A needle's prompts are of one length only. `canonical` is the
share of generated ids that come back when 256 generated tokens (end ignored) are decoded and
encoded again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from random import Random

import torch
from tokenizers import Tokenizer

from training import artifact, chat
from training.decode import answer_full, answer_naive, greedy, prefill, prompt_of
from training.model import TinyLlama
from training.world import (
    CROSS_FAMILIES,
    FAMILIES,
    LOCAL_FAMILIES,
    LONG,
    SHORT,
    Family,
    Shape,
    Task,
    generate,
)

QUICK_SEED = 990_001
HELD_OUT_SEED = 770_001


@dataclass(frozen=True, slots=True)
class Row:
    """Accuracy of one family at one prompt length; `tokens` is the mean prompt length, `reusable`
    the mean share of tokens that reusable messages hold.
    """

    family: str
    length: str
    count: int
    tokens: float
    reusable: float
    full: float
    naive: float | None


def measure(
    model: TinyLlama,
    tokenizer: Tokenizer,
    family: Family,
    length: str,
    count: int,
    seed: int,
    naive: bool,
) -> Row:
    shape = {"short": SHORT, "long": LONG}[length]
    tasks = make_tasks(seed, family, shape, count)
    prompts = [prompt_of(tokenizer, task) for task in tasks]
    size = sum(len(ids) for ids, _ in prompts) / count
    held = [sum(span.end - span.begin for span in spans) / len(ids) for ids, spans in prompts]
    full = _share_right(answer_full, model, tokenizer, tasks)
    lost = _share_right(answer_naive, model, tokenizer, tasks) if naive else None
    share = round(sum(held) / count, 3)
    return Row(family, length, count, round(size, 1), share, full, lost)


def make_tasks(seed: int, family: Family, shape: Shape, count: int) -> list[Task]:
    """The same tasks for the same seed, family and shape."""
    rng = Random(f"{seed}/{family}/{shape}")
    return [generate(rng, family, shape) for _ in range(count)]


def _share_right(
    answer: Callable[[TinyLlama, Tokenizer, Task], str],
    model: TinyLlama,
    tokenizer: Tokenizer,
    tasks: list[Task],
) -> float:
    return sum(answer(model, tokenizer, task) == task.answer + "." for task in tasks) / len(tasks)


def canonical_share(model: TinyLlama, tokenizer: Tokenizer, count: int, seed: int) -> float:
    """Worst over prompts: generated ids that survive decoding and encoding, in aligned runs."""
    worst = 1.0
    for task in make_tasks(seed, "alias1", SHORT, count):
        ids = greedy(
            model, prefill(model, chat.encode(tokenizer, task.messages("messages"))), 256, stop=None
        )
        again = tokenizer.encode(tokenizer.decode(ids, skip_special_tokens=True)).ids
        runs = SequenceMatcher(None, ids, again, autojunk=False).get_matching_blocks()
        worst = min(worst, sum(run.size for run in runs) / len(ids))
    return worst


@cache
def _quick_tasks() -> dict[str, list[Task]]:
    tasks: dict[str, list[Task]] = {}
    for family in FAMILIES:
        tasks[family] = make_tasks(QUICK_SEED, family, SHORT, 24)
    tasks["long_direct"] = make_tasks(QUICK_SEED, "direct", LONG, 8)
    tasks["long_cross"] = [
        task for family in CROSS_FAMILIES for task in make_tasks(QUICK_SEED, family, LONG, 3)
    ]
    return tasks


@torch.no_grad()
def quick_accuracy(model: TinyLlama, tokenizer: Tokenizer) -> dict[str, float]:
    """Share of right first answer words per family, for the training log (its own seed)."""
    return {
        name: sum(first_word(model, tokenizer, task) == task.answer for task in tasks) / len(tasks)
        for name, tasks in _quick_tasks().items()
    }


@torch.no_grad()
def first_word(model: TinyLlama, tokenizer: Tokenizer, task: Task) -> str:
    state = prefill(model, chat.encode(tokenizer, task.messages("messages")))
    return tokenizer.decode([int(model.lm_head(state.last).argmax())]).strip()


def table(rows: list[Row]) -> str:
    lines = [
        "| family | prompts | tokens | reusable | n | full | naive |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in [*rows, *_means(rows)]:
        naive = "-" if row.naive is None else f"{row.naive:.3f}"
        sizes = (f"{row.tokens:.0f}", f"{row.reusable:.2f}", row.count)
        cells = (row.family, row.length, *sizes, f"{row.full:.3f}", naive)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _means(rows: list[Row]) -> list[Row]:
    """Local and cross-document families together, per prompt length."""
    means = []
    for length in ("short", "long"):
        for name, families in (
            ("all local", LOCAL_FAMILIES),
            ("all cross-message", CROSS_FAMILIES),
        ):
            some = [row for row in rows if row.length == length and row.family in families]
            if some:
                means.append(_mean(name, length, some))
    return means


def _mean(name: str, length: str, rows: list[Row]) -> Row:
    n = sum(row.count for row in rows)
    losses = [row.naive for row in rows if row.naive is not None]
    naive = sum(losses) / len(losses) if losses else None
    tokens = sum(row.tokens for row in rows) / len(rows)
    reusable = sum(row.reusable for row in rows) / len(rows)
    full = sum(row.full for row in rows) / len(rows)
    return Row(name, length, n, tokens, reusable, full, naive)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--model", default=str(artifact.DIRECTORY), help="model directory")
    parser.add_argument(
        "--count", type=int, default=100, help="short prompts per family (default: 100)"
    )
    parser.add_argument(
        "--long-count", type=int, default=40, help="long prompts per family (default: 40)"
    )
    parser.add_argument("--seed", type=int, default=HELD_OUT_SEED, help="seed of the worlds")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: 2)")
    parser.add_argument("--no-naive", action="store_true", help="leave out naive reuse")
    parser.add_argument("--json", default="", help="also write the numbers to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, tokenizer = artifact.read(Path(options.model))
    rows = [
        measure(model, tokenizer, family, length, count, options.seed, not options.no_naive)
        for length, count in (("short", options.count), ("long", options.long_count))
        for family in FAMILIES
        if count and (length, family) != ("long", "needle")
    ]
    canonical = canonical_share(model, tokenizer, 8, options.seed)
    print(table(rows))
    print(f"\ncanonical: {canonical:.3f} (worst of 8 generations of 256 tokens)")
    if options.json:
        report = {
            "seed": options.seed,
            "rows": [asdict(row) for row in rows],
            "canonical": canonical,
        }
        Path(options.json).write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
