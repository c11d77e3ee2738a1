"""Particles that are kept from one training step to the next, at all stages of their flow."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow._tensors import along


class ParticlePool(nn.Module):
    """Particles of a flow of n steps, each of which makes a step every training step and begins anew after its last.

    A training step so costs one evaluation instead of the n of a new trajectory. What it holds sits in buffers, so that a
    resumed training goes on with it.

    Args:
        size: particles.
        num_steps: n.
        like: an empty event's type, device and shape, [0, *event].

    Example:
        >>> pool = ParticlePool(size=4, num_steps=2, like=torch.empty(0, 1))
        >>> x, index = pool.draw(torch.zeros(4, 1))
        >>> index.tolist()
        [0, 0, 1, 1]
        >>> pool.store(x + 1, index)
        >>> pool.draw(torch.zeros(4, 1))[0].flatten().tolist()  # the last two begin anew
        [1.0, 1.0, 0.0, 0.0]
    """

    particles: Tensor
    index: Tensor

    def __init__(self, size: int, num_steps: int, like: Float[Tensor, "0 *event"]) -> None:
        super().__init__()
        self.num_steps = _checks.count("num_steps", num_steps)
        size = _checks.count("pool_size", size)
        self.register_buffer("particles", like.new_zeros(size, *like.shape[1:]))
        self.register_buffer("index", torch.full((size,), -1, device=like.device))  # steps made; -1: not begun

    def draw(self, source: Float[Tensor, "n *event"]) -> tuple[Float[Tensor, "n *event"], Int[Tensor, " n"]]:
        """Return the particles and how many steps each has made; those that begin come from the source.

        The first time all come from it, spread evenly over the stages: an untrained network hardly moves particles.
        """
        if int(self.index[0]) < 0:
            return source, torch.arange(len(source), device=source.device) * self.num_steps // len(source)
        return torch.where(along(self.index == 0, source), source, self.particles), self.index.clone()

    def store(self, moved: Float[Tensor, "n *event"], index: Int[Tensor, " n"]) -> None:
        """Keep the particles after the step whose number was `index`."""
        self.particles.copy_(moved)
        self.index.copy_((index + 1) % self.num_steps)
