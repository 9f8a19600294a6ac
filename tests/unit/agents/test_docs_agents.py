"""What the docs say of agents runs as it stands there, in order, against a scripted server."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.agent import Agent
from agents.client import Client, set_default_client
from agents.policy import Role
from tests.fakes.openai_server import Call, FakeOpenAI, Reply

PAGE = Path(__file__).parents[3] / "docs" / "agents.md"
SECTION = PAGE.read_text().partition("\n## Agents\n")[2]
BLOCKS = re.findall(r"^```python\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)


def script(body: dict[str, Any]) -> Reply:
    """A clerk that looks up the rain, a judge that finds for the first, others that agree."""
    last = body["messages"][-1]
    if last["role"] == "tool":
        return Reply(f"It is {last['content']}")
    if "tools" in body:
        return Reply(calls=[Call("rainfall", {"city": "Oslo", "days": 2})])
    return Reply('{"winner": "first"}' if "response_format" in body else "In Oslo.")


@pytest.fixture
def server() -> Iterator[FakeOpenAI]:
    """In a thread: the page's own code runs event loops, one after another."""
    fake, ready, loop = FakeOpenAI(script, ours=True), threading.Event(), asyncio.new_event_loop()
    done = asyncio.Event()

    async def serve() -> None:
        async with fake.running():
            ready.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    set_default_client(Client(fake.url))
    yield fake
    set_default_client(None)
    loop.call_soon_threadsafe(done.set)
    thread.join()
    loop.close()


def test_the_code_of_the_section_runs(
    server: FakeOpenAI,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "docs_agents"}
    for number, block in enumerate(BLOCKS):
        name = f"{PAGE.name}, block {number} on agents"
        exec(compile(block, name, "exec", dont_inherit=True), names)
    said = capsys.readouterr().out
    assert "It is Oslo: 8 mm\n" in said
    assert "\nfirst\n" in said
    assert "tokens estimated" in said
    assert (tmp_path / "run.html").read_text().count("<rect") > 5
    assert {body["cache_salt"] for body in server.chats if "cache_salt" in body} == {
        "debate:case-1",
        "debate:case-2",
        "notes:page-1",
    }


def test_the_table_of_fields_names_fields_and_all_roles() -> None:
    rows = SECTION.partition("| field | meaning |")[2].partition("\n\n")[0].splitlines()[2:]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    fields = set(Agent.__dataclass_fields__)
    assert named <= fields
    assert fields - named <= {"appends", "description"}
    assert {str(role) for role in Role} <= set(re.findall(r"`(\w+)`", "".join(rows)))
