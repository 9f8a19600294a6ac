"""A profile is written whole, read strictly, and belongs to one model only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raysparsex.calibration.profile import (
    CalibratedRange,
    DriftTarget,
    Measured,
    ModelIdentity,
    Profile,
    ProfiledCorrection,
    mismatch,
    read_profile,
    write_profile,
)
from raysparsex.config import SelectorName
from raysparsex.errors import InvalidConfig
from raysparsex.plan.correction import Correction

IDENTITY = ModelIdentity(
    architecture="LlamaForCausalLM",
    layers=8,
    rope={"rope_type": "default", "rope_theta": 500000.0},
    dtype="float32",
    weights="ab" * 16,
)
CORRECTION = Correction(
    selector=SelectorName.TWO_STEP, budget=0.1, full_layers=3, suspects=0.4
)  # fmt: skip
PROFILE = Profile(
    model=IDENTITY,
    correction=ProfiledCorrection.of(CORRECTION),
    target=DriftTarget(max_kl=0.05, min_top1=0.99),
    measured=Measured(
        kl=0.01, top1=1.0, compute_share_first=0.44, compute_share_learned=0.25, prompts=32
    ),
    range=CalibratedRange(
        max_reused_share=0.95, max_prompt_tokens=4096, max_shift=4096, max_depth=3
    ),
    created="2026-01-01T00:00:00+00:00",
)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "profile.json"
    write_profile(PROFILE, path)
    assert read_profile(path) == PROFILE
    assert read_profile(path).correction.value() == CORRECTION


def test_writing_leaves_no_other_file_behind(tmp_path: Path) -> None:
    write_profile(PROFILE, tmp_path / "profile.json")
    write_profile(PROFILE, tmp_path / "profile.json")
    assert [path.name for path in tmp_path.iterdir()] == ["profile.json"]


def test_a_profile_is_not_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "profile.json"
    path.write_text("before")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(InvalidConfig, match="disk full"):
        write_profile(PROFILE, path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidConfig, match=r"file/profile\.json.*folder that you may write"):
        write_profile(PROFILE, tmp_path / "file" / "profile.json")


def edited(tmp_path: Path, change: dict[str, Any]) -> Path:
    path = tmp_path / "profile.json"
    values = json.loads(PROFILE.model_dump_json())
    for key, value in change.items():
        *outer, last = key.split(".")
        place = values
        for name in outer:
            place = place[name]
        place[last] = value
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"correction.budgets": 1}, ["correction.budgets", "unknown key"]),
        ({"correction.budget": 1.5}, ["correction.budget", "less than or equal to 1"]),
        ({"correction.selector": "best"}, ["correction.selector", "two_step"]),
        ({"model.layers": "x"}, ["model.layers", "integer"]),
        ({"version": 2}, ["version", "1"]),
        ({"measured.kl": "NaN"}, ["measured.kl"]),
    ],
)
def test_a_wrong_file_is_refused_by_file_field_and_remedy(
    tmp_path: Path, change: dict[str, Any], words: list[str]
) -> None:
    path = edited(tmp_path, change)
    with pytest.raises(InvalidConfig) as refused:
        read_profile(path)
    for word in [str(path), "raysparsex calibrate", *words]:
        assert word in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"'])
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "profile.json").write_text(text)
    with pytest.raises(InvalidConfig, match=r"profile\.json"):
        read_profile(tmp_path / "profile.json")


def test_the_model_of_the_profile_fits() -> None:
    assert mismatch(IDENTITY, IDENTITY.model_copy()) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"rope": {"rope_type": "default", "rope_theta": 10000.0}},
            "rope_theta is 500000.0 in the profile and 10000.0 in the model",
        ),
        (
            {"rope": IDENTITY.rope | {"factor": 4.0}},
            "factor is not given in the profile and 4.0 in the model",
        ),
        ({"layers": 9}, "layers are 8 in the profile and 9 in the model"),
        ({"dtype": "bfloat16"}, "dtype is float32 in the profile and bfloat16 in the model"),
        ({"weights": "cd" * 16}, "weights are abab"),
        (
            {"architecture": "Qwen3ForCausalLM"},
            "architecture is LlamaForCausalLM in the profile and Qwen3ForCausalLM in the model",
        ),
    ],
)
def test_a_model_that_differs_is_told_apart_in_words(change: dict[str, Any], words: str) -> None:
    difference = mismatch(IDENTITY, IDENTITY.model_copy(update=change))
    assert difference is not None
    assert words in difference


def test_a_profile_that_recomputes_everything_says_that_it_is_exact() -> None:
    exact = PROFILE.correction.model_copy(update={"selector": SelectorName.ALL})
    assert PROFILE.model_copy(update={"correction": exact}).is_exact
    assert not PROFILE.is_exact
