"""What every target of sampling has: on the data, and on the features of one noise level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmdflow import _checks
from mmdflow.divergences import VelocityField
from mmdflow.divergences.witness import Witness
from mmdflow.errors import InputError
from mmdflow.features import FeatureNetwork
from mmdflow.kernels import Kernel
from mmdflow.noise import NoiseConditionalKernel, Schedule


class FlowKind(StrEnum):
    """How particles move at a noise level.

    EXACT: the flow of 1/2 MMD^2 to clean data, in which particles see each other (DMMD paper, eq. 12).
    APPROXIMATE: along the witness of noised against clean data, each on its own (eq. 13).
    SINGLE: the exact flow of each particle on its own, as the final steps of a-DMMD-e use.
    """

    EXACT = "exact"
    APPROXIMATE = "approximate"
    SINGLE = "single"

    @property
    def interacting(self) -> bool:
        """Whether particles see each other."""
        return self is FlowKind.EXACT


@dataclass(frozen=True)
class LevelFlow:
    """How particles move at a noise level, and by which witness.

    Attributes:
        kind: whether they see each other.
        whitening: lambda of the regularised witness; infinity for the plain one.
        feedback: w >= 1 of the exact flow, which is w times that of 1/2 MMD^2 to P / w + (1 - 1 / w) P_t.
    """

    kind: FlowKind
    whitening: float = math.inf
    feedback: float = 1.0


@runtime_checkable
class TargetLevel(Protocol):
    """What a target is on the features of one noise level. `shares` mixes its classes, [C]; None takes all data as it is."""

    def field(self, flow: LevelFlow, shares: Float[Tensor, " C"] | None = None) -> VelocityField:
        """Return the velocity field on features, events [K].

        Args:
            flow: how particles move.
            shares: of the classes, [C].
        """
        ...

    def mismatch(self, phi: Float[Tensor, "n K"], shares: Float[Tensor, " C"] | None = None) -> tuple[float, float]:
        """Return the MMD^2 of features to the noised data, and the MMD^2 between noised and clean data."""
        ...


@runtime_checkable
class Target(Protocol):
    """What is known of the data at every noise level: mean features, reference samples, or a learned witness."""

    #: The file of a pipeline's folder that holds it.
    file: ClassVar[str]

    @property
    def t_range(self) -> tuple[float, float]:
        """The lowest and the highest noise level."""
        ...

    @property
    def num_classes(self) -> int:
        """The classes that it knows apart, C; 0 for none."""
        ...

    @property
    def class_shares(self) -> Float[Tensor, " C"]:
        """The share of every class in the data; empty for no classes."""
        ...

    @property
    def whitenable(self) -> bool:
        """Whether witnesses can be regularised by the covariance of features."""
        ...

    def check(self, kernel: NoiseConditionalKernel) -> None:
        """Raise InputError for a kernel that it does not belong to."""
        ...

    def level(self, kernel: NoiseConditionalKernel, t: float, chunk_size: int | None = None) -> TargetLevel:
        """Return what is known at level t; targets that embed samples do so `chunk_size` at once."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that make it, by name."""
        ...

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], schedule: Schedule) -> Target:
        """Return the target of `tensors` again; `schedule` is the forward diffusion."""
        ...

    def to(self, device: torch.device | str) -> Target:
        """Return it on a device."""
        ...


class SingleParticle:
    """V(z) = k(z, z) / 2 - E_mu k(z, y): up to a constant, 1/2 MMD^2 of one particle to the target."""

    def __init__(self, kernel: Kernel, attraction: Witness) -> None:
        self.kernel, self.attraction = kernel, attraction

    def __call__(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        """Return V(z_i)."""
        return self.kernel.diag(z) / 2 - self.attraction(z)

    def grad(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Return grad V(z_i)."""
        with torch.enable_grad():
            x = z.detach().requires_grad_()
            self_term = self.kernel.diag(x).sum() / 2 + 0 * x.sum()  # radial kernels: a constant
        return torch.autograd.grad(self_term, x)[0] - self.attraction.grad(z)


def grid_position(levels: Float[Tensor, " T"], t: float) -> tuple[int, float]:
    """Return i and w so that t lies w of the way from level i to level i + 1 of a grid; -1 and 0 on a grid of one.

    Raises:
        InputError: if t lies outside the grid.
    """
    low, high = float(levels[0]), float(levels[-1])
    slack = 1e-6  # float32 levels
    t = min(max(_checks.interval("noise level t", t, low - slack, high + slack), low), high)
    if len(levels) == 1:
        return -1, 0.0
    position = torch.tensor(t, dtype=levels.dtype, device=levels.device)
    i = max(int(torch.searchsorted(levels.contiguous(), position)) - 1, 0)
    return i, (t - float(levels[i])) / float(levels[i + 1] - levels[i])


def check_classes(labels: Int[Tensor, " N"]) -> int:
    """Return the number of classes of a target's labels; raise InputError unless they are 0, 1, ... with an event of each."""
    counts = labels.bincount() if bool((labels >= 0).all()) else labels.new_zeros(1)
    if bool((counts == 0).any()):
        raise InputError(f"labels have {counts.tolist()[:20]} events a class: must be 0, 1, ... with an event of each")
    return len(counts)


def check_width(kernel: NoiseConditionalKernel, width: int) -> None:
    """Raise InputError if the kernel's network has another number of features than the target."""
    features = kernel.features
    if isinstance(features, FeatureNetwork) and width != features.num_features:
        raise InputError(f"target means have {width} features: must have {features.num_features}, the network's")
