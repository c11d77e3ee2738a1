"""Options of the command line: parsers, complaints in one line, options into dataclasses."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

from mmdflow import _checks

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

Spec = TypeVar("Spec")


def new_parser(command: str, description: str) -> ArgumentParser:
    from jsonargparse import ArgumentParser

    return ArgumentParser(prog=f"mmdflow {command}", description=description, exit_on_error=False)


def parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """Parse; turn every complaint into one line that names the field, with the nearest field for unknown ones."""
    from jsonargparse import ArgumentError

    from mmdflow.errors import InputError

    known = [option.lstrip("-") for action in parser._actions for option in action.option_strings]
    for argument in arguments:
        if argument.startswith("--") and argument != "--":
            name = argument[2:].split("=", 1)[0]
            if name not in known:
                raise InputError(f"--{name}: no such field{_checks.near(name, known)}")
    try:
        return parser.parse_args(arguments)
    except (ArgumentError, TypeError, ValueError) as error:
        raise InputError(_reworded(" ".join(str(error).split()))) from None


def _reworded(complaint: str) -> str:
    """Return jsonargparse's complaint in the library's words where its form is known."""
    match = re.search(r'[Pp]arser key "(.+?)":.*?Subtypes: \[(.+?)\] Errors:.*Given value: (.*)$', complaint)
    if match is not None:  # an optional field
        field, subtypes, value = match.groups()
        subtypes = re.sub(r",? *<class 'NoneType'>,? *", "", subtypes)
        return f"{field} = {value!r}: must be {_type_name(subtypes)}"
    match = re.search(r'[Pp]arser key "(.+?)":.*?Expected an? (.+?)\. Got value: (.*?)(?: \(|$)', complaint)
    if match is None:
        return complaint[:400]
    field, allowed, value = match.groups()
    return f"{field} = {value!r}: must be {_type_name(allowed)}"


def _type_name(allowed: str) -> str:
    allowed = re.sub(r"typing\.|<class '(\w+)'>", lambda m: m.group(1) or "", allowed)
    if re.fullmatch(r"[Ll]ist(\[.*\])?", allowed):
        return "a list, in brackets: [a,b]"
    return re.sub(r"Literal\[(.+?)\]", lambda m: f"one of {m.group(1)}", allowed)


def fill(kind: type[Spec], parser: ArgumentParser, options: Namespace) -> Spec:
    """Return the dataclass whose fields the options hold."""
    from mmdflow.errors import InputError

    try:
        settings: Any = parser.instantiate(options)
        return kind(**{field: settings[field] for field in kind.__dataclass_fields__})  # type: ignore[attr-defined]
    except InputError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{kind.__name__.lower()}: a field has the wrong form ({error})") from None
