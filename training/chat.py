"""Messages to text and ids, as the chat template does it, without transformers (a test compares
the two).
"""

from __future__ import annotations

from tokenizers import Tokenizer

from training.world import Message


def text(messages: list[Message]) -> str:
    """The prompt's text, ready for an answer."""
    return "<|bos|>" + "".join(_rendered(message) for message in messages) + "<|assistant|>"


def content_at(messages: list[Message], number: int) -> tuple[int, int]:
    """Start and end of one message's content in the prompt's text, with the space before it."""
    start = len("<|bos|>") + sum(len(_rendered(message)) for message in messages[:number])
    role = len(f"<|{messages[number]['role']}|>")
    return start + role, start + len(_rendered(messages[number])) - len("<|end|>")


def encode(tokenizer: Tokenizer, messages: list[Message]) -> list[int]:
    """The prompt's ids."""
    return tokenizer.encode(text(messages)).ids


def _rendered(message: Message) -> str:
    content = message["content"].strip() if message["role"] == "assistant" else message["content"]
    return f"<|{message['role']}|> {content}<|end|>"
