"""The batch form of drifts (Deng et al. 2026): particles and samples compete in softmaxes over rows and over columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow._precision import leaves_range
from mmdflow.kernels import Kernel, Radial
from mmdflow.kernels.base import keeps_up
from mmdflow.kernels.distances import squared_distances_by_group


def shares(
    to_particles: Float[Tensor, "*G n k"], to_samples: Float[Tensor, "*G n m"]
) -> tuple[Float[Tensor, "*G n k"], Float[Tensor, "*G n m"]]:
    """Return W- and W+ of logarithms of kernels and weights; a particle is kept off itself by -inf on the diagonal.

    With A = sqrt(softmax over rows * softmax over columns) of both joined, W- = A- rowsum(A+) and W+ = A+ rowsum(A-).
    """
    joined = torch.cat([to_particles, to_samples], -1)
    affinity = ((joined.log_softmax(-2) + joined.log_softmax(-1)) / 2).exp().nan_to_num(0.0)  # 0 in a masked column
    push, pull = affinity.tensor_split([to_particles.shape[-1]], -1)
    return push * pull.sum(-1, keepdim=True), pull * push.sum(-1, keepdim=True)


def can_share(kernels: Sequence[Kernel], *points: Tensor) -> bool:
    """Whether `grouped` takes the kernels and the points: radial ones, of sizes that need no more range than float32 has."""
    radial = all(
        isinstance(k, Radial) and k.any_dtype and not k.extreme and keeps_up(k, "log_profile", "profile")
        for k in kernels
    )
    known = all(x.dtype in (torch.float32, torch.float64) for x in points)
    return radial and known and not leaves_range(*points)


@torch.no_grad()
def grouped(
    x: Float[Tensor, "G n d"], y: Float[Tensor, "G m d"], kernels: Sequence[Kernel], *, balanced: bool = False
) -> list[Float[Tensor, "G n d"]]:
    """Return the batch drifts of groups of particles, each towards its own samples, for every kernel.

    They are those of `Drift` with normalization "batch", or "balanced-batch", without self terms. Distances are formed once for
    all kernels, samples are read once for the sums of all, and no group waits for another: many small groups take a fraction of
    the time. O(G n (n + m)) memory for each kernel.

    Example:
        >>> import torch
        >>> from mmdflow import Laplace
        >>> x = torch.zeros(2, 3, 1)
        >>> grouped(x, x + 1, [Laplace(1.0)])[0].shape
        torch.Size([2, 3, 1])
    """
    r2 = squared_distances_by_group(x, x), squared_distances_by_group(x, y)
    weights = (1 / x.shape[1], 1 / y.shape[1]) if balanced else (1.0, 1.0)
    pushes, pulls = [], []
    for kernel in kernels:
        assert isinstance(kernel, Radial)
        own = kernel.for_events(x.shape[2], x.dtype)
        logs = [own.log_profile(part) + math.log(weight) for part, weight in zip(r2, weights, strict=True)]
        logs[0].diagonal(dim1=1, dim2=2).fill_(-math.inf)
        push, pull = shares(*logs)
        pushes.append(push)
        pulls.append(pull)
    push, pull = torch.cat(pushes, 1), torch.cat(pulls, 1)
    centre_x, centre_y = x.mean(1, keepdim=True), y.mean(1, keepdim=True)
    rows = pull.sum(2, keepdim=True)  # those of push, too: both are rowsum(A+) rowsum(A-)
    velocity = pull @ (y - centre_y) - push @ (x - centre_x) + rows * (centre_y - centre_x)
    return list(velocity.unflatten(1, (len(kernels), x.shape[1])).unbind(1))
