"""The gradient n dF/dx of F = 1/2 MMD^2 as other libraries, or plain torch, give it.

Sums over all pairs: a function (kernel, x, y) -> [n, d] each; "gaussian" has bandwidth d^(1/2), "riesz" is -|x - y|.
Sums over slices: (x, y, directions [P, d]) -> [n, d].
"""

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from mmdflow.divergences.directions import riesz_scale

#: Numbers that a block of slices may hold at a time; among 2^20 ... 2^24 the quickest.
BLOCK = 2**22
#: Rows of a block of pairs in plain torch; among 64 ... 1024 the quickest.
ROWS = 256


def installed(names: dict[str, str]) -> list[str]:
    """Return which peers, named with the module that each needs, are installed; print a line for each that is not."""
    there = [name for name, module in names.items() if importlib.util.find_spec(module)]
    for name in names:
        if name not in there:
            print(f"{name} is not installed and left out: pip install -r benchmarks/requirements.txt", flush=True)
    return there


def keops(kernel: str, x: Tensor, y: Tensor) -> Tensor:
    """KeOps: the gradient's formula as one reduction over particles and target together, with signed weights."""
    from pykeops.torch import LazyTensor

    z = torch.cat([x, y])
    weights = torch.cat([x.new_full((len(x),), 1 / len(x)), x.new_full((len(y),), -1 / len(y))])
    difference = LazyTensor(x[:, None, :]) - LazyTensor(z[None, :, :])
    squares = (difference**2).sum(-1)
    dim = x.shape[1]
    slope = (-squares / (2 * dim)).exp() * (-1 / dim) if kernel == "gaussian" else -squares.rsqrt()
    return (slope * LazyTensor(weights[None, :, None]) * difference).sum(1)


def geomloss(kernel: str, x: Tensor, y: Tensor) -> Tensor:
    """GeomLoss: autograd through its loss, which is 1/2 MMD^2."""
    from geomloss import SamplesLoss

    name = "gaussian" if kernel == "gaussian" else "energy"
    loss = SamplesLoss(name, blur=x.shape[1] ** 0.5, backend="tensorized")
    x = x.detach().requires_grad_()
    return len(x) * torch.autograd.grad(loss(x, y), x)[0]


def blocked(kernel: str, x: Tensor, y: Tensor) -> Tensor:
    """Plain torch as one writes it who knows the gradient: matrix products, some rows at a time, no autograd."""
    z, total = torch.cat([x, y]), torch.empty_like(x)
    weights = torch.cat([x.new_full((len(x),), 1 / len(x)), x.new_full((len(y),), -1 / len(y))])
    squares, dim = z.square().sum(1), x.shape[1]
    for start in range(0, len(x), ROWS):
        rows = x[start : start + ROWS]
        r2 = torch.addmm(squares, rows, z.T, alpha=-2).add_(rows.square().sum(1, keepdim=True)).clamp_(min=1e-12)
        slope = r2.mul_(-0.5 / dim).exp_().mul_(-1 / dim) if kernel == "gaussian" else r2.rsqrt_().neg_()
        slope.mul_(weights)[:, start : start + ROWS].fill_diagonal_(0)  # no pair is of one particle
        torch.addmm(slope.sum(1, keepdim=True) * rows, slope, z, alpha=-1, out=total[start : start + ROWS])
    return total


def cdist(kernel: str, x: Tensor, y: Tensor) -> Tensor:
    """Autograd through torch.cdist, as one writes it without a library."""
    return _autograd(kernel, x, y, torch.cdist)


def broadcast(kernel: str, x: Tensor, y: Tensor) -> Tensor:
    """Autograd through differences of all pairs, [n, m, d]."""
    return _autograd(kernel, x, y, lambda a, b: (a[:, None] - b[None]).norm(dim=2))


def _autograd(kernel: str, x: Tensor, y: Tensor, distances: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    total = torch.zeros_like(x)
    for points, sign in ((x, 0.5), (y, -1.0)):  # one after the other: half the memory
        z = x.detach().requires_grad_()
        distance = distances(z, z if points is x else points)
        gram = torch.exp(-distance.square() / (2 * x.shape[1])) if kernel == "gaussian" else -distance
        total += sign * len(x) * torch.autograd.grad(gram.mean(), z)[0]
    return total


def draw(count: int, dim: int) -> Tensor:
    """Draw random directions, in float32."""
    return torch.nn.functional.normalize(torch.randn(count, dim), dim=1)


def three_sorts(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    """The algorithm of Hertrich, Wald, Altekrueger, Hagemann (2024), with the three sorts a slice of their published code.

    Sort both clouds together, count the target below; sort the order, which inverts it; sort the particles.
    """
    n, m = len(x), len(y)
    own = (2 * torch.arange(n, dtype=x.dtype) + 1 - n) / n
    total = torch.zeros_like(x)
    for xi in directions.split(max(1, BLOCK // (n + m))):
        on_x, on_y = torch.mm(xi, x.T), torch.mm(xi, y.T)
        order = torch.cat([on_x, on_y], 1).sort(1)[1]
        potential = (2 * (order >= n).cumsum(1) - m).to(x.dtype) / m
        places = order.sort(1)[1][:, :n]
        slopes = potential.gather(1, places).scatter_add_(1, on_x.sort(1)[1], -own.expand(len(xi), n))
        total.addmm_(slopes.T, xi)
    return total * (riesz_scale(x.shape[1], 1.0) / len(directions))


def two_sorts(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    """The same gradient, with the particles looked up in the sorted target: the quickest that we found in plain torch."""
    n, m = len(x), len(y)
    own = (2 * torch.arange(n, dtype=x.dtype) + 1 - n) / n
    total = torch.zeros_like(x)
    for xi in directions.split(max(1, BLOCK // (n + m))):
        target = torch.mm(xi, y.T).sort(1)[0]
        particles, order = torch.mm(xi, x.T).sort(1)
        slopes = (2 * torch.searchsorted(target, particles) - m).to(x.dtype) / m - own
        total.addmm_(torch.empty_like(slopes).scatter_(1, order, slopes).T, xi)
    return total * (riesz_scale(x.shape[1], 1.0) / len(directions))


def pot_sliced_wasserstein(x: Tensor, y: Tensor, directions: Tensor) -> Tensor:
    """POT's sliced Wasserstein distance, squared, through autograd: another divergence, with about the same work."""
    import ot

    x = x.detach().requires_grad_()
    value = ot.sliced_wasserstein_distance(x, y, projections=directions.T) ** 2
    return len(x) * torch.autograd.grad(value, x)[0]
