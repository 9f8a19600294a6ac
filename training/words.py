"""The words that the task is about: who, what, where, and which work they do.

Every word here is one token of the tokenizer. The groups are disjoint, so a word's group is its
meaning.
"""

from __future__ import annotations


def listed(text: str) -> list[str]:
    """The words of a text, as a list."""
    return text.split()


WOMEN = listed("""
    Anna Clara Dora Emma Fiona Grace Hanna Irene Julia Karen Laura Maria Nora Olivia Paula Rita
    Sara Tina Vera Wendy Alice Bella Carmen Diana Elena Flora Gina Helen Ida Jenny Kate Lena
    Mona Nina Rosa Sonia Tessa Ursula Yara Zoe
""")

MEN = listed("""
    Adam Boris Carl David Eric Frank Georg Henry Ivan Jacob Kevin Leo Martin Nico Oscar Peter
    Quentin Robert Simon Thomas Victor Walter Xavier Albert Bruno Conrad Daniel Edgar Felix
    Gregor Hugo Igor Julian Lucas Marco Noah Otto Paul Ralph Stefan
""")

THINGS = listed("""
    lantern compass hammer violin camera mirror basket kettle ladder blanket candle bottle
    button carpet chair clock crown drum feather flute guitar hat helmet jacket jar kite knife
    lamp locket magnet mask medal necklace needle paddle pencil piano pillow purse radio ring
    rope saddle scarf ribbon shield shovel skate sofa spoon stamp statue suitcase sword table
    teapot telescope tent ticket toolbox trumpet umbrella vase wagon wallet watch wheel whistle
    wrench bicycle bracelet broom bucket chessboard coin cup diary anchor doll globe key
""")

PLACES = listed("""
    Paris London Rome Berlin Madrid Vienna Prague Oslo Lisbon Dublin Athens Warsaw Budapest
    Helsinki Copenhagen Stockholm Brussels Geneva Zurich Milan Venice Naples Hamburg Munich
    Cologne Lyon Marseille Bordeaux Seville Valencia Porto Krakow Riga Vilnius Tallinn Moscow
    Istanbul Cairo Tunis Lagos Nairobi Accra Dakar Delhi Mumbai Tokyo Kyoto Osaka Seoul Beijing
    Shanghai Bangkok Hanoi Manila Jakarta Sydney Melbourne Toronto Montreal Boston Chicago
    Denver Dallas Seattle Houston Lima Bogota Quito Havana
""")

JOBS = listed("""
    baker painter teacher doctor nurse farmer fisher gardener tailor carpenter plumber lawyer
    judge pilot sailor soldier singer dancer writer poet cook butcher barber banker clerk miner
    potter weaver blacksmith librarian pharmacist chemist journalist photographer mechanic
    musician surgeon translator programmer driver
""")

PEOPLE = WOMEN + MEN

TASK_WORDS = WOMEN + MEN + THINGS + PLACES + JOBS


def pronoun(entity: str) -> str:
    """The pronoun that stands for a person or a thing."""
    if entity in _WOMEN:
        return "she"
    return "he" if entity in _MEN else "it"


_WOMEN = frozenset(WOMEN)
_MEN = frozenset(MEN)
