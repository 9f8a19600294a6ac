"""Whoever stands at the end of a chain of approximations computes some of it anew, for the next.

    exact 0 ── 1 ── 2 ── 3 ─┤ bound            what is computed on 3 cannot be left to others:
                │                              each of them would compute it again
                └── 2                          what reuses nothing deeper than 1 can, and leaves the
                                               deeper segments anew as well

Reusing less costs now, and lets more generations build on the result before one of them stands
where this one does. The plan with the least cost for each of them is taken. Pure.
"""

from __future__ import annotations

from collections.abc import Callable

from raysparsex.plan.reuse_plan import ReusePlan

HARDLY_MORE = 1.1
"""Times the cost of the dead end. Edges of what was renewed, which were cut otherwise before, are
still as deep as they were."""
PlanBelow = Callable[[int], ReusePlan | None]
"""The plan that reuses nothing as deep as this; None: nothing worth reusing."""


def renewing_plan(
    dead_end: ReusePlan, bound: int, below: PlanBelow, cost: Callable[[ReusePlan], float]
) -> ReusePlan | None:
    """What to do instead of a plan whose results nobody may build on; None: prefill plainly, as
    all that could be reused is too deep.

    `bound`: nothing as deep as this is built on. `cost`: of a plan, in tokens without reuse. The
    dead end stays where no plan would leave anything less deep than it is held.
    """
    depths = range(dead_end.prefix_depth + 1, bound - 1)
    if not depths:
        return dead_end
    # This one leaves what is too deep as deep as it is, for the next to pay for it again.
    nearest = below(bound - 1)
    if nearest is not None and cost(nearest) <= HARDLY_MORE * cost(dead_end):
        return nearest
    plans = [plan for depth in depths if (plan := below(depth)) is not None]
    return min(plans, key=lambda plan: cost(plan) / (bound - plan.depth), default=None)
