"""What limits a DMMD on images: the error of its witness's gradient at noised data, by noise level.

python benchmarks/witness.py models [--names mnist mnist-flow-matching ...] [--output results/witness.json]
python benchmarks/witness.py forms [--seconds 150] [--seeds 0] [--rows ROW ...] [--runs runs/witness]

The error is E |v(x_t) - n|^2 over held-out images, n = (x_t - x_0) / (sqrt(D) d_t), whose mean square is 1. v is the gradient of
the approximate witness, or flow matching's velocity in the same units. No field has less than the conditional variance of n.

"models" measures shipped models. "forms" trains the trunk of dmmd-mnist anew, each row for as many seconds of one core's own
time, in batches of 32, by the loop of `mmdflow train`:

- "flow matching": the recipe flow-matching-mnist; the residual is the velocity.
- "potential": v = grad f, f = |x - u(x, t)|^2 / (2 sqrt(D)). One feature, no mean of features. Every event has its own level.
- "potential, inner product": f = <x, u> / sqrt(D).
- "flow matching, then potential": half of the seconds each, of one network.
- "one feature, normalised": f = <phi, difference> / |difference|, phi one squared residual, the difference that of a batch of 8
  levels: the MMD's witness of length 1, whose regression is the MMD under the squared penalty, as the path form is the MMD^2.
- "normalised, 124 flat features": the same with flat features of a twentieth of the scale beside it, held at a participation
  ratio of 4 or more.
- "DMMD": the recipe dmmd-mnist; "DMMD without diversity" has no weight on it.
- "flow matching, AdamW" and "DMMD, AdamW": as they were before they took Muon, with the step sizes chosen then.

Rows of as many seconds that are not asked for keep what the report had. Finished runs are kept in `--runs` and not trained again.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measure import provenance
from torch import Tensor, nn

from mmdflow._files import write_json
from mmdflow.evaluation.figures import read_report
from mmdflow.features import ConvFeatures
from mmdflow.methods import load_pipeline
from mmdflow.methods._shared.terms import StepTerms
from mmdflow.methods.base import Pipeline
from mmdflow.methods.dmmd import DMMDPipeline, target_means
from mmdflow.methods.dmmd.fields import LevelField, features_at
from mmdflow.methods.dmmd.targets.base import FlowKind, LevelFlow
from mmdflow.methods.dmmd.terms import participation
from mmdflow.noise import LinearSchedule, NoiseConditionalKernel, draw_levels
from mmdflow.recipe.data import DataSpec, load_data
from mmdflow.runs.cache import trained
from mmdflow.training import LoopSpec, LossModule, fit

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
NAMES = ("mnist", "mnist-flow-matching", "fashion", "fashion-flow-matching")
BATCH, POWER, T_MIN = 32, 0.7, 0.02
#: Held-out images that an error is the mean of, and training images that mean features are of.
HELD_OUT, MEANS, CHUNK = 500, 1000, 250
Velocity = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Form:
    """A way to train a velocity.

    Attributes:
        head: of the potential: residual, inner or features, whose witness is that of mean features, of length 1.
        num_flat: flat features beside the residual.
        num_levels: levels of a batch.
        num_stages: 2 where the residual itself is trained to be the velocity in the first half.
    """

    head: str = "residual"
    num_flat: int = 0
    num_levels: int = BATCH
    num_stages: int = 1


#: Changes of a recipe that spare the target means, which are not measured.
FEW_MEANS = {"sampling": {"mean_levels": 3, "mean_events": 64, "class_means": False}}
#: Rows by a recipe and its changes, or by a form.
ROWS: dict[str, tuple[str, dict[str, Any]] | Form] = {
    "flow matching": ("flow-matching-mnist", {}),
    "potential": Form(),
    "potential, inner product": Form(head="inner"),
    "flow matching, then potential": Form(num_stages=2),
    "one feature, normalised": Form(head="features", num_levels=8),
    "normalised, 124 flat features": Form(head="features", num_flat=124, num_levels=8),
    "DMMD": ("dmmd-mnist", FEW_MEANS),
    "flow matching, AdamW": ("flow-matching-mnist", {"training": {"optimizer": "adamw", "step_size": 0.004}}),
    "DMMD, AdamW": ("dmmd-mnist", {**FEW_MEANS, "training": {"optimizer": "adamw"}}),
    "DMMD without diversity": ("dmmd-mnist", {**FEW_MEANS, "loss": {"diversity_weight": 0.0}}),
}


class FormLoss(nn.Module):
    """E |grad f(z) - n|^2 of a form, z at x_t for three events of four and on the segment to it for the other."""

    def __init__(self, form: Form, event_shape: Sequence[int], second_moment: float) -> None:
        super().__init__()
        self.form, self.num_stages, self.stage = form, form.num_stages, 0
        self.second_moment, self.root = second_moment, math.sqrt(math.prod(event_shape))
        head, residuals = ("mixed", 1) if form.num_flat else ("squared_residual", None)
        self.network = ConvFeatures(
            event_shape, form.num_flat + 1, head, residuals, channels=(32, 64), blocks=2, patch=2
        )

    def enter(self, stage: int, generator: torch.Generator) -> None:
        """Note the stage."""
        self.stage = stage

    def features(self, x: Tensor, t: Tensor, network: nn.Module) -> Tensor:
        """Return phi, with the flat features at a twentieth of their scale."""
        phi = network(x, t).float()
        return torch.cat([phi[:, :1], phi[:, 1:] / 20], 1) if self.form.num_flat else phi

    def potential(self, x: Tensor, t: Tensor, network: nn.Module) -> Tensor:
        """Return f of the forms without means."""
        u = network.outputs(x, t)[:, 0].float()
        if self.form.head == "inner":
            return (x * u).flatten(1).sum(1) / self.root
        return (x - u).flatten(1).square().sum(1) / (2 * self.root)

    def forward(self, clean: Tensor, generator: torch.Generator) -> StepTerms:
        """Return the loss of a batch."""
        count = self.form.num_levels
        levels = draw_levels(count, T_MIN, 1.0, power=POWER, like=clean, generator=generator)
        t = levels.repeat_interleave(BATCH // count)
        path = LinearSchedule()
        noisy = path.add_noise(clean, torch.randn(clean.shape, generator=generator), t)
        length = self.root * path.displacement(t, self.second_moment)
        aim = (noisy - clean).flatten(1) / length[:, None]
        if self.stage < self.num_stages - 1:
            u = self.network.outputs(noisy, t)[:, 0].float()
            return StepTerms(((noisy - u).flatten(1) / self.root - aim).square().sum(1).mean())
        position = torch.rand(BATCH, generator=generator)
        position[torch.arange(BATCH) % 4 != 1] = 1
        z = torch.lerp(clean, noisy, position.view(-1, 1, 1, 1)).requires_grad_()
        if self.form.head == "features":
            f, penalty = self._witness(z, clean, t)
        else:
            f, penalty = self.potential(z, t, self.network), z.new_zeros(())
        (v,) = torch.autograd.grad(f.sum(), z, create_graph=True)
        return StepTerms((v.float().flatten(1) - aim).square().sum(1).mean() + penalty)

    def _witness(self, z: Tensor, clean: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the witness of length 1 at z, whose every other row is x_t, and what features that do not differ cost."""
        phi, of_clean = self.features(z, t, self.network), self.features(clean[::2], t[::2], self.network)
        of_clean = of_clean.view(self.form.num_levels, -1, phi.shape[1])
        difference = phi[::2].view_as(of_clean).mean(1) - of_clean.mean(1)
        difference = difference / (difference.square().sum(1, keepdim=True) + 1e-8).sqrt()
        f = (phi * difference.repeat_interleave(BATCH // self.form.num_levels, 0)).sum(1)
        varied = participation(of_clean) if self.form.num_flat else phi.new_tensor(4.0)
        return f, (1 / varied.clamp_min(1) - 0.25).clamp_min(0)

    def velocity(self, network: nn.Module, images: Tensor) -> Velocity:
        """Return what a network has learned; `images` are for mean features."""
        if self.form.head == "features":
            return by_means(lambda x, t: self.features(x, t, network), images, normalised=True)

        def of_potential(x: Tensor, t: float) -> Tensor:
            z = x.clone().requires_grad_()
            return torch.autograd.grad(self.potential(z, z.new_full((len(z),), t), network).sum(), z)[0]

        return of_potential


def by_means(features: Callable[[Tensor, Tensor], Tensor], images: Tensor, *, normalised: bool = False) -> Velocity:
    """Return the gradient of the approximate witness, with mean features of images at the level itself."""
    kernel, levels = NoiseConditionalKernel(features), torch.tensor(LEVELS, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    target = target_means(kernel, LinearSchedule(), images.split(CHUNK), levels, generator=generator)

    def velocity(x: Tensor, t: float) -> Tensor:
        level = target.level(kernel, t)
        field = level.field(LevelFlow(FlowKind.APPROXIMATE))
        v = -LevelField(features_at(features, t), field, interacting=False).velocity(x)
        return v / (level.noisy - level.clean).norm() if normalised else v

    return velocity


def of_pipeline(pipe: Pipeline, images: Tensor) -> Velocity:
    """Return a pipeline's velocity, in units of the regression."""
    if isinstance(pipe, DMMDPipeline):
        return by_means(pipe.kernel.features, images)
    size = math.sqrt(math.prod(pipe.event_shape) * (pipe.second_moment + 1))
    return torch.no_grad()(lambda x, t: pipe.predict(x, t) / size)


def errors(velocity: Velocity, clean: Tensor, second_moment: float) -> list[float]:
    """Return the error at every level; every model meets the same noise."""
    generator, found = torch.Generator().manual_seed(0), []
    for t in LEVELS:
        noise = torch.randn(clean.shape, generator=generator)
        aim = (noise - clean).flatten(1) / math.sqrt(clean[0].numel() * (second_moment + 1))
        parts = torch.lerp(clean, noise, t).split(CHUNK)
        v = torch.cat([velocity(part, t).flatten(1) for part in parts])
        found.append(float((v - aim).square().sum(1).mean()))
    return found


def measured(part: str, name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the steps, the seconds and the errors of a model, or of a row that is trained."""
    data = load_data(DataSpec(name="fashion" if name.startswith("fashion") else "mnist"))
    images = data.train[torch.arange(MEANS)]
    row = name if part == "models" else ROWS[name]
    if isinstance(row, Form):
        loop = LoopSpec(
            max_steps=10**7, max_seconds=options.seconds, seed=seed, precision="auto", checkpoint_every=10**6
        )
        torch.manual_seed(seed)
        loss = FormLoss(row, data.event_shape, data.second_moment)
        module = LossModule(loss, loss.network, loop, clock=time.process_time)
        folder = Path(options.runs) / f"{name.replace(' ', '-').replace(',', '')}-{seed}-{options.seconds:g}"
        module = fit(module, data.train, folder, batch_size=BATCH, progress=False)
        velocity, made = loss.velocity(module.averaged, images), (module.steps, module.seconds)
    else:
        if part == "models":
            pipe = load_pipeline(name)
        else:
            recipe, changes = row
            pipe = trained(
                recipe, Path(options.runs), seed=seed, progress=False, seconds=options.seconds, changes=changes
            )
        velocity = of_pipeline(pipe, images)
        made = (pipe.provenance["steps"], pipe.provenance["train_seconds"])
    found = errors(velocity, data.test[:HELD_OUT], data.second_moment)
    return {"row": name, "seed": seed, "steps": made[0], "train_seconds": made[1], "errors": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["models", "forms"])
    parser.add_argument("--names", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--runs", default="runs/witness")
    parser.add_argument("--output")
    options = parser.parse_args()
    torch.set_num_threads(1)
    file = {"models": "witness", "forms": "witness-forms"}[options.part]
    output = Path(options.output or f"results/{file}.json")
    names, seeds = (options.names, [0]) if options.part == "models" else (options.rows, options.seeds)
    for seed in seeds:
        for name in names:
            found = measured(options.part, name, seed, options)
            rows = read_report(output)["rows"] if output.exists() else []
            command = f"python benchmarks/witness.py {options.part}"
            if options.part == "forms":
                found["seconds"] = options.seconds
                rows = [row for row in rows if row.get("seconds") == options.seconds]
                shown = dict.fromkeys(f'"{row["row"]}"' for row in [*rows, found])
                command += f" --seconds {options.seconds:g} --rows {' '.join(shown)}"
            rows = [row for row in rows if (row["row"], row["seed"]) != (name, seed)] + [found]
            write_json(output, {"command": command, **provenance(), "levels": LEVELS, "rows": rows})
            mean = sum(found["errors"]) / len(LEVELS)
            by_level = " ".join(f"{error:.3f}" for error in found["errors"])
            print(f"{name:<32} seed {seed} {found['steps']:6d} steps  mean {mean:.4f}  {by_level}", flush=True)


if __name__ == "__main__":
    main()
