"""An engine in a process of its own: takes loads through a pipe, sends back their courses.

vLLM's engine core runs in this process and thread, and `drive` steps it: no step waits for another
process, which on two cores would be most of the scatter. HTTP, tokenising and detokenising are
not in the figures.
"""

from __future__ import annotations

import ctypes
import gc
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from typing import Any, Literal

from benchmarks.speed.drive import Progress, play
from benchmarks.speed.load import Course, Load, Request
from raysparsex.freed_memory import KEEP_FREED_MEMORY

KV_CACHE_BYTES = 2 << 30
STEP_TOKENS = 2048
"""`max_num_batched_tokens`: what vLLM's server has on a CPU."""
CONTEXT = 9216
LEAST_TOKEN, LEAST_PROMPT = 300, 8
"""A prompt too short to leave anything."""

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # vLLM binds fewer threads when a connector is set, so that the engines would not be alike.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # Even when eager, vLLM compiles some functions on first use, which takes seconds.
    "TORCHDYNAMO_DISABLE": "1",
    **KEEP_FREED_MEMORY,
}
"""Must be set before torch and vLLM are loaded, so the process begins with it."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What one engine is started with; two engines of a run differ in `connector` alone."""

    model: str
    connector: Mapping[str, Any] | None
    context: int = CONTEXT
    """The longest prompt and its answer, in tokens."""


Ask = Literal["forget", "held", "skip unread", "skip nothing"]
"""What else than loads an engine takes.

forget        drop prefix cache and segments, and give freed memory back; answered by None
held          answered by the bytes that the segment store holds; 0 without one
skip unread   leave out states that nobody reads (`kernel.skip_unread`), as at the start; answered
              by None. For an engine with the connector
skip nothing  do not

Words, not members of a class: this module is another one to itself, as `__main__`, than to those
who ask.
"""


def serve(pipe: Connection) -> None:
    """Take options, start, say so, play what comes until nothing comes any more."""
    try:
        stepper = VllmStepper(pipe.recv())
        pipe.send(None)
        for asked in iter(pipe.recv, None):
            pipe.send(_answer(asked, stepper))
    except (EOFError, BrokenPipeError):  # the run has ended
        return
    except Exception as problem:
        pipe.send(f"{type(problem).__name__}: {problem}")
        raise


def _answer(asked: Ask | Load, stepper: VllmStepper) -> Course | int | None:
    if asked == "forget":
        stepper.forget()
        return None
    if asked == "held":
        return stepper.held_bytes
    if asked in ("skip unread", "skip nothing"):
        stepper.skip_unread(asked == "skip unread")
        return None
    return play(asked, stepper, time.perf_counter, time.sleep)


class VllmStepper:
    """`drive.Stepper` over vLLM's engine."""

    def __init__(self, options: EngineOptions) -> None:
        from vllm import LLM

        llm: Any = LLM(
            model=options.model,
            dtype="float32",
            enforce_eager=True,
            max_model_len=options.context,
            max_num_batched_tokens=STEP_TOKENS,
            kv_cache_memory_bytes=KV_CACHE_BYTES,
            kv_transfer_config=options.connector and dict(options.connector),
            disable_log_stats=True,
            use_tqdm_on_load=False,
            seed=0,
        )
        llm.collective_rpc(_touch)
        self._engine: Any = llm.llm_engine
        self._scheduler = self._engine.engine_core.engine_core.scheduler
        self._reuses = options.connector is not None
        self._serial = count()
        self._numbers: dict[str, int] = {}

    def add(self, number: int, prompt: list[int], boundaries: list[int], request: Request) -> None:
        """See `drive.Stepper`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = {**request.params, "segments": boundaries}
        sampling = SamplingParams(
            max_tokens=request.max_tokens,
            # What is generated may be read by others: greedy answers of random weights repeat.
            temperature=0.0 if request.max_tokens == 1 else 1.0,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            extra_args={"kv_transfer_params": params} if self._reuses else None,
        )
        name = str(next(self._serial))
        self._numbers[name] = number
        self._engine.add_request(name, {"prompt_token_ids": prompt}, sampling)

    def step(self) -> Sequence[Progress]:
        """See `drive.Stepper`."""
        return [self._progress(output) for output in self._engine.step()]

    def abort(self, numbers: Sequence[int]) -> None:
        """See `drive.Stepper`."""
        running = [name for name, number in self._numbers.items() if number in numbers]
        self._engine.abort_request(running)
        self._numbers.clear()

    @property
    def busy(self) -> bool:
        """See `drive.Stepper`."""
        return bool(self._scheduler.has_requests())

    def forget(self) -> None:
        """See `Ask`. Workers hear of what is dropped with a step, so there is one more."""
        self._rest()
        done = self._scheduler.reset_prefix_cache(reset_connector=self._reuses)
        assert done, "the engine still holds blocks and cannot forget"
        self.add(-1, [LEAST_TOKEN] * LEAST_PROMPT, [], Request(()))
        self._rest()
        _give_back()

    def skip_unread(self, on: bool) -> None:
        """See `Ask`."""
        from vllm.distributed.kv_transfer import get_kv_transfer_group

        connector: Any = get_kv_transfer_group()
        connector.worker.unread_states.wanted = on

    def _rest(self) -> None:
        while self.busy:
            self.step()

    @property
    def held_bytes(self) -> int:
        """See `Ask`."""
        if not self._reuses:
            return 0
        return int(self._scheduler.connector.scheduler.gauges()["store_bytes"])

    def _progress(self, output: Any) -> Progress:
        number = self._numbers[output.request_id]
        if output.finished:
            del self._numbers[output.request_id]
        return Progress(
            request=number,
            tokens=tuple(output.outputs[0].token_ids),
            ended=output.finished,
            cached_tokens=output.num_cached_tokens or 0,
            report=(output.kv_transfer_params or {}).get("reuse", {}),
        )


def _touch(worker: Any) -> None:
    """Have all of the KV cache resident from the beginning: else it becomes so when it is used for
    the first time, which measures would take for what a prompt needs."""
    for cache in worker.model_runner.kv_caches:
        cache.zero_()


def _give_back() -> None:
    """Freed memory, to the system: the allocator would keep some of it for later."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's, which ends its engines
    serve(Connection(int(sys.argv[1])))
