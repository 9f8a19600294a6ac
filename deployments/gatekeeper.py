"""The gate at work: what each request is served with, what its answer tells, and its checks.

Stands between vLLM's OpenAI layer and the engine. Knows vLLM's requests and outputs by their
fields, and imports nothing of it; the decisions are made in `raysparsex.gate`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from raysparsex.config import ReuseMode, parse_request
from raysparsex.errors import InvalidRequest
from raysparsex.gate.compare import TOP_TOKENS, Answer, compare
from raysparsex.gate.gate import Decision, Gate
from raysparsex.gate.levels import Level, OwnCorrection, exactly, params_at, without_traces

from .checked_answer import CheckedAnswer
from .gate_metrics import GateMetrics, digest
from .shadow import ShadowQueue

logger = logging.getLogger(__name__)

INTEGRITY_FAILURE = "integrity check failed"
NOT_COMPARABLE = (
    "prompt_logprobs",
    "prompt_logprob_token_ids",
    "logprob_token_ids",
    "flat_logprobs",
    "trace_decode_token_ids",
)
"""Sampling parameters with which an answer is not checked: nothing is reused with the first two,
and with the others the log-probabilities are not those of the likeliest tokens."""


class Shadow(NamedTuple):
    """What the engine said to a shadow request."""

    answer: Answer
    reuse: Mapping[str, Any]
    """its report"""


RunShadow = Callable[[Any, dict[str, Any], int], Awaitable[Shadow]]
"""(prompt, kv_transfer_params, tokens to generate)"""


@dataclass(slots=True)
class Gatekeeper:
    """Applies the gate to the sparse requests of one engine."""

    gate: Gate
    own: OwnCorrection
    default_mode: ReuseMode
    metrics: GateMetrics
    shadows: ShadowQueue
    run: RunShadow
    tokens: int
    """of an answer that are compared"""
    logprobs: int = TOP_TOKENS
    """that the engine gives per token, at most"""

    def admit(self, prompt: Any, sampling: Any, lora: Any = None) -> GatedRequest | None:
        """A sparse request on its way to the engine; None if it is none of the gate's business."""
        params = (sampling.extra_args or {}).get("kv_transfer_params") or {}
        try:
            mode = parse_request(params).reuse or self.default_mode
        except InvalidRequest:
            return None  # the engine refuses it
        if mode is not ReuseMode.SPARSE or lora is not None:
            return None
        tenant = (prompt.get("cache_salt") if isinstance(prompt, Mapping) else None) or ""
        decision = self.gate.decide(tenant)
        if not self._can_compare(prompt, sampling):
            decision = Decision(decision.level, cause=decision.cause)
        return GatedRequest(self, tenant, decision, prompt, sampling, params)

    def integrity_failed(self, tenant: str) -> None:
        """Stored values of this tenant were not what they should be."""
        self._changed(tenant, self.gate.observe_integrity_failure(tenant))

    def check_later(self, request: GatedRequest, answer: Answer) -> None:
        """Compare an answer with what another way of serving the same prompt gives."""
        self.shadows.put(partial(self._check, request, answer))

    def tell_levels(self) -> None:
        """Set the gauges anew; see `GateMetrics.tell_levels`."""
        self.metrics.tell_levels(self.gate.raised)

    def facts(self) -> dict[str, Any]:
        """For the engine's facts; tenants by digest."""
        return {
            "level": self.metrics.levels(self.gate.raised),
            **self.metrics.facts(),
            "pending": self.shadows.pending,
            "tenants": len(self.gate),
            "forgotten": self.gate.forgotten,
        }

    def _can_compare(self, prompt: Any, sampling: Any) -> bool:
        tokens = isinstance(prompt, Mapping) and prompt.get("type") == "token"
        special = any(_is_set(sampling, name) for name in NOT_COMPARABLE)
        return tokens and not special and sampling.n == 1 and self.logprobs > 0

    async def _check(self, request: GatedRequest, answer: Answer) -> None:
        probe = request.decision.probe
        tested = request.decision.level.below if probe else request.decision.level
        params = params_at(tested, request.params, self.own) if probe else exactly({})
        count = min(self.tokens, len(answer.tokens))
        other = await self.run(request.prompt, without_traces(params), count)
        if _integrity_failed(other.reuse):
            self.integrity_failed(request.tenant)
            return
        if probe and not other.reuse.get("reused_tokens"):
            return  # nothing was reused, so it proves nothing
        full, sparse = (answer, other.answer) if probe else (other.answer, answer)
        check = compare(full, sparse)
        if check is None:
            return
        agrees = self.gate.target.holds(check.kl, check.top1)
        self.metrics.checked("probe" if probe else "check", agrees, check)
        self._changed(request.tenant, self.gate.observe(request.tenant, tested, check))

    def _changed(self, tenant: str, change: Any) -> None:
        if change is None:
            return
        self.metrics.changed_level(tenant, change, self.gate.raised)
        name = change.level.name.lower()
        logger.warning("gate: tenant %s is now at %s: %s", digest(tenant), name, change.reason)


