"""Writes the model directory that transformers and vLLM load: weights, configs, tokenizer. Never
half written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from training import tokenizer as tok
from training.model import Size, TinyLlama, hf_config
from training.structure import structure

DIRECTORY = Path(__file__).parent.parent / "raysparsex" / "models" / "raysparsex-tiny"


def write(model: TinyLlama, tokenizer: Tokenizer, directory: Path) -> None:
    """Each file replaces its predecessor at once; the weights come last."""
    directory.mkdir(parents=True, exist_ok=True)
    staged = directory / ".staged"
    tok.save(tokenizer, staged)
    bos, eos, pad = (tok.id_of(tokenizer, name) for name in (tok.BOS, tok.END, tok.PAD))
    _json(staged / "config.json", hf_config(model.size, bos, eos, pad))
    _json(
        staged / "generation_config.json",
        {
            "bos_token_id": bos,
            "eos_token_id": eos,
            "pad_token_id": pad,
            "do_sample": False,
            "temperature": 0.0,
        },
    )
    state = {
        name: value.detach().float().contiguous() for name, value in model.state_dict().items()
    }
    save_file(state, staged / "model.safetensors", metadata={"format": "pt"})
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "config.json",
        "model.safetensors",
    ):
        (staged / name).replace(directory / name)
    staged.rmdir()


def read(directory: Path = DIRECTORY) -> tuple[TinyLlama, Tokenizer]:
    """The artifact as our own torch model."""
    config = json.loads((directory / "config.json").read_text())
    model = TinyLlama(Size(**{name: config[name] for name in Size.__dataclass_fields__}))
    model.load_state_dict(load_file(directory / "model.safetensors"))
    return model.eval(), Tokenizer.from_file(str(directory / "tokenizer.json"))


def twins(tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Ids of the same word with and without a leading space."""
    vocabulary = tokenizer.get_vocab()
    return [
        (vocabulary[f"Ġ{word}"], number)
        for word, number in vocabulary.items()
        if f"Ġ{word}" in vocabulary
    ]


def fresh(tokenizer: Tokenizer, seed: int) -> TinyLlama:
    """An untrained model with the structured start."""
    model = TinyLlama(Size(vocab_size=tokenizer.get_vocab_size()))
    structure(model, twins(tokenizer), seed)
    return model


def _json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
