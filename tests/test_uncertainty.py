"""Laplace uncertainties against posteriors that are known in closed form."""

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from simkit.config.schema import FitTable, FreeParameter, Gamma
from simkit.fitting.fit import fit
from simkit.fitting.measurements import Observable
from simkit.fitting.posterior import Posterior
from simkit.fitting.uncertainty import Laplace, uncertainty
from simkit.results import Fit, Uncertainty

from .helpers_fits import (
    LINE_SD,
    TIMES,
    Line,
    fitted_at_bound,
    fitted_explosion,
    fitted_line,
    line_answer,
    make_posterior,
    noisy_decay,
)


DRAWS = 1000


@functools.cache
def line() -> Uncertainty:
    """A normal posterior, where the approximation is exact."""
    return uncertainty(fitted_line(), Laplace(draws=DRAWS, level=0.8))


def deviation_of_line(times: np.ndarray) -> np.ndarray:
    """Posterior deviation of the height at some times."""
    _, covariance = line_answer()
    design = np.stack([times, np.ones_like(times)], axis=1)
    return np.sqrt(np.einsum("ti,ij,tj->t", design, covariance, design))


def test_a_normal_posterior_is_met_exactly():
    mean, covariance = line_answer()
    result, deviation = line(), np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(result.mean, mean, rtol=1e-8)
    np.testing.assert_allclose(result.standard_deviation, deviation, rtol=1e-7)
    np.testing.assert_allclose(result.shift, 0.0, atol=1e-7)
    np.testing.assert_allclose(
        result.correlation, covariance / np.outer(deviation, deviation), atol=1e-7
    )
    reach = scipy.stats.norm.ppf(0.9) * deviation
    np.testing.assert_allclose(result.lower, mean - reach, rtol=1e-7)
    np.testing.assert_allclose(result.upper, mean + reach, rtol=1e-7)
    assert result.level == 0.8
    assert result.warnings == ()
    assert result.failed_draws == 0


def test_intervals_far_in_the_tails_are_exact():
    mean, covariance = line_answer()
    result = uncertainty(fitted_line(), Laplace(draws=DRAWS, level=0.9999))
    reach = scipy.stats.norm.ppf(0.99995) * np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(result.upper, mean + reach, rtol=1e-7)
    np.testing.assert_allclose(result.lower, mean - reach, rtol=1e-7)


def test_draws_have_the_moments_of_the_posterior():
    mean, covariance = line_answer()
    draws = line().draws
    assert draws.shape == (DRAWS, 2)
    error = np.sqrt(np.diag(covariance) / DRAWS)
    assert np.all(np.abs(draws.mean(0) - mean) < 5 * error)
    np.testing.assert_allclose(np.cov(draws.T), covariance, rtol=0.2)


def test_bands_have_the_width_of_the_curve_and_of_a_new_measurement():
    result = line()
    time, curves = result.curves.time[0], result.curves
    mean, _ = line_answer()
    np.testing.assert_allclose(curves.fitted["seen"][0], mean[1] + mean[0] * time, rtol=1e-6)
    z = 2 * scipy.stats.norm.ppf(0.9)
    of_curve = deviation_of_line(time)
    width = (curves.upper["seen"] - curves.lower["seen"])[0]
    np.testing.assert_allclose(width, z * of_curve, rtol=0.15)
    new = (curves.predictive_upper["seen"] - curves.predictive_lower["seen"])[0]
    np.testing.assert_allclose(new, z * np.sqrt(of_curve**2 + LINE_SD**2), rtol=0.2)
    assert abs(np.mean(new / (z * np.sqrt(of_curve**2 + LINE_SD**2))) - 1) < 0.02


def test_the_seed_alone_decides_the_draws():
    method = Laplace(draws=DRAWS, level=0.8)
    again = uncertainty(fitted_line(), method)
    np.testing.assert_array_equal(line().draws, again.draws)
    np.testing.assert_array_equal(line().curves.upper["seen"], again.curves.upper["seen"])
    other = uncertainty(fitted_line(), dataclasses.replace(method, seed=1))
    assert np.all(line().draws != other.draws)
    np.testing.assert_array_equal(line().mean, other.mean)


SHAPE, RATE = 1.5, 0.4
COUNTS = np.array([2.0, 0.0, 3.0])


@functools.cache
def counted() -> Fit:
    """A constant mean seen in few counts with a gamma prior: its posterior is gamma."""
    posterior = make_posterior(
        Line(slope=0.0),
        [Observable("seen", "height", "poisson")],
        np.array([0.5, 1.0, 1.5]),
        [COUNTS],
        initial_state={"height": FreeParameter(prior=Gamma(shape=SHAPE, rate=RATE))},
    )
    return fit(posterior, options=FitTable(starts=2))


