"""A server of two replicas as a test of faults sees it: processes, routing, the actors' books."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import psutil
import pytest

from tests.integration.conftest import ROOT, ServeCommand, Server, free_port
from tests.integration.load import REPLICA_HEADER

REPLICAS = 2
ENGINE = "VLLM::EngineCore"
REPLICA = "ray::ServeReplica:raysparsex:llm"
REGISTRY = "ray::RegistryService"
STORE = "ray::NodeStore"
MEND_SECONDS = 480
"""Generous: a replica that starts beside a busy one takes half a minute and more."""
DOCUMENT_TOKENS = 400
ENOUGH_REUSED = 0.8
LOOKS = 10
STILL = ("unfinished", "running", "waiting", "waiting_tokens", "kv_cache_usage")
RELEASED = ("pins", "running_jobs")


class Actors:
    """The server's own actors, asked through a driver in its cluster."""

    def __init__(self, address: str, environment: dict[str, str]) -> None:
        self._driver = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.cluster_actors", address],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, actor: str, method: str) -> Any:
        """What the actor's method returns. Raises LookupError if it is not there, or fails."""
        assert self._driver.stdin is not None and self._driver.stdout is not None
        print(json.dumps({"actor": actor, "method": method}), file=self._driver.stdin, flush=True)
        told = json.loads(self._driver.stdout.readline())
        if "error" in told:
            raise LookupError(f"{actor}.{method}: {told['error']}")
        return told["value"]

    def close(self) -> None:
        """Leave the cluster."""
        self._driver.communicate(timeout=30)


@dataclass
class WatchedCluster:
    """A running server of two replicas."""

    command: ServeCommand
    server: Server
    actors: Actors
    nodes: int
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def routing(self) -> dict[str, Any]:
        """See `SegmentRouting.facts`."""
        url = f"{self.server.root}/raysparsex/routing"
        facts: dict[str, Any] = httpx.get(url, timeout=30).raise_for_status().json()
        return facts

    @property
    def replicas(self) -> list[str]:
        """Ids of those that are sent requests."""
        return sorted(self.routing()["replicas"])

    def processes(self, title: str) -> list[psutil.Process]:
        """Of the server, by how their titles begin."""
        return [one for one in self.command.processes() if _title(one).startswith(title)]

    def kill(self, title: str) -> None:
        """SIGKILL to the first of them."""
        self.processes(title)[0].kill()

    def compute(self, tokens: int, replica: str) -> None:
        """Have a prompt computed that nobody has seen."""
        self._ask(self._tokens(tokens), replica, {"reuse": "exact"})

    def life(self, actor: str) -> str | None:
        """Which life of an actor this is; None: it does not answer."""
        try:
            return str(self.actors.ask(actor, "describe")["incarnation"])
        except LookupError:
            return None

    def wait_until_whole(self) -> None:
        """Until everything is as after a start; fails with what is not."""
        wait_for(self._is_staffed)
        for way in (self.replicas, self.replicas[::-1]):
            wait_for(partial(self._is_shared, *way))
        wait_for(self._is_routed_by_score)
        wait_for(self._is_at_rest)
        for actor in ("registry", "store"):
            self.actors.ask(actor, "check_integrity")

    def _is_staffed(self) -> str | None:
        counts = {title: len(self.processes(title)) for title in (ENGINE, REPLICA)}
        routed = self.replicas
        if {len(routed), *counts.values()} == {REPLICAS}:
            return None
        return f"routed to: {routed}, running: {counts}"

    def _is_shared(self, source: str, target: str) -> str | None:
        """Whether what one replica computes now is reused by the other."""
        head, document, tail = self._tokens(40), self._tokens(DOCUMENT_TOKENS), self._tokens(30)
        self._ask(document, source, {"reuse": "exact"})
        cuts = [len(head), len(head) + len(document)]
        for _ in range(LOOKS):  # publishing goes on behind the answer
            reader = {"publish": False, "segments": cuts}
            reuse = self._ask([*head, *document, *tail], target, reader)
            if reuse["reused_tokens"] >= ENOUGH_REUSED * DOCUMENT_TOKENS:
                return None
        return f"{target} reuses of {source}: {reuse}"

    def _is_routed_by_score(self) -> str | None:
        before = self.routing()
        self._ask(self._tokens(100), None, {})
        after = self.routing()
        known = self.actors.ask("registry", "gauges")
        scored = after["requests"]["score"] == before["requests"]["score"] + 1
        is_known = (
            known["holders"] == REPLICAS and known["stores"] == self.nodes and known["segments"] > 0
        )
        return None if scored and is_known else f"routing: {after}, registry: {known}"

    def _is_at_rest(self) -> str | None:
        engines: dict[str, dict[str, Any]] = {}
        for _ in range(20):  # whichever replica answers
            facts = self.server.engine_facts()
            engines[facts["replica"]] = facts
        routing, store = self.routing(), self.actors.ask("store", "gauges")
        leases = self.actors.ask("registry", "gauges")["leases"]
        queued = sum(replica["queued_tokens"] for replica in routing["replicas"].values())
        held = [
            *(facts[name] for facts in engines.values() for name in STILL),
            *((facts["connector"] or {"gauges": {}})["gauges"].get(name, 0)
              for facts in engines.values() for name in RELEASED),
            routing["under_way"], round(queued), leases,
            store["pinned_segments"], store["pending_batches"],
        ]  # fmt: skip
        if sorted(engines) == self.replicas and not any(held):
            return None
        return f"engines: {engines}, routing: {routing}, store: {store}, leases: {leases}"

    def _tokens(self, count: int) -> list[int]:
        """Ids of plain words, at random."""
        return [self.rng.randrange(10, 2000) for _ in range(count)]

    def _ask(
        self, tokens: list[int], replica: str | None, params: dict[str, Any]
    ) -> dict[str, Any]:
        body = {"model": self.server.model, "prompt": tokens, "max_tokens": 1, "temperature": 0}
        answer = httpx.post(
            f"{self.server.base_url}/completions",
            json={**body, "kv_transfer_params": params},
            headers={REPLICA_HEADER: replica} if replica else {},
            timeout=120,
        )
        reuse: dict[str, Any] = answer.raise_for_status().json()["kv_transfer_params"]["reuse"]
        return reuse


