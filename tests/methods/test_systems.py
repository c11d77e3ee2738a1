"""Every system trains, resumes, samples and is judged by the same commands, and refuses what belongs to another."""

import dataclasses
import json
import os
import signal

import numpy as np
import pytest
import torch
import yaml

from mmdflow import InputError
from mmdflow.cli import main
from mmdflow.methods import all_methods, get_method, load_pipeline
from mmdflow.methods._shared.settings import FlowChanges
from mmdflow.methods.base import System, Trained
from mmdflow.methods.denoising import DDPMLossSettings, DDPMSettings, DenoisingPipeline, FlowMatchingSettings
from mmdflow.methods.denoising.recipe import DDPMRecipe, FlowMatchingRecipe
from mmdflow.methods.density_ratio import DensityRatioLossSettings
from mmdflow.methods.density_ratio.recipe import DensityRatioRecipe
from mmdflow.methods.discriminator_flow import DiscriminatorFlowLossSettings
from mmdflow.methods.discriminator_flow.recipe import DiscriminatorFlowRecipe
from mmdflow.methods.drifting import DistillationSettings, DriftingLossSettings, SpacesSettings
from mmdflow.methods.drifting.recipe import DriftingRecipe
from mmdflow.methods.jko import JKOLossSettings
from mmdflow.methods.jko.recipe import JKOFlowRecipe
from mmdflow.methods.mmd_gan import MMDGANLossSettings
from mmdflow.methods.mmd_gan.recipe import MMDGANRecipe
from mmdflow.methods.sliced_generator import Simulation, SlicedGeneratorLossSettings
from mmdflow.methods.sliced_generator.recipe import SlicedGeneratorRecipe
from mmdflow.recipe import BatchTrainingSpec, DataSpec, FeaturesSpec
from tests.methods.common import read

pytest.importorskip("lightning")
pytest.importorskip("diffusers")
from mmdflow.runs import train as run
from mmdflow.training import LossModule
from mmdflow.training.run import read_checkpoint

TRAINING = BatchTrainingSpec(
    max_steps=8, checkpoint_every=3, sample_every=4, log_every=2, batch_size=16, accelerator="cpu"
)
FEATURES = FeaturesSpec("mlp", width=16, depth=1, num_features=1)
SCALAR = dataclasses.replace(FEATURES, head="flat")
SMALL = {
    "ddpm": DDPMRecipe(features=FEATURES, training=TRAINING, sampling=DDPMSettings(num_levels=5)),
    "flow-matching": FlowMatchingRecipe(
        features=FEATURES, training=TRAINING, sampling=FlowMatchingSettings(num_levels=5, sampler="heun")
    ),
    "mmd-gan": MMDGANRecipe(
        features=FEATURES,
        critic=FeaturesSpec("mlp", "flat", width=16, depth=1),
        training=TRAINING,
        loss=MMDGANLossSettings(critic_steps=2),
    ),
    "gs-mmd-rk": SlicedGeneratorRecipe(
        features=FEATURES,
        training=dataclasses.replace(TRAINING, ema_decay=0.0),
        flow=Simulation(num_particles=20, num_targets=30, num_directions=4, first_steps=3),
        loss=SlicedGeneratorLossSettings(num_networks=3),
    ),
    "jko-flow": JKOFlowRecipe(
        features=FEATURES,
        training=dataclasses.replace(TRAINING, ema_decay=0.0),
        loss=JKOLossSettings(num_stages=3, dual_steps=2, penalty=0.1, pool_size=50),
    ),
    "discriminator-flow": DiscriminatorFlowRecipe(
        features=SCALAR, training=TRAINING, loss=DiscriminatorFlowLossSettings(num_steps=5, noise=0.1)
    ),
    "dggf-kl": DensityRatioRecipe(features=SCALAR, training=TRAINING, loss=DensityRatioLossSettings(num_steps=5)),
    "drifting": DriftingRecipe(
        features=FEATURES,
        training=TRAINING,
        loss=DriftingLossSettings(classes=4, max_guidance=2.0, second=True, chunk_size=5),
    ),
}
#: Recipes of a system whose training has another state than that of `SMALL`.
VARIANTS = {
    "drifting, features beside": DriftingRecipe(
        features=FEATURES,
        training=dataclasses.replace(TRAINING, batch_size=128),
        spaces=SpacesSettings(recipe="dmmd-digits", levels=[0.2, 0.4], levels_per_step=1),
    ),
    "drifting, means of features": DriftingRecipe(
        features=FEATURES,
        training=TRAINING,
        spaces=SpacesSettings(model="digits", levels=[0.2, 0.4], levels_per_step=1, field="means", weight=0.3),
    ),
    "drifting, distilled": DriftingRecipe(
        features=FEATURES,
        training=TRAINING,
        start=0.8,
        distillation=DistillationSettings(model="digits", num_pairs=5),
    ),
}
DENOISERS = ["ddpm", "flow-matching"]
FLOWS = ["discriminator-flow", "dggf-kl"]  # along the gradient of one learned function


