"""The sum of one kernel and the gradient's sum of another in one pass, where one compiled profile has both."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from mmdflow._arrays import of_any_kind
from mmdflow._precision import full_precision
from mmdflow.kernels import Kernel, Mixture
from mmdflow.kernels.base import keeps_up
from mmdflow.kernels.profiles import Decay, Exponential, Term
from mmdflow.ops.dispatch import compiled, kernel_sum, kernel_sum_grad, sums


@of_any_kind
@full_precision
def sum_and_grad(
    density: Kernel,
    kernel: Kernel,
    z: Float[Tensor, "n *event"],
    points: Float[Tensor, "m *event"],
    weights: Float[Tensor, " m"],
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n *event"]]:
    """Return sum_j weights_j density(z_i, points_j), and sum_j weights_j grad_1 kernel(z_i, points_j).

    Where both decay alike, as a kernel and its companion do, every pair is visited once, and grids and trees are made once.
    """
    term = joint_term(density, kernel, z, points)
    if term is None or weights.dtype != points.dtype:
        return kernel_sum(density, z, points, weights), kernel_sum_grad(kernel, z, points, weights)
    values, slopes = sums(term, z, points, weights, values=True, slopes=True)
    return values, slopes


def joint_term(density: Kernel, kernel: Kernel, z: Tensor, points: Tensor) -> Term | None:
    """Return the term with the value of one kernel and the slope of another; None where no profile has both."""
    (of_value, first), (of_slope, second) = _single(density), _single(kernel)
    value, slope = compiled(of_value, z, points), compiled(of_slope, z, points)
    if value is None or slope is None:
        return None
    a, b = value.profile, slope.profile
    if not (isinstance(a, Exponential | Decay) and math.isclose(a.rate, getattr(b, "rate", math.nan), rel_tol=1e-12)):
        return None
    factors = first * value.value_factor, second * slope.slope_factor
    if isinstance(a, Decay) and isinstance(b, Decay):
        return Term(Decay(a.rate, a.p0, a.p1, a.p2, b.q0, b.q1, b.inverse), *factors, slope)
    return Term(a, *factors, slope) if isinstance(b, Exponential) and isinstance(a, Exponential) else None


def _single(kernel: Kernel) -> tuple[Kernel, float]:
    """Return the member of a mixture of one with its weight, or the kernel with weight 1."""
    if isinstance(kernel, Mixture) and keeps_up(kernel, "members", "forward", "grad"):
        members = kernel.members()
        if len(members) == 1:
            return members[0], float(kernel.weights[0])
    return kernel, 1.0