@contextmanager
def watched_cluster(
    settings: dict[str, str], module: str = "deployments.serve", nodes: int = 1
) -> Iterator[WatchedCluster]:
    """Started for a module; whatever is left of it at the end fails the test."""
    port = free_port()
    told = {"SERVER__PORT": str(port), "ENGINE__REPLICAS": str(REPLICAS), "GATE__SHADOW_SHARE": "0"}
    variables = {f"RAYSPARSEX_{key}": value for key, value in (told | settings).items()}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid.uuid4().hex}
    command = ServeCommand(variables | token, module).start()
    try:
        _, base_url, _, model, *_ = command.read_until("ready: ").split()
        actors = Actors(_gcs_address(command), token)
        try:
            yield WatchedCluster(command, Server(base_url, model), actors, nodes)
        finally:
            actors.close()
    finally:
        command.stop()


def wait_for(problem: Callable[[], str | None], seconds: float = MEND_SECONDS) -> None:
    """Until there is none; fails with the last one."""
    deadline = time.monotonic() + seconds
    while (told := _told(problem)) is not None:
        if time.monotonic() > deadline:
            pytest.fail(told)
        time.sleep(0.2)


def _told(problem: Callable[[], str | None]) -> str | None:
    """What is asked for may be just what is not there yet."""
    try:
        return problem()
    except (httpx.HTTPError, LookupError) as error:
        return f"{type(error).__name__}: {error}"


def _gcs_address(command: ServeCommand) -> str:
    """Raylets are told it on their command lines."""
    words = [word for process in command.processes() for word in process.cmdline()]
    return next(word.partition("=")[2] for word in words if word.startswith("--gcs-address="))


def _title(process: psutil.Process) -> str:
    try:
        return str((process.cmdline() or [""])[0])
    except psutil.NoSuchProcess:
        return ""
