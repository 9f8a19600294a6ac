"""Gets one request answered: routed, sent, and sent again if its replica is lost before it answers.

    nothing answered yet   another replica is tried, at most ATTEMPTS in all
    part of it is out      the stream ends with an error event in OpenAI's form

An answer that has begun is never begun again elsewhere: what was said cannot be taken back.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from ray.exceptions import RayActorError, WorkerCrashedError
from ray.llm._internal.serve.core.configs.openai_api_models import ErrorResponse

from raysparsex.registry.events import HolderId
from raysparsex.routing.prompt import NamedPrompt

from .openai_errors import RequestRefused, refusal_body, refused_by_engine
from .prompt_router import Journey, PromptRouter

logger = logging.getLogger(__name__)

ATTEMPTS = 3
LOST = RequestRefused(
    503, "the replica that answered was lost; send the request again", code="replica_lost"
)

Send = Callable[[], AsyncGenerator[Any, None]]


class ReplicaLost(Exception):
    """The replica is gone; one whose engine dies ends itself (`llm_engine.end_replica`)."""


class Delivery:
    """One request on its way."""

    def __init__(self, router: PromptRouter | None, request_id: str, send: Send) -> None:
        """`router`: None where Ray Serve chooses by itself."""
        self._router = router
        self._request_id = request_id
        self._send = send
        self._lost: set[HolderId] = set()
        self.replica: HolderId | None = None
        """The one that answers."""

    async def answer(
        self, prompt: NamedPrompt | None, streams: bool, asked: str | None = None
    ) -> AsyncGenerator[Any, None]:
        """The replica's responses. Raises RequestRefused as long as nothing was answered."""
        for attempt in range(1, ATTEMPTS + 1):
            begun = False
            try:
                async with aclosing(self._attempt(prompt, streams, asked)) as responses:
                    async for response in responses:
                        begun = True
                        yield response
                return
            except ReplicaLost as problem:
                logger.warning("request %s: replica %s was lost", self._request_id, self.replica)
                if begun:
                    yield f"data: {json.dumps(refusal_body(LOST))}\n\n"
                    return
                if attempt == ATTEMPTS:
                    raise LOST from problem
                asked = None

    async def _attempt(
        self, prompt: NamedPrompt | None, streams: bool, asked: str | None
    ) -> AsyncGenerator[Any, None]:
        journey = self._begin(prompt, asked)
        try:
            async with aclosing(_checked(self._send())) as responses:
                async for response in responses:
                    if journey is not None and self._router is not None:
                        self._router.answers(journey, is_first_token=streams)
                        self.replica = journey.holder
                    yield response
        except ReplicaLost:
            if journey is not None and journey.holder is not None:
                self.replica = journey.holder
                self._lost.add(journey.holder)
            raise
        finally:
            if journey is not None and self._router is not None:
                self._router.ended(self._request_id, journey)

    def _begin(self, prompt: NamedPrompt | None, asked: str | None) -> Journey | None:
        if self._router is None:
            return None
        if self._lost:
            self._router.sent_again()
        return self._router.send(self._request_id, prompt, asked, self._lost)


async def _checked(responses: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    """Responses as they come; what failed, as one of two exceptions."""
    begun = False
    try:
        async with aclosing(responses):
            async for response in responses:
                first = response[0] if isinstance(response, list) and response else response
                if isinstance(first, ErrorResponse) and not begun:
                    error = first.error
                    raise refused_by_engine(error.code, error.message, error.param)
                begun = True
                yield response
    except (RayActorError, WorkerCrashedError) as problem:
        raise ReplicaLost from problem
