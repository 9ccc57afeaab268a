"""Rules of optax as minimisers: the same steps, with bounds, batches and honest ends."""

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

from solvers.optimisers.base import Minimisation, OptimisationError, optimise, stop_names
from solvers.optimisers.batches import Batches, Rows
from solvers.optimisers.diagonal import AdaHessian
from solvers.optimisers.first_order import Optax


optax = pytest.importorskip("optax")

KEY = jax.random.key(11)


def rosenbrock(y, args):
    del args
    return 100 * (y[1] - y[0] ** 2) ** 2 + (1 - y[0]) ** 2


def bowl(y, args):
    del args
    return jnp.sum((y - 1) ** 2)


def stop_of(result) -> str:
    return stop_names()[int(result.stop._value)]


def test_the_steps_are_those_of_the_rule():
    rule = optax.adamw(1e-2)
    y, state = jnp.asarray([-1.2, 1.0]), rule.init(jnp.zeros(2))
    expected = []
    for _ in range(20):
        updates, state = rule.update(jax.grad(rosenbrock)(y, None), state, y)
        y = optax.apply_updates(y, updates)
        expected.append(y)
    seen = []
    optimise(
        Minimisation(rosenbrock),
        Optax(rule=rule),
        jnp.asarray([-1.2, 1.0]),
        max_steps=20,
        throw=False,
        progress=lambda i, y, state: seen.append(y),
    )
    np.testing.assert_allclose(jnp.stack(seen), jnp.stack(expected), rtol=1e-12)


def test_rules_that_search_along_a_line_see_the_objective():
    start = jnp.asarray([-1.2, 1.0])
    result = optimise(Minimisation(rosenbrock), Optax(rule=optax.lbfgs()), start)
    np.testing.assert_allclose(result.value, [1.0, 1.0], rtol=1e-6)
    assert int(result.steps) < 80


def test_adam_converges_and_says_why():
    result = optimise(Minimisation(bowl), Optax(rule=optax.adam(0.1)), jnp.zeros(3))
    assert stop_of(result) in ("gradient", "objective")
    np.testing.assert_allclose(result.value, jnp.ones(3), atol=1e-5)


def test_bounds_hold():
    seen = []
    result = optimise(
        Minimisation(bowl, lower=-2.0, upper=jnp.asarray([0.5, 3.0])),
        Optax(rule=optax.adam(0.1)),
        jnp.zeros(2),
        progress=lambda i, y, state: seen.append(float(y[0])),
    )
    np.testing.assert_allclose(result.value, [0.5, 1.0], atol=1e-5)
    assert max(seen) <= 0.5


def test_a_schedule_that_ends_too_early_is_no_success():
    rule = optax.adam(optax.exponential_decay(1e-2, 1, 0.5))
    result = optimise(
        Minimisation(bowl), Optax(rule=rule), jnp.zeros(2), max_steps=300, throw=False
    )
    assert stop_of(result) == "nonlinear_max_steps_reached"


def test_the_best_point_is_kept_when_a_rule_runs_away():
    start = jnp.asarray([0.9, 1.0])
    result = optimise(
        Minimisation(bowl), Optax(rule=optax.sgd(1.5)), start, max_steps=50, throw=False
    )
    np.testing.assert_array_equal(result.value, start)
    last = optimise(
        Minimisation(bowl),
        Optax(rule=optax.sgd(1.5), keep_best=False),
        start,
        max_steps=50,
        throw=False,
    )
    assert float(last.objective) > 1e3


def test_a_start_without_a_value_is_told():
    problem = Minimisation(lambda y, args: jnp.sum(jnp.log(y)))
    with pytest.raises(OptimisationError, match="not finite numbers at the start"):
        optimise(problem, Optax(rule=optax.adam(0.1)), -jnp.ones(2))


def test_batches_go_through_a_rule():
    inputs = jax.random.normal(KEY, (50, 3))
    rows = Rows.make((inputs, inputs @ jnp.arange(1.0, 4.0)))

    def objective(y, rows):
        return jnp.sum(rows.weights * (rows.data[0] @ y - rows.data[1]) ** 2) / 50

    method = Optax(rule=optax.adam(0.05), batches=Batches(8, KEY))
    result = optimise(
        Minimisation(objective), method, jnp.zeros(3), rows, max_steps=700, throw=False
    )
    np.testing.assert_allclose(result.value, [1.0, 2.0, 3.0], atol=1e-3)
    assert stop_of(result) == "nonlinear_max_steps_reached"


def test_lanes_of_a_vmap_do_not_disturb_one_another():
    starts = jnp.asarray([[-1.2, 1.0], [jnp.nan, 0.0], [1.0, 1.0]])
    method = Optax(rule=optax.adam(0.05))

    def run(start):
        return optimise(Minimisation(rosenbrock), method, start, max_steps=400, throw=False)

    lanes = jax.vmap(run)(starts)
    for i, start in enumerate(starts):
        alone = run(start)
        np.testing.assert_allclose(lanes.value[i], alone.value, rtol=1e-8)
        assert int(lanes.stop._value[i]) == int(alone.stop._value)
    assert [stop_names()[i] for i in lanes.stop._value][1:] == ["nonfinite_start", "gradient"]


def test_trees_and_optimistix_and_forward_mode():
    def objective(y, args):
        return jnp.sum((y["a"] - args) ** 2) + (y["b"] + 1) ** 2

    method = Optax(rule=optax.adam(0.1), forward=True)
    start = {"a": jnp.zeros(2), "b": jnp.asarray(0.0)}
    fit = optx.minimise(objective, method, start, 2.0, max_steps=1000)
    np.testing.assert_allclose(fit.value["a"], [2.0, 2.0], atol=1e-5)
    assert float(fit.value["b"]) == pytest.approx(-1, abs=1e-5)


def test_adahessian_finds_the_units_that_adam_must_be_told():
    """Minima from 1e-3 to 1e3: steps of one size for all are wrong for most."""
    scales = jnp.logspace(-3, 3, 13)

    def objective(y, args):
        del args
        return 0.5 * jnp.sum((y / scales - 1) ** 2)

    problem, start = Minimisation(objective), jnp.zeros(13)

    def reached(method):
        result = optimise(problem, method, start, max_steps=500, throw=False)
        return float(result.objective)

    assert reached(AdaHessian(key=KEY, epsilon=0.0)) < 1e-12
    for rate in (1e-3, 1e-2, 1e-1, 1.0):
        assert reached(Optax(rule=optax.adam(rate))) > 1e-3
