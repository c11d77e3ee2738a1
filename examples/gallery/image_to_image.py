"""Turn scribbles into digits: noise a picture up to a level, and let the shipped DMMD flow back from there (SDEdit).

A low level keeps the scribble, a high one makes a clean digit of it.

python examples/gallery/image_to_image.py
"""

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from mmdflow import DMMDPipeline

STROKES = {  # corners of lines on a canvas of 80 x 80
    "0": [(40, 10), (20, 25), (20, 55), (40, 70), (60, 55), (60, 25), (40, 10)],
    "1": [(25, 25), (45, 10), (45, 70)],
    "4": [(45, 10), (15, 48), (65, 48), (50, 48), (50, 72)],
    "7": [(15, 12), (62, 12), (30, 70)],
    "3": [(20, 12), (58, 22), (32, 38), (60, 55), (18, 70)],
}


def scribble(corners: list[tuple[int, int]]) -> np.ndarray:
    canvas = Image.new("L", (80, 80))
    ImageDraw.Draw(canvas).line(corners, fill=255, width=11)
    return np.asarray(canvas.resize((8, 8), Image.Resampling.BOX), np.float32)[None] / 127.5 - 1


def main(output: str = "image_to_image.png", copies: int = 20) -> None:
    pipe = DMMDPipeline.from_pretrained("digits")
    scribbles = np.stack([scribble(corners) for corners in STROKES.values()])
    columns = {"scribble": scribbles}
    for t_max in (0.3, 0.5, 0.7):
        run = {"t_max": t_max, "noise_source": True, "generator": torch.Generator().manual_seed(0)}
        refined = pipe(particles=scribbles.repeat(copies, 0), **run).particles
        columns[f"from t = {t_max}"] = refined[::copies]
        print(f"t = {t_max}: mean change of a pixel {np.abs(refined - scribbles.repeat(copies, 0)).mean():.3f}")

    figure = Figure(figsize=(5.5, 6), layout="constrained")
    panels = figure.subplots(len(STROKES), len(columns))
    for j, (title, images) in enumerate(columns.items()):
        panels[0, j].set_title(title)
        for i, image in enumerate(images):
            panels[i, j].imshow(image[0], cmap="gray_r", vmin=-1, vmax=1)
            panels[i, j].set_axis_off()
    figure.savefig(output, dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    main()
