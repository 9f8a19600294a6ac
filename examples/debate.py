"""A debate: two agents answer, hear each other, answer again; a judge decides.

Both read all documents, each its own ones first. What an agent has read and said stays at the front
of its next prompt, so a later round computes what is new. Run: python -m examples.debate
"""

from __future__ import annotations

import argparse
import operator
from typing import Annotated, Any, Literal, TypedDict

from agents import (  # isort: skip
    END, START, Agent, AgentOutput, Client, CompiledGraph, Document, Graph, Message, RunEvent,
    RunReport, run,
)  # fmt: skip
from examples.documents import document

QUESTION = "Where does Clara live?"
ROUNDS = 2


class State(TypedDict, total=False):
    """`town` and `country` are documents, `talk` is what was said of them."""

    town: list[Document]
    country: list[Document]
    question: str
    round: int
    talk: Annotated[list[Any], operator.add]
    verdict: AgentOutput


def moderate(state: State) -> State:
    """Put the question, again in each round, and at last to the judge."""
    number = state.get("round", 0) + 1
    head = "Which answer is right? " if number > ROUNDS else ""
    return {"round": number, "talk": [Message("user", head + state["question"])]}


def who_speaks(state: State) -> list[Literal["townsman", "farmer", "judge"]]:
    """The two debaters, then the judge."""
    return ["judge"] if state["round"] > ROUNDS else ["townsman", "farmer"]


def build(client: Client) -> CompiledGraph[State]:
    """moderate -> (townsman, farmer) -> moderate -> ... -> judge"""
    town, country = ("town", "country", "talk"), ("country", "town", "talk")
    speakers = {
        "townsman": Agent("townsman", "You speak for the town.", reads=town, writes="talk[]",
                          client=client, max_tokens=16),
        "farmer": Agent("farmer", "You speak for the country.", reads=country, writes="talk[]",
                        client=client, max_tokens=16),
        "judge": Agent("judge", "You are the judge.", reads=town, writes="verdict", role="judge",
                       client=client, max_tokens=16),
    }  # fmt: skip
    graph = Graph(State, name="debate").add_node("moderate", moderate, writes=["round", "talk"])
    for name, agent in speakers.items():
        graph.add_node(name, agent)
    graph.add_edge(START, "moderate").add_edge(["townsman", "farmer"], "moderate")
    graph.add_conditional_edges("moderate", who_speaks).add_edge("judge", END)
    return graph.compile(prefetch=False)  # all that is known of a prompt was in the one before


def main(url: str) -> tuple[str, RunReport]:
    """Returns the verdict, and what became of the prompts."""
    events: list[RunEvent] = []
    case: State = {
        "town": [Document(document("harbour")), Document(document("museum"))],
        "country": [Document(document("railway")), Document(document("garden"))],
        "question": QUESTION,
    }
    result = run(build(Client(url)).ainvoke(case, on_event=events.append))
    for said in result["talk"]:
        spoken = isinstance(said, AgentOutput)
        print(f"{said.agent}: {said.text.strip()}" if spoken else f"moderator: {said.content}")
    verdict = str(result["verdict"]).strip()
    print(f"judge: {verdict}\n")
    report = RunReport.of(events)
    print(report.table())
    return verdict, report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="an OpenAI-style server")
    main(parser.parse_args().url)
