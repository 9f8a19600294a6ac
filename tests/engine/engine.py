"""A real vLLM engine with the connector, in this process, so that tests can look inside it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
# One thread: these models are too small for two, whose barriers cost more than they win. A core
# for each of the processes that tests are spread over.
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", str(_worker % (os.cpu_count() or 1)))


def tokens(rng: random.Random, count: int) -> list[int]:
    """New text: random ids of the embedded tokenizer, none of them special."""
    return [rng.randrange(10, 2000) for _ in range(count)]


def joined(parts: Iterable[list[int]]) -> list[int]:
    """The parts as one text."""
    return list(chain.from_iterable(parts))


TRANSFER = {"kv_connector": "RaySparseXConnector", "kv_role": "kv_both"}


@dataclass(frozen=True)
class Answer:
    """One request's outcome."""

    tokens: list[int]
    logprobs: list[dict[int, float]]
    reuse: dict[str, Any]
    cached_tokens: int


class Engine:
    """Owns one `vllm.LLM`. `settle` must be called before looking at what requests left behind."""

    def __init__(self, model: Path, ranks: int = 1, **settings: Any) -> None:
        from vllm import LLM

        self.llm = LLM(
            model=str(model),
            dtype="float32",
            enforce_eager=True,
            max_model_len=8192,
            seed=0,
            tensor_parallel_size=ranks,
            kv_transfer_config=TRANSFER | {"kv_connector_extra_config": settings},
        )
        self.core = self.llm.llm_engine.engine_core.engine_core
        self.scheduler = self.core.scheduler
        self.half = self.scheduler.connector.scheduler

    @property
    def worker(self) -> Any:
        """The worker half of the only rank."""
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        return get_kv_transfer_group().worker

    def ask(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_tokens: int = 6,
        logprobs: int = 5,
        salt: str | None = None,
        **params: Any,
    ) -> list[Answer]:
        """Greedy answers of a batch; `params` are the requests' `kv_transfer_params`."""
        from vllm import SamplingParams

        sampling = SamplingParams(
            max_tokens=max_tokens,
            temperature=0,
            logprobs=logprobs,
            ignore_eos=True,
            extra_args={"kv_transfer_params": params},
        )
        inputs = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        if salt is not None:
            inputs = [entry | {"cache_salt": salt} for entry in inputs]
        outputs = self.llm.generate(inputs, sampling, use_tqdm=False)
        self.settle()
        return [_answer(output) for output in outputs]

    def one(self, prompt: Sequence[int], **params: Any) -> Answer:
        """The answer to a single prompt."""
        return self.ask([prompt], **params)[0]

    def settle(self) -> None:
        """Step until nothing is left to do, publishing included."""
        for _ in range(10_000):
            if not self.scheduler.has_requests():
                return
            self.llm.llm_engine.step()
        raise AssertionError("the engine does not come to rest")

    def forget(self) -> None:
        """Drop all segments and the prefix cache."""
        self.settle()
        assert self.scheduler.reset_prefix_cache(reset_connector=True)

    def assert_nothing_held(self) -> None:
        """No block, pin, job or record of any request is left."""
        self.settle()
        gauges = self.half.gauges()
        assert gauges["free_blocks"] == gauges["total_blocks"] - 1  # vLLM keeps a null block
        assert gauges["pins"] == gauges["running_jobs"] == 0
        assert self.worker.running_jobs == 0
        assert not self.half._tracked
        assert not self.half._releasing
        assert not self.scheduler.requests
        self.half.ledger.check_integrity()
        if not self.half._orders.drop:  # dropped in the next step, whenever that is
            assert self.worker._store.held_bytes == self.half.ledger.held_bytes


def _answer(output: Any) -> Answer:
    completion = output.outputs[0]
    logprobs = [{t: lp.logprob for t, lp in step.items()} for step in completion.logprobs]
    reuse = output.kv_transfer_params["reuse"]
    return Answer(list(completion.token_ids), logprobs, reuse, output.num_cached_tokens)
