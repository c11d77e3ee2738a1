"""Denoisers that are told classes, against closed forms: every class is N(m_c, s^2 I), whose best predictors are known."""

import itertools
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mmdflow import DDPMSchedule, InputError, LinearSchedule, data
from mmdflow.cli import main
from mmdflow.cli.train import recipe_from
from mmdflow.features import FeatureNetwork, MLPFeatures
from mmdflow.methods import load_pipeline, recipe_path
from mmdflow.methods._shared.classes import class_shares, draw_labels
from mmdflow.methods.denoising import (
    DDPMLossSettings,
    DDPMSettings,
    DenoisingLoss,
    DenoisingPipeline,
    FlowMatchingSettings,
)
from mmdflow.noise import schedule
from mmdflow.training import StepBatches
from tests.methods.common import change_config, check_refused, check_saved, draw, seeded

MEANS, STD = torch.tensor([[2.0, -1.0], [-1.0, 0.5], [0.0, 3.0]]), 0.4
KINDS = {"noise": ("ddpm", DDPMSettings(500, clip=False)), "velocity": ("linear", FlowMatchingSettings(200, "heun"))}


class ByClass(FeatureNetwork):
    """The best predictor of each class; of no class that of N(0, STD^2 I). It keeps the labels that it was told."""

    def __init__(self, path, prediction):
        super().__init__((2,), 1, "squared_residual", num_classes=3)
        self.path, self.prediction, self.told = path, prediction, []
        self.scale = torch.nn.Parameter(torch.ones(()))

    def outputs(self, x, t, labels=None):
        labels = torch.full((len(x),), 3) if labels is None else labels
        self.told.append(labels)
        mean = torch.cat([MEANS, torch.zeros(1, 2)])[labels]
        alpha, sigma = self.path.alpha(t)[:, None], self.path.sigma(t)[:, None]
        whitened = (x - alpha * mean) / (alpha**2 * STD**2 + sigma**2)
        noise, clean = sigma * whitened, mean + alpha * STD**2 * whitened
        return self.scale * (noise if self.prediction == "noise" else noise - clean)[:, None]


def exact(prediction, **changes):
    name, defaults = KINDS[prediction]
    path = schedule(name)
    shares = torch.tensor([0.5, 0.25, 0.25])
    pipeline = DenoisingPipeline(
        ByClass(path, prediction), path, name, prediction, defaults, shares=shares, guidable=True
    )
    return replace(pipeline, **changes)


def events(count, generator):
    labels = torch.randint(3, (count,), generator=generator)
    return MEANS[labels] + STD * torch.randn(count, 2, generator=generator), labels


@pytest.mark.parametrize(("prediction", "name"), [("noise", "ddpm"), ("velocity", "linear")])
def test_the_loss_of_the_best_predictor_is_that_within_classes(prediction, name, generator):
    path, count = schedule(name), 40_000
    network = ByClass(path, prediction)
    loss = DenoisingLoss(network, path, DDPMLossSettings(by_class=True, label_dropout=0.0), prediction=prediction)
    clean, labels = events(count, generator)
    terms = loss(clean, generator, labels)
    t = 0.001 + 0.999 * (torch.arange(count, dtype=torch.float64) + 0.5) / count
    alpha, sigma = path.alpha(t), path.sigma(t)
    variance = alpha**2 * STD**2 + sigma**2
    expected = ((alpha * STD) ** 2 if prediction == "noise" else STD**2) / variance
    assert float(terms.total) == pytest.approx(
        float(expected.mean()), abs=4 * float(terms.errors.std()) / math.sqrt(count)
    )
    assert torch.equal(network.told[0], labels)


def test_a_share_of_the_labels_is_left_out(generator):
    network, count = ByClass(LinearSchedule(), "velocity"), 20_000
    loss = DenoisingLoss(
        network, LinearSchedule(), DDPMLossSettings(by_class=True, label_dropout=0.3), prediction="velocity"
    )
    clean, labels = events(count, generator)
    loss(clean, seeded(1), labels)
    loss(clean, seeded(1), labels)
    first, second = network.told
    assert torch.equal(first, second)
    left_out = first == 3
    assert float(left_out.float().mean()) == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / count))
    assert torch.equal(first[~left_out], labels[~left_out])


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_samples_of_a_class_have_its_moments(prediction):
    pipeline, count = exact(prediction), 4000
    for label in range(3):
        made = pipeline(count, labels=label, generator=seeded()).particles
        torch.testing.assert_close(made.mean(0), MEANS[label], rtol=0, atol=5 * STD / math.sqrt(count))
        torch.testing.assert_close(made.std(0), torch.full((2,), STD), rtol=0.06, atol=0)
    wanted = torch.arange(count) % 3
    made = pipeline(count, labels=wanted, generator=seeded()).particles
    assert float((torch.cdist(made, MEANS).argmin(1) == wanted).float().mean()) > 0.99
    drawn = torch.cdist(pipeline(count, generator=seeded()).particles, MEANS).argmin(1).bincount() / count
    torch.testing.assert_close(drawn, pipeline.shares, rtol=0, atol=0.002)


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_guidance_is_its_formula(prediction, generator):
    """(1 + g) of the class - g of all: of linear predictors it is that of a class at (1 + g) m_c."""
    pipeline = exact(prediction)
    x, labels = torch.randn(30, 2, generator=generator), torch.arange(30) % 3
    guided = pipeline._guided(labels, 1.5)
    for t in (0.9, 0.4, 0.1):
        by_hand = 2.5 * pipeline.predict(x, t, labels) - 1.5 * pipeline.predict(x, t)
        torch.testing.assert_close(guided(x, t), by_hand, rtol=1e-4, atol=1e-5)
    made = pipeline(4000, labels=2, guidance=1.0, generator=seeded()).particles
    torch.testing.assert_close(made.mean(0), 2 * MEANS[2], rtol=0, atol=0.04)


