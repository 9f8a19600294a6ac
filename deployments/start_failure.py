"""Why a start failed, in one sentence, found in what Ray and vLLM logged.

The replica reports only "engine core initialization failed"; the reason stands in the log of the
process below it. Ray brings those logs into ours a little later, or never when the start fails at
once, so that they are read where Ray keeps them.
"""

from __future__ import annotations

import re
from pathlib import Path

_OURS = re.compile(r"raysparsex\.errors\.(?P<kind>\w+): (?P<text>.+)")
_PYDANTIC = re.compile(r"(?P<kind>Value error), (?P<text>.+?)(?: \[type=|$)")
_ANY = re.compile(
    r"(?:^|\s)(?:[\w.]+\.)?(?P<kind>[A-Z]\w*(?:Error|Exception|Exit)): (?P<text>\S.*)"
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ECHOES = (
    "deploying application",
    "engine core initialization failed",
    "executor failed",
    "failed to create vllm engine config",
    "failed to update the deployments",
    "ray::",
    "traceback",
)
LONGEST = 300


def replica_logs(ray_folder: Path) -> str:
    """What the processes of a Ray instance with this `_temp_dir` have printed."""
    parts = []
    for file in sorted(ray_folder.glob("session_latest/logs/worker-*")):
        if text := file.read_text(encoding="utf-8", errors="replace"):
            parts.append(f"== {file.name}\n{text}\n")
    return "".join(parts)


def cause_of(report: str, log: Path) -> str:
    """The cause of a failed start, with the path of the log for the rest."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    cause = find_cause(text) or find_cause(report) or report[:300] or "the server did not start"
    return f"{cause} (log: {log})"


def find_cause(text: str) -> str | None:
    """Our own exceptions first, then a refused value, then the first that echoes no other."""
    lines = [_COLOUR.sub("", line) for line in text.splitlines()]
    for pattern in (_OURS, _PYDANTIC, _ANY):
        for line in lines:
            found = pattern.search(line)
            if found and not found["text"].lower().startswith(_ECHOES):
                cause = f"{found['kind']}: {found['text'].strip()}"
                return cause if len(cause) <= LONGEST else f"{cause[:LONGEST]} ..."
    return None
