"""Momentum in the sliced MMD flow: Figure 2 of Hertrich, Wald, Altekrueger, Hagemann (ICLR 2024).

Particles that start uniform in [0, 1]^d flow to MNIST under the energy distance with P random slices a step, with momentum
and without, shown after 2^k steps. Momentum multiplies the effective step by 1 / (1 - momentum), so both flows are run with
that step size too: what is left between momentum and a larger step is what momentum does besides. The energy distance to the
target is measured on fixed orthogonal directions, the same for all flows.

The start, the random directions and, at full scale, step size 1 are those of the published code; momentum 0.9 is the end of
its schedule. The directions' noise a unit of time is proportional to step size / P, so the small scale, with a tenth of the
published slices, has a tenth of the step size; its larger step size shows what happens with more noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmdflow import SlicedMMD, flow
from mmdflow.flows import Record
from mmdflow.studies._mnist import powers_of_two, show_grid, unit_images
from mmdflow.studies.base import Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "GS-MMD-RK paper, Figure 2: the sliced MMD flow to MNIST with and without momentum"
SCALES: dict[str, dict[str, Any]] = {
    "small": {
        "data": "mnist",
        "num_particles": 120,
        "num_directions": 100,
        "num_steps": 4096,
        "step_size": 0.1,
        "momentum": 0.9,
    },
}
SCALES["full"] = SCALES["small"] | {
    "num_particles": 20_000,
    "num_directions": 1000,
    "num_steps": 65_536,
    "step_size": 1.0,
}
#: Directions of the energy distance that is reported, at most.
NUM_JUDGES = 784
#: Particles that are shown.
SHOWN = 2

CLAIM = (
    "Hertrich et al. 2024, Figure 2: from the uniform distribution on [0, 1]^d to MNIST, the sliced MMD flow with momentum "
    "converges faster than without"
)


def run(
    *,
    data: str,
    num_particles: int,
    num_directions: int,
    num_steps: int,
    step_size: float,
    momentum: float,
    seed: int,
    progress: bool,
) -> Outcome:
    """Run the three flows.

    Momentum is faster when its flow is nearer to the target after all steps, and passes the plain flow's end in half of them.

    Args:
        data: the data set's name; images.
        num_particles: N = M, particles and target images.
        num_directions: P, slices a step.
        num_steps: steps of each flow.
        step_size: tau.
        momentum: of the first flow.
        seed: of the images, the start and the directions.
        progress: show bars.

    Raises:
        InputError: where the data set is not found.
    """
    generator = torch.Generator().manual_seed(seed)
    y = unit_images(data, num_particles, generator)
    start = torch.rand(y.shape, generator=generator)
    judge = SlicedMMD(y, min(NUM_JUDGES, y[0].numel()), generator=generator, redraw=False)
    steps = powers_of_two(num_steps)
    large = step_size / (1 - momentum)
    settings = {_name(eta, rho): (eta, rho) for eta in (step_size, large) for rho in (momentum, 0.0)}
    curves: dict[str, list[float]] = {}
    pictures: dict[str, Tensor] = {}
    for name, (eta, rho) in settings.items():
        states = _states(y, start, steps, num_directions, eta, rho, seed, progress)
        curves[name] = [float(judge(state)) for state in states]
        pictures[name] = states[:, :SHOWN]

    with_momentum, plain, both, larger = curves.values()
    passed = next((step for step, value in zip(steps, with_momentum, strict=True) if value <= plain[-1]), None)
    seen = with_momentum[-1] < plain[-1] and passed is not None and 2 * passed <= num_steps
    finding = (
        f"After {num_steps} steps of {num_particles} particles with {num_directions} slices and step size {step_size:g} the "
        f"energy distance is {with_momentum[-1]:.3g} with momentum {momentum:g} and {plain[-1]:.3g} without "
        f"({plain[0]:.3g} at the start), whose end momentum has passed by step {passed}; with the step size {large:g} it is "
        f"{both[-1]:.3g} with momentum and {larger[-1]:.3g} without: momentum gains "
        + ("more than" if with_momentum[-1] < larger[-1] else "no more than")
        + " the larger step does that it amounts to."
    )
    figures = {"steps": steps, "energy_distance": curves}
    return Outcome(CLAIM, seen, finding, figures, lambda figure: _draw(figure, steps, curves, pictures))


def _states(
    y: Tensor, start: Tensor, steps: list[int], num_directions: int, eta: float, rho: float, seed: int, progress: bool
) -> Tensor:
    """Return the particles at the given steps of a flow; the directions depend on the seed only."""
    generator = torch.Generator().manual_seed(seed + 1)
    divergence = SlicedMMD(y, num_directions, directions="random", generator=generator)
    states = {0: start}

    def keep(step: int, x: Tensor) -> None:
        if step in steps:
            states[step] = x.clone()

    flow(
        divergence,
        start,
        step_size=eta,
        num_steps=steps[-1],
        momentum=rho,
        callback=keep,
        save_every=Record(evaluate=False),
        progress=progress,
    )
    return torch.stack([states[step] for step in steps])


def _name(step_size: float, momentum: float) -> str:
    return f"momentum {momentum:g}, step size {step_size:g}" if momentum else f"no momentum, step size {step_size:g}"


def _draw(figure: Figure, steps: list[int], curves: dict[str, list[float]], pictures: dict[str, Tensor]) -> None:
    figure.set_size_inches(12, 4.6)
    parts: Any = figure.subfigures(1, 2, width_ratios=[1, 1.2])
    columns = list(range(len(steps)))[::-1][::2][::-1]  # every second power, the last among them
    parts[0].suptitle(f"after {', '.join(str(steps[c]) for c in columns)} steps", fontsize=11)
    for axes, (name, states) in zip(parts[0].subplots(len(pictures), 1), pictures.items(), strict=True):
        show_grid(axes, states[columns].transpose(0, 1).flatten(0, 1), len(columns))
        axes.set_title(name, fontsize=9)
    axes = parts[1].subplots()
    for name, values in curves.items():
        axes.loglog([max(step, 0.5) for step in steps], values, ".-", label=name)
    axes.set(title="Energy distance to the target", xlabel="steps (0 at the left end)", ylabel="1/2 MMD²")
    axes.legend(frameon=False)
