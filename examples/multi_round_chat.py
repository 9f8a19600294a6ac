"""A chat of several rounds, kept under a thread; a document is brought along in the middle.

Each prompt begins with the last one, so only what is new is computed, also where the new document
comes late. Run: python -m examples.multi_round_chat
"""

from __future__ import annotations

import argparse
import operator
import uuid
from typing import Annotated, Any, TypedDict

from agents import (  # isort: skip
    END, START, Agent, Client, CompiledGraph, Document, Graph, MemoryCheckpointer, Message,
    RunEvent, RunReport, run,
)  # fmt: skip
from examples.documents import document

ROUNDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Where does Boris live?", ("harbour", "museum")),
    ("What is the job of Oscar?", ()),
    ("Where is the teapot?", ("garden",)),
    ("Who owns the compass?", ()),
)


class Chat(TypedDict, total=False):
    """What was said and what it is about; both only grow."""

    documents: Annotated[list[Document], operator.add]
    messages: Annotated[list[Any], operator.add]


def build(client: Client) -> CompiledGraph[Chat]:
    """One node: the state does the rest."""
    assistant = Agent(
        "assistant",
        "You talk about the documents.",
        client=client,
        reads=("documents", "messages"),
        writes="messages",
        max_tokens=16,
    )
    graph = Graph(Chat, name="chat")
    graph.add_node("assistant", assistant)
    graph.add_edge(START, "assistant").add_edge("assistant", END)
    # open_checkpointer() keeps threads in SQLite, for good
    return graph.compile(MemoryCheckpointer())


async def talk(url: str) -> list[tuple[str, int]]:
    """All rounds on one thread."""
    chat, thread = build(Client(url)), uuid.uuid4().hex
    rounds = []
    for question, names in ROUNDS:
        events: list[RunEvent] = []
        said: Chat = {
            "documents": [Document(document(name)) for name in names],
            "messages": [Message("user", question)],
        }
        result = await chat.ainvoke(said, thread_id=thread, on_event=events.append)
        answer = str(result["messages"][-1]).strip()
        call = RunReport.of(events).calls[-1]
        held = call.prefix_tokens + call.reused_tokens
        rounds.append((answer, held))
        brought = f" (brings {', '.join(names)})" if names else ""
        print(f"{question}{brought} {answer}")
        print(f"    {held} of {call.prompt_tokens} prompt tokens were there already")
    return rounds


def main(url: str) -> list[tuple[str, int]]:
    """Returns each round's answer, and how many tokens of its prompt were held."""
    return run(talk(url))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="an OpenAI-style server")
    main(parser.parse_args().url)
