"""Curvature operators, dense forms, eigenpairs, and the choice of a way."""

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from solvers.curvature.choice import (
    Costs,
    Derivative,
    Way,
    choose_derivative,
    differentiate,
    measure,
    ways,
)
from solvers.curvature.dense import as_dense, hessian, jacobian, measure_column_bytes
from solvers.curvature.lanczos import condition_number, extreme_eigenpairs, tridiagonalise
from solvers.curvature.operators import (
    empirical_fisher_operator,
    fisher_operator,
    gauss_newton_operator,
    generalised_gauss_newton_operator,
    hessian_operator,
    sampled_information,
)
from solvers.gradients import Forward
from solvers.integrators.deterministic import Tsit5
from solvers.problem import InitialValueProblem
from solvers.solve import solve
from systems.populations import LotkaVolterra


ROSENBROCK = np.array([[802.0, -400.0], [-400.0, 200.0]])


def rosenbrock(y, args):
    del args
    return 100 * (y["b"] - y["a"] ** 2) ** 2 + (1 - y["a"]) ** 2


def rosenbrock_residuals(y, args):
    del args
    return jnp.sqrt(2.0) * jnp.stack([10 * (y["b"] - y["a"] ** 2), 1 - y["a"]])


def tree_predictions(y, args):
    """Two leaves of predictions of a tree of parameters, positive, not linear."""
    x = jnp.asarray(args)
    return {
        "first": jnp.exp(y["rate"] * x) + y["shape"][0] ** 2,
        "second": 2 + jnp.sin(y["shape"][1] * x) * y["rate"],
    }


TREE: Any = {"rate": jnp.asarray(0.3), "shape": jnp.asarray([0.7, 1.1])}
AT = np.linspace(0.1, 1.5, 4)


def tree_jacobian() -> np.ndarray:
    flat, unravel = ravel_pytree(TREE)
    columns = []
    predict = jax.jit(lambda x: ravel_pytree(tree_predictions(unravel(x), AT))[0])
    for step in 1e-5 * np.eye(flat.size):
        columns.append((predict(flat + step) - predict(flat - step)) / 2e-5)
    return np.stack(columns, axis=1)


