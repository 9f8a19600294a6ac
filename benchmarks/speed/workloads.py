"""Loads of random tokens in the shapes that agents' traffic has. Pure; the same for the same seed.

Chosen before anything was measured on them:

    moved documents   read once behind other text, asked for in another order between new text
    RAG               questions about documents of a small pool, each time others in another order
    chat              one conversation that grows by a question and an answer a turn
    judge panel       judges with rubrics of their own read the same answers in orders of their own
    all-gather        agents read what all agents found and said in the latest rounds, latest first
                      and their own ahead: nobody's prompt begins as another's does, and no round's
                      as the one before
    cold              nothing was ever seen
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from benchmarks.speed.load import Load, Output, Part, Request, Tokens

READ = 8
"""Documents that a question is about."""
LOWEST, HIGHEST = 300, 2000
"""Token ids that are ordinary words of the vocabulary."""
Params = Mapping[str, Any]

PAPER: Params = {"reuse": "sparse", "budget": 0.15, "full_layers": 1}
"""15% of the reused tokens recomputed, one full layer; as many suspects as the engine finds to be
needed."""
BEST: Params = {"reuse": "sparse", "budget": 0.05, "full_layers": 1, "suspects": 0.4}
"""The lightest correction that calibration offers: its drift in KL is within the default target."""
NAIVE: Params = {"reuse": "sparse", "budget": 0.0, "full_layers": 0, "selector": "none"}


def text(count: int, rng: Random) -> Tokens:
    """Tokens that nobody has seen."""
    return tuple(rng.randrange(LOWEST, HIGHEST) for _ in range(count))


def cold(count: int, rng: Random, *, max_tokens: int = 1) -> Request:
    """A prompt of so many tokens; the connector is asked to reuse what there is."""
    return Request((text(count, rng),), max_tokens, PAPER)


@dataclass(frozen=True, slots=True)
class MovedDocuments:
    """Documents of 5% of a prompt each; nineteen of them."""

    documents: tuple[Tokens, ...]
    prompt_tokens: int

    @staticmethod
    def of(prompt_tokens: int, rng: Random) -> MovedDocuments:
        """For prompts of this length."""
        size = prompt_tokens // 20
        return MovedDocuments(tuple(text(size, rng) for _ in range(19)), prompt_tokens)

    def seen(self, rng: Random) -> Request:
        """All of them behind new text, as long as the prompts that reuse them."""
        held = sum(map(len, self.documents))
        return Request((text(self.prompt_tokens - held, rng), *self.documents), 1, PAPER)

    def moved(self, share: float, params: Params, rng: Random) -> Request:
        """A prompt of which this share is some of them in another order; half of the new text is
        ahead of them and half behind."""
        chosen = rng.sample(self.documents, round(share * 20))
        new = self.prompt_tokens - sum(map(len, chosen))
        return Request((text(new // 2, rng), *chosen, text(new - new // 2, rng)), 1, params)


def one_by_one(requests: Sequence[Request]) -> Load:
    """Each arrives when the one before has ended."""
    return tuple(
        replace(request, after=(number - 1,) if number else ())
        for number, request in enumerate(requests)
    )


@dataclass(frozen=True, slots=True)
class Rag:
    """A pool of documents and how they are asked for."""

    system: Tokens
    pool: tuple[Tokens, ...]

    @staticmethod
    def of(document_tokens: int, rng: Random) -> Rag:
        """Sixteen documents."""
        return Rag(text(64, rng), tuple(text(document_tokens, rng) for _ in range(2 * READ)))

    def seen(self) -> Load:
        """The pool, half by half."""
        halves = (self.pool[:READ], self.pool[READ:])
        return one_by_one([Request((self.system, *half), 1, PAPER) for half in halves])

    def questions(self, count: int, rng: Random) -> list[Request]:
        """Each about eight documents of the pool."""
        return [
            Request((self.system, *rng.sample(self.pool, READ), text(48, rng)), 1, PAPER)
            for _ in range(count)
        ]


def chat(turns: int, turn_tokens: int, rng: Random) -> Load:
    """A conversation; its first turn is as long as four."""
    said: tuple[Part, ...] = (text(4 * turn_tokens, rng),)
    requests = []
    for turn in range(turns):
        requests.append(Request(said, 16, PAPER))
        said = (*said, Output(turn), text(turn_tokens, rng))
    return one_by_one(requests)


def judges(panel: int, answers: int, answer_tokens: int, rng: Random) -> Load:
    """A task and its answers, judged one after another."""
    task = text(answer_tokens, rng)
    candidates = [text(answer_tokens, rng) for _ in range(answers)]
    return one_by_one(
        [
            Request(
                (text(96, rng), task, *rng.sample(candidates, answers), text(32, rng)), 4, PAPER
            )
            for _ in range(panel)
        ]
    )


@dataclass(frozen=True, slots=True)
class Board:
    """Sizes of the all-gather load, in tokens and rounds."""

    agents: int = 8
    finding: int = 96
    """What a tool told an agent in one round."""
    answer: int = 32
    """What the agent made of it: generated."""
    window: int = 3
    """So many rounds are on the board."""
    persona: int = 96
    question: int = 32


Said = Mapping[tuple[int, int], Tokens]
"""What each agent generated, by round and agent."""


@dataclass(frozen=True, slots=True)
class AllGather:
    """The text of all rounds that is not generated, and who reads in which order."""

    board: Board
    personas: tuple[Tokens, ...]
    findings: Mapping[tuple[int, int], Tokens]
    """By round and agent."""
    earlier: Said
    """Reports from before round 0 are text that nobody has read: round 0 fills the board."""
    questions: Mapping[tuple[int, int], Tokens]
    orders: Mapping[tuple[int, int], Sequence[int]]

    @staticmethod
    def of(board: Board, rounds: int, rng: Random) -> AllGather:
        """Rounds 0 to `rounds`."""
        agents = range(board.agents)
        past = [(number, agent) for number in range(-board.window, 0) for agent in agents]
        turns = [(number, agent) for number in range(rounds + 1) for agent in agents]
        return AllGather(
            board=board,
            personas=tuple(text(board.persona, rng) for _ in agents),
            findings={turn: text(board.finding, rng) for turn in (*past, *turns)},
            earlier={turn: text(board.answer, rng) for turn in past},
            questions={turn: text(board.question, rng) for turn in turns},
            orders={turn: _own_first(turn[1], board.agents, rng) for turn in turns},
        )

    def load(self, number: int, said: Said) -> Load:
        """A round's requests, which arrive together. `said`: in the rounds before."""
        return tuple(self._request(number, agent, said) for agent in range(self.board.agents))

    def _request(self, number: int, agent: int, said: Said) -> Request:
        answers, turn = {**self.earlier, **said}, (number, agent)
        read = [
            part
            for age in range(number - 1, number - 1 - self.board.window, -1)
            for other in self.orders[turn]
            for part in (self.findings[age, other], answers[age, other])
        ]
        new = (self.findings[turn], self.questions[turn])
        return Request((self.personas[agent], *read, *new), self.board.answer, BEST)


def _own_first(agent: int, agents: int, rng: Random) -> list[int]:
    others = [other for other in range(agents) if other != agent]
    rng.shuffle(others)
    return [agent, *others]


def poisson(requests: Sequence[Request], per_second: float, rng: Random) -> Load:
    """Each arrives at a time of its own, whatever becomes of the others."""
    now, load = 0.0, []
    for request in requests:
        now += rng.expovariate(per_second)
        load.append(replace(request, at=now))
    return tuple(load)


def streams(count: int, max_tokens: int, rng: Random, *, endless: bool) -> list[Request]:
    """Short prompts with long answers; `endless`: until everything else has ended."""
    return [replace(cold(64, rng, max_tokens=max_tokens), background=endless) for _ in range(count)]
