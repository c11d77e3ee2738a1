"""Every kernel and divergence of the library, as cases that the laws are tested on."""

from functools import partial

import torch
from hypothesis import strategies as st

from mmdflow import (
    KALE,
    MMD,
    AdaptiveMMD,
    Deep,
    Divergence,
    DrMMD,
    FDivergence,
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
    SobolevDescent,
)
from mmdflow.divergences.witness import EmbeddingWitness, KernelWitness


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
FINITE = [name for name, kernel in KERNELS.items() if kernel.finite]
SMOOTH = [name for name, kernel in KERNELS.items() if kernel.smooth]
POSITIVE = [name for name in KERNELS if not name.startswith("riesz")]
CONSTANT = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)


class ForwardAlone(Divergence):
    """A divergence that gives F and leaves the rest to the base class."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, weights=None):
        return self.inner(x, weights)


FAMILY = [("kl", None), ("reverse-kl", None), ("jeffreys", None), ("chi2", None)]
FAMILY += [("tsallis", alpha) for alpha in (0.5, 1.0, 1.5, 3.0)]


def divergence(name, target, target_weights=None):
    """The divergence of that name with this target."""
    return DIVERGENCES[name](target, target_weights)


def _cases():
    """Every divergence: name -> function of (target, target weights)."""
    cases = {}

    def add(name, make):
        cases[name] = lambda y, q: make(y, target_weights=q)

    def seeded():
        return torch.Generator().manual_seed(0)

    def weights(y, q):
        return torch.full((len(y),), 1 / len(y), dtype=y.dtype) if q is None else q

    deep = KERNELS["deep-linear"]
    for name, kernel in KERNELS.items():
        add(f"mmd-{name}", partial(MMD, kernel=kernel))
    cases["mmd-from-mean"] = lambda y, q: MMD.from_mean_embedding(weights(y, q) @ deep.embed(y), deep, y.shape[1:])
    for r in (0.5, 1.0, 1.5):
        cases[f"mmd-sliced-{r}"] = lambda y, q, r=r: SlicedMMD(
            y, 7, r, generator=seeded(), redraw=False, target_weights=q
        )
    cases["mmd-sliced-gaussian"] = lambda y, q: SlicedMMD(
        y, 7, generator=seeded(), redraw=False, kernel=Gaussian(1.0), target_weights=q
    )
    for name in ("gaussian", "deep-gaussian", "matern-3/2"):
        add(f"kale-{name}", partial(KALE, kernel=KERNELS[name], regularization=0.5))
    for name in ("gaussian", "deep-gaussian", "polynomial"):
        add(f"drmmd-{name}", partial(DrMMD, kernel=KERNELS[name], regularization=0.5))
    cases["drmmd-landmarks"] = lambda y, q: DrMMD(
        y, KERNELS["gaussian"], 0.5, num_landmarks=(len(y) + 1) // 2, generator=seeded(), target_weights=q
    )
    for entropy, alpha in FAMILY:
        name = f"f-{entropy}{'' if alpha is None else f'-{alpha}'}"
        add(name, partial(FDivergence, kernel=Gaussian(1.0), regularization=0.5, divergence=entropy, alpha=alpha))
    for name in ("gaussian", "matern-3/2", "product", "deep-gaussian", "deep-linear", "polynomial"):
        add(f"sobolev-{name}", partial(SobolevDescent, kernel=KERNELS[name], regularization=0.5))
    for rule in ("optimal", "gradient", "median"):
        add(f"adaptive-{rule}", partial(AdaptiveMMD, bandwidth=rule, kernel=Gaussian, minimum=0.3))
    add("adaptive-function", partial(AdaptiveMMD, bandwidth=lambda x, y: 1 + x.square().mean().item(), kernel=Laplace))
    for name in (
        "mmd-gaussian",
        "mmd-deep-linear",
        "mmd-polynomial",
        "kale-gaussian",
        "drmmd-gaussian",
    ):
        cases[f"forward-{name}"] = lambda y, q, make=cases[name]: ForwardAlone(make(y, q))
    cases["potential-embedding"] = lambda y, q: PotentialEnergy(EmbeddingWitness(deep, CONSTANT))
    cases["potential-kernel"] = lambda y, q: PotentialEnergy(KernelWitness(Gaussian(1.0), y, -weights(y, q)))
    return cases


DIVERGENCES = _cases()
#: Their first variation contains the particles' own, so that F(nu) is a distance that vanishes at the target.
DISTANCES = [name for name in DIVERGENCES if not name.startswith("potential")]
#: Their F is a function of the measure alone, not of a metric or bandwidth that the particles choose as well.
FUNCTIONALS = [name for name in DIVERGENCES if not name.startswith(("sobolev", "adaptive"))]


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