@pytest.mark.parametrize(
    ("prediction", "settings", "nfe"),
    [
        ("noise", {"num_levels": 20}, 20),
        ("noise", {"num_levels": 20, "guidance": 2.0}, 40),
        ("velocity", {"num_levels": 20, "sampler": "euler"}, 20),
        ("velocity", {"num_levels": 20, "guidance": 2.0}, 80),
    ],
)
def test_evaluations_are_counted(prediction, settings, nfe):
    pipeline = exact(prediction)
    assert draw(pipeline, **settings).nfe == nfe
    rows = sum(len(labels) for labels in pipeline.network.told)
    assert rows == 3 * nfe


def small(**changes):
    torch.manual_seed(0)
    network = MLPFeatures((1, 8, 8), 1, width=16, num_classes=3).eval().requires_grad_(False)
    shares = torch.tensor([0.5, 0.25, 0.25])
    pipeline = DenoisingPipeline(
        network,
        LinearSchedule(),
        "linear",
        "velocity",
        FlowMatchingSettings(4),
        provenance={"steps": 3},
        shares=shares,
        guidable=True,
    )
    return replace(pipeline, **changes)


def test_saved_and_loaded_samples_are_the_same(tmp_path):
    loaded = check_saved(small(), tmp_path / "p", draws=({}, {"labels": 1}, {"labels": [0, 2, 2], "guidance": 3.0}))
    assert (loaded.shares.tolist(), loaded.guidable) == ([0.5, 0.25, 0.25], True)


def test_samples_are_of_the_kind_of_the_noise():
    noise = torch.randn(4, 1, 8, 8, generator=seeded()).numpy()
    made = small()(particles=noise, labels=np.array([0, 1, 2, 0]))
    assert isinstance(made.particles, np.ndarray)
    assert made.particles.shape == noise.shape
    onestep = load_pipeline("mnist-onestep")
    made = onestep(particles=np.zeros((2, 1, 28, 28), np.float32), labels=np.array([3, 4]))
    assert isinstance(made.particles, np.ndarray)


@pytest.mark.parametrize(
    ("changes", "call", "message"),
    [
        ({}, {"labels": 3}, "labels hold 3: must be classes 0 to 2"),
        ({}, {"labels": [0, 1]}, r"labels have shape \[2\]: must be \[5\], one a particle, or one number"),
        ({}, {"guidance": -1.0}, "guidance = -1.0: must be a finite number >= 0"),
        (
            {"guidable": False},
            {"guidance": 1.0},
            r"guidance = 1: must be 0, the network has not learned the prediction for all",
        ),
        ({"shares": None}, {}, "shares: hold 0 numbers: must be 3, one a class of the network"),
    ],
)
def test_bad_settings(changes, call, message, unchecked):
    check_refused(lambda: small(**changes)(5, **call), message)


def test_a_network_that_knows_no_classes(unchecked):
    network = MLPFeatures((1, 8, 8), 1, width=16)
    plain = small(network=network, shares=None, guidable=False)
    check_refused(lambda: plain(2, labels=1), r"labels: the network knows no classes.*loss\.by_class=true trains one")
    check_refused(lambda: plain(2, guidance=1.0), "guidance = 1: must be 0, the network has not learned classes")
    zeros = torch.zeros(2, 1, 8, 8), torch.zeros(2)
    check_refused(
        lambda: network.outputs(*zeros, torch.zeros(2, dtype=torch.long)), "labels: the network knows no classes"
    )


def test_damaged_shares(tmp_path, unchecked):
    small().save_pretrained(tmp_path / "p")
    change_config(tmp_path / "p", shares=[0.5, 0.5])
    check_refused(lambda: DenoisingPipeline.from_pretrained(tmp_path / "p"), "shares: hold 2 numbers: must be 3")


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_the_labels_of_their_events(workers):
    events = torch.arange(10.0)[:, None]
    batches = StepBatches(events, 4, seed=3, start=2, labels=torch.arange(10) % 3)
    for x, labels in itertools.islice(DataLoader(batches, batch_size=None, num_workers=workers), 7):
        assert x.shape == (4, 1)
        assert torch.equal(labels, x[:, 0].long() % 3)
    with pytest.raises(InputError, match="labels have 9 entries: must have 10, one an event"):
        StepBatches(events, 4, labels=torch.zeros(9, dtype=torch.long))


