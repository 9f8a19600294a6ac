"""cluster.yaml is what `ray up` accepts, on each cloud; what would not work is refused by place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.validate.cluster_file import SECTION, check_cluster_file

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster.yaml"


def problems(tmp_path: Path, text: str) -> list[str]:
    for name in ("pyproject.toml", "setup.py", "README.md", "raysparsex", "deployments"):
        (tmp_path / name).touch()
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    return [str(problem) for problem in check_cluster_file(path)]


def changed(change: Callable[[dict[str, Any]], None]) -> str:
    values = yaml.safe_load(CLUSTER.read_text())
    change(values)
    return yaml.safe_dump(values)


def test_the_file_is_accepted_and_holds_sections_for_other_clouds() -> None:
    assert check_cluster_file(CLUSTER) == []
    assert [name for name, _ in SECTION.findall(CLUSTER.read_text())] == ["gcp", "azure"]


def test_safe_defaults_bound_the_cost_and_open_no_port() -> None:
    values = yaml.safe_load(CLUSTER.read_text())
    assert values["max_workers"] <= 4
    assert sum(node["min_workers"] for node in values["available_node_types"].values()) == 1
    assert "security_group" not in values["provider"]
    assert "0.0.0.0" not in str(values["head_start_ray_commands"])


def test_the_commands_of_the_first_lines_name_files_that_exist() -> None:
    head = CLUSTER.read_text().split("cluster_name:")[0]
    assert "deployments/configs/many_nodes.yaml" in head
    assert (ROOT / "deployments/configs/many_nodes.yaml").exists()


def _set(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        for name in path[:-1]:
            values = values[name]
        values[path[-1]] = value

    return change


def _without(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        for name in path[:-1]:
            values = values[name]
        del values[path[-1]]

    return change


NODES = "available_node_types"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_set("max_worker", value=3), "'max_worker' was unexpected"),
        (_set("max_workers", value="many"), "max_workers: 'many' is not of type 'integer'"),
        (_set(NODES, "l4", "gpus", value=1), "available_node_types.l4: Additional properties"),
        (_set(NODES, "l4", "min_workers", value=9), "sum of `min_workers`"),
        (_without(NODES, "l4", "resources"), "available_node_types.l4: 'resources' is a required"),
        (_without("provider", "region"), "provider: 'region' is missing"),
        (_without("provider", "type"), "'type' is missing"),
        (_without("provider"), "'provider' is missing"),
        (_set("head_node_type", value="chief"), "`head_node_type` must be one of"),
        (_set("docker", "container_name", value=""), "Must provide a container & image name"),
        (_set(NODES, "l4", "resources", value={"CPU": 8}), "l4.resources: a worker without a GPU"),
        (_set(NODES, "head", "resources", value={"GPU": 1}), "head.resources: the head needs no"),
        (_without(NODES, "l4", "max_workers"), "available_node_types.l4: is not bounded"),
        (_set("file_mounts", value={"/x": "no/file"}), "file_mounts./x: there is no 'no/file'"),
        (_set("docker", "image", value="rayproject/ray:2.9.0-py311-gpu"), "docker.image: another"),
        (_set("docker", "image", value="rayproject/ray:2.60.0-py39-gpu"), "docker.image: another"),
    ],
)
def test_a_broken_file_is_refused_with_the_place(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], told: str
) -> None:
    found = problems(tmp_path, changed(change))
    assert len(found) == 1
    assert told in found[0]


def test_a_broken_section_for_another_cloud_is_refused_by_its_name(tmp_path: Path) -> None:
    text = CLUSTER.read_text().replace("#   resource_group:", "#   resourcegroup:")
    (found,) = problems(tmp_path, text)
    assert found == "(section azure).provider: 'resource_group' is missing"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- a", "not a mapping"),
        ("a: [", "line 1: not YAML"),
        ("max_workers: 1\nmax_workers: 2", "line 2: the key 'max_workers' stands there twice"),
    ],
)
def test_what_is_no_mapping_is_told_with_its_line(tmp_path: Path, text: str, told: str) -> None:
    (found,) = problems(tmp_path, text)
    assert told in found
