"""A vLLM engine with the connector in this process, for measurements without a server.

Answers come one at a time, greedy, with log-probabilities; reuse is what each request asks for, no
profile is looked up, and nothing is checked in the background. `calibration` sees this class
through its protocols `measure.Engine` and `prompts.Coder`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from raysparsex.calibration.drift import TOP, Answer
from raysparsex.calibration.lookup import NO_PROFILE
from raysparsex.calibration.profile import Sensitivity
from raysparsex.errors import RaySparseXError, UnsupportedModel

if TYPE_CHECKING:
    from raysparsex.vllm_plugin.worker_half import WorkerHalf

FITTED = -1
"""for vLLM: the model's own length, or the longest that fits into the KV cache"""
STEPS_TO_REST = 100_000
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "tekken.json", "vocab.json",
)  # fmt: skip
_SETTINGS = {"reuse": {"profile": NO_PROFILE}, "gate": {"shadow_share": 0.0}}


class OfflineEngine:
    """Owns one `vllm.LLM`. Raises UnsupportedModel for a model that cannot be served sparsely."""

    def __init__(self, model: str, *, dtype: str = "auto", threads: int | None = None) -> None:
        _set_environment(model, threads)
        from vllm import LLM

        on_gpu = _has_gpu()
        self._has_tokenizer = _has_tokenizer(model)
        try:
            self._llm = LLM(
                model=model,
                dtype=_fitting_dtype(model, dtype, on_gpu),
                enforce_eager=True,
                max_model_len=FITTED,
                seed=0,
                disable_log_stats=True,
                skip_tokenizer_init=not self._has_tokenizer,
                kv_transfer_config=_connector(),
                **({} if on_gpu else {"kv_cache_memory_bytes": _kv_cache_bytes()}),
            )
        except Exception as error:
            raise UnsupportedModel(_reason(error)) from error
        self._scheduler = self._llm.llm_engine.engine_core.engine_core.scheduler

    @property
    def dtype(self) -> str:
        """What the engine computes in, say `bfloat16`."""
        return str(self._llm.model_config.dtype).removeprefix("torch.")

    @property
    def context(self) -> int:
        return int(self._llm.model_config.max_model_len)

    @property
    def vocabulary(self) -> int:
        return int(self._llm.model_config.get_vocab_size())

    def coder(self) -> ModelCoder | None:
        """The model's tokenizer, if it has one."""
        return ModelCoder(self._llm.get_tokenizer()) if self._has_tokenizer else None

    def ask(
        self,
        tokens: Sequence[int],
        params: Mapping[str, Any],
        *,
        max_tokens: int = 8,
        salt: str | None = None,
        logprobs: int = TOP,
    ) -> Answer:
        """The greedy answer; returns when everything it leaves behind is published."""
        from vllm import SamplingParams

        sampling = SamplingParams(
            max_tokens=max_tokens,
            temperature=0,
            logprobs=logprobs,
            ignore_eos=True,
            detokenize=False,
            extra_args={"kv_transfer_params": dict(params)},
        )
        prompt: dict[str, Any] = {"prompt_token_ids": list(tokens)}
        if salt is not None:
            prompt["cache_salt"] = salt
        output = self._llm.generate([prompt], sampling, use_tqdm=False)[0]
        self._settle()
        return _answer(output)

    def forget(self) -> None:
        """Drop all segments and the prefix cache."""
        self._settle()
        if not self._scheduler.reset_prefix_cache(reset_connector=True):
            raise RaySparseXError("the engine still holds blocks and cannot forget")

    def sensitivity(self, full_layers: int) -> Sensitivity | None:
        """What has been learned of which tokens a new context changes; None: too little."""
        found = self._worker.finder.fitted().get(full_layers)
        if found is None:
            return None
        return Sensitivity(full_layers=full_layers, weights=found.weights, places=found.places)

    def fix_sensitivity(self) -> None:
        """Learn no more of that; what was seen of single segments is dropped."""
        from raysparsex.vllm_plugin.suspicion import SuspectFinder

        self._worker.finder = SuspectFinder(self._worker.finder.fitted())

    @property
    def _worker(self) -> WorkerHalf:
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        connector: Any = get_kv_transfer_group()
        worker: WorkerHalf = connector.worker
        return worker

    def _settle(self) -> None:
        """Step until nothing is left to do, publishing included."""
        for _ in range(STEPS_TO_REST):
            if not self._scheduler.has_requests():
                return
            self._llm.llm_engine.step()
        raise RaySparseXError("the engine does not come to rest")


