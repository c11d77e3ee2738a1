"""Tables of the paper in Markdown, and their pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from mmdflow import plots
from mmdflow.evaluation.distance import DistanceJudge
from mmdflow.studies._models import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mmdflow.studies._study import Results

#: The cell of a figure that does not exist.
NONE = "-"
#: Where a table's published figures are not in the text of the paper that this was written from.
NOT_AT_HAND = "The paper's figures of this table were not at hand; its words are the claim."


def shown_distance(value: float) -> str:
    """Return a distance in three digits; `NONE` where there is none."""
    return f"{value:.3g}" if math.isfinite(value) else NONE


def published(*judges: DistanceJudge) -> str:
    """Return the head of the column of published figures, which only FIDs of CIFAR-10 can be compared with."""
    same = any(judge.fid and judge.data == "cifar10" for judge in judges)
    return "published, CIFAR-10 FID" + ("" if same else " (not comparable)")


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table.

    Example:
        >>> print(markdown(["a", "b"], [["x", 1]]))
        | a | b |
        |---|---|
        | x | 1 |
    """
    lines = [head, *rows]
    text = ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(head), *text[1:]])


def bars(axes: Axes, measured: Mapping[str, Measured], unit: str, held_out: float) -> None:
    """Draw one bar a row, with two standard errors, and a line at the distance of held-out images."""
    names, values = list(measured), list(measured.values())
    errors = [m.bar for m in values]
    axes.barh(names, [m.mean for m in values], xerr=errors, color="tab:blue", alpha=0.7)
    axes.axvline(held_out, color="0.3", ls="--", lw=1, label="held-out images")
    axes.invert_yaxis()
    axes.set(xlabel=f"{unit} (± 2 standard errors)")
    axes.legend(frameon=False, fontsize=8)


def distance_axis(axes: Axes, unit: str, held_out: float) -> None:
    """Label the distances of an axis, with a line at that of held-out images and a legend."""
    axes.axhline(held_out, color="0.3", ls="--", lw=1, label="held-out images")
    axes.set(ylabel=f"{unit} (± 2 standard errors)")
    axes.legend(frameon=False)


def compare_rows(figure: Figure, tables: Mapping[str, Results[str]], shown: Sequence[str]) -> None:
    """Draw a line for each data set: bars of all its rows, and samples of those to be `shown`."""
    figure.set_size_inches(5.5 + 3 * len(shown), 4.5 * len(tables))
    grid = figure.add_gridspec(len(tables), 2 + len(shown))
    for line, (data, table) in enumerate(tables.items()):
        bars(figure.add_subplot(grid[line, :2]), table.rows, table.judge.unit, table.held_out)
        for place, name in enumerate(shown):
            show_samples(figure.add_subplot(grid[line, 2 + place]), table[name].samples, f"{data}\n{name}")


def show_samples(axes: Axes, samples: Tensor, title: str, columns: int = 8) -> None:
    """Show images in [-1, 1] in a grid without ticks."""
    coarse = ((samples.clamp(-1, 1) + 1) * 7.5).round() / 7.5 - 1  # few shades keep the file small
    axes.imshow(plots.image_grid(coarse, columns), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)