def test_shares_of_labels(unchecked):
    assert class_shares("here", torch.tensor([0, 1, 1, 2])).tolist() == [0.25, 0.5, 0.25]
    check_refused(lambda: class_shares("here", None), "here: the data have no labels; leave it out")
    for label in (2, 2**40):  # no array of as many entries is made
        shares = partial(class_shares, "here", torch.tensor([0, label]))
        check_refused(shares, "here: class 1 of the data has no events")
    check_refused(lambda: class_shares("here", torch.tensor([0, -1])), "here: the data have a label -1")


@pytest.mark.parametrize("n", [1, 7, 200, 999])
def test_drawn_labels_are_in_proportion(n, generator):
    """Each number of particles is n times the share, rounded down or up, and on average it; no place has a class of its own."""
    shares = torch.tensor([0.0, 0.3, 0.0, 0.21, 0.49, 0.0])
    draws = torch.stack([draw_labels(n, shares * 3, generator) for _ in range(2000)])  # any sum will do
    counts = torch.stack([draw.bincount(minlength=6) for draw in draws])
    expected = n * shares.double()
    assert ((counts >= (expected - 1e-3).floor()) & (counts <= (expected + 1e-3).ceil())).all()
    torch.testing.assert_close(counts.double().mean(0), expected, rtol=0, atol=5 * 0.5 / math.sqrt(2000))
    places = draws[:, [0, -1]].flatten().bincount(minlength=6) / 4000
    torch.testing.assert_close(places, shares, rtol=0, atol=5 * 0.5 / math.sqrt(2000))


QUICK = [
    "--loss.by_class=true",
    "--features.width=64",
    "--features.depth=1",
    "--training.max_steps=600",
    "--training.sample_every=300",
]


@pytest.mark.parametrize("name", ["flow-matching-digits", "ddpm-digits"])
def test_trained_on_digits_it_makes_the_class_that_is_asked_for(name, tmp_path, capsys):
    """The nearest training image is of that class for a third at least after 600 steps, by chance for a tenth."""
    run = str(tmp_path / "run")
    assert main(["train", name, f"--output={run}", *QUICK]) == 0
    digits = data.load("digits")
    pipeline = load_pipeline(run)
    made = pipeline(100, labels=torch.arange(100) % 10, generator=seeded()).particles
    found = digits.train_labels[torch.cdist(made.flatten(1), digits.train.flatten(1)).argmin(1)]
    assert float((found == torch.arange(100) % 10).float().mean()) > 0.33
    shares = torch.bincount(digits.train_labels) / len(digits.train_labels)
    torch.testing.assert_close(pipeline.shares, shares)
    capsys.readouterr()
    for i, options in enumerate((["--labels=3"], ["--labels=[1,2]"], ["--labels=3", "--guidance=1"])):
        saved = tmp_path / f"{i}.npz"
        assert main(["sample", run, "-n", "2", f"--save={saved}", "--num_levels=4", *options]) == 0
        assert np.load(saved)["samples"].shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ("flow-matching-checkerboard", ["--loss.by_class=true"], "loss.by_class = True: the data have no labels"),
        (
            "flow-matching-digits",
            ["--sampling.guidance=2"],
            "sampling.guidance = 2 without loss.by_class: guides to classes",
        ),
        (
            "ddpm-digits",
            ["--loss.by_class=true", "--sampling.guidance=2", "--loss.label_dropout=0"],
            "sampling.guidance = 2 with loss.label_dropout = 0",
        ),
        ("ddpm-digits", ["--loss.by_class=true", "--loss.label_dropout=1"], "loss.label_dropout = 1"),
        (
            "ddpm-digits",
            ["--loss.label_dropout=0.5"],
            "loss.label_dropout = 0.5 without loss.by_class: leaves classes out",
        ),
    ],
)
def test_bad_recipes(recipe, options, message, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["train", recipe, f"--output={folder}", *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not folder.exists()


def test_nothing_changes_where_no_classes_are_told():
    """The weights of a new network are those of before, and so are the draws of its loss."""
    recipe = recipe_from(recipe_path("flow-matching-digits"))
    assert not recipe.loss.by_class
    torch.manual_seed(0)
    plain = MLPFeatures((2,), 1, width=16)
    torch.manual_seed(0)
    again = MLPFeatures((2,), 1, width=16, num_classes=0)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), again.parameters(), strict=True))
    assert "num_classes" not in plain.config()
    loss = DenoisingLoss(plain, DDPMSchedule())
    assert torch.equal(loss(torch.ones(4, 2), seeded()).total, loss(torch.ones(4, 2), seeded()).total)
