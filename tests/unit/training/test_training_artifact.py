"""The model that is shipped: small, loadable without our code, and right."""

from __future__ import annotations

import json

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from training import artifact
from training.evaluate import make_tasks
from training.world import SHORT

MEGABYTE = 1_000_000


def test_the_artifact_is_at_most_12_megabytes():
    assert sum(path.stat().st_size for path in artifact.DIRECTORY.iterdir()) <= 12 * MEGABYTE


def test_the_config_is_a_plain_llama():
    config = LlamaConfig.from_pretrained(artifact.DIRECTORY)
    assert config.architectures == ["LlamaForCausalLM"]
    assert config.max_position_embeddings >= 16384
    assert config.rope_parameters == {"rope_theta": 500000.0, "rope_type": "default"}
    assert not config.tie_word_embeddings
    assert config.head_dim >= 32
    assert "auto_map" not in json.loads((artifact.DIRECTORY / "config.json").read_text())


def test_transformers_answers_direct_questions():
    tokenizer = AutoTokenizer.from_pretrained(artifact.DIRECTORY)
    model = AutoModelForCausalLM.from_pretrained(artifact.DIRECTORY)
    tasks = make_tasks(4242, "direct", SHORT, 20)
    assert (
        sum(_answer(model, tokenizer, task.messages()) == f"{task.answer}." for task in tasks) >= 18
    )


def _answer(model, tokenizer, messages) -> str:
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=6, do_sample=False)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
