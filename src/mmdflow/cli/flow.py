"""`flow`: particles moved onto a target, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdflow.cli._options import Options, Parser, on_interrupt

if TYPE_CHECKING:
    from mmdflow.recipe import FlowSpec
    from mmdflow.runs.particles import ParticleRun


def flow_command(arguments: list[str]) -> None:
    """Move particles onto a target; write them, or the flow."""
    from mmdflow.errors import InputError
    from mmdflow.recipe import FlowSpec
    from mmdflow.recipe.read import Source, read_settings, read_yaml

    parser = Parser(
        "flow",
        "Move particles onto a target that samples give, along the gradient of a divergence.",
        usage="mmdflow flow --target=TARGET -o FILE [--field=VALUE ...]",
    )
    parser.add_argument("--config", action="append", default=[], help="a YAML file of fields; options go over it")
    parser.add_argument("-o", "--output", help="the last particles as a picture (.png, ...), or the flow (.gif, .mp4)")
    parser.add_argument("--save", help="the last particles as .npy, .npz, .csv or .pt")
    parser.add_settings(FlowSpec)
    options = parser.parse(arguments)
    if options.output is None and options.save is None:
        raise InputError(
            "output is missing: give -o FILE (.png, .gif, .mp4), --save FILE (.npy, .npz, .csv, .pt), or both"
        )
    files = [Source(read_yaml(Path(file)), file) for file in options.config]
    spec = read_settings(FlowSpec, *files, Source(options.fields))
    run = _flow(spec, options)
    _write(run, options)
    _print(run.report, options)


def _flow(spec: FlowSpec, options: Options) -> ParticleRun:
    """Check that the files can be written, then run the flow; on Ctrl-C save the particles that it has reached."""
    from mmdflow import plots
    from mmdflow.data import check_points_file, save_points
    from mmdflow.runs import particles

    if options.output is not None:
        plots.check_output(options.output)
        plots.check_matplotlib()
    if options.save is not None:
        check_points_file(options.save)
    last: dict[int, Any] = {}

    def watch(step: int, x: Any) -> None:
        last.clear()
        last[step] = x

    def save() -> str:
        if options.save is None or not last:
            return "Nothing saved"
        ((step, x),) = last.items()
        save_points(x, options.save)
        go_on = f"go on with the same options and --source={options.save}"
        return f"Saved the particles of step {step} in {options.save}; {go_on}"

    with on_interrupt(save):
        return particles.run_flow(spec, watch=watch, progress=True)


def _write(run: ParticleRun, options: Options) -> None:
    """Save the last particles, and draw them or the flow."""
    from mmdflow import plots
    from mmdflow.data import save_points

    result = run.result
    if options.save is not None:
        save_points(result.particles, options.save)
    if options.output is None:
        return
    titles = [f"step {step}" for step in result.steps.tolist()]
    if plots.is_animation(options.output):
        plots.save_pictures(plots.particle_pictures(result.trajectory, run.target, titles), options.output)
    else:
        last = plots.particle_pictures(result.trajectory[[0, -1]], run.target, [titles[0], titles[-1]])[1]
        plots.save_picture(last, options.output)


def _print(report: dict[str, Any], options: Options) -> None:
    """Print what the flow reached, the verdict of the test, and the files."""
    start, end = report["value_start"], report["value_end"]
    value = "none" if start is None else f"{start:.4g} -> {end:.4g}"
    print(f"F        {value} in {report['steps']} steps, {report['seconds']:.1f} s")
    if report["p_value"] is not None:
        verdict = "cannot be told" if report["p_value"] >= 0.05 else "can be told"
        print(f"MMD test p = {report['p_value']:.3f}: the particles {verdict} from held-out samples at level 0.05")
    print(f"written: {', '.join(name for name in (options.output, options.save) if name is not None)}")
