"""From values in a graph's state to a prompt, in an order that keeps what is computed useful.

Each value becomes a chat message of its own, so that segments, which servers cut at messages, are
values. An agent's next prompt begins with the bytes of its last one, as long as nothing of that
left the state: what the agent was shown before comes first and in that order, then its answer, then
what is new. The order stands in the agent's own outputs (`AgentOutput.seen`), so it is the same
after a resume and in every process. Without such an output the order is that of `reads`.

Pure; knows no server and no graph.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import TypeAdapter
from pydantic_core import to_json

from .messages import AgentOutput, Document, Item, Message, ToolResult, content_id
from .narrowing import is_mapping, is_series

SegmentKind: TypeAlias = Literal["instructions", "document", "message", "tool_result", "output"]
ChatMessage: TypeAlias = dict[str, Any]
"""A message as it is sent."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a prompt that another prompt may hold as well."""

    text: str
    kind: SegmentKind
    id: str
    """by text, whoever says it"""
    key: str = ""
    """of the state; empty for instructions"""
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """A value and the state key that it stands under."""

    item: Item
    key: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an agent is shown."""

    messages: tuple[ChatMessage, ...]
    segments: tuple[Segment, ...]
    seen: tuple[str, ...]
    """Content ids of the values, in order; instructions are not among them."""


def prompt_of(
    agent: str,
    instructions: str,
    placed: Sequence[Placed],
    last: AgentOutput | None = None,
) -> Prompt:
    """The prompt that shows `placed` to an agent. `last`: its latest output, if it has one."""
    ordered = arranged(placed, last)
    messages: list[ChatMessage] = []
    segments: list[Segment] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
        segments.append(Segment(instructions, "instructions", content_id(instructions)))
    for one in ordered:
        for message in rendered(one.item, agent):
            messages.append(message)
            text = str(message["content"])
            kind = "tool_result" if message["role"] == "tool" else kind_of(one.item)
            segments.append(Segment(text, kind, content_id(text), one.key))
    return Prompt(
        tuple(messages),
        tuple(segments),
        tuple(one.item.content_id for one in ordered),
    )


def arranged(placed: Sequence[Placed], last: AgentOutput | None) -> list[Placed]:
    """What was seen in its old order, then the answer to it, then the rest. Documents once."""
    waiting = _once_per_document(placed)
    if last is None:
        return waiting
    ordered: list[Placed] = []
    for name in (*last.seen, last.content_id):
        found = next((one for one in waiting if one.item.content_id == name), None)
        if found is not None:
            waiting.remove(found)
            ordered.append(found)
    return ordered + waiting


def latest_output(agent: str, items: Iterable[Item]) -> AgentOutput | None:
    """The agent's own output that stands last: what was shown for it includes the earlier ones."""
    own = [item for item in items if isinstance(item, AgentOutput) and item.agent == agent]
    return own[-1] if own else None


def collected(state: Any, keys: Iterable[str]) -> list[Placed]:
    """The values under these keys of a state: a mapping, a dataclass or a pydantic model."""
    return [Placed(item, key) for key in keys for item in items_of(key, value_at(state, key))]


def value_at(state: Any, key: str) -> Any:
    """None where the state has no such key."""
    if is_mapping(state):
        return state.get(key)
    return getattr(state, key, None)


def items_of(key: str, value: Any) -> Iterator[Item]:
    """A state's value as items; plain text is a user's message, other data is named by its key."""
    if value is None or value == "":
        return
    if isinstance(value, Document | Message | ToolResult | AgentOutput):
        yield value
    elif isinstance(value, str):
        yield Message("user", value)
    elif is_mapping(value) and {"role", "content"} <= set(value):
        yield as_message(value)
    elif is_series(value):
        for one in value:
            yield from items_of(key, one)
    else:
        yield Message("user", f"{key}: {as_text(value)}")


def as_text(value: Any) -> str:
    """Text as it is, everything else as JSON, the same bytes for equal values."""
    if isinstance(value, str):
        return value
    if isinstance(value, Document):
        return document_text(value)
    if isinstance(value, Message | ToolResult | AgentOutput):
        return value.content if isinstance(value, Message) else value.text
    plain = json.loads(to_json(value, fallback=str))
    return json.dumps(plain, ensure_ascii=False, separators=(", ", ": "))


def rendered(item: Item, agent: str) -> list[ChatMessage]:
    """An item as chat messages, as `agent` sees it: what it said itself is an assistant's."""
    match item:
        case Document():
            return [{"role": "user", "content": document_text(item)}]
        case ToolResult(tool=tool, arguments=arguments, text=text):
            return [{"role": "user", "content": f"{tool}({arguments}) returned:\n{text}"}]
        case AgentOutput(agent=author, text=text):
            if author != agent:
                return [{"role": "user", "content": text}]
            return [*map(chat_message, item.steps), {"role": "assistant", "content": text}]
        case Message():
            return [chat_message(item)]


def document_text(document: Document) -> str:
    """The title, if there is one, in a line of its own."""
    return f"{document.title}\n{document.text}" if document.title else document.text


def chat_message(message: Message) -> ChatMessage:
    """OpenAI's form, without the fields that are not set."""
    sent: ChatMessage = {"role": message.role, "content": message.content}
    if message.name:
        sent["name"] = message.name
    if message.tool_call_id:
        sent["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        sent["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls
        ]
    return sent


def as_message(sent: Mapping[str, Any]) -> Message:
    """A message of OpenAI's form as a value."""
    return TypeAdapter(Message).validate_python(_known_fields(sent))


def joined(messages: Iterable[ChatMessage]) -> list[ChatMessage]:
    """For chat templates that want roles to take turns: neighbours of one role as parts of one
    message. Costs boundaries that servers can see."""
    result: list[ChatMessage] = []
    for message in messages:
        parts = [{"type": "text", "text": message["content"]}]
        plain = set(message) == {"role", "content"} and message["role"] == "user"
        if plain and result and result[-1]["role"] == "user":
            result[-1]["content"].extend(parts)
        else:
            result.append({**message, "content": parts} if plain else message)
    return result


def kind_of(item: Item) -> SegmentKind:
    """The kind of segment that an item becomes."""
    match item:
        case Document():
            return "document"
        case ToolResult():
            return "tool_result"
        case AgentOutput():
            return "output"
        case Message():
            return "message"


def _once_per_document(placed: Sequence[Placed]) -> list[Placed]:
    """Equal documents are one; two equal messages were both said."""
    shown: Counter[str] = Counter()
    kept: list[Placed] = []
    for one in placed:
        shown[one.item.content_id] += 1
        if not (isinstance(one.item, Document) and shown[one.item.content_id] > 1):
            kept.append(one)
    return kept


def _known_fields(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message dict of OpenAI's form, as fields of ours."""
    fields = {k: v for k, v in message.items() if k in Message.model_fields and v is not None}
    fields["tool_calls"] = tuple(
        {"id": call["id"], **call["function"]} for call in message.get("tool_calls") or ()
    )
    return fields
