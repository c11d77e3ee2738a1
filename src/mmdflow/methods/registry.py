"""The methods by name: where the recipe and the system of each are, and the recipes that come with it.

A method is a package with `recipe.py`, `system.py` and a folder `recipes` of YAML files; its `__init__` names it in `METHODS`.
The rooms of this package are read by themselves. A package from outside is added by `register`, or by an entry point of the
group "mmdflow.methods" that names it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from mmdflow import _checks
from mmdflow.errors import InputError

if TYPE_CHECKING:
    from mmdflow.methods.base import System
    from mmdflow.recipe import Recipe

#: Names the method of a recipe that names none.
DEFAULT = "dmmd"
#: Rooms that every list begins with; the others follow by name.
_FIRST = ("dmmd", "denoising", "mmd_gan")
_registered: dict[str, Method] = {}


@dataclass(frozen=True)
class Method:
    """A method of training a model. It names its parts; they are imported when they are used.

    Attributes:
        name: what a recipe's `system` says.
        recipe: class of its recipes, in the module `recipe` of the package. That module imports no torch, so that `--help` is
            quick.
        system: class of its system, in the module `system` of the package.
        package: the full name of its package.
        settings: dataclass of its sampler's settings, in the module `settings` of the package; that of the recipe's `sampling`
            by default.

    Example:
        >>> method = get_method("ddpm")
        >>> method.package, method.recipe_class()().system
        ('mmdflow.methods.denoising', 'ddpm')
    """

    name: str
    recipe: str
    system: str
    package: str
    settings: str = ""

    def recipe_class(self) -> type[Recipe]:
        """Return the class of its recipes."""
        kind: type[Recipe] = self._load("recipe", self.recipe)
        return kind

    def settings_class(self) -> type | None:
        """Return the dataclass of its sampler's settings, or None if the sampler has none; light to import."""
        if self.settings:
            kind: type = self._load("settings", self.settings)
            return kind
        section = get_type_hints(self.recipe_class()).get("sampling")
        return section if isinstance(section, type) and is_dataclass(section) else None

    def make_system(self) -> System:
        """Return its system."""
        system: System = self._load("system", self.system)()
        return system

    def recipe_files(self) -> list[Path]:
        """Return the YAML files of its recipes."""
        file = importlib.import_module(self.package).__file__
        assert file is not None
        return sorted((Path(file).parent / "recipes").glob("*.yaml"))

    def _load(self, module: str, name: str) -> Any:
        part = importlib.import_module(f"{self.package}.{module}")
        if not hasattr(part, name):
            raise InputError(f"method = {self.name!r}: {self.package}.{module} holds no {name}")
        return getattr(part, name)


def register(*methods: Method) -> None:
    """Add methods from outside this package, for as long as Python runs.

    Raises:
        InputError: if a name is taken by another method.
    """
    for method in methods:
        if all_methods().get(method.name, method) != method:
            raise InputError(f"method = {method.name!r}: the name is taken by {all_methods()[method.name].package}")
        _registered[method.name] = method


def all_methods() -> dict[str, Method]:
    """Return every method by name."""
    return _installed() | _registered


def get_method(name: str, field: str = "system") -> Method:
    """Return the method of that name.

    Raises:
        InputError: if there is none; `field` is what the message calls the name.
    """
    methods = all_methods()
    return methods[_checks.choice(field, name, methods)]


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the methods."""
    return sorted(_recipe_files())


def recipe_path(name: str) -> Path:
    """Return the YAML file of a recipe name, or of a path to one.

    Raises:
        InputError: if there is none; suggests the nearest.
    """
    files = _recipe_files()
    if name in files:
        return files[name]
    if Path(name).is_file():
        return Path(name)
    hint = _checks.near(name, sorted(files))
    if Path(name).is_dir():
        hint = f"; it is a folder: `mmdflow train dmmd-images --data={name}` trains on its pictures"
    raise InputError(f"recipe = {name!r}: must be a YAML file or a name that `mmdflow recipes` lists{hint}")


def _recipe_files() -> dict[str, Path]:
    packages = {method.package: method for method in all_methods().values()}
    return {file.stem: file for method in packages.values() for file in method.recipe_files()}


@cache
def _installed() -> dict[str, Method]:
    """Return the methods of this package's rooms, and of the packages that entry points name."""
    return {method.name: method for package in _packages() for method in package.METHODS}


def _packages() -> Iterator[Any]:
    rooms = importlib.import_module("mmdflow.methods").__path__
    names = {room.name for room in pkgutil.iter_modules(rooms) if room.ispkg and not room.name.startswith("_")}
    for name in (*_FIRST, *sorted(names.difference(_FIRST))):
        yield importlib.import_module(f"mmdflow.methods.{name}")
    for entry in entry_points(group="mmdflow.methods"):
        yield entry.load()
