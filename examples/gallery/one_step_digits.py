"""Train a network to draw digits in one step: no critic, no noise levels, a drift in pixels moves its samples.

python examples/gallery/one_step_digits.py
"""

import torch
from matplotlib.figure import Figure
from torch import nn

from mmdflow import Drift, FieldSum, Laplace, fit
from mmdflow.data import load
from mmdflow.kernels import median_bandwidth
from mmdflow.plots import image_grid


def main(output: str = "one_step_digits.webp", num_steps: int = 1000, batch_size: int = 200) -> None:
    generator = torch.Generator().manual_seed(0)
    digits = load("digits").train.flatten(1)  # [1438, 64] in [-1, 1]
    scale = float(median_bandwidth(digits))

    def field(step: int) -> FieldSum:
        batch = digits[torch.randint(len(digits), (batch_size,), generator=generator)]
        return FieldSum([Drift(batch, Laplace(share * scale), normalization="batch") for share in (0.02, 0.05, 0.2)])

    network = nn.Sequential(
        nn.Linear(64, 256),
        nn.SiLU(),
        nn.Linear(256, 256),
        nn.SiLU(),
        nn.Linear(256, 256),
        nn.SiLU(),
        nn.Linear(256, 64),
    )
    settings = {"step_size": lambda step: 2e-3 * (1 - step / num_steps), "batch_size": batch_size, "ema_decay": 0.99}
    result = fit(field, network, (64,), num_steps=num_steps, generator=generator, **settings)
    samples = result.network(torch.randn(100, 64, generator=generator)).clamp(-1, 1)
    print(f"{result}; standard deviation {samples.std(0).mean():.3f}, of the digits {digits.std(0).mean():.3f}")

    figure = Figure(figsize=(7, 3.7), layout="constrained")
    panels = {"digits": digits[:100], f"one evaluation, {num_steps} steps of training": samples}
    for axes, (title, x) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        axes.imshow(image_grid(-x.reshape(-1, 1, 8, 8)), cmap="gray")
        axes.set_title(title)
        axes.set_axis_off()
    figure.savefig(output, dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    main()
