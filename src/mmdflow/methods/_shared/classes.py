"""The classes that a sampling run asks for: given, checked, or drawn."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmdflow import _arrays
from mmdflow._tensors import device_of
from mmdflow.errors import InputError
from mmdflow.types import ArrayLike


def check_labels(
    labels: Int[Tensor, " n"] | int | ArrayLike, n: int, num_classes: int, device: torch.device
) -> Int[Tensor, " n"]:
    """Return one class a particle, of 0 to num_classes - 1.

    Raises:
        InputError: for labels that are no whole numbers, of another shape, or of no class.

    Example:
        >>> check_labels(2, 3, 10, torch.device("cpu"))
        tensor([2, 2, 2])
    """
    classes = _arrays.tensor("labels", labels, floating=False).to(device)
    if classes.is_floating_point() or classes.dtype == torch.bool:
        raise InputError(f"labels have dtype {classes.dtype}: must be integers")
    if tuple(classes.shape) not in ((), (n,)):
        raise InputError(f"labels have shape {list(classes.shape)}: must be [{n}], one a particle, or one number")
    unknown = classes[(classes < 0) | (classes >= num_classes)]
    if unknown.numel():
        raise InputError(f"labels hold {int(unknown[0])}: must be classes 0 to {num_classes - 1}")
    return classes.long().expand(n)


def draw_labels(n: int, shares: Float[Tensor, " C"], generator: torch.Generator | None) -> Int[Tensor, " n"]:
    """Return a class for every particle, drawn by the classes' shares of the data.

    Example:
        >>> draw_labels(3, torch.tensor([0.0, 1.0]), None)
        tensor([1, 1, 1])
    """
    where = device_of(generator, shares.device)
    return torch.multinomial(shares.to(where), n, replacement=True, generator=generator)
