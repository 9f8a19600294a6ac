"""Requests of vLLM that end as they begin: so the engine is told to keep a prompt no longer."""

from __future__ import annotations

import inspect

import pytest

pytest.importorskip("vllm")

from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core import EngineCore
from vllm.v1.engine.input_processor import InputProcessor

from tests.contract.test_vllm import in_order, source_of


def test_a_request_that_ends_as_it_begins_is_told_to_the_connector() -> None:
    assert "abort_immediately" in EngineCoreRequest.__struct_fields__
    in_order(
        source_of(EngineCore.add_request),
        "self.scheduler.add_request(request)",
        "if request.abort_immediately:",
        "self.abort_requests([request.request_id])",
    )
    assert "finish_requests(" in source_of(EngineCore.abort_requests)
    in_order(source_of(Scheduler.finish_requests), "request.status =", "self._free_request(")
    assert "self.connector.on_new_request(request)" in source_of(Scheduler.add_request)


def test_its_prompt_is_made_as_that_of_any_other_request() -> None:
    names = list(inspect.signature(InputProcessor.process_inputs).parameters)
    assert names[1:5] == ["request_id", "prompt", "params", "supported_tasks"]
    assert hasattr(InputProcessor, "assign_request_id")
