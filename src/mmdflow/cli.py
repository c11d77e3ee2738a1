"""The command line. Each command imports what it needs when it runs, so that --help is quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdflow import __version__, _checks
from mmdflow._options import fill, new_parser, parse

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

USAGE = """\
usage: mmdflow COMMAND [OPTIONS]

Gradient flows of the Maximum Mean Discrepancy.

commands:
  train RECIPE --output=DIR    train a model; RECIPE is a name (see `mmdflow recipes`) or a YAML file
  train --resume DIR           go on with an interrupted run
  flow --target T -o FILE      move particles onto a toy set, a file of points or a picture
  sample MODEL -o FILE         draw samples from a shipped model, a run or a pipeline folder
  evaluate MODEL               judge a model's samples against its data: a table and JSON
  evaluate IMAGES --reference R   judge images of any program: Frechet, Inception, kernel distances, ...
  compare --data D             train every method for the same time: a table, a grid a method
  reproduce NAME               make a figure of the papers again, and say whether its claim was seen
  recipes                      the recipes and shipped models that there are

`mmdflow COMMAND --help` shows the options of a command.

options:
  -h, --help                   show this text
  --version                    show the version
"""

_INPUT, _FAILURE, _INTERRUPTED = 2, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code: 0 done, 2 bad input, 1 failure, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if arguments else _INPUT
    if arguments[0] == "--version":
        print(f"mmdflow {__version__}")
        return 0
    from mmdflow.errors import DivergedError, InputError

    try:
        COMMANDS[_checks.choice("command", arguments[0], COMMANDS)](arguments[1:])
    except InputError as error:
        return _fail(error, _INPUT)
    except (DivergedError, ImportError, MemoryError) as error:
        return _fail(error, _FAILURE)
    except KeyboardInterrupt as error:
        print(f"\nmmdflow: interrupted. {error}".rstrip(), file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILURE
    except Exception as error:  # the last resort: one line for the user, the whole story under MMDFLOW_DEBUG
        if os.environ.get("MMDFLOW_DEBUG"):
            raise
        return _fail(f"{type(error).__name__}: {error} (MMDFLOW_DEBUG=1 shows where)", _FAILURE)
    return 0


def _fail(error: BaseException | str, code: int) -> int:
    message = " ".join(str(error).split())[:600] or type(error).__name__
    print(f"mmdflow: error: {message}", file=sys.stderr)
    return code


def _train(arguments: list[str]) -> None:
    from mmdflow.errors import InputError

    if any(a == "--resume" or a.startswith("--resume=") for a in arguments):
        _resume(arguments)
        return
    file, rest = _recipe_file(arguments)
    parser = _train_parser(_system(file))
    options = parse(parser, rest if file is None else [f"--config={file}", *rest])  # the command line's over the file's
    if options.recipe is not None:
        raise InputError(f"recipe = {options.recipe!r}: a second one; must be one")
    if not options.config:
        raise InputError("recipe is missing: `mmdflow train RECIPE --output=DIR`; `mmdflow recipes` lists them")
    if options.output is None:
        raise InputError("output is missing: give --output=DIR, the folder of the run")
    recipe, folder = _recipe(parser, options), Path(options.output)

    from mmdflow.recipes import run

    run.build_check(recipe)
    run.open_run(recipe, folder, overwrite="--overwrite" in arguments)  # not from a YAML file
    _run(recipe, folder)


def _resume(arguments: list[str]) -> None:
    from mmdflow.errors import InputError

    parser = new_parser("train", "Go on with an interrupted run, by its own recipe.")
    parser.add_argument("--resume", type=str, required=True, help="folder of the run")
    folder = Path(parse(parser, arguments).resume)
    if not (folder / "recipe.yaml").is_file():
        raise InputError(f"resume = {folder}: holds no run (recipe.yaml is missing)")
    parser = _train_parser(_system(folder / "recipe.yaml"))
    _run(_recipe(parser, parse(parser, [f"--config={folder / 'recipe.yaml'}"])), folder)


_FLAGS = ("--overwrite", "--help")  # the options of `train` that take no value


def _recipe_file(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """Return the file of the recipe among the arguments of `train`, None where none is named, and the other arguments."""
    from mmdflow.recipes import recipe_path

    found = None
    for i, argument in enumerate(arguments):
        before = arguments[i - 1] if i else ""
        is_value = "=" not in before and (before == "-o" or before.startswith("--")) and before not in _FLAGS
        if not is_value and not argument.startswith("-"):
            return recipe_path(argument), [*arguments[:i], *arguments[i + 1 :]]
        if is_value and before == "--config":
            found = found or (argument, [*arguments[: i - 1], *arguments[i + 1 :]])
        elif argument.startswith("--config="):
            found = found or (argument.removeprefix("--config="), [*arguments[:i], *arguments[i + 1 :]])
    return (None, arguments) if found is None else (recipe_path(found[0]), found[1])


def _system(file: Path | None) -> str:
    """Return the system that a recipe's file names; dmmd where it names none, or is no YAML, of which the parser complains."""
    import yaml

    from mmdflow.recipes import RECIPES

    if file is None:
        return "dmmd"
    try:
        fields = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return "dmmd"
    name = fields.get("system", "dmmd") if isinstance(fields, dict) else "dmmd"
    return _checks.choice("system", name, RECIPES)


