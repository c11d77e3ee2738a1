"""Ask whether two samples differ, and where: a p-value, and the witness of the MMD as a heat map.

python examples/gallery/witness_map.py
"""

import torch
from matplotlib.figure import Figure

from mmdflow import MMD, Gaussian
from mmdflow.data import toy
from mmdflow.metrics import gaussian_scales, mmd_test


def main(output: str = "witness_map.webp", num_points: int = 600) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (toy("spirals", num_points, generator) for _ in range(2))
    a = a[(a - torch.tensor([0.9, -0.9])).norm(dim=1) > 0.6]  # with a hole
    statistic, p_value = mmd_test(a, b, gaussian_scales(b), generator=generator)  # five bandwidths, one level
    print(f"MMD^2 = {statistic:.4f}, p = {p_value:.3f}")

    grid = torch.stack(torch.meshgrid(*[torch.linspace(-2.8, 2.8, 120)] * 2, indexing="xy"), -1)
    witness = MMD(b, Gaussian(0.4)).witness(a)  # positive where a has more mass than b
    heat = witness(grid.reshape(-1, 2)).reshape(120, 120).numpy()
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    left.scatter(*a.T.numpy(), s=4, label="a")
    left.scatter(*b.T.numpy(), s=4, label="b")
    left.legend(frameon=False)
    left.set_title("two samples")
    reach = abs(heat).max()
    image = right.imshow(heat, extent=(-2.8, 2.8, -2.8, 2.8), origin="lower", cmap="RdBu", vmin=-reach, vmax=reach)
    figure.colorbar(image, label="witness")
    right.set_title(f"red: a lacks mass; p = {p_value:.3f}")
    figure.savefig(output, dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    main()
