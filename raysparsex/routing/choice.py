"""From a ranking to one replica: ties spread load, and without a registry two queues decide."""

from __future__ import annotations

import numpy as np

from raysparsex.routing.fleet import Fleet
from raysparsex.routing.score import Cost, Prompt, Ranking


def choose(ranking: Ranking, tie_share: float, rng: np.random.Generator) -> Cost | None:
    """One of the best, at random among equals and rather one with a short queue.

    None: there is no replica.
    """
    if not len(ranking):
        return None
    price = ranking.price
    # The ranking is sorted, so equals stand first.
    equals = int(np.searchsorted(price, price[0] * (1 + tie_share), side="right"))
    if equals == 1:
        return ranking.cost(0)
    weights = 1.0 / (ranking.queue[:equals] + 0.1 * price[0] + 1e-9)
    reach = np.cumsum(weights)
    return ranking.cost(int(np.searchsorted(reach, rng.random() * reach[-1], side="right")))


def power_of_two(prompt: Prompt, fleet: Fleet, rng: np.random.Generator) -> Ranking:
    """Two replicas at random, the shorter queue first; all tokens count as new.

    For when the registry does not answer in time; marked, so that callers can count it.
    """
    picked = rng.choice(len(fleet), size=min(2, len(fleet)), replace=False)
    queue = fleet.queue_seconds[picked]
    order = np.argsort(queue, kind="stable")
    rows = picked[order]
    tokens = np.full(len(rows), float(prompt.other_tokens + prompt.tokens.sum()))
    return Ranking(
        rows=rows,
        names=fleet.holders,
        queue=queue[order],
        compute=tokens * fleet.seconds_per_token[rows],
        transfer=np.zeros(len(rows)),
        delay=np.zeros(len(rows)),
        priced_tokens=tokens,
        fetching=np.zeros(len(rows), np.bool_),
        degraded=True,
    )
