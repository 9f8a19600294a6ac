"""What the demo asks, and the model that never ends its answer."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from benchmarks.random_model import LlamaShape
from examples.demo.cases import known_case, long_case, warm_up_case
from examples.demo.random_words import word_ids, write_model

SMALL = LlamaShape(layers=2, hidden=64, heads=4, kv_heads=2, mlp=128)


def test_runs_share_no_document_and_repeat_from_their_seed() -> None:
    texts = [{one.text for one in long_case(seed, 60).documents} for seed in range(3)]
    texts.append({one.text for one in warm_up_case().documents})
    assert len(set.union(*texts)) == sum(map(len, texts)) == 16
    assert long_case(1, 60) == long_case(1, 60)


def test_a_long_case_is_as_long_as_asked() -> None:
    assert all(180 <= len(one.text.split()) <= 260 for one in long_case(0, 220).documents)


def test_what_is_known_of_the_case_stands_in_its_documents() -> None:
    case = known_case()
    text = " ".join(one.text for one in case.documents)
    assert case.answers is not None
    assert "The violin belongs to Clara." in text
    for answer in case.answers:
        assert any(
            s.startswith("Clara ") and answer in s for s in text.replace(". ", ".\n").split("\n")
        )


def test_the_random_model_says_words_and_no_end(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", SMALL, context=512)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    head = load_file(folder / "model.safetensors")["lm_head.weight"]
    words = word_ids(folder)
    assert tokenizer.token_to_id("<|end|>") not in words
    assert len(words) > 500
    states = torch.randn(256, head.shape[1], generator=torch.Generator().manual_seed(1))
    for number in (states @ head.T).argmax(-1).tolist():
        assert number in words
        assert tokenizer.decode([number]).strip().isalpha()


def test_the_random_model_is_the_same_each_time(tmp_path: Path) -> None:
    one, other = (write_model(tmp_path / name, SMALL, context=512) for name in "ab")
    left, right = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert all(torch.equal(left[name], right[name]) for name in left)
