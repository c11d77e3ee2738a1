"""From a folder of one's own pictures to a model, samples, classes, inpainting and a report."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from mmdflow.cli import main
from mmdflow.data import ImageSet, images
from mmdflow.data.decode import Encoded, decoded
from mmdflow.errors import InputError, MissingPartError
from mmdflow.methods.dmmd.recipe import SamplingSpec
from mmdflow.methods.dmmd.system import affordable
from mmdflow.recipe import DataSpec
from mmdflow.recipe.data import judged_data, load_data, split
from tests.test_cli import complaint

pytest.importorskip("lightning")

QUICK = [
    "--data.size=8",
    "--features.channels=[8,8]",
    "--features.num_features=16",
    "--features.blocks=1",
    "--training.max_steps=4",
    "--training.sample_every=0",
    "--training.precision=float32",
    "--training.accelerator=cpu",
    "--sampling.num_levels=3",
    "--sampling.final_steps=0",
]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMDFLOW_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def draw(folder, count, *, size=12, seed=0, squares=False):
    """Write discs or squares of random colours."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        dark, bright = (tuple(rng.integers(*span, 3).tolist()) for span in ((0, 80), (150, 256)))
        picture = Image.new("RGB", (size, size), dark)
        pen = ImageDraw.Draw(picture)
        (pen.rectangle if squares else pen.ellipse)([2, 2, size - 3, size - 3], fill=bright)
        picture.save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "shapes"
    draw(folder / "discs", 40)
    draw(folder / "squares", 20, seed=1, squares=True)
    return folder


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    run = tmp_path_factory.mktemp("run") / "run"
    assert main(["train", "dmmd-images", f"--data={pictures}", f"--output={run}", *QUICK]) == 0
    return run


def report(run, tmp_path, *options):
    file = tmp_path / "report.json"
    assert main(["evaluate", str(run), "-n", "12", f"--output={file}", f"--figure={tmp_path / 'r.png'}", *options]) == 0
    return json.loads(file.read_text())


def test_the_whole_journey(run, pictures, tmp_path, capsys):
    saved = tmp_path / "s.npz"
    for labels in ("squares", "[discs, squares, 1, 0]"):
        assert main(["sample", str(run), "-n", "4", f"--labels={labels}", f"--save={saved}", "--overwrite"]) == 0
        assert np.load(saved)["samples"].shape == (4, 3, 8, 8)
    capsys.readouterr()
    message = complaint(capsys, ["sample", str(run), "--labels=disks", f"--save={tmp_path / 'x.npz'}"])
    assert "of the classes discs, squares; did you mean 'discs'?" in message

    mask = Image.new("L", (12, 12))
    mask.paste(255, (0, 0, 12, 6))
    mask.save(tmp_path / "mask.png")
    known = pictures / "squares" / "003.png"  # of 12 x 12, as the mask: both are fitted to the model's 8 x 8
    inpaint = ["sample", str(run), "-n", "3", f"--known={known}", f"--mask={tmp_path / 'mask.png'}", "-o"]
    assert main([*inpaint, str(tmp_path / "i.png"), f"--save={saved}", "--overwrite"]) == 0
    kept = images(known.parent, size=8)[torch.tensor([3])]
    np.testing.assert_allclose(np.load(saved)["samples"][:, :, :4], kept[:, :, :4].expand(3, 3, 4, 8), atol=1e-6)

    figures = report(run, tmp_path)
    assert (figures["num_train"], figures["num_test"]) == (54, 6)
    assert set(figures["judges"]) == {"frechet_distance", "report_distance", "random_distance"}
    assert "classifier" in figures["judges"]["frechet_distance"]
    for key in ("energy_distance", "kernel_distance", "nearest_distance", "sliced_w2", "random_distance"):
        assert f"{key}_reference" in figures
    assert {"copying_z", "close_share", "mmd_p_value", "class_histogram"} <= figures.keys()

    assert main(["evaluate", str(saved), f"--reference={pictures}"]) == 2  # the pictures are of 12 x 12
    small = tmp_path / "small.npz"
    np.savez(small, images=images(pictures, size=8).pixels, labels=np.repeat([0, 1], [40, 20]))
    assert main(["evaluate", str(saved), f"--reference={small}"]) == 0
    assert "classifier" in capsys.readouterr().out


