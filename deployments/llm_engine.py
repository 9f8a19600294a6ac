"""vLLM's engine as a deployment runs it: with a gate before it, facts kept, outputs noted.

The only deployment module that imports vllm. What the gate does is decided in `gatekeeper.py`, and
what is noted is put into responses elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, NamedTuple, NoReturn, Protocol

from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.executor.abstract import Executor
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger
from vllm.v1.metrics.stats import SchedulerStats

from raysparsex.config import parse_settings
from raysparsex.gate.compare import Answer
from raysparsex.gate.levels import OwnCorrection, exactly, without_traces
from raysparsex.plan.compute_share import correction_share
from raysparsex.plan.correction import safe_correction
from raysparsex.vllm_plugin.calibrated import calibrated
from raysparsex.vllm_plugin.model_identity import fingerprint_of, shape_of, special_tokens_of

from .checked_answer import as_position
from .gate_builder import build_gatekeeper
from .gatekeeper import Gatekeeper, Shadow
from .hints import is_release
from .reuse_report import cached_tokens, note

logger = logging.getLogger(__name__)

MOST_REPORTS = 1024
REPORT_POLLS = 50
REPORT_POLL_SECONDS = 0.005
SHADOW = "raysparsex-shadow-"
"""How the ids of shadow requests begin; those of users begin with `chatcmpl-` or `cmpl-`."""
SHADOWS_PRIORITY = 1 << 51
"""Behind all users: vLLM takes the lower number first, and preempts the higher one first."""
QUIET_KV_USAGE = 0.8


class EngineFacts(NamedTuple):
    """What an engine holds. All but `unfinished` are as of its latest step."""

    unfinished: int
    """requests that were accepted and not yet answered or aborted"""
    running: int
    waiting: int
    waiting_tokens: int
    """prompt tokens of users' requests that have no answer yet"""
    kv_cache_usage: float
    """share of KV blocks that requests hold; blocks kept for their prefix alone are free"""
    connector: dict[str, Any] | None
    """the connector's own statistics, of the last step that changed them"""
    gate: dict[str, Any]
    """levels above normal by tenant, and counts since the start"""


class Hearer(Protocol):
    """What `residency.Residency` offers of this."""

    def take(self, changes: list[list[Any]], transfers: list[list[Any]]) -> None:
        """News of one step, as in `vllm_plugin.stats.ReuseStats`; either may be empty."""


class LatestStats(StatLoggerBase):
    """Keeps the scheduler's latest statistics."""

    def __init__(self, vllm_config: VllmConfig, engine_index: int = 0) -> None:
        self.latest = SchedulerStats()
        self.connector: dict[str, Any] | None = None
        self.hearer: Hearer | None = None
        """Is told what came and went in the engine, and how long fetching took."""
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
        # Taken out: facts are told as JSON, which knows no bytes.
        changes = self.connector.pop("changes", [])
        transfers = self.connector.pop("transfers", [])
        if self.hearer is not None:
            self.hearer.take(changes, transfers)
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


class UserMetrics(RayPrometheusStatLogger):
    """vLLM's metrics, without the ended shadow requests.

    Their tokens remain in the token counters, and their latencies in those of single tokens: vLLM
    adds these up before it tells them.
    """

    def record(
        self, scheduler_stats: SchedulerStats | None, iteration_stats: Any, *args: Any, **more: Any
    ) -> None:
        if iteration_stats is not None:
            ended = iteration_stats.finished_requests
            ended[:] = [one for one in ended if not str(one.request_id).startswith(SHADOW)]
        super().record(scheduler_stats, iteration_stats, *args, **more)


