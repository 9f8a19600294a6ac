"""The tokenizer: lossless on any text, one token per task word, and a predictable chat template."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from training import artifact, chat, words
from training.tokenizer import SPECIAL
from training.world import generate

TOKENIZER = Tokenizer.from_file(str(artifact.DIRECTORY / "tokenizer.json"))

ODD = [
    "",
    " ",
    "\n\n  \t\r\n",
    "naïve café — “quotes” … €",
    "漢字かな交じり文 한국어 عربي עברית हिन्दी",
    "👩‍👩‍👧‍👦🏳️‍🌈\u200b\ufeff\u00a0\x00\x07",
    "e\u0301 vs é, ﬁ ligature, \U0001f9ff",
    "def f(x: int) -> str:\n\treturn f'{x!r}'  # comment\n\n\n",
    "Anna.Anna,Anna's  Anna\nanna ANNA",
    "<|end|> inside <|user|> text",
]


@pytest.mark.parametrize("text", ODD)
def test_odd_text_survives(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


def test_task_words_are_single_tokens():
    for word in words.TASK_WORDS:
        assert len(TOKENIZER.encode(f" {word}").ids) == 1, word
    for word in words.PEOPLE + words.PLACES:
        assert len(TOKENIZER.encode(word).ids) == 1, word


def test_special_tokens_are_single_and_nothing_is_added():
    for special in SPECIAL:
        assert len(TOKENIZER.encode(special).ids) == 1
    assert TOKENIZER.encode("Anna lives in Paris.").tokens == [
        "Anna",
        "Ġlives",
        "Ġin",
        "ĠParis",
        ".",
    ]


def test_a_document_is_tokenised_alike_inside_a_prompt():
    task = generate(Random(8), "alias1")
    whole = TOKENIZER.encode("\n\n".join(task.documents)).ids
    apart = [TOKENIZER.encode(text).ids for text in task.documents]
    joint = TOKENIZER.encode("\n\n" + "x").ids[:-1]
    glued = apart[0]
    for part in apart[1:]:
        glued = glued + joint + part
    assert whole == glued


def test_the_chat_template_equals_our_own():
    template = AutoTokenizer.from_pretrained(artifact.DIRECTORY)
    rng = Random(4)
    for layout in ("one_message", "messages", "tools"):
        messages = generate(rng, "carried").messages(layout, system="Be brief.")
        messages += [
            {"role": "assistant", "content": " Paris. "},
            {"role": "user", "content": "And the lamp?"},
        ]
        ids = template.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ids == chat.encode(TOKENIZER, messages)
        assert template.decode(ids) == chat.text(messages)


def test_content_may_be_a_list_of_parts():
    template = AutoTokenizer.from_pretrained(artifact.DIRECTORY)
    parts = [{"type": "text", "text": "Where is "}, {"type": "text", "text": "the lamp?"}]
    both = [
        template.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        for content in (parts, "Where is the lamp?")
    ]
    assert both[0] == both[1] == "<|bos|><|user|> Where is the lamp?<|end|>"


def test_an_unknown_role_is_refused():
    template = AutoTokenizer.from_pretrained(artifact.DIRECTORY)
    with pytest.raises(Exception, match="unknown role"):
        template.apply_chat_template([{"role": "robot", "content": "x"}], tokenize=False)
