"""Settings: frozen dataclasses that are written once and used by the library, recipes, the command line and the docs.

What a field is called, its type and its default stand in the dataclass; what it means stands in the docstring's `Attributes`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from mmdflow import _checks
from mmdflow.errors import InputError

Settings = TypeVar("Settings")


class Field(NamedTuple):
    """A field of a settings dataclass: its type, its default (MISSING where it has none) and what it means."""

    name: str
    type: Any
    default: Any
    text: str


def fields_of(kind: type) -> list[Field]:
    """Return the fields of a settings dataclass, with the texts of its docstring and of those that it extends."""
    from docstring_parser import parse

    texts: dict[str, str] = {}
    for ancestor in reversed(kind.__mro__):
        for parameter in parse(ancestor.__doc__ or "").params:
            texts[parameter.arg_name] = " ".join((parameter.description or "").split())
    types = get_type_hints(kind)
    rows = []
    for one in fields(kind):
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        rows.append(Field(one.name, types[one.name], default, texts.get(one.name, "")))
    return rows


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Return settings with some fields replaced; None leaves a field as it is.

    Messages name a field as the call does, without the `section` that recipes put before it.

    Raises:
        InputError: for a field that there is not, or an impossible value.
    """
    assert is_dataclass(settings)
    names = [one.name for one in fields(settings)]
    for name, value in changes.items():
        if name not in names:
            raise InputError(
                f"{name} = {value!r}: no such setting{_checks.near(name, names)}; there are {', '.join(names)}"
            )
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return replace(settings, **given)  # type: ignore[type-var]
    except InputError as error:
        section = getattr(settings, "section", "")
        raise InputError(str(error).replace(section, "") if section else str(error)) from None


def part(kind: type[Settings], settings: Any) -> Settings:
    """Return the settings of one kind whose fields stand, under the same names, in larger settings."""
    names = [one.name for one in fields(kind) if hasattr(settings, one.name)]  # type: ignore[arg-type]
    return kind(**{name: getattr(settings, name) for name in names})


def check(
    settings: Any, *, counts: Iterable[str] = (), positive: Iterable[str] = (), non_negative: Iterable[str] = ()
) -> None:
    """Check fields of a settings dataclass by name: whole numbers from 1, numbers above 0, numbers from 0, and all choices.

    Choices are the fields whose type is a `Literal`. A field that is None passes. Messages put the class's `section`, such as
    "loss.", before the field.

    Raises:
        InputError: for an impossible value.
    """
    section = getattr(settings, "section", "")
    for name, kind in get_type_hints(type(settings)).items():
        literal = (
            kind if get_origin(kind) is Literal else next((k for k in get_args(kind) if get_origin(k) is Literal), None)
        )
        if literal is not None and (value := getattr(settings, name)) is not None:
            _checks.choice(f"{section}{name}", value, get_args(literal))
    rules: list[tuple[Callable[[str, Any], Any], Iterable[str]]] = [
        (_checks.count, counts),
        (_checks.positive, positive),
        (_checks.non_negative, non_negative),
    ]
    for rule, names in rules:
        for name in names:
            if (value := getattr(settings, name)) is not None:
                rule(f"{section}{name}", value)


def table(kind: type) -> str:
    """Return the fields of a settings dataclass as a Markdown table."""
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for one in fields_of(kind):
        default = "" if one.default is MISSING or is_dataclass(one.default) else f"`{one.default}`"
        text = one.text.replace("|", "\\|")
        rows.append(f"| `{one.name}` | {_type_text(one.type)} | {default} | {text} |")
    return "\n".join(rows)


def _type_text(kind: Any) -> str:
    text = getattr(kind, "__name__", None) if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    return str(text).replace("typing.", "").replace("NoneType", "None").replace("|", "or").replace(" or None", "")
