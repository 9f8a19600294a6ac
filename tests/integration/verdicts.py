"""What must hold of the answers to requests that were under way when something died."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from tests.integration.load import Answer, Load, Outcome, Prompt, Sent
from tests.integration.sure_prompts import longer
from tests.integration.watched_cluster import WatchedCluster, wait_for

STREAM_TOKENS = 4000
MOST_HEARD = STREAM_TOKENS // 2
"""Of a stream that is still under way when its replica dies, a second or two later."""
WHOLE_TOKENS = 2000
BEGIN_SECONDS = 180
ARRIVE_SECONDS = 0.5
"""In which a request that was sent on comes to its replica, and is not answered there."""


def assert_complete(answers: Sequence[Answer]) -> None:
    """All of them have been answered, rightly."""
    assert [answer for answer in answers if answer.outcome is not Outcome.COMPLETE] == []
    assert_right(answers)


def assert_right(answers: Sequence[Answer]) -> None:
    """No token of any is wrong."""
    assert [answer for answer in answers if not answer.is_right] == []


def assert_lost_cleanly(answers: Sequence[Answer], lost: str) -> None:
    """Those that are not complete had begun on the lost replica, and say so."""
    assert_right(answers)
    for answer in answers:
        if answer.outcome is not Outcome.COMPLETE:
            assert (answer.outcome, answer.detail) == (Outcome.ERROR_EVENT, "replica_lost"), answer
            assert answer.replica == lost


@dataclass(frozen=True, slots=True)
class UnderWay:
    """For each replica a stream that has begun, and a request of whose answer nothing is out."""

    streamed: list[Sent]
    whole: list[Sent]

    @staticmethod
    def on(cluster: WatchedCluster, load: Load, prompt: Prompt) -> UnderWay:
        """Have them so."""
        replicas, until = cluster.replicas, time.monotonic() + BEGIN_SECONDS
        while time.monotonic() < until:
            streamed = _streams(replicas, load, prompt, until)
            before = _sent_on(cluster)
            whole = [load.send(longer(prompt, WHOLE_TOKENS, at, stream=False)) for at in replicas]
            wait_for(partial(_on_their_way, cluster, before + len(whole)))
            time.sleep(ARRIVE_SECONDS)
            if _go_on(streamed) and not any(sent.begun.is_set() for sent in whole):
                return UnderWay(streamed, whole)
        raise AssertionError(f"never all under way at once in {BEGIN_SECONDS} s")

    def assert_taken_over_from(self, lost: str) -> None:
        """The stream there ended with an error, the other request was answered by another."""
        begun = [sent.answer() for sent in self.streamed]
        whole = [sent.answer() for sent in self.whole]
        assert_lost_cleanly(begun, lost)
        assert [a.prompt.replica for a in begun if a.outcome is not Outcome.COMPLETE] == [lost]
        assert_complete(whole)
        assert lost not in {answer.replica for answer in whole}


def _streams(replicas: Sequence[str], load: Load, prompt: Prompt, until: float) -> list[Sent]:
    """One for each replica, that has begun and goes on for long."""
    streamed: dict[str, Sent] = {}
    while time.monotonic() < until and not (streamed and _go_on(streamed.values())):
        for replica in replicas:
            # Another one may have to wait for its begin until this one is nearly over.
            if replica not in streamed or streamed[replica].tokens > MOST_HEARD:
                more = longer(prompt, STREAM_TOKENS, replica, stream=True)
                streamed[replica] = load.send(more)
        time.sleep(0.02)
    return list(streamed.values())


def _go_on(streamed: Iterable[Sent]) -> bool:
    return all(0 < sent.tokens <= MOST_HEARD for sent in streamed)


def _on_their_way(cluster: WatchedCluster, count: int) -> str | None:
    found = _sent_on(cluster)
    return None if found == count else f"sent to the replicas that they name: {found}, not {count}"


def _sent_on(cluster: WatchedCluster) -> int:
    """So many requests have been sent to the replica that they name."""
    count: int = cluster.routing()["requests"]["asked"]
    return count
