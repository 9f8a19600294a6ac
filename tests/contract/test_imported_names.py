"""Every name that we import from vLLM and Ray, early or late, is there; by parsing alone."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("raysparsex", "deployments")
FOREIGN = ("vllm", "ray")


def imported() -> Iterator[tuple[str, str]]:
    """(module, name) of each `from module import name`."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
                continue
            if node.module.split(".")[0] in FOREIGN:
                yield from ((node.module, alias.name) for alias in node.names)


NAMES = sorted(set(imported()))


def source_of(module: str) -> Path | None:
    """The file of a module, found without importing it."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    assert spec is not None, f"{top} is not installed: make setup"
    assert spec.origin is not None
    place = Path(spec.origin).parent.joinpath(*rest)
    for path in (place / "__init__.py", place.with_suffix(".py")):
        if path.is_file():
            return path
    return None


def defined(path: Path) -> set[str]:
    """Names that a module's text binds anywhere outside of functions and classes."""
    names: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            names |= defined(path.parent / f"{node.module}.py")
        if isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)  # lazy tables of names, as in vllm/__init__.py
        waiting += ast.iter_child_nodes(node)
    return names


@pytest.mark.parametrize(("module", "name"), NAMES, ids=lambda part: str(part))
def test_an_imported_name_exists(module: str, name: str) -> None:
    path = source_of(module)
    assert path is not None, f"there is no {module}"
    assert name in defined(path) or source_of(f"{module}.{name}") is not None