@dataclass(slots=True)
class GatedRequest:
    """One sparse request and its outputs, on their way through the gate."""

    keeper: Gatekeeper
    tenant: str
    decision: Decision
    prompt: Any
    asked: Any
    """the user's sampling parameters, which stay as they are"""
    params: Mapping[str, Any]
    """the user's `kv_transfer_params`"""
    sampling: Any = field(init=False)
    """sampling parameters for the engine"""
    _checked: CheckedAnswer | None = None

    def __post_init__(self) -> None:
        self.sampling = self.asked
        if self.decision.level is not Level.NORMAL:
            self._change()
        if self.decision.check or self.decision.probe:
            self._ask_for_logprobs()

    def hear(self, output: Any) -> None:
        """An output of the engine, before its user sees it."""
        if self._checked is not None:
            for completion in output.outputs:
                self._checked.take(completion)
        report = (output.kv_transfer_params or {}).get("reuse")
        if isinstance(report, Mapping):
            output.kv_transfer_params = {
                **output.kv_transfer_params,
                "reuse": self._explained(report),
            }
            if output.finished and _integrity_failed(report):
                self.keeper.integrity_failed(self.tenant)
        if output.finished and self._checked is not None:
            self._end(report or {}, self._checked.answer)

    def _change(self) -> None:
        level = self.decision.level
        params = params_at(level, self.params, self.keeper.own)
        if self.decision.probe:
            params = exactly(self.params)
        self.sampling = copy.copy(self.sampling)
        others = self.sampling.extra_args or {}
        self.sampling.extra_args = {**others, "kv_transfer_params": params}
        self.keeper.metrics.changed_request(
            "off" if self.decision.probe else str(level.name.lower())
        )

    def _ask_for_logprobs(self) -> None:
        asked, wanted = self.asked.logprobs, self.keeper.logprobs
        delta = self.asked.output_kind.name == "DELTA"
        enough = asked is not None and (asked < 0 or asked >= wanted)
        self._checked = CheckedAnswer(-1 if enough else asked, delta, self.keeper.tokens)
        if not enough:
            self.sampling = copy.copy(self.sampling)
            self.sampling.logprobs = wanted

    def _explained(self, report: Mapping[str, Any]) -> Mapping[str, Any]:
        """The report, with the gate's part in it."""
        if self.decision.level is Level.NORMAL or report.get("fallback"):
            return report
        return {**report, "fallback": f"gate: {self._explanation()}"}

    def _explanation(self) -> str:
        if self.decision.probe:
            return "served exactly, to see whether reuse is fine again"
        how = {Level.EXACT: "served exactly", Level.CAUTIOUS: "more was computed than asked for"}
        return f"{how[self.decision.level]}, after {self.decision.cause}"

    def _end(self, report: Mapping[str, Any], answer: Answer) -> None:
        # A check needs an approximate answer, and a probe an exact one.
        if answer.tokens and (self.decision.probe or report.get("reused_tokens")):
            self.keeper.check_later(self, answer)


def _integrity_failed(report: Mapping[str, Any]) -> bool:
    return str(report.get("fallback") or "").startswith(INTEGRITY_FAILURE)


def _is_set(sampling: Any, name: str) -> bool:
    """Zero is a value, and an array has no truth of its own."""
    value = getattr(sampling, name, None)
    return value is not None and value is not False
