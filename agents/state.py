"""The state of a graph: its keys, how writes to each are joined, and the view that nodes get.

A `Schema` is read once from a TypedDict, a dataclass or a pydantic model. Values live in a plain
dict; a node sees them as the class the graph was made with. A reducer takes the value so far and
the one written, and returns a new one; it must change neither. Knows no nodes and no edges.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import BaseModel, ValidationError
from typing_extensions import is_typeddict

from .errors import InvalidState, ParallelWriteError, ReducerFailed, UnknownKey
from .narrowing import class_of, is_mapping, is_series

Reducer = Callable[[Any, Any], Any]
Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Write:
    """What one execution of a node wrote; later updates of one execution win."""

    writer: str
    updates: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the state."""

    name: str
    reducer: Reducer | None
    make: Callable[[], Any] | None
    """its value before anything is written; None: it has none"""


@dataclass(frozen=True, slots=True)
class Schema:
    """What a state class says about its keys."""

    cls: type[Any]
    keys: Mapping[str, Key]

    def start(self) -> Values:
        """Values of a thread that nobody has written to."""
        return {name: key.make() for name, key in self.keys.items() if key.make is not None}

    def view(self, values: Mapping[str, Any], reader: str) -> Any:
        """The values as `cls`, for one reader; the dict itself is never shared."""
        known = {name: value for name, value in values.items() if name in self.keys}
        if not (dataclasses.is_dataclass(self.cls) or issubclass(self.cls, BaseModel)):
            return known
        try:
            return self.cls(**known)
        except (ValidationError, TypeError) as error:
            raise InvalidState(
                f"the state does not fit {self.cls.__name__} for {reader}: {error}; give the key "
                "a default, or a fitting value in the input or the update"
            ) from error

    def update(self, written: object, writer: str) -> Mapping[str, Any]:
        """What a node returned, as a checked dict of the keys that it writes."""
        update: Mapping[str, Any]
        if is_mapping(written):
            update = dict(written)
        elif not is_typeddict(self.cls) and isinstance(written, self.cls):
            update = _written_fields(written)
        else:
            raise InvalidState(
                f"{writer} returned a {type(written).__name__}; return a dict of the keys to "
                "write, a Command, or None"
            )
        for key in update:
            if key not in self.keys:
                raise UnknownKey(writer, key, self.keys)
        return update

    def merge(self, values: Mapping[str, Any], writes: Iterable[Write]) -> Values:
        """The values after one super-step's writes, joined in the order given."""
        writes = list(writes)
        self._refuse_parallel(writes)
        merged = dict(values)
        for write in writes:
            for update in write.updates:
                for name, value in update.items():
                    merged[name] = self._join(name, merged, value, write.writer)
        return merged

    def _join(self, name: str, merged: Values, value: Any, writer: str) -> Any:
        reducer = self.keys[name].reducer
        if reducer is None or name not in merged:
            return value
        try:
            return reducer(merged[name], value)
        except Exception as error:
            raise ReducerFailed(name, writer, error) from error

    def _refuse_parallel(self, writes: Sequence[Write]) -> None:
        writers: dict[str, list[str]] = {}
        for write in writes:
            for name in {name for update in write.updates for name in update}:
                if self.keys[name].reducer is None:
                    writers.setdefault(name, []).append(write.writer)
        for name, nodes in writers.items():
            if len(nodes) > 1:
                raise ParallelWriteError(name, nodes)


def schema_of(cls: type[Any]) -> Schema:
    """Read a state class; raises InvalidState."""
    if not inspect.isclass(cls) or not (
        is_typeddict(cls) or dataclasses.is_dataclass(cls) or issubclass(cls, BaseModel)
    ):
        raise InvalidState(f"{cls!r} is no state; use a TypedDict, a dataclass or a pydantic model")
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError as error:
        raise InvalidState(
            f"the annotations of {cls.__name__} cannot be read ({error}); define the state and the "
            "types it names at module level"
        ) from error
    names = _field_names(cls, hints)
    return Schema(cls, {name: _key(cls, name, hints[name]) for name in names})


def append_messages(left: Sequence[Any], right: Any) -> list[Any]:
    """Reducer of a list of messages: appends one or several.

    A dict with the `id` of an earlier one replaces it in place.
    """
    merged = list(left)
    new: Sequence[Any] = right if is_series(right) else [right]
    places = {_id_of(item): place for place, item in enumerate(merged)}
    for item in new:
        key = _id_of(item)
        if key is not None and key in places:
            merged[places[key]] = item
        else:
            places[key] = len(merged)
            merged.append(item)
    return merged


def _id_of(item: Any) -> Any:
    return item.get("id") if is_mapping(item) else None


def _field_names(cls: type[Any], hints: Mapping[str, Any]) -> list[str]:
    if dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls) if field.init]
    if issubclass(cls, BaseModel):
        return list(cls.model_fields)
    return list(hints)


def _key(cls: type[Any], name: str, hint: Any) -> Key:
    while typing.get_origin(hint) in (typing.Required, typing.NotRequired):
        hint = typing.get_args(hint)[0]
    reducer = _reducer(cls, name, hint)
    plain = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    make = _default(cls, name)
    if make is None and reducer is not None:
        make = _empty(plain)
    return Key(name, reducer, make)


def _reducer(cls: type[Any], name: str, hint: Any) -> Reducer | None:
    """The last callable of Annotated[T, ...] that is no class; others are not ours to judge."""
    extras = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    found = [extra for extra in extras if callable(extra) and not isinstance(extra, type)]
    if not found:
        return None
    reducer = found[-1]
    try:
        inspect.signature(reducer).bind(None, None)
    except TypeError as error:
        raise InvalidState(
            f"the reducer of {cls.__name__}.{name} must take two values, the one so far and the "
            f"one written ({error})"
        ) from error
    except ValueError:  # some built-ins have no signature
        pass
    return cast("Reducer", reducer)


def _default(cls: type[Any], name: str) -> Callable[[], Any] | None:
    if issubclass(cls, BaseModel):
        info = cls.model_fields[name]
        return None if info.is_required() else lambda: info.get_default(call_default_factory=True)
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        if field.name == name:
            if field.default_factory is not dataclasses.MISSING:
                return field.default_factory
            if field.default is not dataclasses.MISSING:
                value = field.default
                return lambda: value
    return None


def _empty(plain: Any) -> Callable[[], Any] | None:
    """`list()` and the like: a key with a reducer begins empty, so the first write is joined."""
    kind = typing.get_origin(plain) or plain
    return kind if kind in (list, dict, set, frozenset, tuple, str, int, float) else None


def _written_fields(state: Any) -> dict[str, Any]:
    """A returned state object writes the fields that were given a value."""
    if isinstance(state, BaseModel):
        return {name: getattr(state, name) for name in state.model_fields_set}
    written: dict[str, Any] = {}
    cls = class_of(state)
    for field in dataclasses.fields(cls):
        value, default = getattr(state, field.name), _default(cls, field.name)
        if default is None or value != default():
            written[field.name] = value
    return written
