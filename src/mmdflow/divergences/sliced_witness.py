"""The witness of the sliced MMD, and derivatives of it and of F that know about ties."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import ops
from mmdflow._arrays import of_any_kind
from mmdflow._precision import full_precision, in_float32
from mmdflow._tensors import along, flat
from mmdflow.ops import slices
from mmdflow.ops.slices import Ordered, SliceKernel, Sum

#: Numbers that a block of slices may hold at a time.
BLOCK = 2**24


@dataclass(frozen=True, eq=False)
class Lines:
    """A target, and the directions of the lines that it is projected on.

    Attributes:
        centre: what is subtracted from all points, [d].
        centred: the target's samples less it, [m, d].
        weights: of them, [m].
        norms: of the rows of `centred`, [m].
        xi: the directions, [P, d].
        line: the kernel on a line.
        scale: the factor of the mean over lines.
        binned: whether ranks are taken from histograms.
        half: whether products with directions are in bfloat16.
        structure: the signs and scales of structured directions, by which transforms take the place of products.
        projected: returns projections of the target, [P, m], where they are kept.
    """

    centre: Tensor
    centred: Tensor
    weights: Tensor
    norms: Tensor
    xi: Tensor
    line: SliceKernel
    scale: float
    binned: bool
    half: bool
    structure: tuple[Tensor, Tensor] | None
    projected: Callable[[], Tensor | None]


def centred(points: Tensor, centre: Tensor) -> Tensor:
    """Return points less the centre, [n, d], one coordinate after the other in memory where there are few."""
    x = flat(points)
    return x.T.contiguous().sub(centre[:, None]).T if x.shape[1] <= slices.NARROW else x - centre


def sliced_value(lines: Lines, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """Return F, differentiable once in particles and weights."""
    value: Tensor = _Value.apply(x, weights, lines, torch.is_grad_enabled() and x.requires_grad)[0]
    return value


class SlicedWitness:
    """f(z) = c mean_p [ sum_i w_i k(<xi, z>, <xi, x_i>) - sum_j q_j k(<xi, z>, <xi, y_j>) ] with a kernel k on the line.

    Args:
        lines: the target and the lines.
        particles: x, [n, *event].
        weights: w of the particles, [n].
    """

    def __init__(self, lines: Lines, particles: Tensor, weights: Tensor) -> None:
        self.particles, self.version, self.centre = particles, particles._version, lines.centre
        self.x = centred(particles.detach(), self.centre), weights
        self.y = lines.centred, lines.weights
        self.xi, self.scale, self.line = lines.xi, lines.scale, lines.line
        self.binned, self.half, self.structure = lines.binned, lines.half, lines.structure
        self.norms = torch.cat([slices.norms(self.x[0]), lines.norms])
        self.radius = float(self.norms.max())
        self.projected = lines.projected() if self.structure is None and self._compiled(0) else None
        self.rank_error = 0.0  #: a bound on the error that binned ranks added to the last gradient

    @functools.cached_property
    def tie(self) -> float:
        """How near projections tie: matrix products round equal rows differently; a few points far out are no measure of that."""
        return 4 * torch.finfo(self.norms.dtype).eps * min(self.radius, 16 * float(self.norms.mean()))

    @of_any_kind
    @full_precision
    @in_float32
    def __call__(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        """Return f(z_i)."""
        return _Potential.apply(z.to(self.centre.dtype), self).to(z.dtype)

    @of_any_kind
    @full_precision
    def grad(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Return grad f(z_i); 0 from points that coincide with z_i."""
        with torch.no_grad():
            at_particles = z is self.particles and z._version == self.version  # else they were changed in place
            at = self.x[0] if at_particles else centred(z.to(self.centre.dtype), self.centre)
            if self._compiled(len(z)):
                from mmdflow.ops import ranks

                points = ranks.gather(None if at_particles else at, self.x, self.y, self.norms)
                total, bound = ranks.slopes(
                    self.xi,
                    points,
                    binned=self.binned,
                    half=self.half,
                    projected=self.projected,
                    structure=self.structure,
                )
            else:
                total, bound = torch.zeros_like(at), 0.0
                for xi in self._blocks(len(z)):
                    slopes, bounds = self._slopes(xi, at)
                    total, bound = (
                        total + slices.product(slopes.T, xi, self.half),
                        bound + float(bounds.sum()) / len(self.xi),
                    )
            self.rank_error = bound * self.scale
            return (total * (self.scale / len(self.xi))).to(z.dtype).reshape(z.shape)

    def _compiled(self, more: int) -> bool:
        """Return whether compiled ranks take the sums over the particles, the target's samples and `more` points."""
        size = len(self.xi) * (len(self.x[0]) + len(self.y[0]) + more)
        if math.isfinite(self.radius) and self.radius != 0 and not slices.USUAL[0] < self.radius < slices.USUAL[1]:
            return False
        return self.line.slope is None and ops.ranks_compiled(self.x[0], size)

    def _slopes(self, xi: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the slope of the witness of each slice at the projections of z, [P, n], and bounds on binning errors, [P]."""
        exact = xi.new_zeros(len(xi))
        if self.line.slope is not None:
            return self._sum(xi, z, self.x, self.line.slope) - self._sum(xi, z, self.y, self.line.slope), exact
        if self.binned and (limit := slices.bin_limit(self.norms, z.shape[1])) > 0:
            on_x, on_y = ((slices.product(xi, points.T, self.half), weights) for points, weights in (self.x, self.y))
            slopes, bounds = slices.binned_slopes(slices.product(xi, z.T, self.half), on_x, on_y, limit)
            rest = bounds > slices.TOLERANCE
            if bool(rest.any()):
                slopes[rest], bounds[rest] = self._exact_slopes(xi[rest], z), 0.0
            return slopes, bounds
        return self._exact_slopes(xi, z), exact

    def _exact_slopes(self, xi: Tensor, z: Tensor) -> Tensor:
        x, y = (
            Ordered(slices.product(xi, points.T, self.half), weights, self.tie) for points, weights in (self.x, self.y)
        )
        values, order = (x.values, x.order) if z is self.x[0] else slices.product(xi, z.T, self.half).sort(1)
        return torch.empty_like(values).scatter_(1, order, x.slopes(values) - y.slopes(values))

    def potential(self, z: Tensor) -> Tensor:
        """Return f(z_i), without a gradient."""
        return self._potential(centred(z, self.centre))

    def potentials(self) -> tuple[Tensor, Tensor]:
        """Return f at the particles and at the target's samples, without gradients."""
        if not self._compiled(0):
            return self._potential(self.x[0]), self._potential(self.y[0])
        total = self._compiled_potential(None)
        return total[: len(self.x[0])], total[len(self.x[0]) :]

    def _potential(self, z: Tensor) -> Tensor:
        if self._compiled(len(z)):
            return self._compiled_potential(z)[: len(z)]
        total = z.new_zeros(len(z))
        for xi in self._blocks(len(z)):
            from_x, from_y = (self._sum(xi, z, measure, self.line.potential) for measure in (self.x, self.y))
            total = total + (from_x - from_y).sum(0)
        return total * (self.scale / len(self.xi))

    def _compiled_potential(self, z: Tensor | None) -> Tensor:
        from mmdflow.ops import ranks

        return ranks.potentials(self.xi, ranks.gather(z, self.x, self.y, self.norms)) * (self.scale / len(self.xi))

    def _sum(self, xi: Tensor, z: Tensor, measure: tuple[Tensor, Tensor], of: Sum) -> Tensor:
        """Return the sum over a measure of k or of its slope at each projection of z, [P, n]."""
        points, weights = measure
        at, on = xi @ z.T, xi @ points.T
        if not self.line.pairwise:
            return of(at, on, weights, self.tie)
        columns = at.split(max(1, BLOCK // on.numel()), dim=1)  # all pairs of a few z at a time
        return torch.cat([of(part, on, weights, self.tie) for part in columns], 1)

    def _blocks(self, n: int) -> Iterator[Tensor]:
        """Split the directions so that what a block holds fits."""
        m = max(len(self.x[0]), len(self.y[0]))
        yield from self.xi.split(max(1, BLOCK // (n + m)))


class _Once(torch.autograd.Function):
    """A derivative at some points that has none in turn: differentiating it is an error, not 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(derivative: Tensor, *points: Tensor) -> Tensor:
        return derivative.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, ...]:
        raise RuntimeError(
            "SlicedMMD is differentiable once in particles and weights: a second derivative was asked for"
        )


class _Potential(torch.autograd.Function):
    """The witness with its analytic gradient, which knows about ties."""

    @staticmethod
    def forward(z: Tensor, witness: SlicedWitness) -> Tensor:
        return witness.potential(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        z, ctx.witness = inputs
        ctx.save_for_backward(z)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        with torch.no_grad():
            slopes = ctx.witness.grad(z)
        return _Once.apply(slopes, z) * along(upstream, z), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], z: Tensor, witness: SlicedWitness) -> tuple[Tensor, int]:
        rows = (_row(z, in_dims[0], i) for i in range(info.batch_size))
        return torch.stack([_Potential.apply(row, witness) for row in rows]), 0


class _Value(torch.autograd.Function):
    """F with its analytic gradients: w_i grad f(x_i) in the particles, if they are needed, and f(x_i) in their weights."""

    @staticmethod
    def forward(x: Tensor, weights: Tensor, lines: Lines, need: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        witness = SlicedWitness(lines, x, weights)
        at_x, at_y = witness.potentials()
        value = (weights @ at_x - lines.weights @ at_y) / 2  # E_x f - E_y f = MMD^2
        return value, at_x, witness.grad(x) * along(weights, x) if need else None

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        ctx.mark_non_differentiable(*(t for t in output[1:] if t is not None))
        ctx.save_for_backward(*inputs[:2], *output[1:])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weights, at_x, slopes = ctx.saved_tensors
        to_x = None if slopes is None else upstream * _Once.apply(slopes, x, weights)
        return to_x, upstream * _Once.apply(at_x, x, weights), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, weights: Tensor, *rest: Any) -> tuple[Any, Any]:
        rows = [
            _Value.apply(_row(x, in_dims[0], i), _row(weights, in_dims[1], i), *rest) for i in range(info.batch_size)
        ]
        outputs = tuple(None if parts[0] is None else torch.stack(parts) for parts in zip(*rows, strict=True))
        return outputs, tuple(None if output is None else 0 for output in outputs)


def _row(batch: Tensor, dim: int | None, i: int) -> Tensor:
    """Return what `torch.func.vmap` has at place i of its batch."""
    return batch if dim is None else batch.select(dim, i)
