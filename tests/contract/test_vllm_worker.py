"""What the worker half relies on in the installed vLLM, checked without running an engine."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields
from pathlib import Path

import pytest

pytest.importorskip("vllm")

from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1 import base

from raysparsex.vllm_plugin.connector import RaySparseXConnector
from raysparsex.vllm_plugin.register import CONNECTOR, register
from tests.contract.sources import in_order, parameters

BASE = base.KVConnectorBase_V1


def test_registering_twice_changes_nothing_and_makes_the_name_known() -> None:
    from vllm.v1.worker.gpu_worker import Worker

    register()
    once = Worker.load_model
    register()
    assert Worker.load_model is once
    assert KVConnectorFactory.get_connector_class_by_name(CONNECTOR) is RaySparseXConnector


def test_the_plugin_is_found_by_its_entry_point() -> None:
    from importlib.metadata import entry_points

    found = [e for e in entry_points(group="vllm.general_plugins") if e.name == "raysparsex"]
    assert found, "raysparsex is not installed as a package: make setup"
    assert found[0].load() is register


def test_every_kind_of_worker_loads_its_model_where_we_listen() -> None:
    from vllm.v1.worker.cpu_worker import CPUWorker
    from vllm.v1.worker.gpu_worker import Worker

    register()
    assert CPUWorker.load_model is Worker.load_model
    assert parameters(inspect.unwrap(Worker.load_model)) == ["load_dummy_weights"]


@pytest.mark.parametrize(
    "runner",
    [
        "vllm.v1.worker.cpu_model_runner.CPUModelRunner",
        "vllm.v1.worker.gpu_model_runner.GPUModelRunner",
    ],
)
def test_a_model_runner_hands_out_its_model(runner: str) -> None:
    from vllm.utils.import_utils import resolve_obj_by_qualname

    assert parameters(resolve_obj_by_qualname(runner).get_model) == []


def test_a_layer_runs_in_a_context_that_we_make() -> None:
    from vllm.forward_context import set_forward_context

    names = parameters(set_forward_context)
    assert names[:2] == ["attn_metadata", "vllm_config"]
    assert {"num_tokens", "slot_mapping", "skip_compiled"} <= set(names)


def test_rows_are_described_by_fields_that_exist() -> None:
    from vllm.v1.attention.backend import AttentionMetadataBuilder, CommonAttentionMetadata

    known = {field.name: field for field in fields(CommonAttentionMetadata)}
    from raysparsex.vllm_plugin import decoder

    calls = [
        node
        for node in ast.walk(ast.parse(inspect.getsource(decoder)))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "CommonAttentionMetadata"
    ]
    assert len(calls) == 1
    given = {keyword.arg for keyword in calls[0].keywords}
    assert given <= set(known)
    from dataclasses import MISSING

    required = {
        name
        for name, field in known.items()
        if field.default is MISSING and field.default_factory is MISSING
    }
    assert required <= given
    assert parameters(AttentionMetadataBuilder.build)[:2] == [
        "common_prefix_len",
        "common_attn_metadata",
    ]


def test_attention_is_entered_with_query_key_and_value() -> None:
    from vllm.model_executor.layers.attention import Attention

    assert parameters(Attention.forward)[:3] == ["query", "key", "value"]


def test_backends_write_a_cache_by_slot() -> None:
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl

    assert parameters(CPUAttentionBackendImpl.do_kv_cache_update) == [
        "layer",
        "key",
        "value",
        "kv_cache",
        "slot_mapping",
    ]


@pytest.mark.parametrize(
    ("module", "architecture"),
    [
        ("llama", "LlamaForCausalLM"),
        ("mistral", "MistralForCausalLM"),
        ("qwen2", "Qwen2ForCausalLM"),
        ("qwen3", "Qwen3ForCausalLM"),
    ],
)
def test_an_architecture_is_embedding_layers_and_norm(module: str, architecture: str) -> None:
    """Read from source: importing four models takes longer than all other tests here."""
    import vllm

    from raysparsex.vllm_plugin.decoder import ARCHITECTURES

    assert architecture in ARCHITECTURES
    folder = Path(vllm.__file__).parent / "model_executor" / "models"
    text = (folder / f"{module}.py").read_text(encoding="utf-8")
    assert f"class {architecture}(" in text
    bases = (
        text
        if module in ("llama", "qwen2")
        else text
        + (folder / {"mistral": "llama.py", "qwen3": "qwen2.py"}[module]).read_text(
            encoding="utf-8"
        )
    )
    assert "self.model = " in bases
    assert "def embed_input_ids(" in bases
    assert "self.start_layer, self.end_layer, self.layers = make_layers(" in bases
    assert "layer(" in bases
    assert "positions, hidden_states, residual" in bases


def test_the_worker_asks_for_results_after_it_started_the_step() -> None:
    from vllm.v1.worker import kv_connector_model_runner_mixin as mixin

    in_order(inspect.getsource(mixin), "start_load_kv(", "get_transfer_results(")
