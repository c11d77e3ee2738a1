"""`sample`: samples as a picture, as an animation of the flow, as arrays."""

from __future__ import annotations

import sys
from typing import Any

from mmdflow import _checks
from mmdflow.cli._options import Options, Parser, check_free, on_interrupt
from mmdflow.cli.models import load, model_parser


def sample_command(arguments: list[str]) -> None:
    """Draw samples of a model; write them, or the flow that made them."""
    options = _sample_parser().parse(arguments)
    _check_options(options)

    import torch

    from mmdflow import plots

    generator = torch.Generator().manual_seed(_checks.count("seed", options.seed, 0))
    pipeline, settings = load(options)
    if options.shards is not None:
        _sample_in_bulk(pipeline, settings, options)
        return
    animate = options.output is not None and plots.is_animation(options.output)
    out = _draw(
        pipeline,
        options,
        generator=generator,
        return_trajectory=animate,
        progress=True,
        **settings,
        **_conditions(options, pipeline),
    )
    _save_particles(options.save, None if animate else options.output, out.particles)
    if animate:
        plots.save_animation(out.trajectory[:, :64].cpu(), options.output)
    if options.monitor is not None:
        plots.save_monitor(out.monitor, options.monitor)
    _print_files(options, out)


def _sample_parser() -> Parser:
    parser = model_parser("sample", "Draw samples; show them as a picture, as an animation of the flow, save them.")
    parser.add_argument("-n", "--num_samples", type=int, help="how many; they flow together. 64, or all of a source")
    parser.add_argument("-o", "--output", type=str, help="a picture (.png, ...), or the flow as .gif or .mp4")
    parser.add_argument("--save", type=str, help="a .npz file of the samples: key `samples`, [n, *event]")
    parser.add_argument(
        "--shards",
        type=str,
        help="a folder for many samples, in files: by any number of processes; goes on where it was",
    )
    parser.add_argument("--particles_per_run", type=int, help="of --shards, how many flow together; 200 by default")
    parser.add_argument("--source", type=str, help="particles to start from: .npz, .npy, .pt, or a folder of pictures")
    parser.add_argument("--noise_source", action="store_true", help="noise the source forward to t_max first")
    parser.add_argument("--labels", type=str, help="a class, by number or name, for all, or a [list] of one a sample")
    parser.add_argument(
        "--known",
        type=str,
        help="an event whose masked part is kept: a picture (fitted to the model's size), .npz, .npy or .pt",
    )
    parser.add_argument("--mask", type=str, help="where it is known: white in a picture, non-zero in an array")
    parser.add_argument("--monitor", type=str, help="what the run looks like at each level, as a picture or .json")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_overwrite()
    return parser


def _check_options(options: Options) -> None:
    """Raise InputError for options that contradict each other, or files that cannot be written."""
    from mmdflow.distributed import current
    from mmdflow.errors import InputError

    if options.shards is not None:
        _check_bulk(options)
        return
    if current().size > 1:
        raise InputError(f"shards is missing on {current().size} processes: give --shards DIR; one picture is one run")
    if options.particles_per_run is not None:
        raise InputError(f"particles_per_run = {options.particles_per_run!r} without --shards: must be left out")
    if options.output is None and options.save is None:
        raise InputError("output is missing: give -o FILE (.png, .gif, .mp4), --save FILE.npz, or both")
    if options.save is not None and not options.save.endswith(".npz"):
        raise InputError(f"save = {options.save!r}: must end in .npz")
    if (options.known is None) != (options.mask is None):
        missing = "known" if options.known is None else "mask"
        raise InputError(f"{missing} is missing: --known and --mask go together")

    from mmdflow import plots

    if options.num_samples is not None:
        _checks.count("num_samples", options.num_samples)
    if options.output is not None:
        plots.check_output(options.output)
    if options.monitor is not None:
        plots.check_monitor_file(options.monitor)
    check_free(options, options.output, options.save, options.monitor)


#: What goes into a picture, conditions a run or replaces a file, of a call without --shards.
_NOT_IN_BULK = ("overwrite", "output", "save", "source", "noise_source", "labels", "known", "mask", "monitor")


def _check_bulk(options: Options) -> None:
    """Raise InputError for options that are not for many samples."""
    from mmdflow.errors import InputError

    for name in _NOT_IN_BULK:
        if options[name] not in (None, False):
            raise InputError(f"{name} = {options[name]!r} with --shards: must be left out")
    if options.num_samples is None:
        raise InputError("num_samples is missing: give -n N with --shards")


def _sample_in_bulk(pipeline: Any, settings: dict[str, Any], options: Options) -> None:
    """Draw samples into files, on all ranks; say how to go on after Ctrl-C."""
    from pathlib import Path

    from mmdflow.distributed import current
    from mmdflow.runs.shards import Plan, sample_shards

    plan = Plan(options.num_samples, options.particles_per_run or 200, options.seed)
    with on_interrupt(lambda: f"The files in {options.shards} are whole; the same command goes on"):
        sample_shards(pipeline, plan, Path(options.shards), current(), progress=True, **settings)
    print(f"{options.shards}: {plan.num_samples} samples in {len(plan.files)} file{'s' * (len(plan.files) > 1)}")


