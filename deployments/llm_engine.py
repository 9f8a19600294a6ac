"""vLLM's engine as a deployment runs it: started with facts kept, outputs noted as they pass.

The only deployment module that imports vllm. What it notes is put into responses elsewhere.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, NamedTuple

from vllm.config import VllmConfig
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.executor.abstract import Executor
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger
from vllm.v1.metrics.stats import SchedulerStats

from .reuse_report import cached_tokens, note

MOST_REPORTS = 1024
REPORT_POLLS = 50
REPORT_POLL_SECONDS = 0.005


class EngineFacts(NamedTuple):
    """What an engine holds. All but `unfinished` are as of its latest step."""

    unfinished: int
    """requests that were accepted and not yet answered or aborted"""
    running: int
    waiting: int
    kv_cache_usage: float
    """share of KV blocks that requests hold; blocks kept for their prefix alone are free"""
    connector: dict[str, Any] | None
    """the connector's own statistics, of the last step that changed them"""


class LatestStats(StatLoggerBase):
    """Keeps the scheduler's latest statistics."""

    def __init__(self, vllm_config: VllmConfig, engine_index: int = 0) -> None:
        self.latest = SchedulerStats()
        self.connector: dict[str, Any] | None = None
        self._reports: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def record(
        self, scheduler_stats: SchedulerStats | None, iteration_stats: Any, *_: Any, **__: Any
    ) -> None:
        if scheduler_stats is None:
            return
        self.latest = scheduler_stats
        if scheduler_stats.kv_connector_stats is None:
            return  # the connector is silent in steps that change nothing for it
        self.connector = scheduler_stats.kv_connector_stats
        self._reports.update(self.connector.get("reports", {}))
        while len(self._reports) > MOST_REPORTS:
            self._reports.popitem(last=False)

    async def report_of(self, request_id: str) -> dict[str, Any] | None:
        """The reuse of a request that ended at a stop string; None if it does not come in time.

        vLLM ends such a request outside of the engine. The connector therefore tells the reuse of a
        request with stop strings with the statistics, from the step behind its prefill on.
        """
        for _ in range(REPORT_POLLS):
            for engine_id in self._reports:
                # vLLM adds a random part behind the id, and for n > 1 an index in front.
                if engine_id.rpartition("-")[0].endswith(request_id):
                    return self._reports.pop(engine_id)
            await asyncio.sleep(REPORT_POLL_SECONDS)
        return None

    def log_engine_initialized(self) -> None:
        """Nothing to log."""


class ReuseLLM(AsyncLLM):
    """AsyncLLM that notes each request's reuse and counts its cached tokens truthfully."""

    stats: LatestStats

    async def generate(self, *args: Any, **kwargs: Any) -> AsyncGenerator[RequestOutput, None]:
        async with aclosing(super().generate(*args, **kwargs)) as outputs:
            async for output in outputs:
                if output.finished and output.kv_transfer_params is None:
                    output.kv_transfer_params = await self.stats.report_of(output.request_id)
                note(output.kv_transfer_params)
                cached = cached_tokens(output.kv_transfer_params)
                if cached is not None:
                    output.num_cached_tokens = cached
                yield output

    def facts(self) -> EngineFacts:
        latest = self.stats.latest
        return EngineFacts(
            unfinished=self.get_num_unfinished_requests(),
            running=latest.num_running_reqs,
            waiting=latest.num_waiting_reqs + latest.num_skipped_waiting_reqs,
            kv_cache_usage=latest.kv_cache_usage,
            connector=self.stats.connector,
        )


def start_llm(config: VllmConfig, log_stats: bool) -> ReuseLLM:
    """Start the engine process. Metrics go to Ray's Prometheus endpoint."""
    _run_single_cpu_worker_in_engine_process(config)
    stats = LatestStats(config)
    loggers: list[Any] = [RayPrometheusStatLogger] if log_stats else []
    llm = ReuseLLM(
        vllm_config=config,
        executor_class=Executor.get_class(config),
        log_requests=False,
        log_stats=log_stats,
        stat_loggers=[*loggers, lambda *_: stats],
    )
    llm.stats = stats
    return llm


def _run_single_cpu_worker_in_engine_process(config: VllmConfig) -> None:
    """Save a process, and with it the time to import vLLM again and a hop per step.

    vLLM asks for a worker process on CPUs because only a new process can be bound to cores;
    a deployment does not bind (`OMP_NUM_THREADS` is in the replica's environment instead).
    """
    parallel = config.parallel_config
    if config.device_config.device_type == "cpu" and parallel.world_size == 1:
        parallel.distributed_executor_backend = "uni"
