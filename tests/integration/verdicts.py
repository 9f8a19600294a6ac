"""What must hold of the answers to requests that were under way when something died."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

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
        replicas = cluster.replicas

        def stream(replica: str) -> Sent:
            return load.send(longer(prompt, STREAM_TOKENS, replica, stream=True))

        until = time.monotonic() + BEGIN_SECONDS
        streamed = {replica: stream(replica) for replica in replicas}
        while not all(0 < sent.tokens <= MOST_HEARD for sent in streamed.values()):
            assert time.monotonic() < until
            for replica, sent in streamed.items():
                if sent.tokens > MOST_HEARD:  # another one had to wait for its begin for so long
                    streamed[replica] = stream(replica)
            time.sleep(0.02)
        sent_on = _sent_on(cluster) + len(replicas)
        whole = [load.send(longer(prompt, WHOLE_TOKENS, at, stream=False)) for at in replicas]
        wait_for(lambda: None if _sent_on(cluster) == sent_on else "requests on their way")
        time.sleep(ARRIVE_SECONDS)
        assert not any(sent.begun.is_set() for sent in whole)
        return UnderWay(list(streamed.values()), whole)

    def assert_taken_over_from(self, lost: str) -> None:
        """The stream there ended with an error, the other request was answered by another."""
        begun = [sent.answer() for sent in self.streamed]
        whole = [sent.answer() for sent in self.whole]
        assert_lost_cleanly(begun, lost)
        assert [a.prompt.replica for a in begun if a.outcome is not Outcome.COMPLETE] == [lost]
        assert_complete(whole)
        assert lost not in {answer.replica for answer in whole}


def _sent_on(cluster: WatchedCluster) -> int:
    """So many requests have been sent to the replica that they name."""
    count: int = cluster.routing()["requests"]["asked"]
    return count
