"""One calibration from samples to profile, with the engine behind a protocol. Writes no file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from raysparsex.calibration.measure import Engine, Journal, Meter
from raysparsex.calibration.profile import (
    CalibratedRange,
    DriftTarget,
    Measured,
    MeasuredCandidate,
    ModelIdentity,
    Profile,
    ProfiledCorrection,
)
from raysparsex.calibration.search import Grid, Outcome, Part, Reuse, Shape, find_cheapest, grid_for
from raysparsex.calibration.workload import Draft, Sample, Tokens, lessons_of, samples_of
from raysparsex.errors import InvalidConfig

RANGE_FACTOR = 4
"""Prompts may be this much longer, and segments move this much farther, than those measured."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured, and how sure the result is to be."""

    samples: int
    """Prompts that corrections are chosen by, and as many again that confirm the choice."""
    lessons: int
    """Prompts that the engine learns from which tokens change."""
    documents: int
    """Of a prompt of our own making."""
    answer_tokens: int
    confidence: float
    """That the target is met on prompts like these; 0.5: the estimate itself must meet it."""
    quick: bool


THOROUGH = Effort(
    samples=32, lessons=128, documents=8, answer_tokens=8, confidence=0.9, quick=False
)
QUICK = Effort(samples=6, lessons=12, documents=6, answer_tokens=4, confidence=0.5, quick=True)

Samples = Mapping[Part, Sequence[Sample]]


def in_parts(
    drafts: Sequence[Draft], more: Sequence[Draft], effort: Effort, rng: Random, start: Tokens = ()
) -> Samples:
    """Samples to choose by, to confirm by, and to learn from; the last ones from `more` at need.

    A single prompt has to be both of the first. Raises InvalidConfig when none can be made.
    """
    count = min(effort.samples, (len(drafts) + 1) // 2)
    chosen_by = samples_of(drafts[:count], rng, start)
    confirmed_by = samples_of(drafts[count : 2 * count], rng, start) or chosen_by
    if not chosen_by:
        problem = "nothing in these prompts is long enough to be reused"
        raise InvalidConfig(
            "--prompts", problem, "prompts with documents of some 30 tokens or more"
        )
    lessons = [*drafts[2 * count :], *more][: effort.lessons]
    return {
        Part.CHOOSING: chosen_by,
        Part.CONFIRMING: confirmed_by,
        Part.TEACHING: lessons_of(samples_of(lessons, rng, start)),
    }


def calibrate(
    engine: Engine,
    samples: Samples,
    target: DriftTarget,
    effort: Effort,
    identity: ModelIdentity,
    *,
    context: int,
    journal: Journal,
    prompt_done: Callable[[], None] = lambda: None,
    expect: Callable[[int], None] = lambda measurements: None,
    more: Callable[[int], None] = lambda prompts: None,
    created: str,
    versions: Mapping[str, str],
    grid: Grid | None = None,
) -> Profile:
    """Measure, choose, and put it all into a profile. `context` is the model's longest prompt.

    `prompt_done` is called after each prompt; `expect` and `more` tell how many measurements are
    left, and how many prompts come in between. `grid` None: the one that fits the model's depth.
    """
    meter = Meter(
        engine,
        samples,
        answer_tokens=effort.answer_tokens,
        confidence=effort.confidence,
        journal=journal,
        done=prompt_done,
        more=more,
    )
    everything = [*samples[Part.CHOOSING], *samples[Part.CONFIRMING]]
    shape = Shape(identity.layers, fmean(sample.reused_share for sample in everything))
    grid = grid or grid_for(identity.layers, effort.quick)
    outcome = find_cheapest(meter, grid, target, shape, expect=expect)
    return Profile(
        model=identity,
        correction=ProfiledCorrection.of(outcome.correction),
        target=target,
        measured=_measured(outcome),
        range=calibrated_range(everything, context),
        sensitivity=meter.sensitivity(outcome.correction),
        candidates=tuple(_candidates(outcome)),
        note=_note(outcome, effort, target),
        created=created,
        versions=dict(versions),
    )


def calibrated_range(samples: Sequence[Sample], context: int) -> CalibratedRange:
    """Somewhat more than what was measured; depth is not stretched, as drift builds up with it."""
    new_share = 1 - max(sample.reused_share for sample in samples)
    return CalibratedRange(
        max_reused_share=round(1 - new_share / RANGE_FACTOR, 4),
        max_prompt_tokens=min(
            context, RANGE_FACTOR * max(len(sample.prompt.tokens) for sample in samples)
        ),
        max_shift=min(context, RANGE_FACTOR * max(sample.shift for sample in samples)),
        max_depth=max(sample.depth for sample in samples),
    )


def _measured(outcome: Outcome) -> Measured:
    worse = max(outcome.first, outcome.later, key=lambda drift: drift.kl)
    return Measured(
        kl=worse.kl,
        kl_high=worse.kl_high,
        top1=min(outcome.first.top1, outcome.later.top1),
        top1_low=min(outcome.first.top1_low, outcome.later.top1_low),
        compute_share_first=outcome.first.compute,
        compute_share_learned=outcome.later.compute,
        prompts=outcome.later.prompts,
        positions=outcome.later.positions,
    )


def _candidates(outcome: Outcome) -> list[MeasuredCandidate]:
    return [
        MeasuredCandidate(
            correction=ProfiledCorrection.of(candidate.correction),
            kl=candidate.drift.kl,
            kl_high=candidate.drift.kl_high,
            top1=candidate.drift.top1,
            top1_low=candidate.drift.top1_low,
            compute_share=candidate.drift.compute,
            prompts=candidate.drift.prompts,
            positions=candidate.drift.positions,
            confirming=candidate.part is Part.CONFIRMING,
            first_reuse=candidate.reuse is Reuse.FIRST,
            met=candidate.met,
        )
        for candidate in outcome.candidates
    ]


def _note(outcome: Outcome, effort: Effort, target: DriftTarget) -> str:
    notes = []
    if outcome.is_exact:
        notes.append(
            f"no correction met the target (KL at most {target.max_kl:g}, top-1 agreement at least"
            f" {target.min_top1:g}): requests are served exactly"
        )
    if effort.confidence <= 0.5:
        notes.append("estimates without a margin for luck, from few prompts: not for production")
    return "; ".join(notes)
