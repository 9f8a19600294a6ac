"""What the engine tells step by step of its own store adds up to what it holds."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.engine.engine import Engine, tokens


def test_told_changes_add_up_to_what_is_held(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    connector, told = engine.scheduler.connector, []
    ask = connector.get_kv_connector_stats

    def listening() -> Any:
        stats = ask()
        told.extend(stats.data.get("changes", []) if stats else [])
        return stats

    monkeypatch.setattr(connector, "get_kv_connector_stats", listening)
    rng = random.Random(11)
    text = tokens(rng, 300)
    engine.one([*tokens(rng, 17), *text])
    engine.one([*tokens(rng, 40), *text, *tokens(rng, 30)])
    ledger = engine.half.ledger
    assert told
    assert _standing(told) == {
        r.id: [ledger.size_of(r), r.token_count, r.depth, r.context_free]
        for r in ledger._records.values()
    }
    engine.forget()
    engine.one(tokens(rng, 20))
    assert set(_standing(told)) == set(ledger._records)


def _standing(told: list[list[Any]]) -> dict[bytes, list[Any]]:
    held: dict[bytes, list[Any]] = {}
    for segment, *facts in told:
        held.pop(segment, None)
        if facts:
            held[segment] = facts
    return held
