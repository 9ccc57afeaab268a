"""Noise models against SciPy, and their draws against their own moments."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from simkit.fitting.noise import (
    MODELS,
    draw,
    log_likelihood,
    standardised_residual,
    typical_scale,
)


DEGREES = 5.0
PREDICTED = np.array([0.4, 1.0, 3.0, 12.0, 70.0])
MEASURED = {
    "normal": np.array([-0.2, 1.3, 3.3, 11.0, 75.0]),
    "log_normal": np.array([0.2, 1.3, 3.3, 11.0, 75.0]),
    "laplace": np.array([-0.2, 1.3, 3.3, 11.0, 75.0]),
    "student_t": np.array([-0.2, 1.3, 3.3, 11.0, 75.0]),
    "poisson": np.array([0.0, 1.0, 5.0, 12.0, 66.0]),
    "negative_binomial": np.array([0.0, 1.0, 5.0, 12.0, 66.0]),
}
each_model = pytest.mark.parametrize("model", MODELS)
SCALE = 0.3


def theirs(model, predicted, scale=SCALE) -> Any:
    """The law of a measurement in SciPy's words."""
    match model:
        case "normal":
            return scipy.stats.norm(predicted, scale)
        case "log_normal":
            return scipy.stats.lognorm(scale, scale=predicted)
        case "laplace":
            return scipy.stats.laplace(predicted, scale)
        case "student_t":
            return scipy.stats.t(DEGREES, predicted, scale)
        case "poisson":
            return scipy.stats.poisson(predicted)
        case "negative_binomial":
            return scipy.stats.nbinom(1 / scale, 1 / (1 + scale * predicted))
    raise AssertionError(model)


@each_model
def test_log_likelihood_agrees_with_scipy(model):
    law, measured = theirs(model, PREDICTED), MEASURED[model]
    logarithm = law.logpmf if model in ("poisson", "negative_binomial") else law.logpdf
    found = log_likelihood(
        model, jnp.asarray(measured), jnp.asarray(PREDICTED), jnp.asarray(SCALE), DEGREES
    )
    np.testing.assert_allclose(found, logarithm(measured), rtol=1e-11, atol=1e-12)


