"""What agents read and write, as values: documents, messages, tool results, agents' outputs.

They stand in a graph's state and travel through checkpoints as JSON. Each has a content id: equal
content, equal id, wherever it stands. Knows no prompt and no server; `prompt.py` renders them.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

ChatRole: TypeAlias = Literal["system", "user", "assistant", "tool"]


class Value(BaseModel):
    """A frozen value with a content id. Its first fields may be given by position."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    positional: ClassVar[tuple[str, ...]] = ()

    if not TYPE_CHECKING:

        def __init__(self, *args: Any, **fields: Any) -> None:
            if len(args) > len(self.positional):
                raise TypeError(f"{type(self).__name__} takes {', '.join(self.positional)}")
            super().__init__(**dict(zip(self.positional, args, strict=False)), **fields)

    @property
    def content_id(self) -> str:
        """Names the content: 32 hexadecimal digits."""
        return content_id(type(self).__name__, *self.identity())

    @abstractmethod
    def identity(self) -> tuple[str, ...]:
        """What makes two values the same to a reader."""


def content_id(*parts: str) -> str:
    """Digest of a list of texts; each is hashed with its length, so that edges count."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


class Document(Value):
    """A text that agents read. Agents that read equal documents share what is computed of them."""

    positional = ("text", "title", "id")
    text: str
    title: str | None = None
    """Stands in front of the text, in a line of its own."""
    id: str | None = None
    """The application's name for it; not part of any prompt."""

    if TYPE_CHECKING:

        def __init__(self, text: str, title: str | None = None, id: str | None = None) -> None: ...  # noqa: A002

    def identity(self) -> tuple[str, ...]:
        """Title and text."""
        return (self.title or "", self.text)


class ToolCall(BaseModel):
    """A model's wish to have a tool called."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str
    name: str
    arguments: str
    """JSON as the model wrote it, right or wrong."""


class Message(Value):
    """A message of a conversation, in OpenAI's form."""

    positional = ("role", "content")
    role: ChatRole
    content: str = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    id: str | None = None
    """The application's name for it; not part of any prompt."""

    if TYPE_CHECKING:

        def __init__(
            self,
            role: ChatRole,
            content: str = "",
            name: str | None = None,
            tool_calls: tuple[ToolCall, ...] = (),
            tool_call_id: str | None = None,
            id: str | None = None,  # noqa: A002
        ) -> None: ...

    def identity(self) -> tuple[str, ...]:
        """Everything that is sent."""
        calls = [part for call in self.tool_calls for part in (call.id, call.name, call.arguments)]
        return (self.role, self.content, self.name or "", self.tool_call_id or "", *calls)


class ToolResult(Value):
    """What a tool returned, as text."""

    positional = ("tool", "text")
    tool: str
    text: str
    arguments: str = ""
    """JSON that the tool was called with."""
    is_error: bool = False

    if TYPE_CHECKING:

        def __init__(
            self, tool: str, text: str, arguments: str = "", is_error: bool = False
        ) -> None: ...

    def identity(self) -> tuple[str, ...]:
        """The call and its text."""
        return (self.tool, self.arguments, self.text)


class AgentOutput(Value):
    """What an agent answered; `str()` of it is the text."""

    positional = ("text", "agent")
    text: str
    agent: str = ""
    seen: tuple[str, ...] = ()
    """Content ids of what the agent was shown, in the order of its prompt. The agent's next prompt
    keeps this order, so that it begins with the same bytes."""
    steps: tuple[Message, ...] = ()
    """Tool calls and their results on the way to the answer. Only the agent itself sees them."""

    if TYPE_CHECKING:

        def __init__(
            self,
            text: str,
            agent: str = "",
            seen: tuple[str, ...] = (),
            steps: tuple[Message, ...] = (),
        ) -> None: ...

    def identity(self) -> tuple[str, ...]:
        """Who said what; not what was read for it."""
        return (self.agent, self.text)

    def __str__(self) -> str:
        return self.text


Item: TypeAlias = Document | Message | ToolResult | AgentOutput
