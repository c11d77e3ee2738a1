"""Settings: frozen dataclasses that are written once and used by the library, recipes, the command line and the docs.

What a field is called, its type and its default stand in the dataclass; what it means stands in the docstring's `Attributes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, NamedTuple, TypeVar, get_type_hints

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
    return replace(settings, **given)  # type: ignore[type-var]


def table(kind: type) -> str:
    """Return the fields of a settings dataclass as a Markdown table."""
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for one in fields_of(kind):
        default = "" if one.default is MISSING or is_dataclass(one.default) else f"`{one.default}`"
        rows.append(f"| `{one.name}` | {_type_text(one.type)} | {default} | {one.text} |")
    return "\n".join(rows)


def _type_text(kind: Any) -> str:
    text = getattr(kind, "__name__", None) if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    return str(text).replace("typing.", "").replace("NoneType", "None").replace("|", "or").replace(" or None", "")
