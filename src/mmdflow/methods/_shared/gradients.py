"""Gradients of scalar networks at particles, and the penalty of their length."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow._tensors import along, device_of


def gradient(function: Callable[[Tensor], Tensor], x: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
    """Return the gradient of every value of function: [n, *event] -> [n] in its event, detached. Any grad mode will do.

    Example:
        >>> gradient(lambda x: x.square().sum(1), torch.tensor([[1.0, 2.0]]))
        tensor([[2., 4.]])
    """
    with torch.inference_mode(False), torch.enable_grad():
        points = x.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(function(points).sum(), points)
    return slope


def slope_penalty(
    function: Callable[[Tensor], Tensor], points: Float[Tensor, "n *event"], slope: float, *, learning: bool = True
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return (|grad function| - slope)^2 at each of the points (Gulrajani et al. 2017), and |grad function|.

    Args:
        function: [n, *event] -> [n].
        points: where the gradient is taken; an inner point of its own graph.
        slope: the norm that costs nothing.
        learning: keep the graph, so that the penalty can be differentiated in the function's parameters.

    Example:
        >>> penalty, norms = slope_penalty(lambda x: 3 * x[:, 0], torch.zeros(2, 2), slope=1.0)
        >>> penalty.tolist(), norms.tolist()
        ([4.0, 4.0], [3.0, 3.0])
    """
    with torch.enable_grad():
        points = points.detach().clone().requires_grad_()
        (slopes,) = torch.autograd.grad(function(points).sum(), points, create_graph=learning)
        norms = (slopes.flatten(1).square().sum(1) + 1e-12).sqrt()
    return (norms - slope).square(), norms.detach()


def segment_points(
    x: Float[Tensor, "n *event"], y: Float[Tensor, "n *event"], generator: torch.Generator | None = None
) -> Float[Tensor, "n *event"]:
    """Return a point of every segment from x_i to y_i, uniform on it, where a gradient is penalised (Gulrajani et al. 2017).

    Example:
        >>> x = segment_points(torch.zeros(4, 2), torch.ones(4, 2))
        >>> bool(((x >= 0) & (x <= 1)).all()), torch.equal(x[:, 0], x[:, 1])
        (True, True)
    """
    shares = torch.rand(len(x), generator=generator, device=device_of(generator, x.device), dtype=x.dtype)
    return torch.lerp(x, y, along(shares.to(x.device), x))
