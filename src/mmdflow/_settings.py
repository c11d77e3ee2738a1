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
    for entry in fields(kind):
        default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
        rows.append(Field(entry.name, types[entry.name], default, texts.get(entry.name, "")))
    return rows


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Return settings with some fields replaced; None leaves a field as it is.

    Messages name a field as the call does, without the `section` that recipes put before it.

    Raises:
        InputError: for a field that there is not, or an impossible value.
    """
    assert is_dataclass(settings)
    names = [entry.name for entry in fields(settings)]
    for name, value in changes.items():
        if name not in names:
            shown = " ".join(repr(value).split())[:80]
            hint = _checks.near(name, names) or f"; there are {', '.join(names)}"
            raise InputError(f"{name} = {shown}: no such setting{hint}")
    given = {name: value for name, value in changes.items() if value is not None}
    try:
        return replace(settings, **given)  # type: ignore[type-var]
    except InputError as error:
        section = getattr(settings, "section", "")
        raise InputError(str(error).replace(section, "") if section else str(error)) from None


def part(kind: type[Settings], settings: Any) -> Settings:
    """Return the settings of one kind whose fields stand, under the same names, in larger settings."""
    names = [entry.name for entry in fields(kind) if hasattr(settings, entry.name)]  # type: ignore[arg-type]
    return kind(**{name: getattr(settings, name) for name in names})


def check(
    settings: Any, *, counts: Iterable[str] = (), positive: Iterable[str] = (), non_negative: Iterable[str] = ()
) -> None:
    """Check fields of a settings dataclass by name: whole numbers from 1, numbers above 0, numbers from 0, and all choices.

    Choices are the fields whose type is a `Literal`, and the words of a field that may be of other types too. A field that is
    None passes. Messages put the class's `section`, such as "loss.", before the field.

    Raises:
        InputError: for an impossible value.
    """
    section = getattr(settings, "section", "")
    for name, kind in get_type_hints(type(settings)).items():
        kinds = [kind] if get_origin(kind) is Literal else [k for k in get_args(kind) if k is not type(None)]
        literal = next((k for k in kinds if get_origin(k) is Literal), None)
        value = None if literal is None else getattr(settings, name)
        if value is not None and (len(kinds) == 1 or isinstance(value, str)):
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


def table(kind: type, prefix: str = "") -> str:
    """Return the fields of a settings dataclass as a Markdown table, with `prefix` before each name; nested names are dotted."""
    return "\n".join(["| field | type | default | meaning |", "|---|---|---|---|", *_rows(kind, None, prefix)])


def _rows(kind: type, settings: Any, prefix: str) -> list[str]:
    """Return the rows of a settings dataclass; the defaults are those of `settings`, where given."""
    rows = []
    for name, annotation, default, text in fields_of(kind):
        if settings is not None:
            default = getattr(settings, name)
        inner = _without_none(annotation)
        if is_dataclass(inner):
            assert isinstance(inner, type)
            rows += _rows(inner, default if is_dataclass(default) else None, f"{prefix}{name}.")
            continue
        shown = "" if default is MISSING else f"`{default}`"
        meaning = text.replace("|", r"\|")
        rows.append(f"| `{prefix}{name}` | {_type_text(inner)} | {shown} | {meaning} |")
    return rows


def _without_none(annotation: Any) -> Any:
    """Return X for X | None."""
    inner = [part for part in get_args(annotation) if part is not type(None)]
    return (
        inner[0]
        if len(inner) == 1 and len(get_args(annotation)) == 2 and type(None) in get_args(annotation)
        else annotation
    )


def _type_text(annotation: Any) -> str:
    """Return a type in words: the choices of a Literal, the name of anything else."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if any(get_origin(part) is Literal for part in get_args(annotation)):
        return " or ".join(_type_text(part) for part in get_args(annotation) if part is not type(None))
    text = annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    return text.replace("typing.", "").replace("NoneType", "None").replace(" | ", " or ")
