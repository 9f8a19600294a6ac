"""Settings as frozen values, and the reuse parameters that one request may carry.

Outside data (YAML, environment, HTTP) enters here and nowhere else: every value is checked once,
an unknown key is an error that names the allowed ones. Knows no file, no environment, no framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from raysparsex.errors import InvalidConfig, InvalidInput, InvalidRequest


class ReuseMode(StrEnum):
    """What a request may read.

    `sparse` reuses segments anywhere and corrects them; `exact` uses vLLM's prefix cache only, and
    only values that were computed exactly; `off` behaves as `exact` and publishes nothing.
    """

    SPARSE = "sparse"
    EXACT = "exact"
    OFF = "off"


class SelectorName(StrEnum):
    """The rules that pick which reused tokens are recomputed (`raysparsex.sparse.token_select`)."""

    BALANCED = "balanced"
    TWO_STEP = "two_step"
    SPARSE_Q = "sparse_q"
    KV_DEVIATION = "kv_deviation"
    BOUNDARY = "boundary"
    QUERY_TWO_STAGE = "query_two_stage"
    MASS_AND_DEVIATION = "mass_and_deviation"
    RANDOM = "random"
    NONE = "none"
    ALL = "all"


MOST_TTL = 3600.0
"""Seconds."""
Share = Annotated[StrictFloat | StrictInt, Field(ge=0.0, le=1.0)]
FullLayers = Annotated[StrictInt, Field(ge=0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SegmentConfig(_Frozen):
    """How prompts are cut into segments. All lengths in tokens."""

    min_tokens: int = Field(default=16, ge=1, description="no segment shorter than this is reused")
    average_tokens: int = Field(
        default=32, ge=1, description="aim of content-defined cuts; at least 2 * min_tokens - 1"
    )
    max_tokens: int = Field(default=256, ge=1, description="a cut is forced after this many tokens")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if max(self.min_tokens, self.average_tokens) > self.max_tokens:
            raise ValueError("max_tokens must be at least min_tokens and average_tokens; raise it")
        return self


class ReuseConfig(_Frozen):
    """Defaults for requests that do not say otherwise, and bounds for all requests."""

    mode: ReuseMode = Field(default=ReuseMode.SPARSE, description="default reuse mode")
    selector: SelectorName | None = Field(
        default=None, description="default selector; unset: the profile's, else balanced"
    )
    budget: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of reused tokens recomputed; unset: the profile's, else 0.25",
    )
    full_layers: int | None = Field(
        default=None,
        ge=0,
        description="early layers that renew reused tokens; unset: the profile's, else half",
    )
    suspects: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share of reused tokens that the full layers renew once their sensitivity is"
        " known; unset: the profile's, else as found to be needed",
    )
    profile: str | None = Field(
        default=None,
        description="file of a calibration profile; unset: beside the model, or `calibrate`'s",
    )
    min_reused_tokens: int = Field(
        default=48, ge=1, description="prompts with fewer reusable tokens are prefilled plainly"
    )
    min_reused_share: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="prompts with a smaller reusable share behind the prefix are prefilled plainly",
    )
    max_depth: int = Field(
        default=4, ge=1, description="how often approximate values may build on approximate values"
    )


class StoreConfig(_Frozen):
    """Where the KV bytes of segments are kept."""

    bytes: int = Field(
        default=2 << 30, ge=0, description="budget of the host-memory store, in bytes"
    )
    resident: bool = Field(
        default=False,
        description="take all of it from the operating system at start, not when first needed",
    )
    shared: bool | None = Field(
        default=None,
        description="hand segments to the node's store in Ray's object store, and look there;"
        " unset: when there can be several replicas",
    )
    node_bytes: int | None = Field(
        default=None,
        ge=0,
        description="budget of a node's shared store; unset: half of the node's object store",
    )
    disk_bytes: int = Field(
        default=0, ge=0, description="what a node's shared store may have spilled to disk"
    )
    single_flight_seconds: float = Field(
        default=2.0,
        ge=0,
        description="longest wait, with nothing else to compute, for segments that another request"
        " computes; 0: compute at once",
    )


class SliceConfig(_Frozen):
    """How much of a sparse prefill one engine step may do, so that other streams keep decoding."""

    token_layers: int = Field(
        default=8192,
        ge=1,
        description="most compute of one slice: tokens times layers they pass; less where it would"
        " hold up streams",
    )
    chunk_tokens: int = Field(
        default=1536, ge=1, description="tokens computed at once, which bounds activation memory"
    )
    idle_factor: int = Field(
        default=8,
        ge=1,
        description="times token_layers, at most, per engine step while no stream is waiting for"
        " its next token",
    )


class GateConfig(_Frozen):
    """Shadow checks: sparse requests computed again exactly, and what happens when they differ."""

    shadow_share: float = Field(
        default=0.01, ge=0, le=1, description="share of sparse requests that are checked"
    )
    shadow_tokens: int = Field(
        default=4, ge=1, le=64, description="first tokens of the answer that are compared"
    )
    max_kl: float | None = Field(
        default=None,
        gt=0,
        description="drift target: mean KL divergence, in nats; unset: the profile's, else 0.1",
    )
    min_top1: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="drift target: share of equal top tokens; unset: the profile's, else 0.95",
    )
    window: int = Field(
        default=32, ge=2, description="checks, per model and tenant, that a decision looks back on"
    )


class KernelConfig(_Frozen):
    """Where the engine's own forward is not left as it is."""

    skip_unread: bool = Field(
        default=True,
        description="leave out what the last layer computes behind keys and values for prompt"
        " tokens whose state nobody reads; only where the engine runs without compilation",
    )
    attention: Literal["engine", "scattered", "measured"] = Field(
        default="engine",
        description="what attends in a sparse prefill on a GPU: 'engine', 'scattered' (our kernel),"
        " or 'measured': the faster one in `kernel.figures`",
    )
    figures: str | None = Field(
        default=None,
        description="file that `python -m benchmarks.kernels --json FILE` wrote on this device",
    )


