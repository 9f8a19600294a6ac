"""Makes the vendored schema out of KubeRay's custom resource definition.

    python -m deployments.validate.crd ray.io_rayservices.yaml COMMIT > rayservice.json

Keeps one served version, without what the cluster writes (`status`). The definition repeats the pod
template for each group; equal parts are written once, under `$defs`, so that the file can be read
and reviewed. Nothing else is changed. Knows nothing of the manifests.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

VERSION = "v1"
SMALLEST_SHARED = 200
"""Characters of JSON from which on a repeated part gets a name of its own."""


def served_schema(definition: dict[str, Any], version: str = VERSION) -> dict[str, Any]:
    """The schema of one version of the resource, without `status`."""
    (found,) = [one for one in definition["spec"]["versions"] if one["name"] == version]
    schema: dict[str, Any] = found["schema"]["openAPIV3Schema"]
    wanted = {name: part for name, part in schema["properties"].items() if name != "status"}
    return {**schema, "properties": wanted}


def shared(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema with equal parts written once."""
    seen: Counter[str] = Counter()
    _count(schema, seen)
    names: dict[str, str] = {}
    for text, times in seen.items():
        if times > 1 and len(text) >= SMALLEST_SHARED:
            names[text] = f"part{len(names) + 1}"
    parts = {name: _written(json.loads(text), names, True) for text, name in names.items()}
    top: dict[str, Any] = _written(schema, names, True)
    used = _used(top, parts)
    return {**top, "$defs": {name: part for name, part in parts.items() if name in used}}


def expanded(schema: dict[str, Any]) -> dict[str, Any]:
    """The reverse of `shared`."""
    parts = schema["$defs"]

    def whole(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return whole(parts[value["$ref"].removeprefix("#/$defs/")])
            return {name: whole(inner) for name, inner in value.items()}
        return [whole(inner) for inner in value] if isinstance(value, list) else value

    top: dict[str, Any] = whole({name: part for name, part in schema.items() if name != "$defs"})
    return top


def _count(value: Any, seen: Counter[str]) -> None:
    """Count the schemas in a schema; what is inside of a repeated one is counted once."""
    for inner in _schemas_in(value):
        text = json.dumps(inner, sort_keys=True)
        seen[text] += 1
        if seen[text] == 1:
            _count(inner, seen)


def _schemas_in(schema: Any) -> list[Any]:
    found = list(schema.get("properties", {}).values())
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            found.append(schema[name])
    return found


def _written(schema: dict[str, Any], names: dict[str, str], is_top: bool) -> dict[str, Any]:
    name = None if is_top else names.get(json.dumps(schema, sort_keys=True))
    if name is not None:
        return {"$ref": f"#/$defs/{name}"}
    result = dict(schema)
    if "properties" in schema:
        inner = schema["properties"].items()
        result["properties"] = {key: _written(part, names, False) for key, part in inner}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            result[key] = _written(schema[key], names, False)
    return result


def _used(top: dict[str, Any], parts: dict[str, Any]) -> set[str]:
    used: set[str] = set()
    waiting = [top]
    while waiting:
        text = json.dumps(waiting.pop())
        for name in parts.keys() - used:
            if f'"#/$defs/{name}"' in text:
                used.add(name)
                waiting.append(parts[name])
    return used


def main(path: str, commit: str) -> None:
    """Print the vendored form of the definition in this file."""
    definition = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    notice = (
        f"Reduced from {Path(path).name} of https://github.com/ray-project/kuberay at {commit};"
        " Copyright the KubeRay authors; Apache-2.0. How: deployments/validate/crd.py"
    )
    schema = {"$comment": notice, **shared(served_schema(definition))}
    print(json.dumps(schema, indent=1, sort_keys=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
