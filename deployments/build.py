"""Builds the Ray Serve application from settings: one OpenAI ingress, one LLM deployment.

Everything runs in fractions of a CPU, so that the whole application fits on two. Which process
does what, and how requests are checked, is in `ingress.py` and `llm_replica.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import serve
from ray.serve import Application
from ray.serve.llm import LLMConfig, build_llm_deployment

import raysparsex
from raysparsex.freed_memory import KEEP_FREED_MEMORY
from raysparsex.routing.copies import CopyRule
from raysparsex.routing.ray_router import SegmentRouter

from .autoscaling import LoadPolicy
from .graph_server import GraphServer, load_graph
from .ingress import ReuseIngress, model_cards, with_routes
from .llm_replica import LocalModelCallback, ReuseServer
from .registry_service import RegistrySettings
from .residency import REGISTRY_SHARDS
from .segment_routing import RoutingSetup
from .settings import EMBEDDED_MODEL, EngineConfig, Settings, model_id, model_source
from .shared_store import TENANT_QUOTAS
from .tenants import Tenants, load_tenants

CONNECTOR = "RaySparseXConnector"
CONNECTOR_MODULE = "raysparsex.vllm_plugin.connector"
EMBEDDED_TOOL_PARSER = "pythonic"
"""The embedded model writes no calls by itself: one that sees none in its answers, and leaves calls
that must be to JSON schemas, which are obeyed whatever a tool says of strictness."""
COMPACT_JSON = {"backend": "xgrammar", "disable_any_whitespace": True}
"""Where blanks are allowed, the embedded model goes on with blanks."""
FITTED = -1
"""for vLLM: the model's own length, or the longest that fits into the KV cache"""
SMALL_MODEL_BYTES = 100 << 20
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "tekken.json",
)  # fmt: skip
PREFIX_ROUTER = "ray.serve.llm.request_router.PrefixCacheAffinityRouter"
HEALTH_CHECK_SECONDS = 3.0
"""Ray Serve's default of ten keeps a dead replica's place empty for as long."""
REPLICA_CPUS = 0.2
INGRESS_CPUS = 0.1


def build_app(settings: Settings, retry_failed_start: bool = True) -> Application:
    """The application for `serve run` and `serve.run`."""
    on_gpu = _is_on_gpu(settings.engine)
    config = llm_config(settings, on_gpu)
    retries = {} if retry_failed_start else {"max_constructor_retry_count": 1}
    server = build_llm_deployment(config, name_prefix="llm:", override_serve_options=retries)
    tenants = load_tenants(settings.tenants)
    ingress = serve.deployment(
        with_routes(ReuseIngress, tenants),
        name="openai",
        num_replicas=1,
        max_ongoing_requests=1_000_000,
        ray_actor_options={
            "num_cpus": INGRESS_CPUS,
            "runtime_env": {"env_vars": _process_environment(settings, on_gpu)},
        },
    )
    return ingress.bind(
        llm_deployments={config.model_id: server},
        model_cards=model_cards(config),
        routing=_routing(settings, config, tenants),
        graph_names=tuple(settings.graphs.serve),
        graphs=_graphs(settings),
    )


def _graphs(settings: Settings) -> Application | None:
    """The deployment of the agent graphs; None: there are none."""
    places = settings.graphs.serve
    if not places:
        return None
    for place in places.values():
        load_graph(place)  # a wrong one is told before anything starts
    paths = [str(Path.cwd()), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {"PYTHONPATH": os.pathsep.join(dict.fromkeys([_root(), *paths]))}
    given = ("OPENAI_BASE_URL", "OPENAI_API_KEY")
    environment |= {name: os.environ[name] for name in given if name in os.environ}
    deployment = serve.deployment(
        GraphServer,
        name="graphs",
        max_ongoing_requests=1000,
        ray_actor_options={
            "num_cpus": INGRESS_CPUS,
            "runtime_env": {"env_vars": environment},
        },
    )
    host = "127.0.0.1" if settings.server.host in ("0.0.0.0", "::") else settings.server.host
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.server.port}/v1"
    bound: Application = deployment.bind(places, url)
    return bound


