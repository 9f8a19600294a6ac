"""Ray Serve configs: Ray's schema and our settings; a misspelt name of either is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from deployments.settings import load_settings
from deployments.validate.serve_file import check_serve_file, check_serve_text

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "deployments/configs").glob("*.yaml"))
GOOD = (ROOT / "deployments/configs/many_nodes.yaml").read_text()
VARIABLES = "applications[0].runtime_env.env_vars"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_shape_of_deployment_has_a_config_that_is_accepted(path: Path) -> None:
    assert check_serve_file(path) == []


def test_the_shapes_are_what_their_names_say() -> None:
    loaded = {}
    for path in FILES:
        (application,) = yaml.safe_load(path.read_text())["applications"]
        loaded[path.stem] = load_settings(environment=application["runtime_env"]["env_vars"])
    assert set(loaded) == {"one_cpu_box", "one_gpu_box", "many_nodes", "tensor_parallel"}
    assert loaded["one_cpu_box"].model == "raysparsex-tiny"
    assert loaded["tensor_parallel"].engine.tensor_parallel > 1
    assert (loaded["many_nodes"].engine.max_replicas or 0) > loaded["many_nodes"].engine.replicas


def test_files_for_one_box_listen_to_that_box_alone() -> None:
    for name in ("one_cpu_box", "one_gpu_box"):
        values = yaml.safe_load((ROOT / f"deployments/configs/{name}.yaml").read_text())
        assert values["http_options"]["host"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("RAYSPARSEX_STORE__BYTES", "RAYSPARSEX_STORE__BYTE", f"{VARIABLES}.RAYSPARSEX_STORE__BYT"),
        ('"17179869184"', '"-1"', f"{VARIABLES}.RAYSPARSEX_STORE__BYTES: "),
        ('"17179869184"', "17179869184", f"{VARIABLES}.RAYSPARSEX_STORE__BYTES: is no text"),
        ('MAX_REPLICAS: "4"', 'MAX_REPLICAS: "0"', f"{VARIABLES}.RAYSPARSEX_ENGINE__MAX_REPLICAS"),
        ('MAX_REPLICAS: "4"', 'REPLICAS: "8"', "stands there twice"),
        ("proxy_location:", "proxy_locations:", "proxy_locations: unknown key"),
        ("EveryNode", "SomeNodes", "proxy_location: "),
        ("  port: 8000", "  prot: 8000", "http_options.prot: unknown key"),
        ("  port: 8000", "  port: web", "http_options.port: "),
        ("    route_prefix:", "    route_prefx:", "applications[0].route_prefx: unknown key"),
        ("route_prefix: /", "route_prefix: x", "applications[0].route_prefix: "),
        ("deployments:app", "deployments:api", "applications[0].import_path: "),
        ("import_path", "import_pth", "applications[0].import_pth: unknown key"),
        ("    runtime_env:", "    args: {a: 1}\n    runtime_env:", "applications[0].args: "),
        ("    runtime_env:", "    deployments: [{name: llm}]\n    runtime_env:",
         "applications[0].deployments: are made by the settings"),
        ("applications:", "applications: 3 #", "not YAML"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_with_the_place(old: str, new: str, told: str) -> None:
    assert GOOD.count(old) >= 1
    found = [str(problem) for problem in check_serve_text(GOOD.replace(old, new, 1))]
    assert any(told in problem for problem in found), found


@pytest.mark.parametrize("text", ["", "- a", "3"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    (found,) = check_serve_text(text)
    assert "not a mapping" in found.message
