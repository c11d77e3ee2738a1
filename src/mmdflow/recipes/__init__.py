"""Recipes: YAML files, the typed dataclasses they fill, and the only place that turns names into objects.

This module imports nothing heavy, so that `mmdflow train --help` is quick; `recipes.run` and `recipes.systems` do the wiring.
"""

from mmdflow.recipes.denoising_schema import (
    DDPMLossSpec,
    DDPMRecipe,
    DDPMSamplingSpec,
    FlowMatchingLossSpec,
    FlowMatchingRecipe,
    FlowMatchingSamplingSpec,
)
from mmdflow.recipes.density_ratio_schema import DensityRatioLossSpec, DensityRatioRecipe
from mmdflow.recipes.discriminator_flow_schema import (
    DiscriminatorFlowLossSpec,
    DiscriminatorFlowRecipe,
)
from mmdflow.recipes.dmmd_schema import DMMDRecipe, LossSpec, SamplingSpec, TrainingSpec
from mmdflow.recipes.flow_schema import DivergenceSpec, FlowSpec
from mmdflow.recipes.jko_schema import JKOFlowRecipe, JKOLossSpec
from mmdflow.recipes.mmd_gan_schema import MMDGANLossSpec, MMDGANRecipe, MMDGANSamplingSpec
from mmdflow.recipes.scalar_schema import ScalarSamplingSpec
from mmdflow.recipes.schema import (
    BaseSpec,
    BatchTrainingSpec,
    DataSpec,
    EvaluationSpec,
    FeaturesSpec,
    LoopSpec,
    Recipe,
    recipe_names,
    recipe_path,
)
from mmdflow.recipes.sliced_generator_schema import (
    ParticleFlowSpec,
    SlicedGeneratorLossSpec,
    SlicedGeneratorRecipe,
    SlicedGeneratorSamplingSpec,
)

#: The systems: the name in a recipe's `system` -> the fields it takes. `recipes.systems.SYSTEMS` builds them.
RECIPES: dict[str, type[Recipe]] = {
    "dmmd": DMMDRecipe,
    "ddpm": DDPMRecipe,
    "flow-matching": FlowMatchingRecipe,
    "mmd-gan": MMDGANRecipe,
    "gs-mmd-rk": SlicedGeneratorRecipe,
    "jko-flow": JKOFlowRecipe,
    "discriminator-flow": DiscriminatorFlowRecipe,
    "dggf-kl": DensityRatioRecipe,
}

__all__ = [
    "RECIPES",
    "BaseSpec",
    "BatchTrainingSpec",
    "DDPMLossSpec",
    "DDPMRecipe",
    "DDPMSamplingSpec",
    "DMMDRecipe",
    "DataSpec",
    "DensityRatioLossSpec",
    "DensityRatioRecipe",
    "DiscriminatorFlowLossSpec",
    "DiscriminatorFlowRecipe",
    "DivergenceSpec",
    "EvaluationSpec",
    "FeaturesSpec",
    "FlowMatchingLossSpec",
    "FlowMatchingRecipe",
    "FlowMatchingSamplingSpec",
    "FlowSpec",
    "JKOFlowRecipe",
    "JKOLossSpec",
    "LoopSpec",
    "LossSpec",
    "MMDGANLossSpec",
    "MMDGANRecipe",
    "MMDGANSamplingSpec",
    "ParticleFlowSpec",
    "Recipe",
    "SamplingSpec",
    "ScalarSamplingSpec",
    "SlicedGeneratorLossSpec",
    "SlicedGeneratorRecipe",
    "SlicedGeneratorSamplingSpec",
    "TrainingSpec",
    "recipe_names",
    "recipe_path",
]
