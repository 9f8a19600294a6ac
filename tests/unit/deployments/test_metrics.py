"""The pages of several nodes become one that Prometheus reads."""

from __future__ import annotations

from deployments.metrics import joined

ONE = """# HELP ray_vllm_prompt_tokens prompt tokens
# TYPE ray_vllm_prompt_tokens counter
ray_vllm_prompt_tokens_total{node="1"} 3.0
# HELP ray_node_disk free
# TYPE ray_node_disk gauge
ray_node_disk 9.0
"""
TWO = ONE.replace('node="1"', 'node="2"')


def test_samples_of_all_nodes_follow_one_description() -> None:
    assert joined([ONE, "", TWO]).splitlines() == [
        "# HELP ray_vllm_prompt_tokens prompt tokens",
        "# TYPE ray_vllm_prompt_tokens counter",
        'ray_vllm_prompt_tokens_total{node="1"} 3.0',
        'ray_vllm_prompt_tokens_total{node="2"} 3.0',
    ]


def test_no_page_gives_an_empty_page() -> None:
    assert joined([]) == ""


def test_the_gates_metrics_are_on_it() -> None:
    sample = 'ray_raysparsex_gate_level{tenant="none"} 0.0'
    page = f"# TYPE ray_raysparsex_gate_level gauge\n{sample}\n"
    assert joined([page]) == page