def llm_config(settings: Settings, on_gpu: bool) -> LLMConfig:
    """The settings in the words of `ray.serve.llm`."""
    source = model_source(settings)
    return LLMConfig(
        model_loading_config={"model_id": model_id(settings), "model_source": source},
        server_cls=ReuseServer,
        engine_kwargs=engine_kwargs(settings, on_gpu),
        accelerator_config={"kind": "gpu" if on_gpu else "cpu"},
        placement_group_config=_placement(settings.engine, on_gpu),
        deployment_config=_replicas(settings),
        callback_config=({"callback_class": LocalModelCallback} if os.path.isdir(source) else {}),
        runtime_env={"env_vars": _process_environment(settings, on_gpu)},
        experimental_configs={
            "stream_batching_interval_ms": 0,
            TENANT_QUOTAS: load_tenants(settings.tenants).quotas,
            REGISTRY_SHARDS: _registry_shards(settings),
        },
    )


def engine_kwargs(settings: Settings, on_gpu: bool) -> dict[str, Any]:
    """What vLLM's engine and its OpenAI layer are given."""
    engine = settings.engine
    kv_cache_bytes = engine.kv_cache_bytes or (None if on_gpu else _cpu_kv_cache_bytes(settings))
    return {
        "max_model_len": engine.max_model_len or FITTED,
        **({"kv_cache_memory_bytes": kv_cache_bytes} if kv_cache_bytes else {}),
        "dtype": _dtype(settings, on_gpu),
        "tensor_parallel_size": engine.tensor_parallel,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "max_num_seqs": engine.max_num_seqs,
        "enforce_eager": _eager(settings, on_gpu),
        "enable_prefix_caching": True,
        "skip_tokenizer_init": _lacks_tokenizer(settings),
        "enable_prompt_tokens_details": True,
        "scheduling_policy": "priority",  # checks of reuse come behind the users' requests
        **_guided_decoding(settings),
        **_kv_transfer(settings),
    }


def _guided_decoding(settings: Settings) -> dict[str, Any]:
    """How tools are called, and what answers of a given form may look like."""
    is_embedded = model_id(settings) == EMBEDDED_MODEL
    parser = settings.engine.tool_parser or (EMBEDDED_TOOL_PARSER if is_embedded else None)
    return {
        **({"tool_call_parser": parser, "enable_auto_tool_choice": True} if parser else {}),
        **({"structured_outputs_config": COMPACT_JSON} if is_embedded else {}),
    }


def _cpu_kv_cache_bytes(settings: Settings) -> int:
    """What is of use and no more: vLLM fills the cache when it starts, at 0.6 GB/s or so."""
    folder = Path(model_source(settings))
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    useful = 512 << 20 if 0 < weights < SMALL_MODEL_BYTES else 4 << 30
    return min(useful, psutil.virtual_memory().total // 4)


def _lacks_tokenizer(settings: Settings) -> bool:
    """A local folder of weights alone: it is served with prompts as token ids."""
    folder = Path(model_source(settings))
    return folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES)


def _eager(settings: Settings, on_gpu: bool) -> bool:
    chosen = settings.engine.enforce_eager
    return not on_gpu if chosen is None else chosen


def _dtype(settings: Settings, on_gpu: bool) -> str:
    """On a CPU, float32 weights stay float32: vLLM's `auto` would halve their precision."""
    stored = Path(model_source(settings), "config.json")
    if settings.engine.dtype != "auto" or on_gpu or not stored.is_file():
        return settings.engine.dtype
    config = json.loads(stored.read_text(encoding="utf-8"))
    return "float32" if "float32" in (config.get("dtype"), config.get("torch_dtype")) else "auto"


