"""Map and reduce over a long document, with notes in its margin (Writing in the Margins).

Each page is read on its own, with the question in mind, and leaves a note. Notes on pages that do
not speak of it are dropped. The answer is written from all pages and the notes: by then every
page has been computed once. Run: python -m examples.margins
"""

from __future__ import annotations

import argparse
import operator
from typing import Annotated, TypedDict

from agents import (  # isort: skip
    END, START, Agent, AgentOutput, Client, CompiledGraph, Document, Graph, Message, RunEvent,
    RunReport, Send, run,
)  # fmt: skip
from examples.documents import document

QUESTION = "Where is the teapot?"


class State(TypedDict, total=False):
    """One long document, page by page."""

    pages: list[Document]
    question: str
    read: Annotated[list[AgentOutput], operator.add]
    notes: list[Message]
    answer: AgentOutput


def pages_of(text: str, words: int = 90) -> list[Document]:
    """Whole paragraphs, about so many words to a page."""
    pages = [""]
    for paragraph in text.split("\n\n"):
        if pages[-1] and len(f"{pages[-1]} {paragraph}".split()) > words:
            pages.append("")
        pages[-1] = f"{pages[-1]}\n\n{paragraph}".strip()
    return [Document(page) for page in pages]


def spread(state: State) -> list[Send]:
    """Map: one reader per page."""
    question = state["question"]
    return [Send("read", {"pages": [page], "question": question}) for page in state["pages"]]


def annotate(state: State) -> State:
    """Keep the notes on pages that name what is asked for."""
    asked = [w for w in state["question"].rstrip("?").split()[1:] if len(w) > 4 or w[0].isupper()]
    noted = zip(state["pages"], state["read"], strict=True)
    kept = [note for page, note in noted if any(word in page.text for word in asked)]
    return {"notes": [Message("user", f"In the margin: {note.text.strip()}") for note in kept]}


def build(client: Client) -> CompiledGraph[State]:
    """read each page -> annotate -> answer"""
    reader = Agent("read", "Read this page with the question in mind.", client=client,
                   reads=("pages", "question"), writes="read[]", max_tokens=16)  # fmt: skip
    writer = Agent("answer", "Answer from pages and notes.", reads=("pages", "notes", "question"),
                   writes="answer", client=client, max_tokens=16)  # fmt: skip
    graph = Graph(State, name="margins")
    graph.add_node("read", reader).add_node("annotate", annotate, writes=["notes"])
    graph.add_node("answer", writer)
    graph.add_conditional_edges(START, spread, ["read"]).add_edge("read", "annotate")
    graph.add_edge("annotate", "answer").add_edge("answer", END)
    return graph.compile()


def main(url: str) -> tuple[list[str], str, RunReport]:
    """Returns the notes, the answer, and what became of the prompts."""
    events: list[RunEvent] = []
    names = ("harbour", "museum", "railway", "garden")
    pages = pages_of("\n\n".join(document(name) for name in names))
    case: State = {"pages": pages, "question": QUESTION}
    result = run(build(Client(url)).ainvoke(case, on_event=events.append))
    notes = [note.content for note in result["notes"]]
    answer = str(result["answer"]).strip()
    print(f"{len(pages)} pages, {len(notes)} with a note")
    print("\n".join(notes))
    print(f"{QUESTION} {answer}\n")
    report = RunReport.of(events)
    print(report.table())
    return notes, answer, report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="an OpenAI-style server")
    main(parser.parse_args().url)