def _train_parser(system: str = "dmmd") -> ArgumentParser:
    from mmdflow.recipes import RECIPES

    what = "Train a model by a recipe (a name or a YAML file); every field of it is an option. "
    parser = new_parser(
        "train", what + f"The fields are those of {system}; with RECIPE, --help shows those of its system."
    )
    parser.add_argument("recipe", type=str, nargs="?", help="a recipe's name or a YAML file")
    parser.add_argument("--config", action="config", help="a YAML file of fields, as RECIPE")
    parser.add_argument("-o", "--output", type=str, help="folder of the run: checkpoints, logs, samples, pipeline")
    parser.add_argument("--overwrite", action="store_true", help="lose the run that is in the output folder")
    parser.add_class_arguments(RECIPES[system])
    return parser


def _recipe(parser: ArgumentParser, options: Namespace) -> Any:
    from mmdflow.recipes import RECIPES

    return fill(RECIPES[options.system], parser, options)


def _run(recipe: Any, folder: Path) -> None:
    from mmdflow.recipes import run

    resume = f"go on with: mmdflow train --resume {folder}"
    try:
        run.train(recipe, folder)
    except KeyboardInterrupt:
        saved = folder / "checkpoints" / "last.ckpt"
        state = f"Saved in {saved}" if saved.exists() else "Nothing trained yet"
        raise KeyboardInterrupt(f"{state}; {resume}") from None
    print(f"trained: {folder / 'pipeline'}")
    print(f"next:    mmdflow sample {folder} -n 64 -o grid.png")
    print(f"         mmdflow evaluate {folder}")


def _sampler_parser(command: str, description: str) -> ArgumentParser:
    """A parser with MODEL and the sampler's options, which default to the model's own."""
    parser = new_parser(command, description)
    parser.add_argument("model", type=str, help="a shipped model's name, a run folder or a pipeline folder")
    for name, (kind, text) in _HOW.items():
        parser.add_argument(f"--{name}", type=kind, help=text)
    parser.add_argument("--device", type=str, default="cpu", help="cpu, cuda, ...")
    return parser


#: The settings of samplers; which of them a model has, its pipeline's `__call__` says.
_HOW: dict[str, tuple[Any, str]] = {
    "sampler": (
        str,
        "dmmd: exact (particles interact), approximate (each on its own), or by the paper's names: dmmd, a-dmmd, a-dmmd-a, "
        "a-dmmd-e, dmmd-e; ddpm: ancestral or ddim; flow-matching: euler or heun; mmd-gan: generator or flow",
    ),
    "num_levels": (int, "noise levels T: the steps from noise to data"),
    "num_steps": (int, "steps of the flow, where there are no noise levels"),
    "num_networks": (int, "networks of a chain that are applied"),
    "steps_per_level": (int, "flow steps a level"),
    "step_size": (
        float | list[float],
        "a constant step size, or [a, list] of one a level; else the distance schedule",
    ),
    "t_min": (float, "lowest noise level, in the trained range"),
    "t_max": (float, "highest noise level, in the trained range"),
    "momentum": (float, "momentum of the flow, in [0, 1)"),
    "integrator": (str, "euler, nesterov or heun"),
    "chunk_size": (int, "particles whose gradient is taken at once: less memory, the same samples"),
    "whitening": (float, "lambda of the regularised witness; needs a model trained with it"),
    "guidance": (float, "weight of a class's flow over that of all data, with --labels"),
    "final_steps": (int, "denoising steps after the last level"),
    "final_sampler": (str, "flow of the final steps: exact or approximate"),
}
#: Options of `sample` alone; `source` gives the pipeline's `particles`, the others have the pipeline's names.
_GIVEN = ("source", "noise_source", "labels", "known", "mask", "monitor")