class ReuseLLM(AsyncLLM):
    """AsyncLLM behind the gate; notes each request's reuse and counts cached tokens truthfully."""

    stats: LatestStats
    gatekeeper: Gatekeeper
    _shadows = 0
    """running"""
    _waiting_tokens = 0

    async def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **more: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        # The ingress has set it (`hints.Programs`); a client cannot.
        more["priority"] = min(max(more.get("priority") or 0, 0), SHADOWS_PRIORITY - 1)
        params = (sampling_params.extra_args or {}).get("kv_transfer_params") or {}
        if is_release(more["priority"], params):
            yield await self._release(prompt, sampling_params, request_id)
            return
        gated = self.gatekeeper.admit(prompt, sampling_params, more.get("lora_request"))
        sampling = gated.sampling if gated else sampling_params
        answers = super().generate(prompt, sampling, request_id, **more)
        async with aclosing(self._waited_for(prompt, answers)) as outputs:
            async for output in outputs:
                if output.finished and output.kv_transfer_params is None:
                    output.kv_transfer_params = await self.stats.report_of(output.request_id)
                if gated:
                    gated.hear(output)
                note(output.kv_transfer_params)
                cached = cached_tokens(output.kv_transfer_params)
                if cached is not None:
                    output.num_cached_tokens = cached
                yield output

    async def _release(
        self, prompt: Any, sampling: SamplingParams, request_id: str
    ) -> RequestOutput:
        """Have the connector end the wish to keep a prompt; it hears of wishes as requests end.

        vLLM has requests that end as they begin, for connectors that clean up. Nothing is computed,
        and nobody waits in front of it.
        """
        tasks = await self.get_supported_tasks()
        request = self.input_processor.process_inputs(request_id, prompt, sampling, tasks)
        self.input_processor.assign_request_id(request)
        request.abort_immediately = True
        await self.engine_core.add_request_async(request)
        nothing = CompletionOutput(0, "", [], None, None, finish_reason="stop")
        tokens = request.prompt_token_ids
        return RequestOutput(request_id, None, tokens, None, [nothing], finished=True)

    async def _waited_for(
        self, prompt: Any, answers: AsyncGenerator[RequestOutput, None]
    ) -> AsyncGenerator[RequestOutput, None]:
        """The same, its prompt counted as waiting until the first of them."""
        tokens = len(prompt.get("prompt_token_ids") or ()) if isinstance(prompt, dict) else 0
        self._waiting_tokens += tokens
        try:
            async with aclosing(answers):
                async for output in answers:
                    self._waiting_tokens, tokens = self._waiting_tokens - tokens, 0
                    yield output
        except EngineDeadError:
            end_replica()
        finally:
            self._waiting_tokens -= tokens

    async def run_shadow(self, prompt: Any, params: dict[str, Any], tokens: int) -> Shadow:
        """Run a prompt greedily behind all users, and tell what was likely."""
        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=tokens,
            logprobs=self.gatekeeper.logprobs,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args={"kv_transfer_params": params},
        )
        # The prompt carries its user's arrival, from which vLLM would measure.
        again = {name: value for name, value in prompt.items() if name != "arrival_time"}
        request_id = f"{SHADOW}{uuid.uuid4().hex}"
        self._shadows += 1
        try:
            answers = super().generate(again, sampling, request_id, priority=SHADOWS_PRIORITY)
            async with aclosing(answers) as outputs:
                (last,) = [output async for output in outputs]
        finally:
            self._shadows -= 1
        return _shadow(last)

    async def warm_up(self) -> None:
        """Ask for log-probabilities once, before there are users.

        Where vLLM compiles, it compiles them at their first use, which holds up all requests for
        seconds; with checks, some user's request would be the first.
        """
        if not self.model_config.enforce_eager:
            prompt = {"type": "token", "prompt_token_ids": [0]}
            await self.run_shadow(prompt, without_traces(exactly({})), tokens=1)

    def is_quiet(self) -> bool:
        """Whether one more request would keep no user waiting."""
        latest, most = self.stats.latest, self.scheduler_config.max_num_seqs
        if self.get_num_unfinished_requests() == 0:
            return True  # statistics are of the latest step, and aborts are no steps
        waiting = latest.num_waiting_reqs + latest.num_skipped_waiting_reqs
        roomy = latest.num_running_reqs <= most // 2 and latest.kv_cache_usage < QUIET_KV_USAGE
        return bool(roomy and waiting == 0)

    def facts(self) -> EngineFacts:
        latest = self.stats.latest
        return EngineFacts(
            unfinished=self.get_num_unfinished_requests() - self._shadows,
            running=latest.num_running_reqs,
            waiting=latest.num_waiting_reqs + latest.num_skipped_waiting_reqs,
            waiting_tokens=self._waiting_tokens,
            kv_cache_usage=latest.kv_cache_usage,
            connector=self.stats.connector,
            gate=self.gatekeeper.facts(),
        )

    def prompt_facts(self) -> dict[str, Any]:
        """What a router needs to name and price segments as this engine does; see PromptFacts."""
        config, shape = self.vllm_config, shape_of(self.vllm_config)
        transfer = config.kv_transfer_config
        settings = parse_settings(transfer.kv_connector_extra_config)
        known = calibrated(config, settings)
        correction = known.correction or safe_correction(shape.layers)
        deepest, bounds = settings.reuse.max_depth, known.bounds
        return {
            "max_depth": min(deepest, bounds.depth) if bounds else deepest,
            "fingerprint": fingerprint_of(config),
            "special_tokens": special_tokens_of(config).tolist(),
            "correction_share": correction_share(shape, correction),
        }

    async def check_health(self) -> None:
        """Ray Serve asks every ten seconds, which is as often as gauges must be set."""
        self.gatekeeper.tell_levels()
        try:
            await super().check_health()
        except EngineDeadError:
            end_replica()

    def shutdown(self, timeout: float | None = None) -> None:
        keeper = getattr(self, "gatekeeper", None)  # missing if the start failed
        if keeper is not None:
            keeper.shadows.close()
        super().shutdown(timeout)


