"""The sliced MMD with Riesz kernels (Hertrich, Wald, Altekrueger, Hagemann 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow.divergences.base import Divergence
from mmdflow.errors import InputError
from mmdflow.witness import Witness

DIRECTIONS = ("orthogonal", "random", "qmc", "equispaced")
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
        directions: "orthogonal" (random orthonormal blocks), "random", "qmc" (scrambled Sobol points) or "equispaced" (d = 2).
        ranks: "exact".
        generator: of the directions, on the CPU.
        redraw: draw new directions at every velocity; with False the first ones stay. F and the witness always use the
            directions of the last draw.

    Raises:
        InputError: for exponents outside (0, 2), equispaced directions outside the plane, a bad target.

    Example:
        >>> import torch
        >>> from mmdflow import SlicedMMD
        >>> SlicedMMD(torch.zeros(1, 1), 1)(torch.ones(1, 1))  # in one dimension the slice is all there is
        tensor(1.)
    """

    target: Tensor
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
    ) -> None:
        super().__init__()
        target = _checks.points("target", target).detach()
        self.event_shape = tuple(target.shape[1:])
        self.num_directions = _checks.count("num_directions", num_directions)
        self.exponent = _checks.interval("exponent", exponent, 0.0, 2.0, "()")
        self.directions = _checks.choice("directions", directions, DIRECTIONS)
        _checks.choice("ranks", ranks, ("exact",))
        self.generator, self.redraw = generator, redraw
        self.register_buffer("target", target.flatten(1))
        dim = self.target.shape[1]
        if directions == "equispaced" and dim != 2:
            raise InputError(f"directions = 'equispaced' in dimension {dim}: must be 2")
        self.scale = riesz_scale(dim, self.exponent)
        self.register_buffer("xi", self._draw())

    def forward(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, ""]:
        """Return F with the directions of the last draw; differentiable once in x."""
        value: Tensor = _Value.apply(x, self)
        return value

    def witness(self, x: Float[Tensor, "n *event"]) -> Witness:
        """Return the witness, frozen at the particles x, with the directions of the last draw."""
        return _SlicedWitness(x.detach().flatten(1), self.target, self.xi, self.scale, self.exponent)

    def velocity(
        self, x: Float[Tensor, "n *event"], at: Float[Tensor, "k *event"] | None = None
    ) -> Float[Tensor, "k *event"]:
        """Return -grad f, with f frozen at x, evaluated at `at` (default x), with new directions if they are redrawn."""
        if self.redraw:
            self.xi = self._draw()
        return super().velocity(x, at)

    def _draw(self) -> Tensor:
        dim = self.target.shape[1]
        return draw_directions(self.num_directions, dim, self.directions, self.generator).to(self.target)


def riesz_scale(dim: int, exponent: float) -> float:
    """Return c_d(r), with |z|^r = c_d(r) E|<xi, z>|^r over uniform unit directions xi: 1, pi/2, 2, 3pi/4, ... for r = 1."""
    log = math.lgamma((dim + exponent) / 2) - math.lgamma(dim / 2) - math.lgamma((exponent + 1) / 2)
    return math.sqrt(math.pi) * math.exp(log)


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
        blocks = torch.randn(-(-count // dim), dim, dim, dtype=torch.float64, generator=generator)
        q, r = torch.linalg.qr(blocks)
        q = q * r.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)  # uniform on the orthogonal group (Mezzadri 2007)
        return q.transpose(1, 2).reshape(-1, dim)[:count]
    if kind == "qmc":
        seed = int(torch.randint(2**31, (), generator=generator))
        uniform = torch.quasirandom.SobolEngine(dim, scramble=True, seed=seed).draw(count, dtype=torch.float64)
        normal = torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12))
    else:
        normal = torch.randn(count, dim, dtype=torch.float64, generator=generator)
    return torch.nn.functional.normalize(normal, dim=1)


