"""The one reader of settings: from YAML files, mappings and words of the command line to typed dataclasses.

Every value is checked against the type hint of its field, so that no caller can make settings that another would refuse.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from mmdflow import _checks
from mmdflow._files import reading
from mmdflow.errors import InputError

Settings = TypeVar("Settings")

#: Numbers that YAML 1.1 takes for words, as 1e-3; nan and infinity are not among them.
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


class Source(NamedTuple):
    """Fields, some of them perhaps nested, and where they are from.

    Attributes:
        fields: values by the names of the fields.
        name: what messages call the source, as "recipe mine.yaml"; empty for options and keyword arguments.
    """

    fields: Mapping[str, Any]
    name: str = ""


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the fields of a YAML file.

    Raises:
        InputError: if it cannot be read, is no YAML, or holds anything but fields.
    """
    with reading(file, "not readable YAML"):
        if not file.exists():
            there = [str(other) for ending in ("*.yaml", "*.yml") for other in file.parent.glob(ending)]
            raise InputError(f"{file}: no such file{_checks.near(str(file), there)}")
        content = yaml.safe_load(file.read_text())
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds {_shown(content)}: must hold fields, a line each, as `name: value`")
    return {str(name): value for name, value in content.items()}


def read_settings(kind: type[Settings], *sources: Source) -> Settings:
    """Return a settings dataclass with the fields of all sources; a later source goes over an earlier one.

    A field that there was once may stand in the class variable `RETIRED` of its dataclass, with the value that means what is
    done today. Old files that hold this value can be read.

    Args:
        kind: a dataclass; its fields may be dataclasses themselves.
        sources: fields; those that none gives have their defaults.

    Raises:
        InputError: for an unknown field, a value of the wrong type, or values that the dataclass refuses. The message names the
            source, the dotted field, the value, and what is allowed.

    Example:
        >>> from mmdflow.recipe import FlowSpec
        >>> read_settings(FlowSpec, Source({"num_steps": 5, "divergence": {"name": "kale"}})).divergence.name
        'kale'
    """
    values: dict[str, Any] = {}
    for source in sources:
        try:
            values = merged(values, _typed_fields(kind, source.fields, ""))
        except InputError as error:
            raise _from_source(error, source) from None
    try:
        return _built(kind, values, "")
    except InputError as error:
        field = re.match(r"[\w.]*", str(error))
        blamed = [source for source in sources if field and _holds(source.fields, field.group().split("."))]
        raise (_from_source(error, blamed[-1]) if blamed else error) from None


