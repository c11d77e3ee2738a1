"""Drifts of several bandwidths, with a second batch, further negatives, unbiased quotients and falling bandwidths."""

import itertools
import math

import pytest
import torch

from mmdflow import MMD, Drift, FieldSum, Gaussian, InputError, Laplace, annealed, flow
from mmdflow.divergences.drifts import BATCH, NORMALIZATIONS, RATIOS

EXACT = {"rtol": 1e-10, "atol": 1e-10}


def clouds(*sizes, d=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, dtype=torch.float64, generator=generator) + 0.3 * i for i, n in enumerate(sizes)]


def ratio(kernel, z, y, weights=None):
    """sum_j w_j k(z, y_j) y_j / sum_j w_j k(z, y_j), by its formula."""
    shares = kernel(z, y) * (1 if weights is None else weights)
    return shares @ y / shares.sum(1, keepdim=True)


def test_a_sum_of_fields_weighs_each_by_its_root_mean_square():
    x, y = clouds(7, 9)
    fields = [Drift(y, Laplace(width), normalization="batch") for width in (0.1, 0.4, 2.0)]
    parts = [field.velocity(x) for field in fields]
    torch.testing.assert_close(FieldSum(fields).velocity(x), parts[0] + parts[1] + parts[2], **EXACT)
    expected = sum(part / part.square().mean().sqrt() for part in parts)
    torch.testing.assert_close(FieldSum(fields, unit_rms=True).velocity(x), expected, **EXACT)


def test_a_field_that_is_zero_stays_zero_and_large_ones_do_not_overflow():
    (x,) = clouds(5)
    still = Drift(x, Gaussian(1.0), self_terms=True)
    assert torch.equal(FieldSum([still], unit_rms=True).velocity(x), torch.zeros_like(x))

    class Strong:
        def velocity(self, x, at=None, weights=None):
            return torch.full_like(x, 1e30)

    velocity = FieldSum([Strong()], unit_rms=True).velocity(x.float())  # whose squares leave float32
    torch.testing.assert_close(velocity, torch.ones_like(velocity))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_a_second_batch_stands_for_the_particles(normalization):
    """Between one batch and another the drift has no self terms; it is 0 where the second is the target."""
    x, y, second = clouds(6, 8, 5)
    drift = Drift(y, Gaussian(0.9), normalization=normalization, second=second)
    assert float(Drift(y, Gaussian(0.9), normalization=normalization, second=y).velocity(x).abs().max()) < 1e-10
    if normalization == "mean-shift":
        kernel = Gaussian(0.9)
        torch.testing.assert_close(drift.velocity(x), ratio(kernel, x, y) - ratio(kernel, x, second), **EXACT)
    if normalization != "sinkhorn":  # whose plans start at the particles
        plain = Drift(y, Gaussian(0.9), normalization=normalization)
        torch.testing.assert_close(drift.velocity(x), plain.velocity(second, x), **EXACT)


@pytest.mark.parametrize("alpha", [1.5, 4.0])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_guidance_has_its_fixed_point(normalization, alpha):
    """Particles q rest where p = (q + (alpha - 1) p_all) / alpha: where q = alpha p - (alpha - 1) p_all."""
    x, everything = clouds(6, 9)
    more = torch.full((9,), (alpha - 1) / 9, dtype=torch.float64)
    target = torch.cat([x, everything])
    weights = torch.cat([torch.full((6,), 1 / 6, dtype=torch.float64), more])
    options = {"target_weights": weights, "negatives": everything, "negative_weights": more, "self_terms": True}
    velocity = Drift(target, Gaussian(0.9), normalization=normalization, **options).velocity(x)
    assert float(velocity.abs().max()) < 1e-10


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_negatives_of_weight_zero_are_none(normalization, second):
    """alpha = 1; and weights of 0 among others take no part."""
    x, y, others, more = clouds(5, 7, 3, 6)
    options = {"normalization": normalization, "second": more if second else None}
    plain = Drift(y, Laplace(0.8), **options)
    zeros = torch.zeros(3, dtype=torch.float64)
    unguided = Drift(y, Laplace(0.8), negatives=others, negative_weights=zeros, **options)
    assert torch.equal(unguided.velocity(x), plain.velocity(x))
    some = torch.tensor([0.4, 0.0, 0.3], dtype=torch.float64)
    ours = Drift(y, Laplace(0.8), negatives=others, negative_weights=some, **options)
    without = Drift(y, Laplace(0.8), negatives=others[[0, 2]], negative_weights=some[[0, 2]], **options)
    torch.testing.assert_close(ours.velocity(x), without.velocity(x), **EXACT)


def test_negatives_are_particles_that_do_not_move():
    x, y, others = clouds(5, 7, 3)
    kernel = Laplace(0.8)
    both = torch.cat([x, others])
    for normalization in NORMALIZATIONS[:3]:  # without weights each counts as a particle
        velocity = Drift(y, kernel, normalization=normalization, negatives=others).velocity(x)
        expected = Drift(y, kernel, normalization=normalization).velocity(both)[:5]
        torch.testing.assert_close(velocity, expected, **EXACT)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_weighted_targets_are_repeated_ones(normalization):
    """Also of the batch form: its columns are weighted by the root of the weight in rows, so that twins share it."""
    x, y = clouds(5, 4, d=2)
    weights = torch.tensor([2.0, 1, 1, 1], dtype=torch.float64)
    options = {"normalization": normalization, "num_iterations": 300}
    weighted = Drift(y, Gaussian(1.0), target_weights=weights, **options).velocity(x)
    scaled = Drift(y, Gaussian(1.0), target_weights=7 * weights, **options).velocity(x)
    torch.testing.assert_close(weighted, scaled, **EXACT)
    if normalization not in BATCH:
        repeated = Drift(torch.cat([y, y[:1]]), Gaussian(1.0), **options).velocity(x)
        torch.testing.assert_close(weighted, repeated, **EXACT)


