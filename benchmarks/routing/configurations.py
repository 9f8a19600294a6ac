"""The rows: which router, what an engine reuses, how much memory it has.

reuse    off       vLLM's prefix cache alone: what an engine without RaySparseX does
         own       segments of the replica's own memory
         shared    also those of the node's store
memory   roomy     everything fits
         tight     a replica's memory holds half of the documents; nothing is shared, so that
                   the router alone decides what is at hand
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Router = Literal["power of two", "prefix-aware", "ours"]
Reuse = Literal["off", "own", "shared"]
Memory = Literal["roomy", "tight"]
REPLICAS = 2
ROOMY_BYTES = 2 << 30
POLICIES: dict[Router, str] = {
    "power of two": "power_of_two",
    "prefix-aware": "prefix",
    "ours": "segments",
}


@dataclass(frozen=True, slots=True)
class Configuration:
    """One row. The first two routers are Ray's."""

    router: Router
    reuse: Reuse
    memory: Memory = "roomy"

    @property
    def name(self) -> str:
        """What the row is called."""
        kind = {"off": "reuse off", "own": "own segments", "shared": "shared segments"}[self.reuse]
        return f"{self.router}, {kind}" + (", tight" if self.memory == "tight" else "")

    def settings(self, tight_bytes: int) -> dict[str, str]:
        """The server's settings, as environment variables.

        Without reuse nothing is published either: a plain engine has nobody to publish for.
        """
        return {
            "RAYSPARSEX_ENGINE__REPLICAS": str(REPLICAS),
            "RAYSPARSEX_ROUTING__POLICY": POLICIES[self.router],
            "RAYSPARSEX_REUSE__MODE": "off" if self.reuse == "off" else "sparse",
            "RAYSPARSEX_STORE__SHARED": str(self.reuse == "shared").lower(),
            "RAYSPARSEX_STORE__BYTES": str(tight_bytes if self.memory == "tight" else ROOMY_BYTES),
        }


OURS = Configuration("ours", "shared")
ROWS: dict[str, Configuration] = {
    row.name: row
    for row in (
        Configuration("power of two", "off"),
        Configuration("prefix-aware", "off"),
        OURS,
        Configuration("power of two", "own"),
        Configuration("prefix-aware", "own"),
        Configuration("power of two", "own", "tight"),
        Configuration("prefix-aware", "own", "tight"),
        Configuration("ours", "own", "tight"),
    )
}
QUICK = list(ROWS)[:3]


def stock() -> str:
    """The row whose answers are exact: what the others' answers are held against."""
    return QUICK[0]


def baselines(row: Configuration, measured: Mapping[str, Configuration]) -> list[str]:
    """Ray's rows that one of ours is compared with: those with the same memory."""
    if row.router != "ours":
        return []
    return [
        name
        for name, other in measured.items()
        if other.router != "ours" and other.memory == row.memory
    ]


def bytes_per_token(model: Path) -> int:
    """K and V of one token in all layers, in float32."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    size: int = 2 * config["num_hidden_layers"] * config["num_key_value_heads"]
    return size * int(config["head_dim"]) * 4