class ModelCoder:
    """`calibration.prompts.Coder` over a Hugging Face tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @property
    def start(self) -> tuple[int, ...]:
        """See `prompts.Coder`."""
        first = tuple(self._tokenizer.encode("")[:1])
        return first if first == (self._tokenizer.bos_token_id,) else ()

    def encode(self, text: str) -> tuple[int, ...]:
        """See `prompts.Coder`."""
        return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def chat(self, messages: Sequence[Mapping[str, Any]], answer: bool) -> str:
        """See `prompts.Coder`."""
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=answer
                )
            )
        except Exception as error:  # whatever a template raises
            raise ValueError(str(error)) from error


def _answer(output: Any) -> Answer:
    completion = output.outputs[0]
    logprobs = tuple({t: lp.logprob for t, lp in step.items()} for step in completion.logprobs)
    reuse = (output.kv_transfer_params or {}).get("reuse", {})
    return Answer(tuple(completion.token_ids), logprobs, reuse)


def _set_environment(model: str, threads: int | None) -> None:
    """Must happen before torch and vLLM are loaded; what is set already stays.

    vLLM's own binding of threads refuses machines with two CPUs when a connector is set.
    """
    count = threads or len(os.sched_getaffinity(0))
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    for name, value in {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Even when eager, vLLM compiles some functions on first use: 15 s for the first logprobs.
        "TORCHDYNAMO_DISABLE": "1",
        "OMP_NUM_THREADS": str(count),
        **({"HF_HUB_OFFLINE": "1"} if os.path.isdir(model) else {}),
    }.items():
        os.environ.setdefault(name, value)
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def _connector() -> dict[str, Any]:
    store = {"store": {"bytes": min(8 << 30, psutil.virtual_memory().total // 4)}}
    return {
        "kv_connector": "RaySparseXConnector",
        "kv_connector_module_path": "raysparsex.vllm_plugin.connector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": _SETTINGS | store,
        "kv_load_failure_policy": "recompute",
    }


def _kv_cache_bytes() -> int:
    """vLLM fills the cache when it starts, and prompts come one at a time."""
    return min(1 << 30, psutil.virtual_memory().total // 8)


def _fitting_dtype(model: str, dtype: str, on_gpu: bool) -> str:
    """As the server does: on a CPU, float32 weights stay float32."""
    path = Path(model, "config.json")
    if dtype != "auto" or on_gpu or not path.is_file():
        return dtype
    config = json.loads(path.read_text(encoding="utf-8"))
    return "float32" if "float32" in (config.get("dtype"), config.get("torch_dtype")) else "auto"


def _has_tokenizer(model: str) -> bool:
    folder = Path(model)
    return not folder.is_dir() or any((folder / name).is_file() for name in _TOKENIZER_FILES)


def _has_gpu() -> bool:
    return os.path.exists("/dev/nvidiactl")


def _reason(error: BaseException) -> str:
    """The innermost sentence that says something: ours if there is one."""
    chain: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in chain:
        chain.append(step)
        step = step.__cause__ or step.__context__
    ours = [step for step in chain if isinstance(step, RaySparseXError)]
    text = str((ours or chain)[0]).strip() or type(error).__name__
    return text if ours else f"vLLM cannot load the model: {' '.join(text.split())[:300]}"
