"""A request's prompt as tokens, made by vLLM's own renderer and without an engine.

The tokens go on with the request, so that the replica does not make them again. Knows neither
segments nor replicas.
"""

from __future__ import annotations

import logging
from argparse import Namespace
from typing import Any

from jinja2 import TemplateError
from ray.llm._internal.serve.core.ingress.utils import _sanitize_chat_completion_request
from ray.llm._internal.serve.engines.vllm.vllm_engine import _get_vllm_engine_config
from ray.serve.llm import LLMConfig
from vllm.entrypoints.launchers.cli_args import FrontendArgs, resolve_default_chat_template_kwargs
from vllm.exceptions import VLLMClientError
from vllm.renderers import renderer_from_config
from vllm.renderers.chat_utils import load_chat_template
from vllm.renderers.online_renderer import OnlineRenderer

logger = logging.getLogger(__name__)

FORWARDED = "prompt_token_ids"
"""Where vLLM looks for tokens in a chat request's `kv_transfer_params`."""


class PromptTokens:
    """Tokenises as the replicas of one deployment do."""

    def __init__(self, config: LLMConfig) -> None:
        """Loads the tokenizer, which takes a second or more."""
        self._renderer = _renderer(config)

    async def of(self, body: Any) -> list[int] | None:
        """The tokens, put into the request as well; None: only the replica can tell.

        None for batches of prompts, for media, and for prompts that are refused.
        """
        is_chat = hasattr(body, "messages")
        try:
            return await (self._of_chat(body) if is_chat else self._of_completion(body))
        except (ValueError, VLLMClientError, TemplateError) as problem:
            # The replica finds the same and words it for the client.
            logger.debug("a prompt was not tokenised: %s", problem)
            return None
        except Exception:
            # Whatever it is, the replica can answer; but then nothing is routed by segments.
            logger.exception("a prompt was not tokenised")
            return None

    async def _of_chat(self, body: Any) -> list[int] | None:
        _sanitize_chat_completion_request(body)
        rendered = await self._renderer.render_chat(body, skip_mm_cache=True)
        if not isinstance(rendered, tuple):
            return None  # an error that the replica will tell
        tokens = _only_tokens(rendered[1])
        if tokens:
            # vLLM takes them, unless the request needs its messages (echo).
            body.kv_transfer_params = {**(body.kv_transfer_params or {}), FORWARDED: tokens}
        return tokens

    async def _of_completion(self, body: Any) -> list[int] | None:
        prompt = body.prompt
        if isinstance(prompt, list):
            return prompt if prompt and set(map(type, prompt)) <= {int, bool} else None
        if not isinstance(prompt, str):
            return None
        tokens = _only_tokens(
            await self._renderer.preprocess_completion(
                body, prompt_input=prompt, prompt_embeds=None, skip_mm_cache=True
            )
        )
        if tokens and not body.echo and not body.suffix:
            body.prompt = tokens
        return tokens


def _renderer(config: LLMConfig) -> OnlineRenderer:
    """As vLLM's server makes its own; the device is of no importance to text."""
    _, vllm_config = _get_vllm_engine_config(config, device_type="cpu")
    front: Any = FrontendArgs(**config.get_engine_config().frontend_kwargs)
    return OnlineRenderer(
        model_config=vllm_config.model_config,
        renderer=renderer_from_config(vllm_config),
        request_logger=None,
        chat_template=load_chat_template(front.chat_template),
        chat_template_content_format=front.chat_template_content_format,
        trust_request_chat_template=front.trust_request_chat_template,
        trust_request_mm_kwargs=front.trust_request_mm_kwargs,
        enable_auto_tools=front.enable_auto_tool_choice,
        exclude_tools_when_tool_choice_none=front.exclude_tools_when_tool_choice_none,
        tool_parser=front.tool_call_parser,
        tool_strict_level=front.tool_strict_level,
        reasoning_parser=vllm_config.structured_outputs_config.reasoning_parser,
        default_chat_template_kwargs=resolve_default_chat_template_kwargs(Namespace(**vars(front))),
    )


def _only_tokens(inputs: Any) -> list[int] | None:
    """The tokens of a single prompt of text."""
    if len(inputs) != 1 or inputs[0].get("type") != "token":
        return None
    return list(inputs[0]["prompt_token_ids"])
