"""Names, sizes and docstrings: what a directory listing promises is kept."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("raysparsex", "deployments", "agents", "examples", "benchmarks", "training")
FILES = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py"))
MOST_LINES = 400
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "shared", "lib"}

each_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 30


@each_file
def test_no_file_is_longer_than_a_reader_can_keep_in_mind(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@each_file
def test_no_file_or_folder_is_named_for_everything(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    assert not VAGUE & set(parts)


@each_file
def test_every_module_says_what_it_holds(path: Path) -> None:
    if path.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(tree(path))


def public(path: Path) -> Iterator[str]:
    """Public definitions without a docstring. One-line properties speak by their name."""
    for node in tree(path).body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield node.name
        for member in node.body if isinstance(node, ast.ClassDef) else ():
            if not isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            is_property = any(
                isinstance(d, ast.Name) and d.id == "property" for d in member.decorator_list
            )
            speaks = is_property and len(member.body) == 1
            if not member.name.startswith("_") and not speaks and not ast.get_docstring(member):
                yield f"{node.name}.{member.name}"


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if p.is_relative_to(ROOT / "raysparsex")],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_everything_public_in_raysparsex_is_described(path: Path) -> None:
    assert list(public(path)) == []


@each_file
def test_nobody_silences_all_checkers_at_once(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        assert not line.strip().startswith(("# ruff: noqa", "# mypy: ignore-errors"))
