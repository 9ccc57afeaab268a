"""Sparse Hessians and Jacobians from few products: patterns, colourings, recovery."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from solvers.curvature.colouring import (
    SparsityPattern,
    analysed_jacobian_pattern,
    colour_hessian,
    colour_jacobian,
    probed_hessian_pattern,
    probed_jacobian_pattern,
)
from solvers.curvature.operators import hessian_operator
from solvers.curvature.sparse import coloured_hessian, coloured_jacobian


def chained_rosenbrock(y, args):
    del args
    return jnp.sum(100 * (y[1:] - y[:-1] ** 2) ** 2 + (1 - y[:-1]) ** 2)


def chained_hessian(y: np.ndarray) -> np.ndarray:
    """By hand: tridiagonal."""
    diagonal = np.zeros_like(y)
    diagonal[:-1] = 1200 * y[:-1] ** 2 - 400 * y[1:] + 2
    diagonal[1:] += 200
    return np.diag(diagonal) + np.diag(-400 * y[:-1], 1) + np.diag(-400 * y[:-1], -1)


def reaction_diffusion(u, args):
    """Gray and Scott's reaction with diffusion on a periodic grid of 16 x 16."""
    del args
    u = u.reshape(2, 16, 16)
    spread = sum(jnp.roll(u, shift, axis) for shift in (1, -1) for axis in (1, 2)) - 4 * u
    reaction = u[0] * u[1] ** 2
    change = jnp.stack([0.04 * (1 - u[0]) - reaction, reaction - 0.1 * u[1]])
    return (spread + change).ravel()


def stencil_pattern() -> SparsityPattern:
    """Each place sees both species there and its own at four neighbours."""
    places = np.arange(512).reshape(2, 16, 16)
    near = [np.roll(places, s, a).ravel() for s in (1, -1) for a in (1, 2)]
    columns = np.concatenate([places.ravel(), places[::-1].ravel(), *near])
    return SparsityPattern.from_indices(np.tile(places.ravel(), 6), columns, (512, 512))


def test_sparse_hessian_of_a_chain_from_three_products(key):
    y = jnp.linspace(-1.0, 1.5, 400)
    pattern = probed_hessian_pattern(chained_rosenbrock, y, key=key)
    assert pattern.entries == 3 * 400 - 2
    colouring = colour_hessian(pattern)
    assert colouring.count == 3
    make = jax.jit(lambda y: coloured_hessian(chained_rosenbrock, y, colouring=colouring))
    matrix = make(y)
    expected = chained_hessian(np.asarray(y))
    np.testing.assert_allclose(matrix.dense(), expected, rtol=1e-13, atol=1e-12)
    assert matrix.discrepancy(hessian_operator(chained_rosenbrock, y), key=key) < 1e-14
    operator = matrix.operator(positive=True)
    right = jnp.asarray(expected) @ jnp.ones(400)
    np.testing.assert_allclose(operator.mv(jnp.ones(400)), right, atol=1e-10)


def test_sparse_jacobian_of_a_stencil(key):
    u = jax.random.uniform(key, (512,))
    pattern = probed_jacobian_pattern(reaction_diffusion, u, key=key)
    expected = stencil_pattern()
    assert np.array_equal(pattern.rows, expected.rows)
    assert np.array_equal(pattern.columns, expected.columns)
    dense = jax.jacfwd(reaction_diffusion)(u, None)
    for by_rows in (False, True, None):
        colouring = colour_jacobian(pattern, by_rows=by_rows)
        assert 6 <= colouring.count <= 14
        matrix = coloured_jacobian(reaction_diffusion, u, colouring=colouring)
        np.testing.assert_allclose(matrix.dense(), dense, atol=1e-14)


@pytest.mark.parametrize("seed", range(5))
def test_star_colourings_recover_any_symmetric_matrix(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((40, 40)) < 0.06
    full = rng.normal(size=(40, 40)) * (mask | mask.T | np.eye(40, dtype=bool))
    full = jnp.asarray(full + full.T)
    colouring = colour_hessian(SparsityPattern.from_mask(mask))
    found = coloured_hessian(lambda y, _: 0.5 * y @ full @ y, jnp.ones(40), colouring=colouring)
    np.testing.assert_allclose(found.dense(), full, atol=1e-13)
    by_columns = colour_jacobian(colouring.pattern, by_rows=False)
    assert colouring.count <= by_columns.count


def test_an_arrow_takes_two_products_by_symmetry_and_all_without():
    mask = np.eye(30)
    mask[0] = mask[:, 0] = 1
    pattern = SparsityPattern.from_mask(mask)
    assert colour_hessian(pattern).count == 2
    assert colour_jacobian(pattern).count == 30


def test_a_wide_jacobian_is_found_by_rows():
    def sums(y, args):
        del args
        return jnp.sum(y.reshape(3, 20) ** 2, axis=1)

    pattern = SparsityPattern.from_mask(np.kron(np.eye(3), np.ones(20)))
    colouring = colour_jacobian(pattern)
    assert colouring.by_rows
    assert colouring.count == 1
    y = jnp.arange(60.0)
    found = coloured_jacobian(sums, y, colouring=colouring)
    np.testing.assert_allclose(found.dense(), jax.jacfwd(sums)(y, None))


def test_a_pattern_that_lacks_an_entry_is_found_out(key):
    y = jnp.linspace(-1.0, 1.5, 30)
    colouring = colour_hessian(SparsityPattern.from_mask(np.eye(30)))
    matrix = coloured_hessian(chained_rosenbrock, y, colouring=colouring)
    assert matrix.discrepancy(hessian_operator(chained_rosenbrock, y), key=key) > 0.01


def test_colourings_of_another_kind_or_size_are_refused():
    pattern = SparsityPattern.from_mask(np.eye(4))
    y = jnp.ones(5)
    with pytest.raises(ValueError, match="of a Jacobian"):
        coloured_hessian(chained_rosenbrock, y, colouring=colour_jacobian(pattern))
    with pytest.raises(ValueError, match="of a Hessian"):
        coloured_jacobian(chained_rosenbrock, y, colouring=colour_hessian(pattern))
    with pytest.raises(ValueError, match=r"shape \(4, 4\)"):
        coloured_hessian(chained_rosenbrock, y, colouring=colour_hessian(pattern))
    with pytest.raises(ValueError, match="the column 4, expected 0 to 3"):
        SparsityPattern.from_indices([0], [4], (4, 4))
    with pytest.raises(ValueError, match="cannot be symmetric"):
        colour_hessian(SparsityPattern.from_mask(np.ones((2, 3))))


def test_without_asdex_the_analysis_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "asdex", None)
    with pytest.raises(ImportError, match=r"simkit-jax\[sparse\]"):
        analysed_jacobian_pattern(reaction_diffusion, jnp.ones(512))


def test_with_asdex_the_analysis_finds_the_pattern():
    pytest.importorskip("asdex", reason="asdex 0.5 knows no jax 0.12", exc_type=ImportError)
    pattern = analysed_jacobian_pattern(reaction_diffusion, jnp.ones(512))
    expected = stencil_pattern()
    assert np.array_equal(pattern.rows, expected.rows)
    assert np.array_equal(pattern.columns, expected.columns)
