from .divergences import (
    KALE as KALE,
    MMD as MMD,
    AdaptiveMMD as AdaptiveMMD,
    AdaptiveRegularization as AdaptiveRegularization,
    Divergence as Divergence,
    DrMMD as DrMMD,
    FDivergence as FDivergence,
    PotentialEnergy as PotentialEnergy,
    SlicedMMD as SlicedMMD,
    SobolevDescent as SobolevDescent,
    VelocityField as VelocityField,
)
from .divergences.drifts import Drift as Drift, FieldSum as FieldSum, annealed as annealed
from .divergences.witness import KernelWitness as KernelWitness, ValueWitness as ValueWitness, Witness as Witness
from .errors import DivergedError as DivergedError, InputError as InputError
from .estimators import (
    KernelTwoSampleTest as KernelTwoSampleTest,
    MMDQuantizer as MMDQuantizer,
    MMDTransport as MMDTransport,
)
from .flows import FitResult as FitResult, fit as fit, flow as flow
from .flows.moves import DescentNoise as DescentNoise
from .kernels import (
    Deep as Deep,
    Gaussian as Gaussian,
    InverseMultiquadric as InverseMultiquadric,
    Kernel as Kernel,
    Laplace as Laplace,
    Linear as Linear,
    Matern as Matern,
    Mixture as Mixture,
    Polynomial as Polynomial,
    RationalQuadratic as RationalQuadratic,
    Riesz as Riesz,
)
from .methods.dmmd import DMMDLoss as DMMDLoss, DMMDPipeline as DMMDPipeline
from .noise import (
    CosineSchedule as CosineSchedule,
    DDPMSchedule as DDPMSchedule,
    LinearSchedule as LinearSchedule,
    NoiseConditionalGaussian as NoiseConditionalGaussian,
    NoiseConditionalKernel as NoiseConditionalKernel,
    VPSchedule as VPSchedule,
)
from .types import FlowResult as FlowResult

__version__: str
__all__: list[str]
