"""Which reused tokens of a prefill are suspects, and what its end teaches about that.

Binds `sparse.sensitivity` to segments: what was seen of a segment's tokens is kept beside its KV,
two bytes a token, and goes with it. Kept per tenant: what a tenant's prompts made of a public text
tells something of these prompts. Equal on all ranks, since everything it is fed with is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from raysparsex.ids import SegmentId
from raysparsex.segment.coverage import ReusedSpan
from raysparsex.sparse.sensitivity import (
    ContextSensitivity,
    FittedSensitivity,
    explored,
    prominence,
    raised,
    sampled,
    suspects,
)

EXPLORED = 0.01
"""Share of the other tokens that are suspects at random."""
LESSON = 16
"""Where the share is the engine's own to find, one prefill in so many computes all tokens, as long
as that still teaches it something."""
WIDER = 2.0
"""So many times more suspects among tokens that were never reused."""
SOUGHT = 0.02
"""Share of the reused tokens that the question may add to the suspects; at least FEWEST_SOUGHT."""
FEWEST_SOUGHT = 4
FADING = 0.9
"""What was seen of a token counts this much less at each later reuse."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """The suspects of one prefill, and what is needed to learn from it."""

    suspects_R: torch.Tensor
    teaching_R: torch.Tensor
    """Those of them that were not picked for being sensitive: what they show holds for all."""
    sought: int
    """How many more the question may add when it is known where it looks."""
    full_layers: int
    spans: Sequence[ReusedSpan]
    features_RF: torch.Tensor
    predicted_R: torch.Tensor | None
    seed: int
    tenant: str = ""
    """Tag of whose prefill it is."""


class SuspectFinder:
    """One engine rank's knowledge of context sensitivity."""

    def __init__(self, fitted: Mapping[int, FittedSensitivity]) -> None:
        self._fitted = dict(fitted)
        self._models: dict[int, ContextSensitivity] = {}
        self._seen: dict[SegmentId, dict[str, _Seen]] = {}
        """By tenant's tag."""

    def find(
        self,
        share: float | None,
        full_layers: int,
        spans: Sequence[ReusedSpan],
        features_RF: torch.Tensor,
        seed: int,
        tenant: str = "",
    ) -> Suspicion:
        """Suspects among the reused tokens; `share` None: as many as were found to be needed."""
        model = self._model(full_layers, features_RF.shape[1])
        predicted_R = model.predict(features_RF)
        if share is None:
            is_lesson = seed % LESSON == 0 and not model.is_final
            share = 1.0 if is_lesson else model.share()
        device = features_RF.device
        chosen = teaching = torch.ones(len(features_RF), dtype=torch.bool, device=device)
        sought = 0
        if share < 1:
            seen_R = self._seen_of(spans, full_layers, tenant).to(device)
            teaching = explored(len(seen_R), EXPLORED, seed).to(device)
            unseen = float(seen_R.isnan().float().mean())
            share = min(1.0, share * (1 + (WIDER - 1) * unseen))
            chosen = suspects(raised(predicted_R, seen_R), share) | teaching
            sought = max(FEWEST_SOUGHT, round(SOUGHT * len(chosen)))
        return Suspicion(
            chosen, teaching, sought, full_layers, spans, features_RF, predicted_R, seed, tenant
        )

    def learn(self, suspicion: Suspicion, deviation_S: torch.Tensor) -> None:
        """The suspects' K and V changed by so much at L*."""
        model = self._model(suspicion.full_layers, suspicion.features_RF.shape[1])
        mask_R = suspicion.suspects_R
        if suspicion.predicted_R is not None and bool(mask_R.all()):
            model.place(suspicion.predicted_R, deviation_S)
        prominence_S = prominence(deviation_S.float(), len(mask_R))
        teaching = prominence_S[suspicion.teaching_R[mask_R]]
        rows = sampled(len(teaching), suspicion.seed).to(teaching.device)
        model.learn(suspicion.features_RF[suspicion.teaching_R][rows], teaching[rows])
        prominence_R = torch.zeros(len(mask_R))  # of those not computed too: they were met
        prominence_R[mask_R.cpu()] = prominence_S.cpu()
        self._see(suspicion, prominence_R.numpy())

    def forget(self, segment: SegmentId) -> None:
        """The segment leaves the store, or is replaced; an unknown one is fine."""
        self._seen.pop(segment, None)

    def unlearn(self) -> None:
        """Forget all that was seen; what it began with stays."""
        self._models.clear()
        self._seen.clear()

    def fitted(self) -> dict[int, FittedSensitivity]:
        """What was learned, by number of full layers."""
        return {layers: found for layers, m in self._models.items() if (found := m.fitted)}

    def _model(self, full_layers: int, features: int) -> ContextSensitivity:
        if full_layers not in self._models:
            model = ContextSensitivity(features, self._fitted.get(full_layers))
            self._models[full_layers] = model
        return self._models[full_layers]

    def _seen_of(self, spans: Sequence[ReusedSpan], full_layers: int, tenant: str) -> torch.Tensor:
        parts = []
        for span in spans:
            part = np.full(span.end - span.start, np.nan, np.float32)
            seen = self._seen.get(span.segment, {}).get(tenant)
            if seen is not None and seen.full_layers == full_layers:
                known = seen.prominence[span.offset : span.offset + len(part)]
                part[: len(known)] = known
            parts.append(part)
        return torch.from_numpy(np.concatenate(parts))

    def _see(self, suspicion: Suspicion, prominence_R: npt.NDArray[np.float32]) -> None:
        start = 0
        for span in suspicion.spans:
            count = span.end - span.start
            by_tenant = self._seen.setdefault(span.segment, {})
            seen = by_tenant.get(suspicion.tenant)
            if seen is None or seen.full_layers != suspicion.full_layers:
                seen = _Seen(suspicion.full_layers)
            by_tenant[suspicion.tenant] = seen.with_rows(
                span.offset, prominence_R[start : start + count]
            )
            start += count


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was seen of a segment's tokens, as far as it was reused."""

    full_layers: int
    halves: bytes = b""
    """Float16. Neither tensor nor array, as it lives as long as its segment; see `HostTensor`."""

    @property
    def prominence(self) -> npt.NDArray[np.float16]:
        """By token, fading; NaN: never reused."""
        return np.frombuffer(self.halves, np.float16)

    def with_rows(self, first: int, prominence: npt.NDArray[np.float32]) -> _Seen:
        """With a newer observation of tokens [first, first + len(prominence))."""
        before, end = self.prominence, first + len(prominence)
        seen = np.full(max(len(before), end), np.nan, np.float16)
        seen[: len(before)] = before
        seen[first:end] = np.fmax(seen[first:end].astype(np.float32) * FADING, prominence)
        return _Seen(self.full_layers, seen.tobytes())
