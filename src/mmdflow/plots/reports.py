"""The figure of a report, curves of a sampling run and of a training, pictures side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mmdflow import _arrays
from mmdflow._files import make_folder, write_json
from mmdflow.errors import InputError
from mmdflow.plots.figures import check_matplotlib, draw, row_of_axes, to_image
from mmdflow.plots.pictures import check_output, image_grid, is_animation, save_picture, scatter_on
from mmdflow.types import ArrayLike, SamplingMonitor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_report(
    samples: Tensor | ArrayLike,
    test: Tensor | ArrayLike,
    distances: tuple[Float[Tensor, " n"] | ArrayLike, Float[Tensor, " m"] | ArrayLike],
    report: dict[str, Any],
    path: str | Path,
) -> None:
    """Save one figure of a report: samples beside held-out data, distances to the training set, classes.

    Args:
        samples: [n, *event].
        test: held-out data, [m, *event].
        distances: of samples and of held-out data to their nearest training samples.
        report: of `mmdflow.evaluation.samples.evaluate_samples`.
        path: the picture's file.
    """
    samples, test = _arrays.tensor("samples", samples), _arrays.tensor("test", test)
    of_samples, of_test = (_arrays.tensor("distances", values) for values in distances)
    has_classes = "class_histogram" in report
    figure, axes = row_of_axes(4 if has_classes else 3, (16 if has_classes else 12, 4))
    for ax, name, x in ((axes[0], "samples", samples), (axes[1], "held-out data", test)):
        if x.ndim == 4:
            ax.imshow(np.asarray(image_grid(x[:64])), cmap="gray", vmin=0, vmax=255)
            ax.set_axis_off()
        else:
            scatter_on(ax, x[:3000], 3.0)
        ax.set_title(name)
    edges = np.linspace(0, max(float(d.quantile(0.995)) for d in (of_samples, of_test)), 40).tolist()
    for values, name in zip((of_samples, of_test), ("samples", "held-out data"), strict=True):
        axes[2].hist(values.numpy(), bins=edges, alpha=0.6, density=True, label=name)
    axes[2].set_title("distance to the nearest training sample")
    if has_classes:
        positions = np.arange(len(report["class_histogram"]))
        axes[3].bar(positions - 0.2, report["class_histogram"], 0.4, label="samples")
        axes[3].bar(positions + 0.2, report["class_histogram_reference"], 0.4, label="held-out data")
        axes[3].set_xticks(positions)
        axes[3].set_title(
            f"classes; classifier FD {report['frechet_distance']:.2f} (held-out {report['frechet_distance_reference']:.2f})"
        )
    for ax in axes[2:]:
        ax.set_ylim(top=1.25 * ax.get_ylim()[1])  # room for the legend above the bars
        ax.legend(frameon=False, loc="upper right", ncols=2)
    save_picture(to_image(figure), path)


def save_monitor(monitor: SamplingMonitor, path: str | Path) -> None:
    """Save what a sampling run looked like: curves over the noise level as a picture, or the numbers as .json."""
    if Path(path).suffix.lower() == ".json":
        columns = monitor.columns()
        write_json(path, {k: [v if math.isfinite(v) else None for v in values] for k, values in columns.items()})
        return
    figure, axes = row_of_axes(4, (15, 3.4))
    t = monitor.levels.tolist()
    panels = (
        ("slope |grad f|", monitor.slope, "linear"),
        ("mismatch / (noisy to clean)", monitor.relative_mismatch, "log"),
        ("participation ratio", monitor.participation, "linear"),
        ("share of shortened gradients", monitor.limited, "linear"),
    )
    for ax, (title, values, scale) in zip(axes, panels, strict=True):
        ax.plot(t, values.tolist(), marker=".", markersize=4)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("noise level t")
        if scale == "log" and bool((values > 0).any()):
            ax.set_yscale("log")
        else:
            ax.set_ylim(bottom=0)
        ax.invert_xaxis()  # as a run goes
    save_picture(to_image(figure), path)


def check_monitor_file(path: str | Path) -> None:
    """Raise InputError where `save_monitor` cannot write, before the run that it would show."""
    if Path(path).suffix.lower() == ".json":
        make_folder(Path(path).parent)
        return
    if is_animation(path):
        raise InputError(f"{path}: a monitor is a picture (.png, ...) or .json")
    check_output(path)
    check_matplotlib()


def save_curves(log: Mapping[str, Mapping[int, float]], path: str | Path) -> None:
    """Draw everything that a training run logged against its steps, in panels of their own.

    Args:
        log: value by step, by name, as `mmdflow.training.read_log` gives it.
        path: of the picture.

    Raises:
        InputError: if nothing was logged.
    """
    if not log:
        raise InputError("log is empty: must hold values of at least one step")

    def fill(figure: Figure) -> None:
        columns = min(4, len(log))
        axes = figure.subplots(math.ceil(len(log) / columns), columns, squeeze=False).flatten()
        for panel, (name, values) in zip(axes, log.items(), strict=False):
            steps, heights = list(values), list(values.values())
            panel.plot(steps, heights, linewidth=0.8, marker="." if len(steps) < 10 else None)
            if min(heights) > 0 and max(heights) > 50 * min(heights):
                panel.set_yscale("log")
            panel.set_title(name, fontsize=9)
            panel.tick_params(labelsize=7)
        for panel in axes[len(log) :]:
            panel.axis("off")

    save_picture(draw(fill, (12.0, 2.4 * math.ceil(len(log) / 4))), path)


def save_gallery(pictures: Mapping[str, str | Path], path: str | Path) -> None:
    """Draw pictures side by side, five in a row, each under its name.

    Args:
        pictures: files by name.
        path: of the picture.
    """

    def fill(figure: Figure) -> None:
        columns = min(5, len(pictures))
        rows = math.ceil(len(pictures) / columns)
        figure.set_size_inches(2.6 * columns, 2.8 * rows)
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel in axes:
            panel.set_axis_off()
        for panel, (name, file) in zip(axes, pictures.items(), strict=False):
            with Image.open(file) as opened:
                panel.imshow(np.asarray(opened), cmap="gray", vmin=0, vmax=255)
            panel.set_title(name, fontsize=10)

    save_picture(draw(fill), path)
