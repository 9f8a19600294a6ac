"""vLLM's, the plugin's, the gate's and Ray Serve's metrics as one Prometheus page.

Each Ray node has a metrics agent on a port of its own choosing; this gathers their pages, so that
`/metrics` of the server is the one target to scrape. Agents refresh about every ten seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import aiohttp
import ray

WANTED = ("ray_vllm_", "ray_serve_", "ray_raysparsex_")
PATIENCE = aiohttp.ClientTimeout(total=5)


async def page() -> str:
    """The pages of all live nodes, joined; a node that does not answer is left out."""
    nodes = await asyncio.to_thread(ray.nodes)
    addresses = [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for node in nodes
        if node["Alive"]
    ]
    async with aiohttp.ClientSession(timeout=PATIENCE) as session:
        pages = await asyncio.gather(*(_fetch(session, address) for address in addresses))
    return joined(pages)


def joined(pages: Iterable[str]) -> str:
    """One page with the wanted metrics of all; each metric's comments once, as Prometheus wants."""
    comments: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for text in pages:
        described: dict[str, list[str]] = {}
        metric = ""
        for line in text.splitlines():
            if line.startswith("# "):
                metric = line.split(" ", 3)[2]
                described.setdefault(metric, []).append(line)
            elif line.startswith(WANTED):
                samples.setdefault(metric, []).append(line)
        comments = {**described, **comments}
    return "".join(
        f"{line}\n" for metric in samples for line in comments.get(metric, []) + samples[metric]
    )


async def _fetch(session: aiohttp.ClientSession, address: str) -> str:
    try:
        async with session.get(address) as response:
            return await response.text()
    except (aiohttp.ClientError, TimeoutError):
        return ""
