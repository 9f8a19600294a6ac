"""The settings section `graphs`: which agent graphs the server offers, and under which names.

Knows no graph: a place is the text `module:attribute`, and what stands there is found later.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_PLACE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def _places(value: Any) -> Any:
    """From an environment variable: name=module:attribute, with commas between; or JSON."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = json.loads(value)
    if isinstance(value, str):
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        value = {name.strip(): place.strip() for name, _, place in pairs}
    if isinstance(value, dict):
        for name, place in value.items():
            if not _NAME.fullmatch(str(name)) or not _PLACE.fullmatch(str(place)):
                raise ValueError(f"{name}={place} is not of the form name=module:attribute")
    return value


class GraphsConfig(BaseModel):
    """Agent graphs behind HTTP."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    serve: Annotated[dict[str, str], BeforeValidator(_places)] = Field(
        {}, description="graphs under /v1/graphs: name=module:attribute, with commas between"
    )
