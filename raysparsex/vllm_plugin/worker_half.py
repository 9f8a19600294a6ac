"""The worker half of the connector: runs sparse prefills in slices, publishes, drops.

vLLM calls `start_step` once per engine step, behind the step's own forward and in front of its
sampling: a slice adds its time to that step, which is why slices are bounded. Results are collected
by `take_results` right after. One thread, no locks.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from vllm.distributed import get_tensor_model_parallel_world_size, get_tp_group

from raysparsex.config import ReuseSettings
from raysparsex.ids import RequestId
from raysparsex.sparse.prefill import PrefillTask, SliceBounds, SparsePrefill
from raysparsex.sparse.token_select import SELECTORS
from raysparsex.store.base import SegmentStore
from raysparsex.store.host_memory import HostMemoryStore
from raysparsex.vllm_plugin.decoder import DecoderModel, RequestDecoder
from raysparsex.vllm_plugin.metadata import PrefillJob, Publication, StepOrders
from raysparsex.vllm_plugin.register import loaded_model
from raysparsex.vllm_plugin.transfer import AlignedLoader, HostCopies, read_out

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

logger = logging.getLogger("vllm.raysparsex")


@dataclass(slots=True)
class StepResults:
    """What one engine step brought to an end."""

    produced: set[RequestId] = field(default_factory=set)
    """Prefills that ended, well or not; also those of requests that ended before."""
    failed: set[RequestId] = field(default_factory=set)
    """Of those, the ones whose blocks hold nothing usable: vLLM prefills them plainly."""
    released: set[RequestId] = field(default_factory=set)
    """Finished requests whose blocks are no longer read."""


class WorkerHalf:
    """Acts on one rank's model, cache and store."""

    def __init__(self, vllm_config: VllmConfig, kv_cache_config: KVCacheConfig) -> None:
        self._vllm_config = vllm_config
        self._kv_cache_config = kv_cache_config
        self._jobs: OrderedDict[RequestId, Iterator[None]] = OrderedDict()
        self._results = StepResults()

    def open(self, kv_caches: dict[str, torch.Tensor], settings: ReuseSettings) -> None:
        """Take the model apart; called once, when vLLM has allocated the caches."""
        self._model = DecoderModel(
            loaded_model(), self._vllm_config, self._kv_cache_config, kv_caches
        )
        self._store: SegmentStore = HostMemoryStore(settings.store.bytes)
        self._copies = HostCopies(self._model.device)
        self._slice = settings.slice

    @torch.inference_mode()
    def start_step(self, orders: StepOrders) -> None:
        """Carry out one step's orders, in the order that `metadata` states."""
        for request in orders.stop:
            self._stop(request)
        for segment in orders.drop:
            self._store.drop(segment)
        for publication in orders.publish:
            self._publish(publication)
        self._results.released.update(orders.release)
        for job in orders.start:
            self._start(job)
        self._run_slices(self._slice.idle_factor if orders.idle else 1)

    def take_results(self) -> StepResults:
        """What ended since the last call."""
        results, self._results = self._results, StepResults()
        return results

    @property
    def running_jobs(self) -> int:
        """Prefills begun and not ended."""
        return len(self._jobs)

    def close(self) -> None:
        """End all jobs."""
        for request in list(self._jobs):
            self._stop(request)

    def _start(self, job: PrefillJob) -> None:
        """Fails on all ranks if on one: ranks that part ways would wait for each other."""
        try:
            prefill = self._prefill(job)
        except Exception as problem:
            logger.warning("prefilling %s plainly: %s", job.request, problem)
            prefill = None
        if _all_ranks(prefill is not None) and prefill is not None:
            self._jobs[job.request] = prefill.run()
        else:
            self._end(job.request, failed=True)

    def _prefill(self, job: PrefillJob) -> SparsePrefill:
        self._copies.wait()
        return SparsePrefill(
            _task(job, self._model.device),
            RequestDecoder(self._model, list(job.blocks)),
            AlignedLoader(self._model, self._store, job.plan.reused),
            SliceBounds(self._slice.token_layers, self._slice.chunk_tokens),
        )

    def _run_slices(self, slices: int) -> None:
        """Oldest job first: finishing one before starting the next gives the best mean TTFT."""
        for _ in range(slices):
            if not self._jobs:
                return
            self._run_slice(next(iter(self._jobs)))

    def _run_slice(self, request: RequestId) -> None:
        try:
            next(self._jobs[request])
        except StopIteration:
            self._end(request, failed=False)
        except Exception:
            # Whatever went wrong, the request must not: vLLM prefills it plainly.
            logger.exception("sparse prefill of %s failed; prefilling it plainly", request)
            self._end(request, failed=True)

    def _stop(self, request: RequestId) -> None:
        if request in self._jobs:
            self._jobs[request].close()  # type: ignore[attr-defined]
            self._end(request, failed=True)

    def _end(self, request: RequestId, failed: bool) -> None:
        self._jobs.pop(request, None)
        self._results.produced.add(request)
        if failed:
            self._results.failed.add(request)

    def _publish(self, publication: Publication) -> None:
        for at in publication.segments:
            # An older copy stands at another position: better none than that under a new record.
            self._store.drop(at.segment)
        try:
            for segment, kv in read_out(self._model, publication, self._copies):
                self._store.put(segment, kv)
        except Exception as problem:
            # The ledger thinks it is held; a request that counts on it is prefilled plainly, and
            # the ledger then learns of it.
            logger.warning("a segment of %s is not published: %s", publication.request, problem)


def _task(job: PrefillJob, device: torch.device) -> PrefillTask:
    plan = job.plan
    tokens = torch.from_numpy(job.tokens[plan.prefix_tokens : plan.last].astype("int64"))
    reused = torch.zeros(len(tokens), dtype=torch.bool)
    for span in plan.reused:
        reused[span.start - plan.prefix_tokens : span.end - plan.prefix_tokens] = True
    return PrefillTask(
        tokens_T=tokens.to(device),
        first=plan.prefix_tokens,
        reused_T=reused.to(device),
        full_layers=plan.full_layers,
        selector=SELECTORS[plan.selector],
        picks=plan.recomputed_tokens,
        seed=job.seed,
    )


def _all_ranks(here: bool) -> bool:
    """Whether it holds on every tensor-parallel rank."""
    if get_tensor_model_parallel_world_size() == 1:
        return here
    vote = torch.tensor([int(here)])
    torch.distributed.all_reduce(
        vote, op=torch.distributed.ReduceOp.MIN, group=get_tp_group().cpu_group
    )
    return bool(vote.item())
