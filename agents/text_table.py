"""Rows of texts as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns as wide as their widest cell; the first `left` are set left, the others right."""
    plain = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*plain, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in plain
    ]
    return "\n".join(lines)


def _printable(cell: str) -> str:
    """One line, and nothing that a terminal would act on."""
    return "".join(letter if letter.isprintable() else " " for letter in cell)
