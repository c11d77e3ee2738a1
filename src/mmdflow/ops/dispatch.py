"""Choose how a sum of kernels is computed.

Kernels with a finite feature map go through mean embeddings, O(n), polynomials of few terms through the moments of the points.
Kernels made of kernels say how by `Kernel.sum_by_parts`: mixtures member by member, deep kernels by their base on features.
Kernels with a `Kernel.compiled_term` go to a compiled backend where one is at hand: `cpu` (numba) for sums that repay its
start, `gpu` (Triton) on CUDA devices. All else goes to the plain `reference`: other kernels, second derivatives, learned
parameters.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow._arrays import of_any_kind
from mmdflow._precision import full_precision, leaves_range, traced, widened
from mmdflow._tensors import along, flat
from mmdflow.errors import InputError
from mmdflow.kernels import EXACT_DIM, Kernel, Mixture, Radial, derivatives
from mmdflow.kernels.base import keeps_up
from mmdflow.kernels.profiles import Term
from mmdflow.ops import fast, moments, reference
from mmdflow.ops.fast import FastSums

#: Pairs below which the reference is quick enough, so that small work never waits for the compiled backend to be loaded.
SMALL = 2**18
BACKENDS = ("auto", "reference", "compiled", "fast")

_backend: ContextVar[str] = ContextVar("mmdflow_backend", default="auto")
_fast: ContextVar[FastSums | None] = ContextVar("mmdflow_fast", default=None)


@contextmanager
def backend(name: str, *, tolerance: float | None = None) -> Iterator[FastSums | None]:
    """Compute sums inside the block in another way.

    Args:
        name: "reference" (plain torch), "compiled" (also small sums), "auto" (the default), or "fast": radial kernels in up to
            three dimensions, and their mixtures, within a tolerance in O(n log n), where that is quicker (`mmdflow.ops.fast`).
            On the line Laplace, Matern and Riesz(1) kernels are exact and as quick with every backend but "reference".
        tolerance: of "fast", 1e-4 by default: of the root mean square of each sum's error over that of the sum.

    Yields:
        For "fast" a record of what was done, with the largest error that was measured; else None.

    Raises:
        InputError: for another name, a tolerance that is not positive, or a tolerance without "fast". In the block: for kernels
            and dimensions that "fast" does not offer.

    Example:
        >>> import torch
        >>> from mmdflow import Gaussian, ops
        >>> x = torch.rand(10000, 2, generator=torch.Generator().manual_seed(0))
        >>> with ops.backend("fast", tolerance=1e-3) as report:
        ...     _ = ops.kernel_sum_grad(Gaussian(0.1), x, x, torch.ones(10000))
        >>> report.grids, report.error < 1e-3
        (1, True)
    """
    _checks.choice("backend", name, BACKENDS)
    if tolerance is not None and name != "fast":
        raise InputError(f"tolerance = {tolerance!r} with backend = {name!r}: only 'fast' takes one")
    report = None
    if name == "fast":
        report = FastSums(_checks.positive("tolerance", fast.USUAL if tolerance is None else tolerance))
    with _chosen(name, report):
        yield report


@contextmanager
def _chosen(name: str, report: FastSums | None) -> Iterator[None]:
    tokens = _backend.set(name), _fast.set(report)
    try:
        yield
    finally:
        _backend.reset(tokens[0])
        _fast.reset(tokens[1])


def within(tolerance: float | str | None) -> AbstractContextManager[FastSums | None]:
    """Compute sums inside the block by ``backend("fast", tolerance)``, or as outside for None.

    "auto" is what commands and estimators do by default: the tolerance is `fast.USUAL`, and sums that "fast" does not offer are
    as outside, where "fast" itself would refuse them.

    Raises:
        InputError: for another word, or a tolerance that is not positive.

    Example:
        >>> import torch
        >>> from mmdflow import Laplace, ops
        >>> x = torch.rand(1000, 4, generator=torch.Generator().manual_seed(0))
        >>> with ops.within("auto") as report:
        ...     _ = ops.kernel_sum_grad(Laplace(0.1), x, x, torch.ones(1000))
        >>> report.grids, report.exact
        (0, 1)
    """
    if not isinstance(tolerance, str):
        return nullcontext() if tolerance is None else backend("fast", tolerance=tolerance)
    if tolerance != "auto":
        raise InputError(f"tolerance = {tolerance!r}: must be a finite number > 0, 'auto', or None for exact sums")
    return _where_quicker()


def has_quick_sums(kernel: Kernel, dim: int, dtype: torch.dtype) -> bool:
    """Return whether "fast" offers sums of this kernel on events of so many entries; of a kernel of kernels, of its own part."""
    try:
        fast.check(kernel, kernel.compiled_term(dim, dtype), dim)
    except InputError:
        return False
    return True


@contextmanager
def _where_quicker() -> Iterator[FastSums]:
    report = FastSums(fast.USUAL, strict=False)
    with _chosen("fast", report):
        yield report


@contextmanager
def tightened(tolerance: float) -> Iterator[None]:
    """Compute sums inside the block to this tolerance where they would be to a larger one; exact sums stay exact."""
    outside = _fast.get()
    if outside is None or outside.tolerance <= tolerance:
        yield
        return
    inside = FastSums(tolerance, outside.strict)
    with _chosen("fast", inside):
        yield
    outside.include(inside)


@contextmanager
def exactly() -> Iterator[FastSums | None]:
    """Compute sums inside the block without a tolerance; yield the record of the one outside, None where there is none."""
    outside = _fast.get()
    if outside is None:
        yield None
        return
    with backend("auto"):
        yield outside


@of_any_kind
@full_precision
def kernel_sum(
    kernel: Kernel, z: Float[Tensor, "n *event"], points: Float[Tensor, "m *event"], weights: Float[Tensor, " m"]
) -> Float[Tensor, " n"]:
    """Return sum_j weights_j k(z_i, points_j), differentiable in z, the points, the weights and the kernel's parameters.

    Points in half precision are summed in float32, which the sums come in.
    """
    if _leaves_range(kernel, z, points):
        return kernel_sum(kernel, z.double(), points.double(), weights.double()).to(widened(z))
    z, points, weights = _wide(kernel, z, points, weights)
    if kernel.finite:
        return widened(kernel.embed(z)) @ (weights @ widened(kernel.embed(points)))
    if keeps_up(kernel, "sum_by_parts", "forward"):
        by_parts = kernel.sum_by_parts(lambda part, x, y: kernel_sum(part, x, y, weights), z, points)
        if by_parts is not None:
            return by_parts
    if moments.pays(kernel, points):
        return moments.kernel_sum(kernel, z, points, weights)
    term = _term(kernel, z, points)
    if term is None:
        return reference.kernel_sum(kernel, z, points, weights)
    total: Tensor = _Sum.apply(z, points, weights, kernel, term)
    return total


@of_any_kind
@full_precision
def kernel_sum_grad(
    kernel: Kernel, z: Float[Tensor, "n *event"], points: Float[Tensor, "m *event"], weights: Float[Tensor, " m"]
) -> Float[Tensor, "n *event"]:
    """Return sum_j weights_j grad_1 k(z_i, points_j), in float32 for points in half precision."""
    if _leaves_range(kernel, z, points):
        return kernel_sum_grad(kernel, z.double(), points.double(), weights.double()).to(widened(z))
    z, points, weights = _wide(kernel, z, points, weights)
    if kernel.finite:
        with torch.no_grad():
            embedded = weights @ widened(kernel.embed(points))
        return embedding_grad(kernel, z, embedded)
    if keeps_up(kernel, "grad_by_parts", "forward", "grad"):
        by_parts = kernel.grad_by_parts(lambda part, x, y: kernel_sum_grad(part, x, y, weights), z, points)
        if by_parts is not None:
            return by_parts
    if moments.pays(kernel, points):
        return moments.kernel_sum_grad(kernel, z, points, weights)
    term = _term(kernel, z, points)
    if term is None or (torch.is_grad_enabled() and any(t.requires_grad for t in (z, points, weights))):
        return reference.kernel_sum_grad(kernel, z, points, weights)
    return sums(term, z, points, weights, values=False, slopes=True)[1]


@of_any_kind
def tangent_sum(
    kernel: Kernel, z: Float[Tensor, "n *event"], points: Float[Tensor, "m *event"], vectors: Float[Tensor, "m *event"]
) -> Float[Tensor, " n"]:
    """Return sum_j <vectors_j, grad_2 k(z_i, points_j)>."""
    return reference.tangent_sum(kernel, z, points, vectors)


@of_any_kind
def tangent_sum_grad(
    kernel: Kernel, z: Float[Tensor, "n *event"], points: Float[Tensor, "m *event"], vectors: Float[Tensor, "m *event"]
) -> Float[Tensor, "n *event"]:
    """Return the gradient in z_i of `tangent_sum`; compiled for radial kernels in up to 16 dimensions on the CPU."""
    if isinstance(kernel, Mixture) and keeps_up(kernel, "members", "forward", "tangent_grad"):
        parts = [tangent_sum_grad(member, z, points, vectors) for member in kernel.members()]
        return torch.stack([weight * part for weight, part in zip(kernel.weights, parts, strict=True)]).sum(0)
    direct = isinstance(kernel, Radial) and keeps_up(kernel, "compiled_profile", "curvature", "tangent", "tangent_grad")
    direct = direct and z[0].numel() <= EXACT_DIM and z.device.type == "cpu"
    term = compiled(kernel, z, points) if direct else None
    if term is None or (torch.is_grad_enabled() and any(t.requires_grad for t in (z, points, vectors))):
        return reference.tangent_sum_grad(kernel, z, points, vectors)
    x, y, v = (flat(t.detach()).contiguous() for t in (z, points, vectors))
    total = torch.zeros_like(x, dtype=torch.float64)
    _module(z.device).add_tangents(term.profile, x, y, v, total)
    return total.mul_(-term.slope_factor).to(z.dtype).reshape(z.shape)


def _leaves_range(kernel: Kernel, z: Tensor, points: Tensor) -> bool:
    """Return whether float32 has not the range for sums that float64 may take."""
    if not kernel.any_dtype or z.dtype == torch.float64:
        return False
    return kernel.extreme or leaves_range(z, points)


def _wide(kernel: Kernel, z: Tensor, points: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights in single precision at least, and the points, too, if the kernel takes them so."""
    return (widened(z), widened(points), widened(weights)) if kernel.any_dtype else (z, points, widened(weights))


