"""What an engine is asked, in which scope, and what is never asked twice."""

from __future__ import annotations

from random import Random

import pytest

from raysparsex.calibration.measure import Meter
from raysparsex.calibration.search import Part, Reuse
from raysparsex.calibration.workload import samples_of
from raysparsex.config import SelectorName
from raysparsex.errors import RaySparseXError
from raysparsex.plan.correction import Correction
from tests.unit.calibration.fake_engine import FakeEngine, MemoryJournal
from tests.unit.calibration.test_workload import draft

RNG = Random(0)
SAMPLES = {part: samples_of([draft(RNG) for _ in range(4)], RNG) for part in Part}


def correction(suspects: float = 1.0, layers: int = 2) -> Correction:
    return Correction(
        selector=SelectorName.TWO_STEP, budget=0.1, full_layers=layers, suspects=suspects
    )  # fmt: skip


def meter(engine: FakeEngine, journal: MemoryJournal | None = None) -> Meter:
    return Meter(
        engine, SAMPLES, answer_tokens=3, confidence=0.9, journal=journal or MemoryJournal()
    )


def test_an_engine_that_does_not_drift_is_measured_as_such() -> None:
    drift = meter(FakeEngine())(correction(), Part.CHOOSING, Reuse.FIRST)
    assert (drift.kl, drift.top1, drift.prompts, drift.positions) == (0.0, 1.0, 4, 12)
    assert drift.compute == pytest.approx(0.4)


def test_drift_is_seen_in_probabilities_and_in_tokens() -> None:
    near = meter(FakeEngine(lambda _: 0.1))(correction(), Part.CHOOSING, Reuse.FIRST)
    assert near.kl > 0
    assert near.top1 == 1.0
    far = meter(FakeEngine(lambda _: 0.4))(correction(), Part.CHOOSING, Reuse.FIRST)
    assert far.kl > near.kl
    assert (far.top1, far.positions) == (0.0, 4)


def test_the_compared_prompt_is_asked_with_the_correction_and_leaves_nothing() -> None:
    engine = FakeEngine()
    meter(engine)(correction(), Part.CHOOSING, Reuse.FIRST)
    prompts = {sample.prompt.tokens for sample in SAMPLES[Part.CHOOSING]}
    compared = [a for a in engine.asked if a.tokens in prompts and a.params["reuse"] == "sparse"]
    assert len(compared) == 4
    for asked in compared:
        assert asked.params["publish"] is False
        assert (asked.params["selector"], asked.params["budget"]) == ("two_step", 0.1)
        assert (asked.params["full_layers"], asked.params["suspects"]) == (2, 1.0)
        assert asked.params["segments"]


def test_documents_are_computed_once_for_many_corrections() -> None:
    engine = FakeEngine()
    ask = meter(engine)
    for layers in (1, 2, 3):
        ask(correction(layers=layers), Part.CHOOSING, Reuse.FIRST)
    elsewhere = [a for a in engine.asked if a.params["reuse"] == "exact"]
    once = [len(s.elsewhere) for s in SAMPLES[Part.CHOOSING] if s.depth == 1]
    in_turns = [1 for s in SAMPLES[Part.CHOOSING] if s.depth > 1]
    assert len(elsewhere) == sum(once) + 3 * sum(in_turns)
    assert sum(a.params["reuse"] == "off" for a in engine.asked) == 4


def test_no_two_samples_share_a_scope() -> None:
    engine = FakeEngine()
    meter(engine)(correction(), Part.CHOOSING, Reuse.FIRST)
    prompts = {sample.prompt.tokens: n for n, sample in enumerate(SAMPLES[Part.CHOOSING])}
    scopes = {a.salt for a in engine.asked if a.tokens in prompts and a.params["reuse"] != "off"}
    assert len(scopes) == len(prompts)


def test_before_suspects_are_measured_the_engine_learns_from_other_prompts() -> None:
    engine = FakeEngine()
    ask = meter(engine)
    ask(correction(0.4), Part.CHOOSING, Reuse.FIRST)
    lessons = {sample.learning.tokens for sample in SAMPLES[Part.TEACHING]}
    measured = {s.learning.tokens for part in Part for s in SAMPLES[part]} - lessons
    asked = [a.tokens for a in engine.asked]
    assert lessons <= set(asked)
    assert not measured & set(asked)
    assert engine.fixed == 1
    ask(correction(0.6), Part.CHOOSING, Reuse.FIRST)
    ask(correction(0.4, layers=3), Part.CHOOSING, Reuse.FIRST)
    assert engine.fixed == 2, "once for each number of full layers"


def test_prompts_that_teach_count_as_progress_like_those_that_are_measured() -> None:
    done: list[int] = []
    measuring = Meter(
        FakeEngine(),
        SAMPLES,
        answer_tokens=3,
        confidence=0.9,
        journal=MemoryJournal(),
        done=lambda: done.append(1),
        more=lambda prompts: done.append(-prompts),
    )
    measuring(correction(suspects=0.5), Part.CHOOSING, Reuse.FIRST)
    assert done == [-4, *[1] * 8]


def test_a_later_reuse_has_one_before_it_with_all_tokens_suspect() -> None:
    engine = FakeEngine()
    meter(engine)(correction(0.4), Part.CONFIRMING, Reuse.LATER)
    for sample in SAMPLES[Part.CONFIRMING]:
        (asked,) = [a for a in engine.asked if a.tokens == sample.learning.tokens]
        assert asked.params["suspects"] == 1.0
        assert "publish" not in asked.params


def test_what_was_kept_is_not_measured_again() -> None:
    journal, engine = MemoryJournal(), FakeEngine()
    first = meter(engine, journal)(correction(0.4), Part.CHOOSING, Reuse.LATER)
    other = FakeEngine(lambda _: 0.4)
    assert meter(other, journal)(correction(0.4), Part.CHOOSING, Reuse.LATER) == first
    assert other.asked == []


def test_what_the_profile_is_to_hold_is_learned_even_if_all_measurements_were_kept() -> None:
    engine = FakeEngine()
    assert meter(engine).sensitivity(correction(1.0)) is None
    found = meter(engine).sensitivity(correction(0.4, layers=3))
    assert found is not None
    assert found.full_layers == 3
    assert engine.fixed == 1


class Forgetful(FakeEngine):
    """Loses documents, once or always."""

    def __init__(self, losses: int) -> None:
        super().__init__()
        self.losses = losses

    def ask(self, tokens, params, *, max_tokens, salt):  # type: ignore[no-untyped-def]
        if params.get("publish") is False and self.losses:
            self.losses -= 1
            self._held.clear()
        return super().ask(tokens, params, max_tokens=max_tokens, salt=salt)


def test_documents_that_were_lost_are_computed_again() -> None:
    engine = Forgetful(losses=1)
    assert meter(engine)(correction(), Part.CHOOSING, Reuse.FIRST).prompts == 4
    assert engine.forgotten == 1


def test_a_measurement_without_reuse_does_not_pass_for_a_good_one() -> None:
    with pytest.raises(RaySparseXError, match="was to reuse"):
        meter(Forgetful(losses=99))(correction(), Part.CHOOSING, Reuse.FIRST)
