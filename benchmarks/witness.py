"""What limits a DMMD on images: the error of its witness's gradient at noised data, by noise level.

python benchmarks/witness.py models [--names mnist mnist-flow-matching ...] [--output results/witness.json]
python benchmarks/witness.py forms [--seconds 150] [--seeds 0] [--rows ROW ...]

The error is E |v(x_t) - n|^2 over held-out images, n = (x_t - x_0) / (sqrt(D) d_t), whose mean square is 1. v is the gradient of
the approximate witness, or flow matching's velocity in the same units. No field has less than the conditional variance of n.

"models" measures shipped models. "forms" trains the trunk of dmmd-mnist anew, each row for as many seconds of one core's own
time, in batches of 32, with the step size decayed to 0:

- "flow matching": the residual is the velocity, as in the recipe.
- "potential": v = grad f, f = |x - u(x, t)|^2 / (2 sqrt(D)). One feature, no mean of features. Every event has its own level.
- "potential, inner product": f = <x, u> / sqrt(D).
- "flow matching, then potential": half of the seconds each, of one network.
- "one feature, normalised": f = <phi, difference> / |difference|, phi one squared residual, the difference that of a batch of 8
  levels: the MMD's witness of length 1, whose regression is the MMD under the squared penalty, as the path form is the MMD^2.
- "normalised, 124 flat features": the same with flat features of a twentieth of the scale beside it, held at a participation
  ratio of 4 or more.
- "DMMD": the loss and features of dmmd-mnist; "DMMD without diversity" has no weight on it.

Rows that are not asked for keep what the report had.
"""

import argparse
import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from measure import provenance
from torch import Tensor

from mmdflow._files import write_json
from mmdflow.cli.train import recipe_from
from mmdflow.evaluation.figures import read_report
from mmdflow.features import ConvFeatures, FeatureNetwork
from mmdflow.methods import load_pipeline, recipe_path
from mmdflow.methods.dmmd import DMMDLoss
from mmdflow.methods.dmmd.terms import participation
from mmdflow.noise import LinearSchedule, NoiseConditionalKernel, draw_levels
from mmdflow.recipe.data import DataSpec, ImageData, load_data

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
NAMES = ("mnist", "mnist-flow-matching", "fashion", "fashion-flow-matching")
BATCH, POWER, T_MIN = 32, 0.7, 0.02
#: Held-out images that an error is the mean of, and training images that mean features are of.
HELD_OUT, MEANS = 500, 1000
Velocity = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Form:
    """A way to train a velocity.

    Attributes:
        head: of the potential: residual, inner or features, whose witness is that of mean features.
        num_flat: flat features beside the residual.
        num_levels: levels of a batch; one an event without.
        normalised: whether the witness has length 1.
        first: share of the seconds in which the residual itself is trained to be the velocity.
        step_size: of Adam.
        recipe: changes of dmmd-mnist's loss, whose loss and features are taken then.
    """

    head: str = "residual"
    num_flat: int = 0
    num_levels: int | None = None
    normalised: bool = False
    first: float = 0.0
    step_size: float = 0.002
    recipe: dict | None = None


FORMS = {
    "flow matching": Form(first=1.0, step_size=0.004),
    "potential": Form(),
    "potential, inner product": Form(head="inner"),
    "flow matching, then potential": Form(first=0.5),
    "one feature, normalised": Form(head="features", num_levels=8, normalised=True),
    "normalised, 124 flat features": Form(head="features", num_flat=124, num_levels=8, normalised=True),
    "DMMD": Form(recipe={}),
    "DMMD without diversity": Form(recipe={"diversity_weight": 0.0}),
}


def errors(velocity: Velocity, data: ImageData, seed: int = 0) -> list[float]:
    """Return the error at every level; every model meets the same noise."""
    clean, generator = data.test[:HELD_OUT], torch.Generator().manual_seed(seed)
    found = []
    for t in LEVELS:
        noise = torch.randn(clean.shape, generator=generator)
        aim = (noise - clean).flatten(1) / math.sqrt(clean[0].numel() * (data.second_moment + 1))
        parts = torch.lerp(clean, noise, t).split(250)
        v = torch.cat([velocity(part, t).flatten(1) for part in parts])
        found.append(float((v - aim).square().sum(1).mean()))
    return found


