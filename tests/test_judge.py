"""Images of any program judged against a reference: the same figures however they come; caches; features by any network."""

import hashlib
import json
import logging
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmdflow import InputError
from mmdflow.cli import main
from mmdflow.data import ImageSet, load
from mmdflow.evaluation.data_judges import report_features
from mmdflow.evaluation.figures import FIGURES, read_report
from mmdflow.evaluation.judge import judge
from mmdflow.evaluation.neighbours import nearest
from mmdflow.evaluation.protocols import PROTOCOLS, as_images, extractor_for, open_images, other_part, protocol
from mmdflow.evaluation.reference import ReferenceStatistics
from mmdflow.evaluation.samples import evaluate_samples
from mmdflow.metrics import extractors, frechet_distance
from mmdflow.metrics.extractors import FeatureExtractor, ModuleExtractor, feature_extractor, inception


@pytest.fixture
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MMDFLOW_CACHE", str(tmp_path / "cache"))


def pictures(n, channels=1, size=8, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (n, channels, size, size), dtype=np.uint8)
    return ImageSet(values, source=f"pictures {seed}")


def network(channels=1, seed=0, width=6):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(channels, width, 3), nn.ReLU())


def test_figures_are_those_of_all_features_at_once():
    samples, reference = pictures(300), pictures(700, seed=1)
    extractor = ModuleExtractor(network(), "conv", block=7, read_out=lambda f: f @ torch.eye(6)[:, :3])
    report = judge(samples, reference, extractor, repeats=10).figures
    features = [extractor.features(x.tensor()) for x in (samples, reference)]
    assert report["frechet_distance"] == pytest.approx(frechet_distance(*features), rel=1e-9)
    low, high = report["frechet_interval"]
    assert low < report["frechet_distance"] < high
    assert 1 <= report["inception_score"]["mean"] <= 3
    assert (report["num_samples"], report["num_reference"], report["num_features"]) == (300, 700, 6)
    assert report["features"].startswith("conv ")
    other = ModuleExtractor(network(), "conv", block=64, read_out=extractor.read_out)
    again = judge(samples, reference, other, repeats=10).figures
    for key in ("frechet_distance", "sliced_w2", "precision", "coverage", "energy_distance", "energy_p_value"):
        assert again[key] == pytest.approx(report[key], rel=1e-6)
    json.dumps(report)


