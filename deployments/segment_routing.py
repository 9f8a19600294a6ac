"""Routing by segments as one ingress process has it: what it needs, opened and kept up to date."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from ray.serve.llm import LLMConfig

from raysparsex.config import ReuseSettings, parse_request
from raysparsex.registry.events import Transferred
from raysparsex.routing.prompt import NamedPrompt
from raysparsex.routing.route_table import ROUTES
from raysparsex.routing.score import Pricing

from .cluster_metrics import ClusterMetrics
from .prompt_names import PromptFacts, PromptNames
from .prompt_router import PromptRouter
from .registry_follower import RegistryFollower
from .registry_service import RegistrySettings, ensure_registry
from .routing_metrics import RoutingMetrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RoutingSetup:
    """What the ingress is sent, to make its `SegmentRouting` of."""

    config: LLMConfig
    settings: ReuseSettings
    registry: RegistrySettings


class SegmentRouting:
    """The parts that decide, in one process."""

    def __init__(self, setup: RoutingSetup) -> None:
        """Loads the tokenizer, and has the registry running."""
        ensure_registry(setup.registry)
        self._names = PromptNames(setup.config, setup.settings)
        self._follower = RegistryFollower(setup.registry.shards, hear=self._hear)
        pricing = Pricing(max_depth=setup.settings.reuse.max_depth)
        self.router = PromptRouter(self._follower, ROUTES, RoutingMetrics(), pricing)
        self._figures = ClusterMetrics(setup.registry.shards)
        self._asking: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None

    def keep_up(self, handle: Any) -> None:
        """To be called every few seconds, from the event loop."""
        self._follower.start()
        if not self._names.is_known and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._learn(handle))
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell_figures())

    async def named(self, body: Any) -> NamedPrompt | None:
        """The prompt of a checked request; None: there is nothing to score."""
        given = body.kv_transfer_params
        return await self._names.of(body, parse_request(given))

    def facts(self) -> dict[str, Any]:
        """For operators and tests."""
        return {**self.router.facts(), "names": self._names.is_known}

    def _hear(self, transfer: Transferred) -> None:
        self.router.hear(transfer)

    async def _tell_figures(self) -> None:
        try:
            await self._figures.tell({**self._follower.counts, "age": self._follower.age_seconds})
        except Exception:
            logger.exception("the figures of the cluster were not told")

    async def _learn(self, handle: Any) -> None:
        try:
            facts = PromptFacts(**await handle.prompt_facts.remote())
        except Exception as problem:
            logger.info("no replica tells about the model yet: %s", problem)
            return
        self._names.learn(facts)
        self.router.price(facts.correction_share, facts.max_depth)
