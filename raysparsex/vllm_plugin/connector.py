"""The KV connector: vLLM's calls, handed to the half they belong to.

vLLM's interface is shaped for prefixes: a connector says how many tokens behind the local prefix
hit it can load. Ours says "all but the last", asynchronously, and then makes them: it loads the
reused spans, computes everything else by a sparse prefill into the blocks that vLLM allocated, and
reports the request as received. vLLM computes the last prompt token itself and decodes.

Use without Ray, when the package is installed:

    vllm serve MODEL --kv-transfer-config
        '{"kv_connector": "RaySparseXConnector", "kv_role": "kv_both"}'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)

from raysparsex.config import ReuseSettings, parse_settings
from raysparsex.ids import BlockId, RequestId
from raysparsex.vllm_plugin.calibrated import Calibrated, calibrated, tell
from raysparsex.vllm_plugin.compat import refuse_unsupported
from raysparsex.vllm_plugin.engine_facts import EngineFacts
from raysparsex.vllm_plugin.metadata import JobOutcomes, StepOrders
from raysparsex.vllm_plugin.model_identity import fingerprint_of, shape_of, special_tokens_of
from raysparsex.vllm_plugin.scheduler_half import SchedulerHalf
from raysparsex.vllm_plugin.shared_lookup import SharedLookup
from raysparsex.vllm_plugin.sharing import shared_store
from raysparsex.vllm_plugin.stats import ReusePromMetrics, ReuseStats, changes_of
from raysparsex.vllm_plugin.worker_half import WorkerHalf

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorStats
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks, KVCacheManager
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request


class RaySparseXConnector(KVConnectorBase_V1, SupportsHMA):
    """See the module's docstring; `kv_connector_extra_config` holds `config.ReuseSettings`."""

    def __init__(
        self, vllm_config: VllmConfig, role: KVConnectorRole, kv_cache_config: KVCacheConfig
    ) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        refuse_unsupported(vllm_config, kv_cache_config)
        transfer = vllm_config.kv_transfer_config
        assert transfer is not None
        # A sparse prefill that fails must end as a plain one, not as a failed request. vLLM reads
        # the policy after it has created the connector.
        transfer.kv_load_failure_policy = "recompute"
        self._settings = parse_settings(transfer.kv_connector_extra_config)
        self._calibrated = calibrated(vllm_config, self._settings)
        self._scheduler: SchedulerHalf | None = None
        self._worker: WorkerHalf | None = None
        self._told_gauges: dict[str, int] = {}
        self._outcomes = JobOutcomes()
        if role is KVConnectorRole.WORKER:
            self._worker = WorkerHalf(vllm_config, kv_cache_config)

    @property
    def settings(self) -> ReuseSettings:
        """The settings in force."""
        return self._settings

    # ---- scheduler half -------------------------------------------------------------------------

    @property
    def scheduler(self) -> SchedulerHalf:
        """The scheduler half. Exists from `bind_kv_cache_manager` on, in the scheduler only."""
        assert self._scheduler is not None
        return self._scheduler

    @property
    def requires_kv_delivery(self) -> bool:
        """What is lost is computed again."""
        return False

    def bind_kv_cache_manager(self, kv_cache_manager: KVCacheManager) -> None:
        """vLLM's block manager exists now, which the scheduler half looks into."""
        super().bind_kv_cache_manager(kv_cache_manager)
        tell(self._calibrated, self._vllm_config)
        facts = _engine_facts(self._vllm_config, self._kv_cache_config, self._calibrated)
        lookup = None
        if self._settings.store.shared:
            ranks = self._vllm_config.parallel_config.tensor_parallel_size
            shared_store().records([])  # connects now, not when the first request waits for it
            holder = self._vllm_config.kv_transfer_config.engine_id
            lookup = SharedLookup(shared_store(), ranks, holder=holder)
        blocks = ManagedBlocks(kv_cache_manager)
        self._scheduler = SchedulerHalf(self._settings, facts, blocks, lookup)

    def on_new_request(self, request: Request) -> None:
        """See `SchedulerHalf.on_new_request`."""
        self.scheduler.on_new_request(request)

    def get_num_new_matched_tokens(
        self, request: Request, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        """See `SchedulerHalf.matched_tokens`; None: vLLM asks again in the next step."""
        count = self.scheduler.matched_tokens(request, num_computed_tokens)
        return count, bool(count)

    def update_state_after_alloc(
        self, request: Request, blocks: KVCacheBlocks, num_external_tokens: int
    ) -> None:
        """See `SchedulerHalf.allocated`."""
        block_ids = [BlockId(block) for block in blocks.get_block_ids()[0]]
        plan = self.scheduler.allocated(request, block_ids, num_external_tokens)
        if plan is not None and request.prefill_stats is not None:
            # vLLM counted all produced tokens as cached; those computed afresh are not.
            request.prefill_stats.set(
                num_prompt_tokens=plan.prompt_tokens,
                num_local_cached_tokens=plan.prefix_tokens,
                num_external_cached_tokens=plan.reused_tokens - plan.recomputed_tokens,
            )

    def build_connector_meta(self, scheduler_output: SchedulerOutput) -> KVConnectorMetadata:
        """See `SchedulerHalf.orders`."""
        return self.scheduler.orders(scheduler_output.total_num_scheduled_tokens)

    def update_connector_output(self, connector_output: KVConnectorOutput) -> None:
        """See `SchedulerHalf.ended` and `produced`."""
        if isinstance(connector_output.kv_connector_worker_meta, JobOutcomes):
            self.scheduler.ended(connector_output.kv_connector_worker_meta)
        for request in connector_output.finished_recving or ():
            failed = request in connector_output.failed_recving
            self.scheduler.produced(RequestId(request), failed)

    def request_finished(
        self, request: Request, block_ids: list[int]
    ) -> tuple[bool, dict[str, Any] | None]:
        """See `SchedulerHalf.finished`."""
        blocks = [BlockId(block) for block in block_ids]
        keep, report = self.scheduler.finished(request, blocks)
        return keep, report.as_params()

    def request_finished_all_groups(
        self, request: Request, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """There is one group; `compat` refuses models with more."""
        return self.request_finished(request, block_ids[0])

    def reset_cache(self) -> bool:
        """Forget all segments that no running request uses."""
        self.scheduler.clear()
        return True

    # ---- worker half ----------------------------------------------------------------------------

    @property
    def worker(self) -> WorkerHalf:
        """The worker half; in workers only."""
        assert self._worker is not None
        return self._worker

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """See `WorkerHalf.open`."""
        self.worker.open(kv_caches, self._settings, self._calibrated.fitted)

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        """See `UnreadStates.before_forward`; vLLM calls it in front of the step's own forward."""
        super().bind_connector_metadata(connector_metadata)
        assert isinstance(connector_metadata, StepOrders)
        self.worker.unread_states.before_forward(reads_prompts=connector_metadata.reads_prompts)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """See `WorkerHalf.start_step`; vLLM calls it after the step's own forward."""
        orders = self._get_connector_metadata()
        assert isinstance(orders, StepOrders)
        self.worker.unread_states.after_forward()
        self.worker.start_step(orders)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing is loaded into vLLM's own forward."""

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any
    ) -> None:
        """Nothing is saved during vLLM's own forward: publishing is off its critical path."""

    def wait_for_save(self) -> None:
        """Publications are copied out within their step."""

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        """What the worker half brought to an end since the last step."""
        results = self.worker.take_results()
        self._outcomes.of.update(results.outcomes.of)
        self._outcomes.publishing.update(results.outcomes.publishing)
        self._outcomes.times = results.outcomes.times
        return KVConnectorTransferResults(
            finished_sending=set(results.released),
            finished_recving=set(results.produced),
            failed_recving=set(results.failed),
        )

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        """What became of the jobs that `get_transfer_results` reports; vLLM asks right after."""
        outcomes, self._outcomes = self._outcomes, JobOutcomes()
        return outcomes if outcomes != JobOutcomes() else None

    def shutdown(self) -> None:
        """End all jobs."""
        if self._worker is not None:
            self._worker.close()

    # ---- both -----------------------------------------------------------------------------------

    def get_kv_connector_stats(self) -> KVConnectorStats | None:
        """Counters and changes since the last call, and gauges, when there is any news.

        Called every step, so silence is cheap. Workers have no statistics of their own.
        """
        if self._scheduler is None:
            return None
        gauges = self.scheduler.gauges()
        ranks = self._vllm_config.parallel_config.tensor_parallel_size
        changes = changes_of(self.scheduler.ledger, ranks)
        shares = self._settings.store.shared
        transfers = [list(one) for one in shared_store().take_transfers()] if shares else []
        news = changes or transfers or gauges != self._told_gauges
        if not news and self.scheduler.counters.is_empty():
            return None
        self._told_gauges = gauges
        return ReuseStats.of(self.scheduler.counters.take(), gauges, changes, transfers)

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KVConnectorStats:
        """Stats that crossed a process border."""
        return ReuseStats(data or {})

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: VllmConfig,
        metric_types: Any,
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> ReusePromMetrics:
        """`vllm:raysparsex_*` metrics."""
        return ReusePromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)


