"""Training on several ranks is training on one, up to rounding: whole batches, penalties, averages, checkpoints, resumes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmdflow import InputError
from mmdflow.cli.train import recipe_from
from mmdflow.distributed import Ranks, current
from mmdflow.features import FeatureNetwork, MLPFeatures
from mmdflow.methods import get_method
from mmdflow.recipe.data import load_data
from mmdflow.training import LossModule, fit
from mmdflow.training.checkpoint import checkpoint_path, previous_path
from tests.distributed.ranks import on_ranks

SMALL = ["--training.log_every=5", "--features.width=16", "--features.depth=1"]
DMMD = ["--training.max_steps=20", "--training.checkpoint_every=10", "--training.events_per_level=8", *SMALL]
BY_CLASS = ["--training.max_steps=6", "--loss.by_class=true", *SMALL]
TURNS = ["--training.max_steps=6", "--training.batch_size=32", *SMALL]


def _train(name: str, options: list[str], folder: Path) -> dict[str, Any]:
    """Train in float64 on the ranks there are; return the last checkpoint."""
    recipe = recipe_from(name, options)
    dataset, system = load_data(recipe.data), get_method(recipe.system).make_system()
    loss = system.loss(recipe, dataset).double()
    learned: nn.Module = system.learned(loss)
    module = LossModule(loss, learned, recipe.training)
    for network in learned.modules():
        if isinstance(network, FeatureNetwork):
            network.share_rows(current())
    checkpoint_path(folder).parent.mkdir(parents=True, exist_ok=True)
    labels = system.labels(recipe, dataset)
    labels = None if labels is None else labels[:101]
    fit(module, dataset.train[:101].double(), folder, batch_size=recipe.batch_size, labels=labels, progress=False)
    current().wait()
    return torch.load(checkpoint_path(folder), weights_only=True)


def _derivatives(ranks: Ranks, network: FeatureNetwork) -> list[Tensor]:
    """Gradients of a loss that holds a gradient in x, and features of further rows; those of the parameters as DDP means them."""
    network.share_rows(ranks)
    x = torch.linspace(-1, 1, 14, dtype=torch.float64).reshape(7, 2).requires_grad_()
    phi = network(x, torch.linspace(0, 1, 7, dtype=torch.float64))
    others = network(x.detach().square(), 0.5)
    witness = (phi * (others.mean(0) - phi.mean(0))).sum()
    (slope,) = torch.autograd.grad(witness, x, create_graph=True)
    loss = slope.square().sum() + phi.square().mean() + (others * phi).sum()
    to_x, *to_parameters = torch.autograd.grad(loss, [x, *network.parameters()])
    return [slope.detach(), to_x, *(ranks.total(gradient) / ranks.size for gradient in to_parameters)]


def _network() -> FeatureNetwork:
    torch.manual_seed(0)
    return MLPFeatures((2,), 3, width=5, depth=1).double()


def _refused(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        _train("dmmd-checkerboard", [*DMMD, "--training.max_seconds=5"], folder)
    return str(error.value)


def _task(folder: Path) -> Callable[[], dict[str, Any]]:
    def task() -> dict[str, Any]:
        return {
            "dmmd": _train("dmmd-checkerboard", DMMD, folder / "dmmd"),
            "turns": _train("mmd-gan-checkerboard", TURNS, folder / "turns"),
            "by_class": _train("flow-matching-digits", BY_CLASS, folder / "by_class"),
            "derivatives": _derivatives(current(), _network()),
            "refused": _refused(folder / "refused"),
        }

    return task


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def shared(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return folder, on_ranks(request.param, _task(folder))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return folder, {
        "dmmd": _train("dmmd-checkerboard", DMMD, folder / "dmmd"),
        "turns": _train("mmd-gan-checkerboard", TURNS, folder / "turns"),
        "by_class": _train("flow-matching-digits", BY_CLASS, folder / "by_class"),
    }


def _assert_alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Weights, averages and step counts."""
    assert one["global_step"] == other["global_step"]
    torch.testing.assert_close(one["state_dict"], other["state_dict"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["dmmd", "turns", "by_class"])
def test_equal_to_one_process(shared, alone, name):
    """20 steps with a double backward; losses that take turns leave parameters without a gradient; batches with labels."""
    for result in shared[1]:
        _assert_alike(result[name], alone[1][name])


def test_resume_on_another_number_of_ranks(shared, tmp_path):
    folder = tmp_path / "resumed"
    shutil.copytree(shared[0] / "dmmd", folder)
    os.replace(previous_path(checkpoint_path(folder)), checkpoint_path(folder))
    assert torch.load(checkpoint_path(folder), weights_only=True)["global_step"] == 10
    _assert_alike(_train("dmmd-checkerboard", DMMD, folder), shared[1][0]["dmmd"])


def test_written_once(shared):
    logs = sorted(path.name for path in (shared[0] / "dmmd" / "logs").iterdir())
    assert logs == ["from-step-0"]
    files = sorted(path.name for path in checkpoint_path(shared[0] / "dmmd").parent.iterdir())
    assert files == ["last.ckpt", "previous.ckpt"]


def test_derivatives_of_shared_networks(shared):
    alone = _derivatives(Ranks(), _network())
    for result in shared[1]:
        torch.testing.assert_close(result["derivatives"], alone, rtol=1e-10, atol=1e-12)


def test_seconds_are_refused(shared):
    assert all("training.max_seconds = 5 on" in result["refused"] for result in shared[1])
