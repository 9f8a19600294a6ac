"""Real text with facts in it, in words that the embedded model can read."""

from pathlib import Path


def document(name: str) -> str:
    """The text of one document, say `harbour`."""
    return (Path(__file__).parent / f"{name}.txt").read_text().strip()