def compiled(kernel: Kernel, z: Tensor, points: Tensor) -> Term | None:
    """Return the kernel's term if a compiled backend takes its sums at such points, else None."""
    return None if _leaves_range(kernel, z, points) else _term(kernel, z, points)


def _term(kernel: Kernel, z: Tensor, points: Tensor) -> Term | None:
    chosen = _backend.get()
    if chosen == "reference" or traced() or z.dtype not in (torch.float32, torch.float64):
        return None
    if z.shape[1:] != points.shape[1:] or z.dtype != points.dtype or z.device != points.device:
        return None  # for torch to refuse
    term, report = kernel.compiled_term(z[0].numel(), z.dtype), _fast.get()
    if report is not None and report.strict:
        fast.check(kernel, term, z[0].numel())
    if chosen in ("auto", "fast") and len(z) * len(points) < SMALL:
        return None
    if z.device.type != "cpu" and not (z.device.type == "cuda" and importlib.util.find_spec("triton")):
        return None
    if torch.is_grad_enabled() and any(t.requires_grad for t in (*kernel.parameters(), *kernel.buffers())):
        return None
    return term


def ranks_compiled(points: Tensor, projections: int) -> bool:
    """Return whether compiled ranks take so many projections of such points."""
    chosen = _backend.get()
    return (
        chosen != "reference"
        and not traced()
        and points.device.type == "cpu"
        and points.dtype == torch.float32
        and (chosen == "compiled" or projections >= SMALL)
    )


