"""Measures one correction's drift: asks an engine for full and corrected answers, prompt by prompt.

Each sample lives in trust scopes of its own, so that nothing of another sample is found: one where
its documents are computed and no more, and one where they were reused once since. The compared
prompt is asked with `publish: false`, reads no prefix and leaves nothing, so the same scope serves
many corrections. What has to be made anew:

    what was seen to change   belongs to a number of full layers
    texts computed in turns   are themselves corrected, so they belong to one correction

Engines also learn to predict what changes. Before suspects are measured with a number of full
layers, the teaching prompts are therefore asked once with it, as if the engine had served for a
while. Then it learns no more: what is measured must not have been learned from. The profile holds
what was learned, so a server begins with the very predictions that were measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from raysparsex.calibration.drift import Answer, Drift, PromptDrift, compare, summary
from raysparsex.calibration.profile import Sensitivity
from raysparsex.calibration.search import Part, Reuse, suspects_of
from raysparsex.calibration.workload import Sample, Text
from raysparsex.config import ReuseMode
from raysparsex.errors import RaySparseXError
from raysparsex.plan.correction import Correction

LEAST_REUSED = 0.5
"""Of the tokens that a sample means to reuse: with less, something is lost, say by eviction."""


class Engine(Protocol):
    """What calibration asks of an engine with the connector."""

    def ask(
        self, tokens: Sequence[int], params: Mapping[str, Any], *, max_tokens: int, salt: str
    ) -> Answer:
        """The greedy answer; `params` are the request's `kv_transfer_params`, `salt` its scope."""

    def forget(self) -> None:
        """Drop all segments and the prefix cache."""

    def sensitivity(self, full_layers: int) -> Sensitivity | None:
        """What has been learned of which tokens change; None: too little."""

    def fix_sensitivity(self) -> None:
        """Learn no more of that; what was seen of single documents is dropped."""