def test_pictures_without_classes_are_judged_without_a_classifier(tmp_path, capsys):
    folder, run = draw(tmp_path / "plain", 30), tmp_path / "run"
    assert main(["train", "dmmd-images", f"--data={folder}", f"--output={run}", *QUICK]) == 0
    told = capsys.readouterr().out
    assert "images:  27 of 3 x 8 x 8 to train on; 3 held out for `mmdflow evaluate`, the same ones always" in told
    figures = report(run, tmp_path)
    assert (figures["num_train"], figures["num_test"]) == (27, 3)
    capsys.readouterr()
    assert set(figures["judges"]) == {"random_distance"}
    assert {"energy_distance", "kernel_distance", "copying_z"} <= figures.keys()
    message = complaint(capsys, ["sample", str(run), "--labels=0", f"--save={tmp_path / 'x.npz'}"])
    assert "no target means of classes" in message


def test_a_run_that_held_nothing_out_is_judged_with_a_warning(pictures, tmp_path, caplog, capsys):
    run = tmp_path / "run"
    assert main(["train", "dmmd-images", f"--data={pictures}", "--data.held_out=0", f"--output={run}", *QUICK]) == 0
    assert "images:  60 of 3 x 8 x 8 to train on; classes 0 discs, 1 squares\n" in capsys.readouterr().out
    assert report(run, tmp_path)["num_train"] == 60
    assert "nothing is held out, all images were trained on" in caplog.text


def test_thumbnails_are_small_and_grey(pictures, tmp_path, capsys):
    run, few = tmp_path / "run", ["--training.max_steps=2", "--training.sample_every=0", "--sampling.num_levels=3"]
    assert main(["train", "dmmd-thumbnails", f"--data={pictures}", f"--output={run}", *few]) == 0
    assert "images:  54 of 1 x 16 x 16 to train on; 6 held out" in capsys.readouterr().out
    saved = tmp_path / "s.npz"
    assert main(["sample", str(run), "-n", "3", "--labels=squares", f"--save={saved}"]) == 0
    assert np.load(saved)["samples"].shape == (3, 1, 16, 16)


def test_a_finished_run_goes_on_for_more_steps(run, tmp_path, capsys):
    longer = tmp_path / "longer"
    shutil.copytree(run, longer)
    assert "training.max_steps = 4: must be more than 4" in complaint(
        capsys, ["train", "--resume", str(longer), "--training.max_steps=4"]
    )
    assert main(["train", "--resume", str(longer), "--training.max_steps=8"]) == 0
    told = capsys.readouterr().out
    assert "from step 4 to 8; the step size goes on as in a run of 8 steps, at 0.001 of 0.002" in told
    made = json.loads((longer / "pipeline" / "config.json").read_text())["provenance"]
    assert (made["steps"], made["recipe"]["training"]["max_steps"], made["max_steps_before"]) == (8, 8, [4])
    before, after = ((folder / "pipeline" / "model.safetensors").read_bytes() for folder in (run, longer))
    assert before != after
    assert main(["train", "--resume", str(longer)]) == 0  # finished: nothing happens
    assert (longer / "pipeline" / "model.safetensors").read_bytes() == after


def test_a_held_out_part_is_always_the_same_and_of_every_class():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 1, 4, 4), np.uint8)
    labels = torch.tensor([0] * 40 + [1] * 17 + [2] * 3)
    whole = ImageSet(pixels, labels, source="some")
    train, test = split(whole, 0.1, flip=True)
    assert (len(train), len(test)) == (2 * 53, 7)
    assert test.labels.bincount().tolist() == [4, 2, 1]
    assert torch.equal(train.labels[:53], train.labels[53:])
    together = torch.cat([train.tensor()[:53], test.tensor()]).flatten(1).unique(dim=0)
    assert torch.equal(together, whole.tensor().flatten(1).unique(dim=0))
    again = split(ImageSet(pixels, labels, source="again"), 0.1)[1]
    assert torch.equal(test.tensor(), again.tensor())
    assert np.array_equal(test.pixels, again.pixels)
    everything, nothing = split(whole, 0.0)
    assert (len(everything), nothing) == (60, None)