def test_the_correction_moves_the_mean_from_the_mode_towards_the_exact_mean():
    """Gamma with shape a + sum(y) and rate b + n; its mode is (a + sum(y) - 1) / (b + n)."""
    shape, rate = SHAPE + COUNTS.sum(), RATE + COUNTS.size
    exact: Any = scipy.stats.gamma(shape, scale=1 / rate)
    by_hand, _ = scipy.integrate.quad(lambda p: p * exact.pdf(p), 0, 50)
    assert exact.mean() == pytest.approx(by_hand)
    mode = counted().estimates["initial_state.height"]
    assert mode == pytest.approx((shape - 1) / rate, rel=1e-7)
    plain = uncertainty(counted(), Laplace(draws=101, correct_mean=False))
    corrected = uncertainty(counted(), Laplace(draws=101))
    # In the logarithm the mode is at shape / rate with variance 1 / shape, and the mean
    # lies 1 / (2 shape) below it, which is known as the expansion of digamma.
    assert plain.mean[0] == pytest.approx(shape / rate * np.exp(1 / (2 * shape)), rel=1e-6)
    assert corrected.mean[0] == pytest.approx(exact.mean(), rel=1e-4)
    assert corrected.shift[0] == pytest.approx(-0.5 / np.sqrt(shape), rel=1e-3)
    errors = [abs(value - exact.mean()) for value in (corrected.mean[0], plain.mean[0], mode)]
    assert errors[0] < 0.01 * min(errors[1:])
    spread = corrected.standard_deviation[0]
    assert spread == pytest.approx(exact.std(), rel=0.1)
    assert plain.method == "Laplace approximation"
    assert corrected.method == "Laplace approximation, mean corrected for skewness"
    assert np.all(plain.shift == 0)


def test_new_counts_are_whole_numbers():
    bands = uncertainty(counted(), Laplace(draws=101, level=0.5)).curves
    upper = bands.predictive_upper["seen"]
    np.testing.assert_array_equal(upper, np.round(upper))


def test_failed_draws_are_counted_and_leave_the_bands_finite():
    """Some draws of the rate lie where the solution blows up within the data."""
    result = uncertainty(fitted_explosion(), Laplace(draws=400, correct_mean=False))
    failed = result.draws[:, 0] > 0.5
    assert 5 < failed.sum() < 395
    assert result.failed_draws == failed.sum()
    assert f"{failed.sum()} of 400 draws could not be solved; the bands lack them." in (
        result.warnings
    )
    assert np.all(np.isfinite(result.curves.upper["seen"]))
    assert np.all(np.isfinite(result.curves.predictive_lower["seen"]))


def test_a_parameter_at_its_bound_is_held_and_the_others_are_uncertain_beside_it():
    result = uncertainty(fitted_at_bound(), Laplace(draws=DRAWS, correct_mean=False))
    assert result.mean[0] == pytest.approx(0.5, rel=1e-6)
    np.testing.assert_allclose(result.draws[:, 0], 0.5, rtol=1e-6)
    assert np.isnan(result.standard_deviation[0])
    assert np.isnan(result.lower[0])
    shape = np.exp(-0.5 * TIMES)
    deviation = 0.2 / np.sqrt(shape @ shape)
    assert result.standard_deviation[1] == pytest.approx(deviation, rel=0.02)
    assert result.draws[:, 1].std() == pytest.approx(deviation, rel=0.15)
    assert abs(result.mean[1] - shape @ noisy_decay() / (shape @ shape)) < 0.1 * deviation
    assert result.warnings == (
        "rate is held at its bound; the uncertainty of the others is for that value.",
    )
    corrected = uncertainty(fitted_at_bound(), Laplace(draws=DRAWS))
    assert np.all(np.isfinite(corrected.mean))
    assert corrected.shift[0] == 0.0


def test_a_fit_that_did_not_converge_is_refused():
    failed = dataclasses.replace(fitted_line(), status="no start converged")
    with pytest.raises(ValueError, match="of status 'no start converged', not 'converged'"):
        uncertainty(failed)


def test_a_fit_without_memory_needs_its_posterior():
    stored = dataclasses.replace(fitted_line(), memory=None)
    with pytest.raises(ValueError, match="does not hold the model; give `posterior`"):
        uncertainty(stored)
    posterior = fitted_line().memory
    assert isinstance(posterior, Posterior)
    again = uncertainty(stored, Laplace(draws=DRAWS, level=0.8), posterior=posterior)
    np.testing.assert_array_equal(again.draws, line().draws)
