"""Filler: ordinary English without task words, to stand between the facts.

Most of it is drawn from a small grammar, some is written out, and some is made-up matter (numbers,
codes, odd words) so that every token of the tokenizer is met in training.
"""

from __future__ import annotations

from random import Random

from training.words import listed

_ADJECTIVES = listed("""
    old quiet long narrow cold warm bright green grey small large heavy early late simple common
    strange careful gentle broken empty open heavy public local recent final steady rough
""")
_NOUNS = listed("""
    river road garden market bridge window letter story winter summer morning evening village
    forest mountain harbour station library school kitchen field storm cloud song question
    answer number idea meeting report journey train boat horse bird dog stone wall door street
    tower engine machine system plan price paper team group visitor neighbour stranger child
    friend council office company weather season water fire light
""")
_VERBS = listed("""
    crossed followed reached passed watched covered opened closed changed moved touched carried
    repaired described remembered ignored needed used found built filled joined left lost made
    met noticed painted
""")
_ADVERBS = listed("""
    slowly quickly often rarely again soon together alone carefully quietly never always still
    already almost nearly later today yesterday indeed
""")
_FRAMES = (
    "The {a} {n} {v} the {n2}.",
    "The {n} {d} {v} a {a} {n2}.",
    "In the {n}, the {a} {n2} was {d} {v} by the {n3}.",
    "It was a {a} {n}, and the {n2} had {d} {v} the {n3}.",
    "Some say that the {n} {v} the {n2} {d}.",
    "After the {a} {n}, nobody {v} the {n2}.",
    "There was a {n} near the {a} {n2}.",
    "When the {n} came, the {a} {n2} {v} it {d}.",
    "Every {n} has a {a} {n2} and a {n3}.",
    "They {d} {v} the {n} before the {n2}.",
    "We {v} the {a} {n} with a {n2} and a {n3}.",
    "No {n} is as {a} as the {n2}.",
)
_WRITTEN = (
    "The meeting started late because of the weather.",
    "Nothing else of interest was said on that day.",
    "Please read the whole report before you answer.",
    "The rest of the page could not be read.",
    "For more details, see the next section of this report.",
    "As far as we know, all of this is still true today.",
    "Prices went up again, but most people did not seem to mind.",
    "The train was full, so we had to stand for two hours.",
    "It rained for three days, and the river rose over its banks.",
    "Our team will write to you when there is something new.",
    "That is all we could find out so far.",
    "You should not believe everything that is written in the paper.",
    "The first part is easy, the second part takes more time.",
    "A good plan is simple, and everyone can follow it.",
    "This software is free, and it comes without any warranty.",
    "If the test fails, run it again and keep the log.",
    "The system was down for an hour, and then it came back.",
    "In the end, the answer was much simpler than the question.",
    "Many thanks to all who helped with this work.",
    "The list below is not complete, and it may change without notice.",
)
_SYLLABLES = [
    "ba",
    "co",
    "de",
    "fi",
    "gu",
    "ha",
    "je",
    "ki",
    "lo",
    "mu",
    "ne",
    "po",
    "qui",
    "ra",
    "se",
    "ti",
    "vo",
    "wu",
    "xa",
    "ye",
    "zo",
    "ing",
    "er",
    "st",
    "th",
    "ch",
]


def filler(rng: Random) -> str:
    """One sentence of filler."""
    choice = rng.random()
    if choice < 0.12:
        return rng.choice(_WRITTEN)
    if choice < 0.17:
        return _odd_sentence(rng)
    return _from_grammar(rng)


def _from_grammar(rng: Random) -> str:
    nouns = rng.sample(_NOUNS, 3)
    return rng.choice(_FRAMES).format(
        a=rng.choice(_ADJECTIVES),
        v=rng.choice(_VERBS),
        d=rng.choice(_ADVERBS),
        n=nouns[0],
        n2=nouns[1],
        n3=nouns[2],
    )


def _odd_sentence(rng: Random) -> str:
    made_up = "".join(rng.choices(_SYLLABLES, k=rng.randint(2, 4)))
    number = rng.randint(0, 99999)
    return rng.choice(
        (
            f"See section {number % 100}.{rng.randint(0, 9)} of {made_up.title()} for details.",
            f"The code {made_up}_{number} was used {rng.randint(2, 99)} times.",
            f"`{made_up}({number}, x={rng.randint(0, 9)})` returns {rng.choice(_NOUNS)}.",
            f"On {number % 28 + 1}/{number % 12 + 1}/{rng.randint(1900, 2030)} they met {made_up}.",
            f"It costs {number % 1000} euros, or about {rng.randint(1, 99)}% more than {made_up}.",
        )
    )
