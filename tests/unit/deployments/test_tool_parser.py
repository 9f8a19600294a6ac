"""Tools need to be told how the model calls them: known of the embedded model, else a setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deployments.build import engine_kwargs
from deployments.openai_errors import refused_by_engine
from deployments.settings import EngineConfig, Settings


def parser(settings: Settings) -> tuple[Any, Any]:
    told = engine_kwargs(settings, on_gpu=False)
    return told.get("tool_call_parser"), told.get("enable_auto_tool_choice")


def test_the_embedded_model_is_served_with_the_parser_that_fits_it() -> None:
    assert parser(Settings()) == ("pythonic", True)


def test_of_another_model_it_is_known_from_the_setting_only(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert parser(Settings(model=str(tmp_path))) == (None, None)
    told = Settings(model=str(tmp_path), engine=EngineConfig(tool_parser="mistral"))
    assert parser(told) == ("mistral", True)


@pytest.mark.parametrize(
    "words",
    [
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
        'tool_choice="required" requires --tool-call-parser to be set',
    ],
)
def test_a_refusal_of_tools_names_the_setting_and_not_vllms_flag(words: str) -> None:
    refusal = refused_by_engine(400, words)
    assert refusal.param == "tools"
    assert "engine.tool_parser" in refusal.message
    assert "--" not in refusal.message
