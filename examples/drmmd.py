"""DrMMD: small lambda gives the witness of chi^2, 2 (dnu/dmu - 1), in closed form; landmarks make it cheap; lambda may follow F.

On the line, where the densities are known: particles from N(1, 1/4), the target N(0, 1).

python examples/drmmd.py, or with other sizes: python examples drmmd --num_steps 50
"""

import time

import torch

from mmdflow import MMD, AdaptiveRegularization, DrMMD, Gaussian, flow
from mmdflow.plots import draw


def main(output: str = "drmmd.png", num_steps: int = 100, num_points: int = 2000, num_landmarks: int = 50) -> None:
    generator = torch.Generator().manual_seed(0)
    y, noise = (torch.randn(num_points, 1, generator=generator).double() for _ in range(2))
    x, kernel = 1 + noise / 2, Gaussian(0.7)
    z = torch.linspace(-0.5, 2.5, 101).double()[:, None]
    curves = {"2 (dnu/dmu - 1)": 4 * torch.exp(z**2 / 2 - 2 * (z - 1) ** 2)[:, 0] - 2}
    curves["twice MMD's"] = 2 * MMD(y, kernel).witness(x)(z)
    for strength in (1e-4, 1e-2, 1.0, 100.0):
        exact, few = {}, {}
        for p, found in ((None, exact), (num_landmarks, few)):
            start = time.perf_counter()
            found["divergence"] = DrMMD(y, kernel, strength, num_landmarks=p, generator=generator)
            found["seconds"] = time.perf_counter() - start
            found["velocity"] = found["divergence"].velocity(x)
        error = (few["velocity"] - exact["velocity"]).norm() / exact["velocity"].norm()
        curves[f"lambda = {strength:g}"] = exact["divergence"].witness(x)(z)
        print(
            f"lambda = {strength:6g}: F = {exact['divergence'](x):.3f}, set up in {exact['seconds']:.2f} s; with "
            f"{num_landmarks} landmarks {few['divergence'](x):.3f}, {few['seconds']:.2f} s, velocity off by {error:.0e}"
        )

    x = x[:300]
    divergence = DrMMD(y, kernel, 1.0, num_landmarks=num_landmarks, generator=generator)
    adapt = AdaptiveRegularization(divergence, minimum=1e-3)
    result = flow(divergence, x, step_size=0.05, num_steps=num_steps, callback=adapt)
    history = result.report["regularization"]
    print(
        f"AdaptiveRegularization: lambda 1 -> {history[-1]:.3g} in {num_steps} steps; mean {x.mean():.2f} -> "
        f"{result.particles.mean():.2f} (target {y.mean():.2f}), standard deviation {x.std():.2f} -> "
        f"{result.particles.std():.2f} (target {y.std():.2f})"
    )

    def drawing(figure) -> None:
        left, right = figure.subplots(1, 2)
        for i, (name, f) in enumerate(curves.items()):
            style = {"color": "k", "linestyle": ("-", ":")[i]} if i < 2 else {"color": f"C{i - 2}"}
            left.plot(z[:, 0], f, label=name, **style)
        left.set(title="witness", xlabel="z")
        left.legend(frameon=False)
        right.semilogy(history)
        right.set(title="lambda that follows F", xlabel="step")

    draw(drawing, (10.0, 4.2)).save(output)
    print(f"written: {output}")


if __name__ == "__main__":
    main()
