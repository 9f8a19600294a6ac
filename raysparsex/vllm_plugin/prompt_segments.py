"""A request's text, cut and named: split once, used for look-up and for publishing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from raysparsex.config import SegmentConfig
from raysparsex.ids import SegmentId
from raysparsex.segment.identity import SegmentHasher, as_tokens
from raysparsex.segment.split import boundaries_at, split


@dataclass(frozen=True, slots=True)
class PromptSegments:
    """Tokens from position `offset` of a request on, and their segments."""

    tokens: npt.NDArray[np.int32]
    cuts: npt.NDArray[np.int64]
    ids: list[SegmentId]
    offset: int
    before: SegmentId | None
    """The segment in front of the first one."""
    special_tokens: npt.NDArray[np.int64]
    config: SegmentConfig
    hasher: SegmentHasher

    @staticmethod
    def of_prompt(
        tokens: Sequence[int],
        *,
        declared: Sequence[int],
        special_tokens: npt.NDArray[np.int64],
        config: SegmentConfig,
        hasher: SegmentHasher,
    ) -> PromptSegments:
        """The segments of a prompt; `declared` are boundaries that the client gave."""
        ids = as_tokens(tokens)
        special = boundaries_at(ids, special_tokens)
        cuts = split(ids, [*declared, *special.tolist()] if declared else special, config)
        names = hasher.ids(ids, cuts)
        return PromptSegments(ids, cuts, names, 0, None, special_tokens, config, hasher)

    def of_output(self, tokens: Sequence[int]) -> PromptSegments:
        """The segments of text generated behind this prompt, which begin with it."""
        output = self.of_prompt(
            tokens,
            declared=(),
            special_tokens=self.special_tokens,
            config=self.config,
            hasher=self.hasher,
        )
        before = self.ids[-1] if self.ids else None
        return replace(output, offset=self.offset + len(self.tokens), before=before)
