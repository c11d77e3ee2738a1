r"""Positive (or conditionally positive) definite kernels on [n, *event] tensors, with analytic gradients.

A kernel is three primitives in plain torch, of which the first is enough and the first and last are differentiable:

* ``kernel(x, y)``: the Gram matrix k(x_i, y_j), [n, m];
* ``kernel.grad(x, y, weights)``: sum_j w_ij grad_1 k(x_i, y_j), shaped like x;
* ``kernel.diag(x)``: k(x_i, x_i), [n];

and, for kernels with a finite feature map, ``kernel.embed(x)`` = psi(x) with k(x, y) = <psi(x), psi(y)>, which makes every
sum over particles O(n). Kernels compose with ``+``, ``*`` and ``scalar *``; ``Deep(base, features)`` embeds first.
`check_kernel` verifies a kernel of one's own.
"""

from mmdflow.kernels.bandwidth import default_bandwidth, median_bandwidth, nearest_distance, optimal_bandwidth, thinned
from mmdflow.kernels.base import Kernel, Mixture, Product
from mmdflow.kernels.check import check_kernel
from mmdflow.kernels.config import BASES, base_config, base_kernel
from mmdflow.kernels.deep import Deep
from mmdflow.kernels.distances import EXACT_DIM, squared_distances
from mmdflow.kernels.exponentials import Gaussian, Laplace, Matern
from mmdflow.kernels.powers import InverseMultiquadric, RationalQuadratic, Riesz
from mmdflow.kernels.products import Linear, Polynomial
from mmdflow.kernels.radial import Parameter, Radial

__all__ = [
    "BASES",
    "EXACT_DIM",
    "Deep",
    "Gaussian",
    "InverseMultiquadric",
    "Kernel",
    "Laplace",
    "Linear",
    "Matern",
    "Mixture",
    "Parameter",
    "Polynomial",
    "Product",
    "Radial",
    "RationalQuadratic",
    "Riesz",
    "base_config",
    "base_kernel",
    "check_kernel",
    "default_bandwidth",
    "median_bandwidth",
    "nearest_distance",
    "optimal_bandwidth",
    "squared_distances",
    "thinned",
]
