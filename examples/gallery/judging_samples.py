"""Judge samples of other programs: three scikit-learn models of digits, among them one that copies.

python examples/gallery/judging_samples.py
"""

from matplotlib.figure import Figure
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from mmdflow import KernelTwoSampleTest
from mmdflow.data import load
from mmdflow.metrics import manifold_scores, memorisation, nearest_distances
from mmdflow.plots import image_grid


def main(output: str = "judging_samples.webp", num_samples: int = 350) -> None:
    digits = load("digits")
    train, test = (part.flatten(1).double().numpy() for part in (digits.train, digits.test))
    samples = {
        "held-out digits": test[:num_samples],
        "one Gaussian": GaussianMixture(1, random_state=0).fit(train).sample(num_samples)[0],
        "30 Gaussians": GaussianMixture(30, reg_covar=1e-2, random_state=0).fit(train).sample(num_samples)[0],
        "kernel density": KernelDensity(bandwidth=0.02).fit(train).sample(num_samples, random_state=0),
    }
    test_of = KernelTwoSampleTest(random_state=0).fit(train)
    held_out = nearest_distances(test, train)
    figure = Figure(figsize=(11, 3.3), layout="constrained")
    for axes, (title, x) in zip(figure.subplots(1, 4), samples.items(), strict=True):
        outcome, scores = test_of.test(x), manifold_scores(x, train)
        copying = memorisation(nearest_distances(x, train), held_out).close_share
        lines = f"p = {outcome.p_value:.3f}, nearly copies {copying:.0%}"
        lines += f"\nprecision {scores.precision:.2f}, recall {scores.recall:.2f}"
        print(f"{title}: {lines}".replace("\n", ", "))
        axes.imshow(image_grid(-x[:36].reshape(-1, 1, 8, 8)), cmap="gray")
        axes.set_title(f"{title}\n{lines}", fontsize=8)
        axes.set_axis_off()
    figure.savefig(output, dpi=80, bbox_inches="tight")


if __name__ == "__main__":
    main()
