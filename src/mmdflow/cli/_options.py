"""Options of the command line: a thin layer over argparse whose values are read, and refused, as those of recipes are."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, is_dataclass
from operator import attrgetter
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from mmdflow import _checks
from mmdflow._files import check_writable
from mmdflow._settings import Field, fields_of
from mmdflow.errors import InputError
from mmdflow.recipe.read import read_text, type_text

#: Stands for a choice of too many names to show them.
_NAME = "NAME"


class Options(argparse.Namespace):
    """The values of a command's options, by name; `fields` holds those of `Parser.add_settings` that were given, nested."""

    fields: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        """Return the value of an option."""
        return getattr(self, name)

    def get(self, name: str) -> Any:
        """Return the value of an option, None for one that the command does not have."""
        return getattr(self, name, None)

    def some(self, *names: str) -> dict[str, Any]:
        """Return some options by name, for a function whose arguments have their names."""
        return {name: self[name] for name in names}


@contextmanager
def on_interrupt(message: Callable[[], str]) -> Iterator[None]:
    """Let Ctrl-C, and SIGTERM, say what was saved and how to go on: `message` is called when it comes."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        raise type(interruption)(message()) from None


def check_free(options: Options, *files: str | Path | None) -> None:
    """Raise InputError for files that cannot be written; None stands for no file.

    These are files that are there already, unless --overwrite is given, a file that two options name, and folders that take none.
    """
    seen: set[Path] = set()
    for file in (Path(file) for file in files if file is not None):
        if not options["overwrite"] and file.exists():
            raise InputError(f"{file}: is there already; --overwrite replaces it")
        if file.resolve() in seen:
            raise InputError(f"{file}: is given for two outputs; each needs a file of its own")
        seen.add(file.resolve())
        check_writable(file)


class Parser:
    """The options of a command.

    Args:
        command: its name.
        description: what it does, for --help.
        usage: how it is called, for --help; by default a list of all options.
        add_help: answer --help.
        unknown: what is said of an option that it does not have; by default which one is near.
    """

    def __init__(
        self,
        command: str,
        description: str,
        usage: str | None = None,
        *,
        add_help: bool = True,
        unknown: str | None = None,
    ) -> None:
        self._unknown = unknown
        self._parser = _Argparse(
            prog=f"mmdflow {command}",
            description=description,
            usage=usage,
            add_help=add_help,
            allow_abbrev=False,
            formatter_class=_Help,
            argument_default=argparse.SUPPRESS,
        )
        self._kinds: dict[str, Any] = {}
        self._defaults: dict[str, Any] = {}
        self._settings: set[str] = set()
        self._names: list[str] = ["help"]
        self._positional: str | None = None

    def add_argument(self, *flags: str, type: Any = str, help: str = "", default: Any = None, **more: Any) -> None:
        """Add an option, or a positional argument, as argparse has it; `type` is a type hint, as `float | list[float]`."""
        name = _name(flags)
        if not flags[0].startswith("-"):
            self._positional = name
        self._add(self._parser, flags, type, help, **more)
        self._defaults[name] = False if more.get("action") == "store_true" else default

    def add_overwrite(self) -> None:
        """Add --overwrite, which `check_free` reads."""
        self.add_argument("--overwrite", action="store_true", help="replace files that are there already")

    def add_settings(self, kind: type, values: Any = None) -> None:
        """Add an option a field of a settings dataclass, `--part.field` for one in a part, in a group a part.

        `--part VALUE` is short for `--part.name VALUE` where a part has a name.

        Args:
            kind: the dataclass.
            values: one whose values --help shows as defaults; by default those of the class.
        """
        for path, part, fields in _parts(kind):
            given = values if not path or values is None else attrgetter(path[:-1])(values)
            group = self._parser.add_argument_group(_title(part))
            for field in fields:
                default = field.default if given is None else getattr(given, field.name)
                flags = [f"--{path}{field.name}", *([f"--{path[:-1]}"] if path and field.name == "name" else [])]
                self._add(group, flags, field.type, _help_text(field, default), dest=f"{path}{field.name}")
                self._settings.add(f"{path}{field.name}")

    def add_words(self, kinds: Iterable[type]) -> None:
        """Add options for the fields of all these dataclasses, only to tell their values from positional arguments."""
        paths = (f"{path}{field.name}" for kind in kinds for path, _, fields in _parts(kind) for field in fields)
        for flag in {f"--{name}": None for path in paths for name in (path, path.removesuffix(".name"))}:
            self._parser.add_argument(flag, dest="word")
            self._kinds["word"] = str

    def peek(self, arguments: Sequence[str]) -> Options:
        """Return the options of a command, whatever else stands among the arguments."""
        given, _ = self._parser.parse_known_args(list(arguments))
        return self._read(given)

    def parse(self, arguments: Sequence[str]) -> Options:
        """Return the options of a command.

        Raises:
            InputError: for an unknown option, with the nearest one, or a value of the wrong type.
        """
        given, rest = self._parser.parse_known_args(list(arguments))
        for word in rest:
            name = word[2:].split("=", 1)[0]
            if word.startswith("--") and name:
                raise InputError(f"--{name}: {self._unknown or 'no such field' + _checks.near(name, self._names)}")
        if rest and self._positional is not None:
            raise InputError(f"{self._positional} = {rest[0]!r}: a second one; must be one")
        if rest:
            raise InputError(f"{rest[0]!r}: one argument too many; there is no place for it")
        return self._read(given)

    def _read(self, given: argparse.Namespace) -> Options:
        """Return the options that argparse found, their words read as their types."""
        options = Options(fields={}, **self._defaults)
        for name, text in vars(given).items():
            value = read_text(name, text, self._kinds[name]) if isinstance(text, str) else text
            if name in self._settings:
                *parts, field = name.split(".")
                place = options.fields
                for part in parts:
                    place = place.setdefault(part, {})
                place[field] = value
            else:
                setattr(options, name, value)
        return options

    def _add(self, place: Any, flags: Sequence[str], kind: Any, text: str, **more: Any) -> None:
        name = more.get("dest", _name(flags))
        if more.get("action") != "store_true":
            self._kinds[name] = kind
            if flags[0].startswith("-"):
                more["metavar"] = _metavar(kind)
        self._names += [flag.lstrip("-") for flag in flags]
        place.add_argument(*flags, help=text.replace("%", "%%"), **more)


class _Argparse(argparse.ArgumentParser):
    """A parser that raises what it complains about."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError."""
        raise InputError(message)


