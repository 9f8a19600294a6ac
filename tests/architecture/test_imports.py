"""Import directions: what is pure stays pure, foreign frameworks stay at the edges."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TypeVar

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [name for name in ("raysparsex", "deployments", "agents") if (ROOT / name).is_dir()]
FOREIGN = {"torch", "triton", "ray", "vllm"}
Rule = TypeVar("Rule")
CORE = "raysparsex.ids raysparsex.errors"

OURS: dict[str, str] = {
    "raysparsex.ids": "",
    "raysparsex.errors": "",
    "raysparsex.freed_memory": "",
    "raysparsex.config": "raysparsex.errors",
    "raysparsex.segment": f"{CORE} raysparsex.config raysparsex.segment",
    "raysparsex.registry": f"{CORE} raysparsex.config raysparsex.segment raysparsex.registry",
    "raysparsex.plan": f"{CORE} raysparsex.config raysparsex.segment raysparsex.plan",
    "raysparsex.store": f"{CORE} raysparsex.config raysparsex.segment raysparsex.store",
    "raysparsex.store.ray_registry": f"{CORE} raysparsex.registry raysparsex.store",
    "raysparsex.sparse": f"{CORE} raysparsex.config raysparsex.sparse",
    "raysparsex.kernels": f"{CORE} raysparsex.kernels",
    "raysparsex.routing": f"{CORE} raysparsex.config raysparsex.segment raysparsex.registry"
    " raysparsex.routing",
    "raysparsex.gate": f"{CORE} raysparsex.config raysparsex.gate",
    "raysparsex.calibration": f"{CORE} raysparsex.config raysparsex.plan raysparsex.models"
    " raysparsex.calibration",
    "raysparsex.api_keys": "",
    "raysparsex.warming": f"{CORE} raysparsex.warming",
    "raysparsex.cli": "raysparsex",
    "raysparsex.models": "",
    "raysparsex.vllm_plugin": "raysparsex",
    "deployments": "deployments raysparsex",
    "agents": f"agents {CORE} raysparsex.config",
}
"""Prefixes of what a part may import of ours; the part with the longest matching name counts."""

MAY_USE = {
    "raysparsex.sparse": {"torch"},
    "raysparsex.kernels": {"torch"},
    "raysparsex.kernels.choice": set(),
    "raysparsex.kernels.tiling": set(),
    "raysparsex.kernels.scattered_triton": {"triton"},
    "raysparsex.store": {"torch"},
    "raysparsex.store.ray_cluster": {"ray"},
    "raysparsex.store.ray_objects": {"torch", "ray"},
    "raysparsex.store.ray_reading": {"torch", "ray"},
    "raysparsex.store.ray_registry": {"ray"},
    "raysparsex.routing.ray_router": {"ray"},
    "raysparsex.vllm_plugin": {"torch", "vllm"},
    "deployments": FOREIGN,
}
"""Foreign frameworks by part; none for the others."""

PURE = ("raysparsex.segment", "raysparsex.registry", "raysparsex.plan", "raysparsex.ids",
        "raysparsex.errors", "raysparsex.freed_memory", "raysparsex.config", "raysparsex.gate",
        "raysparsex.routing")  # fmt: skip
ADAPTERS = {"raysparsex.routing.ray_router"}
"""Inside a pure part, yet not pure themselves."""
OUTSIDE = {
    "asyncio", "datetime", "io", "logging", "multiprocessing", "os", "pathlib", "random",
    "requests", "secrets", "shutil", "socket", "subprocess", "tempfile", "threading", "time",
    "urllib",
}  # fmt: skip


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()
every_module = pytest.mark.parametrize("module", MODULES)


def imports(module: str) -> set[str]:
    """Full names of all imported modules, lazy and type-checking ones included."""
    path, found = MODULES[module], set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                outer = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*outer, *([node.module] if node.module else [])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else base for name in names}
    return found


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def rule_of(module: str, rules: dict[str, Rule], otherwise: Rule) -> Rule:
    fitting = [part for part in rules if within(module, part)]
    return rules[max(fitting, key=len)] if fitting else otherwise


@every_module
def test_parts_import_only_what_stands_before_them(module: str) -> None:
    allowed = rule_of(module, OURS, "").split()
    for name in imports(module):
        if name.split(".")[0] in PACKAGES and module != "raysparsex":
            assert any(within(name, prefix) for prefix in allowed), f"{module} imports {name}"


@every_module
def test_foreign_frameworks_are_imported_in_their_adapters_only(module: str) -> None:
    used = {name.split(".")[0] for name in imports(module)} & FOREIGN
    assert used <= rule_of(module, MAY_USE, set()), f"{module} imports {sorted(used)}"


@every_module
def test_wiring_and_agents_do_not_know_each_other(module: str) -> None:
    for name in imports(module):
        assert not (within(module, "deployments") and within(name, "agents"))
        assert not (within(module, "agents") and within(name, "deployments"))
        assert not (
            within(module, "raysparsex") and name.split(".")[0] in ("deployments", "agents")
        )


@pytest.mark.parametrize(
    "module", [m for m in MODULES if m not in ADAPTERS and any(within(m, part) for part in PURE)]
)
def test_pure_parts_reach_for_nothing_outside(module: str) -> None:
    used = {name.split(".")[0] for name in imports(module)}
    assert not used & OUTSIDE
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"open", "print", "input", "exec", "eval"}


def test_the_tables_above_know_every_part() -> None:
    for module in MODULES:
        if module != "raysparsex":
            assert any(within(module, part) for part in OURS), f"no rule for {module}"


LIGHT = [
    "raysparsex",
    "raysparsex.config",
    "raysparsex.errors",
    "raysparsex.ids",
    "raysparsex.segment.coverage",
    "raysparsex.plan.planner",
    "raysparsex.registry.ledger",
    "raysparsex.registry.shards",
    "raysparsex.routing.score",
    "raysparsex.vllm_plugin.register",
    "agents",
    "agents.graph",
    "raysparsex.cli",
    "raysparsex.calibration.run",
    "raysparsex.calibration.lookup",
    "raysparsex.gate.gate",
    "raysparsex.kernels.choice",
    "deployments",
    "deployments.settings",
]


def test_a_fresh_import_of_a_light_part_loads_a_framework() -> None:
    """One process for all: what the first loads, the later ones would too."""
    code = (
        "import importlib, sys\n"
        f"for name in {LIGHT!r}:\n"
        "    importlib.import_module(name)\n"
        f"    heavy = {FOREIGN!r} & set(sys.modules)\n"
        "    assert not heavy, f'{name} loads {heavy}'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
