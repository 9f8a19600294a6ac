"""`make demo`: all examples against a running server, or against one started for the occasion.

For each request: time to first token, and what became of its prompt, with reuse off and on.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from examples import handover, multi_round_chat, openai_client, rag_reordered
from examples.comparison import Comparison


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    port = os.environ.get("RAYSPARSEX_SERVER__PORT", "8000")
    default = f"http://127.0.0.1:{port}/v1"
    parser.add_argument("--url", default=default, help=f"the server's base URL ({default})")
    url = parser.parse_args().url
    with _server(url):
        openai_client.main(url)
        print()
        comparison = Comparison(url)
        for example in (rag_reordered, multi_round_chat, handover):
            example.main(comparison)
    if comparison.ratios:
        median = statistics.median(comparison.ratios)
        print(
            f"\nTTFT with reuse off over TTFT with reuse, median of those that reuse: {median:.2f}"
        )
    print(
        "The embedded model is so small that little time can be saved; `make bench` shows what a"
        " larger one saves."
    )


@contextmanager
def _server(url: str) -> Iterator[None]:
    """The server at `url`, started if there is none, and then stopped again."""
    if _answers(url):
        print(f"using the server at {url}\n")
        yield
        return
    print("no server runs: starting one")
    server = subprocess.Popen(
        [sys.executable, "-m", "deployments.serve"], stdout=subprocess.PIPE, text=True
    )
    try:
        _wait_until_ready(server)
        yield
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_until_ready(server: subprocess.Popen[str]) -> None:
    assert server.stdout is not None
    for line in server.stdout:
        print(line, end="", flush=True)
        if line.startswith("ready:"):
            print()
            return
    raise SystemExit("the server did not start; its last words are above")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/models", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


if __name__ == "__main__":
    main()
