"""Derivatives of every fit: forward, reverse, finite differences, under jit and vmap."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simkit.fitting.curvature import derivatives
from solvers.gradients import Checkpointed

from .cases import optimum, posterior


CASES = ["lynx_hare", "influenza", "theophylline"]


@pytest.fixture(scope="module", params=CASES)
def setting(request):
    """The posterior of a case, a point off its optimum, and its compiled objective."""
    subject = posterior(request.param)
    x = optimum(request.param) + 0.05 * jnp.sin(jnp.arange(len(subject.parameters.entries)))
    objective = jax.jit(lambda x: subject.negative_log_posterior(x))
    gradient = jax.jit(jax.vmap(jax.jacfwd(lambda x: subject.negative_log_posterior(x))))
    return subject, x, objective, gradient


def test_forward_agrees_with_finite_differences(setting):
    _, x, objective, gradient = setting
    slope = gradient(x[None])[0]
    step = 1e-5
    for i in range(0, x.size, max(1, x.size // 8)):
        up, down = objective(x.at[i].add(step)), objective(x.at[i].add(-step))
        difference = float(up - down) / (2 * step)
        assert float(slope[i]) == pytest.approx(difference, rel=1e-5, abs=1e-5)


def test_reverse_agrees_with_forward_under_vmap(setting):
    subject, x, _, gradient = setting
    reverse = dataclasses.replace(subject, gradient=Checkpointed())
    points = jnp.stack([x, x + 0.01])
    both = jax.jit(jax.vmap(jax.grad(lambda x: reverse.negative_log_posterior(x))))(points)
    np.testing.assert_allclose(both, gradient(points), rtol=1e-9, atol=1e-9)


def test_group_wise_derivatives_agree_with_the_whole(setting):
    subject, x, objective, gradient = setting
    value, slope, hessian = jax.jit(lambda x: derivatives(subject, x, 0.0))(x)
    assert float(value) == pytest.approx(float(objective(x)), rel=1e-12)
    np.testing.assert_allclose(slope, gradient(x[None])[0], rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(hessian, hessian.T)
    step = 1e-5
    columns = np.arange(0, x.size, max(1, x.size // 6))
    shifts = jnp.zeros((2 * len(columns), x.size))
    shifts = shifts.at[np.arange(len(columns)), columns].set(step)
    shifts = shifts.at[len(columns) + np.arange(len(columns)), columns].set(-step)
    # One batch of fixed size, so that the gradient is compiled once.
    gradients = jnp.stack([gradient((x + shift)[None])[0] for shift in shifts])
    difference = (gradients[: len(columns)] - gradients[len(columns) :]) / (2 * step)
    scale = float(jnp.max(jnp.abs(hessian)))
    np.testing.assert_allclose(hessian[columns], difference, atol=1e-6 * scale)


def test_half_the_squares_is_the_objective_up_to_the_noise(setting):
    """The residuals have the gradient of the objective, noise scales held fixed."""
    subject, x, _, gradient = setting
    if subject.least_squares_obstacle() is not None:
        with pytest.raises(ValueError, match="least_squares"):
            from simkit.config.schema import FitTable
            from simkit.fitting.fit import fit

            fit(subject, options=FitTable(method="least_squares"))
        return
    half = jax.jit(jax.jacfwd(lambda x: 0.5 * jnp.sum(subject.residuals(x)[0] ** 2)))
    free = np.array([entry.target.role != "noise" for entry in subject.parameters.entries])
    np.testing.assert_allclose(half(x)[free], gradient(x[None])[0][free], rtol=1e-9, atol=1e-9)
