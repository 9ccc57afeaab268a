"""Stochastic systems: calculus, noise, moments, paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from systems.base import (
    AbstractSDE,
    Interpretation,
    NoiseKind,
)
from systems.stochastic import GeometricBrownianMotion, OrnsteinUhlenbeck


SDES: list[OrnsteinUhlenbeck | GeometricBrownianMotion] = [
    OrnsteinUhlenbeck(reversion_rate=0.7, long_term_mean=2.0, volatility=0.4),
    GeometricBrownianMotion(growth_rate=0.3, volatility=0.6),
]
each_sde = pytest.mark.parametrize("system", SDES, ids=lambda system: type(system).__name__)


@each_sde
def test_stochastic_systems_state_calculus_and_noise(system):
    assert isinstance(system, AbstractSDE)
    assert system.interpretation is Interpretation.ITO
    assert system.noise is NoiseKind.DIAGONAL
    assert system.noise_dimension == len(system.states) == 1
    factor = system.diffusion(jnp.asarray(0.0), jnp.asarray([1.3]), {})
    assert factor.shape == (1,)


def test_diffusion_values():
    motion = GeometricBrownianMotion(growth_rate=0.3, volatility=0.6)
    assert np.allclose(motion.diffusion(jnp.asarray(0.0), jnp.asarray([2.0]), {}), [1.2])
    process = OrnsteinUhlenbeck(volatility=0.4)
    assert np.allclose(process.diffusion(jnp.asarray(0.0), jnp.asarray([2.0]), {}), [0.4])


@each_sde
def test_exact_moments_satisfy_their_equations(system):
    """Ito's formula for a drift f and a noise g that are affine in the state.

    dm/dt = f(m) and dv/dt = 2 f'(m) v + g(m)^2 + g'(m)^2 v.
    """

    def drift(x):
        return system.vector_field(jnp.asarray(0.0), x[None], {})[0]

    def noise(x):
        return system.diffusion(jnp.asarray(0.0), x[None], {})[0]

    start = jnp.asarray(1.7)
    assert np.isclose(system.mean(jnp.asarray(0.0), start), 1.7, rtol=1e-15)
    assert float(system.variance(jnp.asarray(0.0), start)) == 0.0
    for t in (0.0, 0.2, 1.5):
        mean, mean_slope = jax.jvp(lambda t: system.mean(t, start), (t,), (1.0,))
        variance, variance_slope = jax.jvp(lambda t: system.variance(t, start), (t,), (1.0,))
        assert np.isclose(mean_slope, drift(mean), rtol=1e-12)
        expected = (
            2 * jax.grad(drift)(mean) * variance
            + noise(mean) ** 2
            + jax.grad(noise)(mean) ** 2 * variance
        )
        assert np.isclose(variance_slope, expected, rtol=1e-12)
    times = jnp.linspace(0.0, 2.0, 5)
    assert system.mean(times, start).shape == system.variance(times, start).shape == (5,)


def test_the_stationary_variance_is_the_limit():
    process = OrnsteinUhlenbeck(reversion_rate=0.7, long_term_mean=2.0, volatility=0.4)
    derived = process.derived_quantities()
    limit = process.variance(jnp.asarray(200.0), jnp.asarray(0.0))
    assert np.isclose(derived["stationary_variance"], limit, rtol=1e-14)
    assert np.isclose(derived["relaxation_time"], 1 / 0.7)


def test_the_path_of_geometric_brownian_motion_satisfies_the_equation_by_ito():
    motion = GeometricBrownianMotion(growth_rate=0.3, volatility=0.6)
    t, wiener, start = jnp.asarray(0.8), jnp.asarray(-0.5), jnp.asarray(2.0)
    x = motion.path(t, wiener, start)
    by_time = jax.grad(motion.path, 0)(t, wiener, start)
    by_wiener = jax.grad(motion.path, 1)(t, wiener, start)
    twice = jax.grad(jax.grad(motion.path, 1), 1)(t, wiener, start)
    assert np.isclose(by_time + twice / 2, motion.vector_field(t, x[None], {})[0], rtol=1e-13)
    assert np.isclose(by_wiener, motion.diffusion(t, x[None], {})[0], rtol=1e-13)
    # Moments of the path over the normal distribution of W, by Gauss-Hermite quadrature.
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    paths = motion.path(t, jnp.asarray(nodes) * jnp.sqrt(t), start)
    weights = weights / weights.sum()
    mean = float(jnp.vdot(jnp.asarray(weights), paths))
    variance = float(jnp.vdot(jnp.asarray(weights), paths**2)) - mean**2
    assert np.isclose(mean, motion.mean(t, start), rtol=1e-12)
    assert np.isclose(variance, motion.variance(t, start), rtol=1e-10)
