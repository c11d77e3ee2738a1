"""Train a network by a particle flow: the particles are its neurons, and MMD^2 is the mean squared error.

With the kernel k(u, v) = mean over inputs of neuron_u(x) neuron_v(x), the distance of two sets of neurons is that of the networks
that they make (Arbel et al. 2019, section 4). Noise injection, which is for flows that stall, does not help this one.

python examples/gallery/student_teacher.py
"""

import torch
from matplotlib.figure import Figure

from mmdflow import MMD, Deep, Linear, flow


def main(output: str = "student_teacher.png", num_students: int = 100, num_steps: int = 1500) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = 2 * torch.rand(500, 2, generator=generator) - 1

    def outputs(neurons: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(4 * (neurons[:, :2] @ x.T + neurons[:, 2:3])) * neurons[:, 3:]  # [neurons, inputs]

    kernel = Deep(Linear(), lambda neurons: outputs(neurons, inputs) / len(inputs) ** 0.5)
    teacher, students = (torch.randn(n, 4, generator=generator) for n in (5, num_students))
    error, settings = MMD(teacher, kernel), {"step_size": 0.3, "num_steps": num_steps, "save_every": 10}
    plain = flow(error, students, **settings)
    noisy = flow(
        error, students, noise_injection=lambda step: 0.5 * 0.01 ** (step / num_steps), generator=generator, **settings
    )

    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, 60)] * 2, indexing="xy"), -1).reshape(-1, 2)
    figure = Figure(figsize=(11, 2.7), layout="constrained")
    axes = figure.subplots(1, 4)
    networks = {"teacher": teacher, "student at the start": students, "student, after the flow": plain.particles}
    for panel, (title, neurons) in zip(axes, networks.items(), strict=False):
        panel.imshow(
            outputs(neurons, grid).mean(0).reshape(60, 60).numpy(), cmap="RdBu", vmin=-1, vmax=1, origin="lower"
        )
        panel.set_title(title)
        panel.set_axis_off()
    for name, result in (("plain flow", plain), ("noise injected", noisy)):
        print(f"{name}: mean squared error {2 * result.values[0]:.4f} -> {2 * result.values[-1]:.6f}")
        axes[3].semilogy(result.steps.numpy(), 2 * result.values.numpy(), label=name)
    axes[3].set(xlabel="step", title="mean squared error")
    axes[3].legend(frameon=False)
    figure.savefig(output, dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    main()
