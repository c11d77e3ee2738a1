"""What a corrector, feedback or momentum do to the sampling of the shipped DMMDs: Frechet distance by the data's judges.

python benchmarks/corrector.py [NAME ...] [--rows ROW ...] [--num_samples 1436] [--seeds 1] [--output results/corrector.json]

At level t the approximate flow follows <phi, noisy - clean>, mean features of the data. The exact one follows <phi, particles -
clean>, which is the approximate witness and <phi, particles - noisy>: the witness of 1/2 MMD^2 of the particles to P_t. Rows:

- "approximate", "exact": the model's own walk, both with the final steps that the model has.
- "feedback w": the approximate witness and w times that of the particles to P_t in one step; w = 0 is approximate, w = 1 exact.
- "corrector w x S, L levels": an approximate step from each level to the next, and there S steps of the exact flow towards P_t,
  w times as long as the step. "corrector w x S exact" predicts by an exact step.
- "momentum m": of the exact flow; the distance schedule is shortened by 1 - m. With "long steps" it is not.
- "adams_bashforth", "heun": the exact flow by that integrator, Heun's with half of the levels.
- "by class": every particle draws a class, and the particles of a class flow to the means of that class; "guidance g" takes the
  flow to those of all data off. "other end" takes steps 1.3 times as long, and one final step at t = .08.

Rows that are not asked for keep what the report had. Every row starts from the same particles; one thread.
"""

import math
import time
from dataclasses import dataclass, replace

import torch
from measure import models_parser, read_models, write_models
from torch import Tensor

from mmdflow import MMD, DMMDPipeline
from mmdflow.divergences import VelocityField
from mmdflow.evaluation.distance import DistanceJudge, open_judge
from mmdflow.methods.dmmd.fields import LevelField, features_at
from mmdflow.methods.dmmd.targets.base import FlowKind, LevelFlow
from mmdflow.methods.dmmd.walk import Walk

JUDGES = ("own", "report", "random")


@dataclass(frozen=True)
class Corrected:
    """The sampler of a row: feedback w in the step, then corrector steps at the next level."""

    feedback: float = 0.0
    corrector: float = 0.0
    corrections: int = 0
    num_levels: int = 50


