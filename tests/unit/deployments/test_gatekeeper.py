"""The gate at work on requests and outputs, with an engine that is told what to say."""

from __future__ import annotations

import asyncio
import json
import math
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.gate_metrics import GateMetrics, digest
from deployments.gatekeeper import GatedRequest, Gatekeeper, Shadow
from deployments.shadow import ShadowQueue
from raysparsex.config import ReuseMode
from raysparsex.gate.compare import Answer
from raysparsex.gate.evidence import DriftTarget
from raysparsex.gate.gate import Gate
from raysparsex.gate.levels import Level, OwnCorrection

SALT = "customer-17"
PROMPT = {"type": "token", "prompt_token_ids": [1, 2, 3], "cache_salt": SALT, "arrival_time": 1.0}
REUSED = {"reused_tokens": 40, "fallback": None}
EXACTLY = {"reuse": "off", "publish": False}


class Metrics:
    """Stands for ray.util.metrics: the latest value of each name and set of tags."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}

    def _metric(self, name: str, description: str, tag_keys: Any = (), **_: Any) -> Any:
        def add(value: float = 1.0, tags: Any = None, keep: bool = True) -> None:
            assert set(tags or {}) == set(tag_keys)
            key = (name, *(tags or {}).values())
            self.values[key] = value + (self.values.get(key, 0) if keep else 0)

        return SimpleNamespace(
            inc=add, observe=add, set=lambda value, tags=None: add(value, tags, keep=False)
        )

    Counter = Gauge = Histogram = _metric


class Engine:
    """What it says to users and to shadow requests; `calls` are the shadow requests."""

    def __init__(self, users: int = 7, shadows: int = 7) -> None:
        self.users, self.shadows = users, shadows
        self.report: dict[str, Any] = dict(REUSED)
        self.calls: list[tuple[dict[str, Any], int]] = []

    async def run(self, prompt: Any, params: dict[str, Any], tokens: int) -> Shadow:
        assert prompt["cache_salt"] == SALT
        self.calls.append((params, tokens))
        await asyncio.sleep(0)
        return Shadow(Answer([self.shadows] * 2, [sure_of(self.shadows)] * 2), self.report)


def sure_of(token: int) -> dict[int, float]:
    return {token: math.log(0.98), 1000: math.log(0.01)}


def entries(position: dict[int, float]) -> dict[int, Any]:
    return {
        token: SimpleNamespace(logprob=value, rank=rank)
        for rank, (token, value) in enumerate(position.items(), start=1)
    }


class World:
    """A gatekeeper whose every request is drawn, unless `draw` says otherwise."""

    def __init__(self, share: float = 1.0, draw: float = 0.0, **engine: int) -> None:
        self.source, self.engine = Metrics(), Engine(**engine)
        metrics = GateMetrics(self.source)
        self.keeper = Gatekeeper(
            gate=Gate(DriftTarget(0.1, 0.95), share, 32, lambda: draw),
            own=OwnCorrection(layers=8, budget=0.15, full_layers=2),
            default_mode=ReuseMode.SPARSE,
            metrics=metrics,
            shadows=ShadowQueue(lambda: True, metrics.dropped, lambda: asyncio.sleep(0)),
            run=self.engine.run,
            tokens=4,
        )

    @property
    def level(self) -> Level:
        return self.keeper.gate.level_of(SALT)

    def trip(self, level: Level) -> World:
        for lower in (Level.NORMAL, Level.CAUTIOUS)[:level]:
            for _ in range(4):
                bad = SimpleNamespace(kl=4.0, top1=0.0)
                change = self.keeper.gate.observe(SALT, lower, bad)  # type: ignore[arg-type]
                self.keeper._changed(SALT, change)
        assert self.level is level
        return self

    def ask(self, report: dict[str, Any] | None = REUSED, **more: Any) -> Any:
        """One request from its arrival to its check; (gated request, output as the user sees it)"""

        async def whole() -> tuple[GatedRequest | None, Any]:
            gated = self.keeper.admit(PROMPT, sampling(**more))
            output = self.output(gated, report)
            if gated:
                gated.hear(output)
            while self.keeper.shadows.pending:
                await asyncio.sleep(0)
            return gated, output

        return asyncio.run(whole())

    def output(self, gated: GatedRequest | None, report: dict[str, Any] | None) -> Any:
        asked = gated.sampling.logprobs if gated else None
        logprobs = None if asked is None else [entries(sure_of(self.engine.users))] * 2
        completion = SimpleNamespace(
            token_ids=[self.engine.users] * 2,
            logprobs=logprobs,
            cumulative_logprob=None if asked is None else -0.1,
        )
        params = None if report is None else {"reuse": dict(report), "other": 1}
        return SimpleNamespace(outputs=[completion], finished=True, kv_transfer_params=params)


def sampling(params: dict[str, Any] | None = None, **more: Any) -> Any:
    extra = {"kv_transfer_params": params, "mine": 1} if params is not None else None
    values: dict[str, Any] = {
        "n": 1,
        "logprobs": None,
        "prompt_logprobs": None,
        "extra_args": extra,
    }
    kind = SimpleNamespace(name=more.pop("kind", "FINAL_ONLY"))
    return SimpleNamespace(**{**values, "output_kind": kind, **more})


# ---- checks -------------------------------------------------------------------------------------


def test_a_check_runs_the_same_prompt_in_full_and_leaves_no_traces() -> None:
    world = World()
    world.ask({**REUSED, "selector": "none"}, params={"selector": "none", "segments": [3]})
    assert world.engine.calls == [(EXACTLY, 2)]
    assert world.keeper.facts()["checks"] == {"agree": 1}


def test_an_answer_that_differs_is_counted_and_four_of_them_trip() -> None:
    world = World(users=7, shadows=8)
    for _ in range(4):
        world.ask()
    assert world.level is Level.CAUTIOUS
    facts = world.keeper.facts()
    assert facts["checks"] == {"differ": 4}
    assert facts["trips"] == {"drift": 1}
    assert facts["level"] == {digest(SALT): 1}
    assert world.source.values[("raysparsex_gate_level", digest(SALT))] == 1
    assert world.source.values[("raysparsex_gate_trips", "drift")] == 1
    assert world.source.values[("raysparsex_gate_checks", "check", "differ")] == 4


def test_the_user_does_not_see_the_check() -> None:
    _, output = World().ask()
    assert output.outputs[0].logprobs is None
    assert output.outputs[0].cumulative_logprob is None
    assert output.kv_transfer_params == {"reuse": REUSED, "other": 1}


def test_the_users_own_parameters_are_left_alone() -> None:
    mine = sampling({"budget": 0.2})
    gated = World().trip(Level.CAUTIOUS).keeper.admit(PROMPT, mine)
    assert gated is not None
    assert mine.extra_args["kv_transfer_params"] == {"budget": 0.2}
    assert mine.logprobs is None
    assert gated.sampling.extra_args["mine"] == 1


@pytest.mark.parametrize(
    "more",
    [
        {"n": 2},
        {"prompt_logprobs": 0},
        {"logprob_token_ids": [1]},
        {"flat_logprobs": True},
        {"trace_decode_token_ids": [1]},
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_not_checked(more: dict[str, Any]) -> None:
    world = World()
    gated, _ = world.ask(**more)
    assert gated.sampling is gated.asked
    assert world.engine.calls == []


def test_an_answer_without_reuse_needs_no_check() -> None:
    world = World()
    world.ask({"reused_tokens": 0, "fallback": None})
    world.ask(None)
    assert world.engine.calls == []


@pytest.mark.parametrize("mode", ["exact", "off"])
def test_exact_requests_are_none_of_its_business(mode: str) -> None:
    world = World().trip(Level.EXACT)
    assert world.ask(params={"reuse": mode})[0] is None


def test_nor_are_requests_that_the_engine_will_refuse_or_prefill_plainly() -> None:
    world = World()
    assert world.ask(params={"reuse": "maybe"})[0] is None
    assert world.keeper.admit(PROMPT, sampling(), lora=object()) is None


def test_a_users_logprobs_are_asked_for_only_where_they_do_not_do() -> None:
    world = World()
    for asked, given in [(None, 20), (0, 20), (5, 20), (20, 20), (50, 50), (-1, -1)]:
        gated = world.keeper.admit(PROMPT, sampling(logprobs=asked))
        assert gated is not None
        assert gated.sampling.logprobs == given


# ---- levels -------------------------------------------------------------------------------------


def test_a_cautious_request_computes_more_and_says_why() -> None:
    world = World(share=0.1, draw=0.9).trip(Level.CAUTIOUS)
    gated, output = world.ask(params={"budget": 0.1, "segments": [2]})
    assert gated.sampling.extra_args["kv_transfer_params"] == {
        "budget": 0.5,
        "suspects": 1.0,
        "full_layers": 4,
        "selector": "balanced",
        "segments": [2],
    }
    said = output.kv_transfer_params["reuse"]["fallback"]
    assert said == "gate: more was computed than asked for, after drift"
    assert world.keeper.facts()["changed_requests"] == {"cautious": 1}


def test_an_exact_request_says_why() -> None:
    world = World(share=0.1, draw=0.9).trip(Level.EXACT)
    gated, output = world.ask({"reused_tokens": 0, "fallback": None})
    assert gated.sampling.extra_args["kv_transfer_params"] == {"reuse": "exact"}
    said = output.kv_transfer_params["reuse"]["fallback"]
    assert said == "gate: served exactly, after drift"
    assert world.engine.calls == []


def test_another_fallback_is_kept() -> None:
    world = World(share=0.1, draw=0.9).trip(Level.CAUTIOUS)
    _, output = world.ask({"reused_tokens": 0, "fallback": "planning failed"})
    assert output.kv_transfer_params["reuse"]["fallback"] == "planning failed"


def test_an_integrity_failure_trips_at_once() -> None:
    world = World(share=0.0)
    world.ask({"reused_tokens": 0, "fallback": "integrity check failed: checksum"})
    assert world.level is Level.EXACT
    assert world.keeper.facts()["trips"] == {"integrity": 1}
    _, output = World.ask(world, {"reused_tokens": 0, "fallback": None})
    assert output.kv_transfer_params["reuse"]["fallback"].startswith("gate: ")


# ---- the way back -------------------------------------------------------------------------------


def test_a_probe_serves_exactly_and_tries_the_level_below_behind_the_users_back() -> None:
    world = World().trip(Level.EXACT)
    gated, output = world.ask({"reused_tokens": 0, "fallback": None}, params={"selector": "none"})
    sent = gated.sampling.extra_args["kv_transfer_params"]
    assert sent == {"selector": "none", "reuse": "off"}
    ((tried, _),) = world.engine.calls
    assert tried == {
        "selector": "balanced",
        "budget": 0.5,
        "suspects": 1.0,
        "full_layers": 4,
        "publish": False,
    }
    assert "to see whether reuse is fine" in output.kv_transfer_params["reuse"]["fallback"]
    assert output.outputs[0].logprobs is None
    assert world.keeper.facts()["probes"] == {"agree": 1}


def test_clean_probes_lead_back_to_normal() -> None:
    world = World(share=0.0).trip(Level.EXACT)
    for _ in range(32):
        world.ask({"reused_tokens": 0, "fallback": None})
    assert world.level is Level.NORMAL
    assert world.keeper.facts()["recoveries"] == 2
    assert world.keeper.facts()["level"] == {}
    assert world.source.values[("raysparsex_gate_level", digest(SALT))] == 0
    gated, output = world.ask()
    assert gated.sampling is gated.asked
    assert output.kv_transfer_params["reuse"]["fallback"] is None


def test_wrong_probes_hold_the_level() -> None:
    world = World(users=7, shadows=8).trip(Level.EXACT)
    for _ in range(50):
        world.ask({"reused_tokens": 0, "fallback": None})
    assert world.level is Level.EXACT
    assert world.keeper.facts()["probes"] == {"differ": 50}


def test_a_probe_that_reused_nothing_proves_nothing() -> None:
    world = World().trip(Level.EXACT)
    world.engine.report = {"reused_tokens": 0}
    for _ in range(50):
        world.ask({"reused_tokens": 0, "fallback": None})
    assert world.level is Level.EXACT
    assert world.keeper.facts()["probes"] == {}


def test_a_probe_that_finds_damaged_values_trips_again() -> None:
    world = World().trip(Level.CAUTIOUS)
    world.engine.report = {"reused_tokens": 0, "fallback": "integrity check failed: checksum"}
    world.ask({"reused_tokens": 0, "fallback": None})
    assert world.level is Level.EXACT


# ---- what is shown ------------------------------------------------------------------------------


def test_no_salt_is_ever_shown() -> None:
    world = World(users=7, shadows=8)
    for _ in range(10):
        world.ask()
    assert SALT not in json.dumps(world.keeper.facts())
    assert SALT not in str(list(world.source.values))
    assert digest(SALT) != digest(SALT + "0")
    assert digest("") == "none"


def test_labels_of_tenants_are_bounded() -> None:
    world = World()
    for number in range(500):
        world.keeper.integrity_failed(f"tenant-{number}")
    shown = {key[1] for key in world.source.values if key[0] == "raysparsex_gate_level"}
    assert len(shown) == 102  # a hundred tenants, no tenant, and all others
    assert world.source.values[("raysparsex_gate_level", "other")] == 2
    assert world.keeper.facts()["level"]["other"] == 2
