"""Values deeper than was calibrated are left out; the rest of the prompt is reused all the same."""

from __future__ import annotations

from raysparsex.plan.calibrated_bounds import CalibratedBounds
from tests.fakes.engine import FakeEngine
from tests.fakes.segments import random_tokens

BOUNDS = CalibratedBounds(reused_share=1.0, prompt_tokens=10_000, shift=10_000, depth=2)
DOCUMENT = random_tokens(400, seed=1)


def turns(engine: FakeEngine) -> list[int]:
    """A conversation whose turns stand on what was made by reuse: depths 1, 2, 3, ..."""
    said: list[int] = []
    for seed in range(2, 7):
        said = [*said, *random_tokens(120, seed=seed)]
        # Another beginning each time, so that no prefix is hit.
        prompt = [*random_tokens(40, seed=100 + seed), *DOCUMENT, *said]
        report = engine.run([*prompt, *random_tokens(30, seed=200 + seed)])
        assert report.fallback is None
        assert report.reused_tokens >= 0.9 * len(DOCUMENT)
    return said


def test_a_growing_conversation_keeps_reusing_what_is_not_deep() -> None:
    engine = FakeEngine(calibrated=BOUNDS)
    engine.run(DOCUMENT, reuse="exact")
    turns(engine)
    assert not engine.half.counters.fallbacks


def test_nothing_deeper_than_was_calibrated_is_left_to_others() -> None:
    engine = FakeEngine(calibrated=BOUNDS)
    engine.run(DOCUMENT, reuse="exact")
    turns(engine)
    held = engine.half.ledger.take_changes().held
    assert held
    assert max(record.depth for record in held) < BOUNDS.depth
