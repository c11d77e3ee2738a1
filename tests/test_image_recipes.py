"""Recipes over image sets: the paper's full-scale ones, shrunk, on stand-in images; bytes on disk, decoded by the batch."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mmdflow import DMMDLoss
from mmdflow.cli import main
from mmdflow.data import ImageSet
from mmdflow.errors import InputError
from mmdflow.methods.base import build_features
from mmdflow.recipe import DataSpec
from mmdflow.recipe.data import judged_data, load_data
from mmdflow.recipe.specs import FeaturesSpec
from mmdflow.training import StepBatches

SIDES = {"cifar10": 32, "celeba64": 64, "church64": 64}
SMALL_UNET = ["--features.channels=[8,8,8,8]", "--features.groups=4", "--features.layers=1"]
QUICK = [
    *SMALL_UNET,
    "--training.max_steps=2",
    "--training.checkpoint_every=1",
    "--training.sample_every=0",
    "--training.accelerator=cpu",
]
QUICK_DMMD = [
    "--loss.num_levels=2",
    "--training.events_per_level=4",
    "--sampling.mean_levels=2",
    "--sampling.mean_events=5",
    "--sampling.num_levels=2",
]
QUICK_GS_MMD_RK = ["--flow.num_particles=6", "--flow.num_targets=8", "--flow.num_directions=4", "--flow.first_steps=1"]


def stand_ins(folder, side, count=12, labels=True):
    """Write random images with labels as train.npz and test.npz."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        arrays = {"images": rng.integers(0, 256, (count, side, side, 3), np.uint8)}
        if labels:
            arrays["labels"] = np.arange(count) % 2
        np.savez(folder / f"{split}.npz", **arrays)
    return folder


@pytest.mark.parametrize("data", SIDES)
@pytest.mark.parametrize("system", ["dmmd", "ddpm"])
def test_full_scale_recipes_run_from_images_to_samples(tmp_path, system, data):
    pytest.importorskip("lightning")
    pytest.importorskip("diffusers")
    path = stand_ins(tmp_path / "images", SIDES[data])
    own = QUICK_DMMD if system == "dmmd" else ["--training.batch_size=4"]
    run = tmp_path / "run"
    options = [f"--output={run}", f"--data.path={path}", *QUICK, *own]
    assert main(["train", f"{system}-{data}", *options]) == 0
    levels = 2 if system == "dmmd" else 5
    saved = tmp_path / "s.npz"
    assert main(["sample", str(run), "-n", "4", f"--num_levels={levels}", f"--save={saved}"]) == 0
    samples = np.load(saved)["samples"]
    assert samples.shape == (4, 3, SIDES[data], SIDES[data])
    assert np.isfinite(samples).all()
    provenance = json.loads((run / "pipeline" / "config.json").read_text())["provenance"]
    assert provenance["data"]["flip"] is True
    assert provenance["steps"] == 2


@pytest.mark.parametrize("family", ["drifting", "mmd-generator", "sinkhorn-drift"])
def test_full_scale_one_step_generators_run_from_images_to_samples(tmp_path, family):
    """The recipe, shrunk: landmarks from images that are decoded by the batch, chunks smaller than the population."""
    pytest.importorskip("lightning")
    pytest.importorskip("diffusers")
    path, run, saved = stand_ins(tmp_path / "images", 32), tmp_path / "run", tmp_path / "s.npz"
    small = ["--training.batch_size=6", "--loss.chunk_size=4"]
    small += ["--loss.landmarks=5"] if family == "mmd-generator" else []
    assert main(["train", f"{family}-cifar10", f"--output={run}", f"--data.path={path}", *QUICK, *small]) == 0
    assert main(["sample", str(run), "-n", "4", f"--save={saved}"]) == 0
    samples = np.load(saved)["samples"]
    assert samples.shape == (4, 3, 32, 32)
    assert np.isfinite(samples).all()
    classes = ["--loss.classes=2", "--loss.max_guidance=2", "--sampling.guidance=1.5"]
    if family == "drifting":
        run = tmp_path / "by-class"
        assert (
            main(["train", f"{family}-cifar10", f"--output={run}", f"--data.path={path}", *QUICK, *small, *classes])
            == 0
        )
        assert main(["sample", str(run), "-n", "4", f"--save={saved}", "--labels=1", "--overwrite"]) == 0


