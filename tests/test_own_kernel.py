"""Kernels from outside the package: `forward` alone, checked, and made fast."""

import math

import pytest
import torch
from torch import Tensor

from mmdflow import (
    MMD,
    Deep,
    Gaussian,
    InputError,
    Kernel,
    Laplace,
    Linear,
    Mixture,
    Polynomial,
    Riesz,
    SobolevDescent,
    flow,
    ops,
)
from mmdflow.kernels import check_kernel, squared_distances
from mmdflow.kernels.profiles import LOG2E, Exponential, Term
from mmdflow.ops import reference
from tests.laws.strategies import KERNELS


class Plain(Kernel):
    """The Gaussian kernel of width 1, by `forward` alone."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-(x[:, None] - y[None]).flatten(2).square().sum(2) / 2)


class Wide(Gaussian):
    """A subclass that changes no formula."""


class Heavy(Gaussian):
    """A subclass that changes the formula alone."""

    def profile(self, r2: Tensor) -> Tensor:
        return 1 / (1 + r2)

    def slope(self, r2: Tensor) -> Tensor:
        return -2 / (1 + r2) ** 2

    def curvature(self, r2: Tensor) -> Tensor:
        return 8 / (1 + r2) ** 3


class Doubled(Gaussian):
    """A subclass that changes the formula, from which a Gaussian's slope follows, and its compiled profile."""

    def profile(self, r2: Tensor) -> Tensor:
        return 2 * super().profile(r2)

    def compiled_profile(self) -> Term:
        b2 = float(self.bandwidth) ** 2
        return Term(Exponential(-0.5 * LOG2E / b2), 2.0, -2.0 / b2)


