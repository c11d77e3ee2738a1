"""Checks of a network's outputs, what a generator makes, and how a network is left out of another's turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor, nn

from mmdflow.errors import InputError
from mmdflow.features import FeatureNetwork


def check_event_map(network: FeatureNetwork, name: str = "network") -> FeatureNetwork:
    """Return the network if its output is one event.

    Raises:
        InputError: if it has another head than the squared-residual one, or several outputs.

    Example:
        >>> import torch
        >>> from mmdflow.features import MLPFeatures
        >>> check_event_map(MLPFeatures((2,), num_features=1)).outputs(torch.zeros(5, 2), torch.zeros(5)).shape
        torch.Size([5, 1, 2])
    """
    if network.head != "squared_residual" or network.num_features != 1:
        raise InputError(
            f"{name} has head = {network.head!r} and num_features = {network.num_features}: "
            "must be 'squared_residual' and 1, whose output is one event"
        )
    return network


def generate(
    generator: FeatureNetwork,
    noise: Float[Tensor, "n *event"],
    bound: float | None = None,
    level: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, "n *event"]:
    """Return the events that a generator makes of noise: its one event-shaped output o at a level, or bound tanh(o).

    Args:
        generator: a network whose output is one event.
        noise: what it is given.
        bound: of the entries; None for none.
        level: what it is given as its noise level; 0 by default.

    Example:
        >>> import torch
        >>> from mmdflow.features import MLPFeatures
        >>> generate(MLPFeatures((2,), num_features=1), torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """
    made: Tensor = generator.outputs(noise, noise.new_zeros(len(noise)) if level is None else level)[:, 0]
    made = made.to(noise.dtype)  # autocast may have lowered it
    return made if bound is None else bound * made.tanh()


def check_scalar(network: FeatureNetwork) -> FeatureNetwork:
    """Return the network if it is a function of one value.

    Raises:
        InputError: if it has several features.

    Example:
        >>> import torch
        >>> from mmdflow.features import MLPFeatures
        >>> check_scalar(MLPFeatures((2,), num_features=1, head="flat"))(torch.zeros(5, 2), torch.zeros(5)).shape
        torch.Size([5, 1])
    """
    if network.num_features != 1:
        raise InputError(
            f"network has num_features = {network.num_features}: must be 1, a function of one value that moves particles along "
            "its gradient"
        )
    return network


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Keep a network's parameters out of the graphs that are built inside the block.

    Example:
        >>> import torch
        >>> network = nn.Linear(2, 1)
        >>> with frozen(network):
        ...     print(network(torch.zeros(1, 2)).requires_grad)
        False
        >>> network.weight.requires_grad
        True
    """
    learned = [p for p in network.parameters() if p.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_()