def _draw(pipeline: Any, options: Options, **arguments: Any) -> Any:
    """Sample; where particles become non-finite, save the last finite ones and say so in the error."""
    from mmdflow import plots
    from mmdflow.errors import DivergedError

    try:
        return pipeline(options.num_samples or 64, **arguments)
    except DivergedError as error:
        if error.particles is None:
            raise
        picture = None if str(options.output).lower().endswith(".mp4") else options.output
        files = _save_particles(options.save, picture, error.particles)
        message = f"{error}. The last finite particles: {', '.join(files) or 'not saved'}"
        if error.monitor is not None:
            plots.save_monitor(error.monitor, options.monitor)
            message += f"; the monitor until then: {options.monitor}"
        raise DivergedError(message) from error


def _save_particles(save: str | None, picture: str | None, particles: Any) -> list[str]:
    """Save particles as an array, as a picture, or both; return the files written."""
    from mmdflow import data, plots

    if save is not None:
        data.save_points(particles, save)
    if picture is not None:
        plots.save_samples(particles.cpu(), picture)
    return [name for name in (save, picture) if name is not None]


def _print_files(options: Options, out: Any) -> None:
    """Print the files written, with what they hold."""
    if options.monitor is not None:
        print(options.monitor)
    if options.save is not None:
        print(f"{options.save}: {list(out.particles.shape)}, NFE {out.nfe}")
    if options.output is not None:
        print(f"{options.output}: {len(out.particles)} samples, NFE {out.nfe}")


def _conditions(options: Options, pipeline: Any) -> dict[str, Any]:
    """Return what a run takes beside noise, from the files and labels that the options name."""
    import torch

    conditions: dict[str, Any] = {name: True for name in ("noise_source", "monitor") if options[name]}
    if options.source is not None:
        conditions["particles"] = _read_source(options, pipeline)
    if options.known is not None:
        conditions["known"] = _read_events(options.known, options, pipeline)
        conditions["mask"] = _read_mask(options, pipeline)
    if options.labels is not None:
        labels = _labels(options.labels, pipeline.provenance.get("data", {}).get("classes", []))
        conditions["labels"] = torch.as_tensor(labels, device=options.device)
    return conditions


def _labels(text: str, classes: list[str]) -> int | list[int]:
    """Return the numbers of the classes that a word or a [list] of words names; a class's name goes before its number."""
    from mmdflow.errors import InputError

    many = text.startswith("[") and text.endswith("]")
    numbers = []
    for word in map(str.strip, text[1:-1].split(",") if many else [text]):
        if word in classes:
            numbers.append(classes.index(word))
        elif word.removeprefix("-").isdecimal():
            numbers.append(int(word))
        else:
            names = f", of the classes {', '.join(classes)}{_checks.near(word, classes)}" if classes else ""
            raise InputError(f"labels = {text!r}: must be a class or a list of them, in brackets: [a,b]{names}")
    return numbers if many else numbers[0]


def _read_mask(options: Options, pipeline: Any) -> Any:
    """Return where events are known: an array's entries that are not 0, or a picture's white; colours are refused."""
    from mmdflow import data
    from mmdflow.errors import InputError

    if data.is_points_file(options.mask):
        return _read_events(options.mask, options, pipeline) != 0
    pixels = data.read_images(options.mask, 3, _side(pipeline)).to(options.device)
    if bool((pixels.amax(1) - pixels.amin(1) > 0.1).any()):
        raise InputError(f"mask = {options.mask!r}: is a colour picture: must be black and white, white where known")
    return pixels[:, :1] > 0


def _read_source(options: Options, pipeline: Any) -> Any:
    """Return the first `num_samples` particles of the source, or all; note on stderr where images look like [0, 1]."""
    from mmdflow.errors import InputError

    particles = _read_events(options.source, options, pipeline)
    if options.num_samples is not None and options.num_samples > len(particles):
        raise InputError(f"num_samples = {options.num_samples}: the source holds {len(particles)}")
    if len(pipeline.event_shape) == 3 and 0 <= float(particles.min()) < 0.5 < float(particles.max()) <= 1:
        print(f"mmdflow: source = {options.source}: its images lie in [0, 1]; models take [-1, 1]", file=sys.stderr)
    return particles[: options.num_samples]


def _read_events(file: str, options: Options, pipeline: Any) -> Any:
    """Return the events of a file or folder on the options' device, images with the pipeline's channels."""
    import torch

    from mmdflow import data

    channels = pipeline.event_shape[0] if len(pipeline.event_shape) == 3 else 1
    return data.read_samples(file, channels, _side(pipeline)).to(options.device, torch.float32)


def _side(pipeline: Any) -> int | None:
    """Return the side of a model's square images, to which pictures are fitted as those that it was trained on."""
    shape = pipeline.event_shape
    return shape[1] if len(shape) == 3 and shape[1] == shape[2] else None
