"""`evaluate`: a model against the data that it was trained on, or any images against a reference."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdflow import _checks, _run_folder
from mmdflow.cli._options import Options, Parser, check_free
from mmdflow.cli.models import check_device, load, model_parser, refuse_settings

if TYPE_CHECKING:
    from torch import Tensor

    from mmdflow.data import ImageSet
    from mmdflow.evaluation.protocols import EvaluationProtocol

#: Samples drawn of a model that is judged against a reference without a protocol.
_NUM_SAMPLES = 10_000
#: Particles that flow together there, and particles whose run a page shows.
_TOGETHER, _SHOWN = 200, 12
#: Figures of a model's report that stand alone, in this order, below those beside held-out data.
_ALONE = ("frechet_distance_to_test", "mmd_p_value", "copying_z", "close_share")
_FACTS = ("num_samples", "subset_size", "nfe", "sample_seconds", "train_seconds")


def evaluate_command(arguments: list[str]) -> None:
    """Judge a model's samples against its data, or images against a reference; print the figures, write the files."""
    from mmdflow.errors import InputError

    options = _parser().parse(arguments)
    if options.reference is not None or options.protocol is not None:
        _judge_against_reference(options)
        return
    for name in ("split", "features", "report"):
        if options[name] is not None:
            raise InputError(
                f"{name} = {options[name]!r}: is for --reference or --protocol, one of which must be given"
            )
    _judge_model(options)


def _parser() -> Parser:
    description = "Judge a model's samples against its training data; or, with --reference or --protocol, any images."
    parser = model_parser("evaluate", description)
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
    parser.add_argument("--features", type=str, help="own, report, random, inception, inception:FILE or timm:MODEL")
    parser.add_argument(
        "--report", type=str, help="a folder for a page to look at: report.html, report.md and pictures"
    )
    parser.add_overwrite()
    return parser


def _judge_model(options: Options) -> None:
    """Judge a model's samples against the data that it was trained on."""
    from mmdflow import plots
    from mmdflow._files import make_folder
    from mmdflow.errors import InputError
    from mmdflow.evaluation import models
    from mmdflow.methods._shared.folder import is_model

    if Path(options.model).exists() and not is_model(options.model):
        raise InputError(
            f"reference is missing: {options.model} is no model; judge images by --reference or --protocol"
        )
    pipeline, settings = load(options)
    folder = Path(options.model)
    is_run = (folder / _run_folder.RECIPE).is_file()
    check_free(options, options.output, options.figure)
    output = options.output or (folder / _run_folder.METRICS if is_run else None)
    figure = options.figure or (folder / _run_folder.REPORT if is_run else None)
    if output is not None:
        make_folder(Path(output).parent)
    if figure is not None:
        plots.check_output(figure)
    report = models.evaluate(
        pipeline,
        **options.some("num_samples", "particles_per_run", "seed"),
        report_file=None if output is None else Path(output),
        figure=None if figure is None else Path(figure),
        progress=True,
        **settings,
    )
    print(_table(report))
    if output is not None or figure is not None:
        print(f"\nwritten: {', '.join(str(f) for f in (output, figure) if f is not None)}")


@dataclass(frozen=True)
class _Reference:
    """What is judged against: its name and part, its images, those that may have been copied, and those held out."""

    name: str
    split: str
    protocol: EvaluationProtocol | None
    images: ImageSet
    training: ImageSet
    held_out: ImageSet | None


@dataclass(frozen=True)
class _Samples:
    """What is judged: images, and of a model's the run of a dozen particles and how they were drawn."""

    images: ImageSet
    trajectory: Tensor | None
    drawn: dict[str, Any]


def _judge_against_reference(options: Options) -> None:
    """Judge images, or samples of a model, against a reference."""
    from mmdflow.evaluation import protocols
    from mmdflow.evaluation.judge import check_alike, judge
    from mmdflow.methods._shared.folder import is_model

    _check_reference_options(options)
    reference = _open_reference(options)
    rule = reference.protocol
    samples = model = None
    if is_model(options.model):
        model = load(options)
        check_alike(options.model, model[0].event_shape, reference.images)
    else:
        samples = _open_images(options, reference.images)
    features = options.features or (None if rule is None else "inception")
    extractor = protocols.extractor_for(features, reference.name, options.device)
    if model is not None:
        samples = _draw_samples(*model, options, _NUM_SAMPLES if rule is None else rule.num_samples)
    assert samples is not None
    judgement = judge(
        samples.images,
        reference.images,
        extractor,
        training=reference.training,
        held_out=reference.held_out,
        seed=options.seed,
        progress=True,
    )
    source = {"protocol": options.protocol, "says": None if rule is None else rule.says}
    judgement = replace(judgement, figures=source | judgement.figures | samples.drawn)
    _print_judgement(judgement.figures, reference, len(samples.images))
    _write_judgement(judgement, samples, reference.training, options)


def _check_reference_options(options: Options) -> None:
    """Check what needs no file to be read, make the folders of the results, and fill in the seed."""
    from mmdflow._files import make_folder
    from mmdflow.errors import InputError

    if options.protocol is not None and (options.reference is not None or options.split is not None):
        raise InputError(
            f"protocol = {options.protocol!r}: names reference and split; leave --reference and --split out"
        )
    if options.figure is not None:
        raise InputError(f"figure = {options.figure!r}: is of a model against its own data; use --report here")
    if options.protocol is not None:
        from mmdflow.evaluation.protocols import protocol

        protocol(options.protocol)
    check_device(options.device)
    options.seed = _checks.count("seed", 0 if options.seed is None else options.seed, 0)
    check_free(options, options.output, None if options.report is None else Path(options.report) / "report.html")
    for folder in (options.report, None if options.output is None else Path(options.output).parent):
        if folder is not None:
            make_folder(Path(folder))


