"""Measures rows: a server for each, all agents at once, each with one request under way."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp
from tqdm import tqdm

from benchmarks.quality.client import PATIENCE, ServerProblem
from benchmarks.routing.client import AgentClient, answered_by, counted
from benchmarks.routing.configurations import ROWS
from benchmarks.routing.journal import Journal
from benchmarks.routing.outcomes import Measured, Outcome
from benchmarks.routing.server import served
from benchmarks.routing.workload import AGENTS, Request, Workload, unrelated

BEGIN_REQUESTS = 2 * AGENTS


def complete(
    journal: Journal, names: Sequence[str], workload: Workload, model: Path, tight_bytes: int
) -> None:
    """Measure the rows that the journal lacks. Raises ServerProblem."""
    missing = [name for name in names if name not in journal.rows]
    with tqdm(total=len(missing) * len(workload.requests), unit="request") as bar:
        for name in missing:
            bar.set_description(name)
            with served(model, ROWS[name].settings(tight_bytes)) as url:
                journal.note(name, asyncio.run(measure(url, workload, bar.update)))


async def measure(url: str, workload: Workload, step: Callable[[], object]) -> Measured:
    """Send all requests to a server that has just started."""
    # A kept connection may be closed by the server just as the next request is sent.
    fresh = aiohttp.TCPConnector(force_close=True)
    try:
        async with aiohttp.ClientSession(timeout=PATIENCE, connector=fresh) as session:
            return await _measure(AgentClient(url, session), workload, step)
    except aiohttp.ClientError as problem:
        raise ServerProblem(f"{url}: {problem!r}") from problem


async def _measure(client: AgentClient, workload: Workload, step: Callable[[], object]) -> Measured:
    await client.ready()
    await client.begin(unrelated(BEGIN_REQUESTS, workload.seed))
    routing, load = await client.routing(), os.getloadavg()[0]

    async def agent(requests: Sequence[Request]) -> list[Outcome]:
        outcomes = []
        for request in requests:
            outcomes.append(await client.ask(request.messages))
            step()
        return outcomes

    begin = time.perf_counter()
    answered = await asyncio.gather(*map(agent, workload.agents))
    seconds = time.perf_counter() - begin
    outcomes = tuple(one for agents_own in answered for one in agents_own)
    counts = counted(await client.routing(), routing)
    replicas = answered_by(outcomes) or await client.requests_by_replica(len(outcomes))
    return Measured(outcomes, seconds, counts, replicas, (load, os.getloadavg()[0]))
