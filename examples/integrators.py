"""Integrators: the same flow by each of them, with equally many evaluations of the gradient (NFE).

Each takes the best of five step sizes: the one that ends with the lowest F. "adaptive" takes its own, by `tolerance`, which is
searched instead; its tries of a step count, so that its NFE may be a little higher.

python examples/integrators.py, or with other sizes: python examples integrators --nfe 50
"""

import torch

from mmdflow import MMD, DivergedError, Riesz, flow
from mmdflow.data import toy
from mmdflow.flows import Adam, AdamsBashforth, Adaptive, Euler, Heun, Nesterov
from mmdflow.plots import draw

CASES = {
    "euler": Euler(),
    "euler, momentum 0.9": Euler(momentum=0.9),
    "nesterov, momentum 0.9": Nesterov(momentum=0.9),
    "heun": Heun(),
    "adams_bashforth": AdamsBashforth(),
    "adam, momentum 0.9": Adam(beta=0.9),
    "adaptive": None,  # of several tolerances
}


def main(output: str = "integrators.png", nfe: int = 200, num_points: int = 200) -> None:
    generator = torch.Generator().manual_seed(0)
    target = toy("moons", num_points, generator)
    source = 0.3 * torch.randn(num_points, 2, generator=generator) + torch.tensor([3.0, 0.0])
    divergence = MMD(target, Riesz())
    curves = {}
    for name, integrator in CASES.items():
        best = None
        for choice in (0.03, 0.1, 0.3, 1.0, 3.0):
            if integrator is None:
                searched, value, settings = (
                    "tolerance",
                    choice / 100,
                    {"integrator": Adaptive(choice / 100), "step_size": 0.1},
                )
            else:
                searched, value, settings = "step_size", choice, {"integrator": integrator, "step_size": choice}
            evaluations = 2 if name in ("heun", "adaptive") else 1  # at least, for adaptive
            try:
                result = flow(divergence, source, num_steps=nfe // evaluations, save_every=1, **settings)
            except DivergedError:
                continue
            if best is None or result.values[-1] < best[0].values[-1]:
                best = result, searched, value
        assert best is not None
        result, searched, value = best
        x_axis = torch.linspace(0, result.nfe, len(result.values))
        curves[name] = x_axis, result.values
        print(
            f"{name:>22}: F {result.values[0]:.3f} -> {result.values[-1]:.2e} with {searched} {value:g}, NFE {result.nfe}, "
            f"flow time {result.times[-1]:.0f}"
        )

    def drawing(figure) -> None:
        axes = figure.subplots()
        for name, (nfe, values) in curves.items():
            axes.semilogy(nfe, values, label=name)
        axes.set(xlabel="NFE", ylabel="1/2 MMD^2", title="Riesz kernel, from a cloud beside the moons")
        axes.legend(frameon=False)

    draw(drawing, (7.0, 4.6)).save(output)
    print(f"written: {output}")


if __name__ == "__main__":
    main()
