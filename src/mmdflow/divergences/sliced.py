"""The sliced MMD with Riesz kernels (Hertrich, Wald, Altekrueger, Hagemann 2024)."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks, ops
from mmdflow._amx import spare_amx
from mmdflow._precision import full_precision, in_float32, widened
from mmdflow._tensors import along, flat
from mmdflow.divergences.base import Divergence, spread_of, uniform
from mmdflow.divergences.directions import (
    DIRECTIONS,
    draw_directions,
    draw_patches,
    draw_signs,
    riesz_scale,
    structured_directions,
    structured_scales,
)
from mmdflow.errors import InputError
from mmdflow.kernels import Radial, Riesz
from mmdflow.kernels.distances import EXACT_DIM
from mmdflow.ops import slices
from mmdflow.ops.slices import Ordered, Sum
from mmdflow.types import ArrayLike, Particles, Points, Step, Weights

#: Numbers that a block of slices may hold at a time.
BLOCK = 2**24
#: Projections of the target that are kept at most: 256 MB in float32.
KEPT = 2**26
#: Numbers of directions that are drawn at a time.
DRAWN = 2**22


class SlicedMMD(Divergence):
    r"""F = 1/2 MMD^2 with the Riesz kernel -|x - y|^r, or another radial one, as a mean over one-dimensional projections.

    F = c_d(r) mean_p 1/2 MMD_1^2(<xi_p, x>, <xi_p, y>), c_d(r) = sqrt(pi) Gamma((d+r)/2) / (Gamma(d/2) Gamma((r+1)/2)):
    the same value and scale as ``MMD(target, Riesz(r))``, exactly so in the mean over directions (their Theorem 1). For r = 1
    each slice costs a sort, O((n + m) log(n + m)); ties count half (mid-ranks), and projections that differ by no more than
    rounding are ties. Other exponents sum over all pairs of a slice.

    A smooth `kernel` that is a scale mixture of Gaussians (Gaussian, Matern 3/2 or 5/2, InverseMultiquadric, RationalQuadratic)
    is sliced through its spectral measure: each slice gets one random frequency and costs O(n + m) (random Fourier features,
    Rahimi and Recht 2007; with orthogonal directions Yu et al. 2016). F and its gradient are then unbiased for the kernel's.

    Args:
        target: samples y, [m, *event].
        num_directions: P, the slices. The error of the gradient falls as (d / P)^(1/2) for random directions (Theorem 4).
        exponent: r in (0, 2).
        directions: "orthogonal" (random orthonormal blocks); "optimized" (apart from each other, rotated at random: the least
            error up to some tens of dimensions; the first draw takes up to a second); "structured" (rows of a randomised
            Hadamard matrix, d >= 64: fast transforms project); "random"; "qmc" (scrambled Sobol points); "equispaced" (d = 2);
            or "patches": locally connected projections of images [c, h, w], random directions of a random square patch each
            (their section 5), where F is the mean over patches of 1/2 MMD^2 between patches, not the MMD of whole images.
        ranks: of velocities for r = 1. "exact", by sorting, or "binned", quicker: by interpolation in histograms of the
            projections, after which `rank_error` holds a bound on the error that this added. Slices in which a bin is too full
            (heavy tails, few points) are sorted.
        precision: "full", or "bfloat16" for the products with directions in velocities, where r = 1: several times quicker in
            many dimensions on machines that have such arithmetic; projections are then off by 2^-9 of their size.
        generator: of the directions, on the CPU.
        redraw: draw new directions at every velocity; with False the first ones stay. F and the witness always use the
            directions of the last draw.
        patch: the side of patches, in pixels; needed by "patches".
        kernel: a radial kernel to slice instead of the Riesz kernel; its parameters are taken as they are now.
        target_weights: of the target's samples, [m]; 1/m each by default.

    Raises:
        InputError: for exponents outside (0, 2), equispaced directions outside the plane, patches that do not fit, a kernel
            whose spectral measure is not known, a bad target.

    Example:
        >>> import torch
        >>> from mmdflow import SlicedMMD
        >>> SlicedMMD(torch.zeros(1, 1), 1)(torch.ones(1, 1))  # in one dimension the slice is all there is
        tensor(1.)
    """

    centre: Tensor
    centred: Tensor
    norms: Tensor
    target_weights: Tensor
    xi: Tensor
    given: Tensor

    def __init__(
        self,
        target: Float[Tensor, "m *event"] | ArrayLike,
        num_directions: int,
        exponent: float = 1.0,
        directions: str = "orthogonal",
        ranks: str = "exact",
        generator: torch.Generator | None = None,
        *,
        redraw: bool = True,
        precision: str = "full",
        patch: int | None = None,
        kernel: Radial | None = None,
        target_weights: Float[Tensor, " m"] | ArrayLike | None = None,
    ) -> None:
        super().__init__()
        target = _checks.points("target", target).detach()
        self._remember(target)
        target = widened(target)
        self.event_shape: tuple[int, ...] = tuple(target.shape[1:])
        self.num_directions = _checks.count("num_directions", num_directions)
        self.exponent = _checks.interval("exponent", exponent, 0.0, 2.0, "()")
        self.directions = _checks.choice("directions", directions, DIRECTIONS)
        self.ranks = _checks.choice("ranks", ranks, ("exact", "binned"))
        self.precision = _checks.choice("precision", precision, ("full", "bfloat16"))
        if self.precision == "bfloat16" and target.device.type == "cpu":
            spare_amx()
        self.generator, self.redraw = generator, redraw
        self.register_buffer("centre", flat(target).mean(0))  # large offsets would cost projections their digits
        self.register_buffer("centred", _centred(target, self.centre))
        self.register_buffer("norms", slices.norms(self.centred), persistent=False)
        self.register_load_state_dict_post_hook(_measure_again)
        self.register_buffer("target_weights", _checks.weights("target_weights", target_weights, target))
        dim = self.centred.shape[1]
        if directions == "equispaced" and dim != 2:
            raise InputError(f"directions = 'equispaced' in dimension {dim}: must be 2")
        if (directions == "patches") != (patch is not None):
            raise InputError(f"patch = {patch!r} with directions = {directions!r}: 'patches' and only they need it")
        self.patch = None if patch is None else _patch(patch, self.event_shape)
        self.kernel = kernel
        if (kernel is not None or self.exponent != 1) and (ranks, precision) != ("exact", "full"):
            raise InputError(
                f"ranks = {ranks!r}, precision = {precision!r} with exponent = {exponent!r}, kernel = {kernel!r}: must be "
                f"'exact' and 'full' but for the Riesz kernel of exponent 1"
            )
        sliced_dim = dim if self.patch is None else self.event_shape[0] * self.patch**2
        if kernel is None:
            self.line, self.scale = slices.riesz(self.exponent), riesz_scale(sliced_dim, self.exponent)
        else:
            if not isinstance(kernel, Radial):
                raise InputError(f"kernel = {kernel!r}: must be one radial kernel, such as Gaussian(1.0)")
            if exponent != 1:
                raise InputError(f"exponent = {exponent!r} with kernel = {type(kernel).__name__}: give one of them")
            self.line, self.scale = slices.cosine(), float(kernel.diag(target.new_zeros(1, sliced_dim)))
        self._structure: tuple[Tensor, int, tuple[Tensor, Tensor]] | None = None
        self.register_buffer("xi", self._draw())
        self._projected: tuple[tuple[Tensor, int, int], Tensor] | None = None
        self.rank_error = 0.0

    @property
    def target(self) -> Float[Tensor, "m *event"]:
        """The target's samples."""
        return (self.centred + self.centre).to(self.given.dtype).reshape(len(self.centred), *self.event_shape)

    def usual_step(self) -> Step | None:
        """Return the step of the MMD with the same kernel, half of it where the kernel is bounded."""
        return self.usual_step_at(spread_of(self.target) if self.kernel is None else 1.0)

    def usual_step_at(self, spread: float) -> Step | None:
        """Return the step for a target of another spread, such as the whole of which this one's is a part."""
        if self.kernel is None:
            return Riesz(self.exponent).usual_step(spread)
        step = self.kernel.usual_step(1.0)
        return None if step is None else Step(step.size / 2, step.momentum)

    def forward(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return F with the directions of the last draw; differentiable once in x and the weights."""
        dtype, x = x.dtype, widened(x)
        need = torch.is_grad_enabled() and x.requires_grad
        value: Tensor = _Value.apply(x, uniform(x, weights), self, need)[0]
        return value.to(dtype)

    def witness(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> _SlicedWitness:
        """Return the witness, frozen at the particles x, with the directions of the last draw."""
        return _SlicedWitness(self, x, uniform(widened(x), weights).detach())

    def velocity(self, x: Particles, at: Points | None = None, weights: Weights | None = None) -> Points:
        """Return -grad f, with f frozen at x, evaluated at `at` (default x), with new directions if they are redrawn."""
        if self.redraw:
            self.draw()
        witness = self.witness(x, weights)
        velocity = witness.grad(x if at is None else at).neg_()
        self.rank_error = witness.rank_error
        return velocity

    def draw(self) -> None:
        """Draw new directions, which F and the witness take from now on."""
        self.xi = self._draw()

    def projected(self) -> Tensor | None:
        """Return the target's projections [P, m], kept from the last call where directions stay and it pays, else None."""
        dim = self.centred.shape[1]
        if self.redraw or dim <= EXACT_DIM or self.num_directions * len(self.centred) > KEPT:
            return None
        key = self.xi, self.xi._version, self.centred._version
        if self._projected is None or self._projected[0][0] is not self.xi or self._projected[0][1:] != key[1:]:
            self._projected = key, slices.product(self.xi, self.centred.T, self.precision == "bfloat16")
        return self._projected[1]

    def structure(self) -> tuple[Tensor, Tensor] | None:
        """Return the signs and scales of structured directions, by which transforms take the place of products, else None."""
        if self._structure is None:
            return None
        xi, version, parts = self._structure
        return parts if xi is self.xi and version == xi._version else None

    def _draw(self) -> Tensor:
        """Draw the directions, [P, d], in blocks of whole orthogonal bases so that float64 is not held for all of them."""
        dim = self.centred.shape[1]
        if self.directions == "structured" and dim > 1 and self.kernel is None:
            signs = draw_signs(self.num_directions, dim, self.generator)
            scales = structured_scales(signs, self.num_directions, dim)
            xi = structured_directions(signs, self.num_directions, dim).to(self.centred)
            self._structure = xi, xi._version, (signs.to(xi.dtype), scales.to(xi.dtype))
            return xi
        whole = self.directions in ("qmc", "equispaced") or dim == 1  # one set of points
        rows = self.num_directions if whole else dim * max(1, DRAWN // dim**2)
        xi = self.centred.new_empty(self.num_directions, dim)
        for block in xi.split(rows):
            block.copy_(self._draw_block(len(block)))
        return xi

    def _draw_block(self, count: int) -> Tensor:
        dim = self.centred.shape[1]
        if self.patch is not None:
            xi = draw_patches(count, self.event_shape, self.patch, self.generator)
            dim = self.event_shape[0] * self.patch**2
        else:
            xi = draw_directions(count, dim, self.directions, self.generator)
        if self.kernel is not None:  # the frequencies of the kernel's spectral measure are normal, of random variances
            lengths = torch.randn(count, dim, dtype=torch.float64, generator=self.generator).norm(dim=1)
            xi = xi * (lengths * self.kernel.spectral_variances(count, self.generator).sqrt())[:, None]
        return xi


def _patch(patch: int, event_shape: tuple[int, ...]) -> int:
    _checks.count("patch", patch)
    if len(event_shape) != 3 or patch > min(event_shape[1:]):
        raise InputError(
            f"patch = {patch} on events of shape {list(event_shape)}: must be images [c, h, w] that a patch fits into"
        )
    return patch


def _measure_again(divergence: SlicedMMD, incompatible: Any) -> None:
    """Bring what the target decides up to date after it was loaded."""
    divergence.norms = slices.norms(divergence.centred)


def _centred(points: Tensor, centre: Tensor) -> Tensor:
    """Return points less the centre, [n, d], one coordinate after the other in memory where there are few."""
    x = flat(points)
    return x.T.contiguous().sub(centre[:, None]).T if x.shape[1] <= slices.NARROW else x - centre


class _SlicedWitness:
    """f(z) = c mean_p [ sum_i w_i k(<xi, z>, <xi, x_i>) - sum_j q_j k(<xi, z>, <xi, y_j>) ] with a kernel k on the line."""

    def __init__(self, divergence: SlicedMMD, particles: Tensor, weights: Tensor) -> None:
        self.particles, self.version, self.centre = particles, particles._version, divergence.centre
        self.x = _centred(particles.detach(), self.centre), weights
        self.y = divergence.centred, divergence.target_weights
        self.xi, self.scale, self.line = divergence.xi, divergence.scale, divergence.line
        self.binned, self.half = divergence.ranks == "binned", divergence.precision == "bfloat16"
        self.norms = torch.cat([slices.norms(self.x[0]), divergence.norms])
        self.radius = float(self.norms.max())
        self.structure = divergence.structure()
        self.projected = divergence.projected() if self.structure is None and self._compiled(0) else None
        self.rank_error = 0.0  #: a bound on the error that binned ranks added to the last gradient

    @functools.cached_property
    def tie(self) -> float:
        """How near projections tie: matrix products round equal rows differently; a few points far out are no measure of that."""
        return 4 * torch.finfo(self.norms.dtype).eps * min(self.radius, 16 * float(self.norms.mean()))

    @full_precision
    @in_float32
    def __call__(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        """Return f(z_i)."""
        return _Potential.apply(z, self)

    @full_precision
    def grad(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Return grad f(z_i); 0 from points that coincide with z_i."""
        with torch.no_grad():
            at_particles = z is self.particles and z._version == self.version  # else they were changed in place
            centred = self.x[0] if at_particles else _centred(z, self.centre)
            if self._compiled(len(z)):
                from mmdflow.ops import ranks

                points = ranks.gather(None if at_particles else centred, self.x, self.y, self.norms)
                total, bound = ranks.slopes(
                    self.xi,
                    points,
                    binned=self.binned,
                    half=self.half,
                    projected=self.projected,
                    structure=self.structure,
                )
            else:
                total, bound = torch.zeros_like(centred), 0.0
                for xi in self._blocks(len(z)):
                    slopes, bounds = self._slopes(xi, centred)
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
        return self._potential(_centred(z, self.centre))

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
    def forward(z: Tensor, witness: _SlicedWitness) -> Tensor:
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
    def vmap(info: Any, in_dims: tuple[Any, ...], z: Tensor, witness: _SlicedWitness) -> tuple[Tensor, int]:
        rows = (_row(z, in_dims[0], i) for i in range(info.batch_size))
        return torch.stack([_Potential.apply(row, witness) for row in rows]), 0


class _Value(torch.autograd.Function):
    """F with its analytic gradients: w_i grad f(x_i) in the particles, if they are needed, and f(x_i) in their weights."""

    @staticmethod
    def forward(x: Tensor, weights: Tensor, divergence: SlicedMMD, need: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        witness = divergence.witness(x, weights)
        at_x, at_y = witness.potentials()
        value = (weights @ at_x - divergence.target_weights @ at_y) / 2  # E_x f - E_y f = MMD^2
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
