"""Particle flows by settings: the points, the flow, its report. What `mmdflow flow` does."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmdflow import _checks, ops
from mmdflow.data import (
    READ_POINT_FILES,
    TOYS,
    Rows,
    density_points,
    is_points_file,
    read_rows,
    save_points,
    toy,
)
from mmdflow.distributed import Ranks, current
from mmdflow.divergences import Divergence, VelocityField
from mmdflow.errors import InputError
from mmdflow.flows import BirthDeath, Callback, Integrator, Record, Recording, Snapshots, flow, named_integrators
from mmdflow.flows.loop import FieldOrSchedule
from mmdflow.kernels import thinned
from mmdflow.metrics import StopWhenIndistinguishable, gaussian_scales, mmd_test
from mmdflow.recipe.divergences import build_divergence
from mmdflow.recipe.flow import FlowSpec
from mmdflow.types import FlowResult, Step

#: Points of each sample that the two-sample test looks at, at most.
_MAX_TESTED = 2000


#: Points of a toy distribution or a picture that are drawn by default.
DRAWN = 500


@dataclass(frozen=True)
class ParticleRun:
    """What a flow by settings gives.

    Attributes:
        result: of `flow`.
        target: the samples that the flow used, [m, *event].
        report: F before and after, None where the field has none; p-value of the two-sample test against held-out samples where
            there are any, seconds, NFE; unless all sums were to be exact, how many were quick and how many exact, the tolerance,
            and the largest error that was measured.
        step_size: that the flow took.
        applied: where the further rows of `apply` went.
    """

    result: FlowResult
    target: Tensor
    report: dict[str, Any]
    step_size: float
    applied: Tensor | None = None


@dataclass(frozen=True)
class Prepared:
    """The points of a flow by settings, read and drawn before it begins.

    Attributes:
        generator: of all that follows.
        particles: where the flow starts, [n, *event].
        target: the samples that it uses.
        test: samples for the test at the end, where there are any.
        stopping: samples to stop by, where that is asked and there are any.
        source: the rows of the source, where it is a file.
        further: the rows of `apply`.
    """

    generator: torch.Generator
    particles: Tensor
    target: Tensor
    test: Tensor | None
    stopping: Tensor | None
    source: Rows | None
    further: Rows | None

    def save(self, particles: Tensor, path: str | Path) -> None:
        """Write particles: into the table that they came from, where they came from one."""
        if self.source is None:
            save_points(particles, path)
        else:
            self.source.save(particles, path)


def prepare_flow(spec: FlowSpec) -> Prepared:
    """Read and draw the points of a flow.

    Raises:
        InputError: for points, fields or files that do not fit each other.
    """
    integrators = named_integrators()
    _checks.choice("integrator", spec.integrator, integrators)
    generator = torch.Generator().manual_seed(spec.seed)
    rows = None
    if is_points_file(spec.source):
        rows = read_rows(spec.source, _names(spec.columns), _names(spec.id) or [])
        _check_rows("num_particles", spec.num_particles, "source", spec.source, len(rows.points))
        if spec.num_particles is not None and spec.num_particles < len(rows.points):
            chosen = torch.randperm(len(rows.points), generator=generator)[: spec.num_particles]
            rows = rows.take(chosen.sort().values)
    elif (spec.columns or spec.id) and not is_points_file(spec.target):
        raise InputError(f"columns and id with source = {spec.source!r}, target = {spec.target!r}: are for tables")
    target, test, stopping = _split_target(spec, rows, generator)
    particles = _source(spec, rows, target, generator)
    if particles.shape[1:] != target.shape[1:]:
        raise InputError(
            f"source = {spec.source!r} has event shape {list(particles.shape[1:])}: must be {list(target.shape[1:])}, the "
            f"target's"
        )
    further = None
    if spec.apply is not None:
        if rows is None:
            raise InputError(
                f"apply = {spec.apply!r} with source = {spec.source!r}: is for a source that is a file of points"
            )
        further = read_rows(spec.apply, rows.moved or None, _names(spec.id) or [], like=rows)
    wide = torch.promote_types(particles.dtype, target.dtype)
    particles, target = particles.to(wide), target.to(wide)
    test, stopping = (None if part is None else part.to(wide) for part in (test, stopping))
    return Prepared(generator, particles, target, test, stopping, rows, further)


def run_flow(
    spec: FlowSpec,
    *,
    prepared: Prepared | None = None,
    watch: Callback | None = None,
    snapshots: Snapshots | None = None,
    progress: bool = False,
) -> ParticleRun:
    """Run the flow that the fields describe: on all ranks that this process is connected to, with the result on each.

    Args:
        spec: the fields; what is not given suits the target, see `mmdflow.recipe.divergences`.
        prepared: its points, of `prepare_flow`.
        watch: called with step and particles after every step.
        snapshots: the file that takes the recorded particles instead of memory.
        progress: show a bar.

    Raises:
        InputError: for points, fields or files that do not fit each other.

    Example:
        >>> run = run_flow(FlowSpec("moons", num_particles=20, num_targets=30, num_steps=5))
        >>> run.result.particles.shape, run.report["steps"]
        (torch.Size([20, 2]), 5)
    """
    points = prepare_flow(spec) if prepared is None else prepared
    generator, target = points.generator, points.target
    ranks = current()
    check_ranks(spec, ranks)
    start = time.perf_counter()
    with ops.within(None if spec.tolerance == "none" else spec.tolerance) as sums:
        field, step = build_divergence(spec.divergence, target, generator, spec.num_steps, ranks=ranks)
        settings = flow_settings(spec, step)
        recording = None if points.further is None else Recording(_one_field(field))
        result = flow(
            field if recording is None else recording,
            points.particles[ranks.part(len(points.particles))],
            num_steps=spec.num_steps,
            save_every=Record(max(1, spec.num_steps // spec.frames), snapshots=snapshots),
            callback=[*([] if watch is None else [watch]), *_stops(spec, points.stopping, generator)],
            progress=progress,
            generator=generator,
            sharded=True,
            **settings,
        )
        result = _gathered(result, ranks)
        steps, applied, values = int(result.steps[-1]), None, result.values
        if recording is not None and points.further is not None:
            if isinstance(field, Divergence):
                values = torch.stack([field(result.trajectory[0]), field(result.particles)])
            applied = flow(
                recording.replay(), points.further.points, num_steps=steps, generator=generator, **settings
            ).particles
    report: dict[str, Any] = {
        "value_start": float(values[0]) if len(values) else None,
        "value_end": float(values[-1]) if len(values) else None,
        "steps": steps,
        "nfe": result.nfe,
        "seconds": time.perf_counter() - start,
        "p_value": _p_value(result.particles, points.test, generator),
        "sums": None if sums is None else sums.counts(),
    }
    return ParticleRun(result, target, report, settings["step_size"], applied)


def flow_settings(spec: FlowSpec, step: Step) -> dict[str, Any]:
    """Return what `flow` takes of the fields; what is not given is as suits the divergence, whose usual step is given."""
    return {
        "step_size": step.size if spec.step_size is None else spec.step_size,
        "momentum": _momentum(spec, named_integrators()[spec.integrator], step.momentum),
        "noise_injection": _falling_noise(spec),
        "moves": () if spec.birth_death is None else BirthDeath(spec.birth_death),
        "integrator": spec.integrator,
    }


def check_ranks(spec: FlowSpec, ranks: Ranks) -> None:
    """Raise InputError for what several processes cannot do, of which each has a part of the particles."""
    for name in ("apply", "stop_level", "birth_death"):
        value = getattr(spec, name)
        if ranks.size > 1 and value is not None:
            raise InputError(
                f"{name} = {value!r} on {ranks.size} processes: must be left out; it looks at all particles"
            )


def _gathered(result: FlowResult, ranks: Ranks) -> FlowResult:
    """Return the result with the particles of all ranks."""
    trajectory = ranks.gather(result.trajectory.transpose(0, 1)).transpose(0, 1)
    return replace(result, particles=ranks.gather(result.particles), trajectory=trajectory)


def _one_field(field: FieldOrSchedule) -> VelocityField:
    """Return a field that is the same at every step."""
    if not isinstance(field, VelocityField):
        raise InputError("divergence.final_bandwidth with apply: must be left out; further rows follow one field")
    return field


def _names(given: str | list[str] | None) -> list[str] | None:
    """Return names that were given as a list, or separated by commas."""
    return [name.strip() for name in given.split(",")] if isinstance(given, str) else given


def _stops(spec: FlowSpec, stopping: Tensor | None, generator: torch.Generator) -> list[Callback]:
    """Return the callback that stops the flow once a test cannot tell the particles from the stopping set."""
    if spec.stop_level is None:
        return []
    if stopping is None:
        raise InputError(
            f"stop_level = {spec.stop_level:g} with target = {spec.target!r}: no samples are left to test with; "
            f"num_targets below their number leaves some"
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
    few = test[:_MAX_TESTED]  # drawn at random, while particles lie in the order of their source
    return mmd_test(thinned(particles, _MAX_TESTED), few, gaussian_scales(few), generator=generator)[1]


def _split_target(
    spec: FlowSpec, source: Rows | None, generator: torch.Generator
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Split rows into target, test and stopping sets.

    The stopping set is there only where `stop_level` is given. A file with too few rows for all of them leaves what it has after
    the target to both, or None for a set of less than two rows.
    """
    count, stops = spec.num_targets or DRAWN, spec.stop_level is not None
    if is_points_file(spec.target):
        rows = read_rows(spec.target, _names(spec.columns), _names(spec.id) or [], like=source).points
        _check_rows("num_targets", spec.num_targets, "target", spec.target, len(rows))
        rows = rows[torch.randperm(len(rows), generator=generator)]  # the file's order may mean something
        if spec.num_targets is None and not stops:
            return rows, None, None
        rows = rows[: (3 if stops else 2) * count]
    else:
        rows = _drawn("target", spec.target, (3 if stops else 2) * count, generator)
    target, rest = rows[:count], rows[count:]
    half = (len(rest) + 1) // 2 if stops else 0
    stopping, test = rest[:half], rest[half:]
    return target, test if len(test) > 1 else None, stopping if len(stopping) > 1 else None


def _check_rows(field: str, count: int | None, name: str, file: str, rows: int) -> None:
    """Raise InputError for more rows than a file has."""
    if count is not None and count > rows:
        raise InputError(f"{field} = {count} with {name} = {file!r}: must be at most {rows}, its rows")


def _source(spec: FlowSpec, rows: Rows | None, target: Tensor, generator: torch.Generator) -> Tensor:
    """Return the particles to start from."""
    if rows is not None:
        return rows.points
    count = spec.num_particles or DRAWN
    if spec.source == "gaussian":
        noise = torch.randn(count, *target.shape[1:], dtype=target.dtype, generator=generator)
        return target.mean(0) + noise * (target - target.mean(0)).square().mean().sqrt() / 3
    return _drawn("source", spec.source, count, generator).to(target.dtype)


def _drawn(field: str, name: str, n: int, generator: torch.Generator) -> Tensor:
    """Draw n points of a toy distribution or picture."""
    if name in TOYS:
        return toy(name, n, generator)
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
