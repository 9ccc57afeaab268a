"""Densities and quantiles of the priors against SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings, strategies as st

from simkit.config.schema import Exponential, Gamma, LogNormal, Normal, Uniform
from simkit.distributions import log_density, quantile


PAIRS = {
    "normal": (Normal(mean=1.5, sd=0.7), scipy.stats.norm(1.5, 0.7)),
    "log_normal": (LogNormal(median=2.0, sd=0.5), scipy.stats.lognorm(0.5, scale=2.0)),
    "uniform": (Uniform(lower=-1.0, upper=3.0), scipy.stats.uniform(-1.0, 4.0)),
    "exponential": (Exponential(rate=2.5), scipy.stats.expon(scale=0.4)),
    "gamma": (Gamma(shape=2.3, rate=1.7), scipy.stats.gamma(2.3, scale=1 / 1.7)),
    "flat gamma": (Gamma(shape=0.2, rate=3.0), scipy.stats.gamma(0.2, scale=1 / 3.0)),
}
CUTS = [(-np.inf, np.inf), (0.5, np.inf), (-np.inf, 1.2), (0.3, 0.9)]
each_pair = pytest.mark.parametrize("name", PAIRS)
PROBABILITIES = np.array([1e-6, 0.01, 0.3, 0.5, 0.77, 0.99, 1 - 1e-6])


@each_pair
def test_log_density_agrees_with_scipy(name):
    ours, theirs = PAIRS[name]
    values = np.array([-2.0, -0.5, 0.01, 0.4, 1.0, 2.5, 7.0])
    np.testing.assert_allclose(
        log_density(ours, jnp.asarray(values)), theirs.logpdf(values), rtol=1e-12
    )


@each_pair
def test_the_gradient_of_a_density_is_finite_outside_its_support(name):
    """An optimiser that steps outside must get -inf, and no NaN where it is inside."""
    ours, _ = PAIRS[name]
    slopes = jax.vmap(jax.grad(lambda v: log_density(ours, v)))(jnp.asarray([0.5, 1.0, 2.0]))
    assert np.all(np.isfinite(slopes))


@each_pair
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_cut_quantiles_agree_with_scipy(name, cut):
    ours, theirs = PAIRS[name]
    low, high = theirs.cdf(cut[0]), theirs.cdf(cut[1])
    expected = theirs.ppf(low + PROBABILITIES * (high - low))
    found = _quantile(ours, PROBABILITIES, *cut)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("distribution", "theirs", "cut"),
    [
        (Normal(mean=0.0, sd=1.0), scipy.stats.truncnorm(9.0, 12.0), (9.0, 12.0)),
        (Normal(mean=0.0, sd=1.0), scipy.stats.truncnorm(-12.0, -9.0), (-12.0, -9.0)),
        (Exponential(rate=1.0), scipy.stats.truncexpon(3.0, loc=60.0), (60.0, 63.0)),
    ],
    ids=["above", "below", "exponential"],
)
def test_quantiles_far_in_a_tail_keep_their_digits(distribution, theirs, cut):
    """There the distribution function is one to rounding, and naive cuts give infinity."""
    probabilities = np.array([0.05, 0.5, 0.95])
    found = _quantile(distribution, probabilities, *cut)
    np.testing.assert_allclose(found, theirs.ppf(probabilities), rtol=1e-7)


def test_quantiles_beyond_all_digits_stay_within_the_cut():
    for distribution in (Normal(mean=0.0, sd=1.0), Gamma(shape=2.0, rate=1.0)):
        found = np.asarray(_quantile(distribution, [0.1, 0.9], 300.0, 301.0))
        assert np.all((found >= 300.0) & (found <= 301.0))


@each_pair
@settings(deadline=None, max_examples=40)
@given(probability=st.floats(1e-9, 1 - 1e-9))
def test_quantile_inverts_the_distribution_function(name, probability):
    ours, theirs = PAIRS[name]
    value = float(_quantile(ours, np.full(7, probability), -np.inf, np.inf)[0])
    assert theirs.cdf(value) == pytest.approx(probability, rel=1e-8)


@settings(deadline=None, max_examples=40)
@given(
    ends=st.tuples(st.floats(-3, 3), st.floats(-3, 3)).filter(
        lambda e: abs(e[0] - e[1]) > 0.01
    ),
    probability=st.floats(0, 1),
)
def test_a_cut_quantile_lies_within_the_cut(ends, probability):
    low, high = min(ends), max(ends)
    found = float(_quantile(PAIRS["normal"][0], probability, low, high))
    assert low <= found <= high


def _quantile(distribution, probability, lower, upper):
    """`quantile`, compiled once for each distribution and shape."""
    if distribution not in _COMPILED:
        _COMPILED[distribution] = jax.jit(lambda *rest: quantile(distribution, *rest))
    return _COMPILED[distribution](jnp.asarray(probability), lower, upper)


_COMPILED = {}