def end_replica() -> NoReturn:
    """A replica without its engine is none. Ended at once, it is replaced at once.

    Its requests fail with it, for the ingress to send elsewhere; Ray Serve's health checks alone
    would leave it in its place, failing requests, for three periods.
    """
    logger.error("the engine died; its replica ends, for Ray Serve to start another one")
    logging.shutdown()
    os._exit(1)


def _shadow(output: RequestOutput) -> Shadow:
    (completion,) = output.outputs
    positions = [as_position(entry or {}) for entry in completion.logprobs or ()]
    report = (output.kv_transfer_params or {}).get("reuse") or {}
    return Shadow(Answer(list(completion.token_ids), positions), report)


def start_llm(config: VllmConfig, log_stats: bool, holder: str | None = None) -> ReuseLLM:
    """Start the engine process. Metrics go to Ray's Prometheus endpoint.

    `holder`: under which name the registry knows this replica; the engine takes leases under it.
    """
    _run_single_cpu_worker_in_engine_process(config)
    if holder is not None and config.kv_transfer_config is not None:
        config.kv_transfer_config.engine_id = holder
    stats = LatestStats(config)
    loggers: list[Any] = [UserMetrics] if log_stats else []
    llm = ReuseLLM(
        vllm_config=config,
        executor_class=Executor.get_class(config),
        log_requests=False,
        log_stats=log_stats,
        stat_loggers=[*loggers, lambda *_: stats],
    )
    llm.stats = stats
    llm.gatekeeper = _gatekeeper(llm)
    return llm


def _gatekeeper(llm: ReuseLLM) -> Gatekeeper:
    transfer, model = llm.vllm_config.kv_transfer_config, llm.model_config
    settings = parse_settings(transfer.kv_connector_extra_config if transfer else {})
    known = calibrated(llm.vllm_config, settings)
    layers, own = model.hf_text_config.num_hidden_layers, None
    if (correction := known.correction) is not None:
        own = OwnCorrection(layers, correction.budget, correction.full_layers, correction.selector)
    return build_gatekeeper(
        settings,
        layers=layers,
        most_logprobs=model.max_logprobs,
        is_quiet=llm.is_quiet,
        run=llm.run_shadow,
        target=known.target,
        own=own,
    )


def _run_single_cpu_worker_in_engine_process(config: VllmConfig) -> None:
    """Save a process, and with it the time to import vLLM again and a hop per step.

    vLLM asks for a worker process on CPUs because only a new process can be bound to cores;
    a deployment does not bind (`OMP_NUM_THREADS` is in the replica's environment instead).
    """
    parallel = config.parallel_config
    if config.device_config.device_type == "cpu" and parallel.world_size == 1:
        parallel.distributed_executor_backend = "uni"