def points(n, *event, seed=0):
    return torch.randn(n, *event, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("event", [(2,), (3, 2)])
def test_forward_alone_flows_like_the_built_in_kernel(event):
    y, x = points(30, *event), points(20, *event, seed=1) + 1
    for make in (MMD, lambda target, kernel: SobolevDescent(target, kernel, 0.5)):
        ours, theirs = (
            flow(make(y, kernel), x, step_size=0.5, num_steps=30, momentum=0.5).particles
            for kernel in (Gaussian(1.0), Plain())
        )
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_derivatives_of_forward_need_no_mode(mode):
    x, y, weights, vectors = points(5, 3), points(4, 3, seed=1), points(5, 4, seed=2), points(4, 3, seed=3)
    methods = [
        lambda k, x, y: k.grad(x, y, weights),
        lambda k, x, y: k.diag(x),
        lambda k, x, y: k.tangent(x, y, vectors),
        lambda k, x, y: k.tangent_grad(x, y, vectors),
        lambda k, x, y: k.mixed(x, y),
        lambda k, x, y: ops.kernel_sum_grad(k, x, y, weights[0]),
        lambda k, x, y: Deep(k, torch.sin).grad(x, y, weights),
        lambda k, x, y: ops.kernel_sum_grad(Deep(k, torch.sin), x, y, weights[0]),
    ]
    for method in methods:
        expected = method(Gaussian(1.0), x, y)
        with mode():
            result = method(Plain(), x + 0, y + 0)  # made in this mode
            assert not result.requires_grad
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_the_gradient_is_differentiated_in_turn():
    """In x, y and the weights, also where x and y are one tensor and x is computed."""
    leaf, weights = points(5, 3).requires_grad_(), points(5, 5, seed=1).requires_grad_()
    results = []
    for kernel in (Gaussian(1.0), Plain()):
        x = leaf * 1.5
        results.append(torch.autograd.grad(kernel.grad(x, x, weights).square().sum(), (leaf, weights)))
    for expected, result in zip(*results, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)


def test_a_kernel_that_does_not_depend_on_x_has_gradient_0():
    class Constant(Kernel):
        def forward(self, x, y):
            return x.new_ones(len(x), len(y))

    x = points(4, 2)
    assert not Constant().grad(x, x, torch.ones(1, 4).double()).any()
    assert not Constant().mixed(x, x).any()
    check_kernel(Constant(), x)


def test_the_diagonal_is_taken_in_blocks():
    sizes = []

    class Counted(Plain):
        def forward(self, x, y):
            sizes.append((len(x), len(y)))
            return super().forward(x, y)

    assert torch.equal(Counted().diag(points(150, 2)), torch.ones(150).double())
    assert max(map(max, sizes)) <= 64


def test_a_subclass_keeps_the_compiled_path_unless_it_changes_the_formula():
    x, y, weights = points(6, 2), points(7, 2, seed=1), points(7, seed=2)
    cases = [(Wide(1.3), True), (Doubled(1.3), True), (Heavy(1.3), False), (Plain(), False)]
    with ops.backend("compiled"):
        for kernel, compiled in cases:
            assert (ops.compiled(kernel, x, y) is not None) == compiled
            torch.testing.assert_close(ops.kernel_sum(kernel, x, y, weights), kernel(x, y) @ weights)
            expected = kernel.grad(x, y, weights[None])
            torch.testing.assert_close(ops.kernel_sum_grad(kernel, x, y, weights), expected)


def test_a_subclass_of_a_composed_kernel_is_not_summed_as_its_parent():
    x, y, weights = points(6, 2), points(40, 2, seed=1), points(40, seed=2)

    def squared(parent):
        return type(
            "Squared", (parent,), {"forward": lambda self, x, y: parent.forward(self, x, y) ** 2, "grad": Kernel.grad}
        )

    kernels = [
        squared(Mixture)([Gaussian(1.0), Riesz()]),
        squared(Deep)(Gaussian(1.0), torch.sin),
        squared(Polynomial)(2),
    ]
    for kernel in kernels:
        torch.testing.assert_close(ops.kernel_sum(kernel, x, y, weights), reference.kernel_sum(kernel, x, y, weights))
        expected = reference.kernel_sum_grad(kernel, x, y, weights)
        torch.testing.assert_close(ops.kernel_sum_grad(kernel, x, y, weights), expected)


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_of_the_library_passes(name):
    for event in ((2,), (20,), (1, 2, 2)):
        check_kernel(KERNELS[name], points(8, *event) / math.prod(event) ** 0.5)


def test_own_kernels_pass():
    x = points(12, 2).float()
    for kernel in (Plain(), Wide(2.0), Doubled(0.7), Heavy(1.0), Plain() * Gaussian(2.0), 0.5 * Plain() + Linear()):
        check_kernel(kernel, x)
        check_kernel(kernel, x, x[:5] + 1)
    check_kernel(Plain(), x[:1])


def altered(parent, **methods):
    return type("Bad", (parent,), methods)


GAUSSIAN = Gaussian(1.0)
#: The method that is wrong -> (class, methods, arguments), and what is said of it.
WRONG = {
    "asymmetric": (
        (Plain, {"forward": lambda s, x, y: x @ y.T + 1 - x[:, :1]}),
        r"forward\(x, y\) differs from forward\(y, x\)",
    ),
    "shape": ((Plain, {"forward": lambda s, x, y: x.sum(1)}), r"forward returns shape \[9\]: must be \[9, 8\]"),
    "dtype": (
        (Plain, {"forward": lambda s, x, y: (x @ y.T).float()}),
        "forward returns torch.float32 for torch.float64",
    ),
    "infinite": (
        (Plain, {"forward": lambda s, x, y: 1 / torch.cdist(x, y)}),
        "forward holds 8 NaN or infinite entries of 72",
    ),
    "type": ((Plain, {"forward": lambda s, x, y: (x @ y.T).numpy()}), "forward returns a ndarray: must return a torch"),
    "sign": (
        (Gaussian, {"slope": lambda s, r2: -Gaussian.slope(s, r2)}, 1.0),
        "grad differs from autograd of forward by .*, 2 times",
    ),
    "gradient's shape": (
        (Plain, {"grad": lambda s, x, y, w: GAUSSIAN.grad(x, y, w).T}),
        r"grad returns shape \[2, 9\]",
    ),
    "gradient's size": (
        (Plain, {"grad": lambda s, x, y, w: 1.01 * GAUSSIAN.grad(x, y, w)}),
        "grad differs .* 0.01 times",
    ),
    "diagonal": (
        (Plain, {"diag": lambda s, x: 2 * x.new_ones(len(x))}),
        "diag differs from the diagonal of .* by 1, 1 times",
    ),
    "positive": ((Riesz, {"positive": True}), "positive = True, but a Gram matrix has the eigenvalue -"),
    "features": ((Linear, {"embed": lambda s, x: x[:, :1]}), "<embed.x., embed.y.> differs from forward by"),
    "curvature": ((Gaussian, {"curvature": lambda s, r2: 0 * r2}, 1.0), "mixed differs from autograd of forward by"),
    "profile": (
        (Gaussian, {"forward": Plain.forward, "grad": Kernel.grad}, 2.0),
        r"profile\(.x - y.\^2\) differs from forward",
    ),
    "compiled value": (
        (Gaussian, {"compiled_profile": lambda s: Term(Exponential(-1.0), 1.0, -1.0)}, 1.0),
        "the value of compiled_profile differs from profile by",
    ),
    "compiled slope": (
        (Gaussian, {"compiled_profile": lambda s: Term(Exponential(-0.5 * LOG2E), 1.0, 1.0)}, 1.0),
        "the slope of compiled_profile differs from slope by",
    ),
    "distance 0": (
        (Laplace, {"profile": lambda s, r2: torch.exp(-r2.sqrt())}, 1.0),
        "autograd of forward holds .* NaN .* x_i = y_j",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case, unchecked):
    (parent, methods, *arguments), message = WRONG[case]
    with pytest.raises(InputError, match=message) as caught:
        check_kernel(type("Bad", (parent,), methods)(*arguments), points(9, 2))
    assert str(caught.value).startswith("kernel = Bad: ")
    assert "\n" not in str(caught.value)


def test_a_gradient_that_fails_at_distance_0_is_named_though_no_point_is_in_both():
    x = points(9, 2)
    with pytest.raises(InputError, match=r"grad\(x, x\) holds 18 NaN .* x_i = y_j"):
        check_kernel(altered(Plain, forward=lambda s, x, y: torch.exp(-flat_distance(x, y)))(), x, x + 3)


def flat_distance(x, y):
    return (x[:, None] - y[None]).square().sum(2).sqrt()


def test_what_is_no_kernel(unchecked):
    with pytest.raises(InputError, match="kernel = 3.14.*: must be a Kernel"):
        check_kernel(math.pi, points(9, 2))


def test_squared_distances_help_to_write_a_kernel():
    x = points(5, 3)
    torch.testing.assert_close(torch.exp(-squared_distances(x, x) / 2), Plain()(x, x))
