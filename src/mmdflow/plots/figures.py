"""Figures of matplotlib, and pictures of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def check_matplotlib() -> None:
    """Raise ImportError, in one line, where there is no matplotlib: before the work that a figure would show."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError("this picture needs matplotlib: pip install 'mmdflow[plots]'") from error


def _empty(size: tuple[float, float]) -> Figure:
    check_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def row_of_axes(columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Return a figure of that size in inches, and its axes side by side."""
    figure = _empty(size)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def to_image(figure: Figure) -> Image.Image:
    """Return the picture of a figure."""
    canvas: Any = figure.canvas
    canvas.draw()
    rgba: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())
    return Image.fromarray(rgba[:, :, :3].copy())


def draw(drawing: Callable[[Figure], None], size: tuple[float, float] = (12.0, 4.0)) -> Image.Image:
    """Return the picture of an empty figure that `drawing` fills (it may change the figure's size)."""
    figure = _empty(size)
    drawing(figure)
    return to_image(figure)
