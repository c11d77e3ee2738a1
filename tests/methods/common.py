"""What the tests of several methods share: given functions as networks, small networks, draws, damaged folders."""

import json
from dataclasses import fields

import pytest
import torch
from torch import nn

from mmdflow import DMMDPipeline, InputError
from mmdflow.cli.train import recipe_from
from mmdflow.features import FeatureNetwork, MLPFeatures
from mmdflow.methods import recipe_path
from mmdflow.methods._shared.gradient_flow import flow_states

MEAN, STD = torch.tensor([0.5, -1.0, 2.0]), 0.6


#: Settings that no flow along a learned gradient samples with, on images [1, 8, 8], and what is said of them.
BAD_FLOWS = [
    ({"num_particles": 0}, "num_particles = 0"),
    ({"num_steps": 0}, "num_steps = 0: must be an integer >= 1"),
    ({"step_size": -1.0}, "step_size = -1.0: must be a finite number > 0"),
    ({"step_size": float("nan")}, "step_size = nan: must be a finite number > 0"),
    ({"particles": torch.zeros(2, 1, 9, 9)}, r"particles has event shape \[1, 9, 9\]"),
]
#: Networks and settings that no loss of such a flow takes.
BAD_FLOW_LOSSES = [
    ({"num_features": 2}, {}, "num_features = 2: must be 1, a function of one value"),
    ({}, {"num_steps": 0}, "num_steps = 0"),
    ({}, {"step_size": 0.0}, "step_size = 0.0"),
    ({}, {"noise": -1.0}, "noise = -1.0"),
    ({}, {"penalty_weight": -1.0}, "penalty_weight = -1.0"),
    ({}, {"trajectories": "old"}, "trajectories = 'old': must be one of pool, fresh"),
    ({}, {"pool_size": 0}, "pool_size = 0"),
]


class GivenFunction(FeatureNetwork):
    """A function of (x, t) as a network of one value; it has one parameter, which scales it."""

    def __init__(self, function, event=(3,)):
        super().__init__(event, 1, "flat")
        self.function, self.scale = function, nn.Parameter(torch.ones(()))

    def outputs(self, x, t):
        return self.scale * self.function(x, t)[:, None]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def scalar_network(event=(3,), width=16):
    """A small network of one value, the same at every call."""
    torch.manual_seed(0)
    return MLPFeatures(event, 1, "flat", width=width, depth=1)


def trajectory(step, flow, network, source, generator=None):
    """The particles of a flow at the start and after every step."""
    return torch.stack([source, *flow_states(step, flow, network, source, generator)])


def split(kind, settings, but=()):
    """Settings by name as those of a dataclass, save some, and the others."""
    names = {field.name for field in fields(kind)} - {*but}
    ours = {name: value for name, value in settings.items() if name in names}
    return kind(**ours), {name: value for name, value in settings.items() if name not in names}


def train(loss, draw, num_steps=400):
    """Train a loss on batches of 128 of `draw`; return its last terms and the generator."""
    optimiser, draws = torch.optim.Adam(loss.parameters(), 3e-3), seeded()
    for _ in range(num_steps):
        optimiser.zero_grad()
        terms = loss(draw(128, draws), draws)
        terms.total.backward()
        optimiser.step()
    return terms, draws


def draw(pipeline, seed=7, **settings):
    return pipeline(3, generator=seeded(seed), **settings)


def read(name):
    return recipe_from(recipe_path(name))


def change_config(folder, **change):
    """Change entries of a saved pipeline's config."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


def check_saved(pipeline, folder, *, files=(), draws=({},)):
    """A saved pipeline holds those files beside weights and config, and samples as before; return it, loaded."""
    pipeline.save_pretrained(folder)
    assert {f.name for f in folder.iterdir()} == {"model.safetensors", "config.json", *files}
    loaded = type(pipeline).from_pretrained(folder)
    for settings in draws:
        assert torch.equal(draw(loaded, **settings).particles, draw(pipeline, **settings).particles)
    assert (loaded.defaults, loaded.provenance, loaded.data_scale) == (
        pipeline.defaults,
        {"steps": 3},
        pipeline.data_scale,
    )
    with pytest.raises(InputError, match="need 1 of 'dmmd'"):
        DMMDPipeline.from_pretrained(folder)
    return loaded


def check_refused(call, message):
    """A call ends in one line that holds the message."""
    with pytest.raises(InputError, match=message):
        call()


def check_draws_from_its_generator_alone(make_loss, batch):
    """Losses that are made alike are equal for the same seed whatever the global one, and not for another."""
    results = []
    for seed, others in ((0, 1), (0, 2), (1, 1)):
        loss = make_loss()
        torch.manual_seed(others)
        results.append(loss(batch, seeded(seed)).total)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def check_flow_output(pipeline):
    """What a pipeline of 6 steps on images [1, 8, 8] gives, and how settings change it."""
    out = draw(pipeline, return_trajectory=True)
    assert out.particles.shape == (3, 1, 8, 8)
    assert out.particles.abs().max() <= 1
    assert (out.nfe, out.trajectory.shape) == (6, (7, 3, 1, 8, 8))
    assert torch.equal(draw(pipeline).particles, out.particles)
    assert draw(pipeline, num_steps=2).nfe == 2
    assert not torch.equal(draw(pipeline, step_size=1.0).particles, out.particles)
    assert pipeline(particles=torch.zeros(5, 1, 8, 8)).particles.shape == (5, 1, 8, 8)
