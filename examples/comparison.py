"""The same questions with reuse off and with reuse on, by OpenAI's plain client.

`kv_transfer_params` goes in through `extra_body` and comes back in the last chunk of the stream.
Each question gets the documents in another order: a prefix cache helps only while the order stays.
Run: python -m examples.comparison
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

from openai import OpenAI

from examples.documents import document

QUESTIONS = (
    (("harbour", "museum", "railway", "garden"), "Where does Victor live?"),
    (("railway", "harbour", "garden", "museum"), "Where does Anna live?"),
    (("garden", "railway", "harbour", "museum"), "Who owns the violin?"),
    (("harbour", "garden", "museum", "railway"), "Where is the mirror?"),
)
COUNTED = ("prompt", "prefix", "reused", "recomputed", "new")
ROW = "{:<26}{:<8}{:>9}" + "{:>11}" * len(COUNTED) + "  {}"


@dataclass(frozen=True, slots=True)
class Reply:
    """One streamed answer."""

    text: str
    ttft: float
    """Seconds to the first token."""
    reuse: dict[str, Any]
    """The response's `kv_transfer_params.reuse`; empty if the server is none of ours."""


def ask(client: OpenAI, question: str, order: tuple[str, ...], reuse: str) -> Reply:
    """One request, streamed."""
    messages = [{"role": "system", "content": f"Today the {order[0]} comes first."}]
    messages += [{"role": "user", "content": document(name)} for name in order]
    messages += [{"role": "user", "content": question}]
    began, ttft = time.perf_counter(), 0.0
    text: list[str] = []
    params: dict[str, Any] = {}
    stream: Any = client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=messages,  # type: ignore[arg-type]
        max_tokens=16,
        temperature=0,
        stream=True,
        extra_body={"kv_transfer_params": {"reuse": reuse}},
    )
    for chunk in stream:
        piece = chunk.choices[0].delta.content if chunk.choices else None
        if piece and not text:
            ttft = time.perf_counter() - began
        text += [piece] if piece else []
        params = (chunk.model_extra or {}).get("kv_transfer_params") or params
    return Reply("".join(text).strip(), ttft, params.get("reuse", {}))


def main(url: str) -> list[Reply]:
    """Returns the answers with reuse."""
    client, replies = OpenAI(base_url=url, api_key="none"), []
    print(ROW.format("request", "reuse", "TTFT", *COUNTED, "answer"))
    for order, question in QUESTIONS:
        for reuse in ("off", "sparse"):
            reply = ask(client, question, order, reuse)
            counts = [str(reply.reuse.get(f"{name}_tokens", "?")) for name in COUNTED]
            ttft = f"{reply.ttft * 1000:.0f} ms"
            print(ROW.format(question, reuse, ttft, *counts, reply.text), flush=True)
        replies.append(reply)
    return replies


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1", help="the server")
    main(parser.parse_args().url)
