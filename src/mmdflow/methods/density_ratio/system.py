"""DGGF-KL."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict

import torch

from mmdflow._settings import changed
from mmdflow.data import DataSet
from mmdflow.methods.base import System, Trained, new_features
from mmdflow.methods.density_ratio.loss import DensityRatioLoss
from mmdflow.methods.density_ratio.pipeline import DensityRatioPipeline
from mmdflow.methods.density_ratio.prior import GaussianPrior
from mmdflow.methods.density_ratio.recipe import DensityRatioRecipe
from mmdflow.recipe.data import ImageData

#: Training events, drawn once and for all, that the prior is fitted to.
_FITTED = 10_000


class DensityRatioSystem(System):
    """DGGF-KL."""

    pipeline_class = DensityRatioPipeline

    def loss(self, recipe: DensityRatioRecipe, dataset: DataSet | ImageData) -> DensityRatioLoss:
        """Return the loss of a new network, with a prior that is fitted to at most 10 000 training events."""
        network = new_features(recipe, dataset)
        rows = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(recipe.training.seed))
        prior = GaussianPrior(dataset.event_shape, recipe.loss.prior)
        prior.fit(dataset.train[part] for part in rows[:_FITTED].split(1000))
        return DensityRatioLoss(network, prior, recipe.loss, pool_size=recipe.batch_size)

    def pipeline(self, trained: Trained) -> DensityRatioPipeline:
        """Return the averaged network with the prior; it samples by the flow of the training, as far as `sampling` leaves it."""
        loss, averaged = trained.loss, trained.averaged
        prior = deepcopy(loss.prior).to(next(averaged.parameters()).device)
        flow = changed(loss.flow, asdict(trained.recipe.sampling))
        return DensityRatioPipeline(averaged, prior, flow, trained.recipe.data.scale, trained.provenance)
