"""Metrics as objects of torchmetrics: equal to the functions on all samples, however they come."""

import pytest
import torch

from mmdflow import Deep, Gaussian, InputError, Linear, metrics
from mmdflow.functional import mmd2

pytest.importorskip("torchmetrics")
X = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randn(45, 6, generator=torch.Generator().manual_seed(1)) + 0.3


def whole(metric):
    """Return the value of the function that a metric is of, on all samples."""
    if isinstance(metric, metrics.FrechetDistance):
        return metrics.frechet_distance(X, Y)
    if isinstance(metric, metrics.KernelDistance):
        generator = torch.Generator().manual_seed(3)
        return metrics.kernel_distance(X, Y, num_subsets=7, subset_size=20, generator=generator).mean
    return float(mmd2(X.double(), Y.double(), metric.kernel, unbiased=metric.unbiased))


MAKERS = {
    "mmd": lambda **more: metrics.MMDMetric(Gaussian(1.5), **more),
    "biased": lambda **more: metrics.MMDMetric(Gaussian(1.5), unbiased=False, **more),
    "energy": lambda **more: metrics.EnergyDistance(**more),
    "kernel": lambda **more: metrics.KernelDistance(num_subsets=7, subset_size=20, seed=3, **more),
    "frechet": lambda **more: metrics.FrechetDistance(6, **more),
}
every = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def feed(metric, x=X, y=Y, size=16):
    for samples, real in ((x, False), (y, True)):
        for batch in samples.split(size):
            metric.update(batch, real=real)
    return metric


@every
def test_batches_add_up_to_the_function_of_all(make):
    metric = feed(make())
    assert float(metric.compute()) == pytest.approx(whole(metric), rel=1e-10)
    assert metric.compute().dtype == torch.float64
    assert (metric.higher_is_better, metric.is_differentiable) == (False, False)
    metric.reset()
    with (
        pytest.warns(UserWarning, match="before the ``update``"),
        pytest.raises(InputError, match="generated|features_a"),
    ):
        metric.compute()
    assert float(feed(metric, size=7).compute()) == pytest.approx(whole(metric), rel=1e-10)


@every
def test_machines_merge(make):
    """Two machines, the second of which has fewer samples, by torchmetrics' own gathering."""
    machines = [feed(make(), X[:40], Y[:30]), feed(make(), X[40:], Y[30:])]
    for name, reduce in machines[0]._reductions.items():
        states = [getattr(metric, name) for metric in machines]
        held = [torch.cat(state) if isinstance(state, list) else state for state in states]
        merged = reduce(torch.stack(held) if not isinstance(states[0], list) else held)
        setattr(machines[0], name, merged)
    machines[0]._computed = None
    assert float(machines[0].compute()) == pytest.approx(whole(machines[0]), rel=1e-10)


@every
def test_a_synchronisation_is_undone(make):
    """As Lightning does at an epoch's end: gather, compute, go on with one's own samples."""

    def gather(state, group=None):
        return [state, state]  # two machines with equal samples

    metric, alone = feed(make(dist_sync_fn=gather, distributed_available_fn=lambda: True)), feed(make())
    doubled = feed(feed(make()))
    if not isinstance(metric, metrics.KernelDistance):  # which draws its subsets from other rows
        assert float(metric.compute()) == pytest.approx(float(doubled.compute()), rel=1e-10)
    assert torch.isfinite(metric.compute())
    for name in ("real", "generated"):
        after, own = (
            [state] if isinstance(state := getattr(m, name), torch.Tensor) else state for m in (metric, alone)
        )
        assert torch.equal(torch.cat(list(after)), torch.cat(list(own)))


def test_moments_far_from_the_origin_keep_their_digits():
    near, far = (feed(metrics.FrechetDistance(6), X + at, Y + at) for at in (0.0, 1000.0))
    torch.testing.assert_close(near.compute(), far.compute(), rtol=1e-3, atol=0)  # X itself is rounded at 1000
    apart = metrics.frechet_distance(X.double() + 1e6, Y.double() + 1e6)
    metric = feed(metrics.FrechetDistance(6), X.double() + 1e6, Y.double() + 1e6)
    assert float(metric.compute()) == pytest.approx(apart, rel=1e-9)


def test_half_precision_of_a_module_leaves_the_sums_in_float64():
    module = torch.nn.Module()
    module.metric = metrics.FrechetDistance(6)
    module.half()
    assert float(feed(module.metric).compute()) == pytest.approx(metrics.frechet_distance(X, Y), rel=1e-10)


def test_a_kernel_with_a_network_keeps_its_dtype():
    network = torch.nn.Linear(6, 3)
    metric = feed(metrics.MMDMetric(Deep(Linear(), network)))
    expected = mmd2(X, Y, Deep(Linear(), network))
    assert float(metric.compute()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_events_of_any_shape_and_bad_input(unchecked):
    metric = metrics.MMDMetric(Gaussian(1.0))
    metric.update(torch.zeros(3, 2, 2), real=True)
    with pytest.raises(InputError, match=r"samples has event shape \[3\]: must be \[2, 2\]"):
        metric.update(torch.zeros(3, 3), real=False)
    with pytest.raises(InputError, match=r"no generated samples: give them by update\(samples, real=False\)"):
        metric.compute()
    with pytest.raises(InputError, match=r"features has event shape \[5\]: must be \[6\]"):
        metrics.FrechetDistance(6).update(torch.zeros(3, 5), real=True)
    with pytest.raises(InputError, match="subset_size = 1"):
        metrics.KernelDistance(subset_size=1)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = metrics.Nothing


def test_in_a_lightning_module(tmp_path):
    lightning = pytest.importorskip("lightning")
    logged = {}

    class Generator(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.shift = torch.nn.Parameter(torch.zeros(6))
            self.mmd2, self.frechet = metrics.MMDMetric(Gaussian(1.5)), metrics.FrechetDistance(6)

        def validation_step(self, batch, index):
            for metric in (self.mmd2, self.frechet):
                metric.update(batch[0] + self.shift, real=False)
                metric.update(batch[1], real=True)

        def on_validation_epoch_end(self):
            self.log("mmd2", self.mmd2)
            self.log("frechet", self.frechet)

    data = torch.utils.data.TensorDataset(X[:45], Y)
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    (logged,) = trainer.validate(Generator(), torch.utils.data.DataLoader(data, batch_size=20), verbose=False)
    assert logged["mmd2"] == pytest.approx(float(mmd2(X[:45].double(), Y.double(), Gaussian(1.5))), rel=1e-5)
    assert logged["frechet"] == pytest.approx(metrics.frechet_distance(X[:45], Y), rel=1e-5)
