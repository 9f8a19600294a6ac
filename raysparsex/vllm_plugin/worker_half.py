"""The worker half of the connector: runs sparse prefills in slices, publishes, drops.

vLLM calls `start_step` once per engine step, behind the step's own forward and in front of its
sampling: a slice adds its time to that step, which is why slices are bounded. Results are collected
by `take_results` right after. One thread, no locks.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch
from vllm.distributed import get_tensor_model_parallel_world_size, get_tp_group

from raysparsex.config import ReuseSettings
from raysparsex.errors import DoesNotFit, IntegrityFailed, ReuseFailed
from raysparsex.ids import RequestId, SegmentId
from raysparsex.sparse.integrity import MOST_TOKENS, check_alignment
from raysparsex.sparse.prefill import ROWS_LOADED, PieceBound, SparsePrefill
from raysparsex.sparse.sensitivity import FittedSensitivity, feature_layers
from raysparsex.sparse.stages import Stage, StageClock, clocked
from raysparsex.store.arena import Arena
from raysparsex.store.base import SegmentStore
from raysparsex.store.host_memory import HostMemoryStore
from raysparsex.vllm_plugin.attention import wish_of
from raysparsex.vllm_plugin.decoder import DecoderModel, RequestDecoder
from raysparsex.vllm_plugin.job_tensors import reused_rows, task_of
from raysparsex.vllm_plugin.metadata import (
    JobOutcome,
    JobOutcomes,
    PrefillJob,
    Publication,
    StepOrders,
)
from raysparsex.vllm_plugin.register import loaded_model
from raysparsex.vllm_plugin.sharing import Sharing, shared_store
from raysparsex.vllm_plugin.slice_pace import StepTimes
from raysparsex.vllm_plugin.suspicion import SuspectFinder, Suspicion
from raysparsex.vllm_plugin.transfer import AlignedLoader, HostCopies, read_out
from raysparsex.vllm_plugin.unread_states import UnreadStates, can_skip
from raysparsex.vllm_plugin.working_set import Widths, bytes_free, refuse_unless_fits

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

logger = logging.getLogger("vllm.raysparsex")

T = TypeVar("T")

LESSON_STEPS = 3
"""A prefill's lesson waits until its first token is out; the next prefill wants to know it."""
LEAST_PIECE = 16
"""Token-layers that are computed at once, however short slices have to be."""
LEAST_LEFT = 0.25
"""Share of a slice that is worth another piece."""


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
        self._jobs: OrderedDict[RequestId, Iterator[int]] = OrderedDict()
        self._waiting: dict[RequestId, PrefillJob] = {}
        """Jobs that count on segments which are still on their way."""
        self._sharing: Sharing | None = None
        self._results = StepResults()
        self._lessons: list[Callable[[], None]] = []
        """What ended prefills teach, as long as nobody needs to know."""
        self._lessons_due = 0
        """Steps until then."""
        self._left: float | None = None
        """When the last step's slices ended."""

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
            loaded_model(),
            self._vllm_config,
            self._kv_cache_config,
            kv_caches,
            wish_of(settings.kernel.attention, settings.kernel.figures),
        )
        self._widths = _widths(self._model, self._vllm_config)
        self._store: SegmentStore = HostMemoryStore(settings.store.bytes)
        self._arena = Arena(
            settings.store.bytes,
            is_pinned=self._model.device.type == "cuda",
            is_resident=settings.store.resident,
        )
        self._copies = HostCopies(self._model.device, self._arena)
        self._slice = settings.slice
        self._bound = PieceBound(settings.slice.chunk_tokens)
        self._feature_layers = feature_layers(len(self._model.layers))
        self._finder = SuspectFinder(fitted)
        if settings.store.shared:
            self._sharing = _sharing()
        self.unread_states = UnreadStates(self._model)
        self.unread_states.wanted = settings.kernel.skip_unread and can_skip(self._vllm_config)

    @property
    def finder(self) -> SuspectFinder:
        """What is known of context sensitivity, from all prefills that have ended."""
        self._learn()
        return self._finder

    @finder.setter
    def finder(self, finder: SuspectFinder) -> None:
        """Know this instead; what ended prefills would teach the old one is dropped."""
        self._lessons.clear()
        self._finder = finder

    @torch.inference_mode()
    def start_step(self, orders: StepOrders) -> None:
        """Carry out one step's orders, in the order that `metadata` states."""
        entered, old_lessons = time.perf_counter(), bool(self._lessons)
        rest = entered - self._left if orders.streams and self._left is not None else None
        for request in orders.stop:
            self._stop(request)
        for segment in orders.drop:
            self._drop(segment)
        if self._sharing is not None:
            self._sharing.fetch(orders.fetch, orders.fetch_from)
        for publication in orders.publish:
            self._publish(publication)
        copied = time.perf_counter()
        self._results.released.update(orders.release)
        self._waiting.update((job.request, job) for job in orders.start)
        self._exchange()
        work = sum(self._start(job) for job in self._ready())
        work += self._run_slice(orders.work - work, orders.idle)
        self._lessons_due -= 1
        if old_lessons and not self._jobs and (orders.idle or self._lessons_due <= 0):
            self._learn()
        self._left = time.perf_counter()
        self._results.outcomes.times = StepTimes(
            work=work,
            slices=self._left - copied,
            copied=sum(at.end - at.start for one in orders.publish for at in one.segments),
            copying=copied - entered,
            rest=rest,
        )

    def take_results(self) -> StepResults:
        """What ended since the last call."""
        results, self._results = self._results, StepResults()
        return results

    @property
    def running_jobs(self) -> int:
        """Prefills begun and not ended."""
        return len(self._jobs) + len(self._waiting)

    @torch.inference_mode()
    def _learn(self) -> None:
        lessons, self._lessons = self._lessons, []
        for lesson in lessons:
            is_learned = True
            try:
                lesson()
            except Exception:  # the prefill that taught it was right all the same
                is_learned = False
                logger.exception("nothing is learned from a prefill")
            if not _all_ranks(is_learned):
                # Ranks that know different things would choose different tokens.
                self._finder.unlearn()

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
                kept = self._arena.empty(kv.shape, kv.dtype)
                kept.tensor().copy_(kv)
                self._store.put(segment, kept)
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

    def _start(self, job: PrefillJob) -> int:
        """Take hold of what a job loads; its work, in token-layers."""
        clock = StageClock()
        with clock.on(Stage.LOAD):
            loader = self._agreed(job, lambda: self._loader(job, clock))
        if loader is not None:
            run = clocked(self._run(job, loader, clock), clock, Stage.ALIGN)
            self._jobs[job.request] = run
        return job.plan.reused_tokens // ROWS_LOADED

    def _run(self, job: PrefillJob, loader: AlignedLoader, clock: StageClock) -> Iterator[int]:
        """A job from its proof to its end, in pieces; fails on all ranks if on one: ranks that part
        ways would wait for each other."""
        decoder = RequestDecoder(self._model, list(job.blocks))

        def is_sound() -> bool:
            refuse_unless_fits(job.plan, self._widths, bytes_free(self._model.device))
            check_alignment(decoder, loader, *reused_rows(job, self._model.device))
            return True

        if not self._agreed(job, is_sound):
            return
        yield MOST_TOKENS
        clock.enter(Stage.SCORE)
        loading = job.plan.reused_tokens // ROWS_LOADED
        features = []
        for layer in self._feature_layers:
            features.append(decoder.gather_over_ranks(loader.values(layer).flatten(1)))
            yield loading
        suspicion = self._agreed(job, lambda: self._suspicion(job, torch.cat(features, dim=1)))
        if suspicion is None:
            return
        yield loading
        clock.enter(Stage.FULL_LAYERS)
        task = task_of(job, suspicion, self._model.device)
        prefill = SparsePrefill(task, decoder, loader, self._bound, clock)
        yield from prefill.run()
        if prefill.deviation_S is not None:
            seen = replace(suspicion, suspects_R=prefill.suspects_R)
            self._lessons.append(partial(self._finder.learn, seen, prefill.deviation_S))
            self._lessons_due = LESSON_STEPS
        clock.enter(None)
        suspects = int(prefill.suspects_R.sum())
        self._end(job.request, JobOutcome(suspects, prefill.picks, seconds=clock.seconds))

    def _agreed(self, job: PrefillJob, attempt: Callable[[], T]) -> T | None:
        """What `attempt` gives, if it fails on no rank; else the job has ended."""
        result, outcome = None, JobOutcome(problem="failed on another rank")
        is_done = True
        try:
            result = attempt()
        except Exception as failure:
            is_done = False
            outcome = JobOutcome(problem=_told(failure), is_sound=isinstance(failure, DoesNotFit))
            logger.warning("prefilling %s plainly: %s", job.request, outcome.problem)
        if _all_ranks(is_done):
            return result
        self._end(job.request, outcome)
        return None

    def _loader(self, job: PrefillJob, clock: StageClock) -> AlignedLoader:
        self._copies.wait()
        self._store.seal()
        return AlignedLoader(self._model, self._store, job.plan.reused, clock)

    def _suspicion(self, job: PrefillJob, features_RF: torch.Tensor) -> Suspicion:
        plan = job.plan
        share = plan.suspects if 0 < plan.full_layers < len(self._model.layers) else 1.0
        return self.finder.find(
            share, plan.full_layers, plan.reused, features_RF, job.seed, job.tenant
        )

    def _run_slice(self, work: int, idle: bool) -> int:
        """So much of the jobs, oldest first: finishing one before starting the next gives the best
        mean TTFT. Returns the work done; at least one piece, if there is one.

        Beside streams a piece takes all that is left of the slice: each reads a layer's weights,
        which for a few tokens takes longer than computing them.
        """
        done = 0
        while self._jobs and (done == 0 or work - done >= work * LEAST_LEFT):
            self._bound.work = sys.maxsize if idle else max(LEAST_PIECE, work - done)
            done += self._run_piece(next(iter(self._jobs)))
        return done

    def _run_piece(self, request: RequestId) -> int:
        try:
            return next(self._jobs[request], 0)
        except Exception as failure:
            # Whatever went wrong, the request must not: vLLM prefills it plainly.
            logger.exception("sparse prefill of %s failed; prefilling it plainly", request)
            self._end(request, JobOutcome(problem=_told(failure)))
            return 0

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
        began = time.perf_counter()
        try:
            for at, kv in read_out(self._model, publication, self._copies):
                self._store.put(at.segment, kv)
                if self._sharing is not None:
                    origin = f"{self._vllm_config.instance_id}/{publication.request}"
                    self._sharing.offer(at.record, kv.tensor(), publication.tenant, origin)
            if self._copies.are_done_at_once:
                self._store.seal()
        except Exception as problem:
            # The ledger thinks it is held; a request that counts on it is prefilled plainly, and
            # the ledger then learns of it.
            logger.warning("a segment of %s is not published: %s", publication.request, problem)
        spent = self._results.outcomes.publishing
        owner, seconds = publication.request, time.perf_counter() - began
        spent[owner] = spent.get(owner, 0.0) + seconds


def _widths(model: DecoderModel, vllm_config: VllmConfig) -> Widths:
    attention, states = model.layers[0].attention, vllm_config.model_config
    return Widths(
        hidden=states.get_hidden_size(),
        kv=attention.num_kv_heads * attention.head_size,
        ranks=get_tensor_model_parallel_world_size(),
        state_bytes=states.dtype.itemsize,
        kv_bytes=model.layers[0].cache.itemsize,
    )


def _sharing() -> Sharing:
    group = get_tp_group()
    return Sharing(shared_store(), group.rank_in_group, group.world_size)


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
