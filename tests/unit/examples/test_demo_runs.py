"""The demo's graph against a scripted server: who is asked what, and what is kept of it."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from examples import planner_workers_judge as example
from examples.demo import parts, servers
from examples.demo.cases import known_case, long_case
from examples.demo.measure import Measured, measure
from tests.fakes.openai_server import REUSE, FakeOpenAI, Reply


def script(body: dict[str, Any]) -> Reply:
    """Knows the example's answers."""
    question = body["messages"][-1]["content"]
    answers = {"Who owns the violin?": "Clara.", "Where does Clara live?": "Seville."}
    return Reply(f" {answers.get(question, 'weaver.')}", reuse=REUSE)


def measured(fake: FakeOpenAI, *cases: Any) -> tuple[list[Measured], str]:
    said: list[str] = []

    async def work() -> list[Measured]:
        async with fake.running():
            return await measure(fake.url, cases, 7, said.append)

    return asyncio.run(work()), "".join(said)


def test_a_run_keeps_answers_and_every_request() -> None:
    (run,), _ = measured(FakeOpenAI(script, ours=True), known_case())
    assert (run.who, run.verdicts) == ("Clara.", known_case().answers)
    assert len(run.report.calls) == 7
    assert run.report.prefill_compute == 7 * 80 * 0.5
    assert run.seconds >= run.report.calls[-1].ended


def test_the_warm_up_is_not_counted_and_each_case_runs_once() -> None:
    fake = FakeOpenAI(script, ours=True)
    runs, said = measured(fake, known_case(), long_case(0, 60))
    assert len(runs) == 2
    assert len(fake.chats) == 3 * 7
    assert said.count("\n") == 3
    assert "run 2 of 2: plan" in said


def test_all_workers_read_all_documents_in_other_orders_behind_other_words() -> None:
    fake = FakeOpenAI(script, ours=True)
    measured(fake, known_case())
    workers = [body["messages"] for body in fake.chats[7:] if len(body["messages"]) == 6][1:]
    assert len(workers) == len(example.WORKERS) == 4
    texts = {one.text for one in known_case().documents}
    assert all({m["content"] for m in messages[1:5]} == texts for messages in workers)
    assert len({messages[0]["content"] for messages in workers}) == 4
    assert len({tuple(m["content"] for m in messages[1:5]) for messages in workers}) == 4


def test_the_planners_answer_makes_the_workers_questions() -> None:
    fake = FakeOpenAI(lambda body: Reply(" Emma."), ours=True)
    measured(fake, known_case())
    asked = [body["messages"][-1]["content"] for body in fake.chats[7:]]
    assert sorted(asked[1:5]) == sorted([q.format(who="Emma") for q in example.QUESTIONS] * 2)


def test_both_sides_are_asked_for_as_many_tokens() -> None:
    for ours in (True, False):
        fake = FakeOpenAI(script, ours=ours)
        measured(fake, known_case())
        assert {body["max_tokens"] for body in fake.chats} == {7}


def test_plain_vllm_is_told_nothing_of_reuse() -> None:
    fake = FakeOpenAI(lambda body: Reply(script(body).text))
    measured(fake, known_case())
    assert len(fake.chats) == 14
    assert not any({"kv_transfer_params", "cache_salt", "nvext"} & set(b) for b in fake.chats)


def test_plain_vllm_has_its_prefix_cache_and_neither_connector_nor_plugin() -> None:
    command = servers.plain_command(Path("/models/m"), "9")
    assert "--enable-prefix-caching" in command
    assert not any("connector" in word or "kv-transfer" in word for word in command)
    assert servers.plain_environment()["VLLM_PLUGINS"] == ""


def test_a_server_that_does_not_start_tells_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [sys.executable, "-c", "print('no such model'); raise SystemExit(3)"]
    monkeypatch.setattr(servers, "plain_command", lambda model, port: broken)
    starting = servers.plain(tmp_path, tmp_path, lambda text: None)
    with pytest.raises(servers.ServerProblem, match="no such model"), starting:
        pytest.fail("it is said to run")


def test_a_server_is_gone_when_its_use_ends_by_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import http.server, sys\n"
        "class Ready(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Ready).serve_forever()\n"
    )
    command = [sys.executable, "-c", program]
    monkeypatch.setattr(servers, "plain_command", lambda model, port: [*command, port])
    seen = []

    def used() -> None:
        with servers.plain(tmp_path, tmp_path, lambda text: None) as url:
            seen.append((url, servers.answers(url)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        used()
    ((url, was_there),) = seen
    assert was_there
    assert not servers.answers(url)


def test_a_running_server_with_another_model_is_refused_before_anything_is_asked(
    tmp_path: Path,
) -> None:
    fake, ready, loop = FakeOpenAI(script, ours=True), threading.Event(), asyncio.new_event_loop()
    done = asyncio.Event()

    async def serve() -> None:
        async with fake.running():
            ready.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        ready.wait()
        with pytest.raises(servers.ServerProblem, match="serves fake-model"):
            parts.compared(parts.embedded(), tmp_path, lambda text: None, fake.url)
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join()
        loop.close()
    assert fake.chats == []