def train(folder, recipe):
    if not (folder / "recipe.yaml").exists():
        run.open_run(recipe, folder)
    return run.train(recipe, folder, progress=False)


def test_every_system_of_a_recipe_can_be_built():
    for name, method in all_methods().items():
        assert method.recipe_class()().system == name
        assert isinstance(method.make_system(), System)


@pytest.mark.parametrize("data", ["digits", "mnist", "fashion", "checkerboard"])
def test_recipes_are_on_equal_terms(data):
    """One trunk for all, up to its head; on 28x28 images the better of two, a fine one and a coarse one of patches of 4."""
    ours = read(f"dmmd-{data}")
    trunks = [ours.features]
    if data in ("mnist", "fashion"):
        trunks.append(dataclasses.replace(ours.features, channels=[96], blocks=3, patch=4))
    for system in SMALL:
        recipe = read(f"{system}-{data}")
        assert recipe.data == ours.data
        assert recipe.evaluation == ours.evaluation
        assert recipe.training.gradient_clip == ours.training.gradient_clip
        if system == "drifting" and data in ("mnist", "fashion"):
            assert recipe.features.network == "decoder"  # a generator that must be quick, in a step and in sampling
            continue
        assert recipe.training.precision == ours.training.precision
        head = {name: getattr(recipe.features, name) for name in ("head", "num_features", "num_residuals")}
        assert recipe.features in [dataclasses.replace(trunk, **head) for trunk in trunks]
        assert head["num_features"] == 1
    for system in DENOISERS if data in ("digits", "checkerboard") else ():
        assert read(f"{system}-{data}").batch_size == ours.batch_size


@pytest.mark.parametrize("system", FLOWS)
def test_flows_sample_as_they_are_trained_unless_told_otherwise(system):
    dataset = run.load_data(DataSpec())
    recipe = SMALL[system]
    built = get_method(system).make_system()
    loss = built.loss(recipe, dataset)
    assert built.pipeline(Trained(recipe, loss, loss.network, dataset)).defaults == loss.flow
    changed = dataclasses.replace(recipe, sampling=FlowChanges(num_steps=9, step_size=0.5))
    defaults = built.pipeline(Trained(changed, loss, loss.network, dataset)).defaults
    assert defaults == dataclasses.replace(loss.flow, num_steps=9, step_size=0.5)


@pytest.mark.parametrize("system", DENOISERS)
def test_a_run_leaves_what_it_promises(tmp_path, system):
    recipe = SMALL[system]
    pipeline = train(tmp_path, recipe)
    assert isinstance(pipeline, DenoisingPipeline)
    assert (pipeline.system, pipeline.levels) == (system, (recipe.loss.t_min, 1.0))
    assert pipeline.provenance["steps"] == 8
    assert {"samples", "pipeline", "logs", "checkpoints"} <= {p.name for p in tmp_path.iterdir()}
    assert (tmp_path / "samples" / "step-0000004.png").exists()
    header = next((tmp_path / "logs").rglob("metrics.csv")).read_text().splitlines()[0].split(",")
    assert {"loss", "low_noise", "high_noise"} <= set(header)
    saved = load_pipeline(tmp_path)
    for a, b in zip(saved.network.parameters(), pipeline.network.parameters(), strict=True):
        assert torch.equal(a, b)
    fields = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert fields["system"] == system
    assert "mmd_weight" not in fields["loss"]


