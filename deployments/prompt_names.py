"""A request's prompt, cut into named segments as the replicas cut and name it: the router's view.

A prompt that cannot be tokenised here is left to the replica as it came, and has no names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ray.serve.llm import LLMConfig

from raysparsex.config import ReuseMode, ReuseParams, ReuseSettings
from raysparsex.ids import ModelFingerprint, TrustSalt
from raysparsex.registry.events import pack
from raysparsex.routing.prompt import NamedPrompt
from raysparsex.segment.identity import SegmentHasher, as_tokens
from raysparsex.segment.split import Tokens, boundaries_at, split
from raysparsex.segment.trust_scope import PUBLIC_SALT

from .prompt_tokens import PromptTokens


class PromptFacts(NamedTuple):
    """What a replica tells of its model, so that others can name segments as it does."""

    fingerprint: ModelFingerprint
    special_tokens: Sequence[int]
    correction_share: float
    """Compute of a reused token over that of a new one."""
    max_depth: int
    """Segments as deep as this are not reused."""


class PromptNames:
    """Names the segments of prompts as the engines do."""

    def __init__(self, config: LLMConfig, settings: ReuseSettings) -> None:
        self._tokens = PromptTokens(config)
        self._settings = settings
        self._hasher: tuple[PromptFacts, SegmentHasher, np.ndarray[Any, Any]] | None = None

    def learn(self, facts: PromptFacts) -> None:
        """What a replica says of the model; before that, nothing can be named."""
        public = SegmentHasher(facts.fingerprint, PUBLIC_SALT)
        self._hasher = facts, public, np.array(facts.special_tokens, np.int64)

    @property
    def is_known(self) -> bool:
        """Whether a replica has told."""
        return self._hasher is not None

    async def of(self, body: Any, params: ReuseParams) -> NamedPrompt | None:
        """The prompt of a checked request that has its salt; None: there is nothing to score."""
        tokens = await self._tokens.of(body)
        if not tokens or self._hasher is None:
            return None
        mode = params.reuse or self._settings.reuse.mode
        salt = TrustSalt(body.cache_salt or "")
        return self.named(as_tokens(tokens), params.segments, salt, mode)

    def named(
        self, tokens: Tokens, declared: Sequence[int], salt: TrustSalt, mode: ReuseMode
    ) -> NamedPrompt:
        """The segments of a prompt. Too short ones are never reused, and have no name here."""
        assert self._hasher is not None
        facts, public, special = self._hasher
        at_special = boundaries_at(tokens, special)
        boundaries = [*declared, *at_special.tolist()] if declared else at_special
        cuts = split(tokens, boundaries, self._settings.segment)
        own = SegmentHasher(facts.fingerprint, salt)
        return NamedPrompt(
            lengths=np.diff(cuts),
            own=pack(own.ids(tokens, cuts)),
            public=pack(public.ids(tokens, cuts)),
            sparse=mode is ReuseMode.SPARSE,
        )
