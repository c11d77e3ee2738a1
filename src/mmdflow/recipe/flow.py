"""The fields of `mmdflow flow`, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from mmdflow import _checks, _settings
from mmdflow.errors import InputError
from mmdflow.recipe.divergences import DIVERGENCES, KERNEL_FIELDS, KERNELS

if TYPE_CHECKING:  # the names stand in the tables alone
    DivergenceName = str
    KernelName = str
else:
    DivergenceName, KernelName = Literal[tuple(DIVERGENCES)], Literal[tuple(KERNELS)]


@dataclass(frozen=True)
class DivergenceSpec:
    """The divergence.

    Attributes:
        name: whose flow the particles follow; adaptive is MMD whose bandwidth follows the particles, drift no divergence but a
            velocity field (its own normalization says which).
        kernel: of the divergence; riesz by default for mmd and sliced, else gaussian.
        bandwidth: of the kernel; by default the geometric mean of the median distance of the target's points and their median
            distance to their nearest neighbours.
        exponent: of riesz and sliced, in (0, 2); 1 by default.
        regularization: lambda of kale, drmmd, f-divergence and sobolev; 0.1 by default.
        entropy: of f-divergence: kl (default), reverse-kl, jeffreys, chi2 or tsallis.
        alpha: of tsallis.
        rule: of adaptive: optimal, gradient (default) or median.
        num_directions: of sliced; 50 by default.
        directions: of sliced: orthogonal (default), optimized, structured, random, qmc or equispaced.
        ranks: of sliced with riesz: exact (default) or binned, which is quicker for many points.
        normalization: of drift: mean-shift (default), none, sharp, batch, balanced-batch or sinkhorn.
        final_bandwidth: of drift: the bandwidth falls to it over the steps, by equal factors; by default it stays.
    """

    section: ClassVar[str] = "divergence."
    name: DivergenceName = "mmd"
    kernel: KernelName | None = None
    bandwidth: float | None = None
    exponent: float | None = None
    regularization: float | None = None
    entropy: Literal["kl", "reverse-kl", "jeffreys", "chi2", "tsallis"] | None = None
    alpha: float | None = None
    rule: Literal["optimal", "gradient", "median"] | None = None
    num_directions: int | None = None
    directions: Literal["orthogonal", "optimized", "structured", "random", "qmc", "equispaced"] | None = None
    ranks: Literal["exact", "binned"] | None = None
    normalization: Literal["none", "mean-shift", "sharp", "batch", "balanced-batch", "sinkhorn"] | None = None
    final_bandwidth: float | None = None

    def __post_init__(self) -> None:
        """Check choices and numbers, and that no field is given that the divergence does not use."""
        positive = ("bandwidth", "regularization", "alpha", "final_bandwidth")
        _settings.check(self, counts=["num_directions"], positive=positive)
        kernel, used = self.kernel_name, self.used
        for name, value in vars(self).items():
            if value is not None and name not in used:
                of = f"divergence.name = {self.name!r}" + (f" and kernel {kernel}" if "kernel" in used else "")
                raise InputError(
                    f"divergence.{name} = {value!r} with {of}: must not be given; its fields are {', '.join(used)}"
                    f"{self._takers(name)}"
                )
        if self.exponent is not None:
            _checks.interval("divergence.exponent", self.exponent, 0.0, 2.0, "()")
        if self.name == "adaptive" and not KERNELS[kernel].unit_height:
            allowed = ", ".join(name for name, choice in KERNELS.items() if choice.unit_height)
            raise InputError(
                f"divergence.kernel = {kernel!r} with divergence.name = 'adaptive': must have a bandwidth, and height 1 at each "
                f"({allowed})"
            )
        if self.name == "drift" and not KERNELS[kernel].companion:
            allowed = ", ".join(name for name, choice in KERNELS.items() if choice.companion)
            raise InputError(
                f"divergence.kernel = {kernel!r} with divergence.name = 'drift': must have a companion ({allowed})"
            )
        if (self.entropy == "tsallis") != (self.alpha is not None):
            raise InputError(
                f"divergence.alpha = {self.alpha!r} with divergence.entropy = {self.entropy!r}: tsallis and only it needs one"
            )

    def _takers(self, name: str) -> str:
        """Return a hint at the kernels that have a field, where the divergence would take them."""
        if name not in KERNEL_FIELDS or "kernel" not in DIVERGENCES[self.name].fields:
            return ""
        kernels = [kernel for kernel, choice in KERNELS.items() if name in choice.fields]
        return f"; divergence.kernel = {' or '.join(kernels[:2])} has {name}" if kernels else ""

    @property
    def kernel_name(self) -> str:
        """The kernel, or the divergence's default."""
        return self.kernel or DIVERGENCES[self.name].kernel

    @property
    def used(self) -> list[str]:
        """The fields that the divergence and its kernel have."""
        fields = {"name", *DIVERGENCES[self.name].fields} - (KERNEL_FIELDS - {*KERNELS[self.kernel_name].fields})
        return [name for name in vars(self) if name in fields]


