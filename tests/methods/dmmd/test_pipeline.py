import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mmdflow import DivergedError, DMMDPipeline, Gaussian, InputError, LinearSchedule, NoiseConditionalKernel
from mmdflow.features import NETWORKS, MLPFeatures
from mmdflow.methods._shared.classes import draw_labels
from mmdflow.methods.dmmd import SamplerSettings, TargetSamples, distance_steps, noise_levels, target_means


@pytest.fixture
def pipeline():
    return make("mlp", {"width": 16})


def make(network, arguments):
    torch.manual_seed(0)
    kernel = NoiseConditionalKernel(NETWORKS[network]((1, 8, 8), 2, **arguments).eval().requires_grad_(False))
    x = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    means = target_means(kernel, LinearSchedule(), [x], torch.linspace(0.02, 1, 5))
    defaults = SamplerSettings(num_levels=4, final_steps=1)
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


def test_walk_and_final_steps_are_arguments_too(pipeline):
    changes = {"step_scale": 0.5, "max_slope": 0.3, "final_step_size": 0.2, "final_level": 0.4}
    changed = replace(pipeline, defaults=replace(pipeline.defaults, **changes))
    assert torch.equal(draw(pipeline, **changes).particles, draw(changed).particles)
    for name in changes:
        assert not torch.equal(draw(changed, **{name: 0.7}).particles, draw(changed).particles)
    unbounded = replace(changed, defaults=replace(changed.defaults, max_slope=None))
    assert torch.equal(draw(changed, max_slope=torch.inf).particles, draw(unbounded).particles)


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
        ({"sampler": "a-dmmd-a", "final_sampler": "exact"}, "the name sets it"),
        ({"t_max": 1.5}, "t_max = 1.5"),
        ({"t_min": 0.01}, r"t_min = 0.01: must be in \[0.02, 1\], the noise levels of the model's target means"),
        ({"t_min": 0.5, "t_max": 0.4}, "t_min = 0.5: must not be above t_max = 0.4"),
        ({"step_size": [0.1, 0.2]}, "step_size has 2 entries: must be a number, or one a level, 4 here"),
        ({"step_size": [0.1, -0.2, 0.1, 0.1]}, "step_size = -0.2"),
        ({"momentum": 0.5, "integrator": "heun"}, "momentum = 0.5 with integrator = 'heun'"),
        ({"integrator": "nesterov"}, "momentum = 0"),
        ({"chunk_size": 0}, "chunk_size = 0"),
        ({"whitening": 1.0}, "whitening = 1: needs target means with covariances"),
        ({"guidance": -1.0}, "guidance = -1.0"),
        ({"noise_source": True}, "noise_source = True without particles"),
        (
            {"particles": torch.zeros(2, 1, 9, 9)},
            r"particles have shape \[2, 1, 9, 9\], range \[0, 0\]: must be \[n, 1, 8, 8\]",
        ),
        ({"particles": torch.zeros(0, 1, 8, 8)}, r"shape \[0, 1, 8, 8\]"),
        ({"particles": torch.full((2, 1, 8, 8), 255.0)}, r"range \[255, 255\]: must be \[n, 1, 8, 8\], in \[-10, 10\]"),
        ({"particles": torch.full((2, 1, 8, 8), 1.5), "noise_source": True}, r"range \[1.5, 1.5\]: .*in \[-1, 1\]"),
        ({"particles": torch.full((2, 1, 8, 8), float("nan"))}, r"range \[nan, nan\]"),
        ({"particles": torch.zeros(2, 1, 8, 8, dtype=torch.long)}, "particles have dtype torch.int64"),
        ({"by_class": True}, "by_class = True: the model holds no target means of classes"),
        ({"labels": 1}, "train with --sampling.class_means=true"),
        ({"known": torch.zeros(1, 8, 8)}, "mask is missing"),
        ({"known": torch.zeros(1, 8, 8), "mask": torch.ones(1, 8, 8)}, "mask has dtype torch.float32"),
        ({"known": torch.zeros(8, 8), "mask": torch.ones(8, 8) > 0}, r"known has shape \[8, 8\]: must be \[1, 8, 8\]"),
        ({"known": torch.zeros(1, 8, 8), "mask": torch.ones(7) > 0}, r"mask has shape \[7\]: must broadcast"),
        ({"known": torch.full((1, 8, 8), 9.0), "mask": torch.ones(8) > 0}, r"known holds 9: must be in \[-1, 1\]"),
    ],
)
def test_bad_settings(pipeline, change, message, unchecked):
    with pytest.raises(InputError, match=message):
        pipeline(**change)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("dmmd", {"sampler": "exact", "final_steps": 0}),
        ("a-DMMD", {"sampler": "approximate", "final_steps": 0}),
        ("a-dmmd-a", {"sampler": "approximate", "final_sampler": "approximate", "final_steps": 2}),
        ("a-DMMD-e", {"sampler": "approximate", "final_sampler": "exact", "final_steps": 2}),
        ("DMMD-e", {"sampler": "exact", "final_sampler": "exact", "final_steps": 2}),
    ],
)
def test_names_of_the_paper(pipeline, name, plain):
    pipeline = replace(pipeline, defaults=SamplerSettings(num_levels=2, final_steps=5, final_sampler="approximate"))
    out = draw(pipeline, sampler=name)
    assert torch.equal(out.particles, draw(pipeline, **plain).particles)
    assert out.nfe == 2 + plain["final_steps"]
    assert draw(pipeline, sampler=name, final_steps=1).nfe == 3


