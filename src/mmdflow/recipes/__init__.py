"""Recipes: YAML files, the typed dataclasses they fill, and the only place that turns names into objects.

This module imports nothing heavy, so that `mmdflow train --help` is quick; `recipes.run` does the wiring.
"""

from mmdflow.recipes.flow_schema import DivergenceSpec, FlowSpec
from mmdflow.recipes.schema import (
    BaseSpec,
    DataSpec,
    EvaluationSpec,
    FeaturesSpec,
    LossSpec,
    Recipe,
    SamplingSpec,
    TrainingSpec,
    recipe_names,
    recipe_path,
)

__all__ = [
    "BaseSpec",
    "DataSpec",
    "DivergenceSpec",
    "EvaluationSpec",
    "FeaturesSpec",
    "FlowSpec",
    "LossSpec",
    "Recipe",
    "SamplingSpec",
    "TrainingSpec",
    "recipe_names",
    "recipe_path",
]