class Journal(Protocol):
    """Keeps what was measured, so that a later run need not measure it again."""

    def drift(self, key: str) -> PromptDrift | None:
        """What was kept under this name."""

    def keep(self, key: str, drift: PromptDrift) -> None:
        """Keep it."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """What the engine holds of one sample."""

    salt: str
    turns_by: Correction | None
    """Who corrected the texts that were computed in turns."""
    seen_layers: int | None
    """The documents were reused once with so many full layers."""


class Meter:
    """Measures corrections on samples; an instance is a `search.Measure`."""

    def __init__(
        self,
        engine: Engine,
        samples: Mapping[Part, Sequence[Sample]],
        *,
        answer_tokens: int,
        confidence: float,
        journal: Journal,
        done: Callable[[], None] = lambda: None,
        more: Callable[[int], None] = lambda prompts: None,
    ) -> None:
        self._engine = engine
        self._samples = samples
        self._answer_tokens = answer_tokens
        self._confidence = confidence
        self._journal = journal
        self._done = done
        """Called after each prompt, those that teach included."""
        self._more = more
        """Called before so many prompts that teach."""
        self._scopes: dict[tuple[Part, int, Reuse], _Scope] = {}
        self._full: dict[tuple[Part, int], Answer] = {}
        self._taught: set[int] = set()
        self._salts = 0

    def __call__(self, correction: Correction, part: Part, reuse: Reuse) -> Drift:
        """The drift over all samples of the part."""
        drifts = []
        for number in range(len(self._samples[part])):
            drifts.append(self._kept_or_measured(correction, part, number, reuse))
            self._done()
        return summary(drifts, self._confidence)

    def sensitivity(self, correction: Correction) -> Sensitivity | None:
        """What the engine has learned that this correction can use."""
        if suspects_of(correction) == 1:
            return None
        self._teach(correction)
        return self._engine.sensitivity(correction.full_layers)

    def _kept_or_measured(
        self, correction: Correction, part: Part, number: int, reuse: Reuse
    ) -> PromptDrift:
        c = correction
        key = f"{part}/{number}/{reuse}/{c.selector}/{c.budget}/{c.full_layers}/{c.suspects}"
        drift = self._journal.drift(key)
        if drift is None:
            if suspects_of(correction) < 1:
                self._teach(correction)
            full = self._full_answer(part, number)
            answer = self._corrected_answer(correction, part, number, reuse)
            drift = compare(full, answer, float(answer.reuse["compute_share"]))
            self._journal.keep(key, drift)
        return drift

    def _teach(self, correction: Correction) -> None:
        """Let the engine learn which tokens change with so many full layers."""
        if correction.full_layers not in self._taught:
            self._taught.add(correction.full_layers)
            self._more(len(self._samples[Part.TEACHING]))
            for number in range(len(self._samples[Part.TEACHING])):
                self._scope(correction, Part.TEACHING, number, Reuse.LATER)
                self._done()
            self._engine.fix_sensitivity()
            self._scopes = {k: s for k, s in self._scopes.items() if s.seen_layers is None}

    def _full_answer(self, part: Part, number: int) -> Answer:
        key = (part, number)
        if key not in self._full:
            prompt = self._samples[part][number].prompt
            self._full[key] = self._ask(prompt, "full", {"reuse": "off"}, self._answer_tokens)
        return self._full[key]

    def _corrected_answer(
        self, correction: Correction, part: Part, number: int, reuse: Reuse
    ) -> Answer:
        sample = self._samples[part][number]
        params = as_params(correction) | {"publish": False}
        for _ in range(2):
            scope = self._scope(correction, part, number, reuse)
            answer = self._ask(sample.prompt, scope.salt, params, self._answer_tokens)
            if answer.reuse["reused_tokens"] >= LEAST_REUSED * sample.reused_tokens:
                return answer
            self._engine.forget()
            self._scopes.clear()
        reason = answer.reuse.get("fallback") or "the store may be too small"
        raise RaySparseXError(
            f"a sample prompt of {len(sample.prompt.tokens)} tokens was to reuse"
            f" {sample.reused_tokens} and reused {answer.reuse['reused_tokens']}: {reason}"
        )

    def _scope(self, correction: Correction, part: Part, number: int, reuse: Reuse) -> _Scope:
        """The sample's documents computed, and reused once where that is asked for."""
        key, sample = (part, number, reuse), self._samples[part][number]
        in_turns = any(text.reuses for text in sample.elsewhere)
        turns_by = correction if in_turns else None
        layers = correction.full_layers if reuse is Reuse.LATER else None
        scope = self._scopes.get(key)
        if scope is None or (scope.turns_by, scope.seen_layers) != (turns_by, layers):
            self._salts += 1
            scope = self._scopes[key] = _Scope(f"calibration-{self._salts}", turns_by, layers)
            self._fill(scope, sample, correction)
        return scope

    def _fill(self, scope: _Scope, sample: Sample, correction: Correction) -> None:
        for text in sample.elsewhere:
            params = as_params(correction) if text.reuses else {"reuse": ReuseMode.EXACT.value}
            self._ask(text, scope.salt, params)
        if scope.seen_layers is not None:
            everyone = as_params(correction) | {"suspects": 1.0}
            self._ask(sample.learning, scope.salt, everyone)

    def _ask(self, text: Text, salt: str, params: Mapping[str, Any], max_tokens: int = 1) -> Answer:
        params = {**params, "segments": list(text.cuts)}
        return self._engine.ask(text.tokens, params, max_tokens=max_tokens, salt=salt)


def as_params(correction: Correction) -> dict[str, Any]:
    """A sparse request's `kv_transfer_params`."""
    return {
        "reuse": ReuseMode.SPARSE.value,
        "selector": correction.selector.value,
        "budget": correction.budget,
        "full_layers": correction.full_layers,
        "suspects": correction.suspects,
    }
