"""Batches: every row once in an epoch, and sums that are right on average."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

from solvers.optimisers.base import Minimisation, optimise, stop_names
from solvers.optimisers.batches import Batches, Rows
from solvers.optimisers.diagonal import AdaHessian, Sophia


@pytest.fixture
def rows(key) -> Rows:
    """Ten rows of a linear regression with known coefficients."""
    inputs = jax.random.normal(key, (10, 3))
    return Rows.make({"inputs": inputs, "seen": inputs @ jnp.arange(1.0, 4.0)})


def objective(y, rows):
    misfit = rows.data["inputs"] @ y - rows.data["seen"]
    return jnp.sum(rows.weights * misfit**2) + 0.1 * jnp.sum(y**2)


def epoch(batches, rows, number=0):
    """All batches of an epoch."""
    count, order = batches.count(rows), jnp.arange(rows.weights.shape[0])
    draw = eqx.filter_jit(batches.draw)
    for step in range(number * count, (number + 1) * count):
        drawn, order = draw(rows, jnp.asarray(step), order)
        yield drawn


@pytest.mark.parametrize("size", [1, 3, 4, 5, 10, 16])
def test_the_mean_over_an_epoch_is_the_whole_objective_and_gradient(rows, key, size):
    y = jnp.asarray([0.3, -1.0, 2.0])
    batches = Batches(size, key)
    seen = [jax.value_and_grad(objective)(y, drawn) for drawn in epoch(batches, rows, 2)]
    assert len(seen) == batches.count(rows) == -(-10 // size)
    value, gradient = jax.value_and_grad(objective)(y, rows)
    assert float(jnp.mean(jnp.stack([v for v, _ in seen]))) == pytest.approx(float(value))
    mean = jnp.mean(jnp.stack([g for _, g in seen]), axis=0)
    np.testing.assert_allclose(mean, gradient, rtol=1e-12)


def test_every_epoch_is_a_permutation_and_another_one(key):
    rows = Rows.make(jnp.arange(10))
    batches = Batches(4, key)
    orders = []
    for number in range(3):
        seen = [
            np.asarray(drawn.data)[drawn.weights > 0] for drawn in epoch(batches, rows, number)
        ]
        assert [len(part) for part in seen] == [4, 4, 2]
        orders.append(np.concatenate(seen))
        np.testing.assert_array_equal(np.sort(orders[-1]), np.arange(10))
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[1], orders[2])


def test_the_same_key_draws_the_same_batches_also_in_lanes(rows):
    keys = jax.random.split(jax.random.key(3), 4)

    def draws(key):
        return [drawn.data["seen"] for drawn in epoch(Batches(4, key), rows, 1)]

    lanes = jax.vmap(draws)(keys)
    for i, key in enumerate(keys):
        for lane, alone in zip(lanes, draws(key), strict=True):
            np.testing.assert_array_equal(lane[i], alone)
    assert not np.array_equal(lanes[0][0], lanes[0][1])


def test_weights_of_rows_are_kept_and_shared_data_pass(rows, key):
    weighted = Rows(jnp.arange(4.0), jnp.asarray([1.0, 2.0, 3.0, 4.0]), shared="unit")
    (drawn,) = epoch(Batches(4, key), weighted)
    np.testing.assert_array_equal(drawn.weights, drawn.data + 1)
    assert drawn.shared == "unit"


def methods(key, batches):
    return [
        AdaHessian(key=key, batches=batches),
        Sophia(key=key, learning_rate=lambda step: 0.1 * 0.99**step, batches=batches),
    ]


@pytest.mark.parametrize("which", [0, 1])
def test_stochastic_methods_fit_by_batches_and_say_that_they_ran_out(rows, key, which):
    method = methods(key, Batches(4, key))[which]

    def consistent(y, rows):
        return jnp.sum(rows.weights * (rows.data["inputs"] @ y - rows.data["seen"]) ** 2)

    problem = Minimisation(consistent)
    result = optimise(problem, method, jnp.zeros(3), rows, max_steps=600, throw=False)
    np.testing.assert_allclose(result.value, [1.0, 2.0, 3.0], atol=0.02)
    assert float(result.objective) == pytest.approx(
        float(consistent(result.value, rows)), rel=1e-9, abs=1e-30
    )
    assert stop_names()[int(result.stop._value)] == "nonlinear_max_steps_reached"
    assert not bool(result.converged)
    again = optimise(problem, method, jnp.zeros(3), rows, max_steps=600, throw=False)
    np.testing.assert_array_equal(again.value, result.value)


def test_the_best_point_on_batches_is_judged_by_all_rows(rows, key):
    """A learning rate far too large leaves no point that is better than the start."""
    method = AdaHessian(key=key, learning_rate=50.0, batches=Batches(4, key))
    start = jnp.asarray([1.0, 2.0, 3.0])
    result = optimise(Minimisation(objective), method, start, rows, max_steps=30, throw=False)
    assert float(result.objective) <= float(objective(start, rows))
    assert float(result.objective) == pytest.approx(float(objective(result.value, rows)))


def test_bad_input_is_told(rows, key):
    with pytest.raises(ValueError, match="3, 4 rows"):
        Rows.make((jnp.ones(3), jnp.ones(4)))
    with pytest.raises(ValueError, match="no array rows"):
        Rows.make(())
    with pytest.raises(ValueError, match="size is 0"):
        Batches(0, key)
    method = AdaHessian(key=key, batches=Batches(4, key))
    with pytest.raises(TypeError, match="expected Rows"):
        optimise(Minimisation(lambda y, args: jnp.sum(y**2)), method, jnp.ones(2))
    with pytest.raises(ValueError, match="cannot go through batches"):
        optx.minimise(objective, method, jnp.zeros(3), rows)