def test_images_judged_against_themselves_are_at_zero():
    same = judge(pictures(300), pictures(300), ModuleExtractor(network(), "conv"), repeats=5).figures
    assert same["frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert (same["precision"], same["recall"], same["coverage"], same["nearest_distance"]) == (1, 1, 1, 0)
    assert same["energy_distance"] < 0
    assert same["energy_p_value"] > 0.9
    assert same["held_out"] is None
    assert "copying_z" not in same


def test_two_sample_test_is_calibrated_on_judged_images():
    extractor = ModuleExtractor(network(), "conv")
    found = [judge(pictures(30, seed=i), pictures(40, seed=500 + i), extractor, repeats=2).figures for i in range(40)]
    p = torch.tensor([figures["energy_p_value"] for figures in found], dtype=torch.float64).sort().values
    steps = torch.arange(1, 41, dtype=torch.float64) / 40
    assert float(torch.maximum(steps - p, p - steps + 1 / 40).max()) < 1.63 / 40**0.5  # Kolmogorov, level 0.01
    distances = torch.tensor([figures["energy_distance"] for figures in found])
    assert abs(float(distances.mean())) < 3 * float(distances.std()) / 40**0.5
    darker = ImageSet(pictures(30).pixels // 2, source="darker")
    apart = judge(darker, pictures(40, seed=1), extractor, repeats=2).figures
    assert apart["energy_p_value"] < 0.01
    assert apart["energy_distance"] > 10 * float(distances.std())


def test_a_reference_in_the_order_of_its_classes_is_drawn_from_all_of_them():
    """Fewer samples than images of the reference: those that they are compared with must hold every class."""
    dark, bright = (ImageSet(pictures(n, seed=s).pixels // 4, source="dark") for n, s in ((1500, 0), (200, 1)))
    bright = ImageSet(bright.pixels + 190, source="bright")
    brighter = pictures(500, seed=2).pixels // 4 + 190
    reference = ImageSet(np.concatenate([dark.pixels[:500], brighter]), source="dark, then bright")
    samples = ImageSet(np.concatenate([bright.pixels[:100], dark.pixels[1400:]]), source="both")
    figures = judge(samples, reference, ModuleExtractor(network(), "conv"), repeats=2).figures
    assert min(figures[key] for key in ("precision", "recall", "coverage")) > 0.8
    assert figures["energy_p_value"] > 0.01


def test_copies_of_the_training_set_are_found():
    data = load("digits")
    training, held_out = as_images(data.train, "train"), as_images(data.test[:180], "test")
    extractor = ModuleExtractor(network(), "conv")

    def figures(images):
        found = judge(as_images(images, "s"), held_out, extractor, training=training, held_out=held_out, repeats=2)
        return found.figures

    copies, fresh, noise = (figures(x) for x in (data.train[:200], data.test[180:], torch.rand(200, 1, 8, 8) * 2 - 1))
    assert copies["copying_z"] < -15
    assert (copies["close_share"], copies["nearest_distance"]) == (1, 0)
    assert abs(fresh["copying_z"]) < 3.5
    assert fresh["close_share"] < 0.12
    assert fresh["nearest_distance"] == pytest.approx(fresh["nearest_distance_reference"], rel=0.15)
    assert noise["copying_z"] > 15
    assert noise["close_share"] == 0
    assert (fresh["training"], fresh["held_out"]) == ("train", "test")


@pytest.mark.usefixtures("_own_cache")
def test_references_are_computed_once_and_damaged_ones_again(tmp_path, caplog, monkeypatch):
    reference, extractor = pictures(50), ModuleExtractor(network(), "conv")
    first = ReferenceStatistics.of(reference, extractor)
    (file,) = (tmp_path / "cache" / "references").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(ModuleExtractor, "features", lambda *a: pytest.fail("computed again"))
        again = ReferenceStatistics.of(reference, extractor)
    assert torch.equal(again.moments.scatter, first.moments.scatter)
    assert torch.equal(again.features, first.features)
    file.write_bytes(b"broken")
    with caplog.at_level(logging.WARNING):
        rebuilt = ReferenceStatistics.of(reference, extractor)
    assert "is damaged" in caplog.text
    assert torch.equal(rebuilt.moments.mean, first.moments.mean)
    others = (pictures(50, seed=1), extractor), (reference, ModuleExtractor(network(seed=1), "conv"))
    for images, features in others:
        ReferenceStatistics.of(images, features)
    assert len(list(file.parent.iterdir())) == 3


def test_few_samples_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        report = judge(pictures(5), pictures(50), ModuleExtractor(network(), "conv"), repeats=3).figures
    assert "5 samples for 6 features: the covariance has not full rank" in caplog.text
    assert "frechet_at_infinity" not in report
    assert "precision" not in report


def test_every_figure_is_in_the_vocabulary():
    """And every entry of the vocabulary is a figure; the docs have it as it is."""
    data = load("digits")
    classifier = extractor_for("classifier", "digits")
    training, held_out = as_images(data.train, "train"), as_images(data.test, "test")
    against_reference = judge(held_out, training, classifier, held_out=held_out, repeats=2).figures
    reports = report_features(data)
    of_model = evaluate_samples(data.test[:100], data.train, data.test, extractor=classifier, reports=reports)
    known = {figure.key for figure in FIGURES}
    measured = set()
    for report in (against_reference, of_model):
        keys = {key for key, value in report.items() if isinstance(value, float | list | dict)}
        measured |= {key.removesuffix("_reference") for key in keys} - {"seconds", "images_a_second", "judges"}
    assert measured == known


def test_old_reports_are_read_by_their_new_keys(tmp_path):
    file = tmp_path / "old.json"
    file.write_text('{"rows": [{"classifier_fd": 4.3, "nearest_train_distance_reference": 2.0, "nfe": 52}]}')
    assert read_report(str(file)) == read_report(file)
    assert read_report(file) == {"rows": [{"frechet_distance": 4.3, "nearest_distance_reference": 2.0, "nfe": 52}]}
    for committed in (Path(__file__).parents[1] / "results").rglob("*.json"):
        text = json.dumps(read_report(committed))
        assert "classifier_fd" not in text
        assert "nearest_train" not in text


def test_nearest_is_found_across_batches():
    reference = pictures(5000, size=4)
    rows = torch.tensor([4999, 0, 4096])
    distances, found = nearest(reference[rows], reference)
    assert found.tolist() == rows.tolist()
    assert distances.tolist() == [0, 0, 0]


def test_extractors_bring_images_to_the_module(monkeypatch):
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.flatten(2).mean(2)

    grey = torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, 1, 8, 8)
    out = ModuleExtractor(
        Spy(), "spy", channels=3, size=4, mean=(0.5, 0.5, 0.25), std=(1.0, 0.5, 1.0), block=2
    ).features(grey)
    assert [x.shape for x in seen] == [(2, 3, 4, 4), (2, 3, 4, 4), (1, 3, 4, 4)]
    value = (torch.linspace(-1, 1, 5) + 1) / 2
    torch.testing.assert_close(out, torch.stack([value - 0.5, (value - 0.5) / 0.5, value - 0.25], 1))
    with pytest.raises(InputError, match="images have 3 channels: spy needs 1"):
        ModuleExtractor(Spy(), "spy", channels=1).features(torch.zeros(1, 3, 8, 8))
    assert isinstance(ModuleExtractor(Spy(), "spy"), FeatureExtractor)


def test_a_module_is_left_in_the_mode_that_it_was_in():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.Dropout(0.5)).eval(), nn.Dropout(0.5))
    x = torch.rand(4, 1, 8, 8)
    extractor = ModuleExtractor(module, "dropout", channels=1)
    assert torch.equal(extractor.features(x), extractor.features(x))
    assert [part.training for part in module.modules()] == [True, True, False, False, True]
    with pytest.raises(InputError, match="images have 3 channels"):
        extractor.features(x.expand(-1, 3, -1, -1))
    assert module.training


class StandIn(nn.Module):
    """In the place of torch-fidelity's Inception, which is not installed here: what it is asked for and given."""

    def __init__(self, name, features_list, feature_extractor_weights_path):
        super().__init__()
        assert features_list == ["2048"]
        self.path, self.given = feature_extractor_weights_path, None
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 7)

    def forward(self, x):
        self.given = x
        return (x.double().flatten(1)[:, :4].float(),)


