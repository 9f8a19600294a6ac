"""A server as warming sees it: a real tokenizer and chat template, the real splitter, no model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

import raysparsex
from raysparsex.config import SegmentConfig
from raysparsex.ids import ModelFingerprint, SegmentId, TrustSalt
from raysparsex.segment.coverage import SegmentRecord, find_coverage
from raysparsex.segment.identity import SegmentHasher
from raysparsex.vllm_plugin.prompt_segments import PromptSegments
from raysparsex.vllm_plugin.publishing import candidates

MODEL = Path(raysparsex.__file__).parent / "models" / "raysparsex-tiny"
TINY = json.loads((MODEL / "tokenizer_config.json").read_text())["chat_template"]
CHATML = (
    "{{- '<|bos|>' -}}{%- for message in messages -%}"
    "{{- '<|user|>' + message['role'] + '\n' + message['content'] + '<|end|>' + '\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|user|>assistant\n' -}}{%- endif -%}"
)
"""As many models have it: one control token in front, and the role in plain words."""


class FakeServer:
    """Implements `raysparsex.warming.server.Transport`; keeps what a warmed prompt publishes."""

    def __init__(self, template: str = TINY, context: int = 4096) -> None:
        self._tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        self._template = environment.from_string(template)
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = np.array(sorted(i for i, token in added.items() if token.special))
        self.context = context
        self.asked: list[dict[str, Any]] = []
        self.texts: list[str] = []
        self.held: dict[SegmentId, SegmentRecord] = {}

    def exchange(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, {"data": [{"id": "tiny"}]}
        assert method == "POST"
        assert body is not None
        if path == "/tokenize":
            if "prompt" not in body:  # as Ray's server: a prompt, and no messages
                return 400, {"error": {"message": "prompt: Field required"}}
            ids = self._tokenizer.encode(body["prompt"], add_special_tokens=False).ids
            return 200, {"count": len(ids), "max_model_len": self.context}
        assert path == "/v1/chat/completions"
        tokens = self.tokens(body["messages"])
        if body["kv_transfer_params"] == {"reuse": "off", "publish": False}:
            return 200, {"usage": {"prompt_tokens": len(tokens)}}
        if len(tokens) + body["max_tokens"] > self.context:
            return 400, {"error": {"message": "the prompt is too long"}}
        self.asked.append(dict(body))
        self.texts.append(body["messages"][0]["content"])
        segments = self.segments(tokens)
        known = sum(name in self.held for name in segments.ids)
        for candidate in candidates(segments, depth=0):
            self.held.setdefault(candidate.record.id, candidate.record)
        report = {
            "prompt_tokens": len(tokens),
            "prefix_tokens": len(tokens) if known == len(segments.ids) else 0,
            "published_segments": len(segments.ids) - known,
        }
        return 200, {"kv_transfer_params": {"reuse": report}}

    def tokens(self, messages: list[dict[str, str]]) -> list[int]:
        text = self._template.render(messages=messages, add_generation_prompt=True)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def segments(self, tokens: list[int]) -> PromptSegments:
        return PromptSegments.of_prompt(
            tokens,
            declared=(),
            special_tokens=self._special,
            config=SegmentConfig(),
            hasher=SegmentHasher(ModelFingerprint("tiny"), TrustSalt("t")),
        )

    def reused(self, messages: list[dict[str, str]]) -> int:
        """Tokens of a later prompt whose KV the warmed segments provide."""
        prompt = self.segments(self.tokens(messages))
        spans = find_coverage(
            prompt.tokens,
            prompt.cuts,
            prompt.ids,
            self.held.get,
            first=0,
            last=len(prompt.tokens) - 1,
            min_tokens=SegmentConfig().min_tokens,
            max_depth=4,
        )
        return sum(span.end - span.start for span in spans)
