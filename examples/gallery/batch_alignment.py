"""Align a table from one laboratory with that of another, so that a classifier of the one works for the other.

Half of the breast cancer table plays a second laboratory, whose instruments have other gains, offsets and a saturation.

python examples/gallery/batch_alignment.py
"""

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from mmdflow import MMDTransport


def main(output: str = "batch_alignment.png", num_steps: int = 300) -> None:
    rng = np.random.default_rng(0)
    table, labels = load_breast_cancer(return_X_y=True)
    first, second, labels, hidden = train_test_split(table, labels, test_size=0.5, random_state=0)
    scaler = StandardScaler().fit(first)
    first, second = scaler.transform(first), scaler.transform(second)
    second = 3 * np.tanh(second / 3) * rng.uniform(0.4, 1.6, 30) + rng.normal(0, 1.5, 30)  # the other instruments
    aligned = MMDTransport(num_steps=num_steps).fit(second, first).transform(second)  # row by row, without labels

    classifier = KNeighborsClassifier().fit(first, labels)
    tables = {"as measured": second, "aligned": aligned}
    plane = PCA(2).fit(first)
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    for axes, (title, rows) in zip(figure.subplots(1, 2, sharex=True, sharey=True), tables.items(), strict=True):
        accuracy = classifier.score(rows, hidden)
        print(f"{title}: {accuracy:.1%} of the second laboratory's rows classified correctly")
        axes.scatter(*plane.transform(first).T, s=8, color="0.75", label="first laboratory")
        axes.scatter(*plane.transform(rows).T, s=8, c=hidden, cmap="coolwarm", label="second, by class")
        axes.set(title=f"{title}: accuracy {accuracy:.1%}", xlabel="first principal axis", ylabel="second")
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(output, dpi=70, bbox_inches="tight")


if __name__ == "__main__":
    main()
