"""Whether a kernel is what it says: every method against `forward`, on samples."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow._tensors import flat
from mmdflow.errors import InputError
from mmdflow.kernels import derivatives
from mmdflow.kernels.base import Kernel
from mmdflow.kernels.distances import squared_distances
from mmdflow.kernels.profiles import evaluate
from mmdflow.kernels.radial import Radial

#: Points on which all second derivatives are compared: there are n m d^2 of them.
FEW = 4


def check_kernel(
    kernel: Kernel,
    x: Float[Tensor, "n *event"],
    y: Float[Tensor, "m *event"] | None = None,
    *,
    tolerance: float = 1e-6,
) -> None:
    r"""Check a kernel of one's own against its `forward`, in float64.

    | Checked | Against |
    |---|---|
    | shapes and dtypes of `forward`, `grad`, `diag` | [n, m], the shape of x, [n]; float64 |
    | `forward(x, y)` | `forward(y, x)` transposed |
    | `grad`, `mixed` (if `smooth`) | automatic differentiation of `forward` |
    | `grad(x, x, weights)`, which a flow needs | NaN and infinite entries |
    | `diag` | the diagonal of `forward(x, x)` |
    | the eigenvalues of `forward(x, x)` (if `positive`) | 0, from below |
    | `embed` (if `finite`) | `forward` |
    | `profile` and `compiled_term` (if radial) | `forward` and `grad` |

    Some dozens of points are enough. Points that lie in both x and y also test what happens at distance 0.

    Args:
        kernel: the kernel. A copy in float64 is checked; the kernel itself stays as it is.
        x: samples, [n, *event].
        y: other samples, [m, *event]; all but the last of x by default.
        tolerance: the largest difference, relative to the largest entry of what is right.

    Raises:
        InputError: one line that names the method that disagrees, and by how much.

    Example:
        >>> import torch
        >>> from mmdflow import Gaussian
        >>> class Wrong(Gaussian):
        ...     def slope(self, r2):
        ...         return -super().slope(r2)
        >>> check_kernel(Gaussian(1.0), torch.randn(20, 2))
        >>> check_kernel(Wrong(1.0), torch.tensor([[0.0], [1.0]]))
        Traceback (most recent call last):
            ...
        mmdflow.errors.InputError: kernel = Wrong: grad differs from autograd of forward by 0.356, 2 times its largest entry
    """
    if not isinstance(kernel, Kernel):
        raise InputError(f"kernel = {kernel!r}: must be a Kernel, such as Gaussian(1.0)")
    x = _checks.points("x", x)
    y = (x[:-1] if len(x) > 1 else x) if y is None else _checks.points("y", y, x.shape[1:])
    check = _Check(kernel, x.detach().double(), y.detach().double(), _checks.positive("tolerance", tolerance))
    for part in (
        check.values,
        check.gradient,
        check.positivity,
        check.feature_map,
        check.profile,
        check.second_derivatives,
    ):
        part()


class _Check:
    """The methods of a kernel, in float64, at x and y."""

    def __init__(self, kernel: Kernel, x: Tensor, y: Tensor, tolerance: float) -> None:
        self.kernel = copy.deepcopy(kernel).double()
        self.name, self.x, self.y, self.tolerance = type(kernel).__name__, x, y, tolerance
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.randn(len(x), len(y), dtype=torch.float64, generator=generator).to(x.device)

    def values(self) -> None:
        """Check forward and diag."""
        gram = self.result("forward", lambda: self.kernel(self.x, self.y), (len(self.x), len(self.y)))
        self.compare("forward(x, y)", gram, "forward(y, x) transposed", self.kernel(self.y, self.x).T)
        square = self.result("forward", lambda: self.kernel(self.x, self.x), (len(self.x), len(self.x)))
        diagonal = self.result("diag", lambda: self.kernel.diag(self.x), (len(self.x),))
        self.compare("diag", diagonal, "the diagonal of forward(x, x)", square.diagonal())

    def gradient(self) -> None:
        """Check grad, with weights for every pair and for every column."""
        for weights in (self.weights, self.weights[:1]):
            gradient = self.result(
                "grad", functools.partial(self.kernel.grad, self.x, self.y, weights), tuple(self.x.shape)
            )
            expected = derivatives.grad(self.kernel, self.x, self.y, weights, again=False)
            self.finite("autograd of forward", expected)
            self.compare("grad", gradient, "autograd of forward", expected)
        ones = self.weights.new_ones(1, len(self.x))  # a flow needs it at x_i = x_i, whatever y is
        self.result("grad(x, x)", lambda: self.kernel.grad(self.x, self.x, ones), tuple(self.x.shape))

    def positivity(self) -> None:
        """Check that the Gram matrix has no negative eigenvalue, if the class says so."""
        if self.kernel.positive:
            eigenvalues = torch.linalg.eigvalsh(self.kernel(self.x, self.x).detach())
            if eigenvalues[0] < -self.tolerance * eigenvalues.abs().max():
                self.fail(
                    f"positive = True, but a Gram matrix has the eigenvalue {float(eigenvalues[0]):.3g} (the largest is "
                    f"{float(eigenvalues[-1]):.3g})"
                )

    def feature_map(self) -> None:
        """Check that inner products of the features are the kernel, where the map is finite."""
        if self.kernel.finite:
            at_x, at_y = (self.result("embed", functools.partial(self.kernel.embed, z)) for z in (self.x, self.y))
            if at_x.ndim != 2 or len(at_x) != len(self.x):
                self.fail(f"embed returns shape {list(at_x.shape)}: must be [{len(self.x)}, K]")
            self.compare("<embed(x), embed(y)>", at_x @ at_y.T, "forward", self.kernel(self.x, self.y).detach())

    def second_derivatives(self) -> None:
        """Check mixed, which tangents follow, where the kernel is smooth and the class has its own."""
        if self.kernel.smooth and type(self.kernel).mixed is not Kernel.mixed:
            x, y, dim = self.x[:FEW], self.y[:FEW], self.x[0].numel()
            mixed = self.result("mixed", lambda: self.kernel.mixed(x, y), (len(x), dim, len(y), dim))
            self.compare("mixed", mixed, "autograd of forward", derivatives.mixed(self.kernel, x, y))

    def profile(self) -> None:
        """Check a radial kernel's profile, and what the compiled backends make of it away from distance 0."""
        if not isinstance(self.kernel, Radial):
            return
        r2, dim = squared_distances(flat(self.x), flat(self.y)), self.x[0].numel()
        kernel = self.kernel.for_events(dim, torch.float64)
        value = self.result("profile", functools.partial(kernel.profile, r2))
        slope = self.result("slope", functools.partial(kernel.slope, r2))
        self.compare("profile(|x - y|^2)", value, "forward", self.kernel(self.x, self.y).detach())
        term, apart = kernel.compiled_term(dim, torch.float64), r2 > 0
        if term is not None:
            compiled = evaluate(term, r2[apart])
            self.compare("the value of compiled_profile", compiled[0], "profile", value[apart])
            self.compare("the slope of compiled_profile", compiled[1], "slope", slope[apart])

    def result(self, name: str, method: Callable[[], Tensor], shape: tuple[int, ...] | None = None) -> Tensor:
        """Return what a method returns, if it is a finite float64 tensor of that shape."""
        value = method()
        if not isinstance(value, Tensor):
            self.fail(f"{name} returns a {type(value).__name__}: must return a torch.Tensor")
        if shape is not None and tuple(value.shape) != shape:
            self.fail(f"{name} returns shape {list(value.shape)}: must be {list(shape)}")
        if value.dtype != torch.float64:
            self.fail(f"{name} returns {value.dtype} for torch.float64: must keep the dtype")
        return self.finite(name, value.detach())

    def finite(self, name: str, value: Tensor) -> Tensor:
        """Return the value if all its entries are finite."""
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            self.fail(f"{name} holds {bad} NaN or infinite entries of {value.numel()} (where x_i = y_j?)")
        return value

    def compare(self, name: str, value: Tensor, against: str, expected: Tensor) -> None:
        """Fail if the value is not what is expected, up to the tolerance."""
        if not value.numel():
            return
        difference, largest = float((value - expected).abs().max()), float(expected.abs().max())
        if difference > self.tolerance * largest:
            relative = f"{difference / largest:.3g} times its largest entry" if largest else "which is 0 everywhere"
            self.fail(f"{name} differs from {against} by {difference:.3g}, {relative}")

    def fail(self, message: str) -> NoReturn:
        """Raise an InputError that names the kernel."""
        raise InputError(f"kernel = {self.name}: {message}")
