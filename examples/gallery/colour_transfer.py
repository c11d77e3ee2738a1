"""Give a photograph the colours of another: its pixels move in RGB, and their order stays.

python examples/gallery/colour_transfer.py
"""

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

from mmdflow import MMDTransport


def main(output: str = "colour_transfer.jpg", num_colours: int = 1000, num_steps: int = 60, every: int = 3) -> None:
    rng = np.random.default_rng(0)
    photo, palette = (load_sample_image(name)[::every, ::every] / 255 for name in ("china.jpg", "flower.jpg"))
    few = [rng.choice(image.reshape(-1, 3), num_colours, replace=False) for image in (photo, palette)]
    transport = MMDTransport(num_steps=num_steps).fit(*few)  # a few pixels of each make the flow
    moved = transport.transform(photo.reshape(-1, 3)).clip(0, 1).reshape(photo.shape)  # and all pixels follow it
    print(f"mean colour: {photo.mean((0, 1)).round(2)} -> {moved.mean((0, 1)).round(2)}", end=", ")
    print(f"of the other picture {palette.mean((0, 1)).round(2)}")

    figure = Figure(figsize=(9, 2.3), layout="constrained")
    pictures = {"picture": photo, "colours of": palette, "picture in these colours": moved}
    for axes, (title, image) in zip(figure.subplots(1, 3), pictures.items(), strict=True):
        axes.imshow(image)
        axes.set_title(title)
        axes.set_axis_off()
    figure.savefig(output, dpi=90, bbox_inches="tight")


if __name__ == "__main__":
    main()
