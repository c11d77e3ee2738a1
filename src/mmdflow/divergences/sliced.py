"""The sliced MMD with Riesz kernels (Hertrich, Wald, Altekrueger, Hagemann 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.divergences.base import Divergence, uniform
from mmdflow.errors import InputError

DIRECTIONS = ("orthogonal", "random", "qmc", "equispaced", "patches")
#: Numbers that a block of slices may hold at a time.
BLOCK = 2**24


class SlicedMMD(Divergence):
    r"""F = 1/2 MMD^2 with the Riesz kernel -|x - y|^r, as a mean over one-dimensional projections.

    F = c_d(r) mean_p 1/2 MMD_1^2(<xi_p, x>, <xi_p, y>), c_d(r) = sqrt(pi) Gamma((d+r)/2) / (Gamma(d/2) Gamma((r+1)/2)):
    the same value and scale as ``MMD(target, Riesz(r))``, exactly so in the mean over directions (their Theorem 1). For r = 1
    each slice costs a sort, O((n + m) log(n + m)); ties count half (mid-ranks), and projections that differ by no more than
    rounding are ties. Other exponents sum over all pairs of a slice.

    Args:
        target: samples y, [m, *event].
        num_directions: P, the slices. The error of the gradient falls as (d / P)^(1/2) for random directions (Theorem 4).
        exponent: r in (0, 2).
        directions: "orthogonal" (random orthonormal blocks), "random", "qmc" (scrambled Sobol points), "equispaced" (d = 2), or
            "patches": locally connected projections of images [c, h, w], random directions of a random square patch each (their
            section 5). F is then the mean over patches of 1/2 MMD^2 between patches, not the MMD of whole images.
        ranks: "exact".
        generator: of the directions, on the CPU.
        redraw: draw new directions at every velocity; with False the first ones stay. F and the witness always use the
            directions of the last draw.
        patch: the side of patches, in pixels; needed by "patches".
        target_weights: of the target's samples, [m]; 1/m each by default.

    Raises:
        InputError: for exponents outside (0, 2), equispaced directions outside the plane, patches that do not fit, a bad target.

    Example:
        >>> import torch
        >>> from mmdflow import SlicedMMD
        >>> SlicedMMD(torch.zeros(1, 1), 1)(torch.ones(1, 1))  # in one dimension the slice is all there is
        tensor(1.)
    """

    target: Tensor
    target_weights: Tensor
    xi: Tensor

    def __init__(
        self,
        target: Float[Tensor, "m *event"],
        num_directions: int,
        exponent: float = 1.0,
        directions: str = "orthogonal",
        ranks: str = "exact",
        generator: torch.Generator | None = None,
        *,
        redraw: bool = True,
        patch: int | None = None,
        target_weights: Float[Tensor, " m"] | None = None,
    ) -> None:
        super().__init__()
        target = _checks.points("target", target).detach()
        self.event_shape: tuple[int, ...] = tuple(target.shape[1:])
        self.num_directions = _checks.count("num_directions", num_directions)
        self.exponent = _checks.interval("exponent", exponent, 0.0, 2.0, "()")
        self.directions = _checks.choice("directions", directions, DIRECTIONS)
        _checks.choice("ranks", ranks, ("exact",))
        self.generator, self.redraw = generator, redraw
        self.register_buffer("target", target.flatten(1))
        self.register_buffer("target_weights", _checks.weights("target_weights", target_weights, target))
        dim = self.target.shape[1]
        if directions == "equispaced" and dim != 2:
            raise InputError(f"directions = 'equispaced' in dimension {dim}: must be 2")
        if (directions == "patches") != (patch is not None):
            raise InputError(f"patch = {patch!r} with directions = {directions!r}: 'patches' and only they need it")
        self.patch = None if patch is None else _patch(patch, self.event_shape)
        self.scale = riesz_scale(dim if self.patch is None else self.event_shape[0] * self.patch**2, self.exponent)
        self.register_buffer("xi", self._draw())

    def forward(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return F with the directions of the last draw; differentiable once in x and the weights."""
        value: Tensor = _Value.apply(x, uniform(x, weights), self)
        return value

    def witness(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> _SlicedWitness:
        """Return the witness, frozen at the particles x, with the directions of the last draw."""
        measures = (x.detach().flatten(1), uniform(x, weights).detach()), (self.target, self.target_weights)
        return _SlicedWitness(*measures, self.xi, self.scale, self.exponent)

    def velocity(
        self,
        x: Float[Tensor, "n *event"],
        at: Float[Tensor, "k *event"] | None = None,
        weights: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "k *event"]:
        """Return -grad f, with f frozen at x, evaluated at `at` (default x), with new directions if they are redrawn."""
        if self.redraw:
            self.xi = self._draw()
        return super().velocity(x, at, weights)

    def _draw(self) -> Tensor:
        dim = self.target.shape[1]
        if self.patch is not None:
            return draw_patches(self.num_directions, self.event_shape, self.patch, self.generator).to(self.target)
        return draw_directions(self.num_directions, dim, self.directions, self.generator).to(self.target)


def _patch(patch: int, event_shape: tuple[int, ...]) -> int:
    _checks.count("patch", patch)
    if len(event_shape) != 3 or patch > min(event_shape[1:]):
        raise InputError(
            f"patch = {patch} on events of shape {list(event_shape)}: must be images [c, h, w] that a patch fits into"
        )
    return patch


def riesz_scale(dim: int, exponent: float) -> float:
    """Return c_d(r), with |z|^r = c_d(r) E|<xi, z>|^r over uniform unit directions xi: 1, pi/2, 2, 3pi/4, ... for r = 1."""
    log = math.lgamma((dim + exponent) / 2) - math.lgamma(dim / 2) - math.lgamma((exponent + 1) / 2)
    return math.sqrt(math.pi) * math.exp(log)


def _orthonormal(blocks: int, dim: int, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw blocks of `count` <= dim orthonormal directions, uniform on the Stiefel manifold (Mezzadri 2007)."""
    q, r = torch.linalg.qr(torch.randn(blocks, dim, count, dtype=torch.float64, generator=generator))
    return (q * r.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)).transpose(1, 2).reshape(blocks * count, dim)


def draw_patches(
    count: int, event_shape: tuple[int, ...], patch: int, generator: torch.Generator | None = None
) -> Float[Tensor, "P d"]:
    """Draw unit directions of images [c, h, w] that vanish outside a random square patch each, in float64 on the CPU."""
    channels, height, width = event_shape
    values = draw_directions(count, channels * patch**2, "random", generator).reshape(count, channels, patch, patch)
    tops = torch.randint(height - patch + 1, (count, 1), generator=generator)
    lefts = torch.randint(width - patch + 1, (count, 1), generator=generator)
    xi = torch.zeros(count, *event_shape, dtype=torch.float64)
    rows, columns = tops + torch.arange(patch), lefts + torch.arange(patch)  # [P, patch]
    index = torch.arange(count)[:, None, None]
    xi.transpose(1, 2).transpose(2, 3)[index, rows[:, :, None], columns[:, None, :]] = values.permute(0, 2, 3, 1)
    return xi.flatten(1)


def draw_directions(
    count: int, dim: int, kind: str = "orthogonal", generator: torch.Generator | None = None
) -> Float[Tensor, "P d"]:
    """Draw unit directions in float64 on the CPU."""
    if dim == 1:
        return torch.ones(count, 1, dtype=torch.float64)
    if kind == "equispaced":
        offset = torch.rand(1, dtype=torch.float64, generator=generator)
        angle = math.pi * (torch.arange(count, dtype=torch.float64) + offset) / count
        return torch.stack([angle.cos(), angle.sin()], 1)
    if kind == "orthogonal":
        whole, rest = divmod(count, dim)
        parts = [_orthonormal(whole, dim, dim, generator), _orthonormal(1, dim, rest, generator)]
        return torch.cat([part for part in parts if part.numel()])
    if kind == "qmc":
        seed = int(torch.randint(2**31, (), generator=generator))
        uniform = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed).draw(count, dtype=torch.float64)
        normal = torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12))
    else:
        normal = torch.randn(count, dim, dtype=torch.float64, generator=generator)
    return torch.nn.functional.normalize(normal, dim=1)


class _SlicedWitness:
    """f(z) = c mean_p [ sum_i w_i k(<xi, z>, <xi, x_i>) - sum_j q_j k(<xi, z>, <xi, y_j>) ] with k(s, t) = -|s - t|^r."""

    def __init__(
        self, x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor], xi: Tensor, scale: float, exponent: float
    ) -> None:
        self.x, self.y, self.xi, self.scale, self.exponent = x, y, xi, scale, exponent
        self.radius = max(float(points.norm(dim=1).max()) for points, _ in (x, y))

    def __call__(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        """Return f(z_i)."""
        return _Potential.apply(z, self)

    def grad(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Return grad f(z_i); 0 from points that coincide with z_i."""
        with torch.no_grad():
            flat = z.flatten(1)
            total = torch.zeros_like(flat)
            for xi in self._blocks(len(z)):
                slopes = self._sum(xi, flat, self.x, _slope) - self._sum(xi, flat, self.y, _slope)
                total = total + slopes.T @ xi
            return (total * (self.scale / len(self.xi))).reshape(z.shape)

    def potential(self, z: Tensor) -> Tensor:
        """Return f(z_i), without a gradient."""
        flat = z.flatten(1)
        total = flat.new_zeros(len(flat))
        for xi in self._blocks(len(z)):
            total = total + (self._sum(xi, flat, self.x, _potential) - self._sum(xi, flat, self.y, _potential)).sum(0)
        return total * (self.scale / len(self.xi))

    def _sum(
        self,
        xi: Tensor,
        z: Tensor,
        measure: tuple[Tensor, Tensor],
        of: Callable[[Tensor, Tensor, Tensor, float, float], Tensor],
    ) -> Tensor:
        """Return the sum over a measure of k or of its slope at each projection of z, [P, n]."""
        points, weights = measure
        tie = 4 * torch.finfo(z.dtype).eps * self.radius  # matrix products round equal rows differently
        projected, along = xi @ z.T, xi @ points.T
        if self.exponent == 1:
            return of(projected, along, weights, self.exponent, tie)
        columns = projected.split(max(1, BLOCK // along.numel()), dim=1)  # all pairs of a few z at a time
        return torch.cat([of(part, along, weights, self.exponent, tie) for part in columns], 1)

    def _blocks(self, n: int) -> Iterator[Tensor]:
        """Split the directions so that what a block holds fits."""
        m = max(len(self.x[0]), len(self.y[0]))
        yield from self.xi.split(max(1, BLOCK // (n + m)))


def _potential(z: Tensor, points: Tensor, weights: Tensor, exponent: float, tie: float) -> Tensor:
    """Return sum_j w_j -|z_i - points_j|^r along each row."""
    if exponent != 1:
        return -(_distances(z, points, tie).abs().pow(exponent) @ weights)
    ordered, order = points.sort(1)
    sorted_weights = weights[order]
    mass, moment = _cumulative(sorted_weights), _cumulative(sorted_weights * ordered)
    below = torch.searchsorted(ordered, z.contiguous())
    return -(z * (2 * mass.gather(1, below) - mass[:, -1:]) + moment[:, -1:] - 2 * moment.gather(1, below))


def _cumulative(values: Tensor) -> Tensor:
    """Return the sums of the first 0, 1, ..., m entries of each row."""
    return torch.cat([values.new_zeros(len(values), 1), values.cumsum(1)], 1)


def _distances(z: Tensor, points: Tensor, tie: float) -> Tensor:
    """Return z_i - points_j along each row, [P, n, m], 0 for ties."""
    difference = z.unsqueeze(2) - points.unsqueeze(1)
    return torch.where(difference.abs() <= tie, torch.zeros_like(difference), difference)


def _slope(z: Tensor, points: Tensor, weights: Tensor, exponent: float, tie: float) -> Tensor:
    """Return the sum over points of d/dz of -w_j |z - points_j|^r; points that tie with z count 0."""
    if exponent != 1:
        difference = _distances(z, points, tie)
        size = torch.where(difference == 0, torch.ones_like(difference), difference.abs()).pow(exponent - 1)
        return -exponent * ((difference.sign() * size) @ weights)
    ordered, order = points.sort(1)
    below = torch.searchsorted(ordered, (z - tie).contiguous())
    not_above = torch.searchsorted(ordered, (z + tie).contiguous(), right=True)
    if bool((weights == weights[0]).all()):  # ranks alone
        return weights[0] * (points.shape[1] - (below + not_above).to(z.dtype))
    mass = _cumulative(weights[order])
    return mass[:, -1:] - mass.gather(1, below) - mass.gather(1, not_above)


class _Potential(torch.autograd.Function):
    """The witness with its analytic gradient, which knows about ties."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, witness: _SlicedWitness) -> Tensor:
        ctx.save_for_backward(z)
        ctx.witness = witness
        return witness.potential(z)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        return ctx.witness.grad(z) * upstream.reshape(-1, *([1] * (z.ndim - 1))), None


class _Value(torch.autograd.Function):
    """F with its analytic gradients: w_i grad f(x_i) in the particles, f(x_i) in their weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, divergence: SlicedMMD) -> Tensor:
        ctx.witness = witness = divergence.witness(x, weights)
        at_x = witness.potential(x)
        ctx.save_for_backward(x, weights, at_x)
        # E_x f - E_y f = MMD^2
        return (weights @ at_x - divergence.target_weights @ witness.potential(divergence.target)) / 2

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weights, at_x = ctx.saved_tensors
        slopes = ctx.witness.grad(x) * weights.reshape(-1, *([1] * (x.ndim - 1)))
        return upstream * slopes, upstream * at_x, None