class ManagedBlocks:
    """`engine_facts.Blocks` over vLLM's KV cache manager."""

    def __init__(self, manager: KVCacheManager) -> None:
        self._manager = manager

    def of_request(self, request: RequestId) -> list[BlockId]:
        """See `engine_facts.Blocks`."""
        return [BlockId(block) for block in self._manager.get_block_ids(request)[0]]

    def is_cached(self, block_hash: Any) -> bool:
        """See `engine_facts.Blocks`."""
        return self._manager.block_pool.get_cached_block(block_hash, [0]) is not None

    @property
    def count(self) -> int:
        """See `engine_facts.Blocks`."""
        return int(self._manager.block_pool.num_gpu_blocks)

    @property
    def free(self) -> int:
        """See `engine_facts.Blocks`."""
        return int(self._manager.block_pool.get_num_free_blocks())


def _engine_facts(
    vllm_config: VllmConfig, kv_cache_config: KVCacheConfig, known: Calibrated
) -> EngineFacts:
    group = kv_cache_config.kv_cache_groups[0]
    spec = group.kv_cache_spec
    layers = len(group.layer_names)
    return EngineFacts(
        fingerprint=fingerprint_of(vllm_config),
        special_tokens=special_tokens_of(vllm_config),
        shape=shape_of(vllm_config),
        block_size=spec.block_size,
        bytes_per_token=layers * spec.page_size_bytes // spec.block_size,
        correction=known.correction,
        calibrated=known.bounds,
        unfit=known.unfit,
    )
