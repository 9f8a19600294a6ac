"""A request and its replica's death: sent again before the first answer, ended cleanly after it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

from deployments.delivery import ATTEMPTS, Delivery
from deployments.openai_errors import RequestRefused
from deployments.prompt_router import Journey
from deployments.routing_metrics import Ground
from raysparsex.registry.events import HolderId
from raysparsex.routing.route_table import Route

Script = list[Any]


class Router:
    """Sends attempt n to replica n, and notes what it hears."""

    def __init__(self) -> None:
        self.avoided: list[set[HolderId]] = []
        self.open = 0
        self.again = 0

    def send(self, request_id: str, prompt: Any, asked: Any, avoid: set[HolderId]) -> Journey:
        self.avoided.append(set(avoid))
        self.open += 1
        route = Route((HolderId(str(len(self.avoided))),))
        return Journey(route, None, Ground.SCORE, 0.0)

    def answers(self, journey: Journey, is_first_token: bool) -> None: ...

    def ended(self, request_id: str, journey: Journey) -> None:
        self.open -= 1

    def sent_again(self) -> None:
        self.again += 1


def sender(*scripts: Script) -> Callable[[], AsyncGenerator[Any, None]]:
    """Answers of one attempt after the other; an exception in a script is raised."""
    left = list(scripts)

    async def send() -> AsyncGenerator[Any, None]:
        for response in left.pop(0):
            if isinstance(response, BaseException):
                raise response
            yield response

    return send


def deliver(router: Any, *scripts: Script) -> tuple[list[Any], Delivery]:
    delivery = Delivery(router, "1", sender(*scripts))

    async def all_of_it() -> list[Any]:
        return [response async for response in delivery.answer(None, streams=True)]

    return asyncio.run(all_of_it()), delivery


def test_a_request_that_lost_its_replica_in_silence_is_answered_by_another() -> None:
    router = Router()
    answers, delivery = deliver(router, [RayActorError()], ["data: {}\n\n", "data: x\n\n"])
    assert answers == ["data: {}\n\n", "data: x\n\n"]
    assert delivery.replica == "2"
    assert router.avoided == [set(), {"1"}]
    assert (router.again, router.open) == (1, 0)


def test_an_answer_that_was_begun_ends_with_an_error_event_and_never_begins_again() -> None:
    router = Router()
    answers, _ = deliver(router, ["data: {}\n\n", RayActorError()], ["data: again\n\n"])
    first, last = answers
    assert first == "data: {}\n\n"
    error = json.loads(last.removeprefix("data: "))["error"]
    assert error["code"] == "replica_lost"
    assert error["type"] == "server_error"
    assert (router.again, router.open) == (0, 0)


def test_it_gives_up_with_an_error_that_says_what_to_do() -> None:
    router = Router()
    with pytest.raises(RequestRefused, match="send the request again") as refusal:
        deliver(router, *[[RayActorError()] for _ in range(ATTEMPTS)])
    assert refusal.value.status == 503
    assert (router.again, router.open) == (ATTEMPTS - 1, 0)


def test_other_failures_are_not_tried_again() -> None:
    router = Router()
    with pytest.raises(ZeroDivisionError):
        deliver(router, [ZeroDivisionError()], ["data: {}\n\n"])
    assert (router.again, router.open) == (0, 0)


def test_an_abandoned_answer_leaves_nothing_open() -> None:
    router = Router()
    delivery = Delivery(router, "1", sender(["data: 1\n\n", "data: 2\n\n"]))  # type: ignore[arg-type]

    async def abandon() -> None:
        answers = delivery.answer(SimpleNamespace(), streams=True)  # type: ignore[arg-type]
        await anext(answers)
        await answers.aclose()

    asyncio.run(abandon())
    assert router.open == 0


def test_without_a_router_a_lost_replica_is_still_replaced() -> None:
    answers, delivery = deliver(None, [RayActorError()], ["data: {}\n\n"])
    assert answers == ["data: {}\n\n"]
    assert delivery.replica is None
