"""Recipes with base kernels other than linear, class means and whitening train, store and sample."""

import numpy as np
import pytest
import torch

from mmdflow import DMMDPipeline
from mmdflow.cli import main
from mmdflow.errors import InputError
from mmdflow.kernels import base_config
from mmdflow.methods.dmmd import TargetMeans, TargetSamples
from mmdflow.recipe import BaseSpec

pytest.importorskip("lightning")
QUICK = [
    "--training.max_steps=4",
    "--features.width=16",
    "--loss.num_levels=4",
    "--training.accelerator=cpu",
    "--sampling.mean_levels=3",
    "--sampling.num_levels=3",
]


def train(folder, *options):
    return main(["train", "dmmd-digits", f"--output={folder}", *QUICK, *options])


def test_a_mixture_of_rational_quadratics(tmp_path):
    options = [
        "--base.name=rational-quadratic",
        "--base.alphas=[0.1, 1, 10]",
        "--base.linear=1",
        "--loss.pairing=paired",
    ]
    assert train(tmp_path / "run", *options, "--sampling.num_references=200", "--sampling.class_means=true") == 0
    pipe = DMMDPipeline.from_pretrained(tmp_path / "run")
    assert isinstance(pipe.target, TargetSamples)
    assert len(pipe.target.clean) == 200
    config = base_config(pipe.kernel.base)
    assert [member.get("alpha") for member in config["members"]] == [0.1, 1.0, 10.0, None]
    saved = tmp_path / "s.npz"
    assert main(["sample", str(tmp_path / "run"), "-n", "3", "--labels=[1, 2, 3]", f"--save={saved}"]) == 0
    assert np.isfinite(np.load(saved)["samples"]).all()


def test_class_means_and_covariances(tmp_path):
    options = ["--sampling.class_means=true", "--sampling.whitening=2.0", "--sampling.step_size=[0.5, 0.4, 0.3]"]
    assert train(tmp_path / "run", *options, "--training.sample_every=2") == 0
    assert (tmp_path / "run" / "samples" / "step-0000002.png").exists()
    pipe = DMMDPipeline.from_pretrained(tmp_path / "run")
    assert isinstance(pipe.target, TargetMeans)
    assert pipe.target.class_clean.shape == (10, 3, 128)
    assert pipe.target.covariance.shape == (3, 128, 128)
    assert (pipe.defaults.whitening, pipe.defaults.step_size) == (2.0, [0.5, 0.4, 0.3])


@pytest.mark.parametrize(
    ("options", "classes"), [([], 10), (["--sampling.mean_events=5"], 0), (["--sampling.class_means=false"], 0)]
)
def test_class_means_are_stored_where_every_class_has_events(options, classes, tmp_path):
    assert train(tmp_path / "run", *options) == 0
    assert DMMDPipeline.from_pretrained(tmp_path / "run").target.num_classes == classes


def test_levels_of_one_class_are_trained_on_and_a_resume_goes_on_alike(tmp_path, caplog):
    options = ["--loss.by_class=true", "--sampling.mean_events=40"]
    assert train(tmp_path / "run", *options, "--sampling.by_class=true", "--training.sample_every=3") == 0
    assert "by_class" not in caplog.text
    assert (tmp_path / "run" / "samples" / "step-0000003.png").exists()
    whole = DMMDPipeline.from_pretrained(tmp_path / "run")
    assert whole.target.num_classes == 10
    assert train(tmp_path / "cut", *options, "--training.max_steps=2") == 0
    assert "sampling.by_class = False with loss.by_class = True" in caplog.text
    assert main(["train", "--resume", str(tmp_path / "cut"), "--training.max_steps=4"]) == 0
    resumed = DMMDPipeline.from_pretrained(tmp_path / "cut")
    for a, b in zip(whole.kernel.parameters(), resumed.kernel.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.name=rings", "--loss.by_class=true"], "loss.by_class = True: the data have no labels; leave it out"),
        (
            ["--loss.by_class=true", "--training.events_per_level=200"],
            "training.events_per_level = 200 with loss.by_class = True: must be at most 139, the events of class 8",
        ),
        (
            ["--loss.by_class=true", "--sampling.mean_events=5"],
            "sampling.mean_events = 5 with loss.by_class = True: must be at least 10, an event of every class",
        ),
        (
            ["--sampling.by_class=true", "--sampling.mean_events=5"],
            "sampling.mean_events = 5 with sampling.by_class = True: must be at least 10, an event of every class",
        ),
        (
            ["--loss.by_class=true", "--sampling.class_means=false"],
            "sampling.class_means = False with loss.by_class = True: must be left out, or true",
        ),
        (["--base.name=gauss"], "base.name = 'gauss'"),
        (["--base.name=gaussian", "--base.alphas=[1]"], "base.alphas = [1.0]: not a field of base.name = 'gaussian'"),
        (["--base.name=gaussian", "--base.bandwidths=[-1]"], "base.bandwidths = -1"),
        (["--base.linear=1"], "base.linear = 1.0: is added to"),
        (["--base.name=gaussian", "--sampling.whitening=1"], "sampling.whitening = 1.0 with base.name = 'gaussian'"),
        (["--data.name=rings", "--sampling.class_means=true"], "the data set rings has no labels"),
        (["--sampling.class_means=true", "--sampling.mean_events=5"], "labels have"),
        (["--sampling.integrator=nesterov"], "momentum = 0"),
        (["--sampling.t_max=0.01"], "sampling.t_max = 0.01"),
        (["--sampling.step_size=[1.0]"], "sampling.step_size has 1 entries"),
    ],
)
def test_bad_input(options, message, tmp_path, capsys, unchecked):
    assert train(tmp_path / "run", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_one_bandwidth_is_no_mixture():
    assert BaseSpec("gaussian", bandwidths=[2.0]).config() == {"name": "gaussian", "bandwidth": 2.0}
    with pytest.raises(InputError, match=r"base.bandwidths = \[\]"):
        BaseSpec("gaussian", bandwidths=[])
