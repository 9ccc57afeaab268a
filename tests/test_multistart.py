"""Fits of synthetic data from many starts, against closed forms and SciPy."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from simkit.config.schema import FitTable, FreeParameter
from simkit.fitting.fit import fit
from simkit.fitting.measurements import Observable
from simkit.fitting.starts import run_starts
from simkit.fitting.tables import rank_starts
from simkit.results import Fit

from .helpers_fits import (
    TIMES,
    Decay,
    Product,
    Switched,
    decay_posterior,
    explosive_posterior,
    fitted_at_bound,
    fitted_explosion,
    fitted_line,
    line_answer,
    make_posterior,
    noisy_decay,
    pair_posterior,
)


STARTS = 6
OPTIONS = FitTable(starts=STARTS, seed=5)


@functools.cache
def fitted() -> Fit:
    """The decay fitted with normal noise of known size."""
    return fit(decay_posterior(sd=0.2), options=OPTIONS)


@functools.cache
def fitted_pair(*models: str) -> Fit:
    """Two decays fitted with a noise model each."""
    values = [data_for(model) for model in models]
    return fit(pair_posterior(models, values), options=OPTIONS)


def data_for(model: str) -> np.ndarray:
    """Measurements of a decay with scatter of the kind."""
    draws = np.random.default_rng(7)
    truth = 3.0 * np.exp(-0.6 * TIMES)
    match model:
        case "poisson":
            return draws.poisson(10 * truth).astype(float)
        case "laplace":
            return truth + draws.laplace(0.0, 0.2, TIMES.size)
        case "student_t":
            return truth + 0.2 * draws.standard_t(4.0, TIMES.size)
        case "log_normal":
            return noisy_decay()
    return truth + 0.2 * draws.standard_normal(TIMES.size)


def least_squares(values: np.ndarray) -> np.ndarray:
    """Rate and amount by SciPy."""
    found: Any = scipy.optimize.least_squares(
        lambda v: curve(v) - values,
        np.log([0.5, 2.0]),
        jac="3-point",
        ftol=1e-15,
        xtol=1e-15,
        gtol=1e-15,
    )
    return np.exp(found.x)


def curve(logarithms: np.ndarray) -> np.ndarray:
    """The exact solution."""
    rate, amount = np.exp(logarithms)
    return amount * np.exp(-rate * TIMES)


def same_bits(one: Fit, other: Fit) -> bool:
    """Whether two fits agree in every number."""
    pairs = [
        (one.parameters.estimate, other.parameters.estimate),
        (one.covariance, other.covariance),
        (one.starts.initial, other.starts.initial),
        (one.starts.final, other.starts.final),
        (one.starts.objective, other.starts.objective),
        (one.starts.steps, other.starts.steps),
        (one.curves.fitted["seen"], other.curves.fitted["seen"]),
    ]
    return all(np.array_equal(a, b) for a, b in pairs)


def test_normal_noise_of_known_size_agrees_with_scipy():
    result = fitted()
    assert (result.status, result.method) == ("converged", "Levenberg-Marquardt")
    theirs = least_squares(noisy_decay())
    np.testing.assert_allclose(result.parameters.estimate, theirs, rtol=1e-7)
    predicted = curve(np.log(theirs))
    density = np.sum(scipy.stats.norm.logpdf(noisy_decay(), predicted, 0.2))
    assert result.objective == pytest.approx(-density, abs=1e-7)
    assert result.log_likelihood == pytest.approx(density, abs=1e-7)
    assert result.gradient_norm < 1e-7
    assert result.observations.residual == pytest.approx(
        (noisy_decay() - predicted) / 0.2, abs=1e-6
    )


def test_the_covariance_is_the_inverse_of_the_exact_hessian():
    result = fitted()

    def objective(p):
        predicted = p[1] * jnp.exp(-p[0] * TIMES)
        return 0.5 * jnp.sum(((predicted - noisy_decay()) / 0.2) ** 2)

    hessian = jax.hessian(objective)(jnp.asarray(result.parameters.estimate))
    np.testing.assert_allclose(result.covariance, np.linalg.inv(hessian), rtol=1e-5)
    np.testing.assert_allclose(
        result.parameters.standard_error, np.sqrt(np.diag(result.covariance)), rtol=1e-12
    )
    half_life, error = result.derived.estimate[0], result.derived.standard_error[0]
    rate, rate_error = result.estimates["rate"], result.parameters.standard_error[0]
    assert half_life == pytest.approx(np.log(2) / rate)
    assert error == pytest.approx(np.log(2) / rate**2 * rate_error)
    assert result.derived.unit.tolist() == ["h"]


def test_an_estimated_noise_scale_is_the_root_of_the_mean_square():
    result = fitted_pair("normal", "log_normal")
    mine = result.observations.observable == "left"
    difference = (result.observations.measured - result.observations.predicted)[mine]
    scale = np.sqrt(np.mean(difference**2))
    assert result.estimates["noise.left"] == pytest.approx(scale, rel=1e-8)
    # A scale that is the same for all does not move the curve.
    theirs = least_squares(data_for("normal"))
    assert result.estimates["fast"] == pytest.approx(theirs[0], rel=1e-6)
    assert result.estimates["initial_state.first"] == pytest.approx(theirs[1], rel=1e-6)


def test_log_normal_noise_agrees_with_linear_least_squares_of_logarithms():
    result = fitted_pair("normal", "log_normal")
    design = np.stack([-TIMES, np.ones_like(TIMES)], axis=1)
    exact, squares, _, _ = np.linalg.lstsq(design, np.log(noisy_decay()), rcond=None)
    assert result.estimates["slow"] == pytest.approx(exact[0], rel=1e-7)
    assert result.estimates["initial_state.second"] == pytest.approx(np.exp(exact[1]), 1e-7)
    scale = np.sqrt(squares[0] / TIMES.size)
    assert result.estimates["noise.right"] == pytest.approx(scale, rel=1e-6)
    # For given scale the rate and the logarithm of the amount have this covariance.
    expected = scale**2 * np.linalg.inv(design.T @ design)
    error = result.parameters.standard_error[result.parameters.name == "slow"].item()
    assert error == pytest.approx(np.sqrt(expected[0, 0]), rel=1e-5)


def test_priors_act_as_in_the_posterior_of_a_normal_line():
    """Maximum a posteriori is the mean of a normal posterior, and its covariance exact."""
    mean, covariance = line_answer()
    result = fitted_line()
    assert result.parameters.name.tolist() == ["slope", "initial_state.height"]
    np.testing.assert_allclose(result.parameters.estimate, mean, rtol=1e-8)
    np.testing.assert_allclose(result.covariance, covariance, rtol=1e-6)


def negative_log_density(model: str, vector: np.ndarray) -> float:
    """The objective by SciPy; the last of the vector is the logarithm of the scale."""
    values, predicted, scale = data_for(model), curve(vector[:2]), np.exp(vector[-1])
    match model:
        case "poisson":
            return -float(np.sum(scipy.stats.poisson.logpmf(values, predicted)))
        case "laplace":
            return -float(np.sum(scipy.stats.laplace.logpdf(values, predicted, scale)))
        case "student_t":
            return -float(np.sum(scipy.stats.t.logpdf(values, 4.0, predicted, scale)))
    raise AssertionError(model)


def by_the_simplex(model: str, start: np.ndarray) -> tuple[np.ndarray, float]:
    """SciPy's optimum, repeated, for the simplex stops early, and the more so at kinks."""
    settings = {"xatol": 1e-11, "fatol": 1e-13, "maxfev": 4000}
    found: Any = None
    for _ in range(3):
        found = scipy.optimize.minimize(
            lambda v: negative_log_density(model, v),
            start if found is None else found.x,
            method="Nelder-Mead",
            options=settings,
        )
    return found.x, float(found.fun)


