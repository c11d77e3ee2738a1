"""mmdflow: gradient flows of the Maximum Mean Discrepancy, as particle flows and as generative models.

The public names load on first use, so that `import mmdflow` (and `mmdflow --help`) cost next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmdflow.divergences import (
        KALE,
        MMD,
        AdaptiveMMD,
        AdaptiveRegularization,
        Divergence,
        DrMMD,
        FDivergence,
        PotentialEnergy,
        SlicedMMD,
        SobolevDescent,
    )
    from mmdflow.dmmd import DMMDLoss, DMMDPipeline
    from mmdflow.errors import DivergedError, InputError
    from mmdflow.flows import flow
    from mmdflow.integrators import DescentNoise
    from mmdflow.kernels import (
        Deep,
        Gaussian,
        InverseMultiquadric,
        Kernel,
        Laplace,
        Linear,
        Matern,
        Mixture,
        Polynomial,
        RationalQuadratic,
        Riesz,
    )
    from mmdflow.noise import (
        CosineSchedule,
        DDPMSchedule,
        LinearSchedule,
        NoiseConditionalGaussian,
        NoiseConditionalKernel,
        VPSchedule,
    )
    from mmdflow.types import FlowResult
    from mmdflow.witness import KernelWitness, Witness

__version__ = "0.1.0"

_HOMES = {
    "mmdflow.divergences": (
        "KALE",
        "MMD",
        "AdaptiveMMD",
        "AdaptiveRegularization",
        "Divergence",
        "DrMMD",
        "FDivergence",
        "PotentialEnergy",
        "SlicedMMD",
        "SobolevDescent",
    ),
    "mmdflow.dmmd": ("DMMDLoss", "DMMDPipeline"),
    "mmdflow.flows": ("flow",),
    "mmdflow.integrators": ("DescentNoise",),
    "mmdflow.kernels": (
        "Deep",
        "Gaussian",
        "InverseMultiquadric",
        "Kernel",
        "Laplace",
        "Linear",
        "Matern",
        "Mixture",
        "Polynomial",
        "RationalQuadratic",
        "Riesz",
    ),
    "mmdflow.noise": (
        "CosineSchedule",
        "DDPMSchedule",
        "LinearSchedule",
        "NoiseConditionalGaussian",
        "NoiseConditionalKernel",
        "VPSchedule",
    ),
    "mmdflow.errors": ("DivergedError", "InputError"),
    "mmdflow.types": ("FlowResult",),
    "mmdflow.witness": ("KernelWitness", "Witness"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 (kernels, divergences, flow, models: the order of the docs)
    "Kernel",
    "Gaussian",
    "Laplace",
    "Matern",
    "InverseMultiquadric",
    "RationalQuadratic",
    "Riesz",
    "Linear",
    "Polynomial",
    "Mixture",
    "Deep",
    "Witness",
    "KernelWitness",
    "Divergence",
    "MMD",
    "SlicedMMD",
    "KALE",
    "DrMMD",
    "AdaptiveRegularization",
    "FDivergence",
    "SobolevDescent",
    "AdaptiveMMD",
    "PotentialEnergy",
    "flow",
    "FlowResult",
    "DescentNoise",
    "InputError",
    "DivergedError",
    "VPSchedule",
    "DDPMSchedule",
    "CosineSchedule",
    "LinearSchedule",
    "NoiseConditionalKernel",
    "NoiseConditionalGaussian",
    "DMMDLoss",
    "DMMDPipeline",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'mmdflow' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
