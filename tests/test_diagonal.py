"""AdaHessian and Sophia: known diagonals, known minima, and honest ends."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
import pytest

from solvers.optimisers.base import Minimisation, OptimisationError, optimise, stop_names
from solvers.optimisers.diagonal import AdaHessian, Sophia, hutchinson


KEY = jax.random.key(7)
SCALES = jnp.logspace(-3, 3, 13)
MATRIX = jnp.asarray([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]])


def units(y, args):
    """A quadratic with its minimum at numbers from 1e-3 to 1e3."""
    del args
    return 0.5 * jnp.sum((y / SCALES - 1) ** 2)


def coupled(y, args):
    """A quadratic that is not diagonal; the minimum is at ones."""
    del args
    return 0.5 * (y - 1) @ MATRIX @ (y - 1)


def stop_of(result) -> str:
    return stop_names()[int(result.stop._value)]


def decaying(step):
    return 0.3 * 0.99**step


def both() -> list:
    return [AdaHessian(key=KEY), Sophia(key=KEY, learning_rate=decaying)]


def test_any_single_probe_gives_a_diagonal_exactly():
    diagonal = {"a": jnp.asarray([1.0, -2.0]), "b": jnp.asarray([[3.0], [1e6]])}

    def product(v):
        return jax.tree.map(jnp.multiply, diagonal, v)

    for seed in range(5):
        estimate = hutchinson(product, diagonal, jax.random.key(seed))
        assert jax.tree.all(
            jax.tree.map(lambda a, b: bool(jnp.all(a == b)), estimate, diagonal)
        )


def test_the_estimate_of_a_full_matrix_is_unbiased():
    count = 4000
    estimate = hutchinson(lambda v: MATRIX @ v, jnp.zeros(3), KEY, probes=count)
    # The variance of one probe is twice the sum of squares off the diagonal, by row.
    off = MATRIX - jnp.diag(jnp.diag(MATRIX))
    sd = jnp.sqrt(2 * jnp.sum(off**2, axis=1) / count)
    assert bool(jnp.all(jnp.abs(estimate - jnp.diag(MATRIX)) < 5 * sd))
    assert not bool(jnp.all(estimate == jnp.diag(MATRIX)))


def test_adahessian_without_memory_takes_newtons_step_on_a_diagonal_quadratic():
    method = AdaHessian(key=KEY, learning_rate=1.0, decay=(0.0, 0.0), epsilon=0.0)
    result = optimise(Minimisation(units), method, jnp.zeros(13), max_steps=3)
    assert stop_of(result) == "gradient"
    assert int(result.steps) == 2  # the second evaluates the minimum
    np.testing.assert_allclose(result.value, SCALES, rtol=1e-12)


def test_adahessian_goes_the_same_way_whatever_the_units_of_separate_parameters():
    target = jnp.asarray([0.5, 1.0, 1.5])

    def way(scales):
        seen = []
        optimise(
            Minimisation(lambda y, args: jnp.sum(jnp.cosh(y / scales - target))),
            AdaHessian(key=KEY, epsilon=0.0),
            jnp.zeros(3),
            max_steps=30,
            throw=False,
            progress=lambda i, y, state: seen.append(y / scales),
        )
        return jnp.stack(seen)

    # Powers of two, so that rounding is the same too.
    plain = way(jnp.ones(3))
    np.testing.assert_allclose(way(2.0 ** jnp.asarray([-20, 0, 20])), plain, rtol=1e-12)
    assert float(jnp.max(jnp.abs(plain[-1] - target))) < 0.3


@pytest.mark.parametrize("method", both(), ids=["AdaHessian", "Sophia"])
def test_both_converge_on_a_coupled_quadratic(method):
    result = optimise(Minimisation(coupled), method, jnp.zeros(3), throw=False)
    np.testing.assert_allclose(result.value, jnp.ones(3), atol=1e-4)
    assert float(result.objective) == pytest.approx(
        float(coupled(result.value, None)), abs=1e-15
    )


def test_sophia_moves_no_coordinate_by_more_than_its_learning_rate():
    seen = [np.zeros(13)]
    method = Sophia(key=KEY, learning_rate=0.01)
    optimise(
        Minimisation(units),
        method,
        jnp.zeros(13),
        max_steps=40,
        throw=False,
        progress=lambda i, y, state: seen.append(np.asarray(y)),
    )
    moves = np.abs(np.diff(np.stack(seen), axis=0))
    assert moves.max() <= 0.01 * (1 + 1e-12)
    assert moves.max() > 0.009


def test_sophia_refreshes_its_diagonal_every_few_steps():
    seen = []
    method = Sophia(key=KEY, learning_rate=1e-3, every=4)
    optimise(
        Minimisation(coupled),
        method,
        jnp.zeros(3),
        max_steps=9,
        throw=False,
        progress=lambda i, y, state: seen.append(np.asarray(state.curvature)),
    )
    changed = [bool(np.any(a != b)) for a, b in itertools.pairwise(seen)]
    assert changed == [False, False, False, True, False, False, False, True]


@pytest.mark.parametrize("method", both(), ids=["AdaHessian", "Sophia"])
def test_bounds_hold_and_are_reached(method):
    seen = []
    problem = Minimisation(coupled, lower=-1.0, upper=jnp.asarray([0.25, 5.0, 5.0]))
    result = optimise(
        problem,
        method,
        jnp.zeros(3),
        throw=False,
        progress=lambda i, y, state: seen.append(np.asarray(y)),
    )
    assert np.max(np.stack(seen)[:, 0]) <= 0.25
    rest = jnp.linalg.solve(MATRIX[1:, 1:], MATRIX[1:, 0] * 0.75)
    np.testing.assert_allclose(result.value[1:], 1 + rest, atol=1e-3)
    assert float(result.value[0]) == 0.25


def test_trees_of_arrays_are_parameters():
    start = {"a": jnp.zeros((2, 2)), "b": [jnp.asarray(0.0)]}

    def objective(y, args):
        return jnp.sum((y["a"] - args) ** 2) + jnp.cosh(y["b"][0] - 2)

    problem = Minimisation(objective, lower={"a": -9.0, "b": [jnp.asarray(0.0)]})
    result = optimise(problem, AdaHessian(key=KEY), start, 3.0)
    np.testing.assert_allclose(result.value["a"], jnp.full((2, 2), 3.0), atol=1e-5)
    assert float(result.value["b"][0]) == pytest.approx(2.0, abs=1e-4)


def test_the_key_decides_the_way():
    def run(seed):
        method = AdaHessian(key=jax.random.key(seed))
        return optimise(Minimisation(coupled), method, jnp.zeros(3), max_steps=9, throw=False)

    np.testing.assert_array_equal(run(1).value, run(1).value)
    assert not np.array_equal(run(1).value, run(2).value)


@pytest.mark.parametrize("method", both(), ids=["AdaHessian", "Sophia"])
def test_lanes_of_a_vmap_do_not_disturb_one_another(method):
    """One lane starts where the objective is no number, one at the minimum."""

    def objective(y, args):
        return coupled(y, args) + jnp.where(y[0] > 50, jnp.nan, 0.0)

    starts = jnp.asarray([[0.0, 0, 0], [99, 0, 0], [1, 1, 1], [-3, 2, 0]])

    def run(start):
        return optimise(Minimisation(objective), method, start, max_steps=40, throw=False)

    lanes = jax.vmap(run)(starts)
    for i, start in enumerate(starts):
        alone = run(start)
        np.testing.assert_allclose(lanes.value[i], alone.value, rtol=1e-9, atol=1e-9)
        assert int(lanes.stop._value[i]) == int(alone.stop._value)
        assert int(lanes.steps[i]) == int(alone.steps)
    names = [stop_names()[i] for i in lanes.stop._value]
    assert names[1:3] == ["nonfinite_start", "gradient"]


def test_a_step_into_a_region_without_values_is_taken_back():
    """x - log(x) is no number below zero, and the first step would leap there."""
    method = AdaHessian(key=KEY, learning_rate=0.5, decay=(0.9, 0.9))
    result = optimise(Minimisation(lambda y, args: y - jnp.log(y)), method, jnp.asarray(5.0))
    assert float(result.value) == pytest.approx(1.0, abs=1e-4)


def test_ends_without_success_are_told():
    nowhere = Minimisation(lambda y, args: jnp.sum(jnp.log(y)))
    with pytest.raises(OptimisationError, match="not finite numbers at the start"):
        optimise(nowhere, AdaHessian(key=KEY), -jnp.ones(2))
    cliff = Minimisation(lambda y, args: jnp.where(y > 3, -jnp.inf, -(y**2)))
    down = optimise(cliff, AdaHessian(key=KEY), jnp.asarray(1.0), throw=False)
    assert stop_of(down) == "unbounded"
    short = optimise(
        Minimisation(coupled), AdaHessian(key=KEY), jnp.zeros(3), max_steps=5, throw=False
    )
    assert stop_of(short) == "nonlinear_max_steps_reached"


def test_a_vanishing_learning_rate_is_no_success():
    method = AdaHessian(key=KEY, learning_rate=lambda step: 0.1 * 0.5**step)
    result = optimise(Minimisation(coupled), method, jnp.zeros(3), max_steps=200, throw=False)
    assert stop_of(result) == "nonlinear_max_steps_reached"


def test_the_last_point_instead_of_the_best():
    method = AdaHessian(key=KEY, learning_rate=3.0, keep_best=False)
    last = []
    result = optimise(
        Minimisation(coupled),
        method,
        jnp.zeros(3),
        max_steps=4,
        throw=False,
        progress=lambda i, y, state: last.append(y),
    )
    np.testing.assert_array_equal(result.value, last[-1])
    assert float(result.objective) == pytest.approx(float(coupled(last[-1], None)))


def test_forward_mode_goes_the_same_way():
    plain, forward = (
        optimise(
            Minimisation(coupled),
            AdaHessian(key=KEY, forward=forward),
            jnp.zeros(3),
            max_steps=20,
            throw=False,
        )
        for forward in (False, True)
    )
    np.testing.assert_allclose(plain.value, forward.value, rtol=1e-12)


def test_optimistix_runs_it_and_differentiates_the_optimum():
    def best(target):
        fit = optx.minimise(
            lambda y, c: jnp.sum((y - c) ** 2),
            AdaHessian(key=KEY),
            jnp.zeros(2),
            target,
            max_steps=2000,
        )
        return fit.value

    np.testing.assert_allclose(jax.jacfwd(best)(jnp.ones(2)), jnp.eye(2), atol=1e-6)


def test_single_precision_stays_single():
    fit = optx.minimise(
        lambda y, args: jnp.sum((y - 1) ** 2),
        AdaHessian(key=KEY, rtol=1e-5, atol=1e-5),
        jnp.zeros(2, jnp.float32),
        max_steps=2000,
    )
    assert fit.value.dtype == jnp.float32
    np.testing.assert_allclose(fit.value, jnp.ones(2), atol=1e-3)


def test_bad_settings_are_told():
    with pytest.raises(ValueError, match="AdaHessian: probes is 0"):
        AdaHessian(key=KEY, probes=0)
    with pytest.raises(ValueError, match="Sophia: every is 0"):
        Sophia(key=KEY, every=0)
