"""Reducing a resource definition changes how it is written, not what it says."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from deployments.validate.crd import expanded, served_schema, shared

LEAVES = st.sampled_from([
    {"type": "string"},
    {"type": "integer", "format": "int32"},
    {"type": "object", "properties": {f"field{n}": {"type": "string"} for n in range(9)}},
])  # fmt: skip


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["items", "properties", "a", "b", "type"])
    return st.one_of(
        st.dictionaries(names, inner, min_size=1).map(
            lambda fields: {"type": "object", "properties": fields}
        ),
        inner.map(lambda item: {"type": "array", "items": item}),
        inner.map(lambda value: {"type": "object", "additionalProperties": value}),
    )


@given(st.recursive(LEAVES, _schemas, max_leaves=12).filter(lambda one: "$defs" not in one))
def test_expanding_gives_the_schema_back(schema: dict[str, Any]) -> None:
    assert expanded(shared(schema)) == schema


def test_a_part_that_repeats_is_written_once() -> None:
    part = {"type": "object", "properties": {f"field{n}": {"type": "string"} for n in range(9)}}
    reduced = shared({"type": "object", "properties": {"a": part, "b": part}})
    assert reduced["properties"]["a"] == reduced["properties"]["b"] == {"$ref": "#/$defs/part1"}
    assert reduced["$defs"] == {"part1": part}


def test_what_the_cluster_writes_is_left_out_and_other_versions_are() -> None:
    schema = {"type": "object", "properties": {"spec": {"type": "object"}, "status": {}}}
    old = {"name": "v1alpha1", "schema": {"openAPIV3Schema": {}}}
    new = {"name": "v1", "schema": {"openAPIV3Schema": schema}}
    assert served_schema({"spec": {"versions": [old, new]}}) == {
        "type": "object",
        "properties": {"spec": {"type": "object"}},
    }
