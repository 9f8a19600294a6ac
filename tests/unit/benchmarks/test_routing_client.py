"""A row measured on a server that answers as ours do."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.quality.client import ServerProblem
from benchmarks.routing import run, server
from benchmarks.routing.client import REPLICA_HEADER, Stream, by_replica
from benchmarks.routing.configurations import ROWS
from benchmarks.routing.journal import Journal
from benchmarks.routing.outcomes import Measured
from benchmarks.routing.workload import Workload, generated

REPORT = {
    "prompt_tokens": 900,
    "prefix_tokens": 0,
    "reused_tokens": 0,
    "recomputed_tokens": 0,
    "new_tokens": 900,
    "compute_share": 1.0,
    "fallback": None,
}
WORKLOAD = generated(3, seed=0)


class FakeServer:
    """Two replicas in turn, by our router or by Ray Serve."""

    def __init__(self, routes: bool, answer: str = "Paris") -> None:
        self.routes = routes
        self.answer = answer
        self.asked: list[dict[str, Any]] = []
        self.at_once = 0
        self.most_at_once = 0
        self.app = web.Application()
        self.app.router.add_post("/v1/chat/completions", self.chat)
        self.app.router.add_get("/raysparsex/routing", self.routing)
        self.app.router.add_get("/metrics", self.metrics)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        headers = {REPLICA_HEADER: f"r{len(self.asked) % 2}"} if self.routes else {}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        for event in events(self.answer):
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
            await asyncio.sleep(0)
        await response.write(b"data: [DONE]\n\n")
        self.at_once -= 1
        return response

    async def routing(self, request: web.Request) -> web.Response:
        if not self.routes:
            return web.json_response({})
        count = len(self.asked)
        facts = {
            "requests": {"score": count, "degraded": 0},
            "sent": {"best": count, "other": 0},
            "retries": 0,
            "registry": True,
            "names": True,
        }
        return web.json_response(facts)

    async def metrics(self, request: web.Request) -> web.Response:
        traced = [one for one in self.asked if "kv_transfer_params" not in one]
        return web.Response(text=page({"x": len(traced) - 4, "y": 4}))


def events(answer: str) -> list[dict[str, Any]]:
    pieces = [{"role": "assistant", "content": ""}, {"content": answer}]
    told: list[dict[str, Any]] = [{"choices": [{"delta": piece}]} for piece in pieces]
    ended = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    return [*told, {**ended, "kv_transfer_params": {"reuse": REPORT}}]


def page(counts: dict[str, int]) -> str:
    lines = [
        f'ray_vllm_raysparsex_requests_total{{Component="w",ReplicaId="{name}",mode="off"}} {n}.0'
        for name, n in counts.items()
    ]
    return "# HELP ray_vllm_raysparsex_requests_total\n" + "\n".join(lines) + "\n"


def measured(fake: FakeServer, workload: Workload = WORKLOAD) -> Measured:
    async def go() -> Measured:
        async with TestServer(fake.app) as at:
            return await run.measure(str(at.make_url("/v1")), workload, lambda: None)

    return asyncio.run(go())


@pytest.mark.parametrize("routes", [True, False])
def test_all_agents_ask_at_once_and_each_in_its_order(routes: bool) -> None:
    fake = FakeServer(routes)
    row = measured(fake)
    traffic = fake.asked[run.BEGIN_REQUESTS :]
    assert all(one["kv_transfer_params"]["publish"] is False for one in fake.asked[:16])
    for agent in WORKLOAD.agents:
        own = [request for request in traffic if request["messages"][0] == agent[0].messages[0]]
        assert [one["messages"] for one in own] == [list(one.messages) for one in agent]
    assert 1 < fake.most_at_once <= run.BEGIN_REQUESTS
    assert len(row.outcomes) == len(traffic) == 24
    assert {one.text for one in row.outcomes} == {"Paris"}
    assert all(0 < one.ttft <= row.seconds for one in row.outcomes)


def test_only_what_is_measured_is_counted() -> None:
    row = measured(FakeServer(routes=True))
    assert row.routing["requests"] == {"score": 24, "degraded": 0}
    assert row.replicas == {"r0": 12, "r1": 12}


def test_where_ray_chooses_the_engines_tell_who_answered() -> None:
    row = measured(FakeServer(routes=False))
    assert row.routing == {}
    assert row.replicas == {"x": 20, "y": 4}


def test_a_server_that_refuses_ends_the_row() -> None:
    fake = FakeServer(routes=False)
    fake.app = web.Application()
    with pytest.raises(ServerProblem, match="404"):
        measured(fake)


def test_a_stream_that_breaks_is_not_an_answer() -> None:
    stream = Stream()
    stream.take(f"data: {json.dumps(events('Paris')[1])}", 0.1)
    with pytest.raises(ServerProblem, match="no reuse"):
        stream.outcome(None)
    with pytest.raises(ServerProblem, match="lost"):
        stream.take('data: {"error": {"message": "lost"}}', 0.2)


def test_the_first_token_counts_not_the_first_event() -> None:
    stream = Stream()
    for at, event in enumerate(events("Paris")):
        stream.take(f"data: {json.dumps(event)}\n", float(at))
    assert stream.outcome(None).ttft == 1.0


def test_an_empty_answer_has_its_first_token_at_its_end() -> None:
    stream = Stream()
    for at, event in enumerate(events("")):
        stream.take(f"data: {json.dumps(event)}\n", float(at))
    assert (stream.outcome(None).ttft, stream.outcome(None).text) == (2.0, "")


def test_requests_by_replica_are_added_over_modes() -> None:
    both = page({"x": 3}) + page({"x": 2, "y": 1}).replace('"off"', '"sparse"')
    assert by_replica(both) == {"x": 5, "y": 1}
    assert by_replica("") == {}


def test_a_complete_row_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    @contextmanager
    def served(model: Path, settings: dict[str, str]) -> Iterator[str]:
        started.append(settings["RAYSPARSEX_ROUTING__POLICY"])
        yield "http://nowhere"

    row = measured(FakeServer(routes=False))

    async def measure(url: str, workload: Workload, step: object) -> Measured:
        return row

    monkeypatch.setattr(run, "served", served)
    monkeypatch.setattr(run, "measure", measure)
    journal, names = Journal(tmp_path / "journal", {}), list(ROWS)[:2]
    run.complete(journal, names[:1], WORKLOAD, tmp_path, 1)
    run.complete(Journal(tmp_path / "journal", {}), names, WORKLOAD, tmp_path, 1)
    assert started == ["power_of_two", "prefix"]


def test_a_rows_settings_end_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}

    @contextmanager
    def fake(model: Path) -> Iterator[str]:
        seen.update(os.environ)
        yield "http://nowhere"

    monkeypatch.setattr(server, "server", fake)
    monkeypatch.setenv("RAYSPARSEX_STORE__BYTES", "7")
    monkeypatch.delenv("RAYSPARSEX_ROUTING__POLICY", raising=False)
    with server.served(tmp_path, ROWS["ours, shared segments"].settings(1)):
        pass
    assert seen["RAYSPARSEX_ROUTING__POLICY"] == "segments"
    assert "RAYSPARSEX_ROUTING__POLICY" not in os.environ
    assert os.environ["RAYSPARSEX_STORE__BYTES"] == "7"
