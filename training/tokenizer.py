"""The tokenizer of raysparsex-tiny: byte-level BPE, lossless on any text, with every task word as
one token.

The merges come from English that every Python carries (the help texts of pydoc) and from our own
prose. Words of the task and of the filler are added to the vocabulary whole: with `ignore_merges`
a piece that is in the vocabulary is never split. Nothing is added around a text (no automatic
bos); only the chat template writes special tokens.

    python -m training.tokenizer DIRECTORY      writes tokenizer.json and tokenizer_config.json
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import AddedToken, Encoding, Tokenizer, decoders, models, pre_tokenizers, trainers

from training import prose, words
from training.sentences import FORMS, MENTIONS, TOPICS, ask, render
from training.world import LONG, SHORT, make_world

BOS, PAD, END = "<|bos|>", "<|pad|>", "<|end|>"
SYSTEM, USER, ASSISTANT, TOOL = "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"
SPECIAL = (PAD, BOS, END, SYSTEM, USER, ASSISTANT, TOOL)
VOCABULARY = 2048

# A space follows each role, so that a word is the same token at the start of a message as inside
# a text. The assistant's text is trimmed: a client may send back " Paris." or "Paris.", both give
# the tokens the model wrote.
CHAT_TEMPLATE = """\
{%- macro text(content) -%}
{%- if content is string -%}{{ content }}
{%- elif content is iterable -%}{%- for part in content -%}
{{ part if part is string else part['text'] }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{{- '<|bos|>' -}}
{%- for message in messages -%}
{%- set role = 'system' if message['role'] == 'developer' else message['role'] -%}
{%- if role not in ['system', 'user', 'assistant', 'tool'] -%}
{{- raise_exception('unknown role ' ~ role ~ '; one of system, user, assistant, tool') -}}
{%- endif -%}
{{- '<|' ~ role ~ '|> ' -}}
{%- if role == 'assistant' -%}{{- text(message['content']) | trim -}}
{%- else -%}{{- text(message['content']) -}}{%- endif -%}
{{- '<|end|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def build() -> Tokenizer:
    """Train the merges, then add the whole words."""
    whole = whole_words()
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(whole) + 180,
        special_tokens=[AddedToken(text, special=True, normalized=False) for text in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    base.train_from_iterator(_corpus(), trainer)
    return Tokenizer.from_str(json.dumps(_with_words(json.loads(base.to_str()), whole)))


def whole_words() -> list[str]:
    """Every piece of the task's text, in the alphabet of the vocabulary; names and places also
    without a space.
    """
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = [f" {word}" for word in words.TASK_WORDS] + words.PEOPLE + words.PLACES
    texts += [f" {word}" for word in _all_templates()] + _all_templates()
    rng = Random(0)
    texts += [document.text for _ in range(60) for document in make_world(rng, LONG).documents]
    pieces = {piece for text in texts for piece, _ in split.pre_tokenize_str(text)}
    return sorted(piece for piece in pieces if re.fullmatch("Ġ?[A-Za-z]{2,}", piece))


def _all_templates() -> list[str]:
    rng = Random(0)
    texts = [form for group in (TOPICS, MENTIONS) for form in group]
    for kind, forms in FORMS.items():
        for name in ("Anna", "Adam") if kind in ("home", "job") else ("lamp",):
            for template in (
                forms.direct + forms.by_pronoun + forms.shared + forms.shared_by_pronoun
            ):
                texts.append(render(template, name, "Paris", "Otto", "Rome").text)
            texts += [ask(rng, kind, name, "Paris").text for _ in range(30)]
    return [text.format(the="the ", e="lamp") for text in texts]


def _corpus() -> list[str]:
    from pydoc_data.topics import topics  # 700 kB of English that comes with Python

    rng = Random(0)
    worlds = [document.text for _ in range(100) for document in make_world(rng, SHORT).documents]
    return [*topics.values(), *worlds, *(prose.filler(rng) for _ in range(2000))]


def _with_words(spec: dict[str, Any], whole: list[str]) -> dict[str, Any]:
    vocabulary: dict[str, int] = spec["model"]["vocab"]
    for word in whole:
        vocabulary.setdefault(word, len(vocabulary))
    spec["model"]["ignore_merges"] = True
    return spec


def save(tokenizer: Tokenizer, directory: Path) -> None:
    """Write what transformers and vLLM load without remote code."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": PAD,
        "model_max_length": 16384,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def id_of(tokenizer: Tokenizer, special: str) -> int:
    number = tokenizer.token_to_id(special)
    assert number is not None, special
    return int(number)


def token_at(encoding: Encoding, offset: int) -> int:
    """Index of the token that holds the character."""
    index = encoding.char_to_token(offset)
    assert index is not None, offset
    return int(index)


if __name__ == "__main__":
    save(build(), Path(sys.argv[1]))