def sums(term: Term, z: Tensor, points: Tensor, weights: Tensor, *, values: bool, slopes: bool) -> Any:
    """Return sum_j weights_j k(z_i, points_j), [n], and sum_j weights_j grad_1 k(z_i, points_j), shaped like z, in one pass.

    A None stands for what `values` or `slopes` leave out.
    """
    if weights.shape != (len(points),) or weights.dtype != points.dtype:
        raise InputError(
            f"weights are {weights.dtype} {list(weights.shape)}: must be {points.dtype} [{len(points)}], one a point"
        )
    x, y, w = (t.detach().contiguous() for t in (flat(z), flat(points), weights))
    value = x.new_zeros(len(x), dtype=torch.float64) if values else None
    slope = torch.zeros_like(x, dtype=torch.float64) if slopes else None
    add, report = _module(z.device).add, _fast.get()
    if report is None:
        add(term.profile, x, y, w, value, slope)
    else:
        fast.add(report, fast.Sums(add, term, x, y, w), value, slope)
    return (
        None if value is None else value.mul_(term.value_factor).to(z.dtype),
        None if slope is None else slope.mul_(term.slope_factor).to(z.dtype).reshape(z.shape),
    )


def _module(device: torch.device) -> Any:
    """Return the backend of a device: numba is loaded with the first large sum, Triton with the first on a CUDA device."""
    return importlib.import_module(f"mmdflow.ops.{'cpu' if device.type == 'cpu' else 'gpu'}")


