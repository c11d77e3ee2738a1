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
from mmdflow.metrics import extractors, frechet_distance
from mmdflow.metrics.extractors import FeatureExtractor, ModuleExtractor, feature_extractor, inception
from mmdflow.recipes.judge import ReferenceStatistics, judge, nearest
from mmdflow.recipes.protocols import PROTOCOLS, as_images, extractor_for, open_images, protocol


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
    report = judge(samples, reference, extractor, repeats=10)
    features = [extractor.features(x.tensor()) for x in (samples, reference)]
    assert report["frechet_distance"] == pytest.approx(frechet_distance(*features), rel=1e-9)
    low, high = report["frechet_interval"]
    assert low < report["frechet_distance"] < high
    assert 1 <= report["inception_score"]["mean"] <= 3
    assert (report["num_samples"], report["num_reference"], report["num_features"]) == (300, 700, 6)
    assert report["features"].startswith("conv ")
    again = judge(
        samples, reference, ModuleExtractor(network(), "conv", block=64, read_out=extractor.read_out), repeats=10
    )
    for key in ("frechet_distance", "sliced_w2", "precision", "coverage"):
        assert again[key] == pytest.approx(report[key], rel=1e-6)
    json.dumps(report)


def test_images_judged_against_themselves_are_at_zero():
    same = judge(pictures(300), pictures(300), ModuleExtractor(network(), "conv"), repeats=5)
    assert same["frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert (same["precision"], same["recall"], same["coverage"], same["nearest_reference_distance"]) == (1, 1, 1, 0)


@pytest.mark.usefixtures("_own_cache")
def test_references_are_computed_once_and_damaged_ones_again(tmp_path, caplog, monkeypatch):
    reference, extractor = pictures(50), ModuleExtractor(network(), "conv")
    first = ReferenceStatistics.of(reference, extractor)
    (file,) = (tmp_path / "cache" / "references").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(ModuleExtractor, "features", lambda *a: pytest.fail("computed again"))
        again = ReferenceStatistics.of(reference, extractor)
    assert torch.equal(again.moments.scatter, first.moments.scatter)
    assert torch.equal(again.kept, first.kept)
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
        report = judge(pictures(5), pictures(50), ModuleExtractor(network(), "conv"), repeats=3)
    assert "5 samples for 6 features: the covariance has not full rank" in caplog.text
    assert "frechet_at_infinity" not in report
    assert "precision" not in report


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
    assert {"samples.png", "neighbours.png", "report.md"} == {p.name for p in page.iterdir()}
    assert "| frechet distance |" in (page / "report.md").read_text()
    assert (
        main(["evaluate", "digits", "--reference=digits", "--split=test", "-n=20", "--num_levels=2", f"-o={written}"])
        == 0
    )
    assert json.loads(written.read_text())["nfe"] == 4


def test_samples_saved_by_us_are_read(tmp_path):
    x = torch.rand(4, 1, 8, 8) * 2 - 1
    np.savez(tmp_path / "s.npz", samples=x.numpy())
    back = open_images(str(tmp_path / "s.npz"), like=pictures(1))
    assert float((back.tensor() - x).abs().max()) < 1 / 127


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}", "--reference=checkerboard"], "checkerboard: no such folder"),
        (
            ["{folder}", "--protocol=mnis"],
            "protocol = 'mnis': must be one of cifar10, mnist, fashion, celeba, lsun-church",
        ),
        (["{folder}"], "reference is missing"),
        (["{folder}", "--reference=digits", "-n=50"], "num_samples = 50: "),
        (["{folder}", "--reference=digits", "--features=vgg"], "features = 'vgg': must be one of inception, timm"),
        (["{folder}", "--reference={folder}", "--features=classifier"], "features = 'classifier' with reference"),
        (["{folder}", "--features=classifier"], "features = 'classifier': is for --reference"),
        (["{folder}", "--protocol=mnist", "--reference=digits"], "protocol = 'mnist': names reference and split"),
        (["{folder}", "--reference=digits", "--split=tests"], "split = 'tests': must be one of train, test"),
        (["{empty}", "--reference=digits"], "empty"),
        (["{nan}", "--reference=digits"], "nan.npz"),
        (["{wide}", "--reference=digits"], "entries reach 3: must be in [-1, 1]"),
        (["{other}", "--reference=digits"], "holds images [1, 4, 4]: must be [1, 8, 8]"),
    ],
)
def test_bad_input(arguments, message, folder, tmp_path, capsys, unchecked):
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "nan.npz", samples=np.full((2, 1, 8, 8), np.nan, np.float32))
    np.savez(tmp_path / "wide.npz", samples=np.full((2, 1, 8, 8), 3, np.float32))
    np.savez(tmp_path / "other.npz", samples=np.zeros((2, 1, 4, 4), np.float32))
    places = {name: str(tmp_path / f"{name}.npz") for name in ("nan", "wide", "other")}
    places |= {"folder": str(folder), "empty": str(tmp_path / "empty")}
    assert main(["evaluate", *(argument.format(**places) for argument in arguments)]) == 2
    err = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in err


def test_mixed_sizes_are_refused(folder):
    Image.new("L", (9, 8)).save(folder / "other.png")
    with pytest.raises(InputError, match=r"other\.png|size"):
        open_images(str(folder), like=pictures(1))


def test_protocols_name_what_there_is():
    assert PROTOCOLS.keys() == {"cifar10", "mnist", "fashion", "celeba", "lsun-church"}
    for name in PROTOCOLS:
        assert protocol(name).split in ("train", "test")
    with pytest.raises(InputError, match="did you mean 'cifar10'"):
        protocol("cifar")
    assert extractor_for(None, "digits").name.startswith("mmdflow classifier")
    assert Path(open_images("digits", "test").source).name
