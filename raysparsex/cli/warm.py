"""`raysparsex warm`: has a server compute documents ahead of use, and tells what came of it.

How documents are cut and sent is `raysparsex.warming`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from raysparsex.cli.arguments import count, progress
from raysparsex.warming.documents import read_documents
from raysparsex.warming.run import Warmed, warm
from raysparsex.warming.server import HttpTransport, Role, Server

WARM = """\
Have a server compute documents before anybody asks about them.

Each document is sent on its own as one chat message, computed exactly, and its segments are kept.
A later prompt that holds the document, wherever it stands, reuses them.
"""
WARM_MORE = """\
examples:
  raysparsex warm handbook.md faq.txt
  raysparsex warm articles.jsonl --url http://10.0.0.5:8000 --api-key rsx-...
  raysparsex warm terms.txt --public

Files are text in UTF-8; a .jsonl file holds one document per line, as {"text": "..."}. A document
that is longer than the model's context is cut at paragraphs.

Who shares what is computed: requests of the same API key's tenant. With --cache-salt, only those
that name the same one. With --public, every tenant of the server; the key must be allowed to.
"""


def add_to(commands: Any) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "warm",
        help="compute documents on a server ahead of use",
        description=WARM,
        epilog=WARM_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="text, .md or .jsonl")
    add("--url", default="http://127.0.0.1:8000", help="the server (%(default)s)")
    add("--api-key", default=os.environ.get("OPENAI_API_KEY"), help="(OPENAI_API_KEY)")
    add("--model", help="the name that clients use (the server's first)")
    add("--role", default="user", help="of the message that holds a document (%(default)s)")
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument("--public", action="store_true", help="for all tenants")
    scope.add_argument("--cache-salt", help="for requests with this salt only")
    add("--parallel", type=count, default=4, help="documents at a time (%(default)s)")
    parser.set_defaults(command=_warm)


def _warm(options: argparse.Namespace) -> int:
    documents = read_documents(options.files)
    role = Role(options.role, options.cache_salt, options.public)
    server = Server(HttpTransport(options.url, options.api_key), role, options.model)
    with progress("warming", "parts") as bar:

        def expect(parts: int) -> None:
            bar.total = parts

        warmed = list(warm(server, documents, options.parallel, expect, bar.update))
    print("\n".join(told(warmed)))
    return 0


def told(warmed: Iterable[Warmed]) -> list[str]:
    """One line per document, and their sum."""
    all_of_them = list(warmed)
    lines = [f"{one.document.name}: {_amount([one])}" for one in all_of_them]
    if len(all_of_them) > 1:
        lines.append(f"{len(all_of_them)} documents: {_amount(all_of_them)}")
    return lines


def _amount(some: list[Warmed]) -> str:
    parts = sum(len(one.computed) for one in some)
    told_segments = [one.segments for one in some]
    words = [f"{sum(one.tokens for one in some):,} tokens"]
    if None not in told_segments:
        words.append(f"{sum(filter(None, told_segments)):,} segments")
    if parts > len(some):
        words.append(f"in {parts} parts")
    if known := sum(one.known for one in some):
        words.append(f"{known:,} of the tokens were computed before")
    return ", ".join(words)
