"""The MMD whose bandwidth follows the particles (DMMD paper, section 3)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks, ops
from mmdflow._precision import precise, widened
from mmdflow._tensors import flat
from mmdflow.divergences.base import Divergence, require_kernel, spread_of, uniform
from mmdflow.divergences.mmd import MMD
from mmdflow.divergences.witness import KernelWitness, Witness
from mmdflow.errors import InputError
from mmdflow.kernels import Gaussian, Kernel, nearest_distance, optimal_bandwidth, squared_distances, thinned
from mmdflow.types import ArrayLike, Step

#: Names of the rules by which a bandwidth is chosen.
RULES = ("optimal", "gradient", "median")
#: Points of each measure that a rule looks at, at most.
RULE_POINTS = 500


class AdaptiveMMD(Divergence):
    r"""1/2 MMD^2 with a kernel whose bandwidth is chosen anew from the particles: wide while they are far from the target.

    Rules:

    * "optimal": Proposition 3.1, a* = ReLU(|mu|^2 / (d + 2) - 2 sigma^2)^(1/2) with |mu| the distance of the two means and
      sigma the target's standard deviation an axis; exact for two Gaussians that differ by a shift, and 0 (the minimum) once
      they overlap.
    * "gradient": the bandwidth, of 24 between the minimum and the largest distance, at which the target's part of the witness is
      steepest at the particles, in the geometric mean: the largest E_x log |E_y grad_1 k(x, y)|. It is Proposition 3.1's
      criterion without its Gaussians. The particles' own part is left out, which has mean zero and whose noise would win at
      small bandwidths; an arithmetic mean would follow the first particles that arrive and leave the others behind.
    * "median": the median of the distances between particles and target.

    F's gradient is that at the chosen bandwidth, held fixed.

    Args:
        target: samples y, [m, *event].
        bandwidth: a rule's name, or a function of (particles [n, *event], target [m, *event]) that returns a bandwidth.
        kernel: makes the kernel of a bandwidth; by default the normalised Gaussian b^-d exp(-r^2 / 2 b^2) of the paper.
            "gradient" compares kernels, so that others should be of one height, as Gaussian and Laplace are and
            InverseMultiquadric is not.
        minimum: the bandwidth is not below; by default the median distance of the target's points to their nearest neighbours
            (0 for a function, and where the target is one point).
        target_weights: of the target's samples, [m]; 1/m each by default. The rules look at the points only.

    Attributes:
        bandwidth: the last one that was chosen.

    Raises:
        InputError: for a bad target, rule or minimum.

    Example:
        >>> import torch
        >>> from mmdflow import AdaptiveMMD
        >>> y = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
        >>> divergence, widths = AdaptiveMMD(y, "gradient"), []
        >>> for distance in (10.0, 1.0):
        ...     _ = divergence.velocity(y + distance)
        ...     widths.append(divergence.bandwidth)
        >>> widths[0] > widths[1]
        True
    """

    target: Tensor
    target_weights: Tensor

    def __init__(
        self,
        target: Float[Tensor, "m *event"] | ArrayLike,
        bandwidth: str | Callable[[Tensor, Tensor], float] = "optimal",
        *,
        kernel: Callable[[float], Kernel] | None = None,
        minimum: float | None = None,
        target_weights: Float[Tensor, " m"] | ArrayLike | None = None,
    ) -> None:
        super().__init__()
        target = _checks.points("target", target).detach()
        self.event_shape = tuple(target.shape[1:])
        self.rule = bandwidth if callable(bandwidth) else _checks.choice("bandwidth", bandwidth, RULES)
        self.kernel = _normalized_gaussian if kernel is None else kernel
        dim = target[0].numel()
        if kernel is None and dim > 100:
            raise InputError(
                f"kernel is missing: the normalised Gaussian b^-d leaves the range of floating numbers in dimension {dim} "
                f"(at most 100); give kernel=Gaussian"
            )
        if minimum is None:
            distinct = len(_few(target).unique(dim=0)) > 1
            self.minimum = nearest_distance(target) if distinct and not callable(bandwidth) else 0.0
        else:
            self.minimum = _checks.non_negative("minimum", minimum)
        self._remember(target)
        self.register_buffer("target", target)
        self.register_buffer("target_weights", _checks.weights("target_weights", target_weights, widened(target)))
        self.bandwidth = math.nan

    def usual_step(self) -> Step | None:
        """Return the mean square of the target about its mean; None with the normalised kernel: its height follows the width."""
        return None if self.kernel is _normalized_gaussian else Step(spread_of(self.target) ** 2)

    def forward(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Return F at the particles x and their bandwidth."""
        return self.at(x)(x, weights)

    def witness(self, x: Float[Tensor, "n *event"], weights: Float[Tensor, " n"] | None = None) -> Witness:
        """Return the witness of the MMD at the bandwidth of the particles x."""
        with torch.no_grad():
            signed = torch.cat([uniform(widened(x), weights), -self.target_weights])
            return KernelWitness(self._kernel_at(x), torch.cat([x.detach(), self.target]), signed)

    def at(self, x: Float[Tensor, "n *event"]) -> MMD:
        """Return the MMD with the bandwidth that the particles x choose."""
        return MMD(self.target, self._kernel_at(x), target_weights=self.target_weights)

    @torch.no_grad()
    def _kernel_at(self, x: Tensor) -> Kernel:
        x = x.detach()
        if callable(self.rule):
            chosen = _checks.positive("bandwidth(particles, target)", self.rule(x, self.target))
        elif self.rule == "optimal":
            chosen = self._optimal(x)
        elif self.rule == "gradient":
            chosen = self._steepest(x)
        else:
            chosen = float(squared_distances(_few(x), _few(self.target)).median().sqrt())
        self.bandwidth = max(chosen, self.minimum) or 1.0  # 0 where all coincide: any will do
        return require_kernel(self.kernel(self.bandwidth))

    def _optimal(self, x: Tensor) -> float:
        y = precise(flat(self.target))
        gap = precise(flat(x)).mean(0) - y.mean(0)
        sigma = float((y - y.mean(0)).square().mean().sqrt())
        return optimal_bandwidth(float(gap.norm()), y.shape[1], max(sigma, torch.finfo(y.dtype).tiny))

    def _steepest(self, x: Tensor) -> float:
        particles, target = _few(x), _few(self.target)
        largest = float(squared_distances(particles, target).max().sqrt())
        low = max(self.minimum, 1e-3 * largest)
        if low == 0:
            return 0.0
        grid = torch.logspace(math.log10(low), math.log10(max(largest, 2 * low)), 24).tolist()
        return max(grid, key=lambda bandwidth: _steepness(require_kernel(self.kernel(bandwidth)), particles, target))


def _steepness(kernel: Kernel, particles: Tensor, target: Tensor) -> float:
    """Return the mean logarithm of the size of the target's pull on the particles; -inf where it is not finite."""
    pull = ops.kernel_sum_grad(kernel, particles, target, uniform(target))
    size = float(pull.norm(dim=1).clamp_min(torch.finfo(pull.dtype).tiny).log().mean())
    return size if math.isfinite(size) else -math.inf


def _normalized_gaussian(bandwidth: float) -> Kernel:
    return Gaussian(bandwidth, normalized=True)


def _few(x: Tensor) -> Tensor:
    return precise(thinned(flat(x), RULE_POINTS))
