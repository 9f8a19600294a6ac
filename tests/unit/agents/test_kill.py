"""A process killed in the middle of a fan-out: another one goes on, and nothing runs twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[3]
PROGRAM = """
import asyncio, json, operator, os, signal, sys
from pathlib import Path
from typing import Annotated, TypedDict

from agents import END, START, Graph, Send, current_run, run

folder, dies = Path(sys.argv[1]), sys.argv[2] == "dies"
done = asyncio.Semaphore(0)

class State(TypedDict):
    log: Annotated[list[str], operator.add]

def effect(name):
    with (folder / "effects").open("a") as file:
        file.write(name + "\\n")
    return {"log": [name]}

async def prepare(state):
    return effect("prepare")

async def worker(number):
    if number == 2 and dies:
        for _ in range(3):  # both other workers, and the first node of the subgraph
            await done.acquire()
        (folder / "task").write_text(current_run().task_id)
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 2:
        assert (folder / "task").read_text() == current_run().task_id
    return effect(f"worker {number}")

async def step_one(state):
    return effect("step one")

async def step_two(state):
    if dies:
        await asyncio.Event().wait()
    return effect("step two")

def told(event):
    if event.kind == "node_ended" and event.node in ("worker", "step one"):
        done.release()

inner = Graph(State).add_node("step one", step_one).add_node("step two", step_two)
inner.add_edge(START, "step one").add_edge("step one", "step two").add_edge("step two", END)
graph = Graph(State).add_node("prepare", prepare).add_node("worker", worker)
graph.add_node("inner", inner.compile()).add_node("join", lambda state: effect("join"))
graph.add_edge(START, "prepare").add_edge("prepare", "inner").add_conditional_edges(
    "prepare", lambda state: [Send("worker", number) for number in range(3)], ["worker"]
)
graph.add_edge(["worker", "inner"], "join").add_edge("join", END)
compiled = graph.compile(f"sqlite:///{folder}/runs.sqlite")
given = {"log": []} if dies else None
print(json.dumps(run(compiled.ainvoke(given, thread_id="1", on_event=told))))
"""
NAMES = ["prepare", "step one", "step two", "worker 0", "worker 1", "worker 2", "join"]


def start(folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_killed_run_goes_on_in_another_process_and_nothing_runs_twice(tmp_path: Path) -> None:
    killed = start(tmp_path, "dies")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = (tmp_path / "effects").read_text().split("\n")[:-1]
    assert Counter(before) == Counter(["prepare", "step one", "worker 0", "worker 1"])

    resumed = start(tmp_path, "lives")
    assert resumed.returncode == 0, resumed.stderr
    effects = (tmp_path / "effects").read_text().split("\n")[:-1]
    assert Counter(effects) == Counter(NAMES)
    result = json.loads(resumed.stdout)["log"]
    assert Counter(result) == Counter(NAMES)
    assert result[0] == "prepare" and result[-1] == "join"
