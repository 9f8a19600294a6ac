"""A random-weight model that never ends its answer: every request decodes as many tokens as asked.

Its head is zeroed but for whole words. Of a thousand random logits the highest is above zero, so
nothing else is ever chosen: no end of the answer, and no token that is half a letter.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors.torch import load_file, save_file

from benchmarks.random_model import LlamaShape, write_llama

HEAD = "lm_head.weight"
WORD = re.compile(r"Ġ[A-Za-z]+")
"""A word with the space before it, as byte-level tokenizers write it."""


def write_model(folder: Path, shape: LlamaShape, context: int) -> Path:
    """Weights, config and tokenizer; the same ones each time."""
    write_llama(folder, shape, context=context)
    weights = load_file(folder / "model.safetensors")
    silent = sorted(set(range(len(weights[HEAD]))) - word_ids(folder))
    weights[HEAD][silent] = 0.0
    save_file(weights, folder / "model.safetensors")
    return folder


def word_ids(folder: Path) -> set[int]:
    """Tokens that are whole words."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    return {number for text, number in vocabulary.items() if WORD.fullmatch(text)}
