"""What the scheduler half tells the worker halves each engine step, and what they answer.

Everything is a plain value that pickles: with tensor parallelism the workers are other processes.
The order in which a worker half acts on it is part of the contract:

    1. stop     jobs whose requests ended: their segments may be dropped in this same step
    2. drop     segments that the ledger gave up
    3. fetch    segments that the ledger holds now and a shared store has
    4. publish  copy K and V out of blocks, which are held at least until this step is over
    5. start    new jobs; then slices of running jobs
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)

from raysparsex.ids import BlockId, RequestId, SegmentId
from raysparsex.plan.reuse_plan import ReusePlan
from raysparsex.segment.coverage import SegmentRecord
from raysparsex.sparse.stages import Stage
from raysparsex.vllm_plugin.slice_pace import StepTimes


@dataclass(frozen=True, slots=True)
class PrefillJob:
    """A sparse prefill to be produced into blocks that vLLM allocated for the request."""

    request: RequestId
    tokens: npt.NDArray[np.int32]
    """The whole prompt."""
    blocks: list[BlockId]
    plan: ReusePlan
    seed: int
    learns: bool = True
    """Whether what it finds of context sensitivity is kept."""
    tenant: str = ""
    """Tag of the tenant for whom it is kept."""


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """What became of a job, on one rank."""

    suspects: int = 0
    recomputed: int = 0
    problem: str | None = None
    """Why it failed here; None: it did not."""
    is_sound: bool = False
    """It failed, and what it counted on is as good as it was."""
    seconds: Mapping[Stage, float] = field(default_factory=dict)
    """What it took here, by stage."""

    def says_more_than(self, other: JobOutcome) -> bool:
        """Of two ranks: one that failed knows why; of those that did not, others wait for the
        slower."""
        if other.problem is not None or self.problem is not None:
            return other.problem is None
        return sum(self.seconds.values()) > sum(other.seconds.values())


@dataclass(slots=True)
class JobOutcomes(KVConnectorWorkerMetadata):
    """What the workers have to tell of a step, on its way back to the scheduler half."""

    of: dict[RequestId, JobOutcome] = field(default_factory=dict)
    """Jobs that ended."""
    publishing: dict[RequestId, float] = field(default_factory=dict)
    """Seconds that copying out took, by whose it was."""
    times: StepTimes = field(default_factory=StepTimes)

    def aggregate(self, other: KVConnectorWorkerMetadata) -> JobOutcomes:
        """Of two ranks."""
        assert isinstance(other, JobOutcomes)
        merged = dict(self.of)
        for request, outcome in other.of.items():
            known = merged.get(request)
            if known is None or outcome.says_more_than(known):
                merged[request] = outcome
        seconds = dict(self.publishing)
        for request, more in other.publishing.items():
            seconds[request] = max(more, seconds.get(request, 0.0))
        return JobOutcomes(merged, seconds, self.times.slower_of(other.times))


@dataclass(frozen=True, slots=True)
class SegmentAt:
    """A segment and where its tokens stand in a request: positions [start, end)."""

    record: SegmentRecord
    start: int
    end: int

    @property
    def segment(self) -> SegmentId:
        return self.record.id


@dataclass(frozen=True, slots=True)
class Publication:
    """Segments to copy out of a request's blocks; ascending, of a bounded number of tokens."""

    request: RequestId
    blocks: list[BlockId]
    segments: tuple[SegmentAt, ...]
    tenant: str = ""
    """Tag of whose they are, as a shared store accounts for them; see `segment.trust_scope`."""


@dataclass(slots=True)
class StepOrders(KVConnectorMetadata):
    """One engine step's orders; see the module's docstring for their order."""

    stop: list[RequestId] = field(default_factory=list)
    drop: list[SegmentId] = field(default_factory=list)
    fetch: list[SegmentRecord] = field(default_factory=list)
    fetch_from: dict[SegmentId, str] = field(default_factory=dict)
    """Other nodes whose stores have them; empty: the own node's."""
    publish: list[Publication] = field(default_factory=list)
    release: list[RequestId] = field(default_factory=list)
    """Finished requests whose last publication is in `publish`: vLLM may free their blocks."""
    start: list[PrefillJob] = field(default_factory=list)
    idle: bool = False
    """No other request is computed in this step, so a longer slice delays nobody."""
    streams: bool = False
    """Only requests that generate are computed in this step, no prompts."""
    work: int = 0
    """Token-layers of sparse prefills that this step may hold."""
    reads_prompts: bool = True
    """Somebody may read the last states of all the tokens that vLLM computes in this step."""
