"""A graph as a Mermaid flowchart: static edges solid, others dotted, subgraphs nested."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .commands import END, START
from .plan import Plan


def draw(plan: Plan) -> str:
    """Mermaid source, ending in a newline."""
    return "\n".join(["flowchart TD", *_indented(_body(plan, ""))]) + "\n"


def _body(plan: Plan, inside: str) -> Iterator[str]:
    yield f'{_id(inside, START)}(["START"])'
    for name, spec in plan.nodes.items():
        if spec.subgraph is None:
            yield f'{_id(inside, name)}["{_text(name)}"]'
        else:
            yield f'subgraph {_id(inside, name)}["{_text(name)}"]'
            yield from _indented(_body(spec.subgraph.plan, _id(inside, name)))
            yield "end"
    yield f'{_id(inside, END)}(["END"])'
    yield from _edges(plan, inside)


def _edges(plan: Plan, inside: str) -> Iterator[str]:
    for source in (START, *plan.nodes):
        begin = _id(inside, source)
        static = [*plan.edges.get(source, ())]
        static += [join.target for join in plan.joins if source in join.sources]
        for target in dict.fromkeys(static):
            yield f"{begin} --> {_id(inside, target)}"
        for label, target in _conditional(plan, source):
            said = f'|"{_text(label)}"|' if label != target else ""
            yield f"{begin} -.->{said} {_id(inside, target)}"


def _conditional(plan: Plan, source: str) -> Iterator[tuple[str, str]]:
    """Label and target of what a path or a Command may choose; the label is the target if none."""
    for branch in plan.branches.get(source, ()):
        if branch.labels is not None:
            yield from ((str(label), target) for label, target in branch.labels.items())
        else:
            targets = (*plan.nodes, END) if branch.destinations is None else branch.destinations
            yield from ((target, target) for target in targets)
    if source in plan.nodes:
        own = plan.nodes[source].destinations
        yield from ((target, target) for target in ((*plan.nodes, END) if own is None else own))


def _id(inside: str, name: str) -> str:
    """Letters, digits and _ only; other signs by their number, so that no two names meet."""
    if name in (START, END):
        return f"{name.strip('_')}_of_{inside or 'all'}"
    plain = re.sub(r"[^A-Za-z0-9]", lambda sign: f"_{ord(sign[0]):x}_", name)
    return f"{inside}__n_{plain}" if inside else f"n_{plain}"


def _text(name: str) -> str:
    return re.sub(r'["#;<>&]', lambda sign: f"#{ord(sign[0])};", name)


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (f"    {line}" for line in lines)
