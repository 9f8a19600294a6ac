"""Settings come from defaults, a YAML file and the environment, and every mistake is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.settings import (
    EngineConfig,
    Settings,
    describe,
    load_settings,
    model_id,
    model_source,
)
from raysparsex.config import ReuseSettings, StoreConfig
from raysparsex.errors import InvalidConfig


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_configured_serves_the_embedded_model_on_this_machine_alone() -> None:
    settings = load_settings(environment={})
    assert settings.model == "raysparsex-tiny"
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8000)
    assert settings.for_plugin() == ReuseSettings(store=StoreConfig(shared=False))


@pytest.mark.parametrize(
    ("engine", "store", "shares"),
    [
        ({}, {}, False),
        ({"replicas": 2}, {}, True),
        ({"max_replicas": 3}, {}, True),
        ({"replicas": 2}, {"shared": False}, False),
        ({}, {"shared": True}, True),
    ],
)
def test_replicas_share_segments_where_there_can_be_several(
    engine: dict[str, int], store: dict[str, bool], shares: bool
) -> None:
    settings = Settings(engine=EngineConfig(**engine), store=StoreConfig(**store))
    assert settings.shares is shares
    assert settings.for_plugin().store.shared is shares


def test_the_environment_wins_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, "segment: {min_tokens: 20, max_tokens: 99}\nreuse: {budget: 0.5}")
    variables = {"RAYSPARSEX_CONFIG": str(path), "RAYSPARSEX_SEGMENT__MIN_TOKENS": "24"}
    settings = load_settings(environment=variables)
    assert settings.segment.min_tokens == 24
    assert settings.segment.max_tokens == 99
    assert settings.segment.average_tokens == 32
    assert settings.reuse.budget == 0.5


def test_a_file_named_by_the_caller_wins_over_the_variable(tmp_path: Path) -> None:
    path = written(tmp_path, "server: {port: 9001}")
    variables = {"RAYSPARSEX_CONFIG": "/nowhere.yaml"}
    assert load_settings(path, variables).server.port == 9001


def test_an_empty_file_and_an_empty_variable_change_nothing(tmp_path: Path) -> None:
    variables = {"RAYSPARSEX_REUSE__MODE": "", "RAYSPARSEX_CONFIG": str(written(tmp_path, ""))}
    assert load_settings(environment=variables) == load_settings(environment={})


@pytest.mark.parametrize(
    ("variables", "named", "allowed"),
    [
        ({"RAYSPARSEX_SEGMENT__MIN": "1"}, "RAYSPARSEX_SEGMENT__MIN", "__MIN_TOKENS"),
        ({"RAYSPARSEX_PORT": "1"}, "RAYSPARSEX_PORT", "RAYSPARSEX_SERVER__PORT"),
        ({"RAYSPARSEX_SERVER__PORT": "http"}, "RAYSPARSEX_SERVER__PORT", "port"),
        ({"RAYSPARSEX_SERVER__PORT": "0"}, "RAYSPARSEX_SERVER__PORT", "port"),
        ({"RAYSPARSEX_REUSE__MODE": "on"}, "RAYSPARSEX_REUSE__MODE", "'exact'"),
        ({"RAYSPARSEX_REUSE__SELECTOR": "best"}, "RAYSPARSEX_REUSE__SELECTOR", "'two_step'"),
        ({"RAYSPARSEX_REUSE__BUDGET": "2"}, "RAYSPARSEX_REUSE__BUDGET", "0.0 to 1.0"),
        ({"RAYSPARSEX_STORE__BYTES": "-1"}, "RAYSPARSEX_STORE__BYTES", "bytes"),
        ({"RAYSPARSEX_SEGMENT__MIN_TOKENS": "900"}, "segment", "max_tokens must be"),
        ({"RAYSPARSEX_ENGINE__REPLICAS": "3", "RAYSPARSEX_ENGINE__MAX_REPLICAS": "2"}, "engine",
         "replicas <= max_replicas"),
    ],
)  # fmt: skip
def test_a_wrong_variable_is_named_with_what_is_allowed(
    variables: dict[str, str], named: str, allowed: str
) -> None:
    with pytest.raises(InvalidConfig) as refused:
        load_settings(environment=variables)
    assert refused.value.field == named
    assert allowed in str(refused.value)


@pytest.mark.parametrize(
    ("text", "named", "allowed"),
    [
        ("segments: {}", "segments", "segment, reuse, store"),
        ("segment: {min: 1}", "segment.min", "min_tokens"),
        ("reuse: {mode: 1}", "reuse.mode", "'sparse'"),
        ("- a list", "settings.yaml", "segment"),
        ("a: [", "settings.yaml", "YAML"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_allowed(
    tmp_path: Path, text: str, named: str, allowed: str
) -> None:
    with pytest.raises(InvalidConfig) as refused:
        load_settings(written(tmp_path, text), environment={})
    assert refused.value.field.endswith(named)
    assert allowed in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="cannot be read"):
        load_settings(tmp_path / "none.yaml", environment={})


def test_every_setting_is_described_and_can_be_set_by_its_variable() -> None:
    rows = list(describe())
    assert len({row.variable for row in rows}) == len(rows)
    assert all(row.meaning for row in rows)
    given = {row.variable: str(row.default) for row in rows if row.default is not None}
    assert load_settings(environment=given) == load_settings(environment={})


def test_the_embedded_model_a_folder_and_a_name_are_told_apart(tmp_path: Path) -> None:
    embedded = load_settings(environment={})
    assert model_source(embedded).endswith("models/raysparsex-tiny")
    assert model_id(embedded) == "raysparsex-tiny"
    folder = tmp_path / "my-model"
    folder.mkdir()
    local = load_settings(environment={"RAYSPARSEX_MODEL": str(folder)})
    assert (model_source(local), model_id(local)) == (str(folder), "my-model")
    hub = load_settings(environment={"RAYSPARSEX_MODEL": "Qwen/Qwen3-0.6B"})
    assert model_source(hub) == model_id(hub) == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize("name", ["./none", "/none/at/all", "~/none", "none/"])
def test_a_folder_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InvalidConfig, match="no folder"):
        model_source(load_settings(environment={"RAYSPARSEX_MODEL": name}))