@pytest.mark.parametrize("system", [*SMALL, *VARIANTS])
def test_interrupted_run_equals_uninterrupted_run_bit_for_bit(tmp_path, monkeypatch, system):
    recipe = (SMALL | VARIANTS)[system]
    whole = train(tmp_path / "whole", recipe)
    step, calls = LossModule.training_step, iter(range(100))

    def interrupting(self, *args, **kwargs):
        if next(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(LossModule, "training_step", interrupting)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", recipe)
    assert read_checkpoint(tmp_path / "parts")["global_step"] == 5
    monkeypatch.setattr(LossModule, "training_step", step)
    resumed = train(tmp_path / "parts", recipe)
    states = [read_checkpoint(tmp_path / name)["state_dict"] for name in ("whole", "parts")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    a, b = (p(4, generator=torch.Generator().manual_seed(0)).particles for p in (whole, resumed))
    assert torch.equal(a, b)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    quick = ["--training.max_steps=5", "--features.width=16", "--training.accelerator=cpu", "--sampling.num_levels=5"]
    quick += ["--evaluation.num_samples=40", "--evaluation.particles_per_run=20"]
    assert main(["train", "ddpm-digits", f"--output={folder}", *quick]) == 0
    return folder


def test_commands_serve_every_system(run_folder, tmp_path, capsys):
    assert main(["train", "--resume", str(run_folder)]) == 0
    arrays = tmp_path / "s.npz"
    how = ["--sampler=ddim", "--num_levels=4"]
    assert main(["sample", str(run_folder), "-n", "3", "--save", str(arrays), "-o", f"{tmp_path}/s.gif", *how]) == 0
    assert np.load(arrays)["samples"].shape == (3, 1, 8, 8)
    assert main(["evaluate", str(run_folder), "--num_levels=2"]) == 0
    report = json.loads((run_folder / "metrics.json").read_text())
    assert (report["sampler"], report["nfe"], report["num_samples"]) == ("ancestral", 2, 40)
    assert main(["recipes"]) == 0
    assert "flow-matching-digits" in capsys.readouterr().out


def test_help_is_of_the_recipe_s_system(capsys):
    for recipe, shown, other in (
        ("ddpm-digits", "sampling.clip", "mmd_weight"),
        ("dmmd-digits", "mmd_weight", "clip "),
    ):
        with pytest.raises(SystemExit):
            main(["train", recipe, "--help"])
        text = capsys.readouterr().out
        assert shown in text
        assert other not in text.replace("gradient_clip ", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ddpm-digits", "--loss.mmd_weight=1.0"], "--loss.mmd_weight: no such field"),
        (["ddpm-digits", "--training.events_per_level=8"], "--training.events_per_level: no such field"),
        (["dmmd-digits", "--training.batch_size=8"], "--training.batch_size: no such field"),
        (["ddpm-digits", "--schedule=linear"], "schedule = 'linear': must be one of 'ddpm', 'vp', 'cosine'"),
        (["ddpm-digits", "--sampling.sampler=heun"], "sampling.sampler = 'heun': must be one of 'ancestral', 'ddim'"),
        (["ddpm-digits", "--sampling.num_levels=30"], "sampling.num_levels = 30: must divide 1000"),
        (["ddpm-digits", "--features.num_features=4"], "features.num_features = 4: must be 1 for ddpm"),
        (["ddpm-digits", "--features.gradient=semi"], "--features.gradient: no such field"),
        (["dmmd-digits", "--training.compile=true"], "training.compile = True: must be false for dmmd"),
        (["flow-matching-digits", "--features.head=flat"], "features.head = 'flat': must be 'squared_residual'"),
        (["flow-matching-digits", "--sampling.clip=true"], "--sampling.clip: no such field"),
        (["flow-matching-digits", "dmmd-digits"], "recipe = 'dmmd-digits': a second one"),
        (["--config=dmmd-digit"], "did you mean 'dmmd-digits'"),
    ],
)
def test_what_belongs_to_another_system_is_refused(arguments, message, capsys, tmp_path, unchecked):
    assert main(["train", *arguments, f"--output={tmp_path / 'run'}"]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err
    assert "\n" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("system: ddpm\nloss: {mmd_weight: 1.0}\n", "mmd_weight"),
        ("system: dpm\n", "system = 'dpm': must be one of dmmd, ddpm, flow-matching, mmd-gan"),
        ("system: 3\n", "system = 3: must be one of"),
    ],
)
def test_files_of_another_system(text, message, capsys, tmp_path, unchecked):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    for arguments in ([str(file)], ["--config", str(file)]):
        assert main(["train", *arguments, f"--output={tmp_path / 'run'}"]) == 2
        assert message in capsys.readouterr().err


