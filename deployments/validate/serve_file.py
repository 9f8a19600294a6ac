"""Ray Serve config files: Ray's own schema, and our settings in their environment variables.

Ray ignores keys that it does not know, so that newer files work with older versions. Here they are
refused: a misspelt key would change nothing and say nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema

from deployments.settings import load_settings
from raysparsex.errors import InvalidConfig

from .problem import NotReadable, Problem, parse_document, place_of

APPLICATION = "deployments:app"


def check_serve_file(path: Path) -> list[Problem]:
    """What is wrong with a file for `serve deploy` or `serve run`."""
    return check_serve_text(path.read_text(encoding="utf-8"))


def check_serve_text(text: str) -> list[Problem]:
    """What is wrong with such a file's text."""
    try:
        values = parse_document(text)
    except NotReadable as error:
        return [Problem("", str(error))]
    if not isinstance(values, dict):
        return [Problem("", "not a mapping; allowed: " + ", ".join(ServeDeploySchema.model_fields))]
    found = list(_unknown_keys(ServeDeploySchema, values))
    try:
        ServeDeploySchema.model_validate(values)
    except ValidationError as failure:
        found += [Problem(place_of(one["loc"]), one["msg"]) for one in failure.errors()]
    if found:
        return found
    for index, application in enumerate(values["applications"]):
        inside = _check_application(application)
        found += [problem.within(f"applications[{index}]") for problem in inside]
    return found


def _check_application(application: Mapping[str, Any]) -> Iterator[Problem]:
    if application["import_path"] != APPLICATION:
        yield Problem("import_path", f"is not this project's; allowed: {APPLICATION}")
    if not str(application.get("route_prefix") or "/").startswith("/"):
        yield Problem("route_prefix", "does not begin with a slash; allowed: / and /name")
    if application.get("args"):
        yield Problem("args", f"{APPLICATION} takes none; allowed: env_vars of runtime_env")
    if application.get("deployments"):
        remedy = "RAYSPARSEX_ENGINE__REPLICAS, RAYSPARSEX_ENGINE__MAX_REPLICAS"
        yield Problem("deployments", f"are made by the settings; allowed: {remedy}")
    variables = (application.get("runtime_env") or {}).get("env_vars") or {}
    for problem in check_variables(variables):
        yield problem.within("runtime_env.env_vars")


def check_variables(variables: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with environment variables that the application will see."""
    for name, value in variables.items():
        if not isinstance(value, str):
            yield Problem(name, f"is no text (got {value!r}); allowed: the value in quotes")
            return
    try:
        load_settings(environment=variables)
    except InvalidConfig as error:
        yield Problem(error.field, f"{error.problem}; allowed: {error.allowed}")


def _unknown_keys(model: type[BaseModel], values: Any) -> Iterator[Problem]:
    if not isinstance(values, dict):
        return
    for name, value in values.items():
        field = model.model_fields.get(name)
        if field is None:
            known = ", ".join(model.model_fields)
            yield Problem(str(name), f"unknown key; allowed: {known}")
            continue
        inner = next(_models_in(field.annotation), None)
        if inner is None:
            continue
        several = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, one in several:
            place = name if index is None else f"{name}[{index}]"
            yield from (problem.within(place) for problem in _unknown_keys(inner, one))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models named by an annotation such as `list[Model]` or `Model | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
