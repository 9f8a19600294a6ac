"""The command `raysparsex`. Finds the command, and turns errors into one line each.

    raysparsex calibrate --model M     finds the cheapest correction that a model allows
    raysparsex warm FILES...           computes documents on a server ahead of use
    raysparsex keys new TENANT         makes an API key

Loads neither torch nor vLLM before a command needs them. Exit codes: 0 done, 1 failed, 2 wrong
input, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import raysparsex
from raysparsex.cli import calibrate, keys, warm
from raysparsex.errors import InvalidInput, RaySparseXError, UnsupportedModel


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except (InvalidInput, UnsupportedModel) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RaySparseXError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="raysparsex", description=raysparsex.__doc__)
    parser.add_argument("--version", action="version", version=raysparsex.__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (calibrate, warm, keys):
        command.add_to(commands)
    return parser
