"""Traces, diagonals, determinants and spectra from random probes keep their promises."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from solvers.curvature.operators import hessian_operator
from solvers.curvature.quadrature import log_determinant, spectral_density
from solvers.curvature.stochastic import (
    diagonal,
    exact_diagonal,
    hutch_plus_plus_trace,
    hutchinson_diagonal,
    hutchinson_trace,
    sketched_diagonal,
    trace,
)


SIZE = 250
SEEDS = 24


def rotation(size: int) -> jax.Array:
    return jnp.linalg.qr(jax.random.normal(jax.random.key(11), (size, size)))[0]


def with_spectrum(values) -> jax.Array:
    turn = rotation(len(values))
    matrix = (turn * jnp.asarray(values)[None, :]) @ turn.T
    return 0.5 * (matrix + matrix.T)


DECAYING = 1.0 / np.arange(1, SIZE + 1) ** 2
SPREAD = np.geomspace(0.1, 10.0, SIZE)


def positive(matrix) -> lx.MatrixLinearOperator:
    return lx.MatrixLinearOperator(matrix, lx.positive_semidefinite_tag)


def over_seeds(estimator):
    """The estimates and standard errors of many seeds, in one program."""
    keys = jax.random.split(jax.random.key(5), SEEDS)
    return jax.jit(jax.vmap(lambda key: estimator(key)))(keys)


def assert_honest(found, true):
    """Standard errors are those of a mean: neither far too small nor far too large."""
    scores = (np.asarray(found.value) - true) / np.asarray(found.standard_error)
    assert np.max(np.abs(scores)) < 4.5
    assert np.mean(np.abs(scores) < 3) > 0.95
    assert 0.6 < np.sqrt(np.mean(scores**2)) < 1.5


@pytest.mark.parametrize("estimator", [hutchinson_trace, hutch_plus_plus_trace])
def test_traces_are_within_their_standard_errors(estimator):
    operator = positive(with_spectrum(SPREAD))
    found = over_seeds(lambda key: estimator(operator, key=key, probes=90))
    assert_honest(found, SPREAD.sum())


def test_hutch_plus_plus_beats_hutchinson_where_the_spectrum_decays():
    operator = positive(with_spectrum(DECAYING))
    plain = over_seeds(lambda key: hutchinson_trace(operator, key=key, probes=60))
    better = over_seeds(lambda key: hutch_plus_plus_trace(operator, key=key, probes=60))
    true = DECAYING.sum()
    errors = [np.sqrt(np.mean((np.asarray(x.value) - true) ** 2)) for x in (plain, better)]
    assert errors[1] < 0.1 * errors[0]
    assert np.mean(better.standard_error) < 0.1 * np.mean(plain.standard_error)


def test_diagonals_are_within_their_standard_errors():
    matrix = with_spectrum(SPREAD)
    true = np.diag(matrix)
    for estimator in (hutchinson_diagonal, sketched_diagonal):
        found = over_seeds(lambda key, e=estimator: e(positive(matrix), key=key, probes=90))
        scores = (np.asarray(found.value) - true[None]) / np.asarray(found.standard_error)
        assert 0.8 < np.sqrt(np.mean(scores**2)) < 1.3


def test_the_sketched_diagonal_is_better_where_the_spectrum_decays():
    matrix = with_spectrum(DECAYING)
    errors = [
        np.linalg.norm(
            np.asarray(
                over_seeds(lambda key, e=e: e(positive(matrix), key=key, probes=60)).value
            )
            - np.diag(matrix)[None]
        )
        for e in (hutchinson_diagonal, sketched_diagonal)
    ]
    assert errors[1] < 0.3 * errors[0]


def test_small_operators_are_exact_whatever_the_key(key):
    matrix = with_spectrum(SPREAD[:50])
    found = trace(positive(matrix), key=key)
    np.testing.assert_allclose(found.value, np.trace(matrix), rtol=1e-13)
    assert found.standard_error == 0
    entries = diagonal(positive(matrix), key=key)
    np.testing.assert_allclose(entries.value, np.diag(matrix), rtol=1e-12)
    assert np.all(np.asarray(entries.standard_error) == 0)


def test_large_operators_are_estimated_by_the_better_way(key):
    operator = positive(with_spectrum(DECAYING))
    found = trace(operator, key=key, probes=60)
    assert found.value == hutch_plus_plus_trace(operator, key=key, probes=60).value
    assert found.standard_error > 0


def test_diagonals_are_pytrees_like_the_parameters(key):
    scales = {"a": jnp.arange(3.0), "b": jnp.asarray([[4.0, 5.0]])}

    def objective(y, args):
        del args
        return 0.5 * sum(jnp.sum(scales[name] * y[name] ** 2) for name in "ab")

    operator = hessian_operator(objective, jax.tree.map(jnp.ones_like, scales))
    # Without entries off the diagonal one probe is exact.
    estimated = hutchinson_diagonal(operator, key=key, probes=2)
    for found in (exact_diagonal(operator, memory=1), estimated.value):
        np.testing.assert_allclose(found["a"], scales["a"], atol=1e-14)
        np.testing.assert_allclose(found["b"], scales["b"], atol=1e-14)
    assert np.all(np.asarray(estimated.standard_error["b"]) == 0)


def test_log_determinants_are_within_their_standard_errors():
    operator = positive(with_spectrum(SPREAD))
    found = over_seeds(lambda key: log_determinant(operator, key=key, probes=12, steps=40))
    assert_honest_few(found, np.log(SPREAD).sum() + 0.0)


def assert_honest_few(found, true):
    """As above for few probes, whose standard errors scatter themselves."""
    scores = (np.asarray(found.value) - true) / np.asarray(found.standard_error)
    assert np.mean(np.abs(scores) < 3) > 0.9
    assert 0.5 < np.sqrt(np.mean(scores**2)) < 1.8


def test_log_determinant_of_an_indefinite_operator_is_no_number(key):
    operator = lx.MatrixLinearOperator(with_spectrum(SPREAD - 1.0), lx.symmetric_tag)
    assert np.isnan(log_determinant(operator, key=key, probes=4, steps=30).value)


def test_spectral_density_is_that_of_the_eigenvalues():
    true = np.concatenate([np.linspace(-1, 1, SIZE - 2), [5.0, 8.0]])
    operator = lx.MatrixLinearOperator(with_spectrum(true), lx.symmetric_tag)
    at, width = np.array([-0.5, 0.0, 0.7, 3.0, 5.0]), 0.3
    found = over_seeds(
        lambda key: spectral_density(operator, key=key, probes=12, steps=40).density(at, width)
    )
    kernel = np.exp(-0.5 * ((at[:, None] - true[None]) / width) ** 2)
    expected = kernel.mean(axis=1) / (width * np.sqrt(2 * np.pi))
    errors = np.abs(np.asarray(found.value) - expected[None])
    allowed = 3 * np.asarray(found.standard_error) + 1e-4
    assert np.mean(errors < allowed) > 0.93
    np.testing.assert_allclose(np.mean(found.value, axis=0), expected, rtol=0.2, atol=2e-3)


def test_density_integrates_to_one_and_outliers_are_counted(key):
    true = np.concatenate([np.linspace(-1, 1, SIZE - 5), [5.0, 6.0, 7.0, 8.0, 9.0]])
    operator = lx.MatrixLinearOperator(with_spectrum(true), lx.symmetric_tag)
    spectrum = spectral_density(operator, key=key, probes=30, steps=40)
    at = np.linspace(-4, 12, 2001)
    total = np.trapezoid(np.asarray(spectrum.density(at, 0.2).value), at)
    np.testing.assert_allclose(total, 1.0, rtol=1e-6)
    above = spectrum.count_below(3.0)
    assert abs(above.value - (SIZE - 5)) < 4 * above.standard_error
    np.testing.assert_allclose(np.max(spectrum.nodes, axis=1), 9.0, rtol=1e-8)


def test_moments_of_the_spectrum_are_exact_for_each_probe(key):
    matrix = with_spectrum(SPREAD)
    spectrum = spectral_density(positive(matrix), key=key, probes=3, steps=5)
    signs = jax.random.rademacher(key, (3, SIZE), matrix.dtype)
    for power in range(1, 10):
        direct = np.mean(
            np.sum(signs * (signs @ np.linalg.matrix_power(matrix, power)), axis=1)
        )
        found = spectrum.trace_of(lambda x, p=power: x**p).value
        np.testing.assert_allclose(found, direct, rtol=1e-9)


def test_an_exhausted_space_does_no_harm(key):
    twice = positive(jnp.diag(jnp.asarray([2.0, 3.0] * 20)))
    found = log_determinant(twice, key=key, probes=2, steps=30)
    np.testing.assert_allclose(found.value, 20 * np.log(6), rtol=1e-12)


def test_the_answer_is_the_same_within_any_budget(key):
    operator = positive(with_spectrum(SPREAD[:40]))
    for estimator in (hutchinson_trace, hutch_plus_plus_trace, log_determinant):
        whole = estimator(operator, key=key, probes=12)
        pieces = estimator(operator, key=key, probes=12, memory=3 * 40 * 8 * 5)
        np.testing.assert_allclose(pieces.value, whole.value, rtol=1e-12)


def test_too_few_probes_are_refused(key):
    operator = positive(jnp.eye(5))
    with pytest.raises(ValueError, match="1 probes give no standard error"):
        hutchinson_trace(operator, key=key, probes=1)
    with pytest.raises(ValueError, match="1 probes give no standard error"):
        spectral_density(operator, key=key, probes=1)
    with pytest.raises(ValueError, match="5 probes are too few"):
        hutch_plus_plus_trace(operator, key=key, probes=5)
    with pytest.raises(ValueError, match="symmetric_tag"):
        hutch_plus_plus_trace(lx.MatrixLinearOperator(jnp.ones((5, 5))), key=key)