def test_counts_and_heavy_tails_agree_with_scipy():
    result = fitted_pair("poisson", "student_t")
    assert (result.status, result.method) == ("converged", "trust-region Newton")
    assert result.reason.startswith("no sum of squares: the noise of left is poisson;")
    ours = {name: np.log(value) for name, value in result.estimates.items()}
    counts = np.array([ours["fast"], ours["initial_state.first"]])
    theirs, first = by_the_simplex("poisson", counts + 0.1)
    np.testing.assert_allclose(counts, theirs, atol=1e-6)
    heavy = np.array([ours["slow"], ours["initial_state.second"], ours["noise.right"]])
    theirs, second = by_the_simplex("student_t", heavy + 0.1)
    np.testing.assert_allclose(heavy, theirs, atol=1e-6)
    assert result.objective == pytest.approx(first + second, abs=1e-6)
    assert result.gradient_norm < 1e-7


def test_laplace_noise_agrees_with_scipy():
    """The optimum is a kink, where no gradient vanishes."""
    posterior = decay_posterior(data_for("laplace"), "laplace")
    result = fit(posterior, options=OPTIONS)
    assert result.status == "converged"
    ours = np.log(result.parameters.estimate)
    theirs, objective = by_the_simplex("laplace", ours + 0.1)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    assert result.objective == pytest.approx(objective, abs=1e-3)
    # The information is that of the textbook: about the scale n / scale^2, about the
    # curve that of normal noise with the scale for its deviation.
    scale = result.estimates["noise.seen"]
    rate, amount = result.parameters.estimate[:2]
    shape = np.exp(-rate * TIMES)
    slopes = np.stack([-amount * TIMES * shape, shape], axis=1)
    expected = np.sqrt(np.diag(scale**2 * np.linalg.inv(slopes.T @ slopes)))
    np.testing.assert_allclose(result.parameters.standard_error[:2], expected, rtol=0.1)
    error = result.parameters.standard_error[2]
    assert error == pytest.approx(scale / np.sqrt(TIMES.size), rel=0.02)


