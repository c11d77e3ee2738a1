"""What a particle flow will cost: a few steps of fewer points are timed, and a model of the cost carries them on.

The model knows how the time of a step grows: sums over pairs with n (n + m), sums on the line and sliced ones with the sorts,
grids and trees with the points, beside what does not grow. `mmdflow flow --plan` prints it.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmdflow import _checks, ops
from mmdflow.data import is_points_file
from mmdflow.distributed import Ranks
from mmdflow.distributed.fields import ShardedMMD
from mmdflow.distributed.sliced import ShardedSlicedMMD
from mmdflow.divergences import MMD, Divergence, SlicedMMD
from mmdflow.errors import InputError
from mmdflow.flows import Record, flow
from mmdflow.kernels import EXACT_DIM, default_bandwidth
from mmdflow.kernels.profiles import Swept
from mmdflow.ops import fast, sorted_line
from mmdflow.recipe.divergences import KERNELS, build_divergence
from mmdflow.recipe.flow import FlowSpec
from mmdflow.runs import particles as runs

#: Points that are drawn for the measurement at most, and how many times more each trial takes.
DRAWN, GROWTH = 2**19, 4
#: Seconds that a trial may last, and steps that are timed after one that is not.
LONGEST, TIMED = 1.5, 2
#: Bytes that processes exchange in a second: gloo on one machine. A network may be slower.
EXCHANGE = 1e9
#: Copies that a process holds at its peak of its particles and of its part of the target, each of d numbers, and further bytes a
#: point, by the way of the sums: as measured on float32 (`benchmarks/plan.py` compares them with runs).
HELD: dict[str, tuple[float, float, float]] = {
    "pairs": (10.0, 2.0, 4.0),
    "products": (20.0, 2.0, 8.0),  # pairs in more than a few dimensions
    "line": (10.0, 2.0, 61.0),
    "grid": (10.0, 2.0, 26.0),
    "tree": (10.0, 2.0, 120.0),
    "slices": (10.0, 2.0, 40.0),
    "embedding": (10.0, 1.0, 4.0),
}
#: Fields of a grid that are held at once, beside one a dimension.
FIELDS = 4
WORDS = {
    "pairs": "exact, over all pairs",
    "line": "exact, by sorting on the line",
    "grid": "within {tolerance:g}, on a grid",
    "tree": "within {tolerance:g}, over a tree (fast multipole method)",
    "slices": "by {slices} sorted slices",
    "embedding": "by the mean of a finite feature map",
}


@dataclass(frozen=True)
class Row:
    """What a flow costs on a number of processes, each with a core for every thread.

    Attributes:
        ranks: processes.
        way: how sums are taken: pairs, line, grid, tree, slices or embedding.
        step: seconds of a step.
        total: seconds of the flow, with F at every snapshot.
        memory: bytes that a process holds at its peak.
        sent: bytes that a process sends in a step.
        beyond: how many times more work a process has in a step than was measured.
    """

    ranks: int
    way: str
    step: float
    total: float
    memory: float
    sent: float
    beyond: float


@dataclass(frozen=True)
class Plan:
    """What a flow will cost.

    Attributes:
        n: particles.
        m: samples of the target.
        dim: entries of an event.
        snapshots: how many.
        snapshot: bytes of one.
        threads: of a process.
        measured: particles and samples of the largest trial, and the seconds that all took.
        words: how sums are taken on the first number of processes.
        rows: one a number of processes.
    """

    n: int
    m: int
    dim: int
    snapshots: int
    snapshot: int
    threads: int
    measured: tuple[int, int, float]
    words: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Trial:
    """A flow of a few steps that was timed.

    Attributes:
        n: particles.
        m: samples of the target.
        way: how its sums were taken.
        step: seconds of a step.
        value: seconds of F.
        nodes: of the largest grid.
        loaded: bytes that the process held afterwards.
    """

    n: int
    m: int
    way: str
    step: float
    value: float
    nodes: int
    loaded: float = 0.0


def plan_flow(spec: FlowSpec, ranks: Sequence[int] = (1,), *, dim: int | None = None, snapshots: bool = False) -> Plan:
    """Return what a flow by settings will cost, after a few seconds of measuring.

    Times are those of an idle machine like this one. They are measured at the start of the flow: where particles come near the
    target, sums within a tolerance take longer.

    Args:
        spec: the flow. Its files are read; of all else no more than half a million points are drawn.
        ranks: numbers of processes.
        dim: plan for normal samples of so many entries in place of the target.
        snapshots: whether they go to a file instead of memory.

    Raises:
        InputError: for flows other than of mmd and sliced, or that so many processes do not run.

    Example:
        >>> plan = plan_flow(FlowSpec("rings", num_particles=2000, num_targets=3000), ranks=[1, 2])
        >>> plan.n, plan.m, plan.dim, plan.snapshots, [row.ranks for row in plan.rows]
        (2000, 3000, 2, 64, [1, 2])
    """
    if not ranks:
        raise InputError("ranks = []: must hold at least one number")
    for size in ranks:
        _check(spec, _checks.count("ranks", size), snapshots)
    start, threads = time.perf_counter(), torch.get_num_threads()
    particles, target, n, m = _points(spec, dim)
    spec = _fixed(spec, target)
    try:
        if max(ranks) > 1:
            torch.set_num_threads(1)  # as torchrun starts them
        kinds = sorted({size > 1 for size in ranks})
        trials = {several: _trials(spec, particles, target, (n, m, several)) for several in kinds}
        rows = [_row(spec, trials[size > 1], size, (n, m, target), snapshots) for size in ranks]
        measured = max((made[-1] for made in trials.values()), key=lambda trial: trial.n + trial.m)
        return Plan(
            n,
            m,
            target[0].numel(),
            _frames(spec),
            n * target[0].numel() * target.element_size(),
            torch.get_num_threads(),
            (measured.n, measured.m, time.perf_counter() - start),
            _words(spec, rows[0].way),
            tuple(rows),
        )
    finally:
        torch.set_num_threads(threads)


def _check(spec: FlowSpec, size: int, snapshots: bool) -> None:
    """Raise InputError for a flow that is not planned, or that would refuse so many processes."""
    of = spec.divergence
    if of.name not in ("mmd", "sliced"):
        raise InputError(f"divergence.name = {of.name!r} with plan: must be mmd or sliced")
    if spec.apply is not None:
        raise InputError(f"apply = {spec.apply!r} with plan: must be left out")
    runs.check_ranks(spec, Ranks(0, size))
    if size > 1 and snapshots:
        raise InputError(f"snapshots on {size} processes: must be left out; each has a part")
    if size > 1 and of.name == "sliced" and (of.exponent or 1.0) != 1.0:
        raise InputError(f"divergence.exponent = {of.exponent!r} on {size} processes: must be 1 with sliced")


def _points(spec: FlowSpec, dim: int | None) -> tuple[Tensor, Tensor, int, int]:
    """Return particles and samples of the target, no more than are needed but in the order of chance, and how many there are."""
    n, m = (count or runs.DRAWN for count in (spec.num_particles, spec.num_targets))
    few: dict[str, Any] = {} if is_points_file(spec.source) else {"num_particles": min(n, DRAWN)}
    few |= {} if is_points_file(spec.target) and dim is None else {"num_targets": min(m, DRAWN)}
    generator = torch.Generator().manual_seed(spec.seed)
    if dim is None:
        points = runs.prepare_flow(replace(spec, **few))
        particles, target = points.particles, points.target
        n = n if "num_particles" in few else len(particles)
        m = m if "num_targets" in few else len(target)
        particles = particles[torch.randperm(len(particles), generator=generator)]
    else:
        if spec.source != "gaussian":
            raise InputError(f"source = {spec.source!r} with dim = {dim}: must be gaussian")
        target = torch.randn(few["num_targets"], _checks.count("dim", dim), generator=generator)
        particles = torch.randn(few["num_particles"], dim, generator=generator) / 3
    return particles, target, n, m


def _fixed(spec: FlowSpec, target: Tensor) -> FlowSpec:
    """Return the settings with the bandwidth that the whole target would give, for trials of parts of it."""
    of = spec.divergence
    if of.bandwidth is not None or "bandwidth" not in of.used or len(target.unique(dim=0)) < 2:
        return spec
    return replace(spec, divergence=replace(of, bandwidth=default_bandwidth(target)))


def _trials(spec: FlowSpec, particles: Tensor, target: Tensor, whole: tuple[int, int, bool]) -> list[Trial]:
    """Time steps of more and more points: until they are all, or a trial lasts too long.

    `whole` holds the numbers of all particles and samples, and whether several processes share them.
    """
    n, m, several = whole
    clock = time.process_time  # a busy machine is no reason to measure less
    share, spent, made = min(1.0, 2000 / (n + m)), 0.0, list[Trial]()
    while True:
        count, samples = (max(1, round(share * size)) for size in (n, m))
        count, samples = min(count, len(particles)), min(max(2, samples), len(target))
        began = clock()
        made.append(_trial(spec, particles[:count], target[:samples], several))
        usual = (TIMED + 4) * max(made[-1].step, made[-1].value)  # without what a first call compiles
        took = min(clock() - began, usual)
        spent += took
        growth = GROWTH ** (2 if made[-1].way == "pairs" else 1)
        if (count, samples) == (len(particles), len(target)) or share >= 1:
            return made
        if took * growth > LONGEST or spent > 4 * LONGEST:
            return made
        share *= GROWTH


def _trial(spec: FlowSpec, particles: Tensor, target: Tensor, several: bool) -> Trial:
    """Time a few steps, and F; as one of several processes computes them, where they are to be."""
    clock: Callable[[], float] = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    generator, ticks = torch.Generator().manual_seed(spec.seed), list[float]()
    with ops.within(None if spec.tolerance == "none" else spec.tolerance) as sums:
        field, step = build_divergence(spec.divergence, target, generator, spec.num_steps)
        assert isinstance(field, MMD | SlicedMMD)
        timed = _sharded(field) if several else field
        flow(
            timed,
            particles,
            num_steps=1 + TIMED,
            save_every=Record(evaluate=False),
            callback=lambda step, x: ticks.append(clock()),
            generator=generator,
            **runs.flow_settings(spec, step),
        )
        values = []
        for _ in range(2):  # the first may compile
            began = clock()
            timed(particles)
            values.append(clock() - began)
    steps = [after - before for before, after in itertools.pairwise(ticks)]
    kind = "exact" if sums is None or not sums.quick else "tree" if sums.trees else "grid"
    way = _exact_way(spec, target, len(particles)) if kind == "exact" else kind
    nodes = 0 if sums is None else sums.nodes
    return Trial(len(particles), len(target), way, min(steps), min(values), nodes, _loaded())


def _sharded(field: MMD | SlicedMMD) -> Divergence:
    """Return the field of several processes, for one that has all points: it computes as each of them does."""
    return ShardedSlicedMMD(field, Ranks()) if isinstance(field, SlicedMMD) else ShardedMMD(field, Ranks())


def _exact_way(spec: FlowSpec, target: Tensor, count: int) -> str:
    """Return how sums are taken that are not within a tolerance."""
    of = spec.divergence
    if of.name == "sliced":
        pairwise = of.kernel_name == "riesz" and (of.exponent or 1.0) != 1.0
        return "pairs" if pairwise else "slices"
    kernel, dim = KERNELS[of.kernel_name].build(of.bandwidth or 1.0, of.exponent or 1.0), target[0].numel()
    if kernel.finite:
        return "embedding"
    term = kernel.compiled_term(dim, target.dtype)
    swept = dim == 1 and term is not None and isinstance(term.profile, Swept)
    return "line" if swept and count * len(target) >= sorted_line.FEW else "pairs"


def _work(way: str, n: int, m: int, ranks: int = 1) -> float:
    """Return what the time of a step of a process grows with."""
    if way == "pairs":
        return n * (n + m) / ranks
    if way == "embedding":
        return n / ranks
    if way == "line" and ranks > 1:  # each sorts its particles among the points of every other
        return (2 * n + m) * math.log2((2 * n + m) / ranks + 2)
    return (n + m) / ranks * math.log2(n + m + 2)


def _seconds(trials: Sequence[Trial], seconds: Callable[[Trial], float], n: int, m: int, ranks: int) -> float:
    """Return the time of n and m points: a part that does not grow, and one that grows with the work, from two trials."""
    last = trials[-1]
    way, work = last.way, _work(last.way, last.n, last.m)
    before = [trial for trial in trials[:-1] if trial.way == way]
    slope = seconds(last) / work
    if before and (less := _work(way, before[-1].n, before[-1].m)) < work:
        slope = min(slope, max(0.0, (seconds(last) - seconds(before[-1])) / (work - less)))
    rest = seconds(last) - slope * work
    return rest + slope * _work(way, n, m, ranks)


def _row(spec: FlowSpec, trials: Sequence[Trial], ranks: int, points: tuple[int, int, Tensor], snapshots: bool) -> Row:
    """Return what the flow costs on so many processes."""
    n, m, _ = points
    last = trials[-1]
    sent = _sent(spec, last, ranks, points)
    step, value = (_seconds(trials, of, n, m, ranks) for of in (lambda t: t.step, lambda t: t.value))
    exchange = sent / EXCHANGE
    step = max(step, exchange) if last.way in ("pairs", "line") else step + exchange  # a ring computes meanwhile
    total = spec.num_steps * step + (1 + _frames(spec)) * value  # F, and the target's part of it at first
    memory = trials[0].loaded + _memory(spec, last, ranks, points, snapshots)  # a small trial leaves little behind
    beyond = _work(last.way, n, m, ranks) / _work(last.way, last.n, last.m)
    return Row(ranks, last.way, step, total, memory, sent, beyond)


def _sent(spec: FlowSpec, last: Trial, ranks: int, points: tuple[int, int, Tensor]) -> float:
    """Return the bytes that a process sends in a step."""
    n, m, target = points
    dim, size, others = target[0].numel(), target.element_size(), (ranks - 1) / ranks
    if last.way == "grid":
        return 2 * others * last.nodes * size
    if last.way == "slices":
        return others * (3 * n + m) / ranks * (spec.divergence.num_directions or 50) * size
    if last.way == "embedding":
        return 2 * others * dim * 8
    return others * (n + m) * (dim + 1) * size


def _memory(spec: FlowSpec, last: Trial, ranks: int, points: tuple[int, int, Tensor], snapshots: bool) -> float:
    """Return the bytes that a process holds at its peak: all points as they are read, its part, and snapshots."""
    n, m, target = points
    dim, size = target[0].numel(), target.element_size()
    of_particles, of_target, more = HELD["products" if last.way == "pairs" and dim > EXACT_DIM else last.way]
    own = (of_particles * n + of_target * m) * dim * size + more * (n + m)
    grid = last.nodes * size * (FIELDS + dim)
    drawn = 1 if is_points_file(spec.target) else 2  # half of what is drawn is for the test
    whole = (n + drawn * m) * dim * size
    kept = 0 if snapshots else _frames(spec) * n * dim * size
    gathered = 2 * kept if ranks == 1 else kept * (2 + 3 / ranks)
    return whole + max(own / ranks + grid + kept / ranks, gathered)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _loaded() -> float:
    """Return what this process holds now."""
    status = Path("/proc/self/statm")
    if status.exists():
        return float(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 4e8


def _frames(spec: FlowSpec) -> int:
    """Return how many snapshots a flow makes."""
    return 1 + math.ceil(spec.num_steps / max(1, spec.num_steps // spec.frames))


def _words(spec: FlowSpec, way: str) -> str:
    """Return how sums are taken."""
    tolerance = fast.USUAL if isinstance(spec.tolerance, str) else spec.tolerance
    return WORDS[way].format(tolerance=tolerance, slices=spec.divergence.num_directions or 50)
