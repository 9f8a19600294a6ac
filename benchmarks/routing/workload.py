"""What eight agents ask about twenty documents. Pure; knows no server and no router.

    system prompt of the agent    never changes
    report of another agent       half of the tasks begin with one
    conversation of the task      grows with each of its requests
    documents read                3 or 4 of the task's, in an order of their own each time
    question                      answered by these documents

A task is 4 to 7 requests, its six documents are drawn by popularity (Zipf, exponent 1). Documents
and questions are of one generated world of `training.world`. Answers in conversations and reports
are written beforehand, so that requests do not depend on what a server answers. Chosen before any
router was measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from training import prose, words
from training.scenes import HANDOVERS, Question, question_about
from training.world import Known, Message, Shape, World, make_world

AGENTS = 8
DOCUMENTS = 20
DOCUMENT_SHAPE = Shape(documents=(DOCUMENTS, DOCUMENTS), facts=(3, 5), words=(150, 220))
SYSTEM_WORDS = 120
TASK_DOCUMENTS = 6
TASK_REQUESTS = (4, 7)
READ = (3, 4)
HANDED_OVER = 0.5
"""Share of tasks, the first of each agent aside, that begin with another agent's report."""
ZIPF_EXPONENT = 1.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request of one agent."""

    agent: int
    messages: tuple[Message, ...]
    documents: tuple[int, ...]
    """Those it reads, in its order."""
    answer: str


@dataclass(frozen=True, slots=True)
class Workload:
    """Each agent's requests, in the order in which it sends them."""

    documents: tuple[str, ...]
    agents: tuple[tuple[Request, ...], ...]
    seed: int

    @property
    def requests(self) -> list[Request]:
        """All of them, agent by agent."""
        return [request for agent in self.agents for request in agent]

    @property
    def digest(self) -> str:
        """Names the requests."""
        return hashlib.sha256(repr(self.agents).encode()).hexdigest()[:16]


def generated(per_agent: int, seed: int) -> Workload:
    """So many requests of each agent. Fewer are the first of more; the same for the same seed."""
    world = make_world(Random(f"routing {seed} documents"), DOCUMENT_SHAPE)
    agents = [_Agent(number, seed, world) for number in range(AGENTS)]
    reports: list[str] = []
    while any(len(agent.requests) < per_agent for agent in agents):
        reports = [agent.task(reports) for agent in agents]
    requests = tuple(tuple(agent.requests[:per_agent]) for agent in agents)
    return Workload(tuple(document.text for document in world.documents), requests, seed)


def unrelated(count: int, seed: int) -> list[Message]:
    """Messages about other things, to have a server begin its work."""
    rng = Random(f"routing {seed} unrelated")
    return [{"role": "user", "content": _prose(rng, SYSTEM_WORDS)} for _ in range(count)]


@dataclass(slots=True)
class _Agent:
    """Writes one agent's requests, task by task."""

    number: int
    seed: int
    world: World
    requests: list[Request] = field(default_factory=list)
    rng: Random = field(init=False)
    system: Message = field(init=False)

    def __post_init__(self) -> None:
        self.rng = Random(f"routing {self.seed} agent {self.number}")
        text = f"You are {words.PEOPLE[self.number]}. {_prose(self.rng, SYSTEM_WORDS)}"
        self.system = {"role": "system", "content": text}

    def task(self, reports: Sequence[str]) -> str:
        """The requests of one task; returns what the agent reports. `reports`: the latest."""
        rng = self.rng
        pool = by_popularity(rng, TASK_DOCUMENTS)
        conversation: list[Message] = []
        if reports and rng.random() < HANDED_OVER:
            others = [report for agent, report in enumerate(reports) if agent != self.number]
            conversation.append({"role": "user", "content": rng.choice(others)})
        found = []
        for _ in range(rng.randint(*TASK_REQUESTS)):
            question = self._request(pool, conversation)
            conversation.append({"role": "user", "content": question.text})
            conversation.append({"role": "assistant", "content": f"{question.answer}."})
            found.append(f"{question.text} {question.answer}. {prose.filler(rng)}")
        return rng.choice(HANDOVERS) + " ".join(found)

    def _request(self, pool: Sequence[int], conversation: Sequence[Message]) -> Question:
        read = tuple(self.rng.sample(pool, self.rng.randint(*READ)))
        question = question_about(self.rng, self.rng.choice(_answered_by(self.world, read)))
        documents = [
            {"role": "user", "content": self.world.documents[number].text} for number in read
        ]
        asked = {"role": "user", "content": question.text}
        messages = (self.system, *conversation, *documents, asked)
        self.requests.append(Request(self.number, messages, read, question.answer))
        return question


def by_popularity(rng: Random, count: int) -> list[int]:
    """Different documents, each drawn by its weight among those left; number 0 weighs most."""
    left, drawn = list(range(DOCUMENTS)), []
    for _ in range(count):
        weights = [(number + 1) ** -ZIPF_EXPONENT for number in left]
        drawn.append(rng.choices(left, weights)[0])
        left.remove(drawn[-1])
    return drawn


def _answered_by(world: World, read: Sequence[int]) -> list[Known]:
    """What a reader of these documents alone knows."""
    return [known for known in world.known if known.through <= set(read)]


def _prose(rng: Random, count: int) -> str:
    """Sentences of so many words in all, or a few more."""
    sentences: list[str] = []
    while sum(len(sentence.split()) for sentence in sentences) < count:
        sentences.append(prose.filler(rng))
    return " ".join(sentences)
