"""Frozen dataclasses that check their fields, and that are built from plain data such as JSON.

An annotation says what a field may hold: ``Annotated[int, Range(1, 64)]`` or ``Literal["input", "condition"]``.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound="KindSettings")


MAX_TEXT = 1000  # characters of a name, or of a place where files lie


class ConfigError(ValueError):
    """A configuration with an unknown field, a missing field, or a value out of range."""


@dataclass(frozen=True)
class Range:
    """The range of a numeric field, including both ends."""

    low: float
    high: float


# For each base class of settings, the registry whose kinds a configuration may name. The first kind is the default.
Kinds = Mapping[type, Mapping[str, Any]]


@dataclass(frozen=True)
class Settings:
    """Refuses fields outside the ranges and choices of their annotations, with :class:`ConfigError`."""

    section: ClassVar[str] = ""  # of a configuration, for messages

    def __post_init__(self) -> None:
        for name, hint in field_annotations(type(self)).items():  # type: ignore[arg-type]  # frozen: hashable
            _check(hint, getattr(self, name), f"{self.section}.{name}")


@dataclass(frozen=True)
class KindSettings(Settings):
    """Settings of one kind of a registry. Each kind has a subclass, which names it as the default of ``kind``."""

    # Of a base class: fields that every configuration listed while all kinds shared one class. See :func:`from_dict`.
    shared_fields: ClassVar[frozenset[str]] = frozenset()

    kind: str = ""

    def __post_init__(self) -> None:
        if not self.kind or self.kind != type(self).kind:
            allowed = repr(type(self).kind) if type(self).kind else "that of a subclass"
            raise ConfigError(f"{self.section}.kind must be {allowed} in {type(self).__name__}, got {self.kind!r}")
        super().__post_init__()


@cache
def field_annotations(cls: type) -> dict[str, Any]:
    """{field: annotation} of a dataclass, with ranges."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _check(hint: Any, value: Any, path: str) -> None:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        kind, allowed = arguments
        whole = kind is int
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not (number and allowed.low <= value <= allowed.high):
            name = "a whole number" if whole else "a number"
            raise ConfigError(
                f"{path} must be {name} from {allowed.low:.12g} to {allowed.high:.12g}, got {value!r:.100}"
            )
    elif origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{path} must be one of {', '.join(arguments)}, got {value!r:.100}")
    elif origin is tuple:
        for item in value:
            _check(arguments[0], item, path)
    elif hint is str:
        check_text(path, value)


def check_text(path: str, value: Any) -> None:
    """Raises :class:`ConfigError` unless ``value`` is a short text that can be shown."""
    if not (isinstance(value, str) and len(value) <= MAX_TEXT and (value.isprintable() or not value)):
        raise ConfigError(f"{path} must be a text of at most {MAX_TEXT} printable characters, got {value!r:.100}")


def as_kind(settings: KindSettings, cls: type[K]) -> K:
    """Settings of another kind: fields that both have, apart from ``kind``, keep their values."""
    if isinstance(settings, cls):
        return settings
    shared = {field.name for field in dataclasses.fields(cls)} - {"kind"}
    return cls(**{name: value for name, value in vars(settings).items() if name in shared})


def from_dict(cls: type[T], data: Any, path: str = "", kinds: Kinds | None = None) -> T:
    """Build dataclass ``cls`` from nested plain data; fields that are absent keep their defaults.

    kinds: needed where ``cls`` holds settings of kinds.
    Raises :class:`ConfigError` that names the dotted path of an unknown kind, an unknown or missing field, or a value
    of the wrong type.

    A setting of another kind is an unknown field. Old configurations are the exception: all kinds once shared a class,
    and files list all its fields, those of every kind. A section that has all of ``shared_fields``, the fields of the
    first version of that class, is taken as old, and its settings of other kinds are dropped.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{path or cls.__name__} must be an object with fields, got {data!r:.100}")
    if _is_open(cls):
        cls, data = _of_kind(cls, data, path, kinds or {})
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]  # T is a dataclass
    prefix = f"{path}." if path else ""
    for key in data:
        if key not in known:
            raise ConfigError(f"unknown field {prefix}{key!s:.100}; allowed are {', '.join(known)}")
    values = {key: _convert(hints[key], value, prefix + key, kinds) for key, value in data.items()}
    for name, field in known.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            if not _is_open(hints[name]):
                raise ConfigError(f"missing field {prefix}{name}")
            values[name] = from_dict(hints[name], {}, prefix + name, kinds)
    return cls(**values)


def _is_open(cls: Any) -> bool:
    """Whether ``cls`` stands for the settings of any kind of a registry."""
    return isinstance(cls, type) and issubclass(cls, KindSettings) and not cls.kind


def _of_kind(cls: Any, data: Mapping[str, Any], path: str, kinds: Kinds) -> tuple[Any, Mapping[str, Any]]:
    """The settings class that ``data`` names, and its part of ``data``."""
    registry = kinds[cls]
    kind = data.get("kind", next(iter(registry)))
    if not isinstance(kind, str) or kind not in registry:
        raise ConfigError(f"{path or cls.section}.kind must be one of {', '.join(registry)}, got {kind!r:.100}")
    chosen = registry[kind].Config
    if not cls.shared_fields or not cls.shared_fields <= data.keys():
        return chosen, data
    own = {field.name for field in dataclasses.fields(chosen)}
    others = {field.name for each in registry.values() for field in dataclasses.fields(each.Config)}
    return chosen, {key: value for key, value in data.items() if key in own or key not in others}


def _convert(hint: Any, value: Any, path: str, kinds: Kinds | None) -> Any:
    origin = typing.get_origin(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_dict(hint, value, path, kinds)
    if origin is types.UnionType:  # X | None
        return None if value is None else _convert(typing.get_args(hint)[0], value, path, kinds)
    if hint is Any or origin is Literal:
        return value  # checked by the dataclass
    if origin is Mapping:
        if not isinstance(value, typing.Mapping):
            raise ConfigError(f"{path} must be an object with fields, got {value!r:.100}")
        inner = typing.get_args(hint)[1]
        return {str(key): _convert(inner, item, f"{path}.{key}", kinds) for key, item in value.items()}
    if origin is tuple:
        inner = typing.get_args(hint)
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{path} must be a list, got {value!r:.100}")
        inner = (inner[0],) * len(value) if len(inner) == 2 and inner[1] is Ellipsis else inner
        if len(value) != len(inner):
            raise ConfigError(f"{path} must hold {len(inner)} values, got {value!r:.100}")
        return tuple(_convert(kind, item, path, kinds) for kind, item in zip(inner, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{path} must be a finite number, got one of {value.bit_length()} bits") from None
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{path} must be of type {hint.__name__}, got {value!r:.100}")
    if hint is float and not math.isfinite(value):
        raise ConfigError(f"{path} must be a finite number, got {value!r:.100}")
    return value