class _Help(argparse.HelpFormatter):
    """Help whose texts begin in column 32: names of fields are long."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)


def _name(flags: Sequence[str]) -> str:
    return next((flag for flag in flags if flag.startswith("--")), flags[0]).lstrip("-").replace("-", "_")


def _parts(kind: type, path: str = "") -> Iterator[tuple[str, type, list[Field]]]:
    """Yield the plain fields of a settings dataclass, then those of its parts, with the path that leads to them."""
    fields = fields_of(kind)
    yield path, kind, [field for field in fields if not is_dataclass(field.type)]
    for field in fields:
        if is_dataclass(field.type):
            yield from _parts(field.type, f"{path}{field.name}.")  # type: ignore[arg-type]


def _title(kind: type) -> str:
    return (kind.__doc__ or kind.__name__).strip().splitlines()[0].rstrip(".")


def _help_text(field: Field, default: Any) -> str:
    """Return what a field means, its choices where `_metavar` does not show them, and its default."""
    text, metavar = field.text.rstrip("."), _metavar(field.type)
    if metavar == _NAME:
        text += f"; {type_text(field.type)}".replace("'", "")
    if default is MISSING or default is None or default == "":
        return text
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    return f"{text} (default: {shown})"


def _metavar(kind: Any) -> str:
    """Return how --help shows a value of a type hint."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        shown = "{" + ",".join(map(str, arguments)) + "}"
        return shown if len(shown) < 40 else _NAME
    if origin in (Union, UnionType):
        return "|".join(_metavar(member) for member in arguments if member is not NoneType)
    if origin in (list, tuple):
        return "[A,B]"
    return {bool: "{true,false}", str: "TEXT", int: "N", float: "X"}.get(kind, "VALUE")
