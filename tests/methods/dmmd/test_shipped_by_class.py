"""The shipped models that were trained by class: what makes them DMMDs, and the classes that are asked for."""

import pytest
import torch

from mmdflow._files import shipped_models
from mmdflow.data import load
from mmdflow.methods import load_pipeline
from mmdflow.metrics import train_classifier
from tests.methods.common import seeded

BY_CLASS = [name for name in shipped_models() if name.endswith("-by-class")]


@pytest.mark.parametrize("name", BY_CLASS)
def test_shipped_models_by_class(name):
    folder, pipe = shipped_models()[name], load_pipeline(name)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4e6
    assert pipe.provenance["recipe"]["loss"]["by_class"]
    assert pipe.defaults.by_class
    assert pipe.target.num_classes == 10
    torch.testing.assert_close(pipe.target.class_shares, torch.full((10,), 0.1), rtol=0, atol=0.02)
    out = pipe(50, generator=seeded(), num_levels=8, monitor=True, guidance=0.0, step_scale=1.0)
    middle = [p for t, p in zip(out.monitor.levels, out.monitor.participation, strict=True) if 0.3 < t < 0.8]
    assert min(middle) >= 4  # features that differ: point c of docs/lab/names.md


def test_digits_are_of_the_class_that_is_asked_for():
    digits, pipe = load("digits"), load_pipeline("digits-by-class")
    judge = train_classifier(digits.train, digits.train_labels, digits.test, digits.test_labels)
    labels = torch.arange(10).repeat_interleave(20)
    made = pipe(labels=labels, num_particles=200, generator=seeded()).particles
    found = judge.probabilities(judge.features(made)).argmax(1)
    assert float((found == labels).double().mean()) > 0.85
    for label in range(10):  # and not one digit again and again
        spread, real = (x[of == label].std(0).mean() for x, of in ((made, labels), (digits.train, digits.train_labels)))
        assert float(spread / real) > 0.7
