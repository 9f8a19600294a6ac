"""Every setting of a deployment as one frozen value, and the three places that fill it.

Precedence, lowest first: defaults, a YAML file, the environment. Each value is checked once, here;
an unknown key or variable is refused with the allowed ones named. Knows neither ray nor vllm.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

import raysparsex
from raysparsex.config import (
    GateConfig,
    KernelConfig,
    ReuseConfig,
    ReuseSettings,
    SegmentConfig,
    SliceConfig,
    StoreConfig,
    validated,
)
from raysparsex.errors import InvalidConfig

from .graphs_config import GraphsConfig
from .routing_config import RoutingConfig
from .tenants_config import TenantsConfig

PREFIX = "RAYSPARSEX_"
CONFIG_VARIABLE = "RAYSPARSEX_CONFIG"
EMBEDDED_MODEL = "raysparsex-tiny"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ServerConfig(_Section):
    """Where the HTTP server listens and what it leaves on disk."""

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(8000, ge=1, le=65535, description="port to listen on")
    log_dir: Path = Field(
        Path("~/.cache/raysparsex/logs"), description="folder for the log of each start"
    )


class EngineConfig(_Section):
    """What vLLM is told. Unset values are vLLM's own defaults, or fitted to the machine."""

    device: Literal["auto", "cpu", "gpu"] = Field(
        "auto", description="'cpu', 'gpu', or 'auto': a GPU if the cluster has one at the start"
    )
    max_model_len: int | None = Field(
        None,
        ge=1,
        description="longest prompt plus answer, in tokens; unset: what model and memory allow",
    )
    kv_cache_bytes: int | None = Field(
        None,
        ge=1,
        description="bytes of paged KV cache; unset: fitted to model and machine",
    )
    dtype: str = Field("auto", description="'auto', 'float32', 'bfloat16' or 'float16'")
    tensor_parallel: int = Field(1, ge=1, description="devices that share one replica's layers")
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="share of GPU memory that vLLM may take"
    )
    max_num_seqs: int = Field(64, ge=1, description="requests that one replica runs at once")
    threads: int | None = Field(
        None, ge=1, description="CPU threads of one replica; unset: the machine's, shared evenly"
    )
    enforce_eager: bool | None = Field(
        None, description="run without compilation; unset: yes on a CPU, no on a GPU"
    )
    tool_parser: str | None = Field(
        None,
        min_length=1,
        description="how the model writes tool calls, as vLLM names it (hermes, llama3_json,"
        " mistral, ...); unset: tools are refused, but for the embedded model",
    )
    replicas: int = Field(1, ge=1, description="replicas at the start")
    max_replicas: int | None = Field(
        None, ge=1, description="autoscale from `replicas` up to this many; unset: fixed"
    )
    waiting_tokens: int = Field(
        16384,
        ge=1,
        description="autoscaling: prompt tokens that may wait for their answer per replica",
    )

    @property
    def may_be_several(self) -> bool:
        """Whether there can be more than one replica."""
        return (self.max_replicas or self.replicas) > 1

    @model_validator(mode="after")
    def _scales_upwards(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError("replicas <= max_replicas must hold")
        return self


class Settings(_Section):
    """Everything a deployment needs to know."""

    model: str = Field(
        EMBEDDED_MODEL, description="a folder, a Hugging Face name, or the embedded model"
    )
    server: ServerConfig = ServerConfig()
    engine: EngineConfig = EngineConfig()
    segment: SegmentConfig = SegmentConfig()
    reuse: ReuseConfig = ReuseConfig()
    store: StoreConfig = StoreConfig()
    slice: SliceConfig = SliceConfig()
    gate: GateConfig = GateConfig()
    kernel: KernelConfig = KernelConfig()
    tenants: TenantsConfig = TenantsConfig()
    routing: RoutingConfig = RoutingConfig()
    graphs: GraphsConfig = GraphsConfig()

    @property
    def shares(self) -> bool:
        """Whether replicas share segments."""
        shared = self.store.shared
        return self.engine.may_be_several if shared is None else shared

    def for_plugin(self) -> ReuseSettings:
        """The part that the vLLM plugin reads."""
        return ReuseSettings(
            segment=self.segment,
            reuse=self.reuse,
            store=self.store.model_copy(update={"shared": self.shares}),
            slice=self.slice,
            gate=self.gate,
            kernel=self.kernel,
        )


def load_settings(
    config: Path | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """Read the YAML file and the environment. Raises InvalidConfig that says how to mend it."""
    variables = os.environ if environment is None else environment
    path = config or _path_or_none(variables.get(CONFIG_VARIABLE))
    values = _read_yaml(path) if path else {}
    names: dict[str, str] = {}
    for variable, keys, text in _read_environment(variables):
        _put(values, keys, text)
        names[".".join(keys)] = variable
    try:
        return validated(Settings, values, InvalidConfig)
    except InvalidConfig as error:
        name = names.get(error.field)
        if name is None:
            raise
        raise InvalidConfig(name, error.problem, error.allowed) from error


def model_source(settings: Settings) -> str:
    """Where the weights are: the embedded folder, a local folder, or a Hugging Face name."""
    name = settings.model
    embedded = Path(raysparsex.__file__).parent / "models" / name
    if os.sep not in name and embedded.is_dir():
        return str(embedded)
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path.resolve())
    if name == EMBEDDED_MODEL or name.startswith(("/", ".", "~")) or name.endswith("/"):
        raise InvalidConfig("model", f"no folder {name!r}", "a folder with config.json and weights")
    return name


def model_id(settings: Settings) -> str:
    """The name that clients use: a folder's own name, or the Hugging Face name."""
    source = model_source(settings)
    return Path(source).name if os.path.isdir(source) else source


class Described(NamedTuple):
    """One setting, for the help text and for reading the environment."""

    key: str
    variable: str
    default: object
    meaning: str


def describe() -> Iterator[Described]:
    """Each setting, in the order of the models."""
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            for key, inner in section.model_fields.items():
                yield _described(f"{name}.{key}", inner)
        else:
            yield _described(name, field)


def _described(key: str, field: FieldInfo) -> Described:
    variable = PREFIX + key.replace(".", "__").upper()
    return Described(key, variable, field.default, field.description or "")


def _path_or_none(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidConfig(str(path), f"cannot be read ({error})", "a YAML file") from error
    except yaml.YAMLError as error:
        raise InvalidConfig(str(path), f"is not YAML ({error})", "a YAML file") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InvalidConfig(str(path), "is not a mapping", ", ".join(Settings.model_fields))
    return values


def _read_environment(
    variables: Mapping[str, str],
) -> Iterator[tuple[str, tuple[str, ...], str]]:
    known = {row.variable: tuple(row.key.split(".")) for row in describe()}
    for variable, text in sorted(variables.items()):
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE:
            continue
        if variable not in known:
            raise InvalidConfig(variable, "unknown variable", ", ".join([CONFIG_VARIABLE, *known]))
        if text:
            yield variable, known[variable], text


def _put(values: dict[str, Any], keys: tuple[str, ...], value: str) -> None:
    *sections, last = keys
    for section in sections:
        inner = values.get(section)
        values[section] = values = dict(inner) if isinstance(inner, dict) else {}
    values[last] = value
