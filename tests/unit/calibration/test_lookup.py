"""Which profile a server uses: the configured one, the model's own, the one calibrate left."""

from __future__ import annotations

from pathlib import Path

import pytest

from raysparsex.calibration import lookup
from raysparsex.calibration.identity import identity_of
from raysparsex.calibration.lookup import BESIDE_MODEL, Found, Unfit, cached_path, profile_for
from raysparsex.calibration.profile import Profile, write_profile
from raysparsex.errors import InvalidConfig
from tests.unit.calibration.test_identity import write_model
from tests.unit.calibration.test_profile import PROFILE


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lookup, "CACHE", tmp_path / "cache")
    return write_model(tmp_path / "model")


def profile_of(model: Path, dtype: str = "float32") -> Profile:
    return PROFILE.model_copy(update={"model": identity_of(model, dtype)})


def other_base(profile: Profile) -> Profile:
    rope = profile.model.rope | {"rope_theta": 500000.0}
    return profile.model_copy(update={"model": profile.model.model_copy(update={"rope": rope})})


def test_a_model_that_was_never_calibrated_has_no_profile(model: Path) -> None:
    assert profile_for(str(model), "float32") is None


def test_what_calibrate_left_is_found_by_the_model_itself(model: Path) -> None:
    profile = profile_of(model)
    write_profile(profile, cached_path(profile.model))
    assert profile_for(str(model), "float32") == Found(profile, cached_path(profile.model))
    assert profile_for(str(model), "bfloat16") is None


def test_the_first_place_counts(model: Path, tmp_path: Path) -> None:
    profile = profile_of(model)
    for number, path in enumerate(
        [cached_path(profile.model), model / BESIDE_MODEL, tmp_path / "mine.json"]
    ):
        write_profile(profile.model_copy(update={"note": str(number)}), path)
        configured = path if number == 2 else None
        found = profile_for(str(model), "float32", configured)
        assert isinstance(found, Found)
        assert (found.profile.note, found.source) == (str(number), path)


@pytest.mark.parametrize("configured", [False, True])
def test_a_profile_of_another_model_is_not_used_and_says_why(
    model: Path, tmp_path: Path, configured: bool
) -> None:
    path = tmp_path / "mine.json" if configured else model / BESIDE_MODEL
    good = profile_of(model)
    write_profile(good, cached_path(good.model))
    write_profile(other_base(good), path)
    answer = profile_for(str(model), "float32", path if configured else None)
    assert answer == Unfit("rope_theta is 500000.0 in the profile and 10000.0 in the model", path)


def test_a_damaged_profile_beside_the_model_is_not_passed_over(model: Path) -> None:
    (model / BESIDE_MODEL).write_text("{}")
    answer = profile_for(str(model), "float32")
    assert isinstance(answer, Unfit)
    assert BESIDE_MODEL in answer.reason


def test_a_damaged_profile_of_ones_own_choice_is_an_error(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(InvalidConfig, match=r"mine\.json"):
        profile_for(str(model), "float32", tmp_path / "mine.json")


def test_a_configured_file_must_be_there(model: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"reuse\.profile: no file 'missing\.json'"):
        profile_for(str(model), "float32", "missing.json")


def test_none_by_name_means_without(model: Path) -> None:
    write_profile(profile_of(model), model / BESIDE_MODEL)
    assert profile_for(str(model), "float32", "none") is None


def test_a_model_whose_files_are_elsewhere_cannot_be_compared(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_profile(profile_of(model), tmp_path / "mine.json")
    assert profile_for("nobody/has-this-model", "float32") is None
    answer = profile_for("nobody/has-this-model", "float32", tmp_path / "mine.json")
    assert isinstance(answer, Unfit)
