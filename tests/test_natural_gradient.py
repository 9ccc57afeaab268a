"""The natural gradient: known minima, bounds, likelihoods, and honest ends."""

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

from solvers.optimisers.base import Minimisation, optimise, stop_names
from solvers.optimisers.composite import Composite
from solvers.optimisers.natural_gradient import NaturalGradient


INPUTS = jax.random.normal(jax.random.key(0), (60, 4))
SEEN = (INPUTS @ jnp.arange(1.0, 5.0) > jax.random.normal(jax.random.key(1), (60,))) * 1.0
RATES = jnp.asarray([2.0, 7.0, 30.0])


def rosenbrock(y, args):
    del args
    return {"valley": 10 * (y[1] - y[0] ** 2), "slope": 1 - y[0]}


def logistic(y, args):
    del args
    return INPUTS @ y["weights"]


def bernoulli(logits, args):
    del args
    return jnp.sum(jax.nn.softplus(logits) - SEEN * logits)


def methods(objective) -> list[NaturalGradient]:
    """By a matrix, and by products."""
    return [
        NaturalGradient(objective=objective),
        NaturalGradient(objective=objective, dense_limit=0),
    ]


@pytest.mark.parametrize("which", [0, 1])
def test_residuals_in_a_curved_valley(which):
    objective = Composite(rosenbrock)
    method = methods(objective)[which]
    result = optimise(Minimisation(objective), method, jnp.asarray([-1.2, 1.0]))
    np.testing.assert_allclose(result.value, [1.0, 1.0], rtol=1e-6)
    assert int(result.steps) < 60
    assert (int(result.statistics["products"]) > 0) == bool(which)


@pytest.mark.parametrize("which", [0, 1])
def test_bounds_of_the_valley(which):
    """With the first coordinate at most 0.5 the minimum is (0.5, 0.25), half of 1/4."""
    objective = Composite(rosenbrock)
    seen = []
    result = optimise(
        Minimisation(objective, upper=jnp.asarray([0.5, 9.0])),
        methods(objective)[which],
        jnp.asarray([-1.2, 1.0]),
        progress=lambda i, y, state: seen.append(float(y[0])),
    )
    np.testing.assert_allclose(result.value, [0.5, 0.25], rtol=1e-9)
    assert float(result.objective) == pytest.approx(0.125)
    assert max(seen) <= 0.5


@pytest.mark.parametrize("which", [0, 1])
def test_a_logistic_regression_meets_the_equations_of_its_maximum(which):
    objective = Composite(logistic, bernoulli)
    start = {"weights": jnp.zeros(4)}
    result = optimise(Minimisation(objective), methods(objective)[which], start)
    score = INPUTS.T @ (SEEN - jax.nn.sigmoid(logistic(result.value, None)))
    np.testing.assert_allclose(score, jnp.zeros(4), atol=1e-4)
    # The metric is the Hessian here, so it converges like Newton's method.
    assert int(result.steps) <= 12


def test_poisson_rates_in_their_natural_parameter():
    objective = Composite(
        lambda y, args: y, lambda eta, args: jnp.sum(jnp.exp(eta) - args * eta)
    )
    method = NaturalGradient(objective=objective)
    result = optimise(Minimisation(objective), method, jnp.zeros(3), RATES)
    np.testing.assert_allclose(jnp.exp(result.value), RATES, rtol=1e-5)


def test_a_linear_problem_takes_one_good_step_without_damping():
    objective = Composite(lambda y, args: INPUTS @ y - 1.0)
    method = NaturalGradient(objective=objective, damping=0.0)
    result = optimise(Minimisation(objective), method, jnp.zeros(4), max_steps=4)
    exact = jnp.linalg.lstsq(INPUTS, jnp.ones(60))[0]
    np.testing.assert_allclose(result.value, exact, rtol=1e-9, atol=1e-12)
    assert int(result.steps) <= 3


