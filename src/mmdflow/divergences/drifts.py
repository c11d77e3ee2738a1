"""Drifts: kernel velocities that pull particles to the data and push them off each other. Most are no gradients.

With N_p(x) = E_p k(x, y) (y - x) for the data p, and the same of the particles q, every drift is V = N_p / D_p - N_q / D_q.
What the normalisation D is decides the method.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mmdflow import _arrays, _checks, ops
from mmdflow._precision import full_precision, in_float32, leaves_range, widened
from mmdflow._tensors import along, flat
from mmdflow.divergences.base import VelocityField, check_particles, require_kernel, takes_arrays, uniform
from mmdflow.divergences.batch_form import shares
from mmdflow.divergences.transport import transport_dual
from mmdflow.errors import InputError
from mmdflow.kernels import Kernel, Radial, squared_distances
from mmdflow.kernels.base import keeps_up
from mmdflow.ops.reference import BLOCK
from mmdflow.types import ArrayLike, Particles, Points, Weights

NORMALIZATIONS = ("none", "mean-shift", "sharp", "batch", "balanced-batch", "sinkhorn")
#: Those whose pull and push are quotients of two sums over samples.
RATIOS = ("mean-shift", "sharp")
#: Those in which particles and samples compete in one softmax.
BATCH = ("batch", "balanced-batch")


#: Share of the mass that a transport plan may misplace before it is said.
_MISPLACED = 0.01


class _Cloud(NamedTuple):
    """Weighted points of sum 1; the first `masked` of them are the points of evaluation, which do not see themselves."""

    points: Tensor
    weights: Tensor
    masked: int = 0


class Drift:
    r"""A drift towards a target: a velocity field for `flow` and `fit`, with no divergence F and no witness behind it.

    | normalization | D(x) | what it is |
    |---|---|---|
    | none | 1 | the flow of 1/2 MMD^2 of the companion kernel k#, see `Kernel.companion` |
    | mean-shift | E k(x, y) | drifting (Deng, Li, Li, Du, He 2026, arXiv 2602.04770) |
    | sharp | E k#(x, y) | grad log (k# * p) - grad log (k# * q), a gradient for every kernel (arXiv 2604.06333) |
    | batch | see below | the batch form of Deng et al.: a sample has the weight of a particle |
    | balanced-batch | see below | the same, all samples with the weight of all particles |
    | sinkhorn | both marginals | T_{q,p} - T_{q,q}, barycentric maps of entropic transport (arXiv 2603.12366) |

    The batch form has A = sqrt(softmax over rows * softmax over columns) of log k between the particles and both clouds joined;
    V = W+ y - W- x with W+ = A+ rowsum(A-), W- = A- rowsum(A+). As published, a sample has the weight of a particle there,
    whatever the numbers of both. The sinkhorn form has the cost -log k.

    A particle does not push itself off: its self term is left out by its index, unless `self_terms`. With the self terms the
    drift is 0 where the clouds are equal. The sinkhorn form keeps them by default: without them both marginals make the particle
    next to an outlier transport its mass there, and its drift is as long as the outlier is far. A `second` batch of particles
    needs no self terms at all. Of samples, quotients are biased by O(1/n). Where particles and data follow one distribution the
    biases of pull and push cancel on average if their numbers are equal. Else mean-shift, sharp and balanced-batch point away
    from the mean with more data than particles, towards it with fewer. batch has no such bias from a `second` batch: samples
    and particles can change places. The first three forms take O((n + m) d) memory, the others
    O(n (n + m)).

    Guidance (Deng et al.): with real samples of all classes as `negatives`, whose weights sum to alpha - 1, particles of one
    class settle at q = alpha p - (alpha - 1) p_all.

    Args:
        target: samples y of the data, [m, *event].
        kernel: k, with positive values: Gaussian, Laplace, Matern 1/2 or 3/2, RationalQuadratic with alpha > 1, or a mixture.
            For several bandwidths, each a field of its own, see `FieldSum`.
        normalization: one of the table.
        target_weights: of the samples, [m], non-negative; scaled to sum 1. 1/m each by default.
        negatives: further samples that particles are pushed off, [k, *event].
        negative_weights: theirs, [k], non-negative, in units of the weight of all particles; 1/n each by default, as much as one
            of n particles has. With all 0 there are no negatives.
        second: other samples of the particles' own distribution, [l, *event]: they push in place of the particles.
        self_terms: whether particles count among their own neighbours; by default in the sinkhorn form only.
        unbiased: take the bias of order 1/n off the quotients of mean-shift and sharp (the second-order correction of ratio
            estimates, Tin 1965): N / D becomes N / D + sum_j a_j (b_j (y_j - x) - a_j N / D) with a_j and b_j the shares of
            sample j in D and N. One more pass over all pairs, in plain torch.
        num_iterations: of Sinkhorn's algorithm, the first of which are at lower powers of the kernel, where it is narrow.

    Attributes:
        plan_error: share of the mass that the transport plans of the last velocity misplace; a warning says where it is above
            0.01. Of the sinkhorn form.

    Raises:
        InputError: for a kernel without positive values or without a companion, an unknown normalization, samples of another
            shape, or settings that do not belong together.

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
        target: Float[Tensor, "m *event"] | ArrayLike,
        kernel: Kernel,
        *,
        normalization: str = "none",
        target_weights: Float[Tensor, " m"] | ArrayLike | None = None,
        negatives: Float[Tensor, "k *event"] | ArrayLike | None = None,
        negative_weights: Float[Tensor, " k"] | ArrayLike | None = None,
        second: Float[Tensor, "l *event"] | ArrayLike | None = None,
        self_terms: bool | None = None,
        unbiased: bool = False,
        num_iterations: int = 50,
    ) -> None:
        self.target = _checks.points("target", target).detach()
        self.event_shape = tuple(self.target.shape[1:])
        self.target_weights = _checks.weights("target_weights", target_weights, widened(self.target))
        self.normalization = _checks.choice("normalization", normalization, NORMALIZATIONS)
        self.kernel, self.companion = require_kernel(kernel), _companion(kernel)
        self.negatives = None if negatives is None else self.check(negatives, "negatives").detach()
        self.negative_weights = self._weights_of_negatives(negative_weights)
        if self.negative_weights is not None and not bool(self.negative_weights.any()):
            self.negatives = self.negative_weights = None  # no guidance
        self.second = None if second is None else self.check(second, "second").detach()
        if second is not None and self_terms is not None:
            raise InputError(f"self_terms = {self_terms} with second: a second batch has none")
        self.self_terms = normalization == "sinkhorn" if self_terms is None else self_terms
        if unbiased and normalization not in RATIOS:
            raise InputError(f"unbiased = True with normalization = {normalization!r}: is for {' and '.join(RATIOS)}")
        self.unbiased = unbiased
        self.num_iterations = _checks.count("num_iterations", num_iterations)
        self.plan_error = 0.0

    def check(self, x: Tensor | ArrayLike, field: str = "particles") -> Tensor:
        """Return x in the target's dtype if it is finite and of its event shape and device; else raise InputError."""
        return _checks.placed(field, x, self.event_shape, self.target)

    @takes_arrays
    @full_precision
    @in_float32
    @torch.no_grad()
    def velocity(self, x: Particles, at: Points | None = None, weights: Weights | None = None) -> Points:
        """Return V for the particles x, evaluated at `at` (default: at x; elsewhere there are no self terms).

        Raises:
            InputError: where the kernel underflows at a point for every sample of the target: names a bandwidth that would do.
        """
        held = [points for points in (self.target, self.negatives, self.second) if points is not None]
        if leaves_range(x, *held) or (self.companion.extreme and x.dtype != torch.float64):
            z, wide = None if at is None else at.double(), self._in_float64()
            velocity = wide.velocity(x.double(), z, None if weights is None else weights.double()).to(x)
            self.plan_error = wide.plan_error
            return velocity
        weights = uniform(x, weights)
        z = x if at is None else at
        cloud = self._pushing(x, weights, at is None)
        if self.normalization in BATCH:
            return self._batch(z, cloud)
        if self.normalization == "sinkhorn":
            return self._sinkhorn(z, x, weights, cloud)
        data = _Cloud(self.target, self.target_weights)
        if self.normalization == "none":
            pull, push = (ops.kernel_sum_grad(self.companion, z, c.points, c.weights) for c in (data, cloud))
            return pull - push
        density = self.kernel if self.normalization == "mean-shift" else self.companion
        (attraction, pull), (repulsion, push) = (
            ops.sum_and_grad(density, self.companion, z, c.points, c.weights) for c in (data, cloud)
        )
        if cloud.masked:
            repulsion = repulsion - cloud.weights[: cloud.masked] * density.diag(z)
        tiny = torch.finfo(z.dtype).tiny
        self._check_overlap(attraction > tiny, z)
        # far from all other particles there is nothing to push off
        far = repulsion <= torch.finfo(z.dtype).eps * cloud.weights.max() * density.diag(z[:1])
        pull, push = pull / along(attraction, pull), push / along(repulsion.clamp_min(tiny), push)
        if self.unbiased:
            pull = pull + self._correction(z, data, pull, density)
            push = push + self._correction(z, cloud, push, density)
        return pull - torch.where(along(far, push), torch.zeros_like(push), push)

    def _weights_of_negatives(self, weights: Tensor | ArrayLike | None) -> Tensor | None:
        """Return the checked weights, None for those of particles."""
        if weights is None:
            return None
        if self.negatives is None:
            raise InputError("negative_weights without negatives: give both")
        wide = widened(self.negatives)
        given = _arrays.tensor("negative_weights", weights).to(wide)
        if tuple(given.shape) == (len(wide),) and not bool(given.any()):
            return given
        return _checks.weights("negative_weights", given, wide) * given.sum()

    def _pushing(self, x: Tensor, weights: Tensor, at_particles: bool) -> _Cloud:
        """Return what pushes: the particles or the second batch, and the negatives; weights of sum 1."""
        masked = len(x) if at_particles and not self.self_terms and self.second is None else 0
        points = x if self.second is None else self.second.to(x)
        weights = weights if self.second is None else uniform(points)
        if self.negatives is not None:
            negatives, more = self.negatives.to(x), self.negative_weights
            more = negatives.new_full((len(negatives),), 1 / len(points)) if more is None else more
            points, weights = torch.cat([points, negatives]), torch.cat([weights, more])
            weights = weights / weights.sum()
        return _Cloud(points, weights, masked)

    def _correction(self, z: Tensor, cloud: _Cloud, ratio: Tensor, density: Kernel) -> Tensor:
        """Return what takes the bias of order 1/n off N / D, in blocks of rows."""
        rows, parts = max(1, BLOCK // len(cloud.points)), []
        for start in range(0, len(z), rows):
            part = z[start : start + rows]
            of_d, of_n = (k(part, cloud.points) * cloud.weights for k in (density, self.kernel))
            if cloud.masked:
                for shares in (of_d, of_n):
                    shares.diagonal(start).zero_()
            total = of_d.sum(1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)
            of_d, of_n = of_d / total, of_n / total
            spread = along(of_d.square().sum(1), part) * ratio[start : start + rows]
            parts.append(_moved(of_d * of_n, part, cloud.points) - spread)
        return torch.cat(parts)

    def _in_float64(self) -> Drift:
        """Return this drift with all its points in float64."""
        wide = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(wide, name, value.double())
        return wide

    def _batch(self, z: Tensor, cloud: _Cloud) -> Tensor:
        """The batch form: distances to particles and samples compete in one softmax over rows and one over columns."""
        of_particles, of_samples = cloud.weights, self.target_weights
        if self.normalization == "batch":  # one particle and one sample weigh as much
            particles = len(cloud.points) - (0 if self.negatives is None else len(self.negatives))
            of_particles, of_samples = of_particles / of_particles[:particles].mean(), of_samples * len(of_samples)
        to_particles = self.kernel.log(z, cloud.points) + of_particles.log()
        if cloud.masked:
            to_particles.fill_diagonal_(-math.inf)
        push, pull = shares(to_particles, self.kernel.log(z, self.target) + of_samples.log())
        return _moved(pull, z, self.target) - _moved(push, z, cloud.points)

    def _sinkhorn(self, z: Tensor, x: Tensor, weights: Tensor, cloud: _Cloud) -> Tensor:
        """The barycentric map to the data less the one to what pushes."""
        self.plan_error = 0.0
        pull = self._barycentres(z, x, weights, _Cloud(self.target, self.target_weights))
        if cloud.masked and len(cloud.points) == 1:  # no other particle
            return pull
        push = self._barycentres(z, x, weights, cloud)
        if self.plan_error > _MISPLACED:
            warnings.warn(
                f"num_iterations = {self.num_iterations}: Sinkhorn's algorithm has not converged; `plan_error` says how far off "
                "it is, and more iterations or a wider kernel bring it down",
                stacklevel=2,
            )
        return pull - push

    def _barycentres(self, z: Tensor, x: Tensor, weights: Tensor, cloud: _Cloud) -> Tensor:
        """Return T(z) - z, T the barycentric map of entropic transport from x to a cloud."""
        gram = self.kernel.log(x, cloud.points)
        if cloud.masked:
            gram.fill_diagonal_(-math.inf)
        symmetric = torch.equal(cloud.points, x) and torch.equal(cloud.weights, weights)
        g, error = transport_dual(gram, weights, cloud.weights, self.num_iterations, symmetric=symmetric)
        self.plan_error = max(self.plan_error, error)
        rows = gram if z is x else self.kernel.log(z, cloud.points)
        return _moved((rows + g).softmax(1), z, cloud.points)

    def _check_overlap(self, reached: Bool[Tensor, " n"], z: Tensor) -> None:
        if bool(reached.all()):
            return
        lost = z[~reached]
        nearest = max(float(squared_distances(flat(part), flat(self.target)).amin(1).max()) for part in lost.split(256))
        raise InputError(
            f"kernel = {type(self.kernel).__name__}: is 0 in {z.dtype} at {len(lost)} of {len(z)} points for every sample of the "
            f"target; a bandwidth of {math.sqrt(nearest) / 5:.3g} or more would reach them, or normalization = 'batch'"
        )


class FieldSum:
    r"""The sum of velocity fields, each divided by its own root mean square if `unit_rms`: V = sum_l V_l / RMS(V_l).

    RMS(V) is taken over points and entries. So normalised, drifts of several bandwidths count alike, whatever their lengths
    (Deng et al. 2026). A field that is 0 throughout stays 0.

    Args:
        fields: one or more, to targets of one event shape.
        unit_rms: whether to divide.

    Example:
        >>> import torch
        >>> from mmdflow import Drift, FieldSum, Laplace
        >>> x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> drifts = [Drift(x + 2, Laplace(width), normalization="batch") for width in (0.2, 0.5, 2.0)]
        >>> FieldSum(drifts[:1], unit_rms=True).velocity(x).square().mean().round(decimals=4)
        tensor(1.)
    """

    def __init__(self, fields: Sequence[VelocityField], *, unit_rms: bool = False) -> None:
        if not fields:
            raise InputError("fields = []: must hold at least one velocity field")
        self.fields, self.unit_rms = list(fields), unit_rms

    def check(self, x: Tensor | ArrayLike, field: str = "particles") -> Tensor:
        """Return x if every field takes it; else raise InputError."""
        made = _checks.points(field, x)
        for part in self.fields:
            made = check_particles(part, made, field)
        return made

    @takes_arrays
    @full_precision
    def velocity(self, x: Particles, at: Points | None = None, weights: Weights | None = None) -> Points:
        """Return the sum for the particles x, evaluated at `at` (default: at x), where the RMS are taken, too."""
        parts = [widened(part.velocity(x, at, weights)) for part in self.fields]
        return torch.stack([to_unit_rms(part) for part in parts] if self.unit_rms else parts).sum(0).to(x.dtype)


@in_float32
def to_unit_rms(velocity: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
    """Return a velocity divided by the root mean square of its entries; 0 where all are 0."""
    largest = velocity.abs().max()
    scaled = velocity / largest.clamp_min(torch.finfo(velocity.dtype).tiny)  # whose squares are in range
    return scaled / scaled.square().mean().sqrt().clamp_min(torch.finfo(velocity.dtype).tiny)


def annealed(
    field_of: Callable[[float], VelocityField], start: float, stop: float, num_steps: int
) -> Callable[[int], VelocityField]:
    r"""Return a schedule for `flow` or `fit`: the field of a bandwidth that falls as s_k = start exp(-r k) to stop.

    A wide kernel moves far-off mass, a narrow one resolves detail; of a fixed Gaussian the high frequencies converge slowest
    (arXiv 2603.09936). r = log(start / stop) / (num_steps - 1), so that s = stop at the last step and after.

    Args:
        field_of: the field of a bandwidth.
        start: the first bandwidth.
        stop: the last one.
        num_steps: steps.

    Example:
        >>> import torch
        >>> from mmdflow import Drift, Gaussian
        >>> target = torch.randn(50, 2)
        >>> schedule = annealed(lambda s: Drift(target, Gaussian(s), normalization="mean-shift"), 2.0, 0.5, num_steps=11)
        >>> [round(schedule(k).kernel.bandwidth, 3) for k in (0, 5, 10, 20)]
        [2.0, 1.0, 0.5, 0.5]
    """
    _checks.positive("start", start)
    _checks.positive("stop", stop)
    last = max(1, _checks.count("num_steps", num_steps) - 1)
    return lambda step: field_of(start * (stop / start) ** min(1.0, step / last))


def _companion(kernel: Kernel) -> Kernel:
    """Return the kernel's companion; not that of a parent whose formula a subclass has changed."""
    if isinstance(kernel, Radial) and not keeps_up(kernel, "companion", "profile", "forward"):
        return Kernel.companion(kernel)
    return kernel.companion()


def _moved(weights: Float[Tensor, "n m"], z: Tensor, y: Tensor) -> Tensor:
    """Return sum_j weights_ij (y_j - z_i) of events, shaped like z, summed about the mean of y: no digits are lost far away."""
    x, points = flat(z), flat(widened(y))
    centre = points.mean(0)
    return (weights @ (points - centre) - weights.sum(1, keepdim=True) * (x - centre)).reshape(z.shape)
