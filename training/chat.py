"""Messages to text and ids, as the chat template does it, without transformers (a test compares
the two).
"""

from __future__ import annotations

from tokenizers import Tokenizer

from training.world import Message


def text(messages: list[Message]) -> str:
    """The prompt's text, ready for an answer."""
    parts = ["<|bos|>"]
    for message in messages:
        content = (
            message["content"].strip() if message["role"] == "assistant" else message["content"]
        )
        parts.append(f"<|{message['role']}|> {content}<|end|>")
    return "".join(parts) + "<|assistant|>"


def encode(tokenizer: Tokenizer, messages: list[Message]) -> list[int]:
    return tokenizer.encode(text(messages)).ids