def merged(fields: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with changes over them: of nested fields only those that change."""
    result = dict(fields)
    for name, value in changes.items():
        before = result.get(name)
        nested = isinstance(value, Mapping) and isinstance(before, Mapping)
        result[name] = merged(before, value) if nested else value  # type: ignore[arg-type]
    return result


def read_value(field: str, value: Any, kind: Any) -> Any:
    """Return a value as its type hint has it: a list as a tuple where that is meant, 1 and "1e-3" as floats.

    Raises:
        InputError: if it is of another type.

    Example:
        >>> read_value("betas", [0, "5e-1"], tuple[float, float])
        (0.0, 0.5)
    """
    try:
        return _converted(value, kind)
    except _WrongTypeError:
        raise _wrong_type(field, value, kind) from None


def read_text(field: str, text: str, kind: Any) -> Any:
    """Return what a word of the command line stands for: itself, where its type hint allows text, else its meaning in YAML.

    Raises:
        InputError: if it stands for nothing of that type.

    Example:
        >>> read_text("seed", "3", int), read_text("path", "3", str | None), read_text("path", "null", str | None)
        (3, '3', None)
    """
    readings: list[Any] = [None] if text in ("null", "~") else []
    readings.append(text)
    with suppress(yaml.YAMLError, ValueError, RecursionError):
        readings.append(yaml.safe_load(text))
    for value in readings:
        try:
            return _converted(value, kind)
        except _WrongTypeError:
            continue
    raise _wrong_type(field, readings[-1], kind)


def type_text(kind: Any) -> str:
    """Return a type hint in words: what a message says after "must be"."""
    origin = get_origin(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if origin in (Union, UnionType):
        return " or ".join(type_text(member) for member in get_args(kind) if member is not NoneType)
    if origin in (list, tuple) or kind in (list, tuple):
        return "a list, in brackets: [a,b]"
    if is_dataclass(kind):
        return f"fields, as `{fields(kind)[0].name}: value`"
    return "true or false" if kind is bool else str(getattr(kind, "__name__", kind))


class _WrongTypeError(Exception):
    """A value that is not of its type."""


def _typed_fields(kind: Any, given: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return fields with their names and types checked, nested ones as mappings still."""
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    retired: Mapping[str, Any] = getattr(kind, "RETIRED", {})
    typed: dict[str, Any] = {}
    for name, value in given.items():
        if name in retired:
            if value != retired[name]:
                raise InputError(
                    f"{path}{name} = {value!r}: is no field any more; must be left out or {retired[name]!r}"
                )
            continue
        if name not in names:
            there = [f"{path}{known}" for known in names]
            hint = _checks.near(f"{path}{name}", there) or f"; there are {', '.join(there)}"
            raise InputError(f"a field has the wrong name ({path}{name}){hint}")
        if is_dataclass(hints[name]) and isinstance(value, Mapping):
            typed[name] = _typed_fields(hints[name], value, f"{path}{name}.")
        else:
            typed[name] = read_value(f"{path}{name}", value, hints[name])
    return typed


def _built(kind: Any, values: Mapping[str, Any], path: str) -> Any:
    """Return the dataclass of checked fields."""
    hints, built = get_type_hints(kind), dict(values)
    for name, value in values.items():
        if is_dataclass(hints[name]) and isinstance(value, Mapping):
            built[name] = _built(hints[name], value, f"{path}{name}.")
    for field in fields(kind):
        if field.name not in built and field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{path}{field.name} is missing: must be {type_text(hints[field.name])}")
    try:
        return kind(**built)
    except InputError as error:
        message, section = str(error), getattr(kind, "section", "")
        complaint = message.removeprefix(section)  # the dataclass may stand elsewhere in a recipe, or outside of one
        first = re.match(r"\w*", complaint)
        raise (InputError(f"{path}{complaint}") if first and first.group() in hints else error) from None


def _converted(value: Any, kind: Any) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _first_that_fits(value, arguments)
    if origin is Literal and any(value == allowed and type(value) is type(allowed) for allowed in arguments):
        return value
    if origin in (list, tuple) and isinstance(value, list | tuple):
        members = [arguments[0]] * len(value) if origin is list or arguments[-1] is Ellipsis else arguments
        if len(members) == len(value):
            return origin(map(_converted, value, members))
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        number = _number(value)
        if not isinstance(number, str):
            return float(number)
    plain = origin is None and isinstance(kind, type) and kind is not float
    if plain and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise _WrongTypeError


def _first_that_fits(value: Any, kinds: tuple[Any, ...]) -> Any:
    for kind in kinds:
        try:
            return _converted(value, kind)
        except _WrongTypeError:
            continue
    raise _WrongTypeError


def _number(value: Any) -> Any:
    """Return the number that a text is, or else the value itself."""
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def _wrong_type(field: str, value: Any, kind: Any) -> InputError:
    needed = type_text(kind)
    if isinstance(value, str) and value.lower().lstrip("+-") in ("nan", "inf", "infinity"):
        needed = re.sub(r"\bfloat\b", "a finite number", needed)
    return InputError(f"{field} = {_shown(_number(value))}: must be {needed}")


def _shown(value: Any) -> str:
    return repr(str(value)[:80])


def _from_source(error: InputError, source: Source) -> InputError:
    return InputError(f"{source.name}: {error}") if source.name else error


def _holds(given: Any, path: list[str]) -> bool:
    """Whether nested fields have an entry at a path."""
    if not path:
        return True
    return isinstance(given, Mapping) and path[0] in given and _holds(given[path[0]], path[1:])
