"""A network whose rows are shared out, in a computation that all ranks make alike.

In training every rank has the whole batch, the same random numbers and the same parameters, and computes the same loss: the MMD,
the means and the penalties are those of the whole batch, whatever the method. Only the networks, where the time goes, evaluate
each rank's part of the rows. Their outputs are gathered with gradients of any order.

The gradient of a parameter inside a network is then that of the rank's rows. DistributedDataParallel takes the mean over the
ranks, so that it is formed as `size` times that, and the mean is the sum over all rows. Parameters outside have the whole
gradient on every rank, of which the mean is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mmdflow.distributed.ranks import Ranks

#: Tensors of n rows each -> tensors with a row for each of theirs, or None.
Rowwise: TypeAlias = Callable[..., tuple[Tensor | None, ...]]


def by_parts(network: Rowwise, ranks: Ranks, *inputs: Tensor) -> tuple[Tensor | None, ...]:
    """Return network(*inputs), of which each rank evaluates its part of the rows; called by all ranks with the same inputs."""
    if len(inputs[0]) < ranks.size:  # too few to share
        return network(*inputs)
    parts = network(*(_Own.apply(value, ranks) for value in inputs))
    return tuple(None if part is None else _All.apply(part, ranks) for part in parts)


# Of a tensor that is the same on all ranks, and one that holds the rank's rows, each of the four is the transpose of the next,
# with the factor that the gradients of parameters have: rows out of a batch, a batch of rows, and the same for gradients.


class _Own(torch.autograd.Function):
    """The rank's rows of a batch; back: the gradients of all, without their factor."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return whole[ranks.part(len(whole))].clone()

    @staticmethod
    def backward(ctx: Any, own: Tensor) -> Any:
        return _AllGradients.apply(own, ctx.ranks), None


class _AllGradients(torch.autograd.Function):
    """The gradients in a batch, of the ranks' gradients in their rows, which are `size` times too large."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.gather(own) / ranks.size

    @staticmethod
    def backward(ctx: Any, whole: Tensor) -> Any:
        return _Own.apply(whole, ctx.ranks), None


class _All(torch.autograd.Function):
    """A batch of the ranks' rows; back: `size` times the rank's rows of the gradient."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.gather(own)

    @staticmethod
    def backward(ctx: Any, whole: Tensor) -> Any:
        return _OwnGradients.apply(whole, ctx.ranks), None


class _OwnGradients(torch.autograd.Function):
    """`size` times the rank's rows of gradients in a batch."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return whole[ranks.part(len(whole))] * ranks.size

    @staticmethod
    def backward(ctx: Any, own: Tensor) -> Any:
        return _All.apply(own, ctx.ranks), None
