"""FDivergence: the entropies side by side, by what each makes of particles where the target has little mass.

On the line, where the densities are known: nine particles in ten from N(-0.5, 1/4) and one in ten from N(2, 1/16), the target
N(0, 1). As lambda -> 0 the witness becomes f'(dnu/dmu): that of chi^2 grows with the density ratio; that of reverse KL stays
below 1 but falls without bound where particles are missing, between the two groups, farther than the kernel's witness follows.

python examples/f_divergence.py, or with other sizes: python examples f_divergence --num_points 50
"""

import torch
from torch.distributions import Normal

from mmdflow import FDivergence, Gaussian
from mmdflow.plots import draw

ENTROPIES = {
    "kl": (lambda r: torch.xlogy(r, r) - r + 1, torch.log),
    "reverse-kl": (lambda r: r - 1 - torch.log(r), lambda r: 1 - 1 / r),
    "jeffreys": (lambda r: (r - 1) * torch.log(r), lambda r: torch.log(r) + 1 - 1 / r),
    "tsallis": (lambda r: 2 * (1 + r) / 2 - 2 * r.sqrt(), lambda r: 1 - r.rsqrt()),  # alpha = 1/2
    "chi2": (lambda r: (r - 1) ** 2, lambda r: 2 * (r - 1)),
}


def main(output: str = "f.png", num_points: int = 500, regularization: float = 1e-3) -> None:
    generator = torch.Generator().manual_seed(0)
    y, noise = (torch.randn(num_points, 1, generator=generator).double() for _ in range(2))
    outlier = torch.arange(num_points)[:, None] % 10 == 0
    x = torch.where(outlier, 2 + noise / 4, -0.5 + noise / 2)
    z = torch.linspace(-5, 5, 2001).double()
    nu = 0.9 * Normal(-0.5, 0.5).log_prob(z).exp() + 0.1 * Normal(2, 0.25).log_prob(z).exp()
    mu = Normal(0, 1).log_prob(z).exp()
    shown = (z > -1.5) & (z < 2.5)
    curves = {}
    for name, (f, slope) in ENTROPIES.items():
        alpha = 0.5 if name == "tsallis" else None
        divergence = FDivergence(y, Gaussian(0.5), regularization, name, alpha=alpha)
        true = torch.trapezoid(mu * f(nu / mu), z)
        h = divergence.witness(x)
        curves[name] = h(z[shown][:, None]), slope((nu / mu)[shown])
        pull = divergence.velocity(x)[:, 0].abs()
        print(
            f"{name:>10}: F = {divergence(x):.3f} (D_f = {true:.3f}), highest witness {h(x).max():.2f}, mean pull on outliers "
            f"{pull[outlier[:, 0]].mean():.1f}, on the others {pull[~outlier[:, 0]].mean():.1f}"
        )

    def drawing(figure) -> None:
        for axes, (name, (h, true)) in zip(figure.subplots(1, len(curves)), curves.items(), strict=True):
            axes.plot(z[shown], h, color="C0", label="witness")
            axes.plot(z[shown], true, color="k", linestyle=":", label="f'(dnu/dmu)")
            axes.set(title=name, xlabel="z", ylim=(-10, 6))
        axes.legend(frameon=False)

    draw(drawing, (15.0, 3.4)).save(output)
    print(f"written: {output}")


if __name__ == "__main__":
    main()
