"""Networks trained along velocity fields."""

import copy

import pytest
import torch
from torch import nn

from mmdflow import MMD, DivergedError, Drift, Gaussian, InputError, Laplace, fit
from mmdflow.functional import mmd2


def network(seed=0, out=2):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 16), nn.SiLU(), nn.Linear(16, out)).double()


def target(n=64):
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 0.5 + 1


def gradients(field, chunk_size):
    trained = network()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.0)
    rng = torch.Generator().manual_seed(2)
    fit(field, trained, (2,), num_steps=1, batch_size=10, chunk_size=chunk_size, optimizer=optimizer, generator=rng)
    return [p.grad.clone() for p in trained.parameters()]


def test_gradient_is_that_of_the_loss_of_the_paper():
    field, trained = Drift(target(), Laplace(0.5), normalization="mean-shift"), network()
    samples = trained(torch.randn(10, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    goal = (samples + field.velocity(samples.detach())).detach()
    (samples - goal).square().sum(1).mean().backward()
    for ours, expected in zip(gradients(field, None), [p.grad for p in trained.parameters()], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)


def test_with_mmd_it_is_the_gradient_of_the_squared_mmd():
    """dL/dx = -2 v / n, and v / n = -d(1/2 MMD^2)/dx: the gradient of MMD^2 as a V-statistic."""
    kernel, trained = Gaussian(0.8), network()
    samples = trained(torch.randn(10, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    mmd2(samples, target(), kernel, unbiased=False).backward()
    for ours, expected in zip(
        gradients(MMD(target(), kernel), None), [p.grad for p in trained.parameters()], strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("chunk_size", [1, 3, 10, 100])
def test_chunks_change_nothing(chunk_size):
    field = MMD(target(), Gaussian(0.8))
    for ours, expected in zip(gradients(field, chunk_size), gradients(field, None), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("normalization", ["mean-shift", "batch"])
def test_a_narrow_generator_does_not_collapse(normalization):
    """A generator whose outputs spread by a hundredth of the data's learns the data's spread."""
    trained = network()
    with torch.no_grad():
        trained[2].weight.mul_(0.01)
    rng = torch.Generator().manual_seed(0)
    field = Drift(target(256), Laplace(0.3), normalization=normalization)
    result = fit(field, trained, (2,), num_steps=400, step_size=5e-3, batch_size=128, ema_decay=0.9, generator=rng)
    samples = result.network(torch.randn(500, 2, dtype=torch.float64, generator=rng))
    assert (samples.mean(0) - 1).abs().max() < 0.15
    assert 0.6 < float(samples.std(0).mean() / 0.5) < 1.4


def test_field_may_be_a_schedule_and_training_may_stop():
    seen = []

    def field(step):
        seen.append(step)
        return MMD(target(), Gaussian(2.0 / (1 + step)))

    result = fit(field, network(), (2,), num_steps=50, batch_size=8, callback=lambda step, samples: step == 4)
    assert seen == [0, 1, 2, 3]
    assert result.steps == len(result.values) == 4
    assert repr(result).startswith("FitResult(Sequential, 4 steps, last loss")


def test_average_of_the_weights():
    trained = network()
    start = copy.deepcopy(trained)
    rng = torch.Generator().manual_seed(0)
    result = fit(MMD(target(), Gaussian(1.0)), trained, (2,), num_steps=1, ema_decay=0.5, generator=rng)
    for mean, before, after in zip(result.network.parameters(), start.parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(mean, before + (1 - 0.1) * (after - before))
        assert not mean.requires_grad
    last = fit(MMD(target(), Gaussian(1.0)), trained, (2,), num_steps=1, ema_decay=0.0, generator=rng)
    for mean, after in zip(last.network.parameters(), trained.parameters(), strict=True):
        assert torch.equal(mean, after)


def test_bad_input(unchecked):
    field = MMD(target(), Gaussian(1.0))
    with pytest.raises(InputError, match=r"samples of the network has event shape \[3\]: must be \[2\]"):
        fit(field, network(out=3), (2,), num_steps=1)
    with pytest.raises(InputError, match="network = Flatten: has no parameters to train"):
        fit(field, nn.Flatten(), (2,), num_steps=1)
    with pytest.raises(InputError, match="network = function: must be a torch.nn.Module"):
        fit(field, lambda noise: noise, (2,), num_steps=1)
    with pytest.raises(InputError, match="source = 2: must be the shape of an event"):
        fit(field, network(), 2, num_steps=1)
    with pytest.raises(InputError, match="ema_decay = 1"):
        fit(field, network(), (2,), num_steps=1, ema_decay=1.0)
    broken = network()
    with torch.no_grad():
        broken[0].weight.fill_(float("nan"))
    with pytest.raises((InputError, DivergedError)):
        fit(field, broken, (2,), num_steps=1)
