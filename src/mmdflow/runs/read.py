"""A recipe by name, with fields changed, for callers that are not the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_type_hints

import yaml

from mmdflow.errors import InputError
from mmdflow.methods import get_method, recipe_path
from mmdflow.methods.registry import DEFAULT
from mmdflow.recipe.specs import Recipe


def read_recipe(name: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Return a recipe (a name or a YAML file) with `changes`: whole fields, or of its parts the fields that change.

    Raises:
        InputError: if there is no such recipe or field, or a value is impossible.

    Example:
        >>> recipe = read_recipe("dmmd-digits", {"schedule": "vp", "training": {"max_steps": 10}})
        >>> recipe.schedule, recipe.training.max_steps, recipe.training.events_per_level
        ('vp', 10, 16)
    """
    fields: dict[str, Any] = yaml.safe_load(recipe_path(name).read_text())
    for field, value in (changes or {}).items():
        fields[field] = {**fields.get(field, {}), **value} if isinstance(value, Mapping) else value
    kind = get_method(fields.get("system", DEFAULT)).recipe_class()
    parts = get_type_hints(kind)
    try:
        return kind(**{k: parts[k](**_tuples(v)) if isinstance(v, dict) else v for k, v in fields.items()})
    except (TypeError, KeyError) as error:
        raise InputError(f"recipe {name}: a field has the wrong name or form ({error})") from None


def _tuples(part: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if k == "betas" else v for k, v in part.items()}