POINT = {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("forward_only", [False, True])
def test_hessian_of_rosenbrock_is_exact(forward_only):
    operator = hessian_operator(rosenbrock, POINT, forward_only=forward_only)
    np.testing.assert_allclose(operator.as_matrix(), ROSENBROCK, rtol=1e-14)
    np.testing.assert_allclose(as_dense(operator), ROSENBROCK, rtol=1e-14)
    dense = hessian(rosenbrock, POINT, forward_only=forward_only)
    np.testing.assert_allclose(dense, ROSENBROCK, rtol=1e-14)


def test_operators_serve_conjugate_gradients_on_pytrees():
    operator = hessian_operator(rosenbrock, POINT, positive=True)
    right = {"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)}
    solution = lx.linear_solve(operator, right, lx.CG(1e-12, 1e-12)).value
    expected = np.linalg.solve(ROSENBROCK, [1.0, 2.0])
    np.testing.assert_allclose([solution["a"], solution["b"]], expected, rtol=1e-10)


def test_operators_add_and_scale_as_lineax_operators_do():
    both = hessian_operator(rosenbrock, POINT) * 0.5 + gauss_newton_operator(
        rosenbrock_residuals, POINT
    )
    np.testing.assert_allclose(both.as_matrix(), 1.5 * ROSENBROCK, rtol=1e-13)


@pytest.mark.parametrize("forward_only", [False, True])
def test_gauss_newton_is_the_weighted_square_of_the_jacobian(forward_only):
    weights = {"first": jnp.asarray(2.0), "second": jnp.asarray([1.0, 0.0, 3.0, 0.5])}
    operator = gauss_newton_operator(
        tree_predictions, TREE, AT, weights=weights, forward_only=forward_only
    )
    expected = tree_jacobian()
    diagonal = np.array([2.0] * 4 + [1.0, 0.0, 3.0, 0.5])
    np.testing.assert_allclose(
        operator.as_matrix(), expected.T @ (diagonal[:, None] * expected), rtol=1e-8
    )


def test_gauss_newton_is_the_fisher_information_of_unit_normal_noise():
    square = gauss_newton_operator(tree_predictions, TREE, AT).as_matrix()
    fisher = fisher_operator(
        tree_predictions, lambda p, _: jax.tree.map(jnp.ones_like, p), TREE, AT
    )
    general = generalised_gauss_newton_operator(
        tree_predictions,
        lambda p, _: 0.5 * sum(jnp.sum((leaf - 9) ** 2) for leaf in jax.tree.leaves(p)),
        TREE,
        AT,
    )
    np.testing.assert_allclose(fisher.as_matrix(), square, rtol=1e-13)
    np.testing.assert_allclose(general.as_matrix(), square, rtol=1e-13)


@pytest.mark.parametrize("forward_only", [False, True])
def test_generalised_gauss_newton_of_a_poisson_likelihood_in_closed_form(forward_only):
    counts = {"first": jnp.asarray([3.0, 1, 0, 4]), "second": jnp.asarray([2.0, 2, 1, 5])}

    def loss(mean, args):
        del args
        terms = jax.tree.map(lambda m, n: jnp.sum(m - n * jnp.log(m)), mean, counts)
        return sum(jax.tree.leaves(terms))

    operator = generalised_gauss_newton_operator(
        tree_predictions, loss, TREE, AT, forward_only=forward_only
    )
    slope = tree_jacobian()
    mean = ravel_pytree(tree_predictions(TREE, AT))[0]
    curve = np.asarray(ravel_pytree(counts)[0] / mean**2)
    np.testing.assert_allclose(
        operator.as_matrix(), slope.T @ (curve[:, None] * slope), rtol=1e-8
    )


def test_empirical_fisher_is_the_sum_of_outer_products_of_scores():
    def log_likelihoods(y, args):
        return jax.tree.map(lambda p: -0.5 * (p - 2) ** 2, tree_predictions(y, args))

    operator = empirical_fisher_operator(log_likelihoods, TREE, AT)
    mean = np.asarray(ravel_pytree(tree_predictions(TREE, AT))[0])
    scores = -(mean - 2)[:, None] * tree_jacobian()
    expected = sum(np.outer(score, score) for score in scores)
    np.testing.assert_allclose(operator.as_matrix(), expected, rtol=1e-8)


def test_sampled_information_finds_that_of_a_normal_law(key):
    def log_likelihood(law, measured):
        standard = (measured - law["mean"]) / law["scale"]
        return -jnp.log(law["scale"]) - 0.5 * standard**2

    def draw(key, law):
        return law["mean"] + law["scale"] * jax.random.normal(key, law["mean"].shape)

    law = {"mean": jnp.asarray([0.5, 2.0, 9.0]), "scale": jnp.asarray([1.0, 0.5, 2.0])}
    found = sampled_information(log_likelihood, draw, law, key, draws=20_000)
    for name, true in (("mean", 1.0), ("scale", 2.0)):
        error = np.abs(found.value[name] - true / law["scale"] ** 2)
        assert np.all(error < 4 * found.standard_error[name])
        assert np.all(found.standard_error[name] < 0.04 * found.value[name])


def test_operators_under_jit_and_vmap():
    points = {"a": jnp.asarray([1.0, -0.5, 2.0]), "b": jnp.asarray([1.0, 0.3, -1.0])}

    def product(y):
        return hessian_operator(rosenbrock, y).mv(
            {"a": jnp.asarray(1.0), "b": jnp.asarray(2.0)}
        )

    found = jax.jit(jax.vmap(product))(points)
    a, b = (np.asarray(points[name]) for name in "ab")
    np.testing.assert_allclose(found["a"], 1200 * a**2 - 400 * b + 2 - 800 * a, rtol=1e-12)
    np.testing.assert_allclose(found["b"], -400 * a + 400, atol=1e-10)
    dense = jax.jit(jax.vmap(lambda y: hessian(rosenbrock, y)))(points)
    np.testing.assert_allclose(dense[0], ROSENBROCK, rtol=1e-12)


def test_single_precision_and_integers_come_through():
    y = {"a": np.float32(1), "b": np.float32(1)}
    operator = hessian_operator(rosenbrock, y)
    assert operator.as_matrix().dtype == jnp.float32
    np.testing.assert_allclose(operator.as_matrix(), ROSENBROCK, rtol=1e-5)
    np.testing.assert_allclose(hessian(rosenbrock, {"a": 1, "b": 1}), ROSENBROCK)


@pytest.mark.parametrize("memory", [1, 600])
@pytest.mark.parametrize("forward_only", [False, True])
def test_dense_hessian_is_the_same_within_any_budget(memory, forward_only, key):
    y = jax.random.normal(key, (9,))

    def objective(y, args):
        del args
        return jnp.sum(jnp.sin(y[:-1] * y[1:])) + jnp.sum(jnp.cos(y)) ** 3

    found = jax.jit(lambda: hessian(objective, y, memory=memory, forward_only=forward_only))()
    expected = jax.jit(jax.hessian(objective))(y, None)
    np.testing.assert_allclose(found, expected, atol=1e-13)
    assert np.array_equal(found, found.T)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("memory", [1, 200])
def test_jacobian_both_ways_within_any_budget(reverse, memory):
    found = jax.jit(
        lambda y: jacobian(tree_predictions, y, AT, reverse=reverse, memory=memory)
    )(TREE)
    np.testing.assert_allclose(found, tree_jacobian(), atol=1e-9)


def test_small_budgets_need_less_memory_in_the_compiled_program(key):
    mixing = jax.random.normal(key, (200, 200))

    def objective(y, args):
        del args
        return jnp.sum(jnp.sin(mixing @ jnp.tanh(mixing @ jnp.sin(y))))

    def temporary(memory):
        program = jax.jit(lambda y: hessian(objective, y, memory=memory))
        plan = program.lower(jnp.ones(200)).compile().memory_analysis()
        assert plan is not None
        return plan.temp_size_in_bytes - 200 * 200 * 8

    assert temporary(8 * 400 * 8) < 0.4 * temporary(10**9)


def test_bytes_of_a_column_grow_with_what_the_function_holds():
    def bytes_with(width):
        def objective(y, args):
            del args
            held = jnp.sin(jnp.outer(jnp.arange(width, dtype=float), y)) @ jnp.cos(y)
            return jnp.sum(jnp.tanh(held) ** 2)

        return measure_column_bytes(hessian_operator(objective, jnp.ones(5)))

    assert bytes_with(4000) > 20 * bytes_with(40)
    assert bytes_with(4000) >= 4000 * 8


def random_symmetric(size, seed=5) -> jax.Array:
    matrix = jax.random.normal(jax.random.key(seed), (size, size))
    return 0.5 * (matrix + matrix.T)


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
def test_extreme_eigenvalues_to_eight_digits(which, key):
    matrix = random_symmetric(300)
    operator = lx.MatrixLinearOperator(matrix, lx.symmetric_tag)
    found = jax.jit(lambda: extreme_eigenpairs(operator, 5, which, key=key))()
    true = np.linalg.eigvalsh(matrix)
    rank = {"largest": -true, "smallest": true, "magnitude": -np.abs(true)}[which]
    expected = true[np.argsort(rank)[:5]]
    np.testing.assert_allclose(found.values, expected, rtol=1e-9)
    assert np.all(found.converged)
    assert int(found.products) < 300
    vectors = np.asarray(found.vectors)
    residuals = np.linalg.norm(
        np.asarray(matrix) @ vectors.T - vectors.T * np.asarray(found.values)[None], axis=0
    )
    np.testing.assert_allclose(found.residuals, residuals, atol=1e-12)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(5), atol=1e-9)


def test_residuals_are_honest_where_it_was_stopped_early(key):
    matrix = jnp.diag(jnp.linspace(1.0, 2.0, 400) ** 6)
    operator = lx.MatrixLinearOperator(matrix, lx.symmetric_tag)
    found = extreme_eigenpairs(operator, 3, "smallest", key=key, max_restarts=2)
    assert not np.any(found.converged)
    true = np.diag(matrix)
    distance = np.min(np.abs(np.asarray(found.values)[:, None] - true[None, :]), axis=1)
    assert np.all(distance <= found.residuals)


def test_multiple_eigenvalues_and_whole_spectra(key):
    matrix = jnp.diag(jnp.asarray([2.0, 2, 2, 1, 1] * 10))
    operator = lx.MatrixLinearOperator(matrix, lx.symmetric_tag)
    found = extreme_eigenpairs(operator, 4, key=key)
    np.testing.assert_allclose(found.values, 2.0, rtol=1e-12)
    small = random_symmetric(4)
    everything = extreme_eigenpairs(
        lx.MatrixLinearOperator(small, lx.symmetric_tag), 4, key=key
    )
    np.testing.assert_allclose(everything.values[::-1], np.linalg.eigvalsh(small), rtol=1e-10)


def test_eigenvectors_are_pytrees_like_the_parameters(key):
    found = extreme_eigenpairs(hessian_operator(rosenbrock, POINT), 1, key=key)
    values, vectors = np.linalg.eigh(ROSENBROCK)
    np.testing.assert_allclose(found.values[0], values[-1], rtol=1e-12)
    ratio = found.vectors["a"][0] / found.vectors["b"][0]
    np.testing.assert_allclose(ratio, vectors[0, -1] / vectors[1, -1], rtol=1e-10)


def test_eigenvalues_of_a_batch_are_those_of_each(key):
    matrices = jnp.stack([random_symmetric(40, seed) for seed in range(3)])

    def largest(matrix):
        operator = lx.MatrixLinearOperator(matrix, lx.symmetric_tag)
        return extreme_eigenpairs(operator, 2, key=key).values

    expected = np.linalg.eigvalsh(matrices)[:, ::-1][:, :2]
    np.testing.assert_allclose(jax.vmap(largest)(matrices), expected, rtol=1e-9)


def test_condition_number_says_when_it_cannot_be_trusted(key):
    matrix = random_symmetric(80)
    positive = lx.MatrixLinearOperator(matrix @ matrix + jnp.eye(80), lx.symmetric_tag)
    number, trusted = condition_number(positive, key=key)
    assert bool(trusted)
    np.testing.assert_allclose(number, np.linalg.cond(positive.as_matrix()), rtol=1e-8)
    indefinite = lx.MatrixLinearOperator(matrix, lx.symmetric_tag)
    assert not bool(condition_number(indefinite, key=key)[1])


def test_lanczos_basis_stays_orthogonal_and_ends_with_its_space(key):
    matrix = jnp.diag(jnp.concatenate([jnp.asarray([1e6, 1e5]), jnp.linspace(0, 1, 98)]))
    made = tridiagonalise(lambda v: matrix @ v, jax.random.normal(key, (100,)), 90)
    np.testing.assert_allclose(made.basis @ made.basis.T, np.eye(90), atol=1e-12)
    short = tridiagonalise(lambda v: matrix @ v, jnp.eye(100)[0] + jnp.eye(100)[1], 10)
    assert np.all(np.asarray(short.off_diagonal[1:]) == 0)
    np.testing.assert_allclose(
        np.linalg.eigvalsh(short.matrix()[:2, :2]), [1e5, 1e6], rtol=1e-12
    )


def test_operators_that_are_not_symmetric_are_refused(key):
    operator = lx.MatrixLinearOperator(jnp.ones((3, 3)))
    with pytest.raises(ValueError, match="symmetric_tag"):
        extreme_eigenpairs(operator, 1, key=key)


@pytest.mark.parametrize("count", [0, 4])
def test_a_count_of_eigenpairs_out_of_range_is_refused(count, key):
    operator = lx.MatrixLinearOperator(jnp.eye(3), lx.symmetric_tag)
    with pytest.raises(ValueError, match=f"{count} eigenpairs are asked for"):
        extreme_eigenpairs(operator, count, key=key)


def test_shapes_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2,\), expected a scalar"):
        hessian_operator(rosenbrock_residuals, POINT)
    with pytest.raises(ValueError, match=r"a leaf of shape \(3,\)"):
        gauss_newton_operator(rosenbrock_residuals, POINT, weights=jnp.ones(3))
    with pytest.raises(ValueError, match="another structure"):
        gauss_newton_operator(rosenbrock_residuals, POINT, weights=(1.0, 2.0))
    with pytest.raises(ValueError, match="0 bytes"):
        hessian(rosenbrock, POINT, memory=0)
    with pytest.raises(TypeError, match="complex"):
        hessian(rosenbrock, {"a": 1j, "b": 1.0})


