"""An engine without a model: it knows which texts it holds, and drifts as it is told to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log
from typing import Any, NamedTuple

from raysparsex.calibration.drift import Answer
from raysparsex.calibration.profile import Sensitivity

WINDOW = 16
Shift = Callable[[Mapping[str, Any]], float]
"""From a request's parameters to how much of the top token's share is lost."""


class Asked(NamedTuple):
    """One request."""

    tokens: tuple[int, ...]
    params: dict[str, Any]
    salt: str


class FakeEngine:
    """`measure.Engine`. Holds every WINDOW tokens of what was published, by scope."""

    def __init__(self, shift: Shift = lambda params: 0.0) -> None:
        self._shift = shift
        self._held: dict[str, set[tuple[int, ...]]] = {}
        self.asked: list[Asked] = []
        self.fixed = self.forgotten = 0

    def ask(
        self, tokens: Sequence[int], params: Mapping[str, Any], *, max_tokens: int, salt: str
    ) -> Answer:
        text = tuple(tokens)
        self.asked.append(Asked(text, dict(params), salt))
        held = self._held.setdefault(salt, set())
        windows = [text[i : i + WINDOW] for i in range(len(text) - WINDOW + 1)]
        sparse = params["reuse"] == "sparse"
        reused = sum(window in held for window in windows) if sparse else 0
        if params["reuse"] != "off" and params.get("publish", True):
            held.update(windows)
        lost = self._shift(params) if sparse else 0.0
        step = {0: log(0.7 - lost), 1: log(0.2 + lost)}
        token = 0 if lost < 0.25 else 1
        report = {"reused_tokens": reused, "compute_share": 0.4 if sparse else 1.0}
        return Answer((token,) * max_tokens, (step,) * max_tokens, report | {"fallback": None})

    def forget(self) -> None:
        self._held.clear()
        self.forgotten += 1

    def sensitivity(self, full_layers: int) -> Sensitivity | None:
        return Sensitivity(full_layers=full_layers, weights=(1.0, 0.0), places=(1, 0))

    def fix_sensitivity(self) -> None:
        self.fixed += 1


class MemoryJournal:
    """`measure.Journal` that lasts as long as the test."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def drift(self, key: str) -> Any:
        return self.kept.get(key)

    def keep(self, key: str, drift: Any) -> None:
        self.kept[key] = drift
