"""Complete half a digit in several ways: the shipped DMMD, with known pixels held.

python examples/gallery/inpainting.py
"""

import numpy as np
import torch
from matplotlib.figure import Figure

from mmdflow import DMMDPipeline
from mmdflow.data import load
from mmdflow.plots import image_grid


def main(output: str = "inpainting.png", num_digits: int = 8, num_ways: int = 5) -> None:
    pipe = DMMDPipeline.from_pretrained("digits")
    held_out = load("digits").test[:num_digits].numpy()  # [8, 1, 8, 8] in [-1, 1]
    mask = np.zeros((1, 8, 8), bool)
    mask[:, :4] = True  # the upper half is known
    known = held_out.repeat(num_ways, 0)
    completed = pipe(
        known=known, mask=mask, num_particles=len(known), generator=torch.Generator().manual_seed(0)
    ).particles
    print("known pixels came back as they were:", np.array_equal(completed[:, :, :4], known[:, :, :4]))

    ways = completed.reshape(num_digits, num_ways, 1, 8, 8).swapaxes(0, 1).reshape(-1, 1, 8, 8)
    shown = -np.concatenate([held_out, np.where(mask, held_out, 0), ways])
    grid = image_grid(shown, columns=num_digits)
    names = ["digit", "known", *[f"way {i + 1}" for i in range(num_ways)]]
    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(grid, cmap="gray")
    axes.set_yticks([(i + 0.5) * grid.height / len(names) for i in range(len(names))], names)
    axes.set_xticks([])
    figure.savefig(output, dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    main()