def test_a_test_part_that_there_is_is_the_one_held_out(tmp_path):
    for part, count in (("train", 6), ("val", 4)):
        draw(tmp_path / "set" / part / "a", count, seed=count)
        draw(tmp_path / "set" / part / "b", count, seed=10 + count)
    draw(tmp_path / "set" / "val" / "aa", 1, seed=3)  # a class of one part: both parts know all names
    spec = DataSpec(str(tmp_path / "set"), size=8)
    assert (spec.name, spec.path) == ("images", str(tmp_path / "set"))
    trained, judged = load_data(spec), judged_data(spec)
    assert (len(trained.train), trained.held_out, trained.split) == (12, 9, False)
    assert trained.classes == ("a", "aa", "b")
    assert judged.train_labels.unique().tolist() == [0, 2]
    assert judged.test_labels.bincount().tolist() == [4, 1, 4]


def test_a_hub_set_of_one_part_is_split(tmp_path, pictures):
    datasets = pytest.importorskip("datasets")
    files = sorted(map(str, pictures.rglob("*.png")))
    table = datasets.Dataset.from_dict({"image": files, "label": [int("squares" in file) for file in files]})
    (tmp_path / "set").mkdir()
    table.cast_column("image", datasets.Image()).to_parquet(tmp_path / "set" / "train.parquet")
    spec = DataSpec(f"hub:{tmp_path / 'set'}", size=8)
    assert (spec.name, spec.path) == ("images", f"hub:{tmp_path / 'set'}")
    trained, judged = load_data(spec), judged_data(spec)
    assert (len(trained.train), trained.held_out, trained.split) == (54, 6, True)
    assert judged.test_labels.bincount().tolist() == [4, 2]


def test_what_is_a_class(tmp_path, caplog):
    for name in ("10", "9"):
        draw(tmp_path / "numbers" / name / "deeper", 2, seed=int(name))
    assert images(tmp_path / "numbers").classes == ("9", "10")
    assert images(tmp_path / "numbers").labels.tolist() == [1, 1, 0, 0]
    draw(tmp_path / "one" / "only", 2)
    assert images(tmp_path / "one").labels is None
    draw(tmp_path / "numbers", 1)
    assert images(tmp_path / "numbers").labels is None
    assert "pictures beside its sub-folders (1): these are not taken for classes" in caplog.text
    with pytest.raises(MissingPartError, match="holds no folder test/"):
        images(tmp_path / "numbers", "test")
    with pytest.raises(InputError, match=r"data.held_out = 1.0: must be a number in \[0, 1\)"):
        DataSpec(held_out=1.0)


def test_a_source_without_a_part_is_asked_once():
    """As the hub, whose parts are known only when it is called: the answer is in the cache from then on."""
    asked = []

    def opened():
        asked.append(1)
        raise MissingPartError("hub:some/set: has the parts train: must have one of test")

    pictures = Encoded("a data set of the hub", str, opened)
    for _ in range(2):
        with pytest.raises(MissingPartError, match="has the parts train"):
            decoded(pictures, size=None, crop=None, channels=3, corrupt="refuse", progress=False)
    assert len(asked) == 1


def test_target_means_take_no_longer_than_the_training():
    spec = SamplingSpec(mean_levels=101, mean_noise_repeats=4)
    assert affordable(spec, 1438, 10_000 * 128) is spec
    short = affordable(spec, 1438, 100 * 32)
    assert (short.mean_noise_repeats, short.mean_levels, short.mean_events) == (1, 101, 190)
    shortest = affordable(spec, 1438, 32)
    assert (shortest.mean_events, shortest.mean_levels) == (64, 11)
    few = affordable(SamplingSpec(mean_levels=4, mean_events=20, mean_noise_repeats=4), 1000, 1)
    assert (few.mean_events, few.mean_levels) == (20, 4)