def _open_reference(options: Options) -> _Reference:
    """Return the reference that the options name; its training part is searched for copies."""
    from mmdflow.evaluation import protocols

    rule = None if options.protocol is None else protocols.protocol(options.protocol)
    name = options.reference if rule is None else rule.data
    split = (options.split or "train") if rule is None else rule.split
    images = protocols.open_images(name, split)
    other = protocols.other_part(name, split, images)
    training, held_out = (images, other) if split == "train" or other is None else (other, images)
    return _Reference(name, split, rule, images, training, held_out)


def _open_images(options: Options, reference: ImageSet) -> _Samples:
    """Return the images that MODEL names, of any program."""
    from mmdflow.errors import InputError
    from mmdflow.evaluation.judge import check_alike
    from mmdflow.evaluation.protocols import as_images, open_samples
    from mmdflow.runs.shards import is_shards, read_shards

    reason = f"is for a model; must be left out for images, as {options.model}"
    refuse_settings(options, reason)
    if options.particles_per_run is not None:
        raise InputError(f"particles_per_run = {options.particles_per_run}: {reason}")
    if is_shards(options.model):
        samples = read_shards(options.model)
        if options.num_samples is not None and options.num_samples > len(samples):
            raise InputError(f"num_samples = {options.num_samples}: {options.model} holds {len(samples)}")
        samples = samples[: options.num_samples]
        images = as_images(samples, f"{len(samples)} samples of {options.model}")
    else:
        images = open_samples(options.model, reference, options.num_samples, options.seed)
    check_alike(images.source, images.event_shape, reference)
    return _Samples(images, None, {})


def _draw_samples(pipeline: Any, settings: dict[str, Any], options: Options, default: int) -> _Samples:
    """Return a model's samples, and a run of a dozen particles if a page is to show it."""
    import torch

    from mmdflow.evaluation import models, protocols

    count = default if options.num_samples is None else _checks.count("num_samples", options.num_samples, 2)
    together = min(count, _TOGETHER) if options.particles_per_run is None else options.particles_per_run
    particles, nfe = models.draw_samples(pipeline, count, together, options.seed, progress=True, **settings)
    trajectory = None
    if options.report is not None:
        generator = torch.Generator().manual_seed(options.seed)
        trajectory = pipeline(_SHOWN, generator=generator, return_trajectory=True, **settings).trajectory.cpu()
    drawn = {"nfe": nfe, "particles_per_run": together, "settings": settings, "trained": pipeline.provenance}
    return _Samples(protocols.as_images(particles, f"{count} samples of {options.model}"), trajectory, drawn)


def _print_judgement(report: dict[str, Any], reference: _Reference, count: int) -> None:
    from mmdflow.evaluation.figures import text

    rule = reference.protocol
    if rule is not None and count != rule.num_samples:
        print(f"note: {count} samples; protocol {report['protocol']} asks for {rule.num_samples}", file=sys.stderr)
    for key, value in report.items():
        if isinstance(value, float | list) or (isinstance(value, dict) and "mean" in value):
            print(f"{key:<28} {text(value)}")
    images = reference.images
    print(f"features: {report['features']}; {count} samples against {len(images)}: {images.source}")


def _write_judgement(judgement: Any, samples: _Samples, training: ImageSet, options: Options) -> None:
    """Write the JSON file and the page that the options name."""
    from mmdflow.evaluation.models import save_report
    from mmdflow.evaluation.page import save_page

    written = []
    if options.output is not None:
        save_report(judgement.figures, Path(options.output))
        written.append(options.output)
    if options.report is not None:
        page = save_page(judgement, samples.images, training, Path(options.report), samples.trajectory)
        written.append(str(page))
    if written:
        print(f"written: {', '.join(written)}")


def _table(report: dict[str, Any]) -> str:
    """Return a model's report as text: every figure beside that of held-out data."""
    rows = [("", "samples", "held-out data")]
    for key, value in report.items():
        if f"{key}_reference" in report and not isinstance(value, list):
            both = value, report[f"{key}_reference"]
            of_samples, held_out = (figure["mean"] if isinstance(figure, dict) else figure for figure in both)
            rows.append((key, f"{of_samples:.4g}", f"{held_out:.4g}"))
            if f"{key}_random_split" in report:
                rows.append(("  of random real splits", "", f"{report[f'{key}_random_split']:.4g}"))
    for key in (*_ALONE, *_FACTS):
        if report.get(key) is not None:
            rows.append((key, f"{report[key]:.4g}" if isinstance(report[key], float) else str(report[key]), ""))
    if "class_histogram" in report:
        for name in ("class_histogram", "class_histogram_reference"):
            label = "classes in percent" if name == "class_histogram" else "  held-out data"
            rows.append((label, " ".join(f"{100 * share:.1f}" for share in report[name]), ""))
    lines = [f"{a:<24} {b:>12} {c:>14}".rstrip() for a, b, c in rows]
    if report["judges"]:
        lines.append("features (none of these Frechet distances is an FID):")
        lines += [f"  {key:<22} {name}" for key, name in report["judges"].items()]
    return "\n".join(lines)
