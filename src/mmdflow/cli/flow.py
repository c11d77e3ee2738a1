"""`flow`: particles moved onto a target, without training."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdflow.cli._options import Options, Parser, check_free, on_interrupt

if TYPE_CHECKING:
    from mmdflow.data import Rows
    from mmdflow.recipe import FlowSpec
    from mmdflow.runs.particles import ParticleRun, Prepared
    from mmdflow.runs.plan import Plan

#: Differences of entries a step from which the command says what makes it quicker.
_MUCH = 10**9


def flow_command(arguments: list[str]) -> None:
    """Move particles onto a target; write them, or the flow."""
    from mmdflow.distributed import current
    from mmdflow.errors import InputError
    from mmdflow.recipe import FlowSpec

    parser = Parser(
        "flow",
        "Move particles onto a target that samples give, along the gradient of a divergence.",
        usage="mmdflow flow --target=TARGET -o FILE [--field=VALUE ...]",
    )
    parser.add_argument("--config", action="append", default=[], help="a YAML file of fields; options go over it")
    parser.add_argument("-o", "--output", help="the last particles as a picture (.png, ...), or the flow (.gif, .mp4)")
    parser.add_argument(
        "--save",
        help="the last particles as .npy, .npz, .csv or .pt; a table, with its other columns, also as .tsv or "
        ".parquet; cells as .h5ad",
    )
    parser.add_argument(
        "--snapshots",
        help="the particles at every frame, [frame, particle, column], as .npy, which takes them from memory",
    )
    parser.add_argument(
        "--plan", action="store_true", help="run nothing: say what the flow will cost, after a few seconds of measuring"
    )
    parser.add_argument("--ranks", type=int | list[int], help="of a plan: numbers of processes, 1 by default")
    parser.add_argument("--dim", type=int, help="of a plan: normal points of so many columns in place of the target")
    parser.add_overwrite()
    parser.add_settings(FlowSpec)
    options = parser.parse(arguments)
    if options.plan:
        _print_plan(options)
        return
    for name in ("ranks", "dim"):
        if options[name] is not None:
            raise InputError(f"{name} = {options[name]} without --plan: is for a plan alone; torchrun starts processes")
    if options.output is None and options.save is None and options.snapshots is None:
        raise InputError(
            "output is missing: give -o FILE (.png, .gif, .mp4), --save FILE (.npy, .npz, .csv, .pt), or both; --snapshots FILE "
            "(.npy) takes the particles of every frame"
        )
    spec = _spec(options)
    if spec.apply is not None and options.save is None:
        raise InputError(f"apply = {spec.apply!r} without --save: the further rows are saved beside it")
    points, run = _flow(spec, options)
    if current().first:
        _write(points, run, spec, options)
    _print(points, run, spec, options)


def _spec(options: Options) -> FlowSpec:
    """Return the flow that files and options describe."""
    from mmdflow.recipe import FlowSpec
    from mmdflow.recipe.read import Source, read_settings, read_yaml

    files = [Source(read_yaml(Path(file)), file) for file in options.config]
    return read_settings(FlowSpec, *files, Source(options.fields))


def _print_plan(options: Options) -> None:
    """Print what the flow will cost, one line a number of processes."""
    from mmdflow.errors import InputError
    from mmdflow.runs.plan import plan_flow

    if options.dim is not None and "target" in options.fields:
        raise InputError(f"dim = {options.dim} with target = {options.fields['target']!r}: must be one of them")
    given = [1] if options.ranks is None else options.ranks
    ranks = [given] if isinstance(given, int) else given
    spec = _spec(options)
    plan = plan_flow(spec, ranks, dim=options.dim, snapshots=options.snapshots is not None)
    snapshots = f"{plan.snapshots} of {_size(plan.snapshot)}, {_size(plan.snapshots * plan.snapshot)} in all"
    print(f"flow       {plan.n} particles, {plan.m} targets, {plan.dim} columns, {spec.num_steps} steps")
    print(f"sums       {plan.words}")
    print(
        f"snapshots  {snapshots}, {'in a file' if options.snapshots else 'in memory; --snapshots keeps them in a file'}"
    )
    print(f"\n{'processes':<11}{'a step':>10}{'in all':>10}{'memory each':>14}{'sent a step':>14}")
    for row in plan.rows:
        times = f"{_duration(row.step):>10}{_duration(row.total):>10}"
        print(f"{row.ranks:<11}{times}{_size(row.memory):>14}{_size(row.sent):>14}")
    print(f"\n{_grounds(plan)}")


def _grounds(plan: Plan) -> str:
    """Return what a plan rests on."""
    from mmdflow.runs.plan import cores

    n, m, seconds = plan.measured
    threads = f"{plan.threads} thread{'s' * (plan.threads > 1)}"
    text = f"measured here in {seconds:.1f} s with up to {n} particles and {m} targets, {threads} a process"
    beyond = max(row.beyond for row in plan.rows)
    if beyond > 1.5:
        text += f"; carried on to {beyond:.2g} times the work"
    most = max(row.ranks for row in plan.rows)
    if most > 1 and most * plan.threads > cores():
        text += f"; every process has a core of its own for each thread (here are {cores()})"
    return text


def _size(number: float) -> str:
    """Return a number of bytes in words."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB" if number < 999.5 else f"{number:.0f} TB"


