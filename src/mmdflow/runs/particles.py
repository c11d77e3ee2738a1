"""What `mmdflow flow` does: names into objects, the flow, its report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmdflow import _checks
from mmdflow.data import READ_POINT_FILES, TOYS, density_points, is_points_file, read_points, toy
from mmdflow.divergences import (
    KALE,
    MMD,
    AdaptiveMMD,
    Divergence,
    DrMMD,
    FDivergence,
    SlicedMMD,
    SobolevDescent,
)
from mmdflow.errors import InputError
from mmdflow.flows import BirthDeath, Callback, Euler, Integrator, flow, named_integrators
from mmdflow.kernels import (
    Gaussian,
    InverseMultiquadric,
    Kernel,
    Laplace,
    Linear,
    Matern,
    Radial,
    RationalQuadratic,
    Riesz,
    median_bandwidth,
    nearest_distance,
)
from mmdflow.metrics import StopWhenIndistinguishable, gaussian_scales, mmd_test
from mmdflow.recipe.flow import DivergenceSpec, FlowSpec
from mmdflow.types import FlowResult

#: Points of each sample that the two-sample test looks at, at most.
_TESTED = 2000


@dataclass(frozen=True)
class ParticleRun:
    """What a flow from the command line gives.

    Attributes:
        result: of `flow`.
        target: the samples that the flow used, [m, *event].
        report: F before and after, p-value of the two-sample test against held-out samples where there are any, seconds, NFE.
    """

    result: FlowResult
    target: Tensor
    report: dict[str, Any]


def run_flow(spec: FlowSpec, *, watch: Callback | None = None, progress: bool = False) -> ParticleRun:
    """Run the flow that the fields describe; `watch` is called after every step."""
    integrators = named_integrators()
    integrator = integrators[_checks.choice("integrator", spec.integrator, integrators)]
    generator = torch.Generator().manual_seed(spec.seed)
    target, held_out, spent = _target(spec, generator)
    particles = _source(spec, target, generator)
    if particles.shape[1:] != target.shape[1:]:
        raise InputError(
            f"source = {spec.source!r} has event shape {list(particles.shape[1:])}: must be {list(target.shape[1:])}, the "
            f"target's"
        )
    divergence, step_size, momentum = _divergence(spec.divergence, target, generator)
    callbacks: list[Callback] = [] if watch is None else [watch]
    if spec.stop_level is not None:
        if spent is None:
            raise InputError(
                f"stop_level = {spec.stop_level:g} with target = {spec.target!r}: no samples are left to test with"
            )
        callbacks.append(
            StopWhenIndistinguishable(
                spent, level=spec.stop_level, every=max(1, spec.num_steps // 20), generator=generator
            )
        )
    quiet = 0.8 * spec.num_steps
    start = time.perf_counter()
    result = flow(
        divergence,
        particles,
        step_size=step_size if spec.step_size is None else spec.step_size,
        num_steps=spec.num_steps,
        momentum=_momentum(spec, integrator, momentum),
        noise_injection=(lambda step: spec.noise_injection * max(0.0, 1 - step / quiet))
        if spec.noise_injection
        else None,
        integrator=spec.integrator,
        moves=() if spec.birth_death is None else BirthDeath(spec.birth_death),
        save_every=max(1, spec.num_steps // spec.frames),
        callback=callbacks,
        progress=progress,
        generator=generator,
    )
    seconds = time.perf_counter() - start
    report: dict[str, Any] = {
        "value_start": float(result.values[0]),
        "value_end": float(result.values[-1]),
        "steps": int(result.steps[-1]),
        "nfe": result.nfe,
        "seconds": seconds,
        "p_value": None,
    }
    if held_out is not None and len(result.particles) > 1 and len(held_out.flatten(1).unique(dim=0)) > 1:
        few = held_out[:_TESTED]
        _, report["p_value"] = mmd_test(result.particles[:_TESTED], few, gaussian_scales(few), generator=generator)
    return ParticleRun(result, target, report)


def _target(spec: FlowSpec, generator: torch.Generator) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the target's samples; as many others to judge by; and as many to stop by, where stop_level asks for them.

    Where a file has no more the last two are None; where it has less than two sets besides the target they share the rest.
    """
    count, stops = spec.num_targets, spec.stop_level is not None
    rows = _points("target", spec.target, (3 if stops else 2) * count, generator)
    target, rest = rows[:count], rows[count:]
    if not stops:
        return target, rest if len(rest) > 1 else None, None
    spent, held_out = rest[: (len(rest) + 1) // 2], rest[(len(rest) + 1) // 2 :]
    return target, held_out if len(held_out) > 1 else None, spent if len(spent) > 1 else None


def _source(spec: FlowSpec, target: Tensor, generator: torch.Generator) -> Tensor:
    if spec.source == "gaussian":
        noise = torch.randn(spec.num_particles, *target.shape[1:], dtype=target.dtype, generator=generator)
        return target.mean(0) + noise * (target - target.mean(0)).square().mean().sqrt() / 3
    return _points("source", spec.source, spec.num_particles, generator).to(target.dtype)


def _points(field: str, name: str, n: int, generator: torch.Generator) -> Tensor:
    """Draw n points of a toy distribution or picture, or read up to n from a file."""
    if name in TOYS:
        return toy(name, n, generator)
    if is_points_file(name):
        points = read_points(name)
        return points[torch.randperm(len(points), generator=generator)[:n]]  # the file's order may mean something
    if Path(name).suffix.lower() in Image.registered_extensions():
        return density_points(name, n, generator)
    extra = ["gaussian"] if field == "source" else []
    try:
        _checks.choice(field, name, [*extra, *TOYS])
    except InputError as error:
        raise InputError(f"{error}; or a file of points ({', '.join(READ_POINT_FILES)}) or a picture") from None
    raise AssertionError


def _momentum(spec: FlowSpec, integrator: type[Integrator], default: float) -> float:
    """Return the momentum that was given, or one that suits the integrator; `default` suits the divergence with Euler's steps."""
    if spec.momentum is not None:
        return spec.momentum
    return default if integrator is Euler else 0.9 if integrator.takes_momentum else 0.0


def _divergence(spec: DivergenceSpec, target: Tensor, generator: torch.Generator) -> tuple[Divergence, float, float]:
    """Return the divergence, and the step size and momentum that suit its scale."""
    name, ridge, exponent = spec.name, spec.regularization or 0.1, spec.exponent or 1.0
    spread = float((target - target.mean(0)).square().mean().sqrt()) or 1.0
    # a step of the Riesz flow that moves particles alike at every scale of the data
    free = 0.3 * spread ** (2 - exponent)
    kernel = spec.kernel_name
    needs_bandwidth = kernel not in ("riesz", "linear") and name != "adaptive"
    width = spec.bandwidth or (_bandwidth(target) if needs_bandwidth else 1.0)
    if name == "adaptive":
        return (
            AdaptiveMMD(target, spec.rule or "gradient", kernel=lambda b: _kernel(kernel, b, exponent)),
            spread**2,
            0.0,
        )
    k = _kernel(kernel, width, exponent)
    # the curvature of the linear kernel's F is 1, that of a bounded one about 1 / width^2
    step, momentum = (free, 0.9) if kernel == "riesz" else (0.5, 0.0) if kernel == "linear" else (2 * width**2, 0.0)
    if name == "sliced":
        slices, directions = spec.num_directions or 50, spec.directions or "orthogonal"
        if kernel == "riesz":
            sliced = SlicedMMD(target, slices, exponent, directions, spec.ranks or "exact", generator)
            return sliced, step, momentum
        if not isinstance(k, Radial):
            raise InputError(f"divergence.kernel = {kernel!r} with divergence.name = 'sliced': must be a radial kernel")
        return SlicedMMD(target, slices, directions=directions, generator=generator, kernel=k), step / 2, momentum
    if name == "mmd":
        return MMD(target, k), step, momentum
    if name == "kale":
        return KALE(target, k, ridge), width**2 * ridge / (1 + ridge), 0.0
    if name == "drmmd":
        return DrMMD(target, k, ridge), width**2 * ridge / (1 + ridge) / 2, 0.0
    if name == "f-divergence":
        return FDivergence(target, k, ridge, spec.entropy or "kl", alpha=spec.alpha), width**2 * ridge, 0.0
    return SobolevDescent(target, k, ridge), 0.1, 0.0


def _bandwidth(target: Tensor) -> float:
    """Return a width between the scale of the whole and that of the gaps: sqrt(median distance x median nearest distance)."""
    try:
        return math.sqrt(median_bandwidth(target) * nearest_distance(target))
    except InputError as error:
        raise InputError(
            f"target has no scale to choose divergence.bandwidth by ({error}); give --divergence.bandwidth"
        ) from None


def _kernel(name: str, width: float, exponent: float) -> Kernel:
    kernels: dict[str, Callable[[], Kernel]] = {
        "riesz": lambda: Riesz(exponent),
        "gaussian": lambda: Gaussian(width),
        "laplace": lambda: Laplace(width),
        "matern-3/2": lambda: Matern(1.5, width),
        "matern-5/2": lambda: Matern(2.5, width),
        "inverse-multiquadric": lambda: InverseMultiquadric(width),
        "rational-quadratic": lambda: RationalQuadratic(1.0, width),
        "linear": Linear,
    }
    return kernels[name]()