def test_inception_wants_its_weights(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = StandIn
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(InputError, match="no weights at .*hub.*MMDFLOW_INCEPTION"):
        feature_extractor("inception")
    file = tmp_path / "w.pth"
    file.write_bytes(b"weights")
    with pytest.raises(InputError, match="must be 6726825d"):
        inception(file)
    monkeypatch.setattr(extractors, "_INCEPTION_HASH", hashlib.sha256(b"weights").hexdigest()[:8])
    monkeypatch.setenv("MMDFLOW_INCEPTION", str(file))
    extractor = inception()
    assert extractor.module.network.path == str(file)
    features = extractor.features(torch.tensor([-1.0, 0.0, 1.0, 2.0]).view(1, 1, 2, 2))
    given = extractor.module.network.given
    assert given.dtype == torch.uint8
    assert given.shape == (1, 3, 2, 2)
    assert given[0, 2].flatten().tolist() == [0, 128, 255, 255]
    expected = (features @ extractor.module.network.fc.weight.T).softmax(1)
    torch.testing.assert_close(extractor.probabilities(features), expected)


def test_missing_libraries_are_named(monkeypatch):
    for name, module in (("inception", "torch_fidelity"), ("timm:vit", "timm")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match="pip install"):
            feature_extractor(name)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pics").mkdir()
    images = load("digits").test[:40]
    for i, pixels in enumerate(as_images(images, "digits").pixels):
        Image.fromarray(pixels[0]).save(tmp_path / "pics" / f"{i:02d}.png")
    return tmp_path / "pics"


def test_a_folder_of_another_program_is_judged(folder, tmp_path, capsys):
    written = tmp_path / "r.json"
    page = tmp_path / "page"
    command = ["evaluate", str(folder), "--reference=digits", "-n=30", f"--output={written}", f"--report={page}"]
    assert main(command) == 0
    out = capsys.readouterr().out
    report = json.loads(written.read_text())
    assert f"frechet_distance             {report['frechet_distance']:.5g}" in out
    assert (report["num_samples"], report["num_reference"]) == (30, 1438)
    assert "mmdflow classifier" in report["features"]
    assert (report["samples"], report["training"].split()[-1], report["held_out"].split()[-1]) == (
        str(folder),
        "(train)",
        "(test)",
    )
    assert f"copying_z                    {report['copying_z']:.5g}" in out
    assert {p.name for p in page.iterdir()} == {
        *("report.html", "report.md", "samples.png", "neighbours.png", "closest.png"),
    }
    assert "| frechet distance |" in (page / "report.md").read_text()
    model = ["digits", "--reference=digits", "--split=test", "-n=20", "--num_levels=2", f"--report={page}"]
    assert main(["evaluate", *model, f"-o={written}", "--overwrite"]) == 0
    report = json.loads(written.read_text())
    assert report["nfe"] == 4
    assert (report["training"].split()[-1], report["reference"]) == ("(train)", report["held_out"])
    assert Image.open(page / "trajectory.png").size == (4 * 50 + 2, 12 * 50 + 2)  # the source and three steps


def test_samples_saved_by_us_are_read(tmp_path):
    x = torch.rand(4, 1, 8, 8) * 2 - 1
    np.savez(tmp_path / "s.npz", samples=x.numpy())
    back = open_images(str(tmp_path / "s.npz"), like=pictures(1))
    assert float((back.tensor() - x).abs().max()) < 1 / 127


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}", "--reference=checkerboard"], "checkerboard: no such folder"),
        (["{folder}", "--reference=hub:a b"], "hub:a b: must be hub:OWNER/NAME, with @CONFIG and #REVISION"),
        (
            ["{folder}", "--reference=cifar1"],
            "nor one of digits, mnist, fashion, cifar10, celeba64, church64; did you mean",
        ),
        (
            ["{folder}", "--protocol=mnis"],
            "protocol = 'mnis': must be one of cifar10, mnist, fashion, celeba, lsun-church",
        ),
        (["{folder}"], "reference is missing"),
        (["{folder}", "--reference=digits", "-n=50"], "num_samples = 50: must be at most 40"),
        (["{folder}", "--reference=digits", "-n=-3"], "num_samples = -3: must be an integer >= 1"),
        (["{folder}", "--reference=digits", "-n=1"], "holds 1 image: must hold at least 2"),
        (["{folder}", "--reference=digits", "--sampler=exact"], "sampler = 'exact': is for a model"),
        (["{folder}", "--reference=digits", "--device=cuda"], "device = 'cuda': not usable here"),
        (["{folder}", "--reference=digits", "--particles_per_run=5"], "particles_per_run = 5: is for a model"),
        (["{folder}", "--reference=digits", "--figure=x.png"], "figure = 'x.png': is of a model"),
        (["digits", "--reference=digits", "--particles_per_run=0"], "particles_per_run = 0: must be an integer >= 1"),
        (["{folder}", "--reference=digits", "--features=vgg"], "features = 'vgg': must be one of inception, timm"),
        (["{folder}", "--reference={folder}", "--features=classifier"], "features = 'classifier' with reference"),
        (["{folder}", "--features=classifier"], "features = 'classifier': is for --reference"),
        (["{folder}", "--protocol=mnist", "--reference=digits"], "protocol = 'mnist': names reference and split"),
        (["{folder}", "--reference=digits", "--split=tests"], "split = 'tests': must be one of train, test"),
        (["{empty}", "--reference=digits"], "empty"),
        (["{nan}", "--reference=digits"], "nan.npz holds 128 NaN or infinite entries: all must be finite"),
        (["{mixed}", "--reference=digits"], "other.png: is [1, 8, 9], and the first picture [1, 8, 8]: must agree"),
        (["{colour}", "--reference=digits"], "holds images [3, 8, 8]: must be [1, 8, 8]"),
        (["{four}", "--reference=digits"], "[2, 4, 8, 8]: must be [n, c, h, w] with c = 1 or 3"),
        (["{nothing}", "--reference=digits"], "nothing.npz: not readable (it holds no array)"),
        (["{folder}", "--reference={wide}", "--split=test"], "is one file, all training data"),
        (["{folder}", "--reference=digits", "--report={nan}"], "report.html: cannot be written"),
        (["{wide}", "--reference=digits"], "entries reach 3: must be in [-1, 1]"),
        (["{unit}", "--reference=digits"], "entries lie in [0, 1]: must be in [-1, 1]; 2 x - 1 takes images in [0, 1]"),
        (["{folder}", "--reference={unit}"], "unit.npz: entries lie in [0, 1]: must be in [-1, 1]"),
        (["{other}", "--reference=digits"], "holds images [1, 4, 4]: must be [1, 8, 8]"),
    ],
)
def test_bad_input(arguments, message, folder, tmp_path, capsys, unchecked):
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "nan.npz", samples=np.full((2, 1, 8, 8), np.nan, np.float32))
    np.savez(tmp_path / "wide.npz", samples=np.full((2, 1, 8, 8), 3, np.float32))
    np.savez(tmp_path / "unit.npz", samples=np.linspace(0, 1, 128, dtype=np.float32).reshape(2, 1, 8, 8))
    np.savez(tmp_path / "other.npz", samples=np.zeros((2, 1, 4, 4), np.float32))
    np.savez(tmp_path / "colour.npz", images=np.zeros((2, 3, 8, 8), np.uint8))
    np.savez(tmp_path / "four.npz", images=np.zeros((2, 4, 8, 8), np.uint8))
    np.savez(tmp_path / "nothing.npz")
    (tmp_path / "mixed").mkdir()
    for name, width in (("a", 8), ("other", 9)):
        Image.new("L", (width, 8)).save(tmp_path / "mixed" / f"{name}.png")
    places = {
        name: str(tmp_path / f"{name}.npz") for name in ("nan", "wide", "unit", "other", "colour", "four", "nothing")
    }
    places |= {"folder": str(folder), "empty": str(tmp_path / "empty"), "mixed": str(tmp_path / "mixed")}
    assert main(["evaluate", *(argument.format(**places) for argument in arguments)]) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in err


