"""The torch model: its fast attention, its cache, and its equality with transformers."""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from training import artifact
from training.attention import blockwise
from training.decode import prefill
from training.train import Trainer, parse


def test_blockwise_attention_equals_the_fused_one():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, 300, 32) for _ in range(3))
    torch.testing.assert_close(
        blockwise(q, k, v),
        functional.scaled_dot_product_attention(q, k, v, is_causal=True),
        atol=2e-6,
        rtol=1e-5,
    )


def test_prefill_in_two_parts_equals_one():
    model, _ = artifact.read()
    ids = torch.randint(10, 2000, (120,), generator=torch.Generator().manual_seed(1)).tolist()
    whole = prefill(model, ids)
    parts = prefill(model, ids[70:], prefill(model, ids[:70]).caches)
    torch.testing.assert_close(whole.last, parts.last, atol=2e-4, rtol=1e-3)


def test_logits_equal_those_of_transformers():
    model, _ = artifact.read()
    theirs = AutoModelForCausalLM.from_pretrained(artifact.DIRECTORY)
    ids = torch.randint(10, 2000, (1, 200), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        hidden, _ = model.hidden(ids, torch.arange(200)[None])
        torch.testing.assert_close(model.lm_head(hidden), theirs(ids).logits, atol=5e-4, rtol=1e-3)


def test_the_structured_start_already_looks_back_and_matches():
    _, tokenizer = artifact.read()
    model = artifact.fresh(tokenizer, seed=0)
    first = model.model.layers[0].self_attn
    assert not torch.equal(first.q_proj.weight[:32], first.k_proj.weight[:32])
    later = model.model.layers[1].self_attn
    torch.testing.assert_close(later.q_proj.weight[:32], later.k_proj.weight[:32])
    torch.testing.assert_close(later.o_proj.weight[:, :32], 0.5 * later.v_proj.weight[:32].T)


def test_a_training_step_resumes_with_the_same_weights(tmp_path):
    options = parse(
        f"--out {tmp_path}/out --work {tmp_path}/work --pool 4 --batch 512 --tokens 1e6".split()
    )
    trainer = Trainer(options)
    trainer.step()
    trainer.checkpoint()
    again = Trainer(options)
    assert again.progress.step == 1
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value)
    assert again.rng.random() == trainer.rng.random()
