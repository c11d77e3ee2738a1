"""The Gaussian that particles start from, fitted to the target (Heng et al. 2023: data-dependent prior)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow._tensors import flat, normal_like
from mmdflow.errors import InputError

PRIORS = ("full", "diagonal", "standard")
#: What is added to the variances, as Heng et al. do: pixels that never change have none.
RIDGE = 1e-4
#: Entries of an event up to which a full covariance is kept.
MOST = 4096


class GaussianPrior(nn.Module):
    """N(m, L L^T) over events; samples of images are clamped to [-1, 1].

    Args:
        event_shape: the shape of an event.
        kind: "full" (m and L of the target), "diagonal" (its means and standard deviations) or "standard" (0 and I).

    Raises:
        InputError: for an unknown kind, or a full one of events too large to keep their covariance.

    Example:
        >>> prior = GaussianPrior((2,), "diagonal")
        >>> prior.fit([torch.tensor([[0.0, 1.0], [2.0, 1.0]])])
        >>> prior.mean, prior.sample(5).shape
        (tensor([1., 1.]), torch.Size([5, 2]))
    """

    mean: Tensor
    factor: Tensor

    def __init__(self, event_shape: Sequence[int], kind: str = "full") -> None:
        super().__init__()
        self.event_shape, self.kind = tuple(event_shape), _checks.choice("prior", kind, PRIORS)
        size = math.prod(self.event_shape)
        if kind == "full" and size > MOST:
            raise InputError(f"prior = 'full' with events of {size} entries: must be diagonal or standard above {MOST}")
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("factor", torch.eye(size) if kind == "full" else torch.ones(size))

    @torch.no_grad()
    def fit(self, batches: Iterable[Float[Tensor, "_ *event"]]) -> None:
        """Fit it to batches of the target's samples, in double precision; a standard one stays as it is."""
        if self.kind == "standard":
            return
        count, total, products = 0, torch.zeros(()), torch.zeros(())
        shift: Tensor | None = None  # the first batch's mean: sums of squares around it lose no digits
        for batch in batches:
            x = flat(batch).double()
            shift = x.mean(0) if shift is None else shift
            x = x - shift
            count, total = count + len(x), total + x.sum(0)
            products = products + (x.T @ x if self.kind == "full" else x.square().sum(0))
        if shift is None:
            raise InputError("prior: needs at least one sample of the target")
        mean = total / count
        if self.kind == "full":
            covariance = products / count - torch.outer(mean, mean)
            covariance.diagonal().add_(RIDGE)
            self.factor.copy_(torch.linalg.cholesky(covariance))
        else:
            self.factor.copy_((products / count - mean.square() + RIDGE).sqrt())
        self.mean.copy_(mean + shift)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Float[Tensor, "n *event"]:
        """Draw samples."""
        noise = normal_like(self.mean.new_empty(count, len(self.mean)), generator)
        spread = noise @ self.factor.T if self.kind == "full" else noise * self.factor
        x = (self.mean + spread).view(count, *self.event_shape)
        return x.clamp(-1, 1) if len(self.event_shape) == 3 else x
