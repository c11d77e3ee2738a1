"""Muon: steps by orthogonal matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks

#: Coefficients of the iteration, the steepest at 0 whose limits stay near 1 (Jordan et al. 2024).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


@runtime_checkable
class WithReadOuts(Protocol):
    """A network that names its last layers."""

    def read_outs(self) -> Sequence[nn.Module]:
        """Return them."""
        ...


class Muon(torch.optim.AdamW):
    r"""Muon for matrices, AdamW for other parameters (Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982).

    With the gradient G of a matrix W [m, n], momentum \mu and step size \eta:

    M <- \mu M + (1 - \mu) G,    W <- (1 - \eta w) W - \eta sqrt(max(m, n)) orthogonalize(\mu M + (1 - \mu) G).

    The root makes \eta the root mean square of a step's entries, which is what AdamW's are at most. So one step size serves both.
    A convolution's weight counts as the matrix of its first axis and all others. A parameter that has no gradient stays as it is.

    `torch.optim.Muon` takes matrices alone, and multiplies in bfloat16 on every device. This one multiplies in the parameter's
    own type. A fifth of the step size here is `match_rms_adamw` there.

    Args:
        params: parameters, or groups of them; those of a group with `"orthogonal": False` all step by AdamW, as read-outs should.
        lr: the step size.
        momentum: of matrices, in [0, 1).
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: w, decoupled, of all parameters.

    Raises:
        InputError: for a momentum outside [0, 1).

    Example:
        >>> import torch
        >>> from mmdflow.training import Muon
        >>> layer = torch.nn.Linear(3, 2)
        >>> optimizer = Muon(layer.parameters(), lr=0.1)
        >>> layer(torch.ones(1, 3)).square().sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.momentum = _checks.interval("momentum", momentum, 0.0, 1.0, "[)")
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make a step; `closure` evaluates the loss anew, with gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = {}
        try:
            for group in self.param_groups:
                for parameter in group["params"] if group.get("orthogonal", True) else []:
                    if parameter.ndim > 1 and parameter.grad is not None:
                        self._turn(parameter, group["lr"], group["weight_decay"])
                        gradients[parameter], parameter.grad = parameter.grad, None  # which AdamW leaves alone
            super().step()
        finally:
            for parameter, gradient in gradients.items():
                parameter.grad = gradient
        return loss

    @torch.no_grad()
    def _turn(self, parameter: Tensor, lr: float, weight_decay: float) -> None:
        """Step a matrix."""
        state = self.state[parameter]
        if "momentum" not in state:
            state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(parameter)
        state["step"] += 1  # which AdamW looks for where a state is loaded
        assert parameter.grad is not None
        mean = state["momentum"].lerp_(parameter.grad, 1 - self.momentum)
        update = orthogonalize(parameter.grad.lerp(mean, self.momentum).flatten(1))
        parameter.mul_(1 - lr * weight_decay)
        parameter.add_(update.view_as(parameter), alpha=-lr * math.sqrt(max(update.shape)))


def orthogonalize(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    r"""Return about U V^T of a matrix U S V^T: its singular vectors, with singular values near 1.

    X <- X / |X|_F, then five times X <- (a + b X X^T + c (X X^T)^2) X, a Newton-Schulz iteration (Jordan et al. 2024). Singular
    values from 0.01 to 1 come to 0.68 to 1.13, smaller ones to fewer; 0 stays 0. Its polynomials are multiplied first, in the
    smaller side alone, and applied to X once.

    Args:
        matrix: real.

    Returns:
        The matrix of the same shape.

    Example:
        >>> import torch
        >>> from mmdflow.training.muon import orthogonalize
        >>> values = torch.linalg.svdvals(orthogonalize(torch.diag(torch.tensor([3.0, 1.0]))))
        >>> bool((values > 0.6).all() and (values < 1.2).all())
        True
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalize(matrix.mT).mT
    a, b, c = _COEFFICIENTS
    x = matrix / matrix.norm().clamp_min(torch.finfo(matrix.dtype).tiny)
    gram, product = x @ x.mT, torch.eye(len(x), dtype=x.dtype, device=x.device)
    for _ in range(_ITERATIONS):
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal().add_(a)
        product = polynomial @ product
        gram = polynomial @ gram @ polynomial
    return product @ x


def hidden_and_rest(module: nn.Module) -> dict[bool, list[nn.Parameter]]:
    """Return the learned parameters by whether Muon should step them, and not AdamW: those of read-outs and embeddings not.

    A step of orthogonal matrices is as large along directions that carry nothing but noise, and in the last layer nothing after
    it takes that back.

    Args:
        module: a network, or what holds some.
    """
    apart: list[nn.Module] = []
    for part in module.modules():
        apart += (
            part.read_outs() if isinstance(part, WithReadOuts) else [part] if isinstance(part, nn.Embedding) else []
        )
    rest = {parameter for part in apart for parameter in part.parameters()}
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return {True: [p for p in learned if p not in rest], False: [p for p in learned if p in rest]}
