"""Adapt embeddings of pictures from a bad camera to those of a good one, without labels of the bad one.

The pictures are handwritten digits. The bad camera has low contrast, a shadow and noise; an embedding is the first 16 principal
components. A classifier was trained on embeddings of the good camera.

python examples/gallery/domain_adaptation.py
"""

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from mmdflow import MMDTransport
from mmdflow.plots import image_grid


def main(output: str = "domain_adaptation.webp", num_steps: int = 200) -> None:
    rng = np.random.default_rng(0)
    pictures, labels = load_digits(return_X_y=True)
    good, bad, labels, hidden = train_test_split(pictures / 16, labels, test_size=0.5, random_state=0)
    shadow = np.linspace(0, 0.8, 8).repeat(8)
    bad = 0.5 * bad + shadow + rng.normal(0, 0.05, bad.shape)
    embed = PCA(16).fit(good)
    source, target = embed.transform(bad), embed.transform(good)
    adapted = MMDTransport(num_steps=num_steps).fit(source, target).transform(source)

    classifier = LogisticRegression(max_iter=2000).fit(target, labels)
    panels = {"good camera": good, "bad camera": bad, "adapted": embed.inverse_transform(adapted)}
    scores = {"bad camera": classifier.score(source, hidden), "adapted": classifier.score(adapted, hidden)}
    figure = Figure(figsize=(8, 3), layout="constrained")
    for axes, (title, rows) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        axes.imshow(image_grid(1 - 2 * rows[:36].reshape(-1, 1, 8, 8)), cmap="gray")
        axes.set_title(title + (f": {scores[title]:.1%} correct" if title in scores else ""))
        axes.set_axis_off()
        print(title, f"{scores[title]:.1%} classified correctly" if title in scores else "")
    figure.savefig(output, dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    main()