def test_the_other_part_of_a_data_set_is_found_where_there_is_one(tmp_path):
    digits = open_images("digits")
    other = other_part("digits", "train", digits)
    assert other is not None
    assert other.source == open_images("digits", "test").source
    assert other_part("digits", "test", other).source == digits.source
    for name, values in (("samples", np.zeros((3, 1, 8, 8), np.float32)), ("images", np.zeros((3, 1, 8, 8), np.uint8))):
        file = str(tmp_path / f"{name}.npz")
        np.savez(file, **{name: values})
        assert other_part(file, "train", open_images(file, like=digits)) is None
    for part, size in (("train", 8), ("test", 8), ("val", 9)):
        (tmp_path / "set" / part).mkdir(parents=True)
        Image.new("L", (size, 8)).save(tmp_path / "set" / part / "a.png")
    place = str(tmp_path / "set")
    found = other_part(place, "train", open_images(place, like=digits))
    assert found.source == f"{place} (test)"
    (tmp_path / "set" / "test" / "a.png").unlink()
    (tmp_path / "set" / "test").rmdir()
    assert other_part(place, "train", open_images(place, like=digits)) is None


def test_protocols_name_what_there_is():
    assert PROTOCOLS.keys() == {"cifar10", "mnist", "fashion", "celeba", "lsun-church"}
    for name in PROTOCOLS:
        assert protocol(name).split in ("train", "test")
    with pytest.raises(InputError, match="did you mean 'cifar10'"):
        protocol("cifar")
    assert extractor_for(None, "digits").name.startswith("mmdflow classifier")
    assert Path(open_images("digits", "test").source).name