TIMES = np.linspace(0.5, 10.0, 20)
RATES = {"prey_growth": 0.55, "predation": 0.028, "predator_death": 0.8, "conversion": 0.024}


def trajectory(y, gradient):
    system = LotkaVolterra(**jax.tree.map(jnp.exp, y))
    problem = InitialValueProblem(system, 0.0, 10.0)
    method = Tsit5(rtol=1e-9, atol=1e-9)
    states = solve(problem, method, save_at=TIMES, gradient=gradient, throw=False).states
    return jnp.log(states) - jnp.asarray(3.0)


def misfit(y, gradient):
    return 0.5 * jnp.sum(trajectory(y, gradient) ** 2)


def test_curvature_of_a_trajectory_in_forward_mode_alone(key):
    y = {name: jnp.log(value) for name, value in RATES.items()}
    flat, unravel = ravel_pytree(y)
    dense = jax.jit(lambda y: hessian(misfit, y, Forward(), forward_only=True))(y)

    gradient = jax.jit(jax.jacfwd(lambda x: misfit(unravel(x), Forward())))
    differences = [
        (
            8 * (gradient(flat + step) - gradient(flat - step))
            - gradient(flat + 2 * step)
            + gradient(flat - 2 * step)
        )
        / 12e-4
        for step in 1e-4 * np.eye(4)
    ]
    scale = np.max(np.abs(dense))
    np.testing.assert_allclose(dense, np.stack(differences), atol=1e-6 * scale)

    slope = jax.jit(lambda y: jacobian(trajectory, y, Forward()))(y)
    square = gauss_newton_operator(trajectory, y, Forward(), forward_only=True)
    np.testing.assert_allclose(square.as_matrix(), slope.T @ slope, rtol=1e-10)
    largest = extreme_eigenpairs(square, 1, key=key)
    np.testing.assert_allclose(
        largest.values[0], np.linalg.svd(slope, compute_uv=False)[0] ** 2, rtol=1e-9
    )


