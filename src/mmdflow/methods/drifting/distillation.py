"""A generator that regresses the end points of a trained flow: the yardstick of generators that follow a field."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import _checks
from mmdflow._tensors import device_of
from mmdflow.errors import DivergedError, InputError
from mmdflow.methods._shared.terms import StepTerms
from mmdflow.methods.base import Pipeline
from mmdflow.methods.drifting.generator import Generator

#: Particles that flow together where pairs are made.
_TOGETHER = 256


class DistillationLoss(nn.Module):
    r"""mean \|G(e) - T(e)\|^2 with T the flow of a trained model from the noise e to its end point.

    The pairs (e, T(e)) are made once, in the first step, so that the seconds of training count them. The data have no part in it.

    Args:
        generator: G.
        teacher: the trained model, in the units of the data.
        num_pairs: pairs.
        scale: factor of the data in the units of the generator.
    """

    num_stages = 1  # of `Staged`: it is entered under the clock of the training
    sources: Tensor
    ends: Tensor
    classes = None

    def __init__(self, generator: Generator, teacher: Pipeline, num_pairs: int, scale: float = 1.0) -> None:
        super().__init__()
        self.generator, self._teacher, self.scale = generator, teacher, scale
        needed = generator.network.event_shape
        found = getattr(teacher, "event_shape", needed)  # which pipelines of other packages need not have
        if found != needed:
            raise InputError(f"distillation.model: has events {list(found)}: must be {list(needed)}, the generator's")
        shape = (_checks.count("num_pairs", num_pairs), *generator.network.event_shape)
        self.register_buffer("sources", torch.zeros(shape))
        self.register_buffer("ends", torch.zeros(shape))

    def enter(self, stage: int, generator: torch.Generator) -> None:
        """Make the pairs."""
        seed = int(torch.randint(1 << 62, (), generator=generator, device=generator.device))
        draws, parts = torch.Generator().manual_seed(seed), []
        for part in self.sources.split(_TOGETHER):
            noise = torch.randn(part.shape, generator=draws)
            parts.append((noise, self._teacher(particles=noise, generator=draws).particles))
        self.sources, self.ends = (torch.cat(column).to(self.sources) for column in zip(*parts, strict=True))

    def forward(self, batch: Float[Tensor, "B *event"], generator: torch.Generator | None = None) -> StepTerms:
        """Return the loss of as many pairs, drawn at random, as the batch has events."""
        rows = torch.randint(len(self.sources), (len(batch),), generator=generator, device=device_of(generator))
        made = self.generator(self.sources[rows])
        if not _checks.all_finite(made):
            raise DivergedError("generated events became non-finite")
        return StepTerms((made - self.scale * self.ends[rows]).square().mean())