def test_settings_that_would_do_nothing_are_refused(pipeline):
    with pytest.raises(InputError, match="guidance = 3.0 without labels or by_class"):
        draw(pipeline, guidance=3.0)
    low = TargetSamples.draw(torch.rand(4, 1, 8, 8), LinearSchedule(), t_min=0.0)
    with pytest.raises(InputError, match="final_level = 0.0 with final_steps = 1: has steps of size 0"):
        draw(replace(pipeline, target=low))


def test_to_leaves_the_pipeline_where_it_is(pipeline):
    """Moving must not reach through to the network that another pipeline, or a running training, holds."""
    twin = pipeline.to("cpu")
    assert torch.equal(draw(twin).particles, draw(pipeline).particles)
    for parameter in twin.features.parameters():
        parameter.zero_()
    assert all(bool(p.any()) for p in pipeline.features.parameters() if p.ndim > 1)


def test_range_of_levels_and_steps(pipeline):
    out = draw(pipeline, t_min=0.1, t_max=0.6, num_levels=3, final_steps=0)
    levels = noise_levels(3, 0.1, 0.6)
    walk = distance_steps(LinearSchedule(), levels, 0.3, 64)
    given = draw(pipeline, t_min=0.1, t_max=0.6, num_levels=3, final_steps=0, step_size=walk)
    torch.testing.assert_close(given.particles, out.particles)
    slow = [eta / 2 for eta in walk]
    settings = {"t_min": 0.1, "t_max": 0.6, "num_levels": 3, "final_steps": 0, "momentum": 0.5}
    torch.testing.assert_close(
        draw(pipeline, **settings, step_size=slow).particles, draw(pipeline, **settings).particles
    )


def test_any_source(pipeline):
    source = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(4)) * 2 - 1
    out = draw(pipeline, particles=source, t_max=0.5, return_trajectory=True)
    assert torch.equal(out.trajectory[0], source)
    noised = draw(pipeline, particles=source, t_max=0.5, noise_source=True, return_trajectory=True)
    noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(noised.trajectory[0], 0.5 * source + 0.5 * noise)
    again = draw(pipeline, particles=noised.trajectory[0], t_max=0.5)
    torch.testing.assert_close(again.particles, noised.particles)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_known_entries_come_back_exactly(pipeline, scale):
    pipeline = replace(pipeline, data_scale=scale)
    known = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(4)) * 2 - 1
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:, :4] = True
    known[:, :, 4:] = float("nan")  # of no interest
    out = draw(pipeline, known=known, mask=mask, chunk_size=2)
    assert torch.equal(out.particles[..., :4], known[..., :4].expand(3, 1, 8, 4))
    assert torch.isfinite(out.particles).all()
    several = torch.rand(3, 1, 8, 8)
    assert torch.equal(draw(pipeline, known=several, mask=torch.tensor(True)).particles, several)


