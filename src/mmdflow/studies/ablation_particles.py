r"""DMMD paper, section 5 and appendix F: the number of particles N_p, and the exact flow against the approximate one.

The exact velocity uses the mean feature of N_p particles, the approximate one that of all noised data (eq. 13). Their
difference at z is J_phi(z)^T (1/N_p sum phi(Z_i) - mean phi(X_t)): for particles drawn from P_t it falls as N_p^(-1/2). This
is measured with noised training images for particles, at several noise levels and fixed points z ~ P_t, as root mean square
relative to the approximate velocity. Then whole samples: the exact sampler in runs of N_p particles, against the approximate
one.

The criteria, written down before looking: (1) the log-log slope of the difference lies within 0.1 of -1/2 at every level;
(2) samples of one particle at a time are worse than those of 200 together by more than two standard errors of the paired
differences over draws; (3) the most particles together are not better than 200 by as much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from mmdflow._tensors import normal_like
from mmdflow.evaluation.distance import DistanceJudge
from mmdflow.methods.dmmd import DMMDPipeline, TargetMeans
from mmdflow.recipe import DataSpec
from mmdflow.recipe.data import judged_data
from mmdflow.studies._fits import log_slope
from mmdflow.studies._models import Measured, lower
from mmdflow.studies._study import FULL_ABLATION, SMALL_ABLATION, AblationStudy, Results
from mmdflow.studies._tables import NONE, distance_axis, markdown, published
from mmdflow.studies.base import criteria_sentence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "DMMD paper, section 5: the number of particles, exact against approximate flow"
TRAINS = True
#: Settings of the velocities' difference, at both scales.
_DIFFERENCES: dict[str, Any] = {
    "levels": [0.2, 0.5, 0.8],
    "rate_particles": [1, 4, 16, 64, 256, 1024, 4096],
    "repeats": 20,
    "points": 64,
}
SCALES: dict[str, dict[str, Any]] = {
    "small": SMALL_ABLATION | _DIFFERENCES | {"particles": [1, 3, 10, 50, 200, 1000], "draws": 2},
    "full": FULL_ABLATION | _DIFFERENCES | {"particles": [1, 10, 50, 100, 200, 500, 1000]},
}

#: The paper's N_p, the slope to find and how near.
USUAL, SLOPE, TOLERANCE = 200, -0.5, 0.1
#: The row of the approximate sampler, whose particles do not interact; the others are numbers of particles.
APPROXIMATE = "approximate"
Row = int | str


@dataclass(frozen=True, kw_only=True)
class ParticlesAblation(AblationStudy[Row]):
    """The velocities' difference by the number of particles, then samples; `particles` are the N_p, 200 among them.

    Attributes:
        levels: noise levels of the difference.
        rate_particles: numbers of particles of the difference.
        repeats: draws of particles, of which the root mean square is taken.
        points: points z.
    """

    levels: Sequence[float]
    rate_particles: Sequence[int]
    repeats: int
    points: int
    claim = (
        "DMMD paper, section 5: sampling depends on the number of particles; for a sufficiently large one the mean feature of "
        "the particles is about that of the noised data, so that particles can be sampled independently"
    )

    def rows(self, judge: DistanceJudge) -> tuple[dict[Row, Measured], dict[str, Any]]:
        """Return the distances by N_p and of the approximate sampler, the differences of velocities and their slopes."""
        pipeline, source = self.own_or_shipped(self.data)
        assert isinstance(pipeline, DMMDPipeline)
        clean = judged_data(DataSpec(self.data)).train
        differences = {
            t: velocity_differences(pipeline, clean, t, self.rate_particles, self.repeats, self.points, self.seed)
            for t in tqdm(self.levels, disable=not self.progress, desc="velocities", unit="level")
        }
        counts = [float(n) for n in self.rate_particles]
        rows: dict[Row, Measured] = {n: self.measure(pipeline, judge, n, sampler="exact") for n in self.counts}
        rows[APPROXIMATE] = self.measure(pipeline, judge, self.count(judge), sampler="approximate")
        slopes = {t: log_slope(counts, values) for t, values in differences.items()}
        return rows, {"model": source, "differences": differences, "slopes": slopes}

    @property
    def counts(self) -> Sequence[int]:
        """The numbers of particles that flow together."""
        assert not isinstance(self.particles, int)
        return self.particles

    def criteria(self, results: Results[Row]) -> dict[str, bool]:
        """Return whether the difference falls as it should, and the samples get better up to the usual N_p only."""
        usual = results[USUAL]
        return {
            "the difference falls as N_p^-1/2": all(
                abs(s - SLOPE) <= TOLERANCE for s in results.facts["slopes"].values()
            ),
            "one particle is worse than 200": lower(usual, results[self.counts[0]]),
            "more than 200 do not help": not lower(results[self.counts[-1]], usual),
        }

    def finding(self, results: Results[Row], criteria: Mapping[str, bool]) -> str:
        """Return the slopes, the distances and the criteria."""
        slopes = ", ".join(f"{slope:.2f} (t = {t:g})" for t, slope in results.facts["slopes"].items())
        last = [values[-1] for values in results.facts["differences"].values()]
        distances = ", ".join(f"{n}: {results[n]}" for n in self.counts)
        return (
            f"The difference of exact and approximate velocity goes as N_p to the power {slopes}, and is {min(last):.2g} to "
            f"{max(last):.2g} of the velocity at N_p = {self.rate_particles[-1]}. {results.judge.unit} by N_p: {distances}; "
            f"approximate {results[APPROXIMATE]}; held-out images {results.held_out_text}; {results.facts['model']}. "
            f"{criteria_sentence(criteria)}"
        )

    def figures(self, results: Results[Row]) -> dict[str, Any]:
        """Return the distances, the differences and their slopes."""
        facts = results.facts
        return {
            "model": facts["model"],
            "relative_differences": {f"t = {t:g}": values for t, values in facts["differences"].items()},
            "slopes": {f"t = {t:g}": slope for t, slope in facts["slopes"].items()},
            "rows": {f"N_p = {n}": results[n].plain for n in self.counts},
            "approximate": results[APPROXIMATE].plain,
        }

    def table(self, results: Results[Row]) -> str:
        """Return a row for each N_p, the approximate sampler and held-out images."""
        lines: list[list[object]] = [[n, str(m), 8.31 if n == USUAL else NONE] for n, m in results.rows.items()]
        lines.append(["held-out images", results.held_out_text, NONE])
        return markdown(["N_p", results.judge.unit, published(results.judge) + ", NFE 100"], lines)

    def draw(self, figure: Figure, results: Results[Row]) -> None:
        """Draw the differences on the left, the distances on the right."""
        figure.set_size_inches(11, 4.5)
        left, right = figure.subplots(1, 2)
        differences = results.facts["differences"]
        for t, values in differences.items():
            left.loglog(self.rate_particles, values, "o-", label=f"t = {t:g}")
        first, start = max(values[0] for values in differences.values()), self.rate_particles[0]
        law = [first * (n / start) ** SLOPE for n in self.rate_particles]
        left.loglog(self.rate_particles, law, "k:", lw=1, label="N_p^(-1/2)")
        left.set(xlabel="N_p", ylabel="|exact - approximate| / |approximate| velocity")
        left.legend(frameon=False)
        rows = [results[n] for n in self.counts]
        means, errors = [m.mean for m in rows], [m.bar for m in rows]
        right.errorbar(list(self.counts), means, yerr=errors, marker="o", capsize=3, label="exact")
        right.axhline(results[APPROXIMATE].mean, color="tab:orange", label="approximate")
        right.set(xscale="log", yscale="log", xlabel="N_p")
        distance_axis(right, results.judge.unit, results.held_out)


def velocity_differences(
    pipeline: DMMDPipeline,
    clean: Tensor,
    t: float,
    counts: Sequence[int],
    repeats: int,
    points: int,
    seed: int,
) -> list[float]:
    """Return, for every number of particles, the root mean square of exact minus approximate velocity over that of the latter.

    The particles are noised training images; so are the points z at which velocities are compared.
    """
    means = pipeline.target
    assert isinstance(means, TargetMeans)
    generator = torch.Generator().manual_seed(seed)
    device = next(pipeline.features.parameters()).device
    kernel = pipeline.kernel.at(t)

    def noised(n: int) -> Tensor:
        x = clean[torch.randint(len(clean), (n,), generator=generator)].to(device) * pipeline.data_scale
        return pipeline.schedule.add_noise(x, normal_like(x, generator), x.new_full((n,), t))

    at_clean, at_noisy = means.at(t)
    z = noised(points).requires_grad_()

    def velocity(direction: Tensor) -> Tensor:
        """Return J_phi(z)^T direction."""
        return torch.autograd.grad((kernel.embed(z) @ direction).sum(), z)[0]

    scale = float(velocity(at_noisy - at_clean).square().mean().sqrt())
    rows = []
    for n in counts:
        squares = []
        for _ in range(repeats):
            with torch.no_grad():
                mean = torch.cat([kernel.embed(noised(len(part))) for part in torch.arange(n).split(256)]).mean(0)
            squares.append(float(velocity(mean - at_noisy).square().mean()))
        rows.append((sum(squares) / repeats) ** 0.5 / scale)
    return rows


run = ParticlesAblation.run
