"""Every kernel and divergence of the library, as cases that the laws are tested on."""

import torch
from hypothesis import strategies as st

from mmdflow import (
    KALE,
    MMD,
    Deep,
    DrMMD,
    Gaussian,
    InverseMultiquadric,
    Laplace,
    Linear,
    Matern,
    Mixture,
    NoiseConditionalKernel,
    Polynomial,
    PotentialEnergy,
    RationalQuadratic,
    Riesz,
    SlicedMMD,
)
from mmdflow.witness import EmbeddingWitness, KernelWitness


def squares(x):
    """A smooth feature map on any event shape: [n, *event] -> [n, 3]."""
    flat = x.reshape(len(x), -1)
    return torch.stack([flat.sin().sum(1), flat.square().mean(1), flat[:, 0]], 1)


RADIAL = {
    "gaussian": Gaussian(0.9),
    "gaussian-normalized": Gaussian(0.7, normalized=True),
    "gaussian-tensor": Gaussian(torch.tensor(1.1, dtype=torch.float64)),
    "laplace": Laplace(1.3),
    "matern-1/2": Matern(0.5, 1.2),
    "matern-3/2": Matern(1.5, 1.2),
    "matern-5/2": Matern(2.5, 0.8),
    "inverse-multiquadric": InverseMultiquadric(0.6),
    "rational-quadratic": RationalQuadratic(0.5, 1.5),
    "riesz-0.5": Riesz(0.5),
    "riesz-1": Riesz(),
    "riesz-1.5": Riesz(1.5),
    "rq-mixture": RationalQuadratic(0.1) + RationalQuadratic(1.0) + RationalQuadratic(10.0),
}
KERNELS = {
    **RADIAL,
    "linear": Linear(),
    "polynomial": Polynomial(3, 0.5, 1.0),
    "mixture": Mixture([Gaussian(1.0), Linear()], [0.3, 2.0]),
    "mixture-linear": Linear() + 0.5 * Linear(),
    "product": Gaussian(1.5) * Polynomial(2),
    "deep-gaussian": Deep(Gaussian(1.0), squares),
    "deep-linear": Deep(Linear(), squares),
    "deep-deep-linear": Deep(Deep(Linear(), lambda phi: phi[:, :2] * phi[:, 1:]), squares),
    "noise-conditional": NoiseConditionalKernel(lambda x, t: squares(x) * (1 + t[:, None])).at(0.3),
}
FINITE = [name for name, kernel in KERNELS.items() if kernel.embed(torch.zeros(1, 2).double()) is not None]
POSITIVE = [name for name in KERNELS if not name.startswith("riesz")]
CONSTANT = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)


def divergences(target):
    """Every divergence with this target: name -> Divergence."""
    cases = {f"mmd-{name}": MMD(target, kernel) for name, kernel in KERNELS.items()}
    deep = KERNELS["deep-linear"]
    cases["mmd-from-mean"] = MMD.from_mean_embedding(deep.embed(target).mean(0), deep, target.shape[1:])
    for exponent in (0.5, 1.0, 1.5):
        seeded = torch.Generator().manual_seed(0)
        cases[f"mmd-sliced-{exponent}"] = SlicedMMD(target, 7, exponent, generator=seeded, redraw=False)
    for name in ("gaussian", "deep-gaussian", "matern-3/2"):
        cases[f"kale-{name}"] = KALE(target, KERNELS[name], 0.5)
    for name in ("gaussian", "deep-gaussian", "polynomial"):
        cases[f"drmmd-{name}"] = DrMMD(target, KERNELS[name], 0.5)
    cases["potential-embedding"] = PotentialEnergy(EmbeddingWitness(deep, CONSTANT))
    weights = torch.full((len(target),), -1 / len(target), dtype=target.dtype)
    cases["potential-kernel"] = PotentialEnergy(KernelWitness(Gaussian(1.0), target, weights))
    return cases


DIVERGENCES = list(divergences(torch.zeros(1, 2).double()))
#: Their first variation contains the particles' own, so that F(nu) is a distance that vanishes at the target.
DISTANCES = [name for name in DIVERGENCES if not name.startswith("potential")]


@st.composite
def samples(draw, event=(2,), max_points=6, min_points=1):
    """Points [n, *event] in float64, in general position or with duplicates."""
    n = draw(st.integers(min_points, max_points))
    seed = draw(st.integers(0, 2**31))
    x = 2 * torch.randn(n, *event, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    if draw(st.booleans()) and n > 1:
        x[-1] = x[0]
    return x


EVENTS = [(1,), (3,), (2, 2), (20,)]
