"""Time to first token when most of a prompt is held, beside plain vLLM and beside the arithmetic.

A pair is one prompt on both engines; the engine with the connector has read its documents before,
behind other text. That reading is a cold prompt of the same length: what the connector costs when
it cannot help comes with each pair. Plain vLLM's time does not depend on what the text is, so that
one of its prompts stands beside several settings of ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks.speed.engines import ARITHMETIC
from benchmarks.speed.load import Answer, Request
from benchmarks.speed.measured import Measured, Setting, breakdown_of
from benchmarks.speed.rows import Row
from benchmarks.speed.samples import median, row
from benchmarks.speed.workloads import BEST, NAIVE, PAPER, MovedDocuments, Params

HELD, MOSTLY_HELD = 0.85, 0.95
GOAL_EFFICIENCY, GOAL_RATIO, GOAL_COLD = 0.85, 5.0, 0.015
SETTINGS: dict[str, tuple[float, Params]] = {
    "": (HELD, {**PAPER, "suspects": 1.0}),
    "_suspects": (HELD, PAPER),
    "_naive": (HELD, NAIVE),
    "_reused95": (MOSTLY_HELD, BEST),
}
"""By what is added to a row's name: share held, parameters. The first is the case as it is written
down: all reused tokens pass the full layer."""
STEPS = 2 + len(SETTINGS)
"""Of a pair."""


@dataclass(slots=True)
class Pairs:
    """Answers beside those of plain vLLM."""

    full: list[Answer] = field(default_factory=list)
    ours: list[Answer] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """How many times faster, pair by pair."""
        return [f.ttft / o.ttft for f, o in zip(self.full, self.ours, strict=True)]

    @property
    def ideals(self) -> list[float]:
        """How many times fewer FLOPs, pair by pair."""
        pairs = zip(self.full, self.ours, strict=True)
        return [ARITHMETIC.prefill(f) / ARITHMETIC.prefill(o) for f, o in pairs]

    @property
    def ideal(self) -> float:
        """The mean of `ideals`, which hardly differ."""
        return sum(self.ideals) / len(self.ideals)

    @property
    def efficiencies(self) -> list[float]:
        """Measured ratio over ideal ratio, pair by pair."""
        return [ratio / ideal for ratio, ideal in zip(self.ratios, self.ideals, strict=True)]

    @property
    def limits(self) -> dict[str, float]:
        """Median seconds of each stage if its FLOPs took as long as those of plain vLLM."""
        told = [
            {stage: full.ttft * flops / ARITHMETIC.prefill(full) for stage, flops in parts.items()}
            for full, ours in zip(self.full, self.ours, strict=True)
            for parts in [ARITHMETIC.stages_of(ours)]
            if parts
        ]
        names = told[0] if told else {}
        return {stage: median([one[stage] for one in told]) for stage in names}

    @property
    def overheads(self) -> list[float]:
        """How much longer ours took, as a share."""
        return [1 / ratio - 1 for ratio in self.ratios]


def prefills_4k(setting: Setting) -> Measured:
    """Rows at 4,096 tokens."""
    return _measure(setting, 4096, "4k", setting.sizes.pairs_4k)


def prefills_8k(setting: Setting) -> Measured:
    """Rows at 8,192 tokens."""
    return _measure(setting, 8192, "8k", setting.sizes.pairs_8k)


def _measure(setting: Setting, tokens: int, length: str, pairs: int) -> Measured:
    found = {name: Pairs() for name in SETTINGS}
    colds = Pairs()
    for number in range(pairs):
        _pair(setting, tokens, f"{length} pair {number + 1} of {pairs}", found, colds)
    measured = Measured(_rows(length, found, colds))
    for name, of_setting in found.items():
        measured.breakdown[f"{length}{name}"] = breakdown_of(of_setting.ours)
        measured.breakdown[f"{length}{name} limit"] = of_setting.limits
    return measured


def _pair(setting: Setting, tokens: int, words: str, found: dict[str, Pairs], colds: Pairs) -> None:
    """One prompt on both engines, and its documents once again with each other setting."""
    rng, engines = setting.rng, setting.engines
    documents = MovedDocuments.of(tokens, rng)
    prompts = {name: documents.moved(*SETTINGS[name], rng) for name in SETTINGS}
    seen, plain_first = documents.seen(rng), len(colds.full) % 2 == 0

    def ask_plain() -> None:
        setting.progress(f"{words}: plain vLLM")
        full = engines.plain.play((prompts[""],)).answers[0]
        for pairs in (*found.values(), colds):
            pairs.full.append(full)

    def ask(request: Request, pairs: Pairs, what: str) -> None:
        setting.progress(f"{words}: {what}")
        pairs.ours += engines.ours.play((request,)).answers

    if plain_first:
        ask_plain()
    ask(seen, colds, "documents are read")
    ask(prompts[""], found[""], "reuse")
    if not plain_first:
        ask_plain()
    for name in list(SETTINGS)[1:]:
        ask(prompts[name], found[name], f"reuse{name.replace('_', ', ')}")


def _rows(length: str, found: dict[str, Pairs], colds: Pairs) -> list[Row]:
    paper = found[""]
    rows = [
        row(
            f"ttft_efficiency_{length}",
            paper.efficiencies,
            "share",
            ideal=1.0,
            goal=GOAL_EFFICIENCY,
            note=f"{_times(paper)}; 85% held, 15% of it recomputed, all suspects, 1 full layer",
        )
    ]
    for name, pairs in found.items():
        goal = GOAL_RATIO if (length, name) == ("8k", "_reused95") else None
        ratio = f"ttft_ratio_{length}{name}"
        rows.append(row(ratio, pairs.ratios, "x", ideal=pairs.ideal, goal=goal, note=_times(pairs)))
    cold = f"overhead_ttft_cold_{length}"
    rows.append(row(cold, colds.overheads, "share", better="lower", ideal=0.0, note=_times(colds)))
    return rows


def _times(pairs: Pairs) -> str:
    """Median seconds, the fewest tokens that were reused, and what was asked for."""
    full, ours = (sorted(a.ttft for a in s)[len(s) // 2] for s in (pairs.full, pairs.ours))
    reused = min(answer.report.get("reused_tokens", 0) for answer in pairs.ours)
    told = f", {reused} tokens reused" if reused else ""
    return f"{full:.2f} s plain, {ours:.2f} s ours{told}"
