"""KALE: lambda takes its witness from that of KL, log dnu/dmu, to that of the MMD; the solver's duality gap and warm start.

On the line, where the densities are known: particles from N(1, 1/4), the target N(0, 1).

python examples/kale.py, or with other sizes: python examples kale --num_steps 50
"""

import math

import torch

from mmdflow import KALE, MMD, Gaussian, flow
from mmdflow.plots import draw


def main(output: str = "kale.png", num_steps: int = 20, num_points: int = 400) -> None:
    generator = torch.Generator().manual_seed(0)
    y, noise = (torch.randn(num_points, 1, generator=generator).double() for _ in range(2))
    x, kernel = 1 + noise / 2, Gaussian(0.7)
    z = torch.linspace(-0.5, 2.5, 101).double()[:, None]
    mmd = MMD(y, kernel)
    print(f"KL(nu | mu) = {1 / 8 + math.log(2):.3f}, 1/2 MMD^2 = {mmd(x):.3f}")
    curves = {"log dnu/dmu": (z**2 / 2 - 2 * (z - 1) ** 2)[:, 0] + math.log(2), "MMD": mmd.witness(x)(z)}
    velocities = 4 * (x - 1) - x, mmd.velocity(x)
    for strength in (1e-4, 1e-2, 1.0, 100.0):
        divergence = KALE(y, kernel, strength)
        solution = divergence.solve(x)
        curves[f"lambda = {strength:g}"] = divergence.witness(x)(z)
        to_kl, to_mmd = (float((divergence.velocity(x) - v).norm() / v.norm()) for v in velocities)
        print(
            f"lambda = {strength:6g}: KALE {divergence(x):.3f}; its velocity differs by {to_kl:.0%} from KL's, {to_mmd:.0%} "
            f"from the MMD's; {solution.iterations} Newton steps to a duality gap of {solution.gap:.0e}"
        )

    divergence, warm, cold = KALE(y, kernel, 1e-3), [], []

    def count(step: int, particles: torch.Tensor) -> None:
        warm.append(divergence.solve(particles).iterations)
        cold.append(KALE(y, kernel, 1e-3).solve(particles).iterations)

    flow(divergence, x, step_size=0.01, num_steps=num_steps, callback=count)
    print(f"Newton steps a solution along a flow, on average: {sum(warm) / len(warm):.1f} from the last one,", end=" ")
    print(f"{sum(cold) / len(cold):.1f} from nothing")

    def drawing(figure) -> None:
        axes = figure.subplots()
        for i, (name, f) in enumerate(curves.items()):
            style = {"color": "k", "linestyle": ("-", ":")[i]} if i < 2 else {"color": f"C{i - 2}"}
            axes.plot(z[:, 0], f - f.mean(), label=name, **style)
        axes.set(xlabel="z", ylabel="witness, minus its mean", title="KALE's witness between KL's and MMD's")
        axes.legend(frameon=False)

    draw(drawing, (6.5, 4.5)).save(output)
    print(f"written: {output}")


if __name__ == "__main__":
    main()
