"""Particle flows by settings: the points, the flow, its report. What `mmdflow flow` does."""

from __future__ import annotations

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
from mmdflow.errors import InputError
from mmdflow.flows import BirthDeath, Callback, Integrator, flow, named_integrators
from mmdflow.metrics import StopWhenIndistinguishable, gaussian_scales, mmd_test
from mmdflow.recipe.divergences import build_divergence
from mmdflow.recipe.flow import FlowSpec
from mmdflow.types import FlowResult

#: Points of each sample that the two-sample test looks at, at most.
_MAX_TESTED = 2000


@dataclass(frozen=True)
class ParticleRun:
    """What a flow by settings gives.

    Attributes:
        result: of `flow`.
        target: the samples that the flow used, [m, *event].
        report: F before and after, None where the field has none; p-value of the two-sample test against held-out samples where
            there are any, seconds, NFE.
    """

    result: FlowResult
    target: Tensor
    report: dict[str, Any]


def run_flow(spec: FlowSpec, *, watch: Callback | None = None, progress: bool = False) -> ParticleRun:
    """Run the flow that the fields describe.

    Args:
        spec: the fields; what is not given suits the target, see `mmdflow.recipe.divergences`.
        watch: called with step and particles after every step.
        progress: show a bar.

    Raises:
        InputError: for points, fields or files that do not fit each other.

    Example:
        >>> run = run_flow(FlowSpec("moons", num_particles=20, num_targets=30, num_steps=5))
        >>> run.result.particles.shape, run.report["steps"]
        (torch.Size([20, 2]), 5)
    """
    integrators = named_integrators()
    integrator = integrators[_checks.choice("integrator", spec.integrator, integrators)]
    generator = torch.Generator().manual_seed(spec.seed)
    target, test, stopping = _split_target(spec, generator)
    particles = _source(spec, target, generator)
    if particles.shape[1:] != target.shape[1:]:
        raise InputError(
            f"source = {spec.source!r} has event shape {list(particles.shape[1:])}: must be {list(target.shape[1:])}, the "
            f"target's"
        )
    divergence, step = build_divergence(spec.divergence, target, generator, spec.num_steps)
    start = time.perf_counter()
    result = flow(
        divergence,
        particles,
        step_size=step.size if spec.step_size is None else spec.step_size,
        num_steps=spec.num_steps,
        momentum=_momentum(spec, integrator, step.momentum),
        noise_injection=_falling_noise(spec),
        integrator=spec.integrator,
        moves=() if spec.birth_death is None else BirthDeath(spec.birth_death),
        save_every=max(1, spec.num_steps // spec.frames),
        callback=[*([] if watch is None else [watch]), *_stops(spec, stopping, generator)],
        progress=progress,
        generator=generator,
    )
    report: dict[str, Any] = {
        "value_start": float(result.values[0]) if len(result.values) else None,
        "value_end": float(result.values[-1]) if len(result.values) else None,
        "steps": int(result.steps[-1]),
        "nfe": result.nfe,
        "seconds": time.perf_counter() - start,
        "p_value": _p_value(result.particles, test, generator),
    }
    return ParticleRun(result, target, report)


def _stops(spec: FlowSpec, stopping: Tensor | None, generator: torch.Generator) -> list[Callback]:
    """Return the callback that stops the flow once a test cannot tell the particles from the stopping set."""
    if spec.stop_level is None:
        return []
    if stopping is None:
        raise InputError(
            f"stop_level = {spec.stop_level:g} with target = {spec.target!r}: no samples are left to test with"
        )
    every = max(1, spec.num_steps // 20)
    return [StopWhenIndistinguishable(stopping, level=spec.stop_level, every=every, generator=generator)]


def _falling_noise(spec: FlowSpec) -> Callable[[int], float] | None:
    """Return the schedule of the injected noise: linearly to 0 over the first four fifths of the steps."""
    if not spec.noise_injection:
        return None
    last = 0.8 * spec.num_steps
    return lambda step: spec.noise_injection * max(0.0, 1 - step / last)


def _p_value(particles: Tensor, test: Tensor | None, generator: torch.Generator) -> float | None:
    """Return the p-value of the two-sample test against the test set; None where there are too few points for one."""
    if test is None or len(particles) < 2 or len(test.flatten(1).unique(dim=0)) < 2:
        return None
    few = test[:_MAX_TESTED]
    return mmd_test(particles[:_MAX_TESTED], few, gaussian_scales(few), generator=generator)[1]


def _split_target(spec: FlowSpec, generator: torch.Generator) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Split rows into target, test and stopping sets.

    The stopping set is there only where `stop_level` is given. A file with too few rows for all of them leaves what it has after
    the target to both, or None for a set of less than two rows.
    """
    count, stops = spec.num_targets, spec.stop_level is not None
    rows = _points("target", spec.target, (3 if stops else 2) * count, generator)
    target, rest = rows[:count], rows[count:]
    half = (len(rest) + 1) // 2 if stops else 0
    stopping, test = rest[:half], rest[half:]
    return target, test if len(test) > 1 else None, stopping if len(stopping) > 1 else None


def _source(spec: FlowSpec, target: Tensor, generator: torch.Generator) -> Tensor:
    """Return the particles to start from."""
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


def _momentum(spec: FlowSpec, integrator: type[Integrator], suited: float) -> float:
    """Return the momentum that was given, or the integrator's usual one; where that is 0, the one that suits the divergence."""
    if spec.momentum is not None:
        return spec.momentum
    return integrator.usual_momentum() or (suited if integrator.takes_momentum else 0.0)