def _load(options: Namespace) -> tuple[Any, dict[str, Any]]:
    import inspect

    import torch

    from mmdflow.errors import InputError
    from mmdflow.recipes.systems import load_pipeline

    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device = {options.device!r}: not usable here ({str(error).splitlines()[0]})") from None
    pipeline = load_pipeline(options.model, options.device)
    taken = inspect.signature(type(pipeline).__call__).parameters
    given = {name: options.get(name) for name in (*_HOW, *_GIVEN)}
    asked = [name for name, value in given.items() if value is not None and value is not False]
    for name in asked:
        if ("particles" if name == "source" else name) not in taken:
            mine = ", ".join(own for own in _HOW if own in taken)
            raise InputError(
                f"{name} = {options[name]!r}: the sampler of this model has no such setting; it has {mine}"
            )
    return pipeline, {name: options[name] for name in asked if name in _HOW}


def _sample(arguments: list[str]) -> None:
    from mmdflow.errors import DivergedError, InputError

    parser = _sampler_parser("sample", "Draw samples; show them as a picture, as an animation of the flow, save them.")
    parser.add_argument("-n", "--num_samples", type=int, help="how many; they flow together. 64, or all of a source")
    parser.add_argument("-o", "--output", type=str, help="a picture (.png, ...), or the flow as .gif or .mp4")
    parser.add_argument("--save", type=str, help="a .npz file of the samples: key `samples`, [n, *event]")
    parser.add_argument("--source", type=str, help="particles to start from: .npz, .npy, .pt, or a folder of pictures")
    parser.add_argument("--noise_source", action="store_true", help="noise the source forward to t_max first")
    parser.add_argument("--labels", type=int | list[int], help="a class for all samples, or a [list] of one a sample")
    parser.add_argument("--known", type=str, help="an event whose masked part is kept: a picture, .npz, .npy or .pt")
    parser.add_argument("--mask", type=str, help="where it is known: white in a picture, non-zero in an array")
    parser.add_argument("--monitor", type=str, help="what the run looks like at each level, as a picture or .json")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    options = parse(parser, arguments)
    if options.output is None and options.save is None:
        raise InputError("output is missing: give -o FILE (.png, .gif, .mp4), --save FILE.npz, or both")
    if options.save is not None and not options.save.endswith(".npz"):
        raise InputError(f"save = {options.save!r}: must end in .npz")
    if (options.known is None) != (options.mask is None):
        raise InputError(f"{'known' if options.known is None else 'mask'} is missing: --known and --mask go together")

    import torch

    from mmdflow import plots

    if options.num_samples is not None:
        _checks.count("num_samples", options.num_samples)
    if options.output is not None:
        plots.check_output(options.output)
    if options.monitor is not None:
        plots.check_monitor_file(options.monitor)
    generator = torch.Generator().manual_seed(_checks.count("seed", options.seed, 0))
    pipeline, how = _load(options)
    animate = options.output is not None and plots.is_animation(options.output)
    try:
        out = pipeline(
            options.num_samples or 64,
            generator=generator,
            return_trajectory=animate,
            progress=True,
            **how,
            **_given(options, pipeline),
        )
    except DivergedError as error:
        if error.particles is None:
            raise
        still = None if str(options.output).lower().endswith(".mp4") else options.output
        kept = _show(options.save, still, error.particles)
        raise DivergedError(f"{error}. The last finite particles: {', '.join(kept) or 'not saved'}") from error
    _show(options.save, None if animate else options.output, out.particles)
    if animate:
        plots.save_animation(out.trajectory[:, :64].cpu(), options.output)
    if options.monitor is not None:
        plots.save_monitor(out.monitor, options.monitor)
        print(options.monitor)
    if options.save is not None:
        print(f"{options.save}: {list(out.particles.shape)}, NFE {out.nfe}")
    if options.output is not None:
        print(f"{options.output}: {len(out.particles)} samples, NFE {out.nfe}")


