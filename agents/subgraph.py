"""What passes between a graph and a compiled graph that is one of its nodes.

Without a mapping the keys that both states have are shared, and what the subgraph's nodes wrote to
them is written to the outer state, write by write: reducers join it as if the nodes stood outside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from .narrowing import is_mapping
from .plan import NodeSpec
from .state import Schema


def given_to(spec: NodeSpec, inner: Schema, state: Any) -> Any:
    """The subgraph's input."""
    if callable(spec.inputs):
        return spec.inputs(state)
    held = _as_dict(state)
    if spec.inputs is None:
        return {key: value for key, value in held.items() if key in inner.keys}
    return {theirs: held[ours] for theirs, ours in spec.inputs.items() if ours in held}


def written_by(
    spec: NodeSpec, outer: Schema, values: Mapping[str, Any], written: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """The node's updates, from the subgraph's last values and from all that its nodes wrote."""
    if callable(spec.outputs):
        return [spec.outputs(values)]
    if spec.outputs is not None:
        return [{ours: values[theirs] for ours, theirs in spec.outputs.items() if theirs in values}]
    shared = [{key: v for key, v in update.items() if key in outer.keys} for update in written]
    return [update for update in shared if update]


def _as_dict(state: Any) -> Mapping[str, Any]:
    if is_mapping(state):
        return state
    if isinstance(state, BaseModel):
        return {name: getattr(state, name) for name in type(state).model_fields}
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
