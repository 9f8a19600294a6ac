"""What the settings become in the words of `ray.serve.llm`, on a CPU and on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deployments.build import engine_kwargs, llm_config
from deployments.settings import load_settings
from raysparsex.config import parse_settings


def kwargs(on_gpu: bool = False, **variables: str) -> dict[str, Any]:
    settings = load_settings(environment={f"RAYSPARSEX_{k}": v for k, v in variables.items()})
    return engine_kwargs(settings, on_gpu)


def test_the_plugin_gets_exactly_the_reuse_settings() -> None:
    transfer = kwargs(SEGMENT__MIN_TOKENS="17", REUSE__MODE="exact")["kv_transfer_config"]
    assert transfer["kv_connector"] == "RaySparseXConnector"
    plugin = parse_settings(transfer["kv_connector_extra_config"])
    assert (plugin.segment.min_tokens, plugin.reuse.mode) == (17, "exact")


def test_a_cpu_keeps_the_stored_precision_and_compiles_nothing() -> None:
    cpu = kwargs()
    assert (cpu["dtype"], cpu["enforce_eager"]) == ("float32", True)
    assert cpu["kv_cache_memory_bytes"] <= 512 << 20


def test_weights_without_a_tokenizer_are_served_with_token_ids(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert kwargs(MODEL=str(tmp_path))["skip_tokenizer_init"] is True
    (tmp_path / "tokenizer.json").write_text("{}")
    assert kwargs(MODEL=str(tmp_path))["skip_tokenizer_init"] is False
    assert kwargs()["skip_tokenizer_init"] is False
    assert kwargs(MODEL="some/name")["skip_tokenizer_init"] is False


def test_a_gpu_is_left_to_vllm() -> None:
    gpu = kwargs(on_gpu=True)
    assert (gpu["dtype"], gpu["enforce_eager"]) == ("auto", False)
    assert "kv_cache_memory_bytes" not in gpu


@pytest.mark.parametrize("on_gpu", [False, True])
def test_one_replica_fits_on_two_cpus(on_gpu: bool) -> None:
    config = llm_config(load_settings(environment={}), on_gpu)
    bundle = config.placement_group_config["bundle_per_worker"]
    own = config.deployment_config["ray_actor_options"]["num_cpus"]
    assert bundle.get("CPU", 0) + own < 1
    assert bundle.get("GPU", 0) == int(on_gpu)


def test_replicas_are_fixed_or_scale_between_two_numbers() -> None:
    fixed = llm_config(load_settings(environment={"RAYSPARSEX_ENGINE__REPLICAS": "2"}), False)
    assert fixed.deployment_config["num_replicas"] == 2
    scaled = {"RAYSPARSEX_ENGINE__REPLICAS": "1", "RAYSPARSEX_ENGINE__MAX_REPLICAS": "4"}
    config = llm_config(load_settings(environment=scaled), False).deployment_config
    assert "num_replicas" not in config
    assert config["autoscaling_config"]["max_replicas"] == 4
