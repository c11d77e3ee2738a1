"""`flow`: particles moved onto a target, without training."""

from __future__ import annotations

from typing import Any

from mmdflow.cli._options import fill, new_parser, parse


def flow_command(arguments: list[str]) -> None:
    """Move particles onto a target; write them, or the flow."""
    from mmdflow.errors import InputError
    from mmdflow.recipe import FlowSpec

    parser = new_parser("flow", "Move particles onto a target that samples give, along the gradient of a divergence.")
    parser.add_argument("--config", action="config", help="a YAML file of fields")
    parser.add_argument(
        "-o", "--output", type=str, help="the last particles as a picture (.png, ...), or the flow (.gif, .mp4)"
    )
    parser.add_argument("--save", type=str, help="the last particles as .npy, .npz, .csv or .pt")
    parser.add_class_arguments(FlowSpec)
    options = parse(parser, _full_names(arguments))
    if options.output is None and options.save is None:
        raise InputError(
            "output is missing: give -o FILE (.png, .gif, .mp4), --save FILE (.npy, .npz, .csv, .pt), or both"
        )
    spec = fill(FlowSpec, parser, options)

    from mmdflow import plots
    from mmdflow.data import check_points_file, save_points
    from mmdflow.runs import particles

    if options.output is not None:
        plots.check_output(options.output)
        plots.check_matplotlib()
    if options.save is not None:
        check_points_file(options.save)
    reached: dict[int, Any] = {}

    def watch(step: int, x: Any) -> None:
        reached.clear()
        reached[step] = x

    try:
        run = particles.run_flow(spec, watch=watch, progress=True)
    except KeyboardInterrupt:
        if options.save is None or not reached:
            raise KeyboardInterrupt("Nothing saved") from None
        ((step, x),) = reached.items()
        save_points(x, options.save)
        go_on = f"go on with the same options and --source={options.save}"
        raise KeyboardInterrupt(f"Saved the particles of step {step} in {options.save}; {go_on}") from None
    result, report = run.result, run.report
    if options.save is not None:
        save_points(result.particles, options.save)
    if options.output is not None:
        titles = [f"step {step}" for step in result.steps.tolist()]
        if plots.is_animation(options.output):
            plots.save_pictures(plots.particle_pictures(result.trajectory, run.target, titles), options.output)
        else:
            last = plots.particle_pictures(result.trajectory[[0, -1]], run.target, [titles[0], titles[-1]])[1]
            plots.save_picture(last, options.output)
    print(
        f"F        {report['value_start']:.4g} -> {report['value_end']:.4g} in {report['steps']} steps, {report['seconds']:.1f} s"
    )
    if report["p_value"] is not None:
        verdict = "cannot be told" if report["p_value"] >= 0.05 else "can be told"
        print(f"MMD test p = {report['p_value']:.3f}: the particles {verdict} from held-out samples at level 0.05")
    print(f"written: {', '.join(name for name in (options.output, options.save) if name is not None)}")


def _full_names(arguments: list[str]) -> list[str]:
    """Write --divergence NAME as --divergence.name NAME."""
    return [
        "--divergence.name" + a[len("--divergence") :] if a == "--divergence" or a.startswith("--divergence=") else a
        for a in arguments
    ]