@each_model
def test_first_derivatives_agree_with_finite_differences(model):
    measured, step = jnp.asarray(MEASURED[model]), 1e-6

    def total(predicted, scale):
        return jnp.sum(log_likelihood(model, measured, predicted, scale, DEGREES))

    point = (jnp.asarray(PREDICTED), jnp.asarray(SCALE))
    slope, scale_slope = jax.grad(total, argnums=(0, 1))(*point)
    for i in range(PREDICTED.size):
        up, down = (total(point[0].at[i].add(s), point[1]) for s in (step, -step))
        assert float(slope[i]) == pytest.approx(
            float(up - down) / (2 * step), rel=1e-4, abs=1e-7
        )
    up, down = (total(point[0], point[1] + s) for s in (step, -step))
    difference = float(up - down) / (2 * step)
    assert float(scale_slope) == pytest.approx(difference, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("scale", [1e-2, 1.01e-3, 0.99e-3, 1e-5, 1e-9, 1e-13, 1e-200])
def test_negative_binomial_noise_becomes_poisson_noise(scale):
    """To rounding, in value and in slope: the textbook formula loses all digits here."""
    counts = jnp.asarray(MEASURED["negative_binomial"])
    predicted, s = jnp.asarray(PREDICTED), jnp.asarray(scale)
    found = log_likelihood("negative_binomial", counts, predicted, s, DEGREES)
    # The product over the counts that the gamma functions stand for.
    rising = np.array([np.sum(np.log1p(scale * np.arange(int(n)))) for n in counts])
    expected = (
        rising
        - scipy.special.gammaln(counts + 1)
        - np.log1p(PREDICTED * scale) / scale
        + np.asarray(counts) * (np.log(PREDICTED) - np.log1p(PREDICTED * scale))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-11)
    if scale < 1e-8:
        np.testing.assert_allclose(found, scipy.stats.poisson.logpmf(counts, PREDICTED), 1e-5)
    # The optimiser moves on a log scale.
    slope = scale * jax.jacfwd(
        lambda s: log_likelihood("negative_binomial", counts, predicted, s, DEGREES)
    )(s)
    if scale < 1e-8:
        n, mean = np.asarray(counts), PREDICTED
        expected = scale * ((n - mean) ** 2 - n) / 2
        np.testing.assert_allclose(slope, expected, rtol=1e-3, atol=1e-12)


def test_the_curvature_of_laplace_noise_is_its_fisher_information():
    """Almost everywhere the second derivative is zero, and a Hessian of it would be too."""
    curvature = jax.grad(
        jax.grad(
            lambda h: log_likelihood(
                "laplace", jnp.asarray(1.0), h, jnp.asarray(SCALE), DEGREES
            )
        )
    )(jnp.asarray(2.0))
    assert float(curvature) == pytest.approx(-1 / SCALE**2)


@each_model
def test_a_negative_prediction_gives_a_finite_likelihood(model):
    """A solver's error may make a positive state slightly negative."""
    measured = jnp.asarray(MEASURED[model][1])
    value = log_likelihood(model, measured, jnp.asarray(-1e-12), jnp.asarray(SCALE), DEGREES)
    assert np.isfinite(float(value))


@each_model
def test_draws_have_the_moments_of_their_law(model):
    size = 40_000
    predicted = jnp.broadcast_to(jnp.asarray(PREDICTED)[:, None], (PREDICTED.size, size))
    drawn = np.asarray(draw(model, jax.random.key(3), predicted, jnp.asarray(SCALE), DEGREES))
    law = theirs(model, PREDICTED)
    mean, variance, kurtosis = (np.asarray(m, float) for m in law.stats("mvk"))
    assert np.all(np.abs(drawn.mean(1) - mean) < 5 * np.sqrt(variance / size))
    spread = variance * np.sqrt((kurtosis + 2) / size)
    if model == "student_t":  # whose fourth moment is hardly there
        spread *= 3
    assert np.all(np.abs(drawn.var(1) - variance) < 5 * spread)


@each_model
def test_standardised_residuals_of_draws_have_unit_variance(model):
    size = 40_000
    predicted = jnp.full((size,), 12.0)
    scale = jnp.asarray(SCALE)
    drawn = draw(model, jax.random.key(4), predicted, scale, DEGREES)
    residual = np.asarray(standardised_residual(model, drawn, predicted, scale, DEGREES))
    assert residual.mean() == pytest.approx(0.0, abs=0.03)
    assert residual.var() == pytest.approx(1.0, abs=0.08)


def test_a_law_without_variance_is_standardised_by_its_scale():
    ones = jnp.ones(())
    assert float(standardised_residual("student_t", 3 * ones, ones, 0.5 * ones, 2.0)) == 4.0


@each_model
def test_draws_depend_on_the_key_alone(model):
    predicted, scale = jnp.asarray(PREDICTED), jnp.asarray(SCALE)
    one, same, other = (
        np.asarray(draw(model, jax.random.key(k), predicted, scale, DEGREES)) for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)


def test_typical_scale():
    values = np.array([1.0, 2.0, 4.0, 8.0])
    assert typical_scale("normal", values) == pytest.approx(0.5 * values.std())
    assert typical_scale("log_normal", values) == pytest.approx(0.5 * np.log(values).std())
    assert typical_scale("negative_binomial", values) == 0.1
    assert typical_scale("normal", np.array([3.0])) == 1.0


def test_an_unknown_model_is_refused():
    one = jnp.ones(())
    with pytest.raises(ValueError, match="no noise model 'gaussian'"):
        log_likelihood("gaussian", one, one, one, DEGREES)
    with pytest.raises(ValueError, match="no noise model 'gaussian'"):
        draw("gaussian", jax.random.key(0), one, one, DEGREES)
