"""The rows: which model, which hint, and the server that shows it.

prefetch   a tool first   each agent comes after a node that takes a second, as a tool does
           in a row       each agent comes right after another one that answers
ttl                       an agent waits for its tool; others' traffic goes through the caches
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.routing.configurations import bytes_per_token
from raysparsex.models import EMBEDDED

Model = Literal["embedded", "random 80M"]
Hint = Literal["prefetch, a tool first", "prefetch, in a row", "ttl"]
PAGE_WORDS: Mapping[Model, int] = {"embedded": 2400, "random 80M": 600}
"""Of what one agent reads; the models differ in what they compute in a second."""
TOKENS_PER_WORD = 1.25
"""Of these texts, chat markup included; for sizes of caches."""
CACHES = 3
"""Prompts that fit into the store and into the prefix cache, where memory is short."""
FLOOD = 6
"""Prompts of others that go through them meanwhile."""
TOOL_SECONDS = 1.0
ANSWER_TOKENS = 32
RANDOM_MODELS_REUSE = {
    "RAYSPARSEX_REUSE__FULL_LAYERS": "1",
    "RAYSPARSEX_REUSE__BUDGET": "0.15",
}
"""As in `make bench`: weights without meaning cannot be calibrated."""


@dataclass(frozen=True, slots=True)
class Row:
    """One hint, on one model."""

    model: Model
    hint: Hint

    @property
    def name(self) -> str:
        """What the row is called."""
        return f"{self.model}, {self.hint}"

    @property
    def words(self) -> int:
        """Of what one agent reads."""
        return PAGE_WORDS[self.model]

    def rounds(self, wanted: int) -> int:
        """A round of keeping gives one turn each way, one of the others three."""
        return 2 * wanted if self.hint == "ttl" else wanted

    def settings(self, model: Path) -> dict[str, str]:
        """The server's settings, as environment variables."""
        chosen = {"RAYSPARSEX_ENGINE__TOOL_PARSER": "hermes"}
        chosen |= RANDOM_MODELS_REUSE if self.model != "embedded" else {}
        if self.hint == "ttl":
            room = int(CACHES * self.words * TOKENS_PER_WORD * bytes_per_token(model))
            chosen |= {
                "RAYSPARSEX_STORE__BYTES": str(room),
                "RAYSPARSEX_ENGINE__KV_CACHE_BYTES": str(room),
            }
        return chosen


ROWS: dict[str, Row] = {
    row.name: row
    for model in PAGE_WORDS
    for row in (
        Row(model, "prefetch, a tool first"),
        Row(model, "prefetch, in a row"),
        Row(model, "ttl"),
    )
}
QUICK = [name for name in ROWS if name.startswith("embedded")]


def id_of(model: Path) -> str:
    """What the documents call a model: its name and its size."""
    if model.name == EMBEDDED:
        return EMBEDDED
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return f"random weights, {config['num_hidden_layers']} layers of {config['hidden_size']}"
