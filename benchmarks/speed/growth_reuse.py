"""More and more of a prompt held: from nothing to all but the new text that asks.

The documents are a hundredth of the prompt each. They are read once, by ours; then come prompts
with so many of them in another order. Plain vLLM's time does not depend on what the text is: one of
its prompts stands beside all of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from random import Random

from benchmarks.speed.engines import ARITHMETIC
from benchmarks.speed.growth import REUSE, cell
from benchmarks.speed.growth_lengths import reading
from benchmarks.speed.load import Answer, Request, Tokens
from benchmarks.speed.measured import Measured, Setting
from benchmarks.speed.rows import Row
from benchmarks.speed.workloads import PAPER, text

PERCENT = (0, 25, 50, 75, 85, 95, 99)
STEPS = 2 + len(PERCENT)


def by_reuse(setting: Setting) -> Measured:
    """One prompt of plain vLLM, and one of ours for each share."""
    rng, engines = setting.rng, setting.engines
    tokens = setting.sizes.growth.reuse_tokens
    documents = hundredths(tokens, rng)
    for engine in (engines.plain, engines.ours):
        engine.forget()
    setting.progress(f"reuse, {tokens:,} tokens: documents are read")
    engines.ours.play(reading(documents, rng))
    setting.progress(f"reuse, {tokens:,} tokens: plain")
    plain = engines.plain.play((asked(documents, 0, tokens, rng),)).answers[0]
    rows = []
    for percent in PERCENT:
        setting.progress(f"reuse, {tokens:,} tokens: {percent}% held")
        prompt = asked(documents, percent, tokens, rng)
        rows += _cells(percent, plain, engines.ours.play((prompt,)).answers[0])
    return Measured(rows)


def hundredths(tokens: int, rng: Random) -> tuple[Tokens, ...]:
    """99 documents, each as near to a hundredth of so many tokens as it can be."""
    edges = [round(number * tokens / 100) for number in range(100)]
    return tuple(text(end - start, rng) for start, end in pairwise(edges))


def asked(documents: Sequence[Tokens], percent: int, tokens: int, rng: Random) -> Request:
    """So many of them in another order, new text ahead of them and behind."""
    chosen = rng.sample(documents, percent)
    new = tokens - sum(map(len, chosen))
    return Request((text(new // 2, rng), *chosen, text(new - new // 2, rng)), 1, PAPER)


def _cells(percent: int, plain: Answer, ours: Answer) -> list[Row]:
    report = ours.report
    limit = ARITHMETIC.prefill(plain) / ARITHMETIC.prefill(ours)
    computed = ours.prompt_tokens - report["reused_tokens"] + report["recomputed_tokens"]
    return [
        cell(REUSE, "ttft_plain", percent, [plain.ttft], "s"),
        cell(REUSE, "ttft_ours", percent, [ours.ttft], "s"),
        cell(REUSE, "ratio", percent, [plain.ttft / ours.ttft], "x", limit),
        cell(REUSE, "computed", percent, [computed], "tokens"),
        cell(REUSE, "suspects", percent, [report["suspects"]], "tokens"),
    ]
