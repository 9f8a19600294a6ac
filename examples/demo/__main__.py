"""A planner, four workers and a judge, served by RaySparseX and by plain vLLM: `make demo`.

The graph is examples/planner_workers_judge.py. The planner reads four documents and finds whom the
case is about; four workers look into two questions, each reading all documents in its own order
behind its own instructions; the judge compares their drafts. That is where a prefix cache finds
little: where all prompts begin with the same text, it finds as much.

Plain vLLM is its own OpenAI server, prefix cache on, without connector or plugin, with the same
model, dtype, eager mode, KV cache and threads. One server runs at a time. Prefill compute is
counted in prompt tokens that passed all layers.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from agents import EndpointError
from deployments.process_tree import adopt_orphans, end_descendants
from examples.demo import parts
from examples.demo.servers import ServerProblem
from examples.demo.side_by_side import Comparison, as_json, by_request, summary

TIMELINES = Path("build/demo")
STOP_SECONDS = 8.0


def main() -> int:
    """Both parts. Returns the exit code: 0; 1 wrong answers or no server; 130 interrupted."""
    options = _arguments()
    signal.signal(signal.SIGTERM, _interrupt)
    adopt_orphans()
    try:
        with tempfile.TemporaryDirectory(prefix="raysparsex-demo-") as folder:
            comparisons = _both_parts(options, Path(folder))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except (ServerProblem, EndpointError) as problem:
        print(f"\nerror: {problem}", file=sys.stderr)
        return 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        end_descendants(STOP_SECONDS)
    if options.json:
        options.json.write_text(json.dumps([as_json(one) for one in comparisons], indent=2))
    return 1 if any(one.right(one.ours) is False for one in comparisons) else 0


def _both_parts(options: argparse.Namespace, folder: Path) -> list[Comparison]:
    options.timelines.mkdir(parents=True, exist_ok=True)
    say(f"{__doc__}\n1. Are the answers right? The embedded model, settings as shipped.\n\n")
    first = parts.compared(parts.embedded(), folder, say, options.url)
    _tell(first, options.timelines)
    say("\n2. What is gained? Random weights, about 80M parameters, long documents.\n")
    named = ", ".join(f"{name}={value}" for name, value in parts.RANDOM.items())
    say(f"Random weights have no profile, so RaySparseX is given {named}\n\n")
    second = parts.compared(parts.benchmark(folder, options.quick), folder, say)
    _tell(second, options.timelines)
    return [first, second]


def _tell(comparison: Comparison, folder: Path) -> None:
    say(f"\n{by_request(comparison)}\n\n{summary(comparison)}\n")
    for side, runs in (("raysparsex", comparison.ours), ("vllm", comparison.plain)):
        path = folder / f"{comparison.name}-{side}.html"
        runs[0].report.to_html(path)
        say(f"timeline: {path}\n")


def say(text: str) -> None:
    """Onto the terminal, at once."""
    print(text, end="", flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--url", help="a running server of ours with raysparsex-tiny, for the first part's our side"
    )
    parser.add_argument("--quick", action="store_true", help="shorter documents, one run a side")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument(
        "--timelines", type=Path, default=TIMELINES, help=f"folder for the pages ({TIMELINES})"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
