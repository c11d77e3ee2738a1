"""The judges of a data set: trained or drawn the same each time, near 0 for the data, in order under blur and noise."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from mmdflow import InputError
from mmdflow._tensors import eight_bits
from mmdflow.cli import main
from mmdflow.data import load
from mmdflow.evaluation import distance
from mmdflow.evaluation.data_judges import KINDS, RANDOM, REPORT, VALIDATION, kind_of, report_features
from mmdflow.evaluation.distance import open_judge, open_judges, own_judges
from mmdflow.evaluation.protocols import extractor_for
from mmdflow.evaluation.samples import evaluate_samples
from mmdflow.metrics import (
    ConvolutionalClassifier,
    RandomFeatures,
    ResidualClassifier,
    classifier,
    train_classifier,
)
from mmdflow.metrics.extractors import FeatureExtractor


@pytest.fixture(scope="module")
def digits():
    return load("digits")


@pytest.fixture(scope="module")
def judges():
    return {name: open_judge("digits", name) for name in KINDS}


def blurred(x, weight):
    """Return images mixed with their neighbours, `weight` of each to the sides."""
    for shape, pad in (((1, 1, 1, 3), (1, 1, 0, 0)), ((1, 1, 3, 1), (0, 0, 1, 1))):
        kernel = torch.tensor([weight, 1 - 2 * weight, weight]).view(shape)
        x = F.conv2d(F.pad(x, pad, mode="replicate"), kernel)
    return x


def test_the_judges_are_of_different_architectures(judges, digits):
    extractors = {name: judge.extractor for name, judge in judges.items()}
    assert [type(e) for e in extractors.values()] == [ConvolutionalClassifier, ResidualClassifier, RandomFeatures]
    assert len({judge.name for judge in judges.values()}) == 3
    for judge in extractors.values():
        assert isinstance(judge, FeatureExtractor)
        assert judge.features(digits.test).shape[1] <= 128 < 359
    assert [judge.unit for judge in judges.values()] == ["digits, FD", "digits, FD in report", "digits, FD in random"]
    assert extractors["own"].accuracy > 0.98
    assert extractors["report"].accuracy > 0.97
    assert extractors["random"].probabilities(extractors["random"].features(digits.test)) is None


def test_the_report_classifier_repeats_to_the_bit(digits, tmp_path, monkeypatch):
    few = digits.train[:256], digits.train_labels[:256], digits.test, digits.test_labels
    state = torch.random.get_rng_state()
    monkeypatch.setenv("MMDFLOW_CACHE", str(tmp_path))
    first, again, fresh = (
        train_classifier(*few, kind=ResidualClassifier, num_steps=4, cache=cache) for cache in (True, True, False)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first.name == again.name == fresh.name
    assert [file.name.split("-")[0] for file in (tmp_path / "classifiers").iterdir()] == ["residual"]
    assert [ResidualClassifier.steps_for(n) for n in (64, 1438, 60_000)] == [25, 575, 1500]
    assert [ConvolutionalClassifier.steps_for(n) for n in (64, 1438, 60_000)] == [66, 1500, 1500]
    longer = train_classifier(*few, kind=ResidualClassifier, num_steps=5, cache=False)
    assert longer.name.split("(")[0] != first.name.split("(")[0]


def test_classifiers_of_digits_are_shipped_and_are_what_they_say(digits, monkeypatch, tmp_path, caplog):
    parts = digits.train, digits.train_labels, digits.test, digits.test_labels
    with monkeypatch.context() as patch:
        patch.setattr(classifier, "_fit", lambda *a: pytest.fail("trained"))
        patch.setenv("MMDFLOW_CACHE", str(tmp_path / "empty"))
        for kind in (ConvolutionalClassifier, ResidualClassifier):
            judge = train_classifier(*parts, kind=kind)
            right = judge.probabilities(judge.features(digits.test)).argmax(1) == digits.test_labels
            assert judge.accuracy == float(right.double().mean()) > 0.98
    assert not (tmp_path / "empty").exists()
    monkeypatch.setattr(classifier, "SHIPPED", tmp_path)
    few = tuple(part[:64] for part in parts)
    name = classifier.file_name(ResidualClassifier, *few, ResidualClassifier.steps_for(64))
    (tmp_path / f"{name}.safetensors").write_bytes(b"junk")
    with caplog.at_level("WARNING"):
        train_classifier(*few, kind=ResidualClassifier)
    assert f"{name}.safetensors is damaged" in caplog.text


def test_a_classifier_is_shipped_of_each_kind_and_data_set_that_models_are():
    files = sorted(classifier.SHIPPED.iterdir())
    kinds = (ResidualClassifier, ConvolutionalClassifier)
    assert [file.name.rpartition("-")[0] for file in files] == [kind.file_stem for kind in kinds for _ in range(3)]
    for file in files:
        with safe_open(file, framework="pt") as opened:
            assert float(opened.metadata()["accuracy"]) > 0.85


def test_random_features_are_drawn_once_and_for_all(digits):
    first, again = (RandomFeatures.of([digits.train]) for _ in range(2))
    assert first.name == again.name
    assert RandomFeatures.of([digits.train[:700]]).name != first.name
    assert all(
        torch.equal(a, b) for a, b in zip(first.convolutions, RandomFeatures((1, 8, 8)).convolutions, strict=True)
    )
    features = first.features(digits.train)
    torch.testing.assert_close(features.mean(0), torch.zeros(120), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std(0), torch.ones(120), atol=1e-4, rtol=0)
    in_parts = RandomFeatures.of(digits.train.split(500))
    torch.testing.assert_close(in_parts.features(digits.test), first.features(digits.test), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("shape", "levels"), [((3, 2, 2), 1), ((1, 9, 5), 2), ((1, 28, 28), 4), ((3, 64, 64), 4)])
def test_random_features_of_any_images_are_at_most_128(shape, levels):
    network = RandomFeatures(shape)
    assert len(network.convolutions) == levels
    features = network.features(torch.rand(3, *shape) * 2 - 1)
    assert features.shape == (3, len(network.mean))
    assert 100 < features.shape[1] <= 128


def test_a_feature_that_does_not_vary_stays_finite():
    same = torch.zeros(5, 1, 8, 8)
    assert torch.equal(RandomFeatures.of([same]).features(same), torch.zeros(5, 120))


@pytest.mark.parametrize("name", KINDS)
def test_distances_are_zero_for_the_data_and_grow_with_blur_and_noise(name, judges, digits):
    judge, x = judges[name], digits.test
    held_out = judge.held_out(359)
    assert judge(digits.train) < 0.01 * held_out
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for damaged in ([blurred(x, w) for w in (0.1, 0.2, 0.3)], [x + s * noise for s in (0.1, 0.2, 0.4)]):
        distances = [held_out, *map(judge, damaged)]
        assert distances == sorted(distances)
        assert distances[-1] > 5 * held_out
    assert judge(x[digits.test_labels != 3]) > 1.3 * judge(x[torch.arange(359) % 10 != 3])


def test_few_samples_are_warned_of(judges, digits, caplog):
    judges["random"](digits.test[:100])
    assert "samples of digits: 100 samples for 120 features" in caplog.text


def test_a_report_has_the_distances_of_both_judges(judges, digits):
    """Over the subsets of the Frechet distance; the figures of the validation judge are those without them."""
    own, reports = judges["own"].extractor, report_features(digits)
    x = blurred(digits.train[:718], 0.2)
    alone = evaluate_samples(x, digits.train, digits.test, extractor=own)
    report = evaluate_samples(x, digits.train, digits.test, extractor=own, reports=reports)
    assert {key: report[key] for key in alone if key != "judges"} == {k: v for k, v in alone.items() if k != "judges"}
    assert report["judges"] == {kind.figure: judges[name].name for name, kind in KINDS.items()}
    for name, kind in KINDS.items():
        judge = judges[name]
        assert report[f"{kind.figure}_reference"] == pytest.approx(judge.held_out(359), rel=1e-4)
        assert report[kind.figure] == pytest.approx((judge(x[:359]) + judge(x[359:])) / 2, rel=1e-4)


def test_judging_a_reference_by_name(judges, digits, tmp_path):
    for name, judge in judges.items():
        assert extractor_for(name, "digits").name == judge.name
    assert extractor_for("classifier", "digits").name == extractor_for(None, "digits").name == judges["own"].name
    file = str(tmp_path / "x.npz")
    np.savez(file, samples=digits.train.numpy())
    features = extractor_for("random", file).features(eight_bits(digits.train))
    torch.testing.assert_close(features.std(0), torch.ones(120), atol=1e-4, rtol=0)
    with pytest.raises(InputError, match=r"features = 'report' with reference = '.*x.npz': needs labels"):
        extractor_for("report", file)


def test_sets_without_labels_or_images(digits, monkeypatch):
    without = replace(digits, train_labels=None)
    assert [kind.lack(without) is None for kind in KINDS.values()] == [False, False, True]
    assert list(report_features(without)) == [RANDOM.figure]
    for name in KINDS:
        why = r"needs images, and these are points \[2\]"
        with pytest.raises(InputError, match=f"features = '{name}' with data = 'checkerboard': {why}"):
            open_judge("checkerboard", name)
    monkeypatch.setattr(distance, "judged_data", lambda spec: without)
    assert open_judge("digits").unit == "digits, sliced W_2"
    assert open_judge("digits", "random").unit == "digits, FD in random"
    with pytest.raises(InputError, match="features = 'report' with data = 'digits': needs labels .* 'random' needs no"):
        open_judge("digits", "report")
    result = own_judges("digits", 50)
    assert [(row.features, row.figure) for row in result.judges] == [("own", "sliced_w2"), ("random", RANDOM.figure)]
    assert list(result.lacking) == ["report"]
    with pytest.raises(InputError, match=r"of events \[1, 1, 8\]: must be of images"):
        RandomFeatures((1, 1, 8))
    with pytest.raises(InputError, match="batches is empty"):
        RandomFeatures.of([])
    with pytest.raises(InputError, match="images have 3 channels: .* needs 1"):
        RandomFeatures((1, 8, 8)).features(torch.zeros(2, 3, 8, 8))


def test_unknown_features_name_all_that_there_are():
    for opened in (kind_of, lambda name: open_judge("digits", name), lambda name: open_judges(["digits"], name)):
        with pytest.raises(InputError, match=r"'reprt': must be one of .*own, report, random; did you mean 'report'"):
            opened("reprt")
    assert (kind_of("report"), kind_of("classifier"), kind_of("inception:x.pth")) == (REPORT, VALIDATION, None)


def test_the_command_says_what_the_judges_are(judges, tmp_path, capsys):
    file = tmp_path / "made" / "judges.json"
    assert main(["judges", "--data=digits", f"-o={file}"]) == 0
    out, result = capsys.readouterr().out, json.loads(file.read_text())
    assert (result["num_samples"], result["num_train"], result["lacking"]) == (359, 1438, {})
    assert "359 held-out images against 1438 training images" in out
    for row in result["judges"]:
        judge, kind = judges[row["features"]], KINDS[row["features"]]
        assert (row["name"], row["role"], row["figure"]) == (judge.name, kind.role, kind.figure)
        assert row["held_out"] == judge.held_out(359)
        assert (row["accuracy"] is None) == (kind is RANDOM)
        assert f"{row['held_out']:.4g}  {judge.name}" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data=rings"], "features = 'own' with data = 'rings': needs images, and these are points [2]"),
        (["--data=digit"], "data = 'digit': must be one of"),
        (["-n=360"], "num_samples = 360: must be at most 359, the held-out images of digits"),
        (["-n=1"], "num_samples = 1: must be an integer >= 2"),
    ],
)
def test_bad_input(options, message, capsys, unchecked):
    assert main(["judges", *options]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err
    assert "\n" not in err
