"""Recipes: the typed dataclasses that every method's YAML files fill, as far as methods share them.

* `specs`: data, features, training, evaluation, and `Recipe`, which a method's own recipe extends.
* `flow`: the fields of a particle flow on the command line.
* `divergences`: the kernels and divergences that these fields name, and the step that suits each.
* `read`: the one reader, from YAML files, mappings and options to these dataclasses.
* `data`: opens the data that a recipe names. It is the one module here that imports torch.
"""

from mmdflow.recipe.flow import DivergenceSpec, FlowSpec
from mmdflow.recipe.specs import (
    BaseSpec,
    BatchRecipe,
    BatchTrainingSpec,
    DataSpec,
    EvaluationSpec,
    FeaturesSpec,
    LoopSpec,
    Recipe,
)

__all__ = [
    "BaseSpec",
    "BatchRecipe",
    "BatchTrainingSpec",
    "DataSpec",
    "DivergenceSpec",
    "EvaluationSpec",
    "FeaturesSpec",
    "FlowSpec",
    "LoopSpec",
    "Recipe",
]