def test_classes(pipeline, unchecked):
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    levels = torch.linspace(0.02, 1, 5)
    means = target_means(pipeline.kernel, LinearSchedule(), [x], levels, labels=torch.arange(12) % 3)
    pipeline = replace(pipeline, target=means)
    one = draw(pipeline, labels=1).particles
    assert torch.equal(one, draw(pipeline, labels=torch.tensor([1, 1, 1])).particles)
    assert not torch.equal(one, draw(pipeline, labels=torch.tensor([1, 1, 2]), guidance=2.0).particles)
    torch.testing.assert_close(draw(pipeline, labels=1, by_class=True).particles, one)  # a call's labels come first
    for labels, message in (
        (3, r"labels hold 3: must be classes 0 to 2"),
        (torch.tensor([0, 1]), r"labels have shape \[2\]: must be \[3\]"),
        (torch.tensor([0.5, 1, 1]), "labels have dtype torch.float32"),
    ):
        with pytest.raises(InputError, match=message):
            draw(pipeline, labels=labels)


def test_monitor(pipeline):
    out = draw(pipeline, monitor=True)
    assert torch.equal(out.particles, draw(pipeline).particles)
    assert out.nfe == draw(pipeline).nfe
    columns = out.monitor.columns()
    assert columns["levels"] == pytest.approx(noise_levels(4, 0.02, 1.0))
    assert all(len(values) == 4 for values in columns.values())
    assert draw(pipeline).monitor is None


def test_everything_that_sampling_needs_is_stored(pipeline, tmp_path):
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    labels, levels = torch.arange(12) % 3, torch.linspace(0.02, 1, 5)
    means = target_means(pipeline.kernel, LinearSchedule(), [x], levels, labels=labels, covariances=True)
    steps = SamplerSettings(num_levels=2, step_size=[0.2, 0.1], whitening=0.5, guidance=1.0, chunk_size=2, momentum=0.2)
    replace(pipeline, target=means, defaults=steps).save_pretrained(tmp_path / "means")
    loaded = DMMDPipeline.from_pretrained(tmp_path / "means")
    assert loaded.defaults == steps
    expected = draw(replace(pipeline, target=means, defaults=steps), labels=2).particles
    assert torch.equal(draw(loaded, labels=2).particles, expected)
    assert torch.equal(
        draw(loaded, whitening=float("inf")).particles,
        draw(replace(loaded, defaults=replace(steps, whitening=None))).particles,
    )

    kernel = NoiseConditionalKernel(pipeline.features, Gaussian(2.0) + Gaussian(0.5))
    references = TargetSamples.draw(x, LinearSchedule(), t_min=0.02, labels=labels)
    general = replace(pipeline, kernel=kernel, target=references)
    general.save_pretrained(tmp_path / "samples")
    loaded = DMMDPipeline.from_pretrained(tmp_path / "samples")
    assert "target_samples.safetensors" in {f.name for f in (tmp_path / "samples").iterdir()}
    assert torch.equal(draw(loaded, labels=2).particles, draw(general, labels=2).particles)
    with pytest.raises(InputError, match="target means with base kernel Mixture: must be TargetSamples"):
        replace(general, target=means)
    with pytest.raises(InputError, match=r"target samples have event shape \[64\]"):
        replace(general, target=TargetSamples.draw(x.flatten(1), LinearSchedule()))


def test_sampling_without_target_means_says_what_to_run(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "p")
    (tmp_path / "p" / "target_means.safetensors").unlink()
    loaded = DMMDPipeline.from_pretrained(tmp_path / "p")
    assert loaded.target is None
    with pytest.raises(
        InputError, match=r"holds no target means: .*mmdflow\.methods\.dmmd\.target_means.*train --resume"
    ):
        draw(loaded)
    assert torch.equal(draw(replace(loaded, target=pipeline.target)).particles, draw(pipeline).particles)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes"),
    ],
)
def test_out_of_memory_says_what_halves_it(pipeline, monkeypatch, error):
    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr(pipeline.features, "forward", full)
    with pytest.raises(InputError, match="out of memory with 40 particles, 40 at once: chunk_size = 20 halves it"):
        pipeline(40)
    with pytest.raises(InputError, match="6 at once: chunk_size = 3"):
        pipeline(40, chunk_size=6)
    monkeypatch.setattr(pipeline.features, "forward", lambda *_: [][0])
    with pytest.raises(IndexError):
        pipeline(2)