def test_the_same_seed_gives_the_same_bits_and_another_other_starts():
    one = fitted()
    again = fit(decay_posterior(sd=0.2), options=OPTIONS)
    assert same_bits(one, again)
    other = fit(decay_posterior(sd=0.2), options=FitTable(starts=STARTS, seed=6))
    assert np.all(one.starts.initial[1:] != other.starts.initial[1:])
    np.testing.assert_array_equal(one.starts.initial[0], other.starts.initial[0])
    np.testing.assert_allclose(one.parameters.estimate, other.parameters.estimate, rtol=1e-9)


def test_segments_change_no_number_and_are_told():
    """Four do not divide six: the last segment is filled up and cut again."""
    calls = []

    def progress(done: int, total: int, message: str) -> None:
        calls.append((done, total, message))

    options = FitTable(starts=STARTS, seed=5, segment=4)
    parts = fit(decay_posterior(sd=0.2), options=options, progress=progress)
    assert same_bits(fitted(), parts)
    assert list(dict.fromkeys(calls)) == [(4, 6, "starts"), (6, 6, "starts")]


def test_the_first_start_is_the_case_and_ranks_follow_the_objective():
    table = fitted().starts
    np.testing.assert_allclose(table.initial[0], [0.7, 2.0], rtol=1e-12)
    ranked = np.argsort(table.rank[table.rank >= 0])
    assert np.all(np.diff(table.objective[table.rank >= 0][ranked]) >= 0)
    assert sorted(table.rank[table.rank >= 0]) == list(range(int(np.sum(table.rank >= 0))))


def test_starts_whose_solve_fails_are_told_and_never_ranked():
    result = fitted_explosion()
    failed = result.starts.initial[:, 0] > 0.5
    assert 2 <= failed.sum() <= 10
    assert set(result.starts.status[failed]) == {"the solve failed"}
    assert np.all(result.starts.rank[failed] == -1)
    assert np.all(np.isnan(result.starts.objective[failed]))
    assert set(result.starts.status[~failed]) == {"converged"}
    assert result.status == "converged"
    assert result.estimates["rate"] == pytest.approx(0.3, abs=1e-6)
    said = f"{failed.sum()} of 12 starts do not count: the solve failed."
    assert said in result.warnings


def test_a_failed_start_changes_no_bit_of_the_others():
    posterior = explosive_posterior()
    starts = posterior.parameters.draw_starts(jax.random.key(0), 12)
    with_failures = run_starts(posterior, starts, 100, True)
    failed = ~np.isfinite(with_failures.objective)
    assert failed.any()
    replaced = starts.at[np.flatnonzero(failed)].set(starts[np.flatnonzero(~failed)[0]])
    without = run_starts(posterior, replaced, 100, True)
    for name in ("x", "objective", "gradient", "steps"):
        np.testing.assert_array_equal(
            getattr(with_failures, name)[~failed], getattr(without, name)[~failed]
        )


def test_if_every_start_fails_the_fit_says_so():
    """The value of the case alone, which blows up."""
    result = fit(explosive_posterior(), options=FitTable(starts=1))
    assert result.status == "no start converged"
    assert result.starts.status.tolist() == ["the solve failed"]
    assert "No start converged" in result.warnings[0]
    assert result.estimates["rate"] == pytest.approx(2.0)
    assert not np.isfinite(result.objective)
    assert np.all(np.isnan(result.parameters.standard_error))


def switched(value: float) -> Fit:
    """Decay at the rate, or at one where the rate is above: there nothing depends on it."""
    posterior = make_posterior(
        Switched(rate=value),
        [Observable("seen", "amount", "normal", 0.2)],
        TIMES,
        [2.0 * np.exp(-0.6 * TIMES)],
        parameters={"rate": FreeParameter(start=(0.3, 9.0))},
    )
    return fit(posterior, options=FitTable(starts=STARTS))


