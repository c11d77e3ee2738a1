"""SlicedMMD: the energy distance's flow by sorting, for many points; why its directions are drawn anew at every step.

A step sorts every projection, O(P n log n), where the exact gradient sums over all pairs, O(n^2). With the first directions kept
the flow matches those projections only; with new ones at every step few directions are enough.

python examples/sliced_mmd.py, or with other sizes: python examples sliced_mmd --num_steps 50
"""

import time

import torch

from mmdflow import MMD, Riesz, SlicedMMD, flow
from mmdflow.data import toy
from mmdflow.flows import Record
from mmdflow.plots import draw


def main(output: str = "sliced.png", num_steps: int = 150, num_points: int = 4000, num_directions: int = 4) -> None:
    generator = torch.Generator().manual_seed(0)
    target = toy("spirals", num_points, generator)
    source = 0.3 * torch.randn(num_points, 2, generator=generator)
    exact = MMD(target, Riesz())
    exact.velocity(source)  # the first loads the compiled code
    start = time.perf_counter()
    exact.velocity(source)
    print(f"{num_points} particles, one exact gradient: {time.perf_counter() - start:.3f} s")
    panels = {}
    for redraw in (False, True):
        divergence = SlicedMMD(target, num_directions, generator=generator, redraw=redraw)
        start = time.perf_counter()
        settings = {"step_size": 0.3, "momentum": 0.9, "num_steps": num_steps, "save_every": Record(evaluate=False)}
        particles = flow(divergence, source, **settings).particles
        seconds = (time.perf_counter() - start) / max(1, num_steps)
        name = f"{num_directions} directions, " + ("fresh at every step" if redraw else "fixed")
        panels[name] = particles
        print(f"{name}: {seconds:.4f} s a step, exact 1/2 MMD^2 {exact(source):.4f} -> {exact(particles):.6f}")

    def drawing(figure) -> None:
        for axes, (name, x) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            axes.scatter(*target.T, s=3, color="0.8", linewidths=0)
            axes.scatter(*x.T, s=3, color="C0", linewidths=0)
            axes.set(title=name, aspect="equal", xlim=(-3, 3), ylim=(-3, 3))

    draw(drawing, (9.0, 4.6)).save(output)
    print(f"written: {output} (grey: target)")


if __name__ == "__main__":
    main()