@dataclass(frozen=True)
class FlowSpec:
    """A particle flow.

    Attributes:
        target: a toy distribution, a file of points (.npy, .npz, .csv, .tsv, .pt, .parquet, .h5ad; FILE.npz#NAME, and
            FILE.h5ad#NAME for an entry of obsm), or a picture whose darkness is a density.
        source: gaussian (around the target's mean, a third as wide), a toy distribution, a file of points, or a picture.
        num_particles: drawn from the source, 500 by default; of a file of points as many random rows, and by default all, in
            their order.
        num_targets: samples of the target that the flow uses, 500 by default; a file of points gives as many random rows, and by
            default all (500 with stop_level). The test at the end needs rows that the flow does not use.
        columns: of a table, those that move, separated by commas; by default all numbers but those that `id` names or that are
            called id, sample_id, index, ... Other columns are kept as they are. The target must have the same columns.
        id: of a table, columns to keep as they are, separated by commas.
        apply: a file of further rows, with the columns of the source, that follow the same flow; with momentum they may swing
            past the target, so that momentum = 0 suits them.
        num_steps: steps.
        step_size: eta; by default one that suits the divergence's scale.
        momentum: in [0, 1); by default 0.9 for mmd with riesz and for sliced, else 0. Integrators that need one have their own.
        noise_injection: beta at the start; it falls linearly to 0 over the first four fifths of the steps.
        integrator: the name of an integrator of `mmdflow.flows`, such as heun, or of one's own.
        birth_death: rate of birth-death jumps.
        stop_level: stop once a two-sample test cannot tell the particles from held-out samples at this level; the test that is
            reported at the end then uses other samples, where the target has them.
        tolerance: of every sum over pairs, relative; none for exact sums. auto (the default) is 1e-4 where the kernel and the
            dimension have sums in O(n log n) and those are quicker. A number is refused where the sums over all pairs have
            none; it means nothing to what sums no pairs, or solves with them.
        frames: pictures of an animation.
        seed: of everything random.
        divergence: the divergence.
    """

    target: str = "rings"
    source: str = "gaussian"
    num_particles: int | None = None
    num_targets: int | None = None
    num_steps: int = 500
    step_size: float | None = None
    momentum: float | None = None
    noise_injection: float = 0.0
    integrator: str = "euler"
    birth_death: float | None = None
    stop_level: float | None = None
    tolerance: float | Literal["auto", "none"] = "auto"
    columns: str | list[str] | None = None
    id: str | list[str] | None = None
    apply: str | None = None
    frames: int = 60
    seed: int = 0
    divergence: DivergenceSpec = field(default_factory=DivergenceSpec)

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, minimum in (("num_particles", 1), ("num_targets", 2), ("num_steps", 1), ("frames", 1), ("seed", 0)):
            if getattr(self, name) is not None:
                _checks.count(name, getattr(self, name), minimum)
        _settings.check(self, positive=["step_size"], non_negative=["noise_injection", "birth_death"])
        if not isinstance(self.tolerance, str):
            _checks.positive("tolerance", self.tolerance)
        if self.momentum is not None:
            _checks.interval("momentum", self.momentum, 0.0, 1.0, "[)")
        if self.apply is not None and (self.birth_death is not None or self.integrator == "adaptive"):
            raise InputError(
                f"apply = {self.apply!r} with birth_death or integrator = 'adaptive': must be left out; further rows follow by "
                f"steps that do not depend on the others"
            )
        if self.stop_level is not None:
            _checks.interval("stop_level", self.stop_level, 0.0, 1.0, "()")
