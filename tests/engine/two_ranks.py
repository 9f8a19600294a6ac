"""The same questions to an engine of one or two tensor-parallel ranks, in a process of its own.

python -m tests.engine.two_ranks MODEL RANKS prints one JSON list: answers by selector.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

SELECTORS = ("all", "two_step", "sparse_q", "none")


def main() -> None:
    ranks = int(sys.argv[2])
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(map(str, range(ranks)))
    from tests.engine.engine import Engine, joined, tokens

    engine = Engine(Path(sys.argv[1]), ranks=ranks)
    rng = random.Random(0)
    documents = [tokens(rng, 300) for _ in range(3)]
    prompt = [*tokens(rng, 30), *joined(reversed(documents)), *tokens(rng, 30)]
    source = [*tokens(rng, 20), *joined(documents)]
    answers = []
    for selector in SELECTORS:
        engine.forget()
        engine.one(source)
        answer = engine.one(prompt, selector=selector, full_layers=2)
        answers.append([answer.logprobs[0], answer.reuse["reused_tokens"]])
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
