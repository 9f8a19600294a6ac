"""The embedded model, so that everything works before any other model is at hand."""

from pathlib import Path

EMBEDDED = "raysparsex-tiny"


def embedded_model() -> Path:
    """The folder of `raysparsex-tiny`: weights, tokenizer, chat template."""
    return Path(__file__).parent / EMBEDDED