def test_a_chain_of_networks_climbs_a_pyramid_of_images(tmp_path):
    pytest.importorskip("lightning")
    pytest.importorskip("diffusers")
    path, run, saved = stand_ins(tmp_path / "images", 32), tmp_path / "run", tmp_path / "s.npz"
    small = ["--features.channels=[8,8,8]", "--features.groups=4", "--features.layers=1", "--loss.num_networks=4"]
    loop = [
        "--training.max_steps=8",
        "--training.sample_every=0",
        "--training.accelerator=cpu",
        "--training.batch_size=4",
    ]
    options = [f"--output={run}", f"--data.path={path}", *small, *loop, *QUICK_GS_MMD_RK]
    assert main(["train", "gs-mmd-rk-cifar10", *options]) == 0
    assert main(["sample", str(run), "-n", "4", "--num_networks=3", f"--save={saved}", "-o", f"{tmp_path}/s.gif"]) == 0
    samples = np.load(saved)["samples"]
    assert samples.shape == (4, 3, 32, 32)
    assert np.array_equal(
        samples[:, :, ::2, ::2], samples[:, :, 1::2, 1::2]
    )  # the third network's images are of 16 x 16
    shapes = [
        spec["event_shape"] for spec in json.loads((run / "pipeline" / "config.json").read_text())["features"].values()
    ]
    assert shapes == [[3, 4, 4], [3, 8, 8], [3, 16, 16], [3, 32, 32]]