def test_the_model_of_costs_chooses_forward_for_few_inputs_and_reverse_for_many():
    for wanted in (Derivative.gradient, Derivative.hessian):
        few, many = choose_derivative(wanted, 2), choose_derivative(wanted, 100_000)
        assert few in ways(wanted, forward_only=True)
        assert many not in ways(wanted, forward_only=True)
        assert choose_derivative(wanted, 100_000, forward_only=True) == few
    jacobian_way = choose_derivative(Derivative.jacobian, 20, 1000)
    assert jacobian_way is Way.forward
    costs = Costs(tangent=1e6)
    assert choose_derivative(Derivative.jacobian, 20, 1000, costs=costs) is Way.reverse
    with pytest.raises(ValueError, match="3 outputs came"):
        choose_derivative(Derivative.hessian, 4, 3)
    with pytest.raises(ValueError, match="0 inputs"):
        choose_derivative(Derivative.gradient, 0)


@pytest.mark.parametrize("wanted", list(Derivative))
def test_every_way_gives_the_same_derivative(wanted):
    y = {"a": jnp.asarray(0.7), "b": jnp.asarray(-0.2)}
    function = rosenbrock_residuals if wanted is Derivative.jacobian else rosenbrock
    vector = ({"a": jnp.asarray(2.0), "b": jnp.asarray(1.0)},)
    extra = vector if wanted is Derivative.hessian_vector_product else ()
    found = [differentiate(wanted, way, function)(y, None, *extra) for way in ways(wanted)]
    a, b = 0.7, -0.2
    second = np.array([[1200 * a**2 - 400 * b + 2, -400 * a], [-400 * a, 200]])
    expected = {
        Derivative.gradient: [-400 * a * (b - a**2) - 2 * (1 - a), 200 * (b - a**2)],
        Derivative.jacobian: np.sqrt(2) * np.array([[-20 * a, 10], [-1, 0]]),
        Derivative.hessian_vector_product: second @ [2, 1],
        Derivative.hessian: second,
    }[wanted]
    assert len(found) == 2
    for one in found:
        np.testing.assert_allclose(one, expected, rtol=1e-12)


def test_measuring_finds_the_faster_way_and_tells_what_was_refused():
    def wide(y, args):
        del args
        return jnp.sum(jnp.sin(y) ** 2)

    timing = measure(Derivative.gradient, wide, jnp.ones(3000), repeats=3)
    assert timing.best is Way.reverse
    assert timing.seconds[Way.reverse] < timing.seconds[Way.forward]

    y = {name: jnp.log(value) for name, value in RATES.items()}
    timing = measure(Derivative.gradient, misfit, y, Forward(), repeats=1)
    assert timing.best is Way.forward
    assert "Forward()" in timing.refused[Way.reverse]