def test_particles_that_are_kept_have_the_units_of_the_data(pipeline):
    scaled = replace(pipeline, data_scale=0.5)
    steps = [0.1, 3e38, 0.1, 0.1]
    with pytest.raises(DivergedError, match="noise level t = ") as caught:
        draw(scaled, step_size=steps)
    with pytest.raises(DivergedError) as plain:
        draw(pipeline, step_size=steps)
    torch.testing.assert_close(caught.value.particles, 2 * plain.value.particles)
    assert plain.value.monitor is None
    with pytest.raises(DivergedError) as watched:
        draw(pipeline, step_size=steps, monitor=True)
    whole = draw(pipeline, step_size=[0.1, 0.1, 0.1, 0.1], monitor=True).monitor
    assert torch.equal(watched.value.monitor.levels, whole.levels[:3])
    assert watched.value.monitor.slope[0] == whole.slope[0]


def test_final_steps_that_diverge_name_their_size(pipeline):
    with pytest.raises(DivergedError, match=r"noise level t = 0.0200: .*: lower final_step_size \(3e\+38 here\)"):
        draw(pipeline, final_step_size=3e38, final_steps=3)


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
        (folder / "model.safetensors").unlink()
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
        ("missing", "model.safetensors: missing"),
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


def test_folders_of_semi_gradients_and_witness_norms_are_refused_in_a_line(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "p")
    file = tmp_path / "p" / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"features": config["features"] | {"gradient": "semi"}}))
    with pytest.raises(
        InputError, match="features.gradient = 'semi': is read no more; such a model is no gradient flow"
    ):
        DMMDPipeline.from_pretrained(tmp_path / "p")
    file.write_text(json.dumps(config | {"witness_norm": 3.0}))
    with pytest.raises(InputError, match="witness_norm = 3.0: is read no more; models of version 0.1 with one feature"):
        DMMDPipeline.from_pretrained(tmp_path / "p")
    file.write_text(json.dumps(config | {"features": config["features"] | {"gradient": "full"}, "witness_norm": None}))
    assert torch.equal(draw(DMMDPipeline.from_pretrained(tmp_path / "p")).particles, draw(pipeline).particles)


@pytest.mark.parametrize("kind", ["means", "samples"])
def test_by_class_draws_classes_by_their_shares(pipeline, kind, caplog, unchecked):
    """The shares come out of the means alone, and a run by class is one whose labels were drawn by them."""
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    labels = torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
    schedule, levels = LinearSchedule(), torch.linspace(0.02, 1, 5)
    if kind == "means":
        target = target_means(pipeline.kernel, schedule, [x], levels, labels=labels)
    else:
        target = TargetSamples.draw(x, schedule, t_min=0.02, labels=labels)
    torch.testing.assert_close(target.class_shares, torch.tensor([1 / 2, 1 / 3, 1 / 6]), atol=1e-4, rtol=0)
    pipeline = replace(pipeline, target=target)
    noise = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    drawn = draw_labels(7, target.class_shares, torch.Generator().manual_seed(9))
    asked = {"particles": noise, "guidance": 1.5, "num_levels": 3}
    by_class = pipeline(by_class=True, generator=torch.Generator().manual_seed(9), **asked)
    assert torch.equal(by_class.particles, pipeline(labels=drawn, **asked).particles)
    assert len(drawn.unique()) > 1
    caplog.clear()
    whole = {"known": x[0], "mask": torch.ones(8, 8, dtype=torch.bool)}
    for how, said in (({}, ""), (whole, "its known entries show"), ({"noise_source": True}, "its source shows")):
        pipeline(particles=x, by_class=True, num_levels=2, labels=1, **how)
        assert not caplog.text
        pipeline(particles=x, by_class=True, num_levels=2, **how)
        assert said in caplog.text
        assert bool(caplog.text) == bool(said)
        caplog.clear()
