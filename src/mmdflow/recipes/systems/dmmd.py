"""DMMD: its pipeline holds target means, computed from the data when training ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from mmdflow.data import DataSet
from mmdflow.dmmd import DMMDLoss, DMMDPipeline, SamplerDefaults, target_means
from mmdflow.noise import NoiseConditionalKernel, schedule
from mmdflow.recipes.schema import DMMDRecipe, SamplingSpec
from mmdflow.recipes.systems.base import System, new_features


class DMMD(System):
    """DMMD."""

    def loss(self, recipe: DMMDRecipe, dataset: DataSet) -> DMMDLoss:  # noqa: D102
        kernel = NoiseConditionalKernel(new_features(recipe, dataset))
        return DMMDLoss(kernel, schedule(recipe.schedule), second_moment=dataset.second_moment, **asdict(recipe.loss))

    def learned(self, loss: DMMDLoss) -> nn.Module:  # noqa: D102
        return loss.kernel

    def pipeline(  # noqa: D102
        self,
        recipe: DMMDRecipe,
        loss: DMMDLoss,
        averaged: NoiseConditionalKernel,
        dataset: DataSet,
        provenance: dict[str, Any],
        *,
        preview: bool = False,
        progress: bool = False,
    ) -> DMMDPipeline:
        spec = _preview(recipe.sampling) if preview else recipe.sampling
        training = averaged.training
        averaged.eval()
        events = dataset.train
        if spec.mean_events is not None:
            chosen = torch.randperm(len(events), generator=torch.Generator().manual_seed(recipe.training.seed))
            events = events[chosen[: spec.mean_events]]
        with tqdm(total=len(events), desc="target means", unit="event", disable=not progress) as bar:
            means = target_means(
                averaged,
                loss.schedule,
                _batches(events.to(next(averaged.parameters()).device)),
                torch.linspace(loss.t_min, loss.t_max, spec.mean_levels),
                noise_repeats=spec.mean_noise_repeats,
                generator=torch.Generator().manual_seed(recipe.training.seed),
                callback=lambda count: bar.update(count - bar.n),
            )
        averaged.train(training)
        names = SamplerDefaults.__dataclass_fields__
        defaults = SamplerDefaults(**{k: v for k, v in asdict(spec).items() if k in names})
        return DMMDPipeline(
            averaged, loss.schedule, recipe.schedule, means, loss.second_moment, recipe.data.scale, defaults, provenance
        )

    def load(self, path: str | Path, device: torch.device | str) -> DMMDPipeline:  # noqa: D102
        return DMMDPipeline.from_pretrained(path, device)


def _preview(spec: SamplingSpec) -> SamplingSpec:
    return replace(
        spec,
        mean_levels=21,
        mean_noise_repeats=1,
        mean_events=1000,
        num_levels=20,
        steps_per_level=1,
        sampler="approximate",
        final_steps=0,
    )


def _batches(events: Tensor, size: int = 1024) -> Iterator[Tensor]:
    yield from events.split(size)
