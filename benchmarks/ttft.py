"""Time to first token with reuse, beside plain vLLM in the same run: `make bench`.

Two engines hold the same random-weight Llama of about 80M parameters: one is vLLM as it comes (with
its prefix cache), one has the connector. Each pair of measurements uses fresh random documents:

    reuse   the documents, read once behind other text, come again in another order between new
            text; 85% of the prompt is held, 15% of that is recomputed, one layer is full
    cold    nothing of the prompt was ever seen: what the connector costs when it cannot help

Prompts are token ids, so tokenising is not in the figures. Pairs are interleaved; medians are told,
with the quartiles of the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.random_model import LLAMA_80M, write_llama

TARGETS = {4096: 2.5, 8192: 3.0}
OVERHEAD_TARGET = 0.02
DOCUMENTS = 8
REUSED_SHARE = 0.85


@dataclass(frozen=True, slots=True)
class Row:
    """Medians for one prompt length; seconds."""

    prompt_tokens: int
    pairs: int
    off: float
    sparse: float
    ratio: float
    ratio_quartiles: tuple[float, float]
    reused_tokens: int
    recomputed_tokens: int
    cold_plain: float
    cold_sparse: float
    overhead: float


def main() -> None:
    """Parse the command line, run, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", default="1024,2048,4096,8192", help="prompt lengths, tokens")
    parser.add_argument("--pairs", type=int, default=10, help="pairs per length")
    parser.add_argument("--quick", action="store_true", help="1,024 and 2,048 tokens, 3 pairs")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--seed", type=int, default=0, help="seed of the documents")
    arguments = parser.parse_args()
    lengths = [int(length) for length in arguments.lengths.split(",")]
    pairs = arguments.pairs
    if arguments.quick:
        lengths, pairs = [1024, 2048], 3
    rows = measure(lengths, pairs, random.Random(arguments.seed))
    print_table(rows)
    if arguments.json:
        report = {"machine": machine(), "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(report, indent=2))


def measure(lengths: list[int], pairs: int, rng: random.Random) -> list[Row]:
    """One row per prompt length."""
    from tqdm import tqdm

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    # vLLM binds fewer threads when a connector is set, so that the engines would not be alike.
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    with tempfile.TemporaryDirectory() as folder:
        model = write_llama(Path(folder), LLAMA_80M)
        print(f"starting two engines with {model_size()} parameters")
        plain, sparse = _engine(model, max(lengths), None), _engine(model, max(lengths), CONNECTOR)
        rows = []
        with tqdm(total=pairs * len(lengths), unit="pair") as bar:
            for length in lengths:
                bar.set_description(f"{length} tokens")
                rows.append(_row(plain, sparse, length, pairs, rng, bar.update))
    return rows


CONNECTOR = {"kv_connector": "RaySparseXConnector", "kv_role": "kv_both"}


def model_size() -> str:
    """The benchmark model's weights, the embeddings included."""
    return f"{LLAMA_80M.parameters(vocabulary=2026) / 1e6:.0f}M"


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()}


def print_table(rows: list[Row]) -> None:
    """The figures, beside the targets."""
    here = machine()
    print(
        f"\n{model_size()}-parameter Llama, float32, {here['cores']} cores of {here['processor']}"
    )
    print("TTFT in seconds, medians; reuse: 85% held, 15% of that recomputed, 1 full layer\n")
    print(f"{'tokens':>7}{'off':>9}{'sparse':>9}{'ratio':>8}{'quartiles':>14}{'target':>8}", end="")
    print(f"{'cold':>12}{'cold+reuse':>12}{'overhead':>10}")
    for row in rows:
        low, high = row.ratio_quartiles
        target = f"{TARGETS[row.prompt_tokens]:.1f}x" if row.prompt_tokens in TARGETS else ""
        print(
            f"{row.prompt_tokens:>7}{row.off:>9.3f}{row.sparse:>9.3f}{row.ratio:>7.2f}x"
            f"{f'{low:.2f}-{high:.2f}':>14}{target:>8}"
            f"{row.cold_plain:>12.3f}{row.cold_sparse:>12.3f}{row.overhead:>9.1%}"
        )
    print(f"\noverhead target: at most {OVERHEAD_TARGET:.0%}")


def _engine(model: Path, longest: int, connector: dict[str, str] | None) -> Any:
    from vllm import LLM

    return LLM(
        model=str(model),
        dtype="float32",
        enforce_eager=True,
        max_model_len=longest + 64,
        kv_transfer_config=connector,
        seed=0,
    )


def _row(
    plain: Any,
    sparse: Any,
    length: int,
    pairs: int,
    rng: random.Random,
    progress: Callable[[], Any],
) -> Row:
    offs, sparses, colds, cold_sparses = [], [], [], []
    reuse: dict[str, Any] = {}
    for _ in range(pairs):
        seen, prompt = _moved_prompt(length, rng)
        _ttft(sparse, seen)
        time.sleep(0.3)  # publishing goes on behind the answer
        offs.append(_ttft(plain, prompt)[0])
        seconds, reuse = _ttft(sparse, prompt)
        sparses.append(seconds)
        cold = _tokens(length, rng)
        colds.append(_ttft(plain, cold)[0])
        cold_sparses.append(_ttft(sparse, cold)[0])
        progress()
    ratios = [off / on for off, on in zip(offs, sparses, strict=True)]
    overheads = [on / off - 1 for off, on in zip(colds, cold_sparses, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return Row(
        prompt_tokens=length,
        pairs=pairs,
        off=statistics.median(offs),
        sparse=statistics.median(sparses),
        ratio=statistics.median(ratios),
        ratio_quartiles=(quartiles[0], quartiles[2]),
        reused_tokens=reuse["reused_tokens"],
        recomputed_tokens=reuse["recomputed_tokens"],
        cold_plain=statistics.median(colds),
        cold_sparse=statistics.median(cold_sparses),
        overhead=statistics.median(overheads),
    )


def _moved_prompt(length: int, rng: random.Random) -> tuple[list[int], list[int]]:
    """A prompt to be read first, and one with its documents in another order between new text."""
    size = int(length * REUSED_SHARE) // DOCUMENTS
    documents = [_tokens(size, rng) for _ in range(DOCUMENTS)]
    seen = [*_tokens(32, rng), *chain.from_iterable(documents)][: length - 1]
    rng.shuffle(documents)
    new = length - size * DOCUMENTS
    text = chain.from_iterable(documents)
    return seen, [*_tokens(new // 2, rng), *text, *_tokens(new - new // 2, rng)]


def _tokens(count: int, rng: random.Random) -> list[int]:
    return [rng.randrange(300, 2000) for _ in range(count)]


def _ttft(engine: Any, prompt: list[int]) -> tuple[float, dict[str, Any]]:
    """Seconds to the first token, and what was reused."""
    from vllm import SamplingParams

    params = {"reuse": "sparse", "budget": 0.15, "full_layers": 1}
    sampling = SamplingParams(
        max_tokens=1, temperature=0, extra_args={"kv_transfer_params": params}
    )
    begin = time.perf_counter()
    output = engine.generate([{"prompt_token_ids": prompt}], sampling, use_tqdm=False)[0]
    seconds = time.perf_counter() - begin
    return seconds, (output.kv_transfer_params or {}).get("reuse", {})


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0].split(":")[1].strip() if names else platform.processor()


if __name__ == "__main__":
    main()
