"""One-step generators: how a recipe's loss and pipeline are built."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mmdflow._tensors import events_at_once
from mmdflow.data import DataSet
from mmdflow.methods import load_pipeline
from mmdflow.methods.base import System, Trained, new_features
from mmdflow.methods.drifting.alternating import AlternatingLoss, NewFeatures
from mmdflow.methods.drifting.distillation import DistillationLoss
from mmdflow.methods.drifting.fields import LandmarkFields, means_fields
from mmdflow.methods.drifting.generator import Generator, class_shifts, start_at
from mmdflow.methods.drifting.loss import DriftingLoss
from mmdflow.methods.drifting.pipeline import DriftingPipeline
from mmdflow.methods.drifting.population import Classes
from mmdflow.methods.drifting.recipe import DriftingRecipe
from mmdflow.methods.drifting.spaces import Patches, Pixels, Space, Texture, dmmd_spaces
from mmdflow.recipe.data import ImageData

#: Events of the data by which distances are measured, and over which features are averaged.
_MEASURED, _AVERAGED = 500, 2000


class Drifting(System):
    """A one-step generator."""

    pipeline_class = DriftingPipeline

    def loss(
        self, recipe: DriftingRecipe, dataset: DataSet | ImageData
    ) -> DriftingLoss | AlternatingLoss | DistillationLoss:
        """Return the loss of a new generator."""
        draws = torch.Generator().manual_seed(recipe.training.seed)
        order = torch.randperm(len(dataset.train), generator=draws)
        measured = dataset.train[order[:_MEASURED]]
        classes = None
        if recipe.loss.classes is not None:
            labels = dataset.train_labels
            classes = Classes(dataset.train, labels, recipe.loss.classes, recipe.loss.max_guidance)
        generator = _new_generator(recipe, dataset, classes, measured, draws)
        if recipe.distillation.model is not None:
            teacher = load_pipeline(recipe.distillation.model)
            return DistillationLoss(generator, teacher, recipe.distillation.num_pairs, recipe.data.scale)
        spaces: list[Space] = [Pixels()] if recipe.spaces.pixels else []
        spaces += [] if recipe.spaces.patches is None else [Patches(recipe.spaces.patches, recipe.spaces.patch_weight)]
        spaces += (
            [] if recipe.spaces.texture is None else [Texture(recipe.spaces.texture, recipe.spaces.texture_weight)]
        )
        num_own = len(spaces)
        beside = None if recipe.spaces.recipe is None else NewFeatures.of_recipe(recipe.spaces.recipe, dataset)
        spaces += dmmd_spaces(recipe.spaces, dataset.event_shape, recipe.data.scale)
        for space in spaces:
            space.measure(measured, draws)
        if recipe.spaces.field == "means" and classes is None:
            few = dataset.train[order[:_AVERAGED]].split(events_at_once(dataset.event_shape))
            for space in spaces[num_own:]:
                space.average(few, draws)
        spaces += [] if beside is None else beside.spaces(recipe.spaces)
        fields = None
        if recipe.loss.landmarks is not None:
            fields = LandmarkFields(recipe.loss, lambda: _mapped(spaces, dataset, order, recipe.training.seed), draws)
        per_step = recipe.spaces.levels_per_step
        loss = DriftingLoss(
            generator,
            spaces,
            recipe.loss,
            fields=fields,
            classes=classes,
            levels_per_step=per_step,
            feature_fields=means_fields(recipe.loss) if recipe.spaces.field == "means" else None,
            feature_weight=recipe.spaces.weight,
        )
        return loss if beside is None else beside.beside(loss, recipe.training.step_size)

    def learned(self, loss: DriftingLoss | AlternatingLoss | DistillationLoss) -> nn.Module:
        """Return the generator."""
        return loss.generator

    def pipeline(self, trained: Trained) -> DriftingPipeline:
        """Return the averaged generator."""
        recipe, generator, classes = trained.recipe, trained.averaged, trained.loss.classes
        assert isinstance(generator, Generator)
        return DriftingPipeline(
            generator.network,
            None if generator.classes is None else generator.classes.detach(),
            None if classes is None else classes.shares,
            recipe.loss.max_guidance,
            recipe.sampling,
            recipe.bounded,
            recipe.data.scale,
            trained.provenance,
        )


def _new_generator(
    recipe: DriftingRecipe,
    dataset: DataSet | ImageData,
    classes: Classes | None,
    measured: Tensor,
    draws: torch.Generator,
) -> Generator:
    """Return a new generator that begins as the recipe says."""
    means = None if classes is None else class_shifts(len(classes.rows), dataset.event_shape, draws)
    generator = Generator(new_features(recipe, dataset), recipe.data.scale if recipe.bounded else None, means)
    if recipe.start is not None:
        start_at(generator, measured, recipe.start, draws)
    return generator


@torch.no_grad()
def _mapped(
    spaces: list[Space], dataset: DataSet | ImageData, order: Tensor, seed: int
) -> Iterator[list[list[Tensor]]]:
    """Yield the maps of all data, in a shuffled order, with the same noise at every call."""
    draws = torch.Generator().manual_seed(seed)
    for rows in order.split(events_at_once(dataset.event_shape)):
        events = dataset.train[rows]
        yield [space(events, generator=draws) for space in spaces]
