"""`evaluate`: a model against the data that it was trained on, or any images against a reference."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmdflow import _checks, _run_folder
from mmdflow.cli._options import Options
from mmdflow.cli.models import check_device, load, model_parser, refuse_settings

if TYPE_CHECKING:
    from torch import Tensor

    from mmdflow.data import ImageSet


def evaluate_command(arguments: list[str]) -> None:
    """Judge a model's samples against its data, or images against a reference; print and write the figures."""
    from mmdflow.errors import InputError

    description = (
        "Judge a model's samples against the data of its training; or, with --reference or --protocol, any images."
    )
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
    parser.add_argument("--features", type=str, help="classifier, inception, inception:FILE or timm:MODEL")
    parser.add_argument(
        "--report", type=str, help="a folder for a page to look at: report.html, report.md and pictures"
    )
    options = parser.parse(arguments)
    if options.reference is not None or options.protocol is not None:
        _judge(options)
        return
    for name in ("split", "features", "report"):
        if options[name] is not None:
            raise InputError(
                f"{name} = {options[name]!r}: is for --reference or --protocol, one of which must be given"
            )

    from mmdflow.methods._shared.pretrained import is_pipeline

    if Path(options.model).exists() and not is_pipeline(options.model):
        raise InputError(
            f"reference is missing: {options.model} is no model; judge images by --reference or --protocol"
        )

    from mmdflow import plots
    from mmdflow._files import make_folder
    from mmdflow.evaluation import models

    pipeline, settings = load(options)
    folder = Path(options.model)
    is_run = (folder / _run_folder.RECIPE).is_file()
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


def _judge(options: Options) -> None:
    """Judge images, or samples of a model, against a reference."""
    from mmdflow._files import make_folder
    from mmdflow.errors import InputError
    from mmdflow.evaluation import models, protocols
    from mmdflow.evaluation.judge import check_alike, judge
    from mmdflow.evaluation.page import save_page
    from mmdflow.methods._shared.pretrained import is_pipeline

    if options.protocol is not None and (options.reference is not None or options.split is not None):
        raise InputError(
            f"protocol = {options.protocol!r}: names reference and split; leave --reference and --split out"
        )
    if options.figure is not None:
        raise InputError(f"figure = {options.figure!r}: is of a model against its own data; use --report here")
    rule = None if options.protocol is None else protocols.protocol(options.protocol)
    name = options.reference if rule is None else rule.data
    split = (options.split or "train") if rule is None else rule.split
    check_device(options.device)
    options.seed = _checks.count("seed", 0 if options.seed is None else options.seed, 0)
    for folder in (options.report, None if options.output is None else Path(options.output).parent):
        if folder is not None:
            make_folder(Path(folder))
    reference = protocols.open_images(name, split)
    other = protocols.other_part(name, split, reference)
    training, held_out = (reference, other) if split == "train" or other is None else (other, reference)
    samples = trajectory = model = None
    made: dict[str, Any] = {}
    if is_pipeline(options.model):
        model = load(options)
        check_alike(options.model, model[0].event_shape, reference)
    else:
        samples = _of_images(options, reference)
    extractor = protocols.extractor_for(
        options.features or (None if rule is None else "inception"), name, options.device
    )
    if model is not None:
        samples, trajectory, made = _of_model(*model, options, 10_000 if rule is None else rule.num_samples)
    assert samples is not None
    judgement = judge(
        samples, reference, extractor, training=training, held_out=held_out, seed=options.seed, progress=True
    )
    chosen = {"protocol": options.protocol, "says": None if rule is None else rule.says}
    report = chosen | judgement.figures | made
    if rule is not None and len(samples) != rule.num_samples:
        print(f"note: {len(samples)} samples; protocol {options.protocol} asks for {rule.num_samples}", file=sys.stderr)
    for key, value in report.items():
        if isinstance(value, float | list) or (isinstance(value, dict) and "std" in value):
            print(f"{key:<28} {protocols.said(value)}")
    print(f"features: {extractor.name}; {len(samples)} samples against {len(reference)}: {reference.source}")
    written = []
    if options.output is not None:
        models.save_report(report, Path(options.output))
        written.append(options.output)
    if options.report is not None:
        page = save_page(replace(judgement, figures=report), samples, training, Path(options.report), trajectory)
        written.append(str(page))
    if written:
        print(f"written: {', '.join(written)}")


def _of_images(options: Options, reference: ImageSet) -> ImageSet:
    """Return the images that MODEL names, of any program."""
    from mmdflow.errors import InputError
    from mmdflow.evaluation.judge import check_alike
    from mmdflow.evaluation.protocols import open_samples

    why = f"is for a model; must be left out for images, as {options.model}"
    refuse_settings(options, why)
    if options.particles_per_run is not None:
        raise InputError(f"particles_per_run = {options.particles_per_run}: {why}")
    samples = open_samples(options.model, reference, options.num_samples, options.seed)
    check_alike(samples.source, samples.event_shape, reference)
    return samples


def _of_model(
    pipeline: Any, settings: dict[str, Any], options: Options, default: int
) -> tuple[ImageSet, Tensor | None, dict[str, Any]]:
    """Return a model's samples, a run of a dozen particles if a page is to show it, and how both were made."""
    import torch

    from mmdflow.evaluation import models, protocols

    count = default if options.num_samples is None else options.num_samples
    together = min(count, 200) if options.particles_per_run is None else options.particles_per_run
    particles, nfe = models.draw_samples(pipeline, count, together, options.seed, progress=True, **settings)
    trajectory = None
    if options.report is not None:
        generator = torch.Generator().manual_seed(options.seed)
        trajectory = pipeline(12, generator=generator, return_trajectory=True, **settings).trajectory.cpu()
    made = {"nfe": nfe, "particles_per_run": together, "settings": settings, "trained": pipeline.provenance}
    return protocols.as_images(particles, f"{count} samples of {options.model}"), trajectory, made


def _table(report: dict[str, Any]) -> str:
    """Return the report as text: every figure beside that of held-out data."""
    rows = [("", "samples", "held-out data")]
    for key, value in report.items():
        if isinstance(value, float) and f"{key}_reference" in report:
            rows.append((key, f"{value:.4g}", f"{report[f'{key}_reference']:.4g}"))
    if "classifier_fd_random_split" in report:
        rows.append(("  of random real splits", "", f"{report['classifier_fd_random_split']:.4g}"))
    for key in (
        "classifier_fd_to_test",
        "mmd_p_value",
        "num_samples",
        "subset_size",
        "nfe",
        "sample_seconds",
        "train_seconds",
    ):
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