def _show(save: str | None, picture: str | None, particles: Any) -> list[str]:
    """Save particles as an array, as a picture, or both; return the files written."""
    from mmdflow import data, plots

    if save is not None:
        data.save_points(particles, save)
    if picture is not None:
        plots.save_samples(particles.cpu(), picture)
    return [name for name in (save, picture) if name is not None]


def _given(options: Namespace, pipeline: Any) -> dict[str, Any]:
    """Return what a run is given beside noise, from the files and labels that the options name."""
    import torch

    from mmdflow import data
    from mmdflow.errors import InputError

    def read(name: str) -> Any:
        return data.read_samples(name, channels).to(options.device, torch.float32)

    channels = pipeline.event_shape[0] if len(pipeline.event_shape) == 3 else 1
    given: dict[str, Any] = {name: True for name in ("noise_source", "monitor") if options[name]}
    if options.source is not None:
        particles = read(options.source)
        if options.num_samples is not None and options.num_samples > len(particles):
            raise InputError(f"num_samples = {options.num_samples}: the source holds {len(particles)}")
        given["particles"] = particles[: options.num_samples]
    if options.known is not None:
        known, mask = read(options.known), read(options.mask)
        given["known"] = known
        given["mask"] = mask != 0 if data.is_points_file(options.mask) else mask > 0
    if options.labels is not None:
        given["labels"] = torch.as_tensor(options.labels, device=options.device)
    return given


def _evaluate(arguments: list[str]) -> None:
    from mmdflow.errors import InputError

    what = "Judge a model's samples against the data that it was trained on; or, with --reference or --protocol, any images."
    parser = _sampler_parser("evaluate", what)
    parser.add_argument("-n", "--num_samples", type=int, help="samples drawn; by default the recipe's")
    parser.add_argument("--particles_per_run", type=int, help="particles that flow together; by default the recipe's")
    parser.add_argument("--seed", type=int, help="of the samples and tests; by default the recipe's")
    parser.add_argument("-o", "--output", type=str, help="JSON file; by default metrics.json in a run folder")
    parser.add_argument("--figure", type=str, help="a picture of the report; by default report.png in a run folder")
    parser.add_argument(
        "--reference", type=str, help="judge against: a data set's name, a folder of pictures, .npz, ..."
    )
    parser.add_argument("--split", type=str, help="part of the reference: train (by default) or test")
    parser.add_argument(
        "--protocol", type=str, help="reference, split and number of samples by name: cifar10, mnist, ..."
    )
    parser.add_argument("--features", type=str, help="classifier, inception, inception:FILE or timm:MODEL")
    parser.add_argument("--report", type=str, help="a folder for a page to look at: report.md and pictures")
    options = parse(parser, arguments)
    if options.reference is not None or options.protocol is not None:
        _judge(options)
        return
    for name in ("split", "features", "report"):
        if options[name] is not None:
            raise InputError(
                f"{name} = {options[name]!r}: is for --reference or --protocol, one of which must be given"
            )

    from mmdflow._pretrained import is_pipeline

    if Path(options.model).exists() and not is_pipeline(options.model):
        raise InputError(
            f"reference is missing: {options.model} is no model; judge images by --reference or --protocol"
        )

    from mmdflow import plots
    from mmdflow._files import make_folder
    from mmdflow.recipes import run

    pipeline, how = _load(options)
    folder = Path(options.model)
    is_run = (folder / "recipe.yaml").is_file()
    output = options.output or (folder / "metrics.json" if is_run else None)
    figure = options.figure or (folder / "report.png" if is_run else None)
    if output is not None:
        make_folder(Path(output).parent)
    if figure is not None:
        plots.check_output(figure)
    report = run.evaluate(
        pipeline,
        num_samples=options.num_samples,
        particles_per_run=options.particles_per_run,
        seed=options.seed,
        report_file=None if output is None else Path(output),
        figure=None if figure is None else Path(figure),
        progress=True,
        **how,
    )
    print(_table(report))
    if output is not None or figure is not None:
        print(f"\nwritten: {', '.join(str(f) for f in (output, figure) if f is not None)}")