def _duration(seconds: float) -> str:
    """Return a time in words."""
    if seconds < 0.0995:
        return f"{1000 * seconds:.2g} ms"
    for unit, next_unit in (("s", 120), ("min", 120), ("h", 72)):
        if seconds < next_unit:
            return f"{seconds:.2g} {unit}" if seconds < 99.5 else f"{seconds:.0f} {unit}"
        seconds /= {"s": 60, "min": 60, "h": 24}[unit]
    return f"{seconds:.2g} d" if seconds < 99.5 else f"{seconds:.0f} d"


def _applied_file(spec: FlowSpec, options: Options) -> Path | None:
    """Return where the further rows go: moved.csv and new.csv make moved-new.csv."""
    if spec.apply is None:
        return None
    save = Path(options.save)
    return save.with_name(f"{save.stem}-{Path(spec.apply.partition('#')[0]).stem}{save.suffix}")


def _files(spec: FlowSpec, options: Options) -> list[str]:
    """Return the files that are written."""
    files = (options.output, options.save, _applied_file(spec, options), options.snapshots)
    return [str(file) for file in files if file is not None]


def _flow(spec: FlowSpec, options: Options) -> tuple[Prepared, ParticleRun]:
    """Check that the files can be written, then run the flow; on Ctrl-C save the particles that it has reached."""
    from mmdflow import plots
    from mmdflow.data import check_points_file
    from mmdflow.distributed import current
    from mmdflow.flows import Snapshots
    from mmdflow.runs import particles

    if options.output is not None:
        plots.check_output(options.output)
        plots.check_matplotlib()
    if options.save is not None:
        check_points_file(options.save, spec.source)
    check_free(options, *_files(spec, options))
    snapshots = None if options.snapshots is None else Snapshots(options.snapshots, overwrite=options.overwrite)
    points = particles.prepare_flow(spec)
    last: dict[int, Any] = {}
    whole = current().size == 1  # of several processes each sees a part

    def watch(step: int, x: Any) -> None:
        last.clear()
        last[step] = x

    def save() -> str:
        kept = "" if snapshots is None else f"Snapshots until then are in {snapshots.path}"
        if options.save is None or not (last and whole):
            return kept or "Nothing saved"
        ((step, x),) = last.items()
        points.save(x, options.save)
        go_on = f"go on with the same options and --source={options.save}"
        return f"Saved the particles of step {step} in {options.save}; {go_on}{kept and '. '}{kept}"

    _announce(points, spec, options)
    with on_interrupt(save):
        run = particles.run_flow(spec, prepared=points, watch=watch, snapshots=snapshots, progress=True)
        return points, run


def _announce(points: Prepared, spec: FlowSpec, options: Options) -> None:
    """Say what moves, what is kept, and what a step costs where that is much."""
    from mmdflow.data import TABLES

    source = points.source
    if source is not None and source.table is not None:
        print(f"moves    {_listed(source.moved)} of {len(source.points)} rows")
        if options.save is None or Path(options.save).suffix.lower() in TABLES:
            print(f"keeps    {_listed(source.kept)}")
        else:
            print(f"leaves   {_listed(source.kept)} out of {options.save}: {', '.join(TABLES)} keep them")
    elif source is not None and Path(options.save or "").suffix.lower() == ".h5ad":
        print(
            f"keeps    all of {source.path.partition('#')[0]}; the particles go to the entry {_entry(source)} of obsm"
        )
    n, m = len(points.particles), len(points.target)
    if n * (n + m) * points.target[0].numel() > _MUCH and _pairs_up(points, spec):
        print(
            f"large    {n} rows, {m} targets: fewer steps (--num_steps=100) often do, --num_targets=N takes N random rows, "
            f"--divergence=sliced sorts instead of pairing; Ctrl-C saves what is reached"
        )


