"""Fits whose free parameter is a neural network."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simkit.config.schema import FitTable, FreeParameter
from simkit.fitting import curvature
from simkit.fitting.curvature import derivatives
from simkit.fitting.fit import fit
from simkit.fitting.measurements import Observable
from simkit.fitting.posterior import Posterior
from simkit.fitting.uncertainty import Laplace, uncertainty
from simkit.results import Fit
from solvers.gradients import Checkpointed, Forward
from systems.neural import HybridVectorField, NeuralVectorField

from .helpers_fits import TIMES, Decay, make_posterior, noisy_decay


KEY = jax.random.key(4)
OPTIONS = FitTable(method="minimise", starts=2, max_steps=30)


@functools.cache
def whole() -> Posterior:
    """A network of thirteen numbers for the decay, with derivatives in reverse."""
    return make_posterior(
        NeuralVectorField.make(Decay().states, key=KEY, width=4, depth=1),
        [Observable("seen", "amount", "normal", 0.1)],
        TIMES,
        [noisy_decay()],
        parameters={"network": FreeParameter()},
        fixed_state={"amount": 3.0},
        gradient=Checkpointed(),
    )


@functools.cache
def fitted() -> Fit:
    """Its fit by a few steps of BFGS."""
    return fit(whole(), options=OPTIONS)


@functools.cache
def reverse():
    """Its compiled objective with gradient in reverse."""
    return jax.jit(jax.value_and_grad(lambda x: whole().negative_log_posterior(x)))


def start() -> jax.Array:
    """The network as it was made, in the coordinates of the optimiser."""
    entries = whole().parameters.entries
    return jnp.asarray(whole().parameters.unbounded([entry.value for entry in entries]))


def test_the_coordinates_hold_the_network_as_it_was_made():
    x = start()
    assert x.shape == (13,)
    assert whole().parameters.labels == [f"network[{i}]" for i in range(13)]
    made, original = (
        jax.tree.leaves(eqx.filter(system, eqx.is_array))
        for system in (whole().system_of(x), whole().system)
    )
    for mine, given in zip(made, original, strict=True):
        np.testing.assert_allclose(mine, given, rtol=1e-12)


def test_reverse_agrees_with_finite_differences():
    x, step = start(), 1e-5
    _, slope = reverse()(x)
    for i in range(0, x.size, 3):
        up, down = reverse()(x.at[i].add(step))[0], reverse()(x.at[i].add(-step))[0]
        difference = float(up - down) / (2 * step)
        assert float(slope[i]) == pytest.approx(difference, rel=1e-5, abs=1e-4)


def test_second_derivatives_go_forward_whatever_the_gradient():
    x = start()
    value, slope, hessian = jax.jit(lambda x: derivatives(whole(), x, 0.0))(x)
    expected, theirs = reverse()(x)
    assert float(value) == pytest.approx(float(expected), rel=1e-12)
    np.testing.assert_allclose(slope, theirs, rtol=1e-8, atol=1e-8)
    step = 1e-5
    for i in (0, 7, 12):
        up, down = reverse()(x.at[i].add(step))[1], reverse()(x.at[i].add(-step))[1]
        scale = float(jnp.max(jnp.abs(hessian)))
        np.testing.assert_allclose(hessian[i], (up - down) / (2 * step), atol=1e-5 * scale)


def test_a_few_steps_reduce_the_objective_substantially():
    before = float(reverse()(start())[0])
    result = fitted()
    assert result.method == "BFGS"
    assert np.all(result.starts.steps <= 30)
    assert result.starts.objective[0] < before - 0.9 * (before - _noise_alone())
    # Far from an optimum of thirteen exchangeable numbers, and it says so.
    assert set(result.starts.status) <= {
        "converged",
        "stopped after the allowed number of steps",
    }
    assert result.objective <= np.nanmin(result.starts.objective) + 1e-9
    assert result.parameters.name[3] == "network[3]"


def _noise_alone() -> float:
    """Objective of a curve that meets the data up to their noise."""
    return TIMES.size * (0.5 * np.log(2 * np.pi) + np.log(0.1) + 0.5)


def test_least_squares_take_the_jacobian_in_reverse():
    options = FitTable(method="least_squares", starts=1, max_steps=30)
    result = fit(whole(), options=options)
    assert result.method == "Levenberg-Marquardt by optimistix"
    before = float(reverse()(start())[0])
    assert result.starts.objective[0] < before - 0.9 * (before - _noise_alone())


def test_with_too_many_numbers_for_a_hessian_the_fit_has_no_standard_errors(monkeypatch):
    monkeypatch.setattr(curvature, "HESSIAN_LIMIT", 12)
    result = fit(whole(), options=OPTIONS)
    said = "There are no standard errors: 13 free numbers act on one group, more than the 12"
    assert any(warning.startswith(said) for warning in result.warnings)
    assert not any("Hessian at the optimum" in warning for warning in result.warnings)
    assert np.all(np.isnan(result.parameters.standard_error))
    assert np.isfinite(result.objective)
    best = np.nanargmin(result.starts.objective)
    np.testing.assert_array_equal(result.parameters.estimate, result.starts.final[best])
    converged = dataclasses.replace(result, status="converged")
    with pytest.raises(ValueError, match="needs a Hessian; 13 free numbers"):
        uncertainty(converged, Laplace(draws=10))


def test_a_hybrid_fits_its_network_beside_its_law():
    """The law decays too slowly, and the network has to add the rest."""
    system = HybridVectorField.make(Decay(rate=0.3), key=KEY, width=2, depth=1)
    posterior = make_posterior(
        system,
        [Observable("seen", "amount", "normal", 0.1)],
        TIMES,
        [noisy_decay()],
        parameters={"network": FreeParameter(), "law.rate": FreeParameter(start=(0.1, 1.0))},
        fixed_state={"amount": 3.0},
        gradient=Checkpointed(),
    )
    x = jnp.asarray(
        posterior.parameters.unbounded([e.value for e in posterior.parameters.entries])
    )
    assert posterior.parameters.labels[-1] == "law.rate"
    _, slope = jax.jit(jax.value_and_grad(posterior.negative_log_posterior))(x)
    forward = dataclasses.replace(posterior, gradient=Forward())
    theirs = jax.jit(jax.jacfwd(lambda x: forward.negative_log_posterior(x)))(x)
    np.testing.assert_allclose(slope, theirs, rtol=1e-9, atol=1e-9)
    assert abs(float(slope[-1])) > 1.0
