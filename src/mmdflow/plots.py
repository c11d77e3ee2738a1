"""Pictures: grids of samples, scatter plots, animations of a flow, the figure of a report."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mmdflow import _arrays, _checks
from mmdflow._files import make_folder, new_file, write_json
from mmdflow._tensors import to_bytes
from mmdflow.errors import InputError
from mmdflow.types import ArrayLike, SamplingMonitor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Pixels that a sample is at least enlarged to.
_CELL = 48


def image_grid(images: Float[Tensor, "n c h w"], columns: int | None = None) -> Image.Image:
    """Return images in [-1, 1] side by side, enlarged to whole multiples of their pixels, on a grey ground."""
    n, channels, height, width = images.shape
    if channels not in (1, 3):
        raise InputError(f"images have {channels} channels: must be 1 or 3")
    columns = columns or math.ceil(math.sqrt(n))
    rows, scale, gap = math.ceil(n / columns), max(1, _CELL // max(height, width)), 2
    pixels = to_bytes(images).permute(0, 2, 3, 1).cpu().numpy()
    pixels = pixels.repeat(scale, 1).repeat(scale, 2)
    h, w = height * scale + gap, width * scale + gap
    canvas = np.full((rows * h + gap, columns * w + gap, channels), 96, np.uint8)
    for i, picture in enumerate(pixels):
        y, x = i // columns * h + gap, i % columns * w + gap
        canvas[y : y + h - gap, x : x + w - gap] = picture
    return Image.fromarray(canvas[:, :, 0] if channels == 1 else canvas)


def above_each_other(upper: Float[Tensor, "n c h w"], lower: Float[Tensor, "n c h w"]) -> Image.Image:
    """Return two rows of images, each of `lower` under its fellow."""
    return image_grid(torch.cat([upper, lower]), columns=len(upper))


def trajectory_grid(frames: Float[Tensor, "S n c h w"], moments: int = 12) -> Image.Image:
    """Return a flow of images as one picture: a particle a row, from left to right at most `moments` of its steps.

    They are evenly spaced, the first and the last among them.
    """
    steps = torch.linspace(0, len(frames) - 1, min(moments, len(frames))).round().long()
    return image_grid(frames[steps].transpose(0, 1).flatten(0, 1), columns=len(steps))


def scatter(points: Float[Tensor, "n 2"], limit: float = 3.0) -> Image.Image:
    """Return a scatter plot of points in the plane, on [-limit, limit]^2."""
    figure, axes = _figure(1, (5, 5))
    _scatter(axes[0], points, limit)
    return _to_image(figure)


def picture(samples: Tensor) -> Image.Image:
    """Return the picture of samples: a grid of images, or a scatter plot in the plane."""
    if samples.ndim == 4:
        return image_grid(samples)
    if samples.ndim == 2 and samples.shape[1] == 2:
        return scatter(samples)
    raise InputError(f"samples have event shape {list(samples.shape[1:])}: pictures are made of [c, h, w] or [2]")


def save_picture(image: Image.Image, path: str | Path) -> None:
    """Save one picture, whole or not at all."""
    check_output(path)
    with new_file(path) as aside:
        image.save(aside)


def save_samples(samples: Tensor, path: str | Path) -> None:
    """Save the picture of samples."""
    save_picture(picture(samples), path)


def save_animation(frames: Float[Tensor, "S n *event"], path: str | Path, *, seconds: float = 4.0) -> None:
    """Save a flow as .gif or .mp4; the last frame stays for a second and a half.

    Raises:
        InputError: for another file ending.
        ImportError: for .mp4 without imageio-ffmpeg.
    """
    save_pictures([picture(frame) for frame in frames], path, seconds=seconds)


def save_pictures(pictures: Sequence[Image.Image], path: str | Path, *, seconds: float = 4.0) -> None:
    """Save pictures of one size as an animation, .gif or .mp4, as `save_animation` does."""
    path = Path(path)
    pause = max(20, round(1000 * seconds / len(pictures)))
    if path.suffix.lower() == ".gif":
        with new_file(path) as aside:
            _save_gif(pictures, pause, aside)
    elif path.suffix.lower() == ".mp4":
        _save_mp4([*pictures, *[pictures[-1]] * round(1500 / pause)], path, 1000 / pause)
    else:
        raise InputError(f"{path}: animations end in .gif or .mp4")


def _save_gif(pictures: Sequence[Image.Image], pause: int, file: Path | io.BytesIO) -> None:
    durations = [pause] * (len(pictures) - 1) + [1500]
    pictures[0].save(file, "GIF", save_all=True, append_images=list(pictures[1:]), duration=durations, loop=0)


class Animation:
    """Pictures of one size that notebooks show as an animation.

    Args:
        pictures: in their order; the last one stays for a second and a half.
        seconds: that they take.
    """

    def __init__(self, pictures: Sequence[Image.Image], seconds: float = 4.0) -> None:
        self.pictures, self.seconds = list(pictures), seconds

    def save(self, path: str | Path) -> Path:
        """Save it as .gif or .mp4; return the path."""
        save_pictures(self.pictures, path, seconds=self.seconds)
        return Path(path)

    def __repr__(self) -> str:
        return f"Animation({len(self.pictures)} pictures, {self.seconds:g} s)"

    def _repr_html_(self) -> str:
        data = io.BytesIO()
        _save_gif(self.pictures, max(20, round(1000 * self.seconds / len(self.pictures))), data)
        return _img("gif", data)


def html(text: str, draw_picture: Callable[[], Image.Image]) -> str:
    """Return a text over a picture as HTML; the text alone where nothing can be drawn."""
    shown = f"<pre>{escape(text)}</pre>"
    try:
        image = draw_picture()
    except (ImportError, InputError):
        return shown
    data = io.BytesIO()
    image.save(data, "PNG")
    return shown + _img("png", data)


def _img(kind: str, data: io.BytesIO) -> str:
    return f'<img src="data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}">'


def flow_pictures(trajectory: ArrayLike, steps: ArrayLike, target: ArrayLike | None = None) -> list[Image.Image]:
    """Return a picture of each recorded step of a flow: arrays of any kind, as a `FlowResult` holds them."""
    frames = _arrays.tensor("trajectory", trajectory)
    y = None if target is None else _checks.points("target", target, frames.shape[2:])
    return particle_pictures(frames, y, [f"step {int(step)}" for step in steps])


def particle_pictures(
    frames: Float[Tensor, "S n *event"], target: Float[Tensor, "m *event"] | None, titles: Sequence[str]
) -> list[Image.Image]:
    """Return a picture of particles over the target for each frame, all on the same axes; of particles alone without one.

    Points in the plane are scattered, on a line they are histograms, and those of more dimensions are shown on the target's
    first two principal axes; images are grids without the target.
    """
    if frames.ndim == 5 and frames.shape[2] in (1, 3):
        return [image_grid(frame[:64]) for frame in frames]
    reference = frames[-1] if target is None else target
    shown, y, names = _in_the_plane(frames.reshape(*frames.shape[:2], -1), reference.reshape(len(reference), -1))
    everything = torch.cat([shown[0], shown[-1], y])
    low, high = everything.min(0).values, everything.max(0).values
    centre, reach = (low + high) / 2, float((high - low).max().clamp_min(1e-6)) * 0.54
    over = None if target is None else y
    return [_particles(frame, over, title, centre, reach, names) for frame, title in zip(shown, titles, strict=True)]


def _in_the_plane(frames: Tensor, target: Tensor) -> tuple[Tensor, Tensor, tuple[str, str] | None]:
    frames, target = frames.cpu().double(), target.cpu().double()
    if target.shape[1] <= 2:
        return frames, target, None
    mean = target.mean(0)
    _, _, axes = torch.linalg.svd(target - mean, full_matrices=False)
    axes = axes[:2] if len(axes) > 1 else torch.eye(2, target.shape[1], dtype=target.dtype)
    return (frames - mean) @ axes.T, (target - mean) @ axes.T, ("first principal axis", "second principal axis")


def _particles(
    x: Tensor, y: Tensor | None, title: str, centre: Tensor, reach: float, names: tuple[str, str] | None
) -> Image.Image:
    figure, (axes,) = _figure(1, (5.0, 5.2))
    axes.set_title(title, fontsize=10)
    if x.shape[1] == 1:
        edges = np.linspace(float(centre) - reach, float(centre) + reach, 61).tolist()
        if y is not None:
            axes.hist(y[:, 0].numpy(), bins=edges, density=True, color="0.8", label="target")
        axes.hist(x[:, 0].numpy(), bins=edges, density=True, histtype="step", color="C0", label="particles")
        axes.legend(frameon=False, loc="upper right")
        return _to_image(figure)
    size = max(1.0, min(16.0, 4000 / len(x)))
    if y is not None:
        axes.scatter(y[:, 0].numpy(), y[:, 1].numpy(), s=size, color="0.8", linewidths=0)
    axes.scatter(x[:, 0].numpy(), x[:, 1].numpy(), s=size, color="C0", alpha=0.7, linewidths=0)
    axes.set(xlim=(float(centre[0]) - reach, float(centre[0]) + reach), aspect="equal")
    axes.set(ylim=(float(centre[1]) - reach, float(centre[1]) + reach))
    if names is not None:
        axes.set(xlabel=names[0], ylabel=names[1])
    return _to_image(figure)


def save_report(
    samples: Tensor,
    test: Tensor,
    distances: tuple[Float[Tensor, " n"], Float[Tensor, " m"]],
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
    has_classes = "class_histogram" in report
    figure, axes = _figure(4 if has_classes else 3, (16 if has_classes else 12, 4))
    for ax, name, x in ((axes[0], "samples", samples), (axes[1], "held-out data", test)):
        if x.ndim == 4:
            ax.imshow(np.asarray(image_grid(x[:64])), cmap="gray", vmin=0, vmax=255)
            ax.set_axis_off()
        else:
            _scatter(ax, x[:3000], 3.0)
        ax.set_title(name)
    edges = np.linspace(0, max(float(d.quantile(0.995)) for d in distances), 40).tolist()
    for values, name in zip(distances, ("samples", "held-out data"), strict=True):
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
    save_picture(_to_image(figure), path)


def save_monitor(monitor: SamplingMonitor, path: str | Path) -> None:
    """Save what a sampling run looked like: curves over the noise level as a picture, or the numbers as .json."""
    if Path(path).suffix.lower() == ".json":
        columns = monitor.columns()
        write_json(path, {k: [v if math.isfinite(v) else None for v in values] for k, values in columns.items()})
        return
    figure, axes = _figure(4, (15, 3.4))
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
    save_picture(_to_image(figure), path)


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


def check_monitor_file(path: str | Path) -> None:
    """Raise InputError where `save_monitor` cannot write, before the run that it would show."""
    if Path(path).suffix.lower() == ".json":
        make_folder(Path(path).parent)
        return
    if is_animation(path):
        raise InputError(f"{path}: a monitor is a picture (.png, ...) or .json")
    check_output(path)
    check_matplotlib()


def draw(drawing: Callable[[Figure], None], size: tuple[float, float] = (12.0, 4.0)) -> Image.Image:
    """Return the picture of an empty figure that `drawing` fills (it may change the figure's size)."""
    figure = _empty(size)
    drawing(figure)
    return _to_image(figure)


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


def _figure(columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    figure = _empty(size)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _scatter(axes: Axes, points: Tensor, limit: float) -> None:
    x, y = points.cpu().numpy().T
    axes.scatter(x, y, s=2, alpha=0.6, linewidths=0)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")


def _to_image(figure: Figure) -> Image.Image:
    canvas: Any = figure.canvas
    canvas.draw()
    rgba: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())
    return Image.fromarray(rgba[:, :, :3].copy())


def check_output(path: str | Path) -> None:
    """Raise InputError where no picture or animation can be written, before the work that it would show."""
    path = Path(path)
    writable = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.SAVE}
    if path.suffix.lower() not in {*writable, ".mp4"}:
        raise InputError(f"{path}: not the ending of a picture or animation, such as .png, .gif or .mp4")
    if path.suffix.lower() == ".mp4":
        _ffmpeg(path)
    make_folder(path.parent)


def is_animation(path: str | Path) -> bool:
    """Whether a file of that name shows a flow rather than a picture."""
    return Path(path).suffix.lower() in (".gif", ".mp4")


def _ffmpeg(path: Path) -> Any:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ImportError(
            f"{path}: .mp4 needs imageio-ffmpeg: pip install 'mmdflow[video]' (or choose .gif)"
        ) from error
    return imageio_ffmpeg


def _save_mp4(pictures: list[Image.Image], path: Path, rate: float) -> None:
    arrays = [np.asarray(p.convert("RGB")) for p in pictures]
    height, width = (16 * math.ceil(n / 16) for n in arrays[0].shape[:2])  # what codecs want
    with new_file(path) as aside:
        writer = _ffmpeg(path).write_frames(str(aside), (width, height), fps=rate, quality=8, macro_block_size=16)
        writer.send(None)
        for array in arrays:
            padding = [(0, height - array.shape[0]), (0, width - array.shape[1]), (0, 0)]
            writer.send(np.ascontiguousarray(np.pad(array, padding, mode="edge")))
        writer.close()