def expectation(atoms, shares, n, value):
    """The exact mean of value(samples) over all samples of n of the atoms."""
    total = 0.0
    for counts in itertools.product(range(n + 1), repeat=len(atoms)):
        if sum(counts) == n:
            ways = math.factorial(n) / math.prod(map(math.factorial, counts))
            chance = ways * math.prod(share**count for share, count in zip(shares, counts, strict=True))
            total = total + chance * value(atoms.repeat_interleave(torch.tensor(counts), 0))
    return total


@pytest.mark.parametrize("normalization", RATIOS)
def test_the_correction_takes_off_the_bias_of_first_order(normalization):
    """Over all samples of n of two atoms the plain quotient is off by c / n, the corrected one by c / n^2."""
    atoms, shares = torch.tensor([[0.0], [1.5]], dtype=torch.float64), (0.5, 0.5)
    z, far = torch.tensor([[0.4]], dtype=torch.float64), torch.tensor([[1.1]], dtype=torch.float64)
    options = {"normalization": normalization, "second": far}
    exact = Drift(atoms, Laplace(1.0), target_weights=torch.tensor(shares), **options).velocity(z)
    errors = {}
    for n, unbiased in itertools.product((12, 24), (False, True)):

        def value(samples, unbiased=unbiased):
            return Drift(samples, Laplace(1.0), unbiased=unbiased, **options).velocity(z)

        errors[n, unbiased] = float((expectation(atoms, shares, n, value) - exact).abs())
    assert errors[12, False] / errors[24, False] == pytest.approx(2, rel=0.1)
    assert errors[12, True] / errors[24, True] == pytest.approx(4, rel=0.15)
    assert errors[24, True] < errors[24, False] / 8


@pytest.mark.parametrize("normalization", RATIOS)
def test_the_correction_is_the_loop(normalization, monkeypatch):
    """sum_j a_j (b_j (y_j - x) - a_j N / D), self terms left out; also in blocks of two rows."""
    x, y = clouds(5, 4, d=2)
    kernel = Laplace(0.8)
    plain = Drift(y, kernel, normalization=normalization).velocity(x)
    density = kernel if normalization == "mean-shift" else kernel.companion()
    expected = plain.clone()
    for i, (points, sign) in itertools.product(range(5), ((y, 1), (x, -1))):
        others = [p for j, p in enumerate(points) if points is y or j != i]
        of_n, of_d = (torch.stack([k(x[i : i + 1], p[None])[0, 0] for p in others]) for k in (kernel, density))
        a, b = of_d / of_d.sum(), of_n / of_d.sum()
        moved = [weight * (p - x[i]) for weight, p in zip(b, others, strict=True)]
        quotient = sum(moved)
        expected[i] += sign * sum(share * (m - share * quotient) for share, m in zip(a, moved, strict=True))
    corrected = Drift(y, kernel, normalization=normalization, unbiased=True)
    torch.testing.assert_close(corrected.velocity(x), expected, **EXACT)
    monkeypatch.setattr("mmdflow.divergences.drifts.BLOCK", 9)
    torch.testing.assert_close(corrected.velocity(x), expected, **EXACT)


def test_a_falling_bandwidth_ends_closer_than_a_wide_one():
    """The wide kernel alone leaves the particles narrower than the data; the narrow one does not reach it."""
    y = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)) * 0.3 + 3
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(1)) * 0.3

    def drift(width):
        return Drift(y, Gaussian(width), normalization="mean-shift")

    schedule = annealed(drift, 2.0, 0.2, num_steps=60)
    assert [round(schedule(k).kernel.bandwidth, 4) for k in (0, 59, 100)] == [2.0, 0.2, 0.2]
    distance = MMD(y, Laplace(0.5))
    ends = [float(distance(flow(field, x, step_size=0.5, num_steps=60).particles)) for field in (schedule, drift(2.0))]
    assert ends[0] < 0.5 * ends[1]


def test_bad_options(unchecked):
    x, y = clouds(4, 5)
    for options, message in (
        ({"negatives": x[:, :2]}, r"negatives has event shape \[2\]: must be \[3\]"),
        ({"negative_weights": torch.ones(2)}, "negative_weights without negatives"),
        ({"negatives": x, "negative_weights": torch.ones(2)}, r"negative_weights has shape \[2\]"),
        ({"second": x, "self_terms": True}, "self_terms = True with second: a second batch has none"),
        ({"unbiased": True}, "unbiased = True with normalization = 'none': is for mean-shift and sharp"),
    ):
        with pytest.raises(InputError, match=message):
            Drift(y, Gaussian(1.0), **options)
    with pytest.raises(InputError, match=r"fields = \[\]"):
        FieldSum([])
    with pytest.raises(InputError, match=r"particles has event shape \[2\]: must be \[3\]"):
        flow(FieldSum([Drift(y, Gaussian(1.0))]), x[:, :2], step_size=1.0, num_steps=1)
    for start, stop, steps in ((0.0, 1.0, 3), (1.0, -1.0, 3), (1.0, 1.0, 0)):
        with pytest.raises(InputError, match=r"start = 0|stop = -1|num_steps = 0"):
            annealed(lambda width: Drift(y, Gaussian(width)), start, stop, steps)
