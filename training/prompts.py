"""Sample prompts of the task, one JSON object a line, for `raysparsex calibrate --prompts`.

    python -m training.prompts --count 240 > prompts.jsonl

All families in turn, every fifth prompt a long one, from worlds that neither training nor the
quality benchmark asks about.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from random import Random

from training.world import FAMILIES, LONG, SHORT, generate

SEED = 440_001


def prompts(count: int, seed: int) -> Iterator[dict[str, object]]:
    """Prompts as chat messages."""
    rng = Random(f"{seed}/calibration")
    for number in range(count):
        family = FAMILIES[number % len(FAMILIES)]
        shape = LONG if number % 5 == 4 else SHORT
        yield {"messages": generate(rng, family, shape).messages("messages")}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.prompts", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--count", type=int, default=240, help="prompts (default: 240)")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the worlds")
    options = parser.parse_args()
    for prompt in prompts(options.count, options.seed):
        print(json.dumps(prompt))


if __name__ == "__main__":
    main()
