"""The cause of a failed start is one sentence out of thousands of log lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.start_failure import cause_of, find_cause, replica_logs

REPLICA = "\x1b[36m(ServeReplica:x:llm pid=1)\x1b[0m "
ENGINE = f"{REPLICA}(EngineCore pid=2) ERROR 11-21 08:00:00 [core.py:1240] "
ECHO = f"{REPLICA}RuntimeError: Engine core initialization failed. See root cause above."


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (
            [
                f"{ENGINE}ValueError: something else",
                f"{ENGINE}raysparsex.errors.UnsupportedModel: Mamba layers cannot be reused",
                ECHO,
            ],
            "UnsupportedModel: Mamba layers cannot be reused",
        ),
        (
            [f"{ENGINE}Traceback (most recent call last):", f"{ENGINE}MemoryError: no room", ECHO],
            "MemoryError: no room",
        ),
        ([f"{REPLICA}torch.cuda.OutOfMemoryError: CUDA out of memory."], "OutOfMemoryError: CUDA"),
        (
            [
                f"{REPLICA}RuntimeError: Traceback (most recent call last):",
                f"{REPLICA}RuntimeError: Failed to create vLLM engine config: 1 validation error",
                f"{REPLICA}  Value error, Model architectures ['X'] are not supported [type=value",
            ],
            "Value error: Model architectures ['X'] are not supported",
        ),
        (["(pid=3) huggingface_hub.errors.RepoError: no such repository"], "RepoError: no such"),
    ],
)
def test_the_innermost_cause_is_found(lines: list[str], cause: str) -> None:
    found = find_cause("\n".join(lines))
    assert found is not None
    assert found.startswith(cause)


def test_a_cause_of_many_lines_length_is_cut() -> None:
    found = find_cause(f"ValueError: {'x' * 5000}")
    assert found is not None
    assert len(found) < 500


def test_an_echo_alone_is_no_cause() -> None:
    assert find_cause(ECHO) is None


def test_without_a_cause_in_the_log_the_report_is_given(tmp_path: Path) -> None:
    log = tmp_path / "serve.log"
    log.write_text("INFO fine\n", encoding="utf-8")
    assert cause_of("it took too long", log) == f"it took too long (log: {log})"


def test_the_cause_is_found_before_ray_has_brought_it_into_the_log(tmp_path: Path) -> None:
    logs = tmp_path / "session_latest" / "logs"
    logs.mkdir(parents=True)
    (logs / "worker-1.out").write_text("INFO fine\n", encoding="utf-8")
    (logs / "worker-2.err").write_text("ValueError: no such layer\n", encoding="utf-8")
    (logs / "gcs_server.out").write_text("RuntimeError: not a replica's\n", encoding="utf-8")
    assert find_cause(replica_logs(tmp_path)) == "ValueError: no such layer"
