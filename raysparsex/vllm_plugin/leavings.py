"""What a request leaves to others: which of its segments are of use, and when they are queued.

Knows the request and the planner's cuts; `publishing` knows the queue and its portions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from raysparsex.vllm_plugin.publishing import Candidate, PublishQueue, candidates
from raysparsex.vllm_plugin.request_planner import RequestPlanner
from raysparsex.vllm_plugin.tracked_request import TrackedRequest

logger = logging.getLogger("vllm.raysparsex")


class Leavings:
    """One engine's; called from the scheduler half."""

    def __init__(self, planner: RequestPlanner, queue: PublishQueue) -> None:
        self._planner = planner
        self._queue = queue

    def of_prompt(self, tracked: TrackedRequest) -> Iterable[Candidate]:
        """What its prompt leaves, reused spans aside."""
        if not self._is_of_use(tracked):
            return ()
        # An approximate prefix may hold reused tokens, which are never published again.
        first = tracked.prefix_tokens if tracked.prefix_depth > 0 else 0
        reused = tracked.plan.reused if tracked.plan else ()
        segments = self._planner.segments(tracked)
        return candidates(
            segments,
            depth=tracked.depth,
            reused=reused,
            first=first,
            public=tracked.is_public,
            tenant=tracked.tenant,
        )

    def queue_prompt(self, tracked: TrackedRequest) -> None:
        """Its prompt is computed."""
        try:
            tracked.leaves.update(self._queue.add(tracked.id, self.of_prompt(tracked)))
        except Exception:
            # What is not shared is computed again; the engine must go on.
            logger.exception("nothing of %s is published", tracked.id)
            tracked.publishes = False

    def queue_rest(self, tracked: TrackedRequest) -> bool:
        """Queue what a finished request has not published; whether anything is queued of it."""
        request, owner = tracked.request, tracked.id
        # The last token was sampled, but its K and V were never computed.
        computed = min(request.num_computed_tokens, request.num_tokens - 1)
        if not self._is_of_use(tracked) or not tracked.prompt_is_computed:
            return False
        self.queue_prompt(tracked)
        if not tracked.publishes:
            return False
        if tracked.is_public:  # what a model says about a document is not the document
            return owner in self._queue
        try:
            output = self._planner.segments(tracked).of_output(
                request.all_token_ids[request.num_prompt_tokens : computed]
            )
            answer = candidates(output, depth=tracked.depth, tenant=tracked.tenant)
            tracked.leaves.update(self._queue.add(owner, answer))
        except Exception:
            logger.exception("the answer of %s is not published", owner)
        return owner in self._queue

    def _is_of_use(self, tracked: TrackedRequest) -> bool:
        """Whether others may and could reuse what this request computes."""
        return tracked.publishes and tracked.depth < self._planner.max_depth
