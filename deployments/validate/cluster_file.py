"""`cluster.yaml`: what `ray up` checks before it asks a cloud, and what fits this project.

The file is for one cloud and holds sections for others, commented out. Each of them is put in place
of the original and checked as if it had been uncommented.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import ray
from jsonschema import ValidationError  # type: ignore[import-untyped]
from ray.autoscaler._private.util import prepare_config, validate_config

from .problem import NotReadable, Problem, parse_document, place_of

SECTION = re.compile(r"^# >>> (\w+)\n(.*?)^# <<< \1$", re.MULTILINE | re.DOTALL)
"""A commented section for another cloud, between a line `# >>> gcp` and a line `# <<< gcp`."""
IMAGE = re.compile(r"rayproject/ray:(\d+\.\d+\.\d+)-py(\d)(\d+)-")
PYTHONS = ("311", "312")
NEEDED = {
    "aws": ("region",),
    "gcp": ("region", "availability_zone", "project_id"),
    "azure": ("location", "resource_group"),
}
"""Of `provider`: Ray's schema asks for none of them, and lets misspelt ones through."""


def check_cluster_file(path: Path) -> list[Problem]:
    """What is wrong with a cluster launcher's file."""
    text = path.read_text(encoding="utf-8")
    try:
        base = parse_document(text)
        others = {name: parse_document(_uncommented(part)) for name, part in SECTION.findall(text)}
    except NotReadable as error:
        return [Problem("", str(error))]
    if not isinstance(base, dict):
        return [Problem("", "not a mapping")]
    found = _check(base, path.parent)
    for name, section in others.items():
        inside = _check({**base, **section}, path.parent)
        found += [problem.within(f"(section {name})") for problem in inside]
    return found


def _uncommented(part: str) -> str:
    return re.sub(r"^# ?", "", part, flags=re.MULTILINE)


def _check(values: dict[str, Any], folder: Path) -> list[Problem]:
    refused = _refused_by_ray(values)
    return [refused] if refused else [*_unfit(values, folder)]


def _refused_by_ray(values: dict[str, Any]) -> Problem | None:
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # Ray's advice
            validate_config(prepare_config(copy.deepcopy(values)))
    except ValidationError as error:
        return Problem(place_of(error.absolute_path), error.message)
    except KeyError as error:
        return Problem("", f"{error} is missing")
    except Exception as error:  # Ray raises whatever it meets
        return Problem("", f"Ray refuses it: {error}")
    return None


def _unfit(values: dict[str, Any], folder: Path) -> Iterator[Problem]:
    """What Ray accepts and would not work."""
    for key in NEEDED.get(values["provider"].get("type"), ()):
        if not values["provider"].get(key):
            yield Problem("provider", f"{key!r} is missing")
    types = values.get("available_node_types", {})
    for name, node in types.items():
        place = f"available_node_types.{name}"
        if name == values["head_node_type"]:
            if node["resources"].get("GPU"):
                yield Problem(f"{place}.resources", "the head needs no GPU; allowed: CPU")
            continue
        if not node["resources"].get("GPU"):
            yield Problem(f"{place}.resources", "a worker without a GPU; allowed: GPU: 1 or more")
        if "max_workers" not in node:
            yield Problem(place, "is not bounded; allowed: max_workers")
    for target, source in values.get("file_mounts", {}).items():
        if not (folder / source).exists():
            yield Problem(f"file_mounts.{target}", f"there is no {source!r}")
    yield from _wrong_image(values.get("docker", {}).get("image", ""))


def _wrong_image(image: str) -> Iterator[Problem]:
    found = IMAGE.match(image)
    wanted = f"rayproject/ray:{ray.__version__}-py311-gpu"
    if found and (found[1] != ray.__version__ or found[2] + found[3] not in PYTHONS):
        yield Problem("docker.image", f"another Ray or Python ({image}); allowed: {wanted}")
