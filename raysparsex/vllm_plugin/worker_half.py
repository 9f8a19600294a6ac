"""The worker half of the connector: runs sparse prefills in slices, publishes, drops.

vLLM calls `start_step` once per engine step, behind the step's own forward and in front of its
sampling: a slice adds its time to that step, which is why slices are bounded. Results are collected
by `take_results` right after. One thread, no locks.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch
from vllm.distributed import get_tensor_model_parallel_world_size, get_tp_group

from raysparsex.config import ReuseSettings
from raysparsex.errors import IntegrityFailed, ReuseFailed
from raysparsex.ids import RequestId, SegmentId
from raysparsex.segment.coverage import ReusedSpan
from raysparsex.sparse.integrity import check_alignment
from raysparsex.sparse.prefill import PrefillTask, SliceBounds, SparsePrefill
from raysparsex.sparse.sensitivity import FittedSensitivity, feature_layers
from raysparsex.sparse.token_select import SELECTORS
from raysparsex.store.base import SegmentStore
from raysparsex.store.host_memory import HostMemoryStore
from raysparsex.vllm_plugin.decoder import DecoderModel, RequestDecoder
from raysparsex.vllm_plugin.metadata import (
    JobOutcome,
    JobOutcomes,
    PrefillJob,
    Publication,
    StepOrders,
)
from raysparsex.vllm_plugin.register import loaded_model
from raysparsex.vllm_plugin.sharing import Sharing, shared_store
from raysparsex.vllm_plugin.suspicion import SuspectFinder, Suspicion
from raysparsex.vllm_plugin.transfer import AlignedLoader, HostCopies, read_out

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

logger = logging.getLogger("vllm.raysparsex")

T = TypeVar("T")


@dataclass(slots=True)
class StepResults:
    """What one engine step brought to an end."""

    produced: set[RequestId] = field(default_factory=set)
    """Prefills that ended, well or not; also those of requests that ended before."""
    failed: set[RequestId] = field(default_factory=set)
    """Of those, the ones whose blocks hold nothing usable: vLLM prefills them plainly."""
    released: set[RequestId] = field(default_factory=set)
    """Finished requests whose blocks are no longer read."""
    outcomes: JobOutcomes = field(default_factory=JobOutcomes)


class WorkerHalf:
    """Acts on one rank's model, cache and store."""

    def __init__(self, vllm_config: VllmConfig, kv_cache_config: KVCacheConfig) -> None:
        self._vllm_config = vllm_config
        self._kv_cache_config = kv_cache_config
        self._jobs: OrderedDict[RequestId, Iterator[None]] = OrderedDict()
        self._waiting: dict[RequestId, PrefillJob] = {}
        """Jobs that count on segments which are still on their way."""
        self._sharing: Sharing | None = None
        self._results = StepResults()

    def open(
        self,
        kv_caches: dict[str, torch.Tensor],
        settings: ReuseSettings,
        fitted: Mapping[int, FittedSensitivity],
    ) -> None:
        """Take the model apart; called once, when vLLM has allocated the caches.

        `fitted`: what a profile knows of context sensitivity, by number of full layers.
        """
        self._model = DecoderModel(
            loaded_model(), self._vllm_config, self._kv_cache_config, kv_caches
        )
        self._store: SegmentStore = HostMemoryStore(settings.store.bytes)
        self._copies = HostCopies(self._model.device)
        self._slice = settings.slice
        self._feature_layers = feature_layers(len(self._model.layers))
        self.finder = SuspectFinder(fitted)
        if settings.store.shared:
            self._sharing = _sharing()

    @torch.inference_mode()
    def start_step(self, orders: StepOrders) -> None:
        """Carry out one step's orders, in the order that `metadata` states."""
        for request in orders.stop:
            self._stop(request)
        for segment in orders.drop:
            self._drop(segment)
        if self._sharing is not None:
            self._sharing.fetch(orders.fetch, orders.fetch_from)
        for publication in orders.publish:
            self._publish(publication)
        self._results.released.update(orders.release)
        self._waiting.update((job.request, job) for job in orders.start)
        self._exchange()
        for job in self._ready():
            self._start(job)
        self._run_slices(self._slice.idle_factor if orders.idle else 1)

    def take_results(self) -> StepResults:
        """What ended since the last call."""
        results, self._results = self._results, StepResults()
        return results

    @property
    def running_jobs(self) -> int:
        """Prefills begun and not ended."""
        return len(self._jobs) + len(self._waiting)

    def close(self) -> None:
        """End all jobs."""
        for request in [*self._jobs, *self._waiting]:
            self._stop(request)

    def _exchange(self) -> None:
        """Keep what came from the shared store, and hand over what is complete."""
        if self._sharing is None:
            return
        for segment, kv in self._sharing.arrived().items():
            try:
                self._store.put(segment, kv)
            except ReuseFailed as problem:  # the ledger learns of it when a job asks for it
                logger.warning("a fetched segment is not kept: %s", problem)
        if self._copies.are_done:
            self._store.seal()
            self._sharing.hand_over()

    def _ready(self) -> list[PrefillJob]:
        """Jobs that wait for no segment, oldest first; they wait no more."""
        ready = [
            job
            for job in self._waiting.values()
            if self._sharing is None
            or not self._sharing.awaits(span.segment for span in job.plan.reused)
        ]
        for job in ready:
            del self._waiting[job.request]
        return ready

    def _start(self, job: PrefillJob) -> None:
        """Fails on all ranks if on one: ranks that part ways would wait for each other."""
        decoder = RequestDecoder(self._model, list(job.blocks))
        loader = self._agreed(job, lambda: self._loader(job))
        if loader is None:
            return
        rows = _reused_rows(job, self._model.device)
        check = partial(check_alignment, decoder, loader, *rows)
        if self._agreed(job, lambda: check() or True):
            run = self._agreed(job, lambda: self._produced(job, decoder, loader))
            if run is not None:
                self._jobs[job.request] = run

    def _agreed(self, job: PrefillJob, attempt: Callable[[], T]) -> T | None:
        """What `attempt` gives, if it fails on no rank; else the job has ended."""
        problem, result = None, None
        try:
            result = attempt()
        except Exception as failure:
            problem = _told(failure)
            logger.warning("prefilling %s plainly: %s", job.request, problem)
        if _all_ranks(problem is None):
            return result
        self._end(job.request, JobOutcome(problem=problem or "failed on another rank"))
        return None

    def _loader(self, job: PrefillJob) -> AlignedLoader:
        self._copies.wait()
        self._store.seal()
        return AlignedLoader(self._model, self._store, job.plan.reused)

    def _produced(
        self, job: PrefillJob, decoder: RequestDecoder, loader: AlignedLoader
    ) -> Iterator[None]:
        """Begin a prefill; iterate to its end."""
        suspicion = self._suspicion(job, decoder, loader)
        task = _task(job, suspicion, self._model.device)
        bounds = SliceBounds(self._slice.token_layers, self._slice.chunk_tokens)
        return self._ended(job, suspicion, SparsePrefill(task, decoder, loader, bounds))

    def _suspicion(
        self, job: PrefillJob, decoder: RequestDecoder, loader: AlignedLoader
    ) -> Suspicion:
        plan = job.plan
        parts = [loader.values(layer).flatten(1) for layer in self._feature_layers]
        features_RF = torch.cat([decoder.gather_over_ranks(part) for part in parts], dim=1)
        share = plan.suspects if 0 < plan.full_layers < len(self._model.layers) else 1.0
        return self.finder.find(
            share, plan.full_layers, plan.reused, features_RF, job.seed, job.tenant
        )

    def _ended(
        self, job: PrefillJob, suspicion: Suspicion, prefill: SparsePrefill
    ) -> Iterator[None]:
        yield from prefill.run()
        if prefill.deviation_S is not None:
            self.finder.learn(
                replace(suspicion, suspects_R=prefill.suspects_R), prefill.deviation_S
            )
        suspects = int(prefill.suspects_R.sum())
        self._end(job.request, JobOutcome(suspects=suspects, recomputed=prefill.picks))

    def _run_slices(self, slices: int) -> None:
        """Oldest job first: finishing one before starting the next gives the best mean TTFT."""
        for _ in range(slices):
            if not self._jobs:
                return
            self._run_slice(next(iter(self._jobs)))

    def _run_slice(self, request: RequestId) -> None:
        try:
            next(self._jobs[request], None)
        except Exception as failure:
            # Whatever went wrong, the request must not: vLLM prefills it plainly.
            logger.exception("sparse prefill of %s failed; prefilling it plainly", request)
            self._end(request, JobOutcome(problem=_told(failure)))

    def _stop(self, request: RequestId) -> None:
        if self._waiting.pop(request, None) is not None:
            self._end(request, JobOutcome(problem="its request ended"))
        if request in self._jobs:
            self._jobs[request].close()  # type: ignore[attr-defined]
            self._end(request, JobOutcome(problem="its request ended"))

    def _end(self, request: RequestId, outcome: JobOutcome) -> None:
        self._jobs.pop(request, None)
        self._results.produced.add(request)
        self._results.outcomes.of[request] = outcome
        if outcome.problem is not None:
            self._results.failed.add(request)

    def _drop(self, segment: SegmentId) -> None:
        self._store.drop(segment)
        self.finder.forget(segment)
        if self._sharing is not None:
            self._sharing.forget(segment)

    def _publish(self, publication: Publication) -> None:
        for at in publication.segments:
            # An older copy stands at another position: better none than that under a new record.
            self._drop(at.segment)
        try:
            for at, kv in read_out(self._model, publication, self._copies):
                self._store.put(at.segment, kv)
                if self._sharing is not None:
                    origin = f"{self._vllm_config.instance_id}/{publication.request}"
                    self._sharing.offer(at.record, kv, publication.tenant, origin)
            if self._copies.are_done_at_once:
                self._store.seal()
        except Exception as problem:
            # The ledger thinks it is held; a request that counts on it is prefilled plainly, and
            # the ledger then learns of it.
            logger.warning("a segment of %s is not published: %s", publication.request, problem)


