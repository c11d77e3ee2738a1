"""The criteria of `checkerboard_widths`, what is measured for them, and their verdicts in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmdflow.studies._tables import markdown
from mmdflow.studies.base import criteria_sentence

#: DMMD with the paper's loss, and with the MMD^2 of every level normalised.
DMMD, NORMALISED = "DMMD", "DMMD, normalised"
#: Widths of the baselines that have one, and the name of the one whose width runs with t.
FIXED, INTERPOLATION = (0.1, 0.3, 0.5), "linear interpolation"
#: The lowest noise level.
T_MIN = 0.02
#: The error of the estimate of an MMD^2: smaller values count as it.
FLOOR = 1e-4


@dataclass(frozen=True)
class Verdict:
    """A criterion after the measurement.

    Attributes:
        asked: what must hold.
        measured: the figures that decide.
        holds: whether it does.
    """

    asked: str
    measured: str
    holds: bool


def shape_of_width(curve: Sequence[float], grid: Sequence[float]) -> dict[str, float]:
    """Return what the first two criteria need of sigma on a grid of levels.

    `fall` is sigma at the lowest level over that at the highest, `rank_correlation` that of sigma with t, and `transition` the
    shortest part of the range of t over which half of sigma's range is crossed.
    """
    sigma, t = torch.tensor(curve, dtype=torch.float64), torch.tensor(grid, dtype=torch.float64)
    ranks = torch.stack([sigma.argsort().argsort(), t.argsort().argsort()]).double()
    crossing = (sigma[:, None] - sigma[None, :]).abs() >= (sigma.max() - sigma.min()) / 2
    shortest = float((t[:, None] - t[None, :]).abs()[crossing].min())
    return {
        "fall": curve[0] / curve[-1],
        "rank_correlation": float(torch.corrcoef(ranks)[0, 1]),
        "transition": shortest / (grid[-1] - grid[0]),
    }


def verdicts(
    dmmd: str,
    curves: dict[str, list[float]],
    grid: Sequence[float],
    gan_widths: Sequence[float],
    discrepancies: dict[str, list[float]],
    quality: dict[str, dict[str, float]],
) -> dict[str, Verdict]:
    """Return what becomes of every criterion.

    Args:
        dmmd: whose curve and samples are judged, a name in `curves`.
        curves: width at each noise level, by name.
        grid: the noise levels.
        gan_widths: MMD-GAN's width during training.
        discrepancies: MMD^2(P_t, P; t) at each noise level, by name.
        quality: figures of the samples, by name, see `judge`.
    """
    shape, (gan_fall, shared) = shape_of_width(curves[dmmd], grid), gan_width_falls(gan_widths, curves[dmmd])
    distance = distances_of_logs(discrepancies, dmmd)
    rival = min((name for name in distance if name != INTERPOLATION), key=lambda name: distance[name])
    own, others = quality[dmmd], {name: q for name, q in quality.items() if name not in ("target", DMMD, NORMALISED)}
    closest = min(others, key=lambda name: others[name]["sliced_w2"])
    darkest = max(others, key=lambda name: others[name]["dark"])
    return {
        "width_falls": Verdict(
            f"sigma({T_MIN:g}) / sigma(1) <= 0.8, rank correlation with t >= 0.9",
            f"{shape['fall']:.2f}, {shape['rank_correlation']:.2f}",
            shape["fall"] <= 0.8 and shape["rank_correlation"] >= 0.9,
        ),
        "sharp_transition": Verdict(
            "half of sigma's range within 0.25 of the range of t",
            f"{shape['transition']:.2f}",
            shape["transition"] <= 0.25,
        ),
        "gan_width_falls": Verdict(
            "last width / largest <= 0.8, 0.5 of the shorter range shared",
            f"{gan_fall:.2f}, {shared:.2f}",
            gan_fall <= 0.8 and shared >= 0.5,
        ),
        "discrepancy_like_interpolation": Verdict(
            f"log MMD^2 nearest to that of the {INTERPOLATION}",
            f"{distance[INTERPOLATION]:.2f} to it, {distance[rival]:.2f} to {rival}",
            distance[INTERPOLATION] < distance[rival],
        ),
        "samples_best": Verdict(
            "smallest sliced W_2, largest share in the dark squares",
            f"W_2 {own['sliced_w2']:.3f} ({closest} {others[closest]['sliced_w2']:.3f}), dark {own['dark']:.3f} "
            f"({darkest} {others[darkest]['dark']:.3f})",
            own["sliced_w2"] < others[closest]["sliced_w2"] and own["dark"] > others[darkest]["dark"],
        ),
    }


def gan_width_falls(widths: Sequence[float], curve: Sequence[float]) -> tuple[float, float]:
    """Return what the third criterion needs of MMD-GAN's widths during training, and of sigma(t).

    That is the mean width of the last tenth over the largest, and the part of the shorter range, in logs, that both share.
    """
    last = widths[-max(1, len(widths) // 10) :]
    logs = [torch.tensor(values, dtype=torch.float64).log() for values in (widths, curve)]
    shared = min(float(v.max()) for v in logs) - max(float(v.min()) for v in logs)
    shorter = min(float(v.max() - v.min()) for v in logs)
    return sum(last) / len(last) / max(widths), max(0.0, shared) / shorter


def distances_of_logs(discrepancies: dict[str, list[float]], dmmd: str) -> dict[str, float]:
    """Return how far log MMD^2 of the fixed widths and of the interpolation is from DMMD's, root mean square over levels."""
    logs = {
        name: torch.tensor(curve, dtype=torch.float64).clamp_min(FLOOR).log() for name, curve in discrepancies.items()
    }
    names = (*(f"width {w:g}" for w in FIXED), INTERPOLATION)
    return {name: float((logs[name] - logs[dmmd]).square().mean().sqrt()) for name in names}


def table(judged: dict[str, dict[str, Verdict]]) -> str:
    """Return the criteria with what was measured, for each loss."""
    rows = []
    for name, verdict in judged[DMMD].items():
        cells = [f"{v.measured}: {'seen' if v.holds else 'not seen'}" for v in (verdict, judged[NORMALISED][name])]
        rows.append([f"`{name}`", verdict.asked, *cells])
    return markdown(["criterion", "asked", "the paper's loss", "normalised"], rows)


def finding(
    criteria: dict[str, bool],
    curves: dict[str, list[float]],
    best_widths: Sequence[float],
    gan_widths: Sequence[float],
    quality: dict[str, dict[str, float]],
) -> str:
    """Return in a few sentences how the widths run, and how good the samples are.

    Args:
        criteria: which hold.
        curves: width at each noise level, by name.
        best_widths: width of the largest MMD^2 at each noise level.
        gan_widths: MMD-GAN's width during training.
        quality: figures of the samples, by name, see `judge`.
    """
    dmmd, normalised = curves[DMMD], curves[NORMALISED]
    shown = ", ".join(
        f"{name} {100 * q['dark']:.0f} percent in the dark squares ({100 * q['outliers']:.1f} outliers), W_2 "
        f"{q['sliced_w2']:.3f}"
        for name, q in quality.items()
    )
    return (
        f"{criteria_sentence(criteria)} From t = 1 to {T_MIN:g} sigma(t) goes from {dmmd[-1]:.2f} to {dmmd[0]:.2f} "
        f"({normalised[-1]:.2f} to {normalised[0]:.2f} with the MMD normalised; the largest MMD^2 is at "
        f"{best_widths[-1]:.2f} and {best_widths[0]:.2f}); MMD-GAN's goes from {max(gan_widths):.2f} at most to "
        f"{gan_widths[-1]:.2f}. Samples: {shown}."
    )
