"""Values of a state as JSON, and back.

Plain JSON stays as it is. Everything else goes into an envelope `{"$type": ..., "value": ...}`:
tuples, sets, bytes, dates, numbers that JSON lacks, dicts whose keys are no text, enums, and
instances of dataclasses and pydantic models by import path ("package.module:Class"). Nothing is
pickled. Reading imports the module that an envelope names, and makes only those kinds of classes:
treat a checkpoint database like the program's own code.
"""

from __future__ import annotations

import base64
import dataclasses
import importlib
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from ..errors import CheckpointError, NotSerialisable
from ..narrowing import class_of, is_mapping, is_series

TYPE, VALUE = "$type", "value"
ENVELOPE = {TYPE, VALUE}

_SCALARS: dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    bytes: (lambda v: base64.b64encode(v).decode(), base64.b64decode),
    datetime: (datetime.isoformat, datetime.fromisoformat),
    date: (date.isoformat, date.fromisoformat),
    time: (time.isoformat, time.fromisoformat),
    timedelta: (lambda v: [v.days, v.seconds, v.microseconds], lambda v: timedelta(*v)),
    Decimal: (str, Decimal),
    complex: (lambda v: [v.real, v.imag], lambda v: complex(*v)),
    UUID: (str, UUID),
}
_SERIES: dict[type, Callable[[Any], Any]] = {tuple: tuple, set: set, frozenset: frozenset}
_BY_NAME: dict[str, Callable[[Any], Any]] = {
    **{kind.__name__: read for kind, (_, read) in _SCALARS.items()},
    **{kind.__name__: make for kind, make in _SERIES.items()},
    "dict": dict,
    "float": float,
}


def encode(value: Any, where: str) -> Any:
    """A value as JSON; `where` names it in the error if that cannot be."""
    kind = class_of(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if value - value == 0 else _envelope("float", repr(value))
    if kind is list:
        return [encode(item, where) for item in value]
    if kind is dict:
        return _encode_dict(value, where)
    if kind in _SCALARS:
        return _envelope(kind.__name__, _SCALARS[kind][0](value))
    if kind in _SERIES:
        return _envelope(kind.__name__, [encode(item, where) for item in _in_order(value)])
    return _encode_object(value, where)


def decode(value: Any, where: str) -> Any:
    """The value that `encode` was given."""
    if is_series(value):
        return [decode(item, where) for item in value]
    if not is_mapping(value):
        return value
    if set(value) != ENVELOPE:
        return {key: decode(item, where) for key, item in value.items()}
    name, inner = str(value[TYPE]), decode(value[VALUE], where)
    try:
        return _BY_NAME[name](inner) if name in _BY_NAME else _remake(_class_at(name), inner)
    except Exception as error:
        raise CheckpointError(
            f"{where} holds a {name} that cannot be made again ({type(error).__name__}: {error}); "
            "keep the class importable under that name, and new fields of it with a default"
        ) from error


def _envelope(name: str, value: Any) -> dict[str, Any]:
    return {TYPE: name, VALUE: value}


def _in_order(value: Any) -> list[Any]:
    items = list(value)
    return items if isinstance(value, tuple) else sorted(items, key=repr)


def _encode_dict(value: dict[Any, Any], where: str) -> Any:
    if all(type(key) is str for key in value) and set(value) != ENVELOPE:
        return {key: encode(item, where) for key, item in value.items()}
    pairs = [[encode(key, where), encode(item, where)] for key, item in value.items()]
    return _envelope("dict", pairs)


def _encode_object(value: Any, where: str) -> Any:
    kind = class_of(value)
    fields = _fields_of(value)
    if fields is None:
        raise NotSerialisable(
            where, value, "use plain JSON values, a dataclass or a pydantic model, or leave it out"
        )
    path = f"{kind.__module__}:{kind.__qualname__}"
    try:
        is_found = _class_at(path) is kind
    except (AttributeError, ImportError, TypeError):
        is_found = False
    if not is_found:
        raise NotSerialisable(where, value, f"{path} cannot be imported; define it at module level")
    return _envelope(path, encode(fields, where))


def _fields_of(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields} | (
            value.model_extra or {}
        )
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return list(value) if _is_named_tuple(class_of(value)) else None


def _class_at(path: str) -> type[Any]:
    module, _, name = path.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not isinstance(found, type):
        raise TypeError(f"{path} is no class")
    return found


def _remake(kind: type[Any], inner: Any) -> Any:
    if issubclass(kind, BaseModel):
        return kind.model_validate({_alias(kind, name): held for name, held in inner.items()})
    if issubclass(kind, Enum | PurePath):
        return kind(inner)
    if dataclasses.is_dataclass(kind):
        return _remake_dataclass(kind, inner)
    if _is_named_tuple(kind):
        return kind(*inner)
    raise TypeError("neither a dataclass nor a pydantic model, an enum, a path or a named tuple")


def _remake_dataclass(kind: type[Any], inner: Mapping[str, Any]) -> Any:
    late = {field.name for field in dataclasses.fields(kind) if not field.init}
    made = kind(**{name: held for name, held in inner.items() if name not in late})
    for name in late & inner.keys():
        object.__setattr__(made, name, inner[name])
    return made


def _is_named_tuple(kind: type[Any]) -> bool:
    return hasattr(kind, "_fields") and issubclass(kind, tuple)


def _alias(kind: type[BaseModel], name: str) -> str:
    info = kind.model_fields.get(name)
    if info is None:
        return name
    alias = info.validation_alias or info.alias
    return alias if isinstance(alias, str) else name
