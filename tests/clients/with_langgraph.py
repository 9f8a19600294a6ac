"""A LangGraph program against the server at OPENAI_BASE_URL.

Reads what to ask as JSON, prints what came back as JSON. Needs langgraph and langchain-openai, and
nothing of ours: `tests/integration/test_other_clients.py` runs it in an environment of its own.
"""

from __future__ import annotations

import asyncio
import json
import operator
import sys
from typing import Annotated, Any, Literal, TypedDict

import openai
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from pydantic import BaseModel

ASKED: dict[str, Any] = json.load(sys.stdin)
DOCUMENTS = "\n\n".join(ASKED["documents"])
DEVELOPER = {"__openai_role__": "developer"}


class State(TypedDict):
    """Two readers of the same documents."""

    answers: Annotated[list[AIMessage], operator.add]


class Person(BaseModel):
    """An answer with a form."""

    lives_in: Literal["Lisbon", "Vienna"]
    knows_the_sea: bool


@tool
def rainfall(city: Literal["Lisbon", "Vienna"], days: Literal[1, 2]) -> str:
    """Rain that is expected."""
    return f"{city}: {4 * days} mm"


def model(**more: Any) -> ChatOpenAI:
    """The chat model, its requests in a namespace of their own."""
    body = {"cache_salt": ASKED["salt"], **more.pop("body", {})}
    return ChatOpenAI(
        model=ASKED["model"],
        temperature=0,
        max_tokens=more.pop("max_tokens", 32),
        max_retries=0,
        stream_usage=True,
        extra_body=body,
        default_headers={"x-session-id": ASKED["salt"]},
        **more,
    )


def reader(name: str, question: str) -> Any:
    """A node that answers one question."""

    async def read(state: State) -> dict[str, Any]:
        said = [SystemMessage(f"You are the {name}."), HumanMessage(f"{DOCUMENTS}\n\n{question}")]
        return {"answers": [await model().ainvoke(said)]}

    return read


def two_readers() -> Any:
    """The graph: one reader after the other."""
    graph = StateGraph(State)
    graph.add_node("first", reader("first reader", ASKED["questions"][0]))
    graph.add_node("second", reader("second reader", ASKED["questions"][1]))
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    graph.add_edge("second", END)
    return graph.compile()


def told(message: Any) -> dict[str, Any]:
    """What an answer says, and what it cost."""
    usage = message.usage_metadata
    cached = usage["input_token_details"].get("cache_read", 0)
    return {"text": message.text.strip(), "prompt": usage["input_tokens"], "cached": cached}


async def streamed() -> dict[str, Any]:
    """The same graph again, watched while the models answer."""
    pieces: dict[str, list[Any]] = {"first": [], "second": []}
    async for chunk, metadata in two_readers().astream({"answers": []}, stream_mode="messages"):
        pieces[metadata["langgraph_node"]].append(chunk)
    whole = [sum(chunks[1:], chunks[0]) for chunks in pieces.values()]
    return {"answers": [told(message) for message in whole], "chunks": len(pieces["first"])}


async def tool_round(choice: str) -> dict[str, Any]:
    """A model that has to call, the call, and a model that may."""

    async def call(state: MessagesState) -> dict[str, Any]:
        bound = model(max_tokens=64).bind_tools(
            [rainfall], tool_choice=choice, parallel_tool_calls=False
        )
        return {"messages": [await bound.ainvoke(state["messages"])]}

    async def answer(state: MessagesState) -> dict[str, Any]:
        bound = model().bind_tools([rainfall], parallel_tool_calls=False)
        return {"messages": [await bound.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("call", call)
    graph.add_node("use", ToolNode([rainfall]))
    graph.add_node("answer", answer)
    graph.add_edge(START, "call")
    graph.add_edge("call", "use")
    graph.add_edge("use", "answer")
    result = await graph.compile().ainvoke({"messages": [HumanMessage("Will it rain?")]})
    asked, used, answered = result["messages"][1:]
    return {
        "calls": [call["args"] for call in asked.tool_calls],
        "results": [used.content],
        "answer_type": answered.type,
    }


async def other_forms() -> dict[str, Any]:
    """Messages as clients of newer models send them."""
    question = [{"type": "text", "text": DOCUMENTS}, {"type": "text", "text": "\n\n"}]
    question.append({"type": "text", "text": ASKED["questions"][0]})
    said = [SystemMessage("You read.", additional_kwargs=DEVELOPER), HumanMessage(question)]
    body = {"metadata": {"a": "b"}, "user": "u", "prompt_cache_key": "k", "verbosity": "low"}
    parts = await model(body=body, store=False, service_tier="auto").ainvoke(said)
    call = {"name": "rainfall", "args": {"city": "Lisbon"}, "id": "call_1"}
    history = [
        HumanMessage("Will it rain?"),
        AIMessage("", tool_calls=[call]),
        ToolMessage(DOCUMENTS, tool_call_id="call_1"),
        HumanMessage(ASKED["questions"][0]),
    ]
    return {"parts": told(parts), "history": told(await model().ainvoke(history))}


async def hinted() -> dict[str, Any]:
    """Hints of Dynamo's form: what is computed ahead, kept, and refused."""
    said = [SystemMessage("You read ahead."), HumanMessage(DOCUMENTS)]
    ahead = {"agent_hints": {"speculative_prefill": True}, "cache_control": {"ttl": "5m"}}
    answer = await model(body={"nvext": ahead}).ainvoke(said)
    try:
        await model(body={"nvext": {"cache_control": {"ttl": "soon"}}}).ainvoke(said)
    except openai.BadRequestError as refusal:
        return {"tokens": answer.usage_metadata["output_tokens"], "refused": refusal.param}
    return {"tokens": answer.usage_metadata["output_tokens"], "refused": None}


async def main() -> None:
    """All of it, one after the other."""
    whole = await two_readers().ainvoke({"answers": []})
    form = model(max_tokens=64).with_structured_output(Person)
    report = {
        "readers": [told(message) for message in whole["answers"]],
        "streamed": await streamed(),
        "required": await tool_round("required"),
        "named": await tool_round("rainfall"),
        "structured": (await form.ainvoke("Who are you?")).model_dump(),
        "forms": await other_forms(),
        "hints": await hinted(),
    }
    print(json.dumps(report))


asyncio.run(main())
