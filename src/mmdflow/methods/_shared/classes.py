"""Classes: of the data that are trained on, and those that a sampling run asks for."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmdflow import _arrays
from mmdflow._tensors import device_of
from mmdflow.errors import InputError
from mmdflow.methods._shared.pretrained import SavedPipeline
from mmdflow.methods._shared.sampling import SampleOutput, Steps, collect, given_back
from mmdflow.types import ArrayLike


def class_shares(name: str, labels: Int[Tensor, " N"] | None) -> Float[Tensor, " C"]:
    """Return the share of every class in the data; `name` is the setting that needs classes.

    Raises:
        InputError: for data without labels, a label below 0, or a class that has no events.

    Example:
        >>> class_shares("loss.by_class = True", torch.tensor([0, 1, 1, 1]))
        tensor([0.2500, 0.7500])
    """
    if labels is None:
        raise InputError(f"{name}: the data have no labels; leave it out")
    if bool((labels < 0).any()):
        raise InputError(f"{name}: the data have a label {int(labels.min())}; labels must be 0, 1, ...")
    classes, counts = labels.cpu().unique(return_counts=True)
    passed_over = (classes != torch.arange(len(classes))).nonzero().flatten()
    if len(passed_over):
        raise InputError(f"{name}: class {int(passed_over[0])} of the data has no events; labels must be 0, 1, ...")
    return counts / len(labels)


def check_labels(
    labels: Int[Tensor, " n"] | int | ArrayLike, n: int, num_classes: int, device: torch.device
) -> Int[Tensor, " n"]:
    """Return one class a particle, of 0 to num_classes - 1.

    Raises:
        InputError: for labels that are no whole numbers, of another shape, or of no class.

    Example:
        >>> check_labels(2, 3, 10, torch.device("cpu"))
        tensor([2, 2, 2])
    """
    classes = _arrays.tensor("labels", labels, floating=False).to(device)
    if classes.is_floating_point() or classes.dtype == torch.bool:
        raise InputError(f"labels have dtype {classes.dtype}: must be integers")
    if tuple(classes.shape) not in ((), (n,)):
        raise InputError(f"labels have shape {list(classes.shape)}: must be [{n}], one a particle, or one number")
    unknown = classes[(classes < 0) | (classes >= num_classes)]
    if unknown.numel():
        raise InputError(f"labels hold {int(unknown[0])}: must be classes 0 to {num_classes - 1}")
    return classes.long().expand(n)


def draw_labels(n: int, shares: Float[Tensor, " C"], generator: torch.Generator | None) -> Int[Tensor, " n"]:
    """Return a class for every particle, the classes in proportion to their shares of the data, in random order.

    Every particle is of class c with probability shares[c], and c has the whole number of particles below n shares[c], or that
    above it: systematic sampling (Madow and Madow 1944). Drawn one by one the numbers would vary by the root of n shares[c], and
    with them all that is measured of the samples.

    Example:
        >>> draw_labels(8, torch.tensor([0.5, 0.25, 0.25]), None).bincount()
        tensor([4, 2, 2])
    """
    where = device_of(generator, shares.device)
    ends = shares.to(where, torch.float64).cumsum(0)
    offset = torch.rand(1, generator=generator, dtype=torch.float32, device=where)
    points = (torch.arange(n, device=where) + offset) / n * ends[-1]
    classes = torch.searchsorted(ends, points, right=True)
    return classes[torch.randperm(n, generator=generator, device=where)]


class ClassPipeline(SavedPipeline):
    """A pipeline that samples a chosen class, if it knows classes.

    Attributes:
        shares: the share of every class in the data, [C], which samples have where no class is asked for; None for a pipeline
            that knows no class.
    """

    shares: Float[Tensor, " C"] | None
    _no_classes: ClassVar[str]  # what labels are answered with, where no class is known

    def __call__(
        self,
        num_particles: int = 64,
        *,
        generator: torch.Generator | None = None,
        particles: Float[Tensor, "n *event"] | ArrayLike | None = None,
        labels: Int[Tensor, " *n"] | int | ArrayLike | None = None,
        return_trajectory: bool = False,
        progress: bool = False,
        **settings: Any,
    ) -> SampleOutput:
        """Sample.

        Args:
            num_particles: samples.
            generator: of everything that is drawn: noise, and the classes where none is given.
            particles: the noise to start from, [n, *event], in the units of the data; then num_particles is not used. The output
                is of the same kind of array.
            labels: the class of every sample, [n], or of all; by default classes in proportion to the data, in random order.
            return_trajectory: keep the particles after every step, and the noise.
            progress: show a bar over the steps.
            settings: fields of the sampler's settings, the class attribute `settings`; None, or a field that is left out, is
                taken from `defaults`.

        Raises:
            InputError: for impossible settings, or labels of a pipeline that knows no classes.
            DivergedError: when particles become non-finite; it holds the last finite ones.
        """
        chosen = self._settings(settings)
        source = self._start(num_particles, particles, generator, chosen)
        steps = self._steps_of(source, self._labels(labels, source, generator), chosen, generator)
        output = collect(steps, scale=self.data_scale, return_trajectory=return_trajectory, progress=progress)
        return given_back(output, particles)

    def _labels(
        self, labels: Int[Tensor, " *n"] | int | ArrayLike | None, source: Tensor, generator: torch.Generator | None
    ) -> Int[Tensor, " n"] | None:
        """Return the class of every sample: given ones, checked, or drawn; None where no class is known."""
        if self.shares is None:
            if labels is not None:
                raise InputError(f"labels: {self._no_classes}")
            return None
        if labels is None:
            return draw_labels(len(source), self.shares, generator).to(source.device)
        return check_labels(labels, len(source), len(self.shares), source.device)

    def _steps_of(
        self, source: Tensor, labels: Int[Tensor, " n"] | None, settings: Any, generator: torch.Generator | None
    ) -> Steps:
        """Return the steps of a run from the source, of a class a particle."""
        raise NotImplementedError
