"""The parts of the chain that give training and sampling the same particles: the source, a network's step, a finer grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mmdflow import _checks
from mmdflow._tensors import device_of, events_at_once, normal_like
from mmdflow.errors import InputError
from mmdflow.features import FeatureNetwork

SOURCES = ("uniform", "normal")


@dataclass(frozen=True)
class Source:
    """Where the chain starts: uniform on the cube [low, high]^d, as in the paper, or N(0, I).

    Attributes:
        name: one of `SOURCES`.
        low: lower end of the cube.
        high: upper end of the cube.

    Example:
        >>> Source("uniform", -1.0, 1.0).draw(5, (2,), torch.zeros(1), torch.Generator().manual_seed(0)).shape
        torch.Size([5, 2])
    """

    name: str = "uniform"
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        """Check the fields."""
        _checks.choice("source", self.name, SOURCES)
        if not _checks.finite("low", self.low) <= _checks.finite("high", self.high):
            raise InputError(f"low = {self.low:g}: must be at most high = {self.high:g}")

    def draw(
        self, count: int, event_shape: Sequence[int], like: Tensor, generator: torch.Generator | None
    ) -> Float[Tensor, "n *event"]:
        """Return particles of the type and on the device of `like`."""
        empty = like.new_empty(_checks.count("num_particles", count), *event_shape)
        if self.name == "normal":
            return normal_like(empty, generator)
        where = device_of(generator, empty.device)
        uniform = torch.rand(empty.shape, dtype=empty.dtype, device=where, generator=generator)
        return self.low + (self.high - self.low) * uniform.to(empty.device)


def displacement(network: FeatureNetwork, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
    """Return Phi(x), the network's event-shaped output; its noise level, of which the method has no use, is 0."""
    return network.outputs(x, x.new_zeros(len(x)))[:, 0]


@torch.no_grad()
def advance(
    network: FeatureNetwork,
    x: Float[Tensor, "n *event"],
    chunk_size: int | None = None,
    *,
    bound: float | None = None,
) -> Float[Tensor, "n *event"]:
    """Return x + Phi(x), its entries kept in [-bound, bound], `chunk_size` particles at a time; by default a million entries.

    Without a bound a particle that one network takes off the others' way is taken further by the next.
    """
    size = chunk_size or events_at_once(network.event_shape)
    moved = torch.cat([part + displacement(network, part) for part in x.split(size)])
    return moved if bound is None else moved.clamp(-bound, bound)


def enlarge(
    x: Float[Tensor, "n *event"],
    event_shape: Sequence[int],
    noise: float = 0.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n *finer"]:
    """Return images on the finer grid of `event_shape`, each pixel repeated, plus noise; on its own grid x as it is."""
    if tuple(x.shape[1:]) == tuple(event_shape):
        return x
    factor = event_shape[1] // x.shape[2]
    finer = x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return finer + noise * normal_like(finer, generator) if noise else finer
