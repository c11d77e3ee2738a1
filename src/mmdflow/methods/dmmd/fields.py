"""The velocity fields of a sampling run: on the features of a noise level, and pulled back to events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmdflow._tensors import along
from mmdflow.divergences import VelocityField
from mmdflow.errors import InputError
from mmdflow.methods.dmmd.targets.base import LevelFlow, TargetLevel
from mmdflow.types import Particles, Points, Weights


class PerClass:
    """A velocity field in which the particles of every class flow as a group of their own, and may be guided.

    The velocity of a particle of class c is (1 + guidance) v_c - guidance v_all, as classifier-free guidance does with scores
    (Ho and Salimans 2022). v_c sees the particles of class c alone, v_all sees all.

    It knows the class of each particle by its row. So it is evaluated for the particles themselves, which have equal weights.

    Args:
        fields: v_c of every class, by its number.
        labels: the particles' classes, [n].
        of_all: v_all; needed for guidance.
        guidance: 0 for none.
    """

    def __init__(
        self,
        fields: Mapping[int, VelocityField],
        labels: Int[Tensor, " n"],
        of_all: VelocityField | None = None,
        guidance: float = 0.0,
    ) -> None:
        self.fields, self.labels, self.of_all, self.guidance = fields, labels, of_all, guidance

    def of_rows(self, rows: slice) -> PerClass:
        """Return the field of some of the particles, where they do not see each other."""
        return PerClass(self.fields, self.labels[rows], self.of_all, self.guidance)

    def velocity(
        self,
        x: Float[Tensor, "n K"],
        at: Float[Tensor, "n K"] | None = None,
        weights: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n K"]:
        """Return every particle's velocity; `at` holds one point a particle, of the particle's class.

        Raises:
            InputError: for weights, or rows that are not one a label.
        """
        if weights is not None:
            raise InputError("weights with classes: must be None; the particles of a class have equal weights")
        for name, points in (("x", x), ("at", at)):
            if points is not None and len(points) != len(self.labels):
                raise InputError(f"{name} has {len(points)} rows: must have {len(self.labels)}, one a label")
        velocity = torch.empty_like(x)
        for c, field in self.fields.items():
            rows = self.labels == c
            if bool(rows.any()):
                velocity[rows] = field.velocity(x[rows], None if at is None else at[rows])
        if self.of_all is None:
            return velocity
        return (1 + self.guidance) * velocity - self.guidance * self.of_all.velocity(x, at)


class LevelField:
    """The velocity field of one noise level: a field on features, pulled back to events through phi(., t).

    v(x) = J_phi(x)^T w(phi(x)), w the field on features: minus the gradient of f(phi(x)) where w is minus that of f.

    Args:
        features: phi(., t).
        on_features: w, on events [K].
        interacting: whether particles see each other in w. Then w needs all features at once: with several chunks they are
            computed twice, first without gradients.
        chunk_size: particles whose gradient is taken at once; all by default.
        max_slope: bound on the length of a velocity; longer ones are shortened to it.
        watch: called after each evaluation with the particles' features and slopes, [n, K] and [n].
    """

    def __init__(
        self,
        features: Callable[[Tensor], Tensor],
        on_features: VelocityField,
        *,
        interacting: bool,
        chunk_size: int | None = None,
        max_slope: float | None = None,
        watch: Callable[[Tensor, Tensor], None] | None = None,
    ) -> None:
        self.features, self.on_features, self.interacting = features, on_features, interacting
        self.chunk_size, self.max_slope, self.watch = chunk_size, max_slope, watch

    def velocity(self, x: Particles, at: Points | None = None, weights: Weights | None = None) -> Points:
        """Return the velocity at the particles, chunk by chunk, no longer than `max_slope`.

        Raises:
            InputError: for `at` or `weights`.
        """
        if at is not None or weights is not None:
            raise InputError("at or weights: samplers evaluate equally weighted particles where they are")
        parts = x.split(self.chunk_size or len(x))
        cotangents: Sequence[Tensor] | None = None
        if self.interacting and len(parts) > 1:
            with torch.no_grad():
                phi = torch.cat([self.features(part) for part in parts])
            cotangents = self.on_features.velocity(phi).split(len(parts[0]))
        features, velocities = [], []
        for i, part in enumerate(parts):
            with torch.enable_grad():
                z = part.detach().requires_grad_()
                phi = self.features(z)
            features.append(phi.detach())
            if cotangents is None:
                cotangent = self._on_features(i * len(parts[0]), len(part), len(x)).velocity(features[-1])
            else:
                cotangent = cotangents[i]
            velocities.append(torch.autograd.grad(phi, z, cotangent)[0])
        return self._bounded(torch.cat(velocities), features)

    def _on_features(self, first: int, count: int, total: int) -> VelocityField:
        """Return the field on features of `count` particles from the first one on."""
        if isinstance(self.on_features, PerClass) and count < total:
            return self.on_features.of_rows(slice(first, first + count))
        return self.on_features

    def _bounded(self, velocity: Tensor, features: Sequence[Tensor]) -> Tensor:
        if self.max_slope is None and self.watch is None:
            return velocity
        slope = velocity.flatten(1).norm(dim=1)
        if self.watch is not None:
            self.watch(torch.cat([*features]), slope)
        if self.max_slope is None:
            return velocity
        return velocity * along((self.max_slope / slope).clamp_max(1), velocity)


def features_at(features: Callable[[Tensor, Tensor], Tensor], t: float) -> Callable[[Tensor], Tensor]:
    """Return phi(., t) of phi(x, t)."""
    return lambda x: features(x, x.new_full((len(x),), t))


def field_on_features(
    target: TargetLevel,
    flow: LevelFlow,
    labels: Int[Tensor, " n"] | None = None,
    *,
    num_classes: int = 0,
    guidance: float = 0.0,
) -> VelocityField:
    """Return the velocity field on features of particles of given classes, or of none.

    Args:
        target: what is known of the data at the level.
        flow: how particles move.
        labels: the particles' classes, [n].
        num_classes: the target's classes, C.
        guidance: weight of a class's flow over that of all data.
    """
    if labels is None:
        return target.field(flow)
    identity = torch.eye(num_classes, device=labels.device)
    fields = {c: target.field(flow, identity[c]) for c in labels.unique().tolist()}
    of_all = target.field(flow) if guidance else None
    return PerClass(fields, labels, of_all, guidance)