def _kv_transfer(settings: Settings) -> dict[str, Any]:
    return {
        "kv_transfer_config": {
            "kv_connector": CONNECTOR,
            "kv_connector_module_path": CONNECTOR_MODULE,
            "kv_role": "kv_both",
            "kv_connector_extra_config": settings.for_plugin().model_dump(mode="json"),
            "kv_load_failure_policy": "recompute",
        }
    }


def _placement(engine: EngineConfig, on_gpu: bool) -> dict[str, Any]:
    device = {"GPU": 1} if on_gpu else {"CPU": REPLICA_CPUS}
    return {"bundle_per_worker": device, "strategy": "STRICT_PACK"}


def _replicas(settings: Settings) -> dict[str, Any]:
    engine = settings.engine
    options = {
        "ray_actor_options": {"num_cpus": REPLICA_CPUS},
        "health_check_period_s": HEALTH_CHECK_SECONDS,
        **_request_router(settings),
    }
    if engine.max_replicas is None:
        return {**options, "num_replicas": engine.replicas}
    scaling = {
        "min_replicas": engine.replicas,
        "max_replicas": engine.max_replicas,
        "target_ongoing_requests": max(1, engine.max_num_seqs // 2),
        "policy": {
            "policy_function": f"{LoadPolicy.__module__}:{LoadPolicy.__qualname__}",
            "policy_kwargs": {"tokens_per_replica": engine.waiting_tokens},
        },
    }
    return {**options, "autoscaling_config": scaling}


def _request_router(settings: Settings) -> dict[str, Any]:
    """Which of Ray Serve's routers sends requests to replicas; none: power of two choices."""
    policy = settings.routing.policy
    if settings.routing.by_segments(settings.engine):
        name = f"{SegmentRouter.__module__}.{SegmentRouter.__qualname__}"
    elif policy == "prefix":
        name = PREFIX_ROUTER
    else:
        return {}
    return {"request_router_config": {"request_router_class": name}}


def _registry_shards(settings: Settings) -> int:
    """To how many registries replicas tell what they hold."""
    routing = settings.routing
    return routing.registry_shards if routing.by_segments(settings.engine) else 0


def _routing(settings: Settings, config: LLMConfig, tenants: Tenants) -> RoutingSetup | None:
    """What the ingress needs to decide; None: it decides nothing."""
    routing = settings.routing
    if not routing.by_segments(settings.engine):
        return None
    registry = RegistrySettings(
        shards=routing.registry_shards,
        segments=routing.registry_segments,
        quotas=tenants.quotas,
        ranks=settings.engine.tensor_parallel,
        copies=CopyRule() if routing.copies else None,
    )
    return RoutingSetup(config, settings.for_plugin(), registry)


def _process_environment(settings: Settings, on_gpu: bool) -> dict[str, str]:
    """Environment of every process that imports vLLM.

    Ray gives an actor with less than one CPU a single OpenMP thread, and vLLM's own binding
    refuses machines with two CPUs when a connector is set: threads are therefore set here.
    """
    source = model_source(settings)
    paths = [_root(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    cpus = len(os.sched_getaffinity(0))
    threads = settings.engine.threads or max(1, cpus // settings.engine.replicas)
    environment = {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not on_gpu:
        kept = {name: os.environ.get(name, value) for name, value in KEEP_FREED_MEMORY.items()}
        environment |= kept
    if os.path.isdir(source):
        environment["HF_HUB_OFFLINE"] = "1"
    if _eager(settings, on_gpu):
        # Even when eager, vLLM compiles some functions on first use: 15 s for the first logprobs.
        environment["TORCHDYNAMO_DISABLE"] = "1"
    return environment


def _root() -> str:
    return str(Path(raysparsex.__file__).parent.parent)


def _is_on_gpu(engine: EngineConfig) -> bool:
    """As configured; an autoscaled cluster without a GPU node yet cannot tell by itself."""
    if engine.device != "auto":
        return engine.device == "gpu"
    if ray.is_initialized():
        return bool(ray.cluster_resources().get("GPU", 0) > 0)
    return os.path.exists("/dev/nvidiactl")
