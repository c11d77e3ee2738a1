"""Sampling: the particles at the start, the steps that move them, and the output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from mmdflow import _arrays, _checks
from mmdflow._tensors import normal_like, to_bytes
from mmdflow.errors import DivergedError, InputError
from mmdflow.features import FeatureNetwork
from mmdflow.types import ArrayLike

if TYPE_CHECKING:
    from PIL import Image

    from mmdflow.plots import Animation


@dataclass(frozen=True)
class SampleOutput:
    """What a pipeline returns.

    Attributes:
        particles: [n, *event]; images lie in [-1, 1]. A tensor, or the kind of array that the pipeline was given.
        nfe: evaluations of the network per particle that were made.
        trajectory: the particles at the start and after every step, [S, n, *event], if `return_trajectory`.
    """

    particles: Float[ArrayLike, "n *event"]
    nfe: int
    trajectory: Float[ArrayLike, "S n *event"] | None = None

    def __repr__(self) -> str:
        """Return a line."""
        return f"{type(self).__name__}({list(self.particles.shape)} particles, nfe {self.nfe})"

    def _repr_html_(self) -> str:
        """Return the line, for notebooks, over a picture of the particles where there can be one."""
        from mmdflow import plots

        return plots.html(repr(self), self.plot)

    def plot(self) -> Image.Image:
        """Return a picture of the particles: a grid of images, or points as `FlowResult.plot` shows them.

        Raises:
            ImportError: without matplotlib, unless the events are images.
        """
        from mmdflow import plots

        return plots.flow_pictures(self.particles[None], [self.nfe])[0]

    def animate(self, *, path: str | Path | None = None, seconds: float = 4.0) -> Animation:
        """Return an animation of the trajectory, which notebooks show; with `path` also save it, as .gif or .mp4.

        Raises:
            InputError: without `return_trajectory=True` in the call that made it.
        """
        from mmdflow import plots

        if self.trajectory is None:
            raise InputError("trajectory is missing: call the pipeline with return_trajectory=True to animate it")
        animation = plots.Animation(plots.flow_pictures(self.trajectory, range(len(self.trajectory))), seconds)
        if path is not None:
            animation.save(path)
        return animation

    @property
    def images(self) -> list[Image.Image]:
        """The particles as PIL images (events [1 or 3, height, width])."""
        from PIL import Image

        if self.particles.ndim != 4 or self.particles.shape[1] not in (1, 3):
            raise InputError(f"particles have event shape {list(self.particles.shape[1:])}: images are [1 or 3, h, w]")
        pixels = to_bytes(_arrays.tensor("particles", self.particles)).permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(p[:, :, 0] if p.shape[2] == 1 else p) for p in pixels]


Output = TypeVar("Output", bound=SampleOutput)


def given_back(output: Output, *given: ArrayLike) -> Output:
    """Return an output whose arrays are of the kind that a pipeline was given; see `mmdflow._arrays.back`."""
    back = _arrays.back(*given)
    trajectory = None if output.trajectory is None else back(output.trajectory)
    return replace(output, particles=back(output.particles), trajectory=trajectory)


@dataclass(frozen=True)
class Steps:
    """The steps of a sampling run, in the model's units.

    Attributes:
        start: the particles before the first step, [n, *event].
        states: yields the particles after every step.
        count: how many steps there are.
        nfe: evaluations of the network per particle.
    """

    start: Float[Tensor, "n *event"]
    states: Iterator[Tensor]
    count: int
    nfe: int


def draw_source(
    network: FeatureNetwork,
    num_particles: int,
    particles: Float[Tensor, "n *event"] | ArrayLike | None = None,
    generator: torch.Generator | None = None,
    *,
    scale: float = 1.0,
) -> Float[Tensor, "n *event"]:
    """Return N(0, I) particles for a network, or the given ones times `scale`, checked.

    Raises:
        InputError: for a count below 1, or particles of another shape or device than the network's.

    Example:
        >>> from mmdflow.features import MLPFeatures
        >>> draw_source(MLPFeatures((2,), num_features=1), 5).shape
        torch.Size([5, 2])
    """
    like = next(network.parameters())
    if particles is not None:
        return _checks.placed("particles", particles, network.event_shape, like) * scale
    return normal_like(like.new_empty(_checks.count("num_particles", num_particles), *network.event_shape), generator)


def collect(
    steps: Steps, *, scale: float = 1.0, return_trajectory: bool = False, progress: bool = False
) -> SampleOutput:
    """Make the steps of a run; return the particles in the data's units, images clamped to [-1, 1].

    Args:
        steps: the run.
        scale: factor of the data inside the model.
        return_trajectory: keep the particles after every step.
        progress: show a bar over the steps.

    Raises:
        DivergedError: when particles become non-finite; names the step and holds the last finite particles.

    Example:
        >>> x = torch.ones(2, 3)
        >>> out = collect(Steps(x, iter([x / 2, x / 4]), count=2, nfe=2), return_trajectory=True)
        >>> out.nfe, out.trajectory[:, 0, 0].tolist()
        (2, [1.0, 0.5, 0.25])
    """
    x, frames = steps.start, [steps.start]
    with tqdm(total=steps.count, disable=not progress, desc="sample", unit="step") as bar:
        for done, after in enumerate(steps.states, 1):
            if not _checks.all_finite(after):
                message = f"particles became non-finite at step {done} of {steps.count}"
                raise DivergedError(message, particles=x / scale)
            x = after
            if return_trajectory:
                frames.append(x)
            bar.update()
    x = x / scale
    x = x.clamp(-1, 1) if x.ndim == 4 else x
    return SampleOutput(x, steps.nfe, torch.stack(frames) / scale if return_trajectory else None)