def _judge(options: Namespace) -> None:
    """Judge images, or samples of a model, against a reference."""
    from mmdflow._files import make_folder
    from mmdflow._pretrained import is_pipeline
    from mmdflow.errors import InputError
    from mmdflow.recipes import protocols, run
    from mmdflow.recipes.judge import check_alike, judge, save_page

    if options.protocol is not None and (options.reference is not None or options.split is not None):
        raise InputError(
            f"protocol = {options.protocol!r}: names reference and split; leave --reference and --split out"
        )
    rule = None if options.protocol is None else protocols.protocol(options.protocol)
    name = options.reference if rule is None else rule.data
    split = (options.split or "train") if rule is None else rule.split
    seed = _checks.count("seed", 0 if options.seed is None else options.seed, 0)
    reference = protocols.open_images(name, split)
    made: dict[str, Any] = {}
    samples = pipeline = None
    if is_pipeline(options.model):
        pipeline, how = _load(options)
        check_alike(options.model, pipeline.event_shape, reference)
    else:
        samples = protocols.drawn(protocols.open_images(options.model, "train", reference), options.num_samples, seed)
        check_alike(samples.source, samples.event_shape, reference)
    extractor = protocols.extractor_for(options.features or (None if rule is None else "inception"), name)
    if pipeline is not None:
        count = options.num_samples or (10_000 if rule is None else rule.num_samples)
        together = options.particles_per_run or min(count, 200)
        particles, nfe = run.draw_samples(pipeline, count, together, seed, progress=True, **how)
        samples = protocols.as_images(particles, f"{count} samples of {options.model}")
        made = {"nfe": nfe, "particles_per_run": together, "settings": how, "trained": pipeline.provenance}
    assert samples is not None
    report = {"protocol": options.protocol, "says": None if rule is None else rule.says}
    report |= judge(samples, reference, extractor, seed=seed, progress=True) | made
    if rule is not None and len(samples) != rule.num_samples:
        print(f"note: {len(samples)} samples; protocol {options.protocol} asks for {rule.num_samples}", file=sys.stderr)
    for key, value in report.items():
        if isinstance(value, float | list) or (isinstance(value, dict) and "std" in value):
            print(f"{key:<28} {protocols.said(value)}")
    print(f"features: {extractor.name}; {len(samples)} samples against {len(reference)}: {reference.source}")
    written = []
    if options.output is not None:
        make_folder(Path(options.output).parent)
        run.save_report(report, Path(options.output))
        written.append(options.output)
    if options.report is not None:
        written.append(str(save_page(report, samples, reference, Path(options.report))))
    if written:
        print(f"written: {', '.join(written)}")


def _table(report: dict[str, Any]) -> str:
    """Return the report as text: every figure beside that of held-out data."""
    rows = [("", "samples", "held-out data")]
    for key, value in report.items():
        if isinstance(value, float) and f"{key}_reference" in report:
            rows.append((key, f"{value:.4g}", f"{report[f'{key}_reference']:.4g}"))
    if "classifier_fd_random_split" in report:
        rows.append(("  of random real splits", "", f"{report['classifier_fd_random_split']:.4g}"))
    for key in ("mmd_p_value", "num_samples", "subset_size", "nfe", "sample_seconds", "train_seconds"):
        if report.get(key) is not None:
            rows.append((key, f"{report[key]:.4g}" if isinstance(report[key], float) else str(report[key]), ""))
    if "class_histogram" in report:
        for name in ("class_histogram", "class_histogram_reference"):
            label = "classes in percent" if name == "class_histogram" else "  held-out data"
            rows.append((label, " ".join(f"{100 * share:.1f}" for share in report[name]), ""))
    lines = [f"{a:<24} {b:>12} {c:>14}".rstrip() for a, b, c in rows]
    if "classifier" in report:
        lines.append(f"features: {report['classifier']}; its Frechet distance is not an FID")
    return "\n".join(lines)