def halving(y, args):
    """Forward mode alone: a loop whose length depends on the value."""
    del args
    shrunk = jax.lax.while_loop(lambda x: jnp.max(jnp.abs(x)) > 1, lambda x: x / 2, 8 * y)
    return shrunk - jnp.asarray([0.7, 0.3])


def plain(y, args):
    """The same for 0.5 < max |y| <= 1, where the loop runs three times."""
    del args
    return y - jnp.asarray([0.7, 0.3])


def test_forward_mode_is_enough_for_a_matrix():
    objective = Composite(halving)
    start = jnp.asarray([0.9, 0.1])
    result = optimise(Minimisation(objective), NaturalGradient(objective=objective), start)
    np.testing.assert_allclose(result.value, [0.7, 0.3], rtol=1e-9)


def test_products_take_reverse_mode_from_another_form():
    objective = Composite(halving, reverse=plain)
    start = jnp.asarray([0.9, 0.1])
    method = NaturalGradient(objective=objective, dense_limit=0)
    result = optimise(Minimisation(objective), method, start)
    np.testing.assert_allclose(result.value, [0.7, 0.3], rtol=1e-9)


@pytest.mark.parametrize("which", [0, 1])
def test_lanes_of_a_vmap_do_not_disturb_one_another(which):
    def residuals(y, args):
        out = rosenbrock(y, args)
        return out | {"slope": out["slope"] + jnp.where(y[0] > 50, jnp.nan, 0.0)}

    objective = Composite(residuals)
    method = methods(objective)[which]
    starts = jnp.asarray([[-1.2, 1.0], [99.0, 0.0], [1.0, 1.0], [0.0, 3.0]])

    def run(start):
        return optimise(Minimisation(objective), method, start, throw=False)

    lanes = jax.vmap(run)(starts)
    for i, start in enumerate(starts):
        alone = run(start)
        np.testing.assert_allclose(lanes.value[i], alone.value, rtol=1e-6)
        assert int(lanes.stop._value[i]) == int(alone.stop._value)
    names = [stop_names()[i] for i in lanes.stop._value]
    assert names[1:3] == ["nonfinite_start", "gradient"]
    np.testing.assert_allclose(lanes.value[jnp.asarray([0, 3])], jnp.ones((2, 2)), rtol=1e-6)


def test_a_step_into_a_region_without_values_is_shortened():
    objective = Composite(lambda y, args: jnp.log(y) / y)
    method = NaturalGradient(objective=objective, damping=0.0)
    result = optimise(Minimisation(objective), method, jnp.asarray(2.5))
    assert float(result.value) == pytest.approx(1.0, rel=1e-8)


def test_another_objective_than_that_of_the_problem_is_refused():
    objective = Composite(rosenbrock)
    problem = Minimisation(lambda y, args: objective(y, args) + jnp.sum(y**2))
    start = jnp.asarray([-1.2, 1.0])
    result = optimise(problem, NaturalGradient(objective=objective), start, throw=False)
    assert stop_names()[int(result.stop._value)] == "stalled"
    np.testing.assert_array_equal(result.value, start)


def test_optimistix_runs_it():
    objective = Composite(logistic, bernoulli)
    start = {"weights": jnp.zeros(4)}
    fit = optx.minimise(objective, NaturalGradient(objective=objective), start)
    ours = optimise(Minimisation(objective), NaturalGradient(objective=objective), start)
    np.testing.assert_allclose(fit.value["weights"], ours.value["weights"], rtol=1e-12)


def test_single_precision_stays_single():
    objective = Composite(rosenbrock)
    method = NaturalGradient(objective=objective, rtol=1e-6, atol=1e-6)
    fit = optx.minimise(objective, method, jnp.asarray([-1.2, 1.0], jnp.float32))
    assert fit.value.dtype == jnp.float32
    np.testing.assert_allclose(fit.value, [1.0, 1.0], rtol=1e-3)
