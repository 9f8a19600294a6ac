"""The calibration profile: what one model was found to need, and the JSON file that holds it.

    model       which model it is good for; any other is refused, by name of the first difference
    correction  what requests get that do not say otherwise
    target      the drift that was allowed
    measured    what the correction costs and how far it drifts, on prompts it was not chosen by
    range       how far from those prompts a request may be
    candidates  everything that was measured on the way

Knows nothing of where files lie (`lookup`) or how figures come about (`search`, `measure`).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raysparsex.config import SelectorName
from raysparsex.errors import InvalidConfig
from raysparsex.plan.correction import Correction

REMEDY = "a file as `raysparsex calibrate` writes it; run it again"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelIdentity(_Record):
    """What makes two models the same one. Their folder and their name are no part of it."""

    architecture: str
    layers: int = Field(ge=1)
    rope: dict[str, Any]
    """The `rope_parameters` of config.json, the base `rope_theta` among them."""
    dtype: str
    """The one that the engine computes in."""
    weights: str
    """Digest of the weight files; see `identity`."""


class ProfiledCorrection(_Record):
    """`plan.correction.Correction`, as the file holds it."""

    selector: SelectorName
    budget: float = Field(ge=0, le=1)
    full_layers: int = Field(ge=0)
    suspects: float | None = Field(ge=0, le=1)
    """None: as many as the engine finds to be needed; `calibrate` always writes a share."""

    @staticmethod
    def of(correction: Correction) -> ProfiledCorrection:
        """The same values, to be written."""
        return ProfiledCorrection(
            selector=correction.selector,
            budget=correction.budget,
            full_layers=correction.full_layers,
            suspects=correction.suspects,
        )

    def value(self) -> Correction:
        """The same values, to be planned with."""
        return Correction(
            selector=self.selector,
            budget=self.budget,
            full_layers=self.full_layers,
            suspects=self.suspects,
        )


class DriftTarget(_Record):
    """How far an answer may drift from full prefill's."""

    max_kl: float = Field(gt=0)
    """Mean KL divergence at the answer's first tokens, in nats."""
    min_top1: float = Field(gt=0, le=1)
    """Share of the answer's first tokens that are the same."""


class Measured(_Record):
    """The chosen correction, on prompts that it was not chosen by."""

    kl: float
    top1: float
    compute_share_first: float
    """Share of a full prefill's compute at a segment's first reuse."""
    compute_share_learned: float
    """The same when its tokens were seen to change before."""
    prompts: int
    kl_high: float | None = None
    """Upper confidence bound of `kl`."""
    top1_low: float | None = None
    """Lower confidence bound of `top1`."""
    positions: int | None = None
    """Answer tokens compared."""


class CalibratedRange(_Record):
    """How far from the measured prompts a request may be and still be served sparsely."""

    max_reused_share: float = Field(ge=0, le=1)
    """Reused tokens over the tokens behind the prefix."""
    max_prompt_tokens: int = Field(ge=1)
    max_shift: int = Field(ge=0)
    """Tokens between where a segment was computed and where it is needed."""
    max_depth: int = Field(ge=1)
    """`ReusePlan.depth`: how often approximate values may build on approximate ones."""


class MeasuredCandidate(_Record):
    """One correction that was measured on the way."""

    correction: ProfiledCorrection
    kl: float
    kl_high: float
    top1: float
    top1_low: float
    compute_share: float
    prompts: int
    positions: int
    confirming: bool
    """Measured on the prompts that no correction is chosen by."""
    first_reuse: bool
    """Nothing was known of these documents but what `Sensitivity` predicts."""
    met: bool


class Sensitivity(_Record):
    """What the engine learned on the way: `sparse.sensitivity.FittedSensitivity` as a file has it.

    With it, even the first document that a server ever reuses is narrowed to its suspects.
    """

    full_layers: int = Field(ge=0)
    weights: tuple[float, ...]
    places: tuple[int, ...]


class Profile(_Record):
    """The whole file."""

    version: Literal[1] = 1
    model: ModelIdentity
    correction: ProfiledCorrection
    target: DriftTarget
    measured: Measured
    range: CalibratedRange
    sensitivity: Sensitivity | None = None
    """Of the correction's full layers; None when all tokens are suspects, or too few were seen."""
    candidates: tuple[MeasuredCandidate, ...] = ()
    note: str = ""
    """What a reader should know: say, that nothing met the target."""
    created: str
    versions: dict[str, str] = {}

    @property
    def is_exact(self) -> bool:
        return self.correction.selector is SelectorName.ALL


def mismatch(of_profile: ModelIdentity, of_model: ModelIdentity) -> str | None:
    """The first difference in words; None when the profile is the model's own."""
    for name in ("architecture", "layers"):
        if getattr(of_profile, name) != getattr(of_model, name):
            return _differs(name, getattr(of_profile, name), getattr(of_model, name))
    for key in sorted({*of_profile.rope, *of_model.rope}):
        if of_profile.rope.get(key) != of_model.rope.get(key):
            return _differs(key, of_profile.rope.get(key), of_model.rope.get(key))
    for name in ("dtype", "weights"):
        if getattr(of_profile, name) != getattr(of_model, name):
            return _differs(name, getattr(of_profile, name), getattr(of_model, name))
    return None


def _differs(name: str, in_profile: object, in_model: object) -> str:
    verb = "are" if name in ("layers", "weights") else "is"
    of_profile, of_model = (
        "not given" if value is None else f"{value}" for value in (in_profile, in_model)
    )
    return f"{name} {verb} {of_profile} in the profile and {of_model} in the model"


def read_profile(path: Path) -> Profile:
    """The profile in a file. Raises InvalidConfig that names file, field and remedy."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(str(path), f"cannot be read ({error})", REMEDY) from error
    try:
        return Profile.model_validate_json(text)
    except ValidationError as failure:
        first = failure.errors()[0]
        place = ": ".join([str(path), ".".join(str(part) for part in first["loc"])]).rstrip(": ")
        unknown = first["type"] == "extra_forbidden"
        problem = "unknown key" if unknown else f"{first['msg']} (got {_short(first['input'])})"
        raise InvalidConfig(place, problem, REMEDY) from failure


def _short(value: object, most: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def write_profile(profile: Profile, path: Path) -> None:
    """Write the file whole or not at all. Raises InvalidConfig when the place is not writable."""
    text = profile.model_dump_json(indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(temporary, 0o644)  # noqa: PTH101  mkstemp's is for its owner alone
            os.replace(temporary, path)  # noqa: PTH105
        except BaseException:
            os.unlink(temporary)  # noqa: PTH108
            raise
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise InvalidConfig(str(path), problem, "a file in a folder that you may write") from error
