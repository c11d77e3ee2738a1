"""Recipes by name or file, with fields changed: for the command line and for Python alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdflow import _checks
from mmdflow.methods import all_methods, recipe_path
from mmdflow.methods.registry import DEFAULT
from mmdflow.recipe.read import Source, merged, read_settings, read_yaml
from mmdflow.recipe.specs import Recipe


def read_recipe(name: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Return a recipe (a name or a YAML file) with `changes`: whole fields, or of its parts the fields that change.

    Raises:
        InputError: if there is no such recipe or field, or a value is of the wrong type or impossible.

    Example:
        >>> recipe = read_recipe("dmmd-digits", {"schedule": "vp", "training": {"max_steps": 10}})
        >>> recipe.schedule, recipe.training.max_steps, recipe.training.events_per_level
        ('vp', 10, 16)
    """
    return recipe_of(recipe_source(name), Source(changes or {}, f"recipe {name}"))


def recipe_source(name: str | Path) -> Source:
    """Return the fields of a recipe (a name or a YAML file).

    Raises:
        InputError: if there is none, or the file holds no fields.
    """
    return Source(read_yaml(recipe_path(str(name))), f"recipe {name}")


def recipe_of(*sources: Source) -> Recipe:
    """Return the recipe of all sources' fields; a later source goes over an earlier one.

    Raises:
        InputError: for an unknown method or field, or a value of the wrong type or impossible.
    """
    return read_settings(recipe_class(*sources), *sources)


def recipe_class(*sources: Source) -> type[Recipe]:
    """Return the class of recipes of the method that the last source with a `system` names.

    Raises:
        InputError: if there is no such method.
    """
    fields: dict[str, Any] = {}
    for source in sources:
        fields = merged(fields, {name: value for name, value in source.fields.items() if name == "system"})
    methods = all_methods()
    return methods[_checks.choice("system", fields.get("system", DEFAULT), methods)].recipe_class()
