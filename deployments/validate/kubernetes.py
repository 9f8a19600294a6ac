"""Kubernetes manifests: each by the schema of its kind, and whether they fit together.

The schema of RayService is KubeRay's own. It holds the pod template and a volume claim's `spec`;
the little that is needed beyond is written here. As `kubectl apply` does, fields that a schema does
not know are refused. KubeRay's rules in CEL are not run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import ray
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from deployments.tenants_config import parse_tenants
from raysparsex.errors import InvalidConfig

from .problem import NotReadable, Problem, parse_document, place_of, read_documents
from .serve_file import check_serve_text, check_variables

Manifest = dict[str, Any]
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
METADATA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"},
        "namespace": {"type": "string"},
        "labels": TEXTS,
        "annotations": TEXTS,
    },
    "required": ["name"],
}

EACH = "[]"
CLAIM = ("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "volumes", EACH,
         "ephemeral", "volumeClaimTemplate", "spec")  # fmt: skip
"""Where the schema of RayService holds that of a volume claim."""
TENANTS_FILE = "RAYSPARSEX_TENANTS__FILE"


def check_manifests(paths: list[Path], schema_file: Path) -> dict[Path, list[Problem]]:
    """What is wrong with manifests that are applied together, by file."""
    schemas = schemas_by_kind(json.loads(schema_file.read_text(encoding="utf-8")))
    found: dict[Path, list[Problem]] = {path: [] for path in paths}
    read: list[tuple[Path, Manifest]] = []
    for path in paths:
        try:
            documents = read_documents(path)
        except NotReadable as error:
            found[path].append(Problem("", str(error)))
            continue
        for manifest in documents:
            wrong = list(_against_schema(manifest, schemas))
            found[path] += wrong
            if not wrong:
                read.append((path, manifest))
    together = [manifest for _, manifest in read]
    for path, manifest in read:
        if manifest["kind"] == "RayService":
            found[path] += _check_service(manifest, together)
    return found


def schemas_by_kind(service: Manifest) -> dict[str, Manifest]:
    """Strict schemas of the kinds that may occur, from the vendored one of RayService."""
    definitions = {name: _strict(part) for name, part in service["$defs"].items()}
    kinds: dict[str, Manifest] = {
        "RayService": {"spec": service["properties"]["spec"]},
        "PersistentVolumeClaim": {"spec": _at(service, CLAIM)},
        "Secret": {"stringData": TEXTS, "immutable": {"type": "boolean"}},
    }
    return {kind: {**_of_kind(kind, own), "$defs": definitions} for kind, own in kinds.items()}


def _of_kind(kind: str, own: Manifest) -> Manifest:
    version = "ray.io/v1" if kind == "RayService" else "v1"
    head = {"apiVersion": {"const": version}, "kind": {"const": kind}, "metadata": METADATA}
    wanted = [*head, *(name for name in own if name == "spec")]
    return _strict({"type": "object", "properties": {**head, **own}, "required": wanted})


def _at(schema: Manifest, path: tuple[str, ...]) -> Manifest:
    """The schema of a field, through lists and references."""
    definitions, found = schema["$defs"], schema
    for name in path:
        found = found["items"] if name == EACH else found["properties"][name]
        if "$ref" in found:
            found = definitions[found["$ref"].removeprefix("#/$defs/")]
    return found


def _strict(schema: Manifest) -> Manifest:
    """With unknown fields refused wherever the fields are named."""
    result = dict(schema)
    if "properties" in schema:
        result["properties"] = {key: _strict(part) for key, part in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            result.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            result[key] = _strict(schema[key])
    return result


def _against_schema(manifest: Any, schemas: Mapping[str, Manifest]) -> Iterator[Problem]:
    kind = str(manifest.get("kind")) if isinstance(manifest, dict) else "this"
    if kind not in schemas:
        yield Problem("kind", f"{kind!r} has no schema here; allowed: {', '.join(schemas)}")
        return
    for error in Draft202012Validator(schemas[kind]).iter_errors(manifest):
        yield Problem(place_of(error.absolute_path), error.message)


def _check_service(service: Manifest, together: list[Manifest]) -> Iterator[Problem]:
    spec, cluster = service["spec"], service["spec"]["rayClusterConfig"]
    for problem in check_serve_text(spec.get("serveConfigV2", "")):
        yield problem.within("spec.serveConfigV2")
    if cluster.get("rayVersion") != ray.__version__:
        place = "spec.rayClusterConfig.rayVersion"
        yield Problem(place, f"is not that of the image; allowed: {ray.__version__!r}")
    groups = {"headGroupSpec": cluster["headGroupSpec"]}
    for index, group in enumerate(cluster.get("workerGroupSpecs", [])):
        groups[f"workerGroupSpecs[{index}]"] = group
        for problem in _check_workers(group):
            yield problem.within(f"spec.rayClusterConfig.workerGroupSpecs[{index}]")
    for name, group in groups.items():
        pod = group["template"]["spec"]
        for problem in [*_check_pod(pod, together), *_check_tenants(service, pod, together)]:
            yield problem.within(f"spec.rayClusterConfig.{name}.template.spec")


def _check_workers(group: Manifest) -> Iterator[Problem]:
    low, now, high = (group.get(name, 0) for name in ("minReplicas", "replicas", "maxReplicas"))
    if not low <= now <= high:
        yield Problem("", "minReplicas <= replicas <= maxReplicas must hold")
    for index, container in enumerate(group["template"]["spec"]["containers"][:1]):
        if not int(container.get("resources", {}).get("limits", {}).get("nvidia.com/gpu", 0)):
            place = f"template.spec.containers[{index}].resources.limits"
            yield Problem(place, "a worker without a GPU; allowed: nvidia.com/gpu: 1 or more")


def _check_pod(pod: Manifest, together: list[Manifest]) -> Iterator[Problem]:
    names = {volume["name"] for volume in pod.get("volumes", [])}
    for index, container in enumerate(pod["containers"]):
        place = f"containers[{index}]"
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in names:
                yield Problem(f"{place}.volumeMounts", f"no volume is called {mount['name']!r}")
        plain = {one["name"]: one["value"] for one in container.get("env", []) if "value" in one}
        for problem in check_variables(plain):
            yield problem.within(f"{place}.env")
    for index, volume in enumerate(pod.get("volumes", [])):
        for kind, wanted in _wanted(volume):
            if wanted not in _names(together, kind):
                yield Problem(f"volumes[{index}]", f"there is no {kind} called {wanted!r}")


def _wanted(volume: Manifest) -> Iterator[tuple[str, str]]:
    if "secret" in volume:
        yield "Secret", volume["secret"]["secretName"]
    if "persistentVolumeClaim" in volume:
        yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]


def _names(together: list[Manifest], kind: str) -> set[str]:
    return {one["metadata"]["name"] for one in together if one["kind"] == kind}


def _check_tenants(service: Manifest, pod: Manifest, together: list[Manifest]) -> Iterator[Problem]:
    """The tenants file that the settings name is mounted, and says who the tenants are."""
    for path in _tenants_files(service):
        contents = [texts[path.name] for texts in _mounted_at(path.parent, pod, together)
                    if path.name in texts]  # fmt: skip
        if not contents:
            yield Problem("volumes", f"no secret puts a file at {path}, which the settings name")
        for content in contents:
            try:
                parse_tenants(content, path.name)
            except InvalidConfig as error:
                yield Problem("volumes", str(error))


def _mounted_at(
    folder: PurePosixPath, pod: Manifest, together: list[Manifest]
) -> Iterator[Manifest]:
    """Files, by name, of the secrets that a pod's first container has in a folder."""
    mounts = pod["containers"][0].get("volumeMounts", [])
    here = {one["name"] for one in mounts if PurePosixPath(one["mountPath"]) == folder}
    volumes = [one for one in pod.get("volumes", []) if one["name"] in here and "secret" in one]
    secrets = {one["secret"]["secretName"] for one in volumes}
    for manifest in together:
        if manifest["kind"] == "Secret" and manifest["metadata"]["name"] in secrets:
            yield manifest.get("stringData", {})


def _tenants_files(service: Manifest) -> Iterator[PurePosixPath]:
    text = service["spec"].get("serveConfigV2", "")
    if check_serve_text(text):
        return  # told already
    for application in parse_document(text)["applications"]:
        variables = (application.get("runtime_env") or {}).get("env_vars") or {}
        if TENANTS_FILE in variables:
            yield PurePosixPath(variables[TENANTS_FILE])
