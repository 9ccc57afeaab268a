"""Weak statistics of stochastic solves against exact moments, and the two calculi."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers.ensemble.members import ensemble
from solvers.integrators.stochastic import (
    EulerMaruyama,
    Milstein,
    ShARK,
    StratonovichHeun,
    StratonovichMilstein,
)
from solvers.problem import InitialValueProblem
from solvers.solve import solve
from systems.stochastic import GeometricBrownianMotion, OrnsteinUhlenbeck

from .helpers_solvers import NoisyPendulum, Rotation, StratonovichGrowth, Wiener


MEMBERS = 2000


def check_moments(sample, mean, variance, fourth):
    """Mean and variance within four standard errors; `fourth` is the central moment."""
    sample = np.asarray(sample)
    count = len(sample)
    assert abs(sample.mean() - mean) < 4 * np.sqrt(variance / count)
    error = np.sqrt((fourth - variance**2) / count)
    assert abs(sample.var() - variance) < 4 * error


def normal_moments(mean, variance):
    return float(mean), float(variance), 3 * float(variance) ** 2


def log_normal_moments(mean, log_variance):
    """Mean, variance and fourth central moment of a log-normal quantity."""
    w = np.exp(log_variance)
    variance = mean**2 * (w - 1)
    return mean, variance, variance**2 * (w**4 + 2 * w**3 + 3 * w**2 - 3)


def test_ornstein_uhlenbeck(key):
    system = OrnsteinUhlenbeck(reversion_rate=2.0, long_term_mean=0.5, volatility=0.8)
    problem = InitialValueProblem(system, 0.0, 1.0, [2.0])
    method = EulerMaruyama(step=1 / 256)
    found = ensemble(problem, method, key=key, members=MEMBERS, save_at=[0.25, 1.0])
    assert bool(found.succeeded.all())
    for index, time in enumerate((0.25, 1.0)):
        t, start = jnp.asarray(time), jnp.asarray(2.0)
        moments = normal_moments(system.mean(t, start), system.variance(t, start))
        check_moments(found.states[:, index, 0], *moments)


def test_geometric_brownian_motion(key):
    system = GeometricBrownianMotion(growth_rate=0.3, volatility=0.5)
    problem = InitialValueProblem(system, 0.0, 1.0)
    found = ensemble(problem, Milstein(step=1 / 64), key=key, members=MEMBERS)
    t, start = jnp.asarray(1.0), jnp.asarray(1.0)
    moments = log_normal_moments(float(system.mean(t, start)), 0.25)
    assert np.isclose(moments[1], system.variance(t, start))
    check_moments(found.states[:, -1, 0], *moments)


@pytest.mark.parametrize("kind", [StratonovichHeun, StratonovichMilstein])
def test_stratonovich_growth(kind, key):
    # Log-normal with mean exp(growth + volatility**2 / 2): the drift that Ito's reading
    # of the same formula lacks.
    problem = InitialValueProblem(StratonovichGrowth(), 0.0, 1.0)
    found = ensemble(problem, kind(step=1 / 64), key=key, members=MEMBERS)
    moments = log_normal_moments(np.exp(0.3 + 0.6**2 / 2), 0.36)
    check_moments(found.states[:, -1, 0], *moments)
    ito = np.exp(0.3)
    sample = np.asarray(found.states[:, -1, 0])
    assert sample.mean() - ito > 4 * sample.std() / np.sqrt(MEMBERS)


def test_the_two_calculi_on_one_path(key):
    # With the same path and the same coefficients the two readings differ by the factor
    # exp(volatility**2 t / 2), exactly.
    ito = InitialValueProblem(
        GeometricBrownianMotion(growth_rate=0.3, volatility=0.6), 0.0, 1.0
    )
    stratonovich = InitialValueProblem(StratonovichGrowth(), 0.0, 1.0)
    step = 2.0**-8
    first = solve(ito, Milstein(step=step), key=key).states[-1, 0]
    second = solve(stratonovich, StratonovichMilstein(step=step), key=key).states[-1, 0]
    assert np.isclose(second / first, np.exp(0.18), rtol=0.01)


def test_noises_that_do_not_commute(key):
    # a is an Ornstein-Uhlenbeck process; b has mean zero and E[b**2] from E[a**2].
    problem = InitialValueProblem(Rotation(), 0.0, 1.0)
    found = ensemble(problem, EulerMaruyama(step=1 / 256), key=key, members=MEMBERS)
    a, b = np.asarray(found.states[:, -1]).T
    squared, rate = 0.7**2, 0.5
    variance = squared * -np.expm1(-2 * rate) / (2 * rate)
    check_moments(a, *normal_moments(np.exp(-rate), variance))
    # d E[b**2] = (-2 rate E[b**2] + squared E[a**2]) dt, with
    # E[a**2] = squared + (1 - squared) exp(-t) at rate 1/2.
    exact = squared * (squared * -np.expm1(-1.0) + (1 - squared) * np.exp(-1.0))
    assert abs(b.mean()) < 4 * np.sqrt(exact / MEMBERS)
    assert abs((b**2).mean() - exact) < 4 * (b**2).std() / np.sqrt(MEMBERS)


def test_additive_noise_in_two_dimensions(key):
    # Over a short time the covariance is that of the noise, and ShARK agrees with it.
    problem = InitialValueProblem(NoisyPendulum(strength=0.5), 0.0, 0.01)
    found = ensemble(problem, ShARK(step=0.005), key=key, members=MEMBERS)
    covariance = np.cov(np.asarray(found.states[:, -1]).T) / 0.01
    factor = 0.5 * np.asarray([[1.0, 0.0], [0.5, 1.0]])
    expected = factor @ factor.T
    error = np.sqrt((expected**2 + np.outer(np.diag(expected), np.diag(expected))) / MEMBERS)
    assert np.all(np.abs(covariance - expected) < 4 * error + 0.01)


def test_the_path_is_a_wiener_process(key):
    times = jnp.linspace(3.1, 4.0, 10)  # the path begins with the span, not at zero
    problem = InitialValueProblem(Wiener(), 3.0, 4.0)
    found = ensemble(problem, EulerMaruyama(step=0.1), key=key, members=MEMBERS, save_at=times)
    paths = np.asarray(found.states[:, :, 0])
    increments = np.diff(paths, axis=1, prepend=0.0)
    check_moments(increments.ravel(), 0.0, 0.1, 3 * 0.1**2)
    correlation = np.corrcoef(increments.T) - np.eye(10)
    assert np.abs(correlation).max() < 5 / np.sqrt(MEMBERS)


def test_other_keys_other_paths():
    problem = InitialValueProblem(Wiener(), 0.0, 1.0)
    ends = [
        float(solve(problem, EulerMaruyama(step=0.1), key=jax.random.key(seed)).final_state[0])
        for seed in (0, 1, 0)
    ]
    assert ends[0] == ends[2] != ends[1]
