"""Which worlds are drawn when: from one to three short documents up to prompts of about 1,500
tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from training.samples import Sample, sample
from training.world import Shape

_rich = partial(Shape, pronouns=0.45, sharing=0.55)
STAGES: tuple[tuple[tuple[float, Shape], ...], ...] = (
    ((1.0, _rich(documents=(1, 3), facts=(1, 4), filler=0.0, kinds=(1, 2))),),
    ((1.0, _rich(documents=(2, 4), facts=(2, 4), filler=0.1, kinds=(1, 3))),),
    ((1.0, _rich(documents=(3, 6), facts=(2, 5), filler=0.15)),),
    (
        (0.7, _rich(documents=(4, 7), facts=(2, 5), filler=0.25)),
        (0.3, _rich(documents=(3, 6), facts=(2, 6), words=(0, 90))),
    ),
    (
        (0.5, _rich(documents=(4, 7), facts=(2, 5), filler=0.25)),
        (0.25, _rich(documents=(2, 6), facts=(2, 7), words=(0, 120))),
        (0.25, _rich(documents=(3, 6), facts=(3, 9), words=(120, 270))),
    ),
    (
        (0.35, _rich(documents=(4, 6), facts=(2, 6), words=(0, 34))),
        (0.4, _rich(documents=(4, 7), facts=(2, 6), words=(0, 34), sharing=0.75, kinds=(1, 2))),
        (0.125, _rich(documents=(2, 6), facts=(2, 7), words=(0, 120))),
        (0.125, _rich(documents=(3, 6), facts=(3, 9), words=(120, 270))),
    ),
)
SCENES = (0.0, 0.0, 0.0, 0.0, 0.0, 0.35)  # share of chats, hand-overs and judges, per stage


@dataclass(slots=True)
class Curriculum:
    """Moves to the next stage when answers have been right often enough for a while."""

    rng: Random
    stage: int = 0
    right: float = 0.0
    threshold: float = 0.8

    def note(self, right: float) -> bool:
        """Take in one batch's accuracy; True when a new stage begins."""
        self.right += 0.05 * (right - self.right)
        if self.right < self.threshold or self.stage == len(STAGES) - 1:
            return False
        self.stage += 1
        self.right = 0.5
        return True

    def draw(self) -> Callable[[], Sample]:
        """A pool's sampler: all samples of a pool have the same shape, so that little is padded."""
        weights, shapes = zip(*STAGES[self.stage], strict=True)
        shape = self.rng.choices(shapes, weights)[0]
        scenes = SCENES[self.stage]

        def one() -> Sample:
            few = self.rng.random() < 0.3
            questions = self.rng.randint(1, 4) if few else 24
            return sample(self.rng, shape, questions, notes=0.06, plain=0.1, scenes=scenes)

        return one
