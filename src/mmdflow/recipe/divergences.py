"""Kernels and divergences by name: what each is made of, how it is built, and the step that suits it.

To add one to the command line, add an entry to `KERNELS` or `DIVERGENCES`; options, checks and messages follow. The library's
classes are taken from `mmdflow`, which loads them when they are built, so that --help stays quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import mmdflow
from mmdflow.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mmdflow.distributed import Ranks
    from mmdflow.divergences import VelocityField
    from mmdflow.flows.loop import FieldOrSchedule
    from mmdflow.kernels import Kernel
    from mmdflow.recipe.flow import DivergenceSpec
    from mmdflow.types import Step


@dataclass(frozen=True)
class Parts:
    """What a divergence is built of.

    Attributes:
        spec: the fields that were given.
        target: samples of the target, [m, *event].
        width: bandwidth of the kernel; 1 where it has none.
        spread: root mean square of the target's entries about their means; 1 where that is 0.
        generator: draws the directions of slices.
        given: a kernel that takes the place of the named one.
        num_steps: of the flow, over which a bandwidth falls.
    """

    spec: DivergenceSpec
    target: Tensor
    width: float
    spread: float
    generator: torch.Generator
    given: Kernel | None = None
    num_steps: int = 1

    @property
    def exponent(self) -> float:
        """Of Riesz kernels."""
        return self.spec.exponent or 1.0

    @property
    def ridge(self) -> float:
        """Lambda of the regularised divergences."""
        return self.spec.regularization or 0.1

    @property
    def kernel(self) -> Kernel:
        """The kernel that was given, or else of that name and width."""
        return self.given or KERNELS[self.spec.kernel_name].build(self.width, self.exponent)


@dataclass(frozen=True)
class KernelChoice:
    """A kernel.

    Attributes:
        build: makes it of a width and an exponent.
        fields: which fields of `DivergenceSpec` shape it.
        unit_height: whether k(x, x) = 1 at every width, so that the width may follow the particles.
        companion: whether a drift can be made of it.
    """

    build: Callable[[float, float], Kernel]
    fields: tuple[str, ...] = ("bandwidth",)
    unit_height: bool = True
    companion: bool = False


KERNELS: Mapping[str, KernelChoice] = {
    "riesz": KernelChoice(lambda width, exponent: mmdflow.Riesz(exponent), ("exponent", "ranks"), unit_height=False),
    "gaussian": KernelChoice(lambda width, exponent: mmdflow.Gaussian(width), companion=True),
    "laplace": KernelChoice(lambda width, exponent: mmdflow.Laplace(width), companion=True),
    "matern-3/2": KernelChoice(lambda width, exponent: mmdflow.Matern(1.5, width), companion=True),
    "matern-5/2": KernelChoice(lambda width, exponent: mmdflow.Matern(2.5, width)),
    "inverse-multiquadric": KernelChoice(lambda width, exponent: mmdflow.InverseMultiquadric(width), unit_height=False),
    "rational-quadratic": KernelChoice(lambda width, exponent: mmdflow.RationalQuadratic(1.0, width)),
    "linear": KernelChoice(lambda width, exponent: mmdflow.Linear(), (), unit_height=False),
}
#: Fields that belong to a kernel, and to no other that does not name them.
KERNEL_FIELDS = frozenset(field for kernel in KERNELS.values() for field in kernel.fields)


@dataclass(frozen=True)
class DivergenceChoice:
    """A divergence, or a velocity field that is none.

    Attributes:
        build: makes it of its parts, or a function of the step that makes it.
        step: the step of its flow; by default the divergence's own `usual_step`.
        fields: which fields of `DivergenceSpec` it has beside its name; of those that shape a kernel, the kernel must have them
            too.
        kernel: its kernel when none is given.
    """

    build: Callable[[Parts], FieldOrSchedule]
    step: Callable[[Parts], Step] | None
    fields: tuple[str, ...]
    kernel: str = "gaussian"


def _sliced(parts: Parts) -> VelocityField:
    from mmdflow.kernels import Radial

    spec, kernel = parts.spec, parts.kernel
    slices, directions = spec.num_directions or 50, spec.directions or "orthogonal"
    if spec.kernel_name == "riesz" and parts.given is None:
        ranks = spec.ranks or "exact"
        return mmdflow.SlicedMMD(parts.target, slices, parts.exponent, directions, ranks, parts.generator)
    if not isinstance(kernel, Radial):
        raise InputError(
            f"divergence.kernel = {type(kernel).__name__.lower()!r} with divergence.name = 'sliced': must be a radial kernel"
        )
    return mmdflow.SlicedMMD(parts.target, slices, directions=directions, generator=parts.generator, kernel=kernel)


def _f_divergence(parts: Parts) -> VelocityField:
    entropy = parts.spec.entropy or "kl"
    return mmdflow.FDivergence(parts.target, parts.kernel, parts.ridge, entropy, alpha=parts.spec.alpha)


def _drift(parts: Parts) -> FieldOrSchedule:
    spec, build = parts.spec, KERNELS[parts.spec.kernel_name].build

    def drift(width: float) -> VelocityField:
        kernel, normalization = build(width, parts.exponent), spec.normalization or "mean-shift"
        return mmdflow.Drift(parts.target, kernel, normalization=normalization)

    if spec.final_bandwidth is None:
        return drift(parts.width)
    return mmdflow.annealed(drift, parts.width, spec.final_bandwidth, parts.num_steps)


def _drift_step(parts: Parts) -> Step:
    """Return half the way to the mean of the neighbours; in the units of each form, at the narrowest bandwidth."""
    from mmdflow.types import Step

    narrow = min(parts.width, parts.spec.final_bandwidth or parts.width)
    return Step(
        {"none": 2.0, "batch": 2.0, "balanced-batch": 2.0, "sharp": 0.5 * narrow**2}.get(
            parts.spec.normalization or "", 0.5
        )
    )


def _adaptive(parts: Parts) -> VelocityField:
    if parts.given is not None:
        raise InputError(
            "kernel with divergence = 'adaptive': must be the name of one, whose bandwidth follows the particles"
        )
    build = KERNELS[parts.spec.kernel_name].build
    rule = parts.spec.rule or "gradient"
    return mmdflow.AdaptiveMMD(parts.target, rule, kernel=lambda width: build(width, parts.exponent))


_RIDGE = ("kernel", "bandwidth", "regularization")
DIVERGENCES: Mapping[str, DivergenceChoice] = {
    "mmd": DivergenceChoice(
        lambda parts: mmdflow.MMD(parts.target, parts.kernel), None, ("kernel", "bandwidth", "exponent"), "riesz"
    ),
    "sliced": DivergenceChoice(
        _sliced, None, ("kernel", "bandwidth", "exponent", "num_directions", "directions", "ranks"), "riesz"
    ),
    "kale": DivergenceChoice(lambda parts: mmdflow.KALE(parts.target, parts.kernel, parts.ridge), None, _RIDGE),
    "drmmd": DivergenceChoice(lambda parts: mmdflow.DrMMD(parts.target, parts.kernel, parts.ridge), None, _RIDGE),
    "f-divergence": DivergenceChoice(_f_divergence, None, (*_RIDGE, "entropy", "alpha")),
    "sobolev": DivergenceChoice(
        lambda parts: mmdflow.SobolevDescent(parts.target, parts.kernel, parts.ridge), None, _RIDGE
    ),
    "adaptive": DivergenceChoice(_adaptive, None, ("kernel", "rule")),
    "drift": DivergenceChoice(_drift, _drift_step, ("kernel", "bandwidth", "normalization", "final_bandwidth")),
}


def build_divergence(
    spec: DivergenceSpec,
    target: Tensor,
    generator: torch.Generator,
    num_steps: int = 1,
    *,
    kernel: Kernel | None = None,
    ranks: Ranks | None = None,
) -> tuple[FieldOrSchedule, Step]:
    """Return the divergence from a target that the fields describe, or a drift, and the step that suits its flow.

    Args:
        spec: the fields; what is not given follows the target's scale.
        target: samples [m, *event].
        generator: draws the directions of slices.
        num_steps: of the flow, over which a bandwidth falls.
        kernel: takes the place of the one that the fields name.
        ranks: each gets the divergence to its part of the target, as sharded flows take it; this process alone by default.

    Raises:
        InputError: for settings that do not belong together, or a target whose samples are all equal.

    Example:
        >>> import torch
        >>> from mmdflow.recipe import DivergenceSpec
        >>> target = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
        >>> divergence, step = build_divergence(DivergenceSpec("mmd", "gaussian", 0.5), target, torch.Generator())
        >>> type(divergence).__name__, step
        ('MMD', Step(size=0.5, momentum=0.0))
    """
    from mmdflow.distributed import Ranks, shard
    from mmdflow.divergences import VelocityField
    from mmdflow.divergences.base import Divergence, spread_of
    from mmdflow.kernels import default_bandwidth

    width = spec.bandwidth or 1.0
    if spec.bandwidth is None and "bandwidth" in spec.used and kernel is None:
        try:
            width = default_bandwidth(target)
        except InputError as error:
            raise InputError(
                f"target has no scale to choose divergence.bandwidth by ({error}); give --divergence.bandwidth"
            ) from None
    choice = DIVERGENCES[spec.name]
    ranks = ranks or Ranks()
    own_target = target[ranks.part(len(target))]
    parts = Parts(spec, own_target, width, spread_of(target), generator, kernel, num_steps)
    field = choice.build(parts)
    field = shard(field, ranks) if isinstance(field, VelocityField) else field
    own = field.usual_step() if isinstance(field, Divergence) else None
    step = own if choice.step is None else choice.step(parts)
    if step is None:
        raise InputError(f"divergence.name = {spec.name!r}: no rule for its step is known; give step_size")
    return field, step
