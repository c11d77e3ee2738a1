"""Gradients of scalar networks at particles."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def gradient(function: Callable[[Tensor], Tensor], x: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
    """Return the gradient of every value of function: [n, *event] -> [n] in its own event, in any grad mode, detached."""
    with torch.inference_mode(False), torch.enable_grad():
        points = x.detach().clone().requires_grad_()
        (found,) = torch.autograd.grad(function(points).sum(), points)
    return found


def slope_penalty(
    function: Callable[[Tensor], Tensor], points: Float[Tensor, "n *event"], slope: float, *, learning: bool = True
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return (|grad function| - slope)^2 at each of the points (Gulrajani et al. 2017), and |grad function|.

    Args:
        function: [n, *event] -> [n].
        points: where the gradient is taken; an inner point of its own graph.
        slope: the norm that is asked for.
        learning: keep the graph, so that the penalty can be differentiated in the function's parameters.
    """
    with torch.enable_grad():
        points = points.detach().clone().requires_grad_()
        (found,) = torch.autograd.grad(function(points).sum(), points, create_graph=learning)
        norms = (found.flatten(1).square().sum(1) + 1e-12).sqrt()
    return (norms - slope).square(), norms.detach()
