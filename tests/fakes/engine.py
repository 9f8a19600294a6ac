"""A stand-in for vLLM's scheduler: requests, blocks, prefix cache, and the order of its calls.

`FakeEngine` drives a real `SchedulerHalf` as vLLM 0.32 does. What the workers would do is played by
the test: `load_ends`, and the publications in the orders that `step` returns.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from raysparsex.config import ReuseSettings, parse_settings
from raysparsex.ids import BlockId, ModelFingerprint, RequestId
from raysparsex.plan.calibrated_bounds import CalibratedBounds
from raysparsex.plan.compute_share import LayerShape
from raysparsex.vllm_plugin.engine_facts import EngineFacts
from raysparsex.vllm_plugin.metadata import StepOrders
from raysparsex.vllm_plugin.reuse_report import ReuseReport
from raysparsex.vllm_plugin.scheduler_half import SchedulerHalf
from raysparsex.vllm_plugin.shared_lookup import SharedLookup

BLOCK = 16


class FakeRequest:
    """`vllm.v1.request.Request`, as far as the scheduler half looks."""

    def __init__(
        self,
        request_id: str,
        tokens: Sequence[int],
        params: dict[str, Any] | None,
        salt: str | None = None,
        block: int = BLOCK,
        **others: Any,
    ) -> None:
        self._block = block
        self.request_id = request_id
        self.prompt_token_ids: list[int] | None = list(tokens)
        self.all_token_ids = list(tokens)
        self.num_prompt_tokens = len(tokens)
        self.kv_transfer_params = params
        self.cache_salt = salt
        self.num_computed_tokens = 0
        self.num_preemptions = 0
        self.lora_request = None
        self.sampling_params = SimpleNamespace(stop=[], prompt_logprobs=None)
        self.mm_features: list[object] = []
        self.prompt_embeds = None
        self.pooling_params = None
        self.resumable = False
        self.status = SimpleNamespace(name="WAITING")
        self.block_hashes: list[bytes] = []
        self.__dict__.update(others)
        self.update_block_hashes()

    @property
    def num_tokens(self) -> int:
        return len(self.all_token_ids)

    def update_block_hashes(self) -> None:
        size = self._block
        while (len(self.block_hashes) + 1) * size <= self.num_tokens:
            start = len(self.block_hashes) * size
            text = f"{self.cache_salt} {self.all_token_ids[start : start + size]}".encode()
            before = self.block_hashes[-1] if self.block_hashes else b""
            self.block_hashes.append(hashlib.sha256(before + text).digest()[:8])


class FakeBlocks:
    """`engine_facts.Blocks`."""

    count = 1000

    def __init__(self) -> None:
        self.held: dict[str, list[BlockId]] = {}
        self.cached: set[bytes] = set()

    def of_request(self, request: RequestId) -> list[BlockId]:
        return list(self.held[request])

    def is_cached(self, block_hash: bytes) -> bool:
        return block_hash in self.cached

    @property
    def free(self) -> int:
        return self.count - sum(map(len, self.held.values()))


class FakeEngine:
    """One engine without workers."""

    def __init__(
        self,
        *,
        bytes_per_token: int = 4,
        block: int = BLOCK,
        lookup: SharedLookup | None = None,
        clock: Callable[[], float] = time.monotonic,
        calibrated: CalibratedBounds | None = None,
        **settings: Any,
    ) -> None:
        self.block = block
        self.settings: ReuseSettings = parse_settings(settings)
        self.blocks = FakeBlocks()
        facts = EngineFacts(
            fingerprint=ModelFingerprint("model"),
            special_tokens=np.array([1, 2], dtype=np.int64),
            shape=LayerShape(8, 0.2),
            block_size=block,
            bytes_per_token=bytes_per_token,
            calibrated=calibrated,
        )
        self.half = SchedulerHalf(self.settings, facts, self.blocks, lookup, clock)
        self.stored: set[bytes] = set()
        """Segments that a worker holds, had it carried out all orders so far."""
        self.released: list[str] = []
        self.requests: dict[str, FakeRequest] = {}

    # ---- what vLLM does -------------------------------------------------------------------------

    def add(
        self,
        tokens: Sequence[int],
        *,
        name: str | None = None,
        salt: str | None = None,
        others: dict[str, Any] | None = None,
        **params: Any,
    ) -> FakeRequest:
        """A request arrives."""
        name = name or f"r{len(self.requests)}"
        request = FakeRequest(name, tokens, params or None, salt, self.block, **(others or {}))
        self.requests[name] = request
        self.half.on_new_request(request)  # type: ignore[arg-type]
        return request

    def prefix_hit(self, request: FakeRequest) -> int:
        """Tokens of whole cached blocks, leaving at least one token to compute."""
        hit = 0
        for block_hash in request.block_hashes[: (request.num_tokens - 1) // self.block]:
            if block_hash not in self.blocks.cached:
                break
            hit += self.block
        return hit

    def waits(self, request: FakeRequest) -> bool:
        """Whether vLLM, which asks in every step, is told to ask again; nothing is allocated."""
        return self.half.matched_tokens(request, self.prefix_hit(request)) is None  # type: ignore[arg-type]

    def admit(self, request: FakeRequest, *, overrule: bool = False) -> int:
        """Schedule a waiting request for the first time; how many tokens are to be produced.

        With `overrule` vLLM asks and then loads nothing, as it does for prompt log-probabilities.
        """
        prefix = self.prefix_hit(request)
        count = self.half.matched_tokens(request, prefix)  # type: ignore[arg-type]
        assert count is not None
        assert 0 <= count <= request.num_tokens - prefix
        if overrule:
            count = 0
        self._allocate(request)
        if count == 0:  # vLLM registers what it is about to compute before it tells the connector
            self._cache(request, request.num_prompt_tokens)
        self.half.allocated(request, self.blocks.held[request.request_id], count)  # type: ignore[arg-type]
        request.num_computed_tokens = prefix + count
        return count

    def load_ends(self, request: FakeRequest, *, failed: bool = False) -> int:
        """The workers report; vLLM schedules the request again. What is to be produced then."""
        name = RequestId(request.request_id)
        self.half.produced(name, failed)
        if failed:
            del self.blocks.held[name]
            request.num_computed_tokens = 0
            return self.admit(request)
        self._cache(request, request.num_computed_tokens)
        self.half.allocated(request, self.blocks.held[name], 0)  # type: ignore[arg-type]
        return 0

    def compute(self, request: FakeRequest, output: Sequence[int] = ()) -> None:
        """The rest of the prompt is computed, and these tokens are sampled."""
        request.num_computed_tokens = request.num_prompt_tokens
        for token in output:
            request.num_computed_tokens = request.num_tokens
            request.all_token_ids.append(token)
        request.update_block_hashes()
        self._allocate(request)
        self._cache(request, request.num_computed_tokens)

    def preempt(self, request: FakeRequest) -> None:
        """Its blocks are taken away; it waits again."""
        del self.blocks.held[request.request_id]
        request.num_computed_tokens = 0
        request.num_preemptions += 1

    def finish(self, request: FakeRequest, status: str = "FINISHED_STOPPED") -> ReuseReport:
        """It ends, well or by abort."""
        request.status = SimpleNamespace(name=status)
        name = request.request_id
        keep, report = self.half.finished(request, self.blocks.held.get(name, []))  # type: ignore[arg-type]
        if not keep:
            self.blocks.held.pop(name, None)
        return report

    def step(self, scheduled_tokens: int = 0) -> StepOrders:
        """One engine step: orders are given, and a worker's store follows them."""
        orders = self.half.orders(scheduled_tokens)
        self.stored -= set(orders.drop)
        self.stored |= {record.id for record in orders.fetch}
        for publication in orders.publish:
            assert publication.blocks == self.blocks.held[publication.request]
            self.stored |= {at.segment for at in publication.segments}
        for name in orders.release:
            del self.blocks.held[name]
            self.released.append(name)
        return orders

    # ---- whole lives ----------------------------------------------------------------------------

    def run(self, tokens: Sequence[int], *, output: Sequence[int] = (7,), **params: Any) -> Any:
        """A request from its arrival to its end, publishing included; its report."""
        request = self.add(tokens, **params)
        if self.admit(request):
            self.step()
            self.load_ends(request)
        self.step(1)
        self.compute(request, output)
        report = self.finish(request)
        self.settle()
        return report

    def settle(self) -> None:
        """Step until nothing is published any more."""
        for _ in range(1000):
            orders = self.step()
            if not (orders.publish or orders.release or orders.start or orders.stop):
                return
        raise AssertionError("the engine does not come to rest")

    def assert_nothing_held(self) -> None:
        """No block, pin, job or record of a request is left, and ledger and store agree."""
        self.settle()
        gauges = self.half.gauges()
        assert self.blocks.held == {}
        assert gauges["pins"] == gauges["running_jobs"] == 0
        assert gauges["free_blocks"] == gauges["total_blocks"]
        for table in ("_tracked", "_prefilling", "_releasing"):
            assert not getattr(self.half, table), f"{table} keeps a request that is gone"
        assert not self.half._queue.requests()
        single_flight = self.half.single_flight
        assert not (single_flight.flights or single_flight._waits or single_flight._waited)
        assert not single_flight.pace.open()
        assert not single_flight.pace.open_sparse()
        self.half.ledger.check_integrity()
        assert self.stored == set(self.half.ledger._records)

    def _allocate(self, request: FakeRequest) -> None:
        held = self.blocks.held.setdefault(request.request_id, [])
        while len(held) * self.block < request.num_tokens:
            held.append(BlockId(len(held) + 1))

    def _cache(self, request: FakeRequest, tokens: int) -> None:
        self.blocks.cached |= set(request.block_hashes[: tokens // self.block])
