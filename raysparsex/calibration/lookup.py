"""Where a model's profile is found. Reads files; knows neither torch nor an engine.

    1. the configured path             reuse.profile; "none" serves without any
    2. raysparsex-profile.json         in the model's folder
    3. ~/.cache/raysparsex/profiles    as `raysparsex calibrate` leaves it, named by the identity

The first one that exists counts. One that is not the model's own is `Unfit`, and later places are
not asked: somebody meant it for this model, and what it says would be wrong in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raysparsex.calibration.identity import identity_digest, model_folder, model_identity
from raysparsex.calibration.profile import ModelIdentity, Profile, mismatch, read_profile
from raysparsex.errors import InvalidConfig

BESIDE_MODEL = "raysparsex-profile.json"
CACHE = Path("~/.cache/raysparsex/profiles")
NO_PROFILE = "none"
"""As the configured path: no profile is looked for."""


@dataclass(frozen=True, slots=True)
class Found:
    """A profile of this very model."""

    profile: Profile
    source: Path


@dataclass(frozen=True, slots=True)
class Unfit:
    """A profile that is not to be used; the engine serves everything exactly."""

    reason: str
    """Continues "the profile does not fit the model: ..."."""
    source: Path


def profile_for(
    model: str, dtype: str, configured: str | Path | None = None
) -> Found | Unfit | None:
    """The profile of a model (folder or Hugging Face name) that is served in `dtype`.

    None: there is none. Raises InvalidConfig when the configured file is not there or not a
    profile.
    """
    if configured is not None and str(configured) == NO_PROFILE:
        return None
    if configured is not None:
        path = Path(configured).expanduser()
        if not path.is_file():
            allowed = "a file that `raysparsex calibrate` wrote, or unset"
            raise InvalidConfig("reuse.profile", f"no file {str(configured)!r}", allowed)
        return _fitting(read_profile(path), path, model_identity(model, dtype))
    identity = model_identity(model, dtype)
    folder = model_folder(model)
    beside = folder / BESIDE_MODEL if folder else None
    if beside is not None and beside.is_file():
        return _read_and_fitting(beside, identity)
    if identity is not None and (cached := cached_path(identity)).is_file():
        return _read_and_fitting(cached, identity)
    return None


def cached_path(identity: ModelIdentity) -> Path:
    """Where `raysparsex calibrate` leaves a profile unless told otherwise."""
    return CACHE.expanduser() / f"{identity_digest(identity)}.json"


def _read_and_fitting(path: Path, identity: ModelIdentity | None) -> Found | Unfit:
    """Nobody named this file, so a damaged one does not stop the engine."""
    try:
        return _fitting(read_profile(path), path, identity)
    except InvalidConfig as error:
        return Unfit(str(error), path)


def _fitting(profile: Profile, path: Path, identity: ModelIdentity | None) -> Found | Unfit:
    if identity is None:
        return Unfit("the model's files are not at hand to compare", path)
    difference = mismatch(profile.model, identity)
    return Unfit(difference, path) if difference else Found(profile, path)