def gradient(potential: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the gradient of a sum of potentials."""
    z = x.clone().requires_grad_()
    return torch.autograd.grad(potential(z).sum(), z)[0]


def by_means(features: Callable[[Tensor, Tensor], Tensor], data: ImageData, *, normalised: bool = False) -> Velocity:
    """Return the gradient of the approximate witness, with mean features of training images at the level itself."""
    images = data.train[torch.arange(MEANS)]
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    known: dict[float, Tensor] = {}

    def difference(t: float) -> Tensor:
        if t not in known:
            with torch.no_grad():
                means = [
                    torch.cat([features(part, part.new_full((len(part),), t)) for part in events.split(250)]).mean(0)
                    for events in (torch.lerp(images, noise, t), images)
                ]
            known[t] = means[0] - means[1]
        return known[t] / (known[t].norm() if normalised else 1)

    return lambda x, t: gradient(lambda z: features(z, z.new_full((len(z),), t)) @ difference(t), x)


def of_model(name: str) -> dict:
    """Return the errors of a shipped model."""
    pipe, data = load_pipeline(name), load_data(DataSpec(name=name.split("-")[0]))
    size = math.sqrt(math.prod(pipe.event_shape) * (data.second_moment + 1))
    if hasattr(pipe, "kernel"):
        velocity = by_means(pipe.kernel.features, data)
    else:
        velocity = torch.no_grad()(lambda x, t: pipe.predict(x, t) / size)
    made = pipe.provenance
    return {"steps": made["steps"], "train_seconds": made["train_seconds"], "errors": errors(velocity, data)}


class Trained:
    """A network that is trained by a form."""

    def __init__(self, form: Form, data: ImageData, seed: int) -> None:
        self.form, self.data, self.schedule = form, data, LinearSchedule()
        torch.manual_seed(seed)
        self.generator = torch.Generator().manual_seed(seed)
        event = tuple(data.event_shape)
        self.root = math.sqrt(math.prod(event))
        self.loss: DMMDLoss | None = None
        if form.recipe is not None:
            recipe = recipe_from(recipe_path("dmmd-mnist"), [])
            settings = replace(recipe.loss, **form.recipe)
            network = ConvFeatures(event, 128, "mixed", 4, channels=(32, 64), blocks=2, patch=2)
            kernel = NoiseConditionalKernel(network)
            self.loss = DMMDLoss(kernel, self.schedule, second_moment=data.second_moment, settings=settings)
            self.network: FeatureNetwork = network
        elif form.num_flat:
            self.network = ConvFeatures(event, form.num_flat + 1, "mixed", 1, channels=(32, 64), blocks=2, patch=2)
        else:
            self.network = ConvFeatures(event, 1, channels=(32, 64), blocks=2, patch=2)
        self.averaged = copy.deepcopy(self.network)

    def features(self, x: Tensor, t: Tensor, network: FeatureNetwork) -> Tensor:
        """Return phi, with the flat features at a twentieth of their scale."""
        phi = network(x, t).float()
        return torch.cat([phi[:, :1], phi[:, 1:] / 20], 1) if self.form.num_flat else phi

    def potential(self, x: Tensor, t: Tensor, network: FeatureNetwork) -> Tensor:
        """Return f of the forms without means."""
        u = network.outputs(x, t)[:, 0].float()
        if self.form.head == "inner":
            return (x * u).flatten(1).sum(1) / self.root
        return (x - u).flatten(1).square().sum(1) / (2 * self.root)

    def step(self, share: float) -> Tensor:
        """Return the loss of a batch, `share` of the seconds after the start."""
        form, clean = (
            self.form,
            self.data.train[torch.randint(len(self.data.train), (BATCH,), generator=self.generator)],
        )
        if self.loss is not None:
            with torch.autocast("cpu", torch.bfloat16):
                return self.loss(clean, self.generator).total
        count = form.num_levels or BATCH
        levels = draw_levels(count, T_MIN, 1.0, power=POWER, like=clean, generator=self.generator)
        t = levels.repeat_interleave(BATCH // count)
        noisy = self.schedule.add_noise(clean, torch.randn(clean.shape, generator=self.generator), t)
        length = self.root * self.schedule.displacement(t, self.data.second_moment)
        aim = (noisy - clean).flatten(1) / length[:, None]
        if share < form.first:
            with torch.autocast("cpu", torch.bfloat16):
                u = self.network.outputs(noisy, t)[:, 0]
            return ((noisy - u.float()).flatten(1) / self.root - aim).square().sum(1).mean()
        position = torch.rand(BATCH, generator=self.generator)
        position[torch.arange(BATCH) % 4 != 1] = 1  # as segment_every = 4
        z = torch.lerp(clean, noisy, position.view(-1, 1, 1, 1)).requires_grad_()
        varied = None
        with torch.autocast("cpu", torch.bfloat16):
            if form.head == "features":
                phi, of_clean = self.features(z, t, self.network), self.features(clean[::2], t[::2], self.network)
                difference = (phi[::2] - of_clean).view(count, -1, phi.shape[1]).mean(1)
                if form.normalised:
                    difference = difference / (difference.square().sum(1, keepdim=True) + 1e-8).sqrt()
                f = (phi * difference.repeat_interleave(BATCH // count, 0)).sum(1)
                varied = participation(of_clean.view(count, -1, phi.shape[1])) if form.num_flat else None
            else:
                f = self.potential(z, t, self.network)
        (v,) = torch.autograd.grad(f.sum(), z, create_graph=True)
        loss = (v.float().flatten(1) - aim).square().sum(1).mean()
        return loss if varied is None else loss + (1 / varied.clamp_min(1) - 0.25).clamp_min(0)

    def velocity(self) -> Velocity:
        """Return what was learned: of the average of the weights."""
        network = self.averaged
        if self.loss is not None or self.form.head == "features":
            return by_means(lambda x, t: self.features(x, t, network), self.data, normalised=self.form.normalised)
        if self.form.first == 1:
            return torch.no_grad()(lambda x, t: (x - network.outputs(x, x.new_full((len(x),), t))[:, 0]) / self.root)
        return lambda x, t: gradient(lambda z: self.potential(z, z.new_full((len(z),), t), network), x)


def of_form(form: Form, data: ImageData, seconds: float, seed: int) -> dict:
    """Train a form, and return its errors."""
    trained = Trained(form, data, seed)
    weights = list(trained.network.parameters())
    averages = [average.requires_grad_(False) for average in trained.averaged.parameters()]
    optimiser = torch.optim.AdamW(weights, form.step_size, weight_decay=0.0, fused=True)
    start, steps = time.process_time(), 0
    while (share := (time.process_time() - start) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = form.step_size * min(1 - share, (steps + 1) / 100)
        optimiser.zero_grad()
        trained.step(share).backward()
        optimiser.step()
        steps += 1
        torch._foreach_lerp_(averages, [w.detach() for w in weights], 1 - min(0.999, (1 + steps) / (10 + steps)))
    return {"seconds": seconds, "seed": seed, "steps": steps, "errors": errors(trained.velocity(), data)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["models", "forms"])
    parser.add_argument("--names", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--rows", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", default="results/witness.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    output, data = Path(options.output), None
    names = (
        options.names if options.part == "models" else [(row, seed) for seed in options.seeds for row in options.rows]
    )
    for name in names:
        if options.part == "models":
            key, found = name, of_model(name)
        else:
            row, seed = name
            data = data or load_data(DataSpec(name="mnist"))
            key, found = f"{row}, seed {seed}", {"row": row, **of_form(FORMS[row], data, options.seconds, seed)}
        report = read_report(output) if output.exists() else {}
        held = {**report.get(options.part, {}), key: found}
        head = {"command": "python benchmarks/witness.py models; python benchmarks/witness.py forms", **provenance()}
        write_json(output, {**report, **head, "levels": LEVELS, options.part: held})
        mean = sum(found["errors"]) / len(found["errors"])
        shown = " ".join(f"{error:.3f}" for error in found["errors"])
        print(f"{key:<42} {found['steps']:6d} steps  mean {mean:.4f}  {shown}", flush=True)


if __name__ == "__main__":
    main()
