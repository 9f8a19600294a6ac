"""A prompt with a document, and requests brought to some point of their lives on `FakeEngine`."""

from __future__ import annotations

from typing import Any

from raysparsex.vllm_plugin.reuse_report import ReuseReport
from tests.fakes.engine import FakeEngine
from tests.fakes.segments import random_tokens

DOCUMENT = random_tokens(400, seed=1)
PROMPT = [*random_tokens(37, seed=2), *DOCUMENT, *random_tokens(50, seed=3)]


def loading(engine: FakeEngine, **params: Any) -> Any:
    """A request whose sparse prefill has been ordered."""
    request = engine.add(PROMPT, **params)
    assert engine.admit(request) > 0
    return request


def end(engine: FakeEngine, request: Any) -> ReuseReport:
    engine.compute(request, [7])
    return engine.finish(request)
