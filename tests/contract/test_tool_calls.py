"""What we rely on in the installed vLLM when requests have tools."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

pytest.importorskip("vllm")

from vllm.entrypoints.launchers.cli_args import FrontendArgs
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.tool_parsers import ToolParserManager

from deployments.build import EMBEDDED_TOOL_PARSER
from deployments.openai_errors import refused_by_engine


def test_the_parser_is_an_argument_of_the_openai_layer() -> None:
    assert {"tool_call_parser", "enable_auto_tool_choice"} <= {f.name for f in fields(FrontendArgs)}


def test_the_embedded_models_parser_exists() -> None:
    assert ToolParserManager.get_tool_parser(EMBEDDED_TOOL_PARSER) is not None


def test_who_has_no_parser_is_told_so_in_words_that_we_know() -> None:
    source = inspect.getsource(OnlineRenderer.render_chat)
    words = [line for line in source.splitlines() if "--tool-call-parser to be set" in line]
    assert len(words) == 2
    assert all(refused_by_engine(400, line).param == "tools" for line in words)