class _SlicedWitness:
    """f(z) = c mean_p [ mean_i k(<xi, z>, <xi, x_i>) - mean_j k(<xi, z>, <xi, y_j>) ] with k(s, t) = -|s - t|^r."""

    def __init__(self, x: Tensor, y: Tensor, xi: Tensor, scale: float, exponent: float) -> None:
        self.x, self.y, self.xi, self.scale, self.exponent = x, y, xi, scale, exponent
        self.radius = max(float(x.norm(dim=1).max()), float(y.norm(dim=1).max()))

    def __call__(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        """Return f(z_i)."""
        return _Potential.apply(z, self)

    def grad(self, z: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """Return grad f(z_i); 0 from points that coincide with z_i."""
        with torch.no_grad():
            flat = z.flatten(1)
            total = torch.zeros_like(flat)
            for xi in self._blocks(len(z)):
                slopes = self._mean(xi, flat, self.x, _slope) - self._mean(xi, flat, self.y, _slope)
                total = total + slopes.T @ xi
            return (total * (self.scale / len(self.xi))).reshape(z.shape)

    def potential(self, z: Tensor) -> Tensor:
        """Return f(z_i), without a gradient."""
        flat = z.flatten(1)
        total = flat.new_zeros(len(flat))
        for xi in self._blocks(len(z)):
            total = total + (self._mean(xi, flat, self.x, _potential) - self._mean(xi, flat, self.y, _potential)).sum(0)
        return total * (self.scale / len(self.xi))

    def _mean(
        self, xi: Tensor, z: Tensor, points: Tensor, of: Callable[[Tensor, Tensor, float, float], Tensor]
    ) -> Tensor:
        """Return the mean over points of k or of its slope at each projection of z, [P, n]."""
        tie = 4 * torch.finfo(z.dtype).eps * self.radius  # matrix products round equal rows differently
        return of(xi @ z.T, xi @ points.T, self.exponent, tie)

    def _blocks(self, n: int) -> Iterator[Tensor]:
        """Split the directions so that what a block holds fits."""
        m = max(len(self.x), len(self.y))
        per_direction = n + m if self.exponent == 1 else n * m
        yield from self.xi.split(max(1, BLOCK // per_direction))


def _potential(z: Tensor, points: Tensor, exponent: float, tie: float) -> Tensor:
    """Return mean_j -|z_i - points_j|^r along each row."""
    if exponent != 1:
        return -_distances(z, points, tie).abs().pow(exponent).mean(2)
    count = points.shape[1]
    ordered = points.sort(1).values
    sums = torch.cat([ordered.new_zeros(len(ordered), 1), ordered.cumsum(1)], 1)
    below = torch.searchsorted(ordered, z.contiguous())
    return -(z * (2 * below - count) + sums[:, -1:] - 2 * sums.gather(1, below)) / count


def _distances(z: Tensor, points: Tensor, tie: float) -> Tensor:
    """Return z_i - points_j along each row, [P, n, m], 0 for ties."""
    difference = z.unsqueeze(2) - points.unsqueeze(1)
    return torch.where(difference.abs() <= tie, torch.zeros_like(difference), difference)


def _slope(z: Tensor, points: Tensor, exponent: float, tie: float) -> Tensor:
    """Return the mean over points of d/dz of -|z - points_j|^r; points that tie with z count 0."""
    if exponent != 1:
        difference = _distances(z, points, tie)
        size = torch.where(difference == 0, torch.ones_like(difference), difference.abs()).pow(exponent - 1)
        return -exponent * (difference.sign() * size).mean(2)
    ordered = points.sort(1).values
    below = torch.searchsorted(ordered, (z - tie).contiguous())
    not_above = torch.searchsorted(ordered, (z + tie).contiguous(), right=True)
    return 1 - (below + not_above).to(z.dtype) / points.shape[1]


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
    """F with its analytic gradient, grad f / n."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, divergence: SlicedMMD) -> Tensor:
        ctx.save_for_backward(x)
        ctx.witness = witness = divergence.witness(x)
        assert isinstance(witness, _SlicedWitness)
        # E_x f - E_y f = MMD^2
        return (witness.potential(x).mean() - witness.potential(divergence.target).mean()) / 2

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return upstream * ctx.witness.grad(x) / len(x), None
