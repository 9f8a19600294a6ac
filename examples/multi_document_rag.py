"""RAG: a ranker chooses the documents, and puts the best one first, so their order keeps changing.

A prefix cache helps only while the order stays. Run: python -m examples.multi_document_rag
"""

from __future__ import annotations

import argparse
import uuid
from typing import TypedDict

from agents import (  # isort: skip
    END, START, Agent, AgentOutput, Client, CompiledGraph, Document, Graph, RunEvent, RunReport,
    run,
)  # fmt: skip
from examples.documents import document

LIBRARY = [Document(document(name)) for name in ("harbour", "museum", "railway", "garden")]
QUESTIONS = (
    "Where does Victor live?",
    "Who owns the violin?",
    "Where is the teapot?",
    "What is the job of Emma?",
)
BEST = 3


class State(TypedDict, total=False):
    """One question on its way to an answer."""

    question: str
    documents: list[Document]
    answer: AgentOutput


def rank(state: State) -> State:
    """The documents that share most words with the question. Put your retriever here."""
    asked = set(words(state["question"]))
    found = sorted(LIBRARY, key=lambda one: -len(asked & set(words(one.text))))
    return {"documents": found[:BEST]}


def words(text: str) -> list[str]:
    """Lower case, without punctuation."""
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def build(client: Client) -> CompiledGraph[State]:
    """rank -> read"""
    # sharing: what one run leaves serves the others too
    reader = Agent("read", "Answer from the documents.", reads=("documents", "question"),
                   writes="answer", client=client, sharing="tenant", max_tokens=16)  # fmt: skip
    graph = Graph(State, name="rag")
    graph.add_node("rank", rank, writes=["documents"])
    graph.add_node("read", reader)
    graph.add_edge(START, "rank").add_edge("rank", "read").add_edge("read", END)
    return graph.compile()


async def ask_all(url: str) -> list[str]:
    """Each question in a run of its own."""
    rag = build(Client(url))
    session, answers = uuid.uuid4().hex, []
    for number, question in enumerate(QUESTIONS):
        events: list[RunEvent] = []
        thread = f"{session}-{number}"
        result = await rag.ainvoke({"question": question}, thread_id=thread, on_event=events.append)
        answers.append(str(result["answer"]).strip())
        titles = " + ".join(one.text.partition("\n")[0] for one in result["documents"])
        call = RunReport.of(events).calls[-1]
        print(f"{question} {answers[-1]}")
        print(f"    from {titles}")
        print(f"    {call.reused_tokens} of {call.prompt_tokens} prompt tokens reused")
    return answers


def main(url: str) -> list[str]:
    """Returns the answers."""
    return run(ask_all(url))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="an OpenAI-style server")
    main(parser.parse_args().url)
