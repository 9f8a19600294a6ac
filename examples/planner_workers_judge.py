"""A planner, four workers and a judge: what do the documents say about the owner of the violin?

The planner finds out who that is, which makes two questions. Each goes to two workers, who read the
documents in other orders, behind instructions of their own. The judge compares their drafts.
Run: python -m examples.planner_workers_judge
"""

from __future__ import annotations

import argparse
import operator
from typing import Annotated, Any, TypedDict

from agents import (  # isort: skip
    END, START, Agent, AgentOutput, Client, CompiledGraph, Document, Graph, Message, Send, run,
)  # fmt: skip
from examples.documents import document

CASE = "Who owns the violin?"
QUESTIONS = ("Where does {who} live?", "What is the job of {who}?")
WORKERS = {
    "scout": "You are the scout. You begin at the front.",
    "clerk": "You are the clerk, and you check every word.",
    "digger": "You are the digger. You begin with the last page.",
    "doubter": "You are the doubter. You believe what is written, and nothing else.",
}


class State(TypedDict, total=False):
    """What all nodes share."""

    documents: list[Document]
    case: str
    who: AgentOutput
    drafts: Annotated[list[AgentOutput], operator.add]
    notes: list[Message]
    verdicts: Annotated[list[AgentOutput], operator.add]


def questions(state: State) -> list[str]:
    """One per worker, about whom the planner found."""
    who = str(state["who"]).strip().rstrip(".")
    return [QUESTIONS[number % len(QUESTIONS)].format(who=who) for number in range(len(WORKERS))]


def assign(state: State) -> list[Send]:
    """Who looks into what, and where each begins to read."""
    documents, tasks = state["documents"], []
    for number, (worker, question) in enumerate(zip(WORKERS, questions(state), strict=True)):
        order = documents[number + 1 :] + documents[: number + 1]
        tasks.append(Send(worker, {"documents": order, "question": question}))
    return tasks


def collect(state: State) -> State:
    """Each draft beside the question that it answers."""
    asked = dict(zip(WORKERS, questions(state), strict=True))
    said = (f"The {d.agent} says: {asked[d.agent]} {d.text.strip()}" for d in state["drafts"])
    return {"notes": [Message("user", text) for text in said]}


def contested(state: State) -> list[Send]:
    """The judge sees the drafts on one question at a time."""
    found = dict.fromkeys(questions(state))
    notes = {q: [note for note in state["notes"] if q in note.content] for q in found}
    return [Send("judge", {"notes": notes[q], "question": q}) for q in found]


def build(client: Client, **options: Any) -> CompiledGraph[State]:
    """plan -> workers -> collect -> judge. `options` go to every agent."""
    options = {"client": client, "max_tokens": 16, **options}
    plan = Agent("plan", "Find who it is.", reads=("documents", "case"), writes="who", **options)
    judge = Agent("judge", "Which answer is right?", reads=("notes", "question"), role="judge",
                  writes="verdicts[]", **options)  # fmt: skip
    graph = Graph(State, name="planner-workers-judge").add_node("plan", plan)
    options.update(reads=("documents", "question"), writes="drafts[]")
    for name, instructions in WORKERS.items():
        graph.add_node(name, Agent(name, instructions, **options))
    graph.add_node("collect", collect, writes=["notes"]).add_node("judge", judge)
    graph.add_edge(START, "plan").add_conditional_edges("plan", assign, list(WORKERS))
    graph.add_edge(list(WORKERS), "collect").add_conditional_edges("collect", contested, ["judge"])
    graph.add_edge("judge", END)
    return graph.compile(prefetch=False)  # orders and questions are not known before the plan


def main(url: str) -> list[str]:
    """Returns the verdicts."""
    documents = [Document(document(name)) for name in ("harbour", "museum", "railway", "garden")]
    result = run(build(Client(url)).ainvoke({"documents": documents, "case": CASE}))
    verdicts = [str(verdict).strip() for verdict in result["verdicts"]]
    print(CASE, result["who"], *(f"\n{note.content}" for note in result["notes"]))
    print("The judge finds:", *verdicts)
    return verdicts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="an OpenAI-style server")
    main(parser.parse_args().url)