@dataclass(frozen=True)
class Weighted:
    """The velocity on features `along` plus w times that `towards` P_t."""

    along: VelocityField | None
    towards: VelocityField | None
    weight: float = 1.0

    def velocity(self, x: Tensor, at: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
        """Return it at x."""
        parts = [] if self.along is None else [self.along.velocity(x)]
        if self.towards is not None:
            parts.append(self.weight * self.towards.velocity(x))
        return torch.stack(parts).sum(0)


SETTINGS: dict[str, dict] = {
    "approximate": {"sampler": "approximate"},
    "exact": {"sampler": "exact"},
    "exact, adams_bashforth": {"sampler": "exact", "integrator": "adams_bashforth"},
    "exact, heun, 25 levels": {"sampler": "exact", "integrator": "heun", "num_levels": 25},
    **{f"feedback {w:g}": {"sampler": "exact", "feedback": w} for w in (1.5, 2.0, 3.0, 5.0)},
    **{f"momentum {m:g}": {"sampler": "exact", "momentum": m} for m in (0.3, 0.5, 0.7, 0.9)},
    "momentum 0.3, long steps": {"sampler": "exact", "momentum": 0.3, "step_scale": 1 / 0.7},
    "nesterov 0.5": {"sampler": "exact", "momentum": 0.5, "integrator": "nesterov"},
    "by class": {"sampler": "exact", "by_class": True},
    **{f"by class, guidance {g:g}": {"sampler": "exact", "by_class": True, "guidance": g} for g in (1.0, 2.0)},
    "by class, guidance 2, feedback 2": {"sampler": "exact", "by_class": True, "guidance": 2.0, "feedback": 2.0},
    "by class, guidance 2, approximate": {"sampler": "approximate", "by_class": True, "guidance": 2.0},
    "by class, guidance 2, feedback 2, other end": {
        "sampler": "exact",
        "by_class": True,
        "guidance": 2.0,
        "feedback": 2.0,
        "step_scale": 1.3,
        "final_level": 0.08,
        "final_steps": 1,
    },
}
CORRECTED: dict[str, Corrected] = {
    "feedback 0.5": Corrected(feedback=0.5),  # of no MMD: the sampler refuses it
    **{f"corrector {w:g} x 1, 25 levels": Corrected(0.0, w, 1, 25) for w in (0.5, 1.0, 2.0, 4.0)},
    **{f"corrector {w:g} x 1, 50 levels": Corrected(0.0, w, 1, 50) for w in (0.5, 1.0, 2.0, 4.0)},
    "corrector 1 x 3, 12 levels": Corrected(0.0, 1.0, 3, 12),
    "corrector 1 x 4, 50 levels": Corrected(0.0, 1.0, 4, 50),
    "corrector 1 x 1 exact, 25 levels": Corrected(1.0, 1.0, 1, 25),
}


def draw(pipe: DMMDPipeline, row: Corrected, source: Tensor) -> tuple[Tensor, int]:
    """Return the samples of a row, and its evaluations."""
    settings = replace(pipe.defaults, num_levels=row.num_levels, steps_per_level=1)
    target, features = pipe.target, pipe.kernel.features
    walk = Walk.of(
        settings,
        t_range=target.t_range,
        schedule=pipe.schedule,
        second_moment=pipe.second_moment,
        event_size=math.prod(pipe.event_shape),
    )
    nfe = 0

    def step(x: Tensor, t: float, eta: float, *, along: bool, weight: float) -> Tensor:
        nonlocal nfe
        level = target.level(pipe.kernel, t)
        field = Weighted(
            level.field(LevelFlow(FlowKind.APPROXIMATE)) if along else None,
            MMD.from_mean_embedding(level.noisy, level.base) if weight else None,
            weight,
        )
        nfe += 1
        return x + eta * LevelField(
            features_at(features, t), field, interacting=bool(weight), max_slope=settings.max_slope
        ).velocity(x)

    x = source
    for i, (t, eta) in enumerate(zip(walk.levels, walk.step_sizes, strict=True)):
        x = step(x, t, eta, along=True, weight=row.feedback)
        if i + 1 < len(walk.levels):
            for _ in range(row.corrections):
                x = step(x, walk.levels[i + 1], row.corrector * eta, along=False, weight=1.0)
    for _ in range(settings.final_steps):
        x = step(x, walk.final_level, walk.final_step_size, along=True, weight=0.0)
    return (x / pipe.data_scale).clamp(-1, 1), nfe


def measure(
    pipe: DMMDPipeline, judges: dict[str, DistanceJudge], row: str, num_samples: int, seeds: int, particles: int
) -> dict:
    """Return the distances of a row by every judge, one a seed."""
    distances: dict[str, list[float]] = {judge: [] for judge in JUDGES}
    seconds = 0.0
    for seed in range(seeds):
        generator, of_classes = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed)
        parts, start = list[Tensor](), time.process_time()
        for first in range(0, num_samples, particles):
            source = torch.randn(min(particles, num_samples - first), *pipe.event_shape, generator=generator)
            if row in SETTINGS:
                out = pipe(particles=source, generator=of_classes, **SETTINGS[row])
                samples, nfe = out.particles, out.nfe
            else:
                samples, nfe = draw(pipe, CORRECTED[row], source)
            parts.append(samples)
        seconds += time.process_time() - start
        for judge, found in distances.items():
            found.append(judges[judge](torch.cat(parts)))
    return {
        "nfe": nfe,
        "num_samples": num_samples,
        "particles": particles,
        "sample_seconds": round(seconds / seeds, 1),
        "distances": distances,
    }


def main() -> None:
    rows = [*SETTINGS, *CORRECTED]
    parser = models_parser(__doc__, ["digits", "mnist"], "results/corrector.json")
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows)
    parser.add_argument("--num_samples", type=int, default=1436)
    parser.add_argument("--particles", type=int, default=359, help="that flow together")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        pipe, judges = DMMDPipeline.from_pretrained(name), {judge: open_judge(name, judge) for judge in JUDGES}
        for row in options.rows:
            found = measure(pipe, judges, row, options.num_samples, options.seeds, options.particles)
            models = read_models(options.output)
            models.setdefault(name, {})[row] = found
            write_models(options.output, __file__, models)
            shown = "  ".join(f"{judge} {sum(d) / len(d):8.2f}" for judge, d in found["distances"].items())
            print(f"{name:<8} {row:<36} NFE {found['nfe']:4d}  {shown}", flush=True)


if __name__ == "__main__":
    main()