def test_an_interrupted_run_over_images_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    pytest.importorskip("lightning")
    pytest.importorskip("diffusers")
    from mmdflow.runs import train as runs
    from mmdflow.training.run import read_checkpoint

    path = stand_ins(tmp_path / "images", 32)
    options = [
        f"--data.path={path}",
        *QUICK,
        *QUICK_DMMD,
        "--training.precision=float32",
        "--training.checkpoint_every=1",
    ]
    assert main(["train", "dmmd-cifar10", f"--output={tmp_path / 'whole'}", *options]) == 0
    forward, steps = DMMDLoss.forward, []

    def interrupted(self, clean, generator=None):
        steps.append(len(clean))
        if len(steps) == 2:
            raise KeyboardInterrupt
        return forward(self, clean, generator)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "build_check", lambda recipe: None)
        patch.setattr(DMMDLoss, "forward", interrupted)
        assert main(["train", "dmmd-cifar10", f"--output={tmp_path / 'cut'}", *options]) == 130
    assert read_checkpoint(tmp_path / "cut")["global_step"] == 1
    assert not (tmp_path / "cut" / "pipeline").exists()
    assert main(["train", f"--resume={tmp_path / 'cut'}"]) == 0
    whole, cut = ((tmp_path / name / "pipeline" / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut


def test_pictures_of_any_folder(tmp_path):
    pytest.importorskip("lightning")
    for split in ("train", "test"):
        folder = tmp_path / "pictures" / split
        folder.mkdir(parents=True)
        for i in range(9):
            pixels = np.random.default_rng(i).integers(0, 256, (20, 16), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
    data = ["--data.name=images", f"--data.path={tmp_path / 'pictures'}", "--data.size=8", "--data.channels=1"]
    few = ["--training.max_steps=2", "--sampling.mean_levels=2", "--training.accelerator=cpu", "--features.width=8"]
    run = tmp_path / "run"
    assert main(["train", "dmmd-digits", f"--output={run}", *data, *few]) == 0
    report = tmp_path / "report.json"
    assert main(["evaluate", str(run), "--num_samples=6", "-o", str(report)]) == 0
    figures = json.loads(report.read_text())
    assert (figures["num_train"], figures["num_test"], figures["num_samples"]) == (9, 9, 6)
    assert figures["sliced_w2"] > 0


def test_a_run_keeps_the_name_of_hub_data(tmp_path):
    pytest.importorskip("lightning")
    import yaml

    from mmdflow.methods.dmmd.recipe import DMMDRecipe
    from mmdflow.runs import train

    train.open_run(DMMDRecipe(data=DataSpec("images", "hub:owner/name")), tmp_path / "run")
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["data"]["path"] == "hub:owner/name"


def test_samples_are_judged_by_the_same_few_images(tmp_path, monkeypatch):
    monkeypatch.setattr("mmdflow.recipe.data.JUDGED", 5)
    spec = DataSpec("images", str(stand_ins(tmp_path / "images", 8)), flip=True)
    first, again = judged_data(spec), judged_data(spec)
    assert first.train.shape == first.test.shape == (5, 3, 8, 8)
    assert torch.equal(first.train, again.train)
    assert first.train_labels.shape == (5,)
    assert len(load_data(spec).train) == 24  # with mirror images, which are only trained on


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "data.size = 8 with data.name = 'digits'"),
        ({"flip": True}, "data.flip = True with data.name = 'digits'"),
        ({"channels": 2}, "data.channels = 2: must be 1 or 3"),
        ({"name": "images"}, "data.path is missing"),
        ({"name": "images", "path": "x", "scale": 2.0}, "data.scale = 2 with data.name = 'images': must be 1"),
        ({"name": "cifar10", "size": 0}, "data.size = 0"),
    ],
)
def test_fields_that_do_not_belong_together(options, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        DataSpec(**options)


def test_arrays_of_another_size_are_refused_with_both_shapes(tmp_path, capsys):
    pytest.importorskip("lightning")
    path = stand_ins(tmp_path / "images", 28)
    assert main(["train", "dmmd-cifar10", f"--data.path={path}", f"--output={tmp_path / 'r'}", *QUICK]) == 2
    assert "holds images [3, 28, 28]: must be [3, 32, 32]" in capsys.readouterr().err


class Odd:
    """Images that are not what they say."""

    def __init__(self, shape, value):
        self.shape, self.value, self.event_shape = shape, value, (1, 4, 4)

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.full((len(index), *self.shape), self.value)


@pytest.mark.parametrize(("shape", "value"), [((1, 4, 4), 255.0), ((1, 4, 4), float("nan")), ((1, 5, 4), 0.0)])
def test_every_batch_is_checked(shape, value):
    with pytest.raises(
        InputError, match=r"data has event shape .*, range .*: the recipe needs \[1, 4, 4\], in \[-1, 1\]"
    ):
        next(iter(StepBatches(Odd(shape, value), 2)))


def test_batches_of_an_image_set_are_those_of_its_tensor():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 1, 4, 4), np.uint8)
    images = ImageSet(pixels, source="stand-ins", flip=True)
    lazy, held = iter(StepBatches(images, 4, seed=1, start=2)), iter(StepBatches(images.tensor(), 4, seed=1, start=2))
    for _ in range(5):
        assert torch.equal(next(lazy), next(held))


def test_the_network_is_that_of_ddpm():
    """35.7 million parameters (Ho et al. 2020, appendix B), the channels that K outputs need more set aside."""
    pytest.importorskip("diffusers")
    import yaml

    from mmdflow.methods import recipe_path

    for name in ("dmmd-cifar10", "ddpm-cifar10"):
        spec = FeaturesSpec(**yaml.safe_load(recipe_path(name).read_text())["features"])
        with torch.device("meta"):
            network = build_features(spec, (3, 32, 32))
        count = sum(p.numel() for p in network.parameters())
        further = (spec.num_features - 1) * 3 * (9 * 128 + 1)
        assert count - further == pytest.approx(35.7e6, rel=0.02)