def _flow(arguments: list[str]) -> None:
    from mmdflow.errors import InputError
    from mmdflow.recipes import FlowSpec

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
    from mmdflow.recipes import particles

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


def _reproduce(arguments: list[str]) -> None:

    parser = new_parser("reproduce", "Make figures of the papers again; without a name, list them.")
    parser.add_argument("name", type=str, nargs="?", help="a reproduction's name, or all")
    parser.add_argument(
        "--scale", type=str, default="small", help="small (minutes on 2 CPU cores) or full (the paper's settings)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument(
        "-o", "--output", type=str, default="reproductions", help="folder of the figures and JSON files"
    )
    options = parse(parser, arguments)

    from mmdflow import reproduce

    if options.name is None:
        print("reproductions (mmdflow reproduce NAME, or all):")
        for name in reproduce.NAMES:
            print(f"  {name:<22} {reproduce.module(name).TITLE}")
        return
    _checks.choice("name", options.name, ["all", *reproduce.NAMES])
    folder = Path(options.output)
    done: list[str] = []
    for name in reproduce.NAMES if options.name == "all" else (options.name,):
        try:
            report = reproduce.reproduce(
                name, reproduce.module(name), folder, scale=options.scale, seed=options.seed, progress=True
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"Done and saved: {', '.join(done) or 'nothing'}; not done: {name}") from None
        done.append(name)
        print(f"claim:   {report['claim']}")
        print(f"finding: {report['finding']}")
        print(f"verdict: {'seen' if report['seen'] else 'not seen'} ({report['seconds']:.0f} s)")
        endings = ["png", "json", *(["md"] if "table" in report else [])]
        print("written: " + ", ".join(f"{folder / name}.{ending}" for ending in endings))


def _compare(arguments: list[str]) -> None:
    parser = new_parser("compare", "Train every method on a data set for the same time; judge them alike in one table.")
    parser.add_argument("--data", type=str, default="digits", help="a data set that methods have recipes for")
    parser.add_argument("--budget", type=str, default="60s", help="training of each method: 120s, 2min or 1h")
    parser.add_argument("--methods", type=list[str], help="a [list] of them; by default all that there are")
    parser.add_argument("--seeds", type=int, default=1, help="how many; the table then has mean and deviation")
    parser.add_argument("-n", "--num_samples", type=int, help="samples judged; by default the recipes'")
    parser.add_argument(
        "-o", "--output", type=str, help="folder of the results; by default comparisons/DATA-BUDGET, gone on with"
    )
    options = parse(parser, arguments)

    from mmdflow.recipes.compare import budget_seconds, compare, methods_for, order

    seconds = budget_seconds(options.budget)
    methods_for(options.data, options.methods)
    folder = Path(options.output or f"comparisons/{options.data}-{seconds:g}s")
    try:
        result = compare(
            options.data,
            seconds,
            folder,
            methods=options.methods,
            seeds=options.seeds,
            num_samples=options.num_samples,
            progress=True,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"What is done is in {folder}; the same command goes on") from None
    print(f"order:   {' > '.join(order(result['rows']))}")
    print(f"written: {folder / 'compare.md'}, {folder / 'compare.json'}, a grid a method")


def _recipes(arguments: list[str]) -> None:
    parse(new_parser("recipes", "List the recipes and shipped models."), arguments)

    import yaml

    from mmdflow._files import read_json, shipped_models
    from mmdflow.recipes import recipe_names, recipe_path

    print("recipes (mmdflow train NAME --output=DIR):")
    width = max(map(len, recipe_names()))
    for name in recipe_names():
        print(f"  {name:<{width}} {yaml.safe_load(recipe_path(name).read_text())['description']}")
    print("shipped models (mmdflow sample NAME -o grid.png):")
    for name, folder in shipped_models().items():
        made = read_json(folder / "config.json")["provenance"]
        print(f"  {name:<{width}} {made['steps']} steps in {made['train_seconds']:.0f} s on {made['device']}")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": _train,
    "flow": _flow,
    "sample": _sample,
    "evaluate": _evaluate,
    "reproduce": _reproduce,
    "compare": _compare,
    "recipes": _recipes,
}
