r"""Noise injection in the training of student networks: Arbel, Korba, Salim, Gretton (NeurIPS 2019), section 4.

A particle Z = (W_1 [H, d], W_2 [H]) is a network phi_Z(x) = exp(-(W_2 relu(W_1 x))^2 / s^2), s = 2; a measure nu of particles is
the network f_nu = E_nu phi_Z. With k(U, Z) = E_x phi_U(x) phi_Z(x), a finite feature map over the inputs x on the unit sphere,
MMD^2 is the mean squared difference of two networks: the flow of 1/2 MMD^2 trains the student towards the teacher, and the same
kernel on held-out inputs gives the validation error.

The plain flow stalls where its gradient vanishes on the particles; noise injection evaluates the gradient off them, with a level
that is halved ten times over the run. Published: d = 50, H = 3, one teacher, 1000 students drawn from N(0.001, 1), 1000 training
and validation inputs in batches of 100, 10^5 steps of size 0.1, noise 1. Here every step uses all inputs, and the small scale
makes fewer and larger steps to the same total time. Sobolev descent, with the published regularisation 1e-6 and step size 0.1,
solves for all inputs at every step and converges in far fewer of them.

KALE and DrMMD use the same kernel, with step sizes that agree with the MMD flow's as their regularisation grows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmdflow import KALE, MMD, Deep, Divergence, DrMMD, Kernel, Linear, SobolevDescent, flow
from mmdflow.flows import Record
from mmdflow.studies.base import Outcome, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "MMD flow paper, section 4: student-teacher networks with and without noise injection"
SCALES: dict[str, dict[str, Any]] = {
    "small": {
        "dim": 10,
        "hidden": 3,
        "num_particles": 200,
        "num_teachers": 1,
        "num_inputs": 300,
        "num_steps": 4000,
        "step_size": 2.5,
        "noise": 1.0,
        "regularization": 0.1,
        "sobolev": 1e-6,
        "sobolev_steps": 300,
    },
}
SCALES["full"] = SCALES["small"] | {
    "dim": 50,
    "num_particles": 1000,
    "num_inputs": 1000,
    "num_steps": 100_000,
    "step_size": 0.1,
    "sobolev_steps": 1000,
}
#: Times that the noise is halved.
HALVINGS = 10
#: Of Sobolev descent, whose steps are relative: the error falls by about this part in each.
SOBOLEV_STEP_SIZE = 0.1

CLAIM = (
    "Arbel et al. 2019, section 4: on student-teacher networks the MMD flow with noise injection reaches a lower validation "
    "error than without"
)
#: Part of the claim only where Sobolev descent is run.
CLAIM_SOBOLEV = ", and than Sobolev descent"


#: Divergence, step size, number of steps and injected noise.
Flow = tuple[Divergence, float, int, Callable[[int], float] | None]


class NetworkFeatures(nn.Module):
    r"""psi(Z)_b = phi_Z(x_b) / sqrt(B): <psi(U), psi(Z)> is the mean over the inputs of the product of two networks.

    Args:
        inputs: x, [B, d].
        hidden: H, the hidden units of a network.
        scale: s.
    """

    inputs: Tensor

    def __init__(self, inputs: Float[Tensor, "B d"], hidden: int, scale: float = 2.0) -> None:
        super().__init__()
        self.register_buffer("inputs", inputs)
        self.hidden, self.scale = hidden, scale

    def forward(self, z: Float[Tensor, "n p"]) -> Float[Tensor, "n B"]:
        """Return psi of the networks Z, each H (d + 1) numbers: W_1 row by row, then W_2."""
        first, second = z.split([z.shape[1] - self.hidden, self.hidden], 1)
        units = (first.reshape(-1, self.inputs.shape[1]) @ self.inputs.T).relu()
        outputs = (second.unsqueeze(1) @ units.reshape(len(z), self.hidden, -1)).squeeze(1)
        return torch.exp(-((outputs / self.scale) ** 2)) / math.sqrt(len(self.inputs))


@dataclass(frozen=True, kw_only=True)
class StudentTeacher(Study):
    """Students trained by each flow.

    Attributes:
        dim: d, of the inputs.
        hidden: H.
        num_particles: students.
        num_teachers: particles of the target.
        num_inputs: training inputs, and as many for validation.
        num_steps: steps of each flow.
        step_size: of the MMD flow.
        noise: the first level of the injected noise, halved ten times.
        regularization: of KALE and DrMMD.
        sobolev: the regularisation of Sobolev descent.
        sobolev_steps: its steps; 0 leaves it out.
    """

    dim: int
    hidden: int
    num_particles: int
    num_teachers: int
    num_inputs: int
    num_steps: int
    step_size: float
    noise: float
    regularization: float
    sobolev: float
    sobolev_steps: int

    def outcome(self) -> Outcome:
        """Train students by each flow."""
        generator = torch.Generator().manual_seed(self.seed)
        size = self.hidden * (self.dim + 1)
        teachers = torch.randn(self.num_teachers, size, dtype=torch.float64, generator=generator)
        students = 0.001 + torch.randn(self.num_particles, size, dtype=torch.float64, generator=generator)
        kernel, held_out = (
            Deep(Linear(), NetworkFeatures(sphere(self.num_inputs, self.dim, generator), self.hidden)) for _ in range(2)
        )
        losses = {"training": MMD(teachers, kernel), "validation": MMD(teachers, held_out)}

        curves: dict[str, dict[str, list[float]]] = {}
        for name, (divergence, eta, count, schedule) in self._flows(teachers, kernel).items():
            steps = record_steps(count)
            errors = {part: [2 * float(loss(students))] for part, loss in losses.items()}

            def record(step: int, x: Tensor, steps: list[int] = steps, errors: dict[str, list[float]] = errors) -> None:
                if step in steps:
                    for part, loss in losses.items():
                        errors[part].append(2 * float(loss(x)))

            noisy = torch.Generator().manual_seed(self.seed + 1)
            flow(
                divergence, students, step_size=eta, num_steps=count, noise_injection=schedule, callback=record,
                save_every=Record(evaluate=False), progress=self.progress, generator=noisy,
            )  # fmt: skip
            curves[name] = {"steps": [float(step) for step in steps], **errors}

        ends = {name: curve["validation"][-1] for name, curve in curves.items()}
        seen = all(ends["MMD, noise injection"] < ends[name] for name in ("MMD", "Sobolev descent") if name in ends)
        finding = (
            f"After {self.num_steps} steps of {self.num_particles} students"
            + (f" ({self.sobolev_steps} of Sobolev descent)" if self.sobolev_steps else "")
            + " the mean squared error on held-out inputs, "
            f"{curves['MMD']['validation'][0]:.2e} at the start, is "
            + ", ".join(f"{value:.2e} ({name})" for name, value in ends.items())
            + "."
        )
        claim = CLAIM + CLAIM_SOBOLEV * bool(self.sobolev_steps)
        return Outcome(claim, seen, finding, {"mean_squared_error": curves}, lambda figure: _draw(figure, curves))

    def _flows(self, teachers: Tensor, kernel: Kernel) -> dict[str, Flow]:
        """Return the flows: divergence, step size, number of steps, injected noise."""

        def halved(step: int) -> float:
            return self.noise * 0.5 ** (step * HALVINGS // self.num_steps)

        plain, weight = MMD(teachers, kernel), self.regularization
        kale, drmmd = KALE(teachers, kernel, weight), DrMMD(teachers, kernel, weight)
        flows: dict[str, Flow] = {
            "MMD": (plain, self.step_size, self.num_steps, None),
            "MMD, noise injection": (plain, self.step_size, self.num_steps, halved),
            "KALE": (kale, self.step_size * weight / (1 + weight), self.num_steps, None),
            "DrMMD": (drmmd, self.step_size * weight / (2 + 2 * weight), self.num_steps, None),
        }
        if self.sobolev_steps:
            descent = SobolevDescent(teachers, kernel, self.sobolev)
            flows["Sobolev descent"] = (descent, SOBOLEV_STEP_SIZE, self.sobolev_steps, None)
        return flows


def sphere(n: int, dim: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
    """Draw n points uniformly on the unit sphere."""
    return nn.functional.normalize(torch.randn(n, dim, dtype=torch.float64, generator=generator), dim=1)


def record_steps(num_steps: int, points: int = 40) -> list[int]:
    """Return 0 and up to `points` steps to num_steps, about evenly spaced."""
    return sorted({round(num_steps * i / points) for i in range(points + 1)})


def _draw(figure: Figure, curves: dict[str, dict[str, list[float]]]) -> None:
    figure.set_size_inches(10, 4)
    for axes, part in zip(figure.subplots(1, 2, sharey=True), ("training", "validation"), strict=True):
        for name, curve in curves.items():
            axes.semilogy(curve["steps"], curve[part], label=name, lw=2.5 if "noise" in name else 1.3)
        axes.set(title=f"{part.capitalize()} error", xlabel="steps")
        axes.legend(frameon=False)
    figure.axes[0].set_ylabel("mean squared error = MMD²")


run = StudentTeacher.run