class ReuseSettings(_Frozen):
    """Everything that the vLLM plugin needs to know: `kv_connector_extra_config` as a value."""

    segment: SegmentConfig = SegmentConfig()
    reuse: ReuseConfig = ReuseConfig()
    store: StoreConfig = StoreConfig()
    slice: SliceConfig = SliceConfig()
    gate: GateConfig = GateConfig()
    kernel: KernelConfig = KernelConfig()


class ReuseParams(_Frozen):
    """A request's `kv_transfer_params`, all optional; unset means the server's default."""

    reuse: ReuseMode | None = None
    budget: Share | None = None
    full_layers: FullLayers | None = None
    selector: SelectorName | None = None
    suspects: Share | None = None
    publish: StrictBool | None = None
    """False: leaves neither segments nor prefix blocks nor sensitivities behind, and reads no
    prefix; for checks and measurements."""
    segments: tuple[Annotated[StrictInt, Field(ge=0)], ...] = ()
    ttl: Annotated[StrictFloat | StrictInt, Field(ge=0, le=MOST_TTL)] | None = None
    """Seconds for which the prompt's segments are kept rather than others; 0: no longer."""
    scope: Literal["graph", "tenant", "public"] | None = None
    """Who may share what the request leaves; unset: graph with a `cache_salt`, else tenant. Settled
    by the HTTP server, which knows tenants; the engine sees a salt."""


Model = TypeVar("Model", bound=BaseModel)


def parse_settings(values: Mapping[str, Any]) -> ReuseSettings:
    """Check nested settings. Raises InvalidConfig that names the key and what is allowed."""
    return validated(ReuseSettings, values, InvalidConfig)


def parse_request(params: Mapping[str, Any] | None) -> ReuseParams:
    """Check a request's `kv_transfer_params`. Raises InvalidRequest."""
    return validated(ReuseParams, params or {}, InvalidRequest, prefix="kv_transfer_params")


def validated(
    model: type[Model], values: Mapping[str, Any], error: type[InvalidInput], prefix: str = ""
) -> Model:
    """Build `model` from `values`; the first problem becomes one `error` with the fix in it."""
    try:
        return model.model_validate(values)
    except ValidationError as failure:
        first = failure.errors()[0]
        # pydantic adds the arms of unions and the indices of lists to the path.
        path = [part for part in first["loc"] if isinstance(part, str)]
        path = [part for part in path if part not in ("float", "int")]
        field = ".".join([*([prefix] if prefix else []), *path]) or model.__name__
        raise error(field, _problem(first), _allowed(model, path, first)) from failure


def _problem(detail: Mapping[str, Any]) -> str:
    if detail["type"] == "extra_forbidden":
        return "unknown key"
    return f"{detail['msg']} (got {detail['input']!r})"


def _allowed(model: type[BaseModel], path: list[str], detail: Mapping[str, Any]) -> str:
    owner: Any = model
    for part in path[:-1]:
        owner = getattr(owner.model_fields.get(part), "annotation", owner)
    if detail["type"] == "extra_forbidden":
        return ", ".join(owner.model_fields)
    expected = (detail.get("ctx") or {}).get("expected")
    if expected:
        return str(expected)
    name = path[-1] if path else ""
    field = owner.model_fields.get(name)
    if hasattr(getattr(field, "annotation", None), "model_fields"):
        return f"a mapping with {', '.join(field.annotation.model_fields)}"
    return _FIELD_HELP.get(name) or (_range(field) if field else "see docs/configuration.md")


def _range(field: FieldInfo) -> str:
    """What a plain field may be, from its type and bounds."""
    if "bool" in str(field.annotation):
        return f"true or false ({field.description})"
    kind = "an integer" if "int" in str(field.annotation) else "a value"
    low = next((bound.ge for bound in field.metadata if hasattr(bound, "ge")), None)
    high = next((bound.le for bound in field.metadata if hasattr(bound, "le")), None)
    bounds = f" from {low} to {high}" if high is not None else f" of {low} or more"
    return f"{kind}{bounds if low is not None else ''} ({field.description})"


_FIELD_HELP = {
    "budget": "a number from 0.0 to 1.0",
    "suspects": "a number from 0.0 to 1.0",
    "publish": "true or false",
    "full_layers": "an integer of 0 or more",
    "segments": "a list of token offsets, integers of 0 or more",
    "ttl": "seconds, a number from 0 to 3600",
}
