"""Prompts: the parts stand in them as they were published, and lessons are other uses of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from benchmarks.quality.workload import ORIGINS, Origin, Workload, from_file, generated
from raysparsex.errors import InvalidConfig
from raysparsex.models import embedded_model
from training import chat
from training.world import CROSS_FAMILIES, FAMILIES


@pytest.fixture(scope="module")
def worlds() -> Workload:
    return generated(embedded_model(), FAMILIES, 3, seed=4)


def test_the_same_seed_gives_the_same_prompts(worlds: Workload) -> None:
    assert generated(embedded_model(), FAMILIES, 3, seed=4).digest == worlds.digest
    assert generated(embedded_model(), FAMILIES, 3, seed=5).digest != worlds.digest


def test_fewer_prompts_are_the_first_ones(worlds: Workload) -> None:
    fewer = generated(embedded_model(), ["alias2"], 2, seed=4)
    assert fewer.families["alias2"] == worlds.families["alias2"][:2]


def test_a_prompt_is_what_the_chat_template_makes(worlds: Workload) -> None:
    from random import Random

    from training.world import generate

    tokenizer = Tokenizer.from_file(str(embedded_model() / "tokenizer.json"))
    rng = Random("quality 4 alias2")
    for item in worlds.families["alias2"]:
        messages = generate(rng, "alias2").messages("messages")
        assert list(item.prompt.ids) == chat.encode(tokenizer, messages)
        assert item.prompt.declared == ()


def test_the_cross_segment_families_are_those_of_the_worlds(worlds: Workload) -> None:
    assert worlds.cross == list(CROSS_FAMILIES)


@pytest.mark.parametrize("origin", ORIGINS)
def test_every_reusable_part_is_published_once(worlds: Workload, origin: Origin) -> None:
    for family, items in worlds.families.items():
        prompts = worlds.to_publish(family, 0, origin)
        parts = [block.ids for block in items[0].blocks if block.reusable]
        assert len(prompts) == len(parts) > 0
        for prompt, part in zip(prompts, parts, strict=True):
            end = len(prompt.ids) - len(items[0].tail)
            assert prompt.ids[end - len(part) : end] == part
            alone = len(items[0].head) + len(part) + len(items[0].tail) == len(prompt.ids)
            assert alone == (origin == "isolated")


def test_lessons_differ_from_each_other_and_from_the_question(worlds: Workload) -> None:
    item = worlds.families["alias2"][0]
    lessons = [worlds.lesson("alias2", 0, number).ids for number in range(4)]
    assert len({*lessons, item.prompt.ids}) == 5
    for ids in lessons:
        for block in item.blocks:
            assert holds(ids, block.ids)


def test_edges_of_given_segments_are_declared(tmp_path: Path) -> None:
    workload = from_file(tasks(tmp_path), None, seed=0)
    (item, _) = workload.families["chain"]
    assert item.prompt.ids == (10, 11, 12, 20, 21, 1, 2)
    assert item.prompt.declared == (3, 5)
    assert [p.ids for p in workload.to_publish("chain", 0, "isolated")] == [(10, 11, 12), (20, 21)]
    inside = workload.to_publish("chain", 0, "inside")
    assert [prompt.ids for prompt in inside] == [(30, 31, 10, 11, 12), (40, 20, 21)]
    assert [prompt.declared for prompt in inside] == [(2,), (1,)]
    assert item.answer == (7,)


def test_a_damaged_line_of_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"family": "chain", "segments": [["a"]], "question": [1], "answer": [7]}\n')
    with pytest.raises(InvalidConfig, match=r"tasks\.jsonl:1"):
        from_file(file, None, seed=0)


def tasks(folder: Path) -> Path:
    file = folder / "tasks.jsonl"
    entries = [[[10, 11, 12], [20, 21]], [[30, 31], [40]]]
    lines = [
        json.dumps({"family": "chain", "segments": segments, "question": [1, 2], "answer": [7]})
        for segments in entries
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


def holds(ids: tuple[int, ...], part: tuple[int, ...]) -> bool:
    return any(ids[start : start + len(part)] == part for start in range(len(ids)))
