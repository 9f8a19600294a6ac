"""What the connector reports reaches the response, and cached tokens are counted truthfully."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from deployments.reuse_report import ReuseReport, cached_tokens, note

REUSE = {"prompt_tokens": 90, "prefix_tokens": 10, "reused_tokens": 50, "recomputed_tokens": 8}
PARAMS: Mapping[str, Any] = {"reuse": REUSE}


def event(**chunk: Any) -> str:
    return f"data: {json.dumps(chunk)}\n\n"


def reported(params: Mapping[str, Any] | None) -> ReuseReport:
    report = ReuseReport.open()
    note(params)
    return report


def test_cached_is_prefix_plus_reused_less_recomputed() -> None:
    assert cached_tokens(PARAMS) == 52


@pytest.mark.parametrize("params", [None, {}, {"reuse": None}, {"reuse": "off"}])
def test_cached_is_unknown_when_nothing_was_reported(params: Mapping[str, Any] | None) -> None:
    assert cached_tokens(params) is None


def test_the_chunk_that_ends_a_choice_carries_the_report() -> None:
    end = event(choices=[{"index": 0, "finish_reason": "stop"}])
    added = reported(PARAMS).added_to(end)
    assert added.endswith("\n\n")
    assert json.loads(added.removeprefix("data: "))["kv_transfer_params"] == PARAMS


def test_the_usage_chunk_carries_the_report_and_the_corrected_count() -> None:
    usage = {"prompt_tokens": 90, "prompt_tokens_details": {"cached_tokens": 89}}
    added = reported(PARAMS).added_to(event(choices=[], usage=usage))
    chunk = json.loads(added.removeprefix("data: "))
    assert chunk["usage"]["prompt_tokens_details"]["cached_tokens"] == 52
    assert chunk["kv_transfer_params"] == PARAMS


@pytest.mark.parametrize(
    "untouched",
    [
        event(choices=[{"index": 0, "finish_reason": None, "text": "é"}]),
        "data: [DONE]\n\n",
        ": a comment\n\n",
    ],
)
def test_other_events_pass_unchanged(untouched: str) -> None:
    assert reported(PARAMS).added_to(untouched) is untouched


def test_without_a_report_everything_passes_unchanged() -> None:
    end = event(choices=[{"index": 0, "finish_reason": "stop"}])
    assert reported(None).added_to(end) is end


def test_requests_running_at_once_do_not_see_each_others_report() -> None:
    async def request(number: int) -> Mapping[str, Any] | None:
        report = ReuseReport.open()
        await asyncio.sleep(0)
        await asyncio.create_task(engine(number))
        return report.params

    async def engine(number: int) -> None:
        await asyncio.sleep(0)
        note({"reuse": number})

    async def both() -> list[Mapping[str, Any] | None]:
        return list(await asyncio.gather(request(1), request(2)))

    assert asyncio.run(both()) == [{"reuse": 1}, {"reuse": 2}]