def _sharing() -> Sharing:
    group = get_tp_group()
    return Sharing(shared_store(), group.rank_in_group, group.world_size)


def _task(job: PrefillJob, suspicion: Suspicion, device: torch.device) -> PrefillTask:
    plan = job.plan
    tokens = torch.from_numpy(job.tokens[plan.prefix_tokens : plan.last].astype("int64"))
    reused = torch.zeros(len(tokens), dtype=torch.bool)
    for span in plan.reused:
        reused[span.start - plan.prefix_tokens : span.end - plan.prefix_tokens] = True
    return PrefillTask(
        tokens_T=tokens.to(device),
        first=plan.prefix_tokens,
        reused_T=reused.to(device),
        suspects_R=suspicion.suspects_R,
        sought=suspicion.sought,
        run_offsets_R=_run_offsets(plan.reused).to(device),
        full_layers=plan.full_layers,
        selector=SELECTORS[plan.selector],
        picks=plan.recomputed_tokens,
        seed=job.seed,
        learns=job.learns,
    )


def _reused_rows(job: PrefillJob, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Token ids, positions, and places in their runs of the reused tokens, [R] int64 each."""
    spans = job.plan.reused
    positions = torch.cat([torch.arange(span.start, span.end) for span in spans])
    tokens = torch.from_numpy(job.tokens[positions.numpy()].astype("int64"))
    return tokens.to(device), positions.to(device), _run_offsets(spans).to(device)


def _run_offsets(spans: Sequence[ReusedSpan]) -> torch.Tensor:
    """Place of each reused token in its run: spans that touch and move alike are one."""
    parts, length = [], 0
    for index, span in enumerate(spans):
        before = spans[index - 1] if index else None
        if before is None or (before.end, before.shift) != (span.start, span.shift):
            length = 0
        parts.append(torch.arange(length, length + span.end - span.start))
        length += span.end - span.start
    return torch.cat(parts)


def _told(failure: Exception) -> str:
    """A problem in words; what `IntegrityFailed` says is told apart by the gate."""
    kind = "integrity check failed" if isinstance(failure, IntegrityFailed) else "failed"
    return f"{kind}: {failure}"


def _all_ranks(here: bool) -> bool:
    """Whether it holds on every tensor-parallel rank."""
    if get_tensor_model_parallel_world_size() == 1:
        return here
    vote = torch.tensor([int(here)])
    torch.distributed.all_reduce(
        vote, op=torch.distributed.ReduceOp.MIN, group=get_tp_group().cpu_group
    )
    return bool(vote.item())
