"""Manifests by KubeRay's schema, and whether they fit together; refusals name the place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deployments.validate.kubernetes import check_manifests

ROOT = Path(__file__).parents[3]
SCHEMA = ROOT / "deploy/schemas/rayservice.json"
FILES = sorted((ROOT / "deploy/kuberay").glob("*.yaml"))


def test_the_manifests_are_accepted() -> None:
    assert check_manifests(FILES, SCHEMA) == {path: [] for path in FILES}
    assert {path.name for path in FILES} == {
        "rayservice.yaml",
        "models-pvc.yaml",
        "tenants-secret.yaml",
    }


def test_the_schema_names_its_origin_and_licence() -> None:
    comment = json.loads(SCHEMA.read_text())["$comment"]
    for word in ("ray-project/kuberay", "59d663aeec13760646da3db9c1cf8cfe883e30b7", "Apache-2.0"):
        assert word in comment


def broken(tmp_path: Path, name: str, old: str, new: str) -> list[str]:
    """Problems of the manifests with one text replaced in one of them."""
    for path in FILES:
        text = path.read_text()
        if path.name == name:
            assert old in text
            text = text.replace(old, new, 1)
        (tmp_path / path.name).write_text(text)
    found = check_manifests(sorted(tmp_path.glob("*.yaml")), SCHEMA)
    return [f"{path.name}: {one}" for path, problems in found.items() for one in problems]


SERVICE, CLAIM, SECRET = "rayservice.yaml", "models-pvc.yaml", "tenants-secret.yaml"
WORKERS = "spec.rayClusterConfig.workerGroupSpecs[0]"
HEAD = "spec.rayClusterConfig.headGroupSpec.template.spec"


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        (SERVICE, "enableInTreeAutoscaling", "enableAutoscaling", "spec.rayClusterConfig: Addit"),
        (SERVICE, "maxReplicas: 4", "maxReplica: 4", f"{WORKERS}: Additional properties"),
        (SERVICE, "maxReplicas: 4", "maxReplicas: four", f"{WORKERS}.maxReplicas: 'four'"),
        (SERVICE, "maxReplicas: 4", "maxReplicas: 0", f"{WORKERS}: minReplicas <= replicas"),
        (SERVICE, "groupName: l4", "numOfHosts: 1", f"{WORKERS}: 'groupName' is a required"),
        (SERVICE, "mountPath: /models", "mountpath: /models", f"{HEAD}.containers[0].volumeMounts"),
        (SERVICE, "{name: models, mount", "{name: model, mount", "no volume is called 'model'"),
        (SERVICE, "claimName: raysparsex-models", "claimName: x", f"{HEAD}.volumes[0]: there"),
        (SERVICE, "secretName: raysparsex-tenants", "secretName: x", f"{HEAD}.volumes[1]: there"),
        (SERVICE, 'nvidia.com/gpu: "1"}\n                env', 'cpu: "1"}\n                env',
         "twice"),
        (SERVICE, 'rayVersion: "2.60.0"', 'rayVersion: "2.9.0"', "rayVersion: is not that of"),
        (SERVICE, "version: v2", "version: v3", "autoscalerOptions.version: 'v3' is not one of"),
        (SERVICE, "apiVersion: ray.io/v1", "apiVersion: ray.io/v2", "apiVersion: "),
        (SERVICE, "kind: RayService", "kind: RayServe", "kind: 'RayServe' has no schema here"),
        (SERVICE, "ENGINE__REPLICAS", "ENGINE__REPLICA", "spec.serveConfigV2.applications[0]"),
        (SERVICE, "import_path", "import_paht", "spec.serveConfigV2.applications[0].import_paht"),
        (SERVICE, "name: HF_HOME, value", "name: RAYSPARSEX_X, value", "env.RAYSPARSEX_X: unknown"),
        (SERVICE, "tenants, mountPath: /etc/raysparsex", "tenants, mountPath: /etc/x",
         "no secret puts a file at /etc/raysparsex/tenants.yaml"),
        (CLAIM, "accessModes: [ReadWriteMany]", "accessMode: x", "spec: Additional properties"),
        (CLAIM, "storage: 200Gi", "storage: much", "spec.resources.requests.storage"),
        (CLAIM, "name: raysparsex-models", "name: Models", "metadata.name: "),
        (SECRET, "stringData:", "stringdata:", "Additional properties"),
        (SECRET, "tenants.yaml: |", "tenant.yaml: |", "no secret puts a file at"),
        (SECRET, "- {sha256:", "- {sha255:", "tenants.yaml.example.keys[0].sha256"),
        (SECRET, "kind: Secret", "kind: [", "not YAML"),
    ],
)  # fmt: skip
def test_a_broken_manifest_is_refused_with_the_place(
    tmp_path: Path, name: str, old: str, new: str, told: str
) -> None:
    found = broken(tmp_path, name, old, new)
    assert any(told in problem for problem in found), found


def test_a_worker_without_a_gpu_is_refused(tmp_path: Path) -> None:
    text = (ROOT / "deploy/kuberay/rayservice.yaml").read_text()
    asked = [line for line in text.splitlines() if "limits" in line and "nvidia" in line]
    found = broken(tmp_path, SERVICE, asked[0], "                  limits: {cpu: '8'}")
    assert any(
        "workerGroupSpecs[0].template.spec.containers[0].resources.limits" in p for p in found
    )


def test_the_replaced_tenants_file_must_still_be_one(tmp_path: Path) -> None:
    found = broken(tmp_path, SECRET, "0" * 64, "my-plain-key")
    assert any("is not a sha256 digest" in problem for problem in found)
    assert not any("my-plain-key" in problem for problem in found)