class _Sum(torch.autograd.Function):
    """The compiled sum with its analytic gradients; the gradients of these come from the reference."""

    @staticmethod
    def forward(z: Tensor, points: Tensor, weights: Tensor, kernel: Kernel, term: Term) -> Tensor:
        return sums(term, z, points, weights, values=True, slopes=False)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.kernel, ctx.term = inputs[3:]
        ctx.report = _fast.get()  # backward may run outside the block, or in another thread

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        z, points, weights = ctx.saved_tensors
        needed = ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # create_graph=True
            views = [t.view_as(t) for t in (z, points, weights)]  # z and the points may be one tensor
            total = reference.kernel_sum(ctx.kernel, *views)
            inputs = [t for t, need in zip(views, needed, strict=True) if need]
            gradients = iter(torch.autograd.grad(total, inputs, upstream, create_graph=True))
            return *(next(gradients) if need else None for need in needed), None, None
        to_z = to_points = to_weights = None
        token = _fast.set(ctx.report)
        try:
            if needed[0]:
                to_z = along(upstream, z) * sums(ctx.term, z, points, weights, values=False, slopes=True)[1]
            if needed[1] or needed[2]:
                to_weights, to_points = sums(ctx.term, points, z, upstream, values=needed[2], slopes=needed[1])
        finally:
            _fast.reset(token)
        if to_points is not None:
            to_points = along(weights, points) * to_points
        return to_z, to_points, to_weights, None, None


@full_precision
def embedding_grad(
    kernel: Kernel, z: Float[Tensor, "n *event"], direction: Float[Tensor, " K"]
) -> Float[Tensor, "n *event"]:
    """Return grad <psi(z_i), direction> for a kernel with a finite feature map psi."""
    with derivatives.differentiable():
        z = derivatives.leaf(z)
        psi = kernel.embed(z)
        return torch.autograd.grad(psi, z, direction.detach().to(psi.dtype).expand_as(psi))[0]