def test_samplers_of_another_system_are_refused(run_folder, capsys, tmp_path, unchecked):
    assert main(["sample", str(run_folder), "--steps_per_level=2", "--save", f"{tmp_path}/s.npz"]) == 2
    assert "steps_per_level = 2: the sampler of this model has no such setting" in capsys.readouterr().err
    assert main(["sample", "digits", "--sampler=ddim", "--save", f"{tmp_path}/s.npz"]) == 2
    assert "sampler = 'ddim': must be one of exact, approximate" in capsys.readouterr().err


def test_pipelines_of_an_unknown_system_are_told(run_folder, tmp_path, unchecked):
    file = tmp_path / "config.json"
    for config in ({"system": "gan"}, {}, []):
        file.write_text(json.dumps(config))
        with pytest.raises(InputError, match="config.json: system = "):
            load_pipeline(tmp_path)


@pytest.mark.parametrize(
    ("spec", "fields", "message"),
    [
        (DDPMLossSettings, {"t_min": 1.0}, "loss.t_min = 1.0"),
        (DDPMLossSettings, {"level_power": 0.0}, "loss.level_power = 0.0"),
        (DDPMSettings, {"num_levels": 7}, "sampling.num_levels = 7: must divide 1000"),
        (FlowMatchingSettings, {"num_levels": 0}, "sampling.num_levels = 0"),
        (BatchTrainingSpec, {"batch_size": 0}, "training.batch_size = 0"),
        (BatchTrainingSpec, {"max_steps": 0}, "training.max_steps = 0"),
        (DDPMRecipe, {"features": FeaturesSpec(), "data": DataSpec()}, "features.num_features = 4: must be 1"),
        (JKOLossSettings, {"num_stages": 0}, "loss.num_stages = 0"),
        (JKOLossSettings, {"jko_step": 0.0}, "loss.jko_step = 0.0"),
        (JKOLossSettings, {"penalty": -1.0}, "loss.penalty = -1.0"),
        (JKOFlowRecipe, {"features": FeaturesSpec(num_features=1, head="flat")}, "features.head = 'flat'"),
        (JKOFlowRecipe, {"training": BatchTrainingSpec()}, "training.ema_decay = 0.999: must be 0"),
        (DiscriminatorFlowLossSettings, {"step_size": 0.0}, "loss.step_size = 0.0"),
        (DiscriminatorFlowLossSettings, {"penalty_weight": -1.0}, "loss.penalty_weight = -1.0"),
        (DensityRatioLossSettings, {"num_steps": 0}, "loss.num_steps = 0"),
        (
            DensityRatioLossSettings,
            {"bregman": "lsif"},
            "loss.divergence = 'kl' with loss.bregman = 'lsif': must be pearson",
        ),
        (FlowChanges, {"num_steps": 0}, "sampling.num_steps = 0"),
        (FlowChanges, {"step_size": -1.0}, "sampling.step_size = -1.0"),
        (
            DiscriminatorFlowRecipe,
            {"features": FeaturesSpec()},
            "features.num_features = 4: must be 1 for discriminator-flow",
        ),
        (
            DiscriminatorFlowRecipe,
            {"training": BatchTrainingSpec(compile=True)},
            "training.compile = True: must be false for discriminator-flow",
        ),
    ],
)
def test_recipes_check_their_fields(spec, fields, message, unchecked):
    with pytest.raises(InputError, match=message):
        spec(**fields)
