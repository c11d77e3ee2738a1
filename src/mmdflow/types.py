"""Types shared by every room of the library: particles, schedules of a scalar, the result of a flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

    from mmdflow.plots import Animation

#: Particles x.
Particles: TypeAlias = Float[Tensor, "n *event"]
#: The particles' weights.
Weights: TypeAlias = Float[Tensor, " n"]
#: Points z at which something is evaluated.
Points: TypeAlias = Float[Tensor, "k *event"]
#: An array of any kind: a torch tensor, a NumPy array, a (nested) list, or anything else with DLPack or `__array__`.
ArrayLike: TypeAlias = Any
#: A number, or a function of the step index (0, 1, ...) that returns one.
ScalarOrSchedule: TypeAlias = float | Callable[[int], float]


class Step(NamedTuple):
    """A step of a flow.

    Attributes:
        size: eta.
        momentum: in [0, 1).
    """

    size: float
    momentum: float = 0.0


@dataclass(frozen=True)
class FlowResult:
    """What a flow returns. Its arrays are of the kind that `flow` was given: tensors, NumPy arrays, JAX arrays, ...

    Attributes:
        particles: the particles after the last step, [n, *event].
        values: the divergence F at each recorded step, [S]; empty where the field has no F, or F was not to be recorded.
        trajectory: the particles at each recorded step, [S, n, *event].
        steps: the recorded step indices, [S]; 0 is the start, the last one is the number of steps made.
        nfe: evaluations of the witness gradient per particle that were made.
        times: the flow time at each recorded step, the sum of the step sizes until then, [S].
        weights: the particles' weights after the last step, [n]; None where all are 1/n.
        report: what callbacks and moves report (see their `report`), such as the p-value of a test.

    Example:
        >>> import numpy as np
        >>> from mmdflow import MMD, flow
        >>> result = flow(MMD(np.zeros((5, 2))), np.ones((4, 2)), num_steps=20, save_every=10)
        >>> result.steps, result.trajectory.shape, bool(result.values[-1] < result.values[0])
        (array([ 0, 10, 20]), (3, 4, 2), True)
    """

    particles: Float[ArrayLike, "n *event"]
    values: Float[ArrayLike, " V"]
    trajectory: Float[ArrayLike, "S n *event"]
    steps: Int[ArrayLike, " S"]
    nfe: int
    times: Float[ArrayLike, " T"] = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    weights: Float[ArrayLike, " n"] | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return a line."""
        values = f", F {float(self.values[0]):.4g} -> {float(self.values[-1]):.4g}" if len(self.values) else ""
        return (
            f"FlowResult({list(self.particles.shape)} particles, {int(self.steps[-1])} steps, nfe {self.nfe}{values})"
        )

    def _repr_html_(self) -> str:
        """Return the line, for notebooks, over a picture of the last particles where there can be one."""
        from mmdflow import plots

        return plots.html(repr(self), self.plot)

    def plot(self, target: Float[ArrayLike, "m *event"] | None = None) -> Image.Image:
        """Return a picture of the last particles, over the target where it is given.

        Points in the plane are scattered, on a line they are histograms; of more dimensions the first two principal axes are
        shown. Events [1 or 3, h, w] in [-1, 1] are images.

        Args:
            target: its samples, [m, *event].

        Raises:
            ImportError: without matplotlib, unless the events are images.
        """
        from mmdflow import plots

        return plots.flow_pictures(self.trajectory, self.steps, target)[-1]

    def animate(
        self,
        target: Float[ArrayLike, "m *event"] | None = None,
        *,
        path: str | Path | None = None,
        seconds: float = 4.0,
        overwrite: bool = False,
    ) -> Animation:
        """Return an animation of the recorded steps (`save_every` of `flow`), which notebooks show.

        Args:
            target: its samples, [m, *event].
            path: also save it there, as .gif or .mp4.
            seconds: that it takes.
            overwrite: replace a file that is there already.

        Raises:
            InputError: for a file that is there already.
            ImportError: without matplotlib, unless the events are images; for .mp4 without imageio-ffmpeg.
        """
        from mmdflow import plots
        from mmdflow.errors import InputError

        if path is not None and not overwrite and Path(path).exists():
            raise InputError(f"{path}: is there already; overwrite=True replaces it")
        animation = plots.Animation(plots.flow_pictures(self.trajectory, self.steps, target), seconds)
        if path is not None:
            animation.save(path)
        return animation


@dataclass(frozen=True)
class SamplingMonitor:
    """What a DMMD sampling run looked like at each of its noise levels, from the first, t_max.

    Attributes:
        levels: the noise levels t, [T].
        slope: mean |grad f| over particles and steps, before it was limited, [T].
        mismatch: MMD^2 between the particles that enter the level and the noised data P_t, [T]; for a linear base
            |mean phi(Z, t) - mean phi(X_t, t)|^2.
        relative_mismatch: the same, in units of the MMD^2 between noised and clean data, [T].
        participation: participation ratio of the entering particles' features, between 1 (one direction) and K, [T].
        limited: share of gradients that were shortened to max_slope, [T].
    """

    levels: Float[Tensor, " T"]
    slope: Float[Tensor, " T"]
    mismatch: Float[Tensor, " T"]
    relative_mismatch: Float[Tensor, " T"]
    participation: Float[Tensor, " T"]
    limited: Float[Tensor, " T"]

    def columns(self) -> dict[str, list[float]]:
        """Return the columns as lists of numbers, for JSON."""
        return {f.name: getattr(self, f.name).tolist() for f in fields(self)}
