"""The exceptions of agents, tools and endpoints.

RaySparseXError
└── AgentError
    ├── ToolDefinitionError   a function cannot be a tool; found when the program starts
    ├── ToolError             a tool failed, and it is told to raise
    ├── ToolArgumentsError    the model kept calling a tool with arguments that do not fit
    ├── TurnLimitError        an agent did not come to an answer within `max_turns`
    ├── OutputError           an answer does not fit `output_type`, repair turn included
    └── EndpointError         the model's server
        ├── EndpointDown      it cannot be reached, or did not answer in time: worth a retry
        └── RequestRefused    it answered, with an error
"""

from __future__ import annotations

from raysparsex.errors import RaySparseXError


class AgentError(RaySparseXError):
    """Base of what goes wrong in and around an agent."""


class ToolDefinitionError(AgentError):
    """A function cannot be offered as a tool; the message names the parameter and the fix."""


class ToolError(AgentError):
    """A tool raised, or ran past its timeout; `__cause__` is what it raised."""

    def __init__(self, tool: str, problem: str) -> None:
        self.tool = tool
        super().__init__(
            f"tool {tool!r} failed: {problem}. Fix the tool, or let the model be told instead:"
            ' function_tool(on_error="tell")'
        )


class ToolArgumentsError(AgentError):
    """The model's last turn was again a call with arguments that do not fit."""

    def __init__(self, agent: str, tool: str, problem: str, max_turns: int) -> None:
        self.agent = agent
        self.tool = tool
        super().__init__(
            f"agent {agent!r}: after {max_turns} turns the model still calls tool {tool!r} with bad"
            f" arguments ({problem}). Describe the parameters better, simplify them, or raise"
            " max_turns"
        )


class TurnLimitError(AgentError):
    """The agent's loop was stopped."""

    def __init__(self, agent: str, max_turns: int, last: str) -> None:
        self.agent = agent
        self.max_turns = max_turns
        super().__init__(
            f"agent {agent!r} gave no answer in {max_turns} turns; its last turn: {last}. Raise"
            f" Agent(max_turns=...), or say in its instructions when to stop"
        )


class OutputError(AgentError):
    """The answer does not fit the declared type; `text` is the last answer."""

    def __init__(self, agent: str, expected: str, problem: str, text: str) -> None:
        self.agent = agent
        self.text = text
        super().__init__(
            f"agent {agent!r}: its answer does not fit {expected}, asked twice: {problem}. Raise"
            " max_tokens if it was cut off, simplify output_type, or use a model that follows"
            f" schemas; the last answer was {text[:200]!r}"
        )


class EndpointError(AgentError):
    """A request to the model's server failed; `url` is the server, `status` the HTTP status."""

    def __init__(self, url: str, problem: str, fix: str, status: int | None = None) -> None:
        self.url = url
        self.status = status
        super().__init__(f"{url}: {problem}. {fix}")


class EndpointDown(EndpointError):
    """Nobody answered, or not in time, or the stream broke off."""


class RequestRefused(EndpointError):
    """The server answered with an error; its message is part of ours."""
