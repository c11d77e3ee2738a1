"""DMMD: its pipeline holds target means, computed from the data when training ends."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from mmdflow._tensors import events_at_once
from mmdflow.data import DataSet
from mmdflow.errors import InputError
from mmdflow.kernels import base_kernel
from mmdflow.methods._shared.classes import class_shares
from mmdflow.methods.base import System, Trained, new_features
from mmdflow.methods.dmmd import (
    DMMDLoss,
    DMMDPipeline,
    Target,
    TargetSamples,
    TargetWitness,
    check_classes,
    check_integrator,
    target_means,
)
from mmdflow.methods.dmmd.recipe import DMMDRecipe, SamplingSpec
from mmdflow.noise import NoiseConditionalKernel, NoiseConditionalWitness, schedule
from mmdflow.recipe.data import ImageData

log = logging.getLogger(__name__)

#: Passes through the network that an event of a training step costs, with its clean partner and the double backward.
_PASSES = 12
#: Events and noise levels that target means are made of at least, where there are so many.
_EVENTS, _LEVELS = 64, 11


class DMMD(System):
    """DMMD: its pipeline holds what it knows of the target beside the kernel."""

    pipeline_class = DMMDPipeline

    def loss(self, recipe: DMMDRecipe, dataset: DataSet | ImageData) -> DMMDLoss:
        """Return the loss around a new kernel, or around a learned witness for the KL bounds."""
        _check(recipe, dataset)
        features = new_features(recipe, dataset)
        kernel = NoiseConditionalKernel(features, base_kernel(recipe.base.config()))
        if recipe.loss.objective != "mmd":
            kernel = NoiseConditionalWitness(features, features.num_features)
        return DMMDLoss(kernel, schedule(recipe.schedule), second_moment=dataset.second_moment, settings=recipe.loss)

    def labels(self, recipe: DMMDRecipe, dataset: DataSet | ImageData) -> Tensor | None:
        """Return the classes of the events, if levels have one class each."""
        return dataset.train_labels if recipe.loss.by_class else None

    def rows(self, recipe: DMMDRecipe) -> dict[str, Any]:
        """Return the events of a level as rows of a class, if levels have one class each, but for a share."""
        if not recipe.loss.by_class:
            return {}
        return {"same_class": recipe.training.events_per_level, "label_dropout": recipe.loss.label_dropout}

    def learned(self, loss: DMMDLoss) -> nn.Module:
        """Return the kernel, whose features are averaged."""
        return loss.kernel

    def pipeline(self, trained: Trained) -> DMMDPipeline:
        """Return the pipeline with what it knows of the target, computed here from the training data."""
        recipe, loss, averaged, dataset = trained.recipe, trained.loss, trained.averaged, trained.dataset
        spec = _preview(recipe.sampling) if trained.preview else recipe.sampling
        if not isinstance(averaged, NoiseConditionalWitness) and averaged.base.finite:
            loop = recipe.training
            steps = loop.sample_every if trained.preview else trained.provenance.get("steps", loop.max_steps)
            spec = affordable(spec, len(dataset.train), steps * recipe.batch_size, say=not trained.preview)
        training = averaged.training
        averaged.eval()
        target = _target(recipe, loss, averaged, dataset, spec, trained.progress)
        averaged.train(training)
        return DMMDPipeline(
            averaged,
            loss.schedule,
            recipe.schedule,
            target,
            loss.second_moment,
            recipe.data.scale,
            spec.settings(),
            trained.provenance,
        )


def _preview(spec: SamplingSpec) -> SamplingSpec:
    return replace(
        spec,
        mean_levels=21,
        mean_noise_repeats=1,
        mean_events=1000,
        class_means=spec.class_means if spec.by_class else False,
        num_levels=20,
        step_size="distance",
        steps_per_level=1,
        sampler="approximate",
        final_steps=0,
    )


def affordable(spec: SamplingSpec, num_events: int, events_trained: int, *, say: bool = False) -> SamplingSpec:
    """Return the settings of target means that take no more passes through the network than the training took.

    An event at a level costs one pass clean and one for each draw of noise; one that is trained on about `_PASSES`, for the
    penalty is differentiated twice. What is asked for is cut in this order: the draws of noise to one, the events to `_EVENTS`,
    the levels to `_LEVELS`.

    Args:
        spec: what is asked for.
        num_events: training events that there are.
        events_trained: over all steps, repeated ones counted.
        say: warn of what is cut.
    """
    budget, repeats, levels = _PASSES * events_trained, spec.mean_noise_repeats, spec.mean_levels
    asked = min(num_events, spec.mean_events or num_events)
    if asked * levels * (repeats + 1) <= budget:
        return spec
    events = min(asked, max(budget // (2 * levels), _EVENTS))
    levels = min(levels, max(budget // (2 * events), _LEVELS))
    if say:
        log.warning(
            "target means of %d of %d events at %d of %d noise levels, to take no longer than this short training",
            *(events, num_events, levels, spec.mean_levels),
        )
    return replace(spec, mean_events=events, mean_noise_repeats=1, mean_levels=levels)


def _check(recipe: DMMDRecipe, dataset: DataSet | ImageData) -> None:
    """Raise InputError, before anything is trained, for parts of a recipe that do not fit each other or the data."""
    if recipe.training.compile:
        raise InputError("training.compile = True: must be false for dmmd; compiled networks have no double backward")
    check_integrator(recipe.sampling)
    if recipe.loss.objective != "mmd":
        _check_learned_witness(recipe)
    if recipe.sampling.by_class and recipe.sampling.class_means is False:
        raise InputError(
            "sampling.by_class = True with sampling.class_means = False: must be left out, or means of classes kept"
        )
    if recipe.loss.by_class:
        _check_classes(recipe, dataset)
    if recipe.sampling.class_means or recipe.sampling.by_class or recipe.loss.by_class:
        asked = {"sampling.class_means": recipe.sampling.class_means, "loss.by_class": recipe.loss.by_class}
        name = next((name for name, value in asked.items() if value), "sampling.by_class")
        labels = _target_rows(recipe, dataset, recipe.sampling)[1]
        if labels is None and dataset.train_labels is not None:
            raise InputError(
                f"sampling.mean_events = {recipe.sampling.mean_events} with {name} = True: must be at least "
                f"{len(dataset.train_labels.unique())}, an event of every class"
            )
        if labels is None:
            raise InputError(
                f"{name} = True: the data set {dataset.name} has no labels; of pictures sub-folders are classes"
            )
        check_classes(labels)


def _check_classes(recipe: DMMDRecipe, dataset: DataSet | ImageData) -> None:
    """Raise InputError for data whose levels cannot be of one class each, or means that would not know the classes."""
    shares = class_shares("loss.by_class = True", dataset.train_labels)
    size, fewest = recipe.training.events_per_level, round(float(shares.min()) * len(dataset.train))
    if fewest < size:
        raise InputError(
            f"training.events_per_level = {size} with loss.by_class = True: must be at most {fewest}, the events of class "
            f"{int(shares.argmin())}"
        )
    if recipe.sampling.class_means is False:
        raise InputError("sampling.class_means = False with loss.by_class = True: must be left out, or true")
    if not recipe.sampling.by_class:
        log.warning(
            "sampling.by_class = False with loss.by_class = True: samples without labels follow the mean features of all classes "
            f"together, which loss.label_dropout = {recipe.loss.label_dropout:g} of the levels are trained on"
        )


def _check_learned_witness(recipe: DMMDRecipe) -> None:
    """Raise InputError for parts of a recipe that a learned witness, of a KL bound, has nothing for."""
    reason = f"with loss.objective = {recipe.loss.objective!r}: must be"
    sampling = recipe.sampling
    if recipe.base.name != "linear":
        raise InputError(f"base.name = {recipe.base.name!r} {reason} linear")
    for name in ("whitening", "class_means", "guidance", "by_class"):
        if value := getattr(sampling, name):
            raise InputError(f"sampling.{name} = {value!r} {reason} left out; a learned witness has no target means")
    if {sampling.sampler, sampling.final_sampler or sampling.sampler} != {"approximate"}:
        raise InputError(
            f"sampling.sampler = {sampling.sampler!r} {reason} approximate, as sampling.final_sampler; a learned witness does "
            f"not see the particles"
        )


def _target(
    recipe: DMMDRecipe,
    loss: DMMDLoss,
    averaged: NoiseConditionalKernel,
    dataset: DataSet | ImageData,
    spec: SamplingSpec,
    progress: bool,
) -> Target:
    """Return the target means of a recipe, or its reference samples where the base kernel has no finite feature map."""
    if isinstance(averaged, NoiseConditionalWitness):
        levels = torch.linspace(recipe.loss.t_min, recipe.loss.t_max, spec.mean_levels)
        return TargetWitness.of(averaged, levels, recipe.loss.objective == "reverse-kl")
    rows, labels = _target_rows(recipe, dataset, spec)
    device = next(averaged.parameters()).device
    generator = torch.Generator().manual_seed(recipe.training.seed)
    if not averaged.base.finite:
        span = {"t_min": recipe.loss.t_min, "t_max": recipe.loss.t_max}
        events = dataset.train[rows].to(device)
        labels = None if labels is None else labels.to(device)
        return TargetSamples.draw(events, loss.schedule, **span, labels=labels, generator=generator)
    with tqdm(total=len(rows), desc="target means", unit="event", disable=not progress) as bar:
        return target_means(
            averaged,
            loss.schedule,
            (dataset.train[part].to(device) for part in rows.split(events_at_once(dataset.event_shape))),
            torch.linspace(recipe.loss.t_min, recipe.loss.t_max, spec.mean_levels),
            noise_repeats=spec.mean_noise_repeats,
            labels=labels,
            covariances=spec.whitening is not None,
            generator=generator,
            callback=lambda count: bar.update(count - bar.n),
        )


def _target_rows(recipe: DMMDRecipe, dataset: DataSet | ImageData, spec: SamplingSpec) -> tuple[Tensor, Tensor | None]:
    """Return which training events target means or references are made of, and their labels for means of classes."""
    count, labels = len(dataset.train), None if spec.class_means is False else dataset.train_labels
    size = spec.mean_events if recipe.base.name == "linear" else spec.num_references
    rows = torch.arange(count)
    if size is not None:
        rows = torch.randperm(count, generator=torch.Generator().manual_seed(recipe.training.seed))
        if labels is not None and not _has_every_class(labels[rows[:size]], dataset.train_labels):
            rows = _by_turns(rows, labels)
        rows = rows[:size]
    labels = None if labels is None else labels[rows]
    if spec.class_means is None and labels is not None and not _has_every_class(labels, dataset.train_labels):
        labels = None
    return rows, labels


def _by_turns(rows: Tensor, labels: Tensor) -> Tensor:
    """Return rows in an order in which the classes take turns, so that the first few have one of each."""
    turns = torch.empty(len(rows), dtype=torch.long)
    for label in labels.unique():
        members = labels[rows] == label
        turns[members] = torch.arange(int(members.sum()))
    return rows[turns.argsort(stable=True)]


def _has_every_class(labels: Tensor, of_all: Tensor | None) -> bool:
    """Whether labels hold each of the classes 0, 1, ... that all labels of a data set have."""
    assert of_all is not None
    return bool((of_all >= 0).all()) and len(labels.unique()) == int(of_all.max()) + 1