def test_a_start_on_a_plateau_is_stuck_and_not_converged():
    """Its gradient is zero, and its objective may even be good, but nothing was found."""
    result = switched(3.0)
    stuck = result.starts.initial[:, 0] > 1.0
    assert 2 <= stuck.sum() < STARTS
    status = "stuck where the predictions do not depend on the parameters"
    assert set(result.starts.status[stuck]) == {status}
    assert np.all(result.starts.rank[stuck] == -1)
    assert result.status == "converged"
    assert result.estimates["rate"] == pytest.approx(0.6, abs=1e-6)


def test_an_exact_fit_with_zero_gradient_is_converged():
    """The gradient vanishes there too, yet the data tell all about the rate."""
    exact = 2.0 * np.exp(-0.7 * TIMES)
    posterior = decay_posterior(exact, sd=0.2)
    result = fit(posterior, options=OPTIONS)
    assert result.starts.status[0] == "converged"
    assert result.starts.steps[0] <= 3
    assert result.objective == pytest.approx(TIMES.size * np.log(0.2 * np.sqrt(2 * np.pi)))


def test_a_gradient_that_is_no_number_does_not_converge():
    result = fitted_explosion()
    outcome = run_starts(result.memory, jnp.full((1, 1), np.log(0.3)), 100, True)
    broken = dataclasses.replace(outcome, gradient=outcome.gradient * jnp.nan)
    initial = np.asarray(outcome.x)
    assert rank_starts(result.memory, initial, outcome).status[0] == "converged"
    table = rank_starts(result.memory, initial, broken)
    assert (table.status[0], table.rank[0]) == ("the gradient is not finite", -1)


def test_a_start_that_runs_out_of_steps_does_not_count():
    result = fit(decay_posterior(sd=0.2), options=FitTable(starts=2, max_steps=2))
    assert result.status == "no start converged"
    assert set(result.starts.status) == {"stopped after the allowed number of steps"}
    assert np.all(result.starts.rank == -1)
    assert np.all(np.isfinite(result.starts.objective))


def test_a_parameter_at_its_bound_is_told_and_has_no_standard_error():
    result = fitted_at_bound()
    assert result.status == "converged"
    assert result.parameters.at_bound.tolist() == [True, False]
    assert result.estimates["rate"] == pytest.approx(0.5, rel=1e-6)
    assert "rate lies at its bound, where it is held; it has no standard error." in (
        result.warnings
    )
    assert not any("Hessian" in said for said in result.warnings)
    assert np.isnan(result.parameters.standard_error[0])
    # The other is determined as if the rate were known: a line through the origin.
    shape = np.exp(-0.5 * TIMES)
    amount = shape @ noisy_decay() / (shape @ shape)
    assert result.estimates["initial_state.amount"] == pytest.approx(amount, rel=1e-6)
    error = 0.2 / np.sqrt(shape @ shape)
    assert result.parameters.standard_error[1] == pytest.approx(error, rel=1e-5)


def test_a_product_of_parameters_is_not_determined():
    posterior = make_posterior(
        Product(),
        [Observable("seen", "amount", "normal", 0.2)],
        TIMES,
        [2.0 * np.exp(-0.6 * TIMES)],
        parameters={"first": FreeParameter(), "second": FreeParameter()},
    )
    result = fit(posterior, options=FitTable(starts=3, method="minimise"))
    assert (result.method, result.reason) == ("BFGS", "asked for by the case")
    assert result.status == "converged"
    assert np.prod(result.parameters.estimate) == pytest.approx(0.6, abs=1e-6)
    assert any("some combination of parameters is not determined" in w for w in result.warnings)
    assert np.all(result.parameters.standard_error > 1.0)


def test_options_beside_a_method_that_cannot_be_are_refused():
    posterior = decay_posterior(data_for("poisson"), "poisson")
    with pytest.raises(ValueError, match="least_squares', but the noise of seen is poisson"):
        fit(posterior, options=FitTable(method="least_squares"))


def test_measurements_before_the_start_are_refused():
    with pytest.raises(ValueError, match="a measurement at time 0, before the start at 1"):
        dataclasses.replace(decay_posterior(sd=0.2), start=1.0)


def test_an_observable_of_an_unknown_state_is_refused():
    with pytest.raises(ValueError, match=r"seen observes the state 'weight'; Decay has"):
        make_posterior(
            Decay(),
            [Observable("seen", "weight", sd=1.0)],
            TIMES,
            [noisy_decay()],
            parameters={"rate": FreeParameter()},
        )
