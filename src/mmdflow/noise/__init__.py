"""Noise: the forward diffusion of a sample, and kernels that know its noise level.

* `schedules`: x_t = alpha_t x_0 + sigma_t eps, a class a path.
* `kernel`: `NoiseConditionalKernel`, k_t(x, y) = base(phi(x, t), phi(y, t)).
"""

from mmdflow.noise.kernel import (
    NoiseConditionalGaussian,
    NoiseConditionalKernel,
    NoiseConditionalWitness,
    clamped_exp,
)
from mmdflow.noise.schedules import (
    SCHEDULES,
    CosineSchedule,
    DDPMSchedule,
    LinearSchedule,
    Schedule,
    VPSchedule,
    draw_levels,
    schedule,
)

__all__ = [
    "SCHEDULES",
    "CosineSchedule",
    "DDPMSchedule",
    "LinearSchedule",
    "NoiseConditionalGaussian",
    "NoiseConditionalKernel",
    "NoiseConditionalWitness",
    "Schedule",
    "VPSchedule",
    "clamped_exp",
    "draw_levels",
    "schedule",
]
