"""Drifts: kernel velocities that pull particles to the data and push them off each other. Most are no gradients.

With N_p(x) = E_p k(x, y) (y - x) for the data p, and the same of the particles q, every drift is V = N_p / D_p - N_q / D_q.
What the normalisation D is decides the method.
"""

from __future__ import annotations

import copy
import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmdflow import _checks, ops
from mmdflow._precision import full_precision, in_float32, leaves_range, widened
from mmdflow._tensors import along, flat
from mmdflow.divergences.base import require_kernel, uniform
from mmdflow.errors import InputError
from mmdflow.kernels import Kernel, Radial, squared_distances
from mmdflow.kernels.base import keeps_up
from mmdflow.types import Particles, Points, Weights

NORMALIZATIONS = ("none", "mean-shift", "sharp", "batch", "sinkhorn")


class Drift:
    r"""A drift towards a target: a velocity field for `flow`, with no divergence F and no witness behind it.

    | normalization | D(x) | what it is |
    |---|---|---|
    | none | 1 | the flow of 1/2 MMD^2 of the companion kernel k#, see `Kernel.companion` |
    | mean-shift | E k(x, y) | drifting (Deng, Li, Li, Du, He 2026, arXiv 2602.04770) |
    | sharp | E k#(x, y) | grad log (k# * p) - grad log (k# * q), a gradient for every kernel (arXiv 2604.06333) |
    | batch | see below | the batch form of Deng et al. |
    | sinkhorn | both marginals | T_{q,p} - T_{q,q}, barycentric maps of entropic transport (arXiv 2603.12366) |

    The batch form has A = sqrt(softmax over rows * softmax over columns) of log k between the particles and both clouds joined;
    V = W+ y - W- x with W+ = A+ rowsum(A-), W- = A- rowsum(A+). The sinkhorn form has the cost -log k.

    A particle does not push itself off: its self term is left out by its index, unless `self_terms`. With the self terms the
    drift is 0 where the clouds are equal. The sinkhorn form keeps them by default: without them both marginals make the particle
    next to an outlier transport its mass there, and its drift is as long as the outlier is far. The first three forms take
    O((n + m) d) memory, the others O(n (n + m)).

    Args:
        target: samples y of the data, [m, *event].
        kernel: k, with positive values: Gaussian, Laplace, Matern 1/2 or 3/2, RationalQuadratic with alpha > 1, or a mixture.
        normalization: one of the table.
        target_weights: of the samples, [m], non-negative; scaled to sum 1. 1/m each by default.
        self_terms: whether particles count among their own neighbours; by default in the sinkhorn form only.
        num_iterations: of Sinkhorn's algorithm.

    Raises:
        InputError: for a kernel without positive values or without a companion, or an unknown normalization.

    Example:
        >>> import torch
        >>> from mmdflow import Drift, Gaussian, flow
        >>> target = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) + 2
        >>> drift = Drift(target, Gaussian(1.0), normalization="mean-shift")
        >>> moved = flow(drift, 0.1 * target, step_size=0.5, num_steps=50).particles
        >>> bool((moved.mean(0) - target.mean(0)).norm() < 0.1)
        True
    """

    @full_precision
    def __init__(
        self,
        target: Float[Tensor, "m *event"],
        kernel: Kernel,
        *,
        normalization: str = "none",
        target_weights: Float[Tensor, " m"] | None = None,
        self_terms: bool | None = None,
        num_iterations: int = 50,
    ) -> None:
        self.target = _checks.points("target", target).detach()
        self.target_weights = _checks.weights("target_weights", target_weights, widened(self.target))
        self.normalization = _checks.choice("normalization", normalization, NORMALIZATIONS)
        self.kernel, self.companion = require_kernel(kernel), _companion(kernel)
        self.self_terms = normalization == "sinkhorn" if self_terms is None else self_terms
        self.num_iterations = _checks.count("num_iterations", num_iterations)
        self.event_shape = tuple(self.target.shape[1:])

    def check(self, x: Tensor, field: str = "particles") -> Tensor:
        """Return x if it is finite, floating, and of the target's event shape, dtype and device; else raise InputError."""
        _checks.points(field, x, self.event_shape)
        _checks.alike(field, x, self.target)
        return x

    @full_precision
    @in_float32
    @torch.no_grad()
    def velocity(self, x: Particles, at: Points | None = None, weights: Weights | None = None) -> Points:
        """Return V for the particles x, evaluated at `at` (default: at x; elsewhere there are no self terms).

        Raises:
            InputError: where the kernel underflows at a point for every sample of the target: names a bandwidth that would do.
        """
        if leaves_range(x, self.target) or (self.companion.extreme and x.dtype != torch.float64):
            z = None if at is None else at.double()
            return self._in_float64().velocity(x.double(), z, None if weights is None else weights.double()).to(x)
        weights = uniform(x, weights)
        z = x if at is None else at
        masked = at is None and not self.self_terms
        if self.normalization == "batch":
            return self._batch(z, x, weights, masked)
        if self.normalization == "sinkhorn":
            return self._sinkhorn(z, x, weights, masked)
        pull = ops.kernel_sum_grad(self.companion, z, self.target, self.target_weights)
        push = ops.kernel_sum_grad(self.companion, z, x, weights)
        if self.normalization == "none":
            return pull - push
        density = self.kernel if self.normalization == "mean-shift" else self.companion
        attraction = ops.kernel_sum(density, z, self.target, self.target_weights)
        repulsion = ops.kernel_sum(density, z, x, weights)
        if masked:
            repulsion = repulsion - weights * density.diag(x)
        tiny = torch.finfo(z.dtype).tiny
        self._check_overlap(attraction > tiny, z)
        # far from all other particles there is nothing to push off
        far = repulsion <= torch.finfo(z.dtype).eps * weights.max() * density.diag(x[:1])
        push = torch.where(along(far, push), torch.zeros_like(push), push / along(repulsion.clamp_min(tiny), push))
        return pull / along(attraction, pull) - push

    def _in_float64(self) -> Drift:
        """Return this drift with all its points in float64."""
        wide = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(wide, name, value.double())
        return wide

    def _batch(self, z: Tensor, x: Tensor, weights: Tensor, masked: bool) -> Tensor:
        """The batch form: distances to particles and samples compete in one softmax over rows and one over columns."""
        to_particles = self.kernel.log(z, x) + weights.log()
        if masked:
            to_particles.fill_diagonal_(-math.inf)
        joined = torch.cat([to_particles, self.kernel.log(z, self.target) + self.target_weights.log()], 1)
        affinity = (
            ((joined.log_softmax(0) + joined.log_softmax(1)) / 2).exp().nan_to_num(0.0)
        )  # a column of the mask: 0
        push, pull = affinity[:, : len(x)], affinity[:, len(x) :]
        pull, push = pull * push.sum(1, keepdim=True), push * pull.sum(1, keepdim=True)
        return _moved(pull, z, self.target) - _moved(push, z, x)

    def _sinkhorn(self, z: Tensor, x: Tensor, weights: Tensor, masked: bool) -> Tensor:
        """The barycentric map to the data less the one to the particles themselves."""
        diagonal = torch.eye(len(x), dtype=torch.bool, device=x.device) if masked and len(x) > 1 else None
        pull = self._barycentres(z, x, weights, self.target, self.target_weights, None)
        if masked and len(x) == 1:  # no other particle
            return pull
        return pull - self._barycentres(z, x, weights, x, weights, diagonal)

    def _barycentres(
        self, z: Tensor, x: Tensor, weights: Tensor, y: Tensor, target_weights: Tensor, mask: Bool[Tensor, "n m"] | None
    ) -> Tensor:
        """Return T(z) - z, T the barycentric map of entropic transport from x to y (Sinkhorn's iterations on logarithms)."""
        gram, log_a, log_b = self.kernel.log(x, y), weights.log(), target_weights.log()
        if mask is not None:
            gram = gram.masked_fill(mask, -math.inf)
        g = torch.zeros_like(target_weights)
        for _ in range(self.num_iterations):
            f = log_a - (gram + g).logsumexp(1)
            g = log_b - (gram + f[:, None]).logsumexp(0)
        rows = gram if z is x else self.kernel.log(z, y)
        return _moved((rows + g).softmax(1), z, y)

    def _check_overlap(self, reached: Bool[Tensor, " n"], z: Tensor) -> None:
        if bool(reached.all()):
            return
        lost = z[~reached]
        nearest = max(float(squared_distances(flat(part), flat(self.target)).amin(1).max()) for part in lost.split(256))
        raise InputError(
            f"kernel = {type(self.kernel).__name__}: is 0 in {z.dtype} at {len(lost)} of {len(z)} points for every sample of the "
            f"target; a bandwidth of {math.sqrt(nearest) / 5:.3g} or more would reach them, or normalization = 'batch'"
        )


def _companion(kernel: Kernel) -> Kernel:
    """Return the kernel's companion; not that of a parent whose formula a subclass has changed."""
    if isinstance(kernel, Radial) and not keeps_up(kernel, "companion", "profile", "forward"):
        return Kernel.companion(kernel)
    return kernel.companion()


def _moved(weights: Float[Tensor, "n m"], z: Tensor, y: Tensor) -> Tensor:
    """Return sum_j weights_ij (y_j - z_i), shaped like z, summed about the mean of y: far from the origin no digits are lost."""
    y = widened(y)
    centre = flat(y).mean(0)
    moved = weights @ (flat(y) - centre) - weights.sum(1, keepdim=True) * (flat(z) - centre)
    return moved.reshape(z.shape)