def _entry(source: Rows) -> str:
    """Return the entry of obsm that the moved rows of an .h5ad file go to."""
    from mmdflow.data.point_tables import MOVED

    return source.path.partition("#")[2] or MOVED


def _pairs_up(points: Prepared, spec: FlowSpec) -> bool:
    """Return whether a step sums over all pairs."""
    from mmdflow import ops
    from mmdflow.recipe.divergences import KERNELS

    of = spec.divergence
    if of.name == "sliced":
        return False
    kernel = KERNELS[of.kernel_name].build(of.bandwidth or 1.0, of.exponent or 1.0)
    event = points.target[0]
    return spec.tolerance == "none" or not ops.has_quick_sums(kernel, event.numel(), event.dtype)


def _listed(names: list[str]) -> str:
    if not names:
        return "no other column"
    few = ", ".join(names if len(names) <= 6 else [*names[:3], "...", names[-1]])
    return f"{len(names)} column{'s' * (len(names) > 1)} ({few})"


def _write(points: Prepared, run: ParticleRun, spec: FlowSpec, options: Options) -> None:
    """Save the last particles, and draw them or the flow."""
    from mmdflow import plots

    result = run.result
    if options.save is not None:
        points.save(result.particles, options.save)
    if points.further is not None and run.applied is not None:
        points.further.save(run.applied, str(_applied_file(spec, options)))
    if options.output is None:
        return
    titles = [f"step {step}" for step in result.steps.tolist()]
    if plots.is_animation(options.output):
        plots.save_pictures(plots.particle_pictures(result.trajectory, run.target, titles), options.output)
    else:
        last = plots.particle_pictures(result.trajectory[[0, -1]], run.target, [titles[0], titles[-1]])[1]
        plots.save_picture(last, options.output)


def _concerns(run: ParticleRun, spec: FlowSpec) -> Iterator[str]:
    """Yield what a flow that went wrong looks like, and what to change: F that rose, particles that did not move."""
    from mmdflow.divergences.base import spread_of

    start, end = (
        math.nan if run.report[f"value_{at}"] is None else run.report[f"value_{at}"] for at in ("start", "end")
    )
    frames = run.result.trajectory
    moved = float((frames[-1] - frames[0]).abs().max())
    scale = spread_of(run.target)
    if end > 1.5 * start and moved > 0.1 * scale and spec.divergence.name != "adaptive":
        yield f"F rose from {start:.3g} to {end:.3g}: the step is too large; try --step_size={run.step_size / 10:.2g}, a tenth"
    if start > 0 and abs(end - start) < 1e-3 * start and moved < 1e-2 * scale:
        yield (
            f"the particles hardly moved ({moved:.1e}, the target's spread is {scale:.2g}): the kernel is too narrow, or the "
            f"step too small; try a larger --divergence.bandwidth or --step_size, or --divergence.kernel=riesz"
        )


def _sums(sums: dict[str, float], spec: FlowSpec) -> str:
    """Return a line on sums within a tolerance; who did not ask for them is told how to have exact ones."""
    line = f"sums     {sums['quick']} quick, largest error {sums['error']:.0e}; {sums['exact']} exact"
    off = f" (--tolerance={sums['tolerance']:g} by default; --tolerance=none sums exactly)"
    return line + (off if spec.tolerance == "auto" else "")


def _print(points: Prepared, run: ParticleRun, spec: FlowSpec, options: Options) -> None:
    """Print what the flow reached, the verdict of the test, and the files."""
    report = run.report
    for concern in _concerns(run, spec):
        print(f"mmdflow: warning: {concern}", file=sys.stderr)
    start, end = report["value_start"], report["value_end"]
    value = "none" if start is None else f"{start:.4g} -> {end:.4g}"
    print(f"F        {value} in {report['steps']} steps, {report['seconds']:.1f} s")
    if report["sums"] is not None and (report["sums"]["quick"] or spec.tolerance != "auto"):
        print(_sums(report["sums"], spec))
    if report["p_value"] is not None:
        verdict = "cannot be told" if report["p_value"] >= 0.05 else "can be told"
        print(f"MMD test p = {report['p_value']:.3f}: the particles {verdict} from held-out samples at level 0.05")
    elif points.test is None and spec.num_targets is not None and spec.stop_level is None:
        print(f"no test: --num_targets={spec.num_targets} leaves fewer than two rows of the target to test by")
    elif points.test is None and spec.stop_level is None:
        print(
            f"no test: all {len(points.target)} rows of the target are used; --num_targets=N takes N and tests by others"
        )
    print(f"written: {', '.join(_files(spec, options))}")
