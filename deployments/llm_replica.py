"""The model replica: `ray.serve.llm`'s server and engine, made to report what was reused.

vLLM counts every token that a connector provides as cached, and leaves `kv_transfer_params` out of
streamed chunks. Both are mended here, between vLLM's engine and its OpenAI layer. HTTP, routing and
the checking of requests are not known here.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import ray
from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.exceptions import RayServeException
from ray.serve.llm.deployment import LLMServer

from raysparsex.registry.events import HolderId, NodeId
from raysparsex.store.ray_cluster import NODE_IP

from .autoscaling import WAITING_TOKENS
from .llm_engine import EngineFacts, Hearer, ReuseLLM, start_llm
from .residency import REGISTRY_SHARDS, Residency, announce_for_ever
from .reuse_report import ReuseReport
from .shared_store import TENANT_QUOTAS, open_shared_store


class LocalModelCallback(CallbackBase):
    """Skips the download step: it would import vLLM once more to find the files already there."""

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


class ReuseEngine(VLLMEngine):
    """`ray.serve.llm`'s vLLM engine, with the reuse of each request in its answer."""

    _engine_client: ReuseLLM

    async def start(self) -> None:
        await super().start()
        # Ray 2.60 asks vLLM for `openai_serving_tokenization`; vLLM 0.32 calls it otherwise.
        self._oai_serving_tokenization = self._app_state.serving_tokenization
        await self._engine_client.warm_up()

    def _start_async_llm_engine(
        self, vllm_engine_args: Any, vllm_engine_config: Any, placement_group: Any
    ) -> ReuseLLM:
        vllm_engine_config.parallel_config.placement_group = placement_group
        # For the engine's own process, which joins the cluster by itself.
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        os.environ[NODE_IP] = ray.util.get_node_ip_address()
        log_stats = not vllm_engine_args.disable_log_stats
        return start_llm(vllm_engine_config, log_stats, holder=_holder())

    def chat(self, request: Any, raw_request_info: Any = None) -> AsyncGenerator[Any, None]:
        _let_greedy_have_choices(request, self._oai_serving_chat)
        return _reporting(super().chat(request, raw_request_info))

    def completions(self, request: Any, raw_request_info: Any = None) -> AsyncGenerator[Any, None]:
        _let_greedy_have_choices(request, self._oai_serving_completion)
        return _reporting(super().completions(request, raw_request_info))

    def facts(self) -> EngineFacts:
        return self._engine_client.facts()

    def prompt_facts(self) -> dict[str, Any]:
        return self._engine_client.prompt_facts()

    def tell_news(self, hearer: Hearer) -> None:
        """From now on it is told which segments come and go in the engine's own store."""
        self._engine_client.stats.hearer = hearer


class ReuseServer(LLMServer):
    """The Serve deployment of one model replica."""

    _default_engine_cls = ReuseEngine
    engine: ReuseEngine
    _announcing: asyncio.Task[None] | None = None

    async def _start_engine(self) -> None:
        """Start the engine alone: the base class also starts a usage-statistics actor."""
        quotas = self._llm_config.experimental_configs.get(TENANT_QUOTAS, {})
        await open_shared_store(self._llm_config.engine_kwargs, quotas)
        await self.engine.start()
        # Starting may have taken longer than a store without replicas is kept.
        await open_shared_store(self._llm_config.engine_kwargs, quotas)
        self._announce()

    def _announce(self) -> None:
        """Tell the registry what the engine holds, if the deployment has one."""
        shards, holder = self._llm_config.experimental_configs.get(REGISTRY_SHARDS, 0), _holder()
        if not shards or holder is None:
            return
        node = NodeId(ray.get_runtime_context().get_node_id())
        ranks = self._llm_config.engine_kwargs.get("tensor_parallel_size", 1)
        residency = Residency(holder, node, ranks)
        self.engine.tell_news(residency)
        self._announcing = asyncio.create_task(announce_for_ever(residency, shards))

    async def engine_facts(self) -> dict[str, Any]:
        """Which replica this is, and what its engine holds now; see EngineFacts."""
        return {"replica": _holder(), **self.engine.facts()._asdict()}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """For `autoscaling.LoadPolicy`; Ray Serve asks by itself."""
        return {WAITING_TOKENS: float(self.engine.facts().waiting_tokens)}

    async def prompt_facts(self) -> dict[str, Any]:
        """What a router needs to know of the model; see `prompt_names.PromptFacts`."""
        return self.engine.prompt_facts()


def _holder() -> HolderId | None:
    """This replica as the registry names it; None outside of Ray Serve."""
    try:
        return HolderId(serve.get_replica_context().replica_id.unique_id)
    except RayServeException:
        return None


def _let_greedy_have_choices(request: Any, serving: Any) -> None:
    """vLLM refuses n > 1 at temperature 0, OpenAI answers it: sampling from one token is greedy."""
    temperature = request.temperature
    if temperature is None:
        temperature = serving.default_sampling_params.get("temperature", 1.0)
    if (request.n or 1) > 1 and temperature == 0:
        request.temperature, request.top_k = 1.0, 1


async def _reporting(responses: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    """Put the request's reuse into its streamed chunks; whole responses have it already."""
    report = ReuseReport.open()
    async with aclosing(responses):
        async for response in responses:
            yield report.added_to(response) if isinstance(response, str) else response
