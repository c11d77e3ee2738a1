"""What the samplers of baselines share: the source, and the way from steps to an output."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mmdflow import _checks
from mmdflow._tensors import normal_like
from mmdflow.errors import DivergedError
from mmdflow.features import FeatureNetwork
from mmdflow.methods._shared.pretrained import SampleOutput


def draw_source(
    network: FeatureNetwork,
    num_particles: int,
    particles: Float[Tensor, "n *event"] | None = None,
    generator: torch.Generator | None = None,
    *,
    scale: float = 1.0,
) -> Float[Tensor, "n *event"]:
    """Return N(0, I) particles for a network, or the given ones times `scale`, checked.

    Raises:
        InputError: for a count below 1, or particles of another shape, type or device than the network's.
    """
    like = next(network.parameters())
    if particles is not None:
        _checks.points("particles", particles, network.event_shape)
        _checks.alike("particles", particles, like)
        return particles * scale
    return normal_like(like.new_empty(_checks.count("num_particles", num_particles), *network.event_shape), generator)


def collect(
    source: Float[Tensor, "n *event"],
    steps: Iterable[Float[Tensor, "n *event"]],
    num_steps: int,
    *,
    nfe: int,
    scale: float = 1.0,
    return_trajectory: bool = False,
    progress: bool = False,
) -> SampleOutput:
    """Run a sampler that yields the particles of each step; return them in the data's units, images clamped to [-1, 1].

    Args:
        source: where the particles start.
        steps: the particles after each step.
        num_steps: how many there will be, for the bar.
        nfe: evaluations of the network per particle.
        scale: factor of the data inside the model.
        return_trajectory: keep the particles after every step.
        progress: show a bar over the steps.

    Raises:
        DivergedError: when particles become non-finite; names the step and holds the last finite particles.
    """
    x, frames = source, [source]
    with tqdm(total=num_steps, disable=not progress, desc="sample", unit="step") as bar:
        for done, after in enumerate(steps, 1):
            if not _checks.all_finite(after):
                raise DivergedError(f"particles became non-finite at step {done} of {num_steps}", particles=x / scale)
            x = after
            if return_trajectory:
                frames.append(x)
            bar.update()
    x = x / scale
    x = x.clamp(-1, 1) if source.ndim == 4 else x
    return SampleOutput(x, nfe, torch.stack(frames) / scale if return_trajectory else None)
