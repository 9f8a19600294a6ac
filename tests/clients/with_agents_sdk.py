"""A program of the OpenAI Agents SDK against the server at OPENAI_BASE_URL.

Reads what to ask as JSON, prints what came back as JSON. Needs openai-agents, and nothing of ours:
`tests/integration/test_other_clients.py` runs it in an environment of its own.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Literal

import openai
from pydantic import BaseModel

from agents import (
    Agent,
    ModelSettings,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_default_openai_api,
    set_tracing_disabled,
)

ASKED: dict[str, Any] = json.load(sys.stdin)
DOCUMENTS = "\n\n".join(ASKED["documents"])


class Person(BaseModel):
    """An answer with a form."""

    lives_in: Literal["Lisbon", "Vienna"]
    knows_the_sea: bool


@function_tool
def rainfall(city: Literal["Lisbon", "Vienna"], days: Literal[1, 2]) -> str:
    """Rain that is expected."""
    return f"{city}: {4 * days} mm"


def settings(tokens: int = 32, **more: Any) -> ModelSettings:
    """Of a request in a namespace of its own."""
    return ModelSettings(
        temperature=0,
        max_tokens=tokens,
        include_usage=True,
        extra_body={"cache_salt": ASKED["salt"], **more.pop("body", {})},
        extra_headers={"x-session-id": ASKED["salt"]},
        **more,
    )


def agent(name: str, **more: Any) -> Agent[Any]:
    """One of them."""
    more.setdefault("model_settings", settings())
    return Agent(name=name, instructions=f"You are the {name}.", model=ASKED["model"], **more)


def told(result: Any) -> dict[str, Any]:
    """What an answer says, and what it cost."""
    usage = result.raw_responses[-1].usage
    cached = usage.input_tokens_details.cached_tokens
    text = str(result.final_output).strip()
    return {"text": text, "prompt": usage.input_tokens, "cached": cached}


def asking(question: str) -> str:
    """The documents and a question."""
    return f"{DOCUMENTS}\n\n{question}"


async def readers() -> list[dict[str, Any]]:
    """Two agents read the same documents."""
    first, second = map(asking, ASKED["questions"])
    return [
        told(await Runner.run(agent("first reader"), first)),
        told(await Runner.run(agent("second reader"), second)),
    ]


async def streamed() -> dict[str, Any]:
    """The first one again, watched while it answers."""
    run = Runner.run_streamed(agent("first reader"), asking(ASKED["questions"][0]))
    deltas = [
        event.data.delta
        async for event in run.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    return {"answer": told(run), "deltas": "".join(deltas).strip()}


async def tool_round(choice: str) -> dict[str, Any]:
    """An agent that has to call first, and may answer then."""
    forced = settings(64, tool_choice=choice, parallel_tool_calls=False)
    result = await Runner.run(
        agent("clerk", tools=[rainfall], model_settings=forced), "Will it rain?"
    )
    kinds = [item.type for item in result.new_items]
    calls = [item.raw_item for item in result.new_items if item.type == "tool_call_item"]
    results = [item.output for item in result.new_items if item.type == "tool_call_output_item"]
    arguments = [json.loads(call.arguments) for call in calls]
    return {"calls": arguments, "results": results, "answer_type": kinds[-1]}


async def handed_over() -> str:
    """Which agent answers in the end."""
    writer = agent("writer")
    chosen = settings(64, tool_choice="transfer_to_writer")
    planner = agent("planner", handoffs=[writer], model_settings=chosen)
    return str((await Runner.run(planner, asking(ASKED["questions"][0]))).last_agent.name)


async def hinted() -> dict[str, Any]:
    """Hints of Dynamo's form: what is computed ahead, kept, and refused."""
    ahead = {"agent_hints": {"speculative_prefill": True}, "cache_control": {"ttl": "5m"}}
    early = agent("early reader", model_settings=settings(body={"nvext": ahead}))
    tokens = (await Runner.run(early, DOCUMENTS)).raw_responses[-1].usage.output_tokens
    wrong = settings(body={"nvext": {"cache_control": {"ttl": "soon"}}})
    try:
        await Runner.run(agent("early reader", model_settings=wrong), DOCUMENTS)
    except openai.BadRequestError as refusal:
        return {"tokens": tokens, "refused": refusal.param}
    return {"tokens": tokens, "refused": None}


async def by_responses() -> str:
    """What an agent is told that was not told to use chat completions."""
    model = OpenAIResponsesModel(ASKED["model"], openai.AsyncOpenAI(max_retries=0))
    try:
        await Runner.run(Agent(name="any", model=model), "Hello.")
    except openai.NotFoundError as refusal:
        return refusal.message
    return "answered"


async def main() -> None:
    """All of it, one after the other."""
    set_tracing_disabled(True)
    set_default_openai_api("chat_completions")
    form = agent("clerk", output_type=Person, model_settings=settings(64))
    report = {
        "readers": await readers(),
        "streamed": await streamed(),
        "required": await tool_round("required"),
        "named": await tool_round("rainfall"),
        "structured": (await Runner.run(form, "Who are you?")).final_output.model_dump(),
        "last_agent": await handed_over(),
        "hints": await hinted(),
        "by_responses": await by_responses(),
    }
    print(json.dumps(report))


asyncio.run(main())
