import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mmdflow import DMMDPipeline, InputError, LinearSchedule, NoiseConditionalKernel
from mmdflow.dmmd import SamplerDefaults, distance_steps, target_means
from mmdflow.features import NETWORKS, MLPFeatures


@pytest.fixture
def pipeline():
    return make("mlp", {"width": 16})


def make(network, arguments):
    torch.manual_seed(0)
    kernel = NoiseConditionalKernel(NETWORKS[network]((1, 8, 8), 2, **arguments).eval().requires_grad_(False))
    x = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    means = target_means(kernel, LinearSchedule(), [x], torch.linspace(0.02, 1, 5))
    defaults = SamplerDefaults(num_levels=4, final_steps=1)
    return DMMDPipeline(kernel, LinearSchedule(), "linear", means, 0.3, 1.0, defaults, {"steps": 3})


def draw(pipeline, **settings):
    return pipeline(3, generator=torch.Generator().manual_seed(7), **settings)


@pytest.mark.parametrize(
    ("network", "arguments"),
    [("mlp", {"width": 16}), ("conv", {"channels": [8, 8]}), ("unet", {"channels": [8, 8], "groups": 4})],
)
def test_saved_and_loaded_samples_are_the_same(tmp_path, network, arguments):
    pipeline = make(network, arguments)
    pipeline.save_pretrained(tmp_path / "p")
    assert {f.name for f in (tmp_path / "p").iterdir()} == {
        "model.safetensors",
        "target_means.safetensors",
        "config.json",
    }
    loaded = DMMDPipeline.from_pretrained(tmp_path / "p")
    assert torch.equal(draw(loaded).particles, draw(pipeline).particles)
    assert loaded.provenance == {"steps": 3}
    assert loaded.defaults == pipeline.defaults


def test_output(pipeline):
    out = draw(pipeline, return_trajectory=True)
    assert out.particles.shape == (3, 1, 8, 8)
    assert out.particles.abs().max() <= 1
    assert out.nfe == 5
    assert out.trajectory.shape == (6, 3, 1, 8, 8)
    assert all(isinstance(image, Image.Image) and image.size == (8, 8) for image in out.images)
    assert draw(pipeline).trajectory is None


def test_arguments_override_the_defaults(pipeline):
    assert draw(pipeline, num_levels=2, steps_per_level=3, final_steps=0, sampler="approximate", step_size=0.1).nfe == 6
    source = torch.zeros(5, 1, 8, 8)
    assert pipeline(particles=source).particles.shape == (5, 1, 8, 8)


def test_particles_come_in_the_units_of_the_data(pipeline):
    scaled = replace(pipeline, data_scale=0.5)
    plain, half = draw(pipeline, return_trajectory=True), draw(scaled, return_trajectory=True)
    torch.testing.assert_close(half.trajectory, plain.trajectory * 2)
    started = scaled(particles=2 * plain.trajectory[0], return_trajectory=True)
    torch.testing.assert_close(started.trajectory, half.trajectory)


def test_distance_schedule_is_split_among_the_steps_of_a_level(pipeline):
    whole = distance_steps(LinearSchedule(), [1.0], 0.3, 64)[0]
    settings = {"num_levels": 1, "steps_per_level": 2, "final_steps": 0}
    expected = draw(pipeline, step_size=whole / 2, **settings).particles
    torch.testing.assert_close(draw(pipeline, **settings).particles, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_particles": 0}, "num_particles = 0"),
        ({"num_particles": 2, "num_levels": -1}, "num_levels = -1"),
        ({"num_particles": 2, "sampler": "aproximate"}, "did you mean 'approximate'"),
        ({"num_particles": 2, "step_size": -0.1}, "step_size = -0.1"),
        ({"particles": torch.zeros(2, 1, 9, 9)}, r"particles has event shape \[1, 9, 9\]"),
    ],
)
def test_bad_settings(pipeline, change, message, unchecked):
    with pytest.raises(InputError, match=message):
        pipeline(**change)


def test_folder_in_use_is_not_overwritten_unasked(pipeline, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "precious").write_text("x")
    with pytest.raises(InputError, match="already in use"):
        pipeline.save_pretrained(tmp_path / "p")
    assert (tmp_path / "p" / "precious").exists()
    pipeline.save_pretrained(tmp_path / "p", overwrite=True)
    assert not (tmp_path / "p" / "precious").exists()
    assert [f.name for f in tmp_path.iterdir()] == ["p"]


def damage(folder, how):
    if how == "config":
        (folder / "config.json").write_text("{")
    elif how == "keys":
        (folder / "config.json").write_text(json.dumps({"format": 1, "system": "dmmd"}))
    elif how == "format":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"format": 99}))
    elif how in ("features", "moment"):
        config = json.loads((folder / "config.json").read_text())
        change = {"features": "abc"} if how == "features" else {"second_moment": -1}
        (folder / "config.json").write_text(json.dumps(config | change))
    elif how in ("nan", "width"):
        means = load_file(folder / "target_means.safetensors")
        if how == "nan":
            means["clean"][0, 0] = float("nan")
        else:
            means |= {k: torch.zeros(5, 3) for k in ("clean", "noisy")}
        save_file(means, folder / "target_means.safetensors")
    elif how == "missing":
        (folder / "target_means.safetensors").unlink()
    elif how == "truncated":
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:100])
    elif how == "other":
        torch.manual_seed(0)
        save_file(MLPFeatures((1, 8, 8), 2, width=8).state_dict(), folder / "model.safetensors")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("config", "config.json: not readable JSON"),
        ("keys", "config.json: damaged or from another version"),
        ("format", "holds format 99"),
        ("features", "damaged or from another version"),
        ("moment", "second_moment = -1"),
        ("nan", "target means: clean holds NaN"),
        ("width", "target means have 3 features: must have 2"),
        ("missing", "target_means.safetensors: missing"),
        ("truncated", "model.safetensors: not a readable safetensors file"),
        ("other", "model.safetensors: does not fit the network"),
    ],
)
def test_damaged_folders(pipeline, tmp_path, how, message):
    pipeline.save_pretrained(tmp_path / "p")
    damage(tmp_path / "p", how)
    with pytest.raises(InputError, match=message):
        DMMDPipeline.from_pretrained(tmp_path / "p")


def test_unknown_model_lists_the_shipped_ones():
    with pytest.raises(InputError, match="model = 'nowhere': must be a pipeline folder"):
        DMMDPipeline.from_pretrained("nowhere")
