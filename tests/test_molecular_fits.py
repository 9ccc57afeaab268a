"""Fits of molecular models: recovery of known parameters, and the formulae they stand on."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simkit.molecular.fits.averages import AverageFit, FitOptions, fit_averages
from simkit.molecular.fits.force_matching import match_forces
from simkit.molecular.fits.mbar import (
    effective_size,
    free_energies,
    log_mixture,
    sample_weights,
)
from simkit.molecular.fits.parameters import choose_parameters
from simkit.molecular.fits.relative_entropy import minimise_relative_entropy
from simkit.molecular.fits.reweighting import Pool, Reweighting, Target
from simkit.molecular.fits.sampling import CanonicalSampler, Configurations
from simkit.molecular.radial_distributions import RadialDistribution
from systems.base import get_parameter, parameter
from systems.molecular.boxes import OrthorhombicBox
from systems.molecular.builders import lattice
from systems.molecular.cutoffs import Truncated
from systems.molecular.model import EnergyTerm, MolecularModel
from systems.molecular.pairwise import LennardJones


EPSILON, SIGMA = "terms.0.pair.pair.epsilon", "terms.0.pair.pair.sigma"
TEMPERATURE = 1.2


class Spring(eqx.Module):
    """Springs from all particles to the origin."""

    stiffness: jax.Array | float = parameter(positive=True)

    def __call__(self, positions, box):
        return self.stiffness * jnp.sum(positions**2) / 2


def fluid(epsilon: float, sigma: float, particles: int = 108, radius: float = 2.5):
    pair = Truncated(LennardJones(epsilon, sigma), radius)
    return MolecularModel(pair, masses=np.ones(particles))


@pytest.fixture(scope="module")
def disorder() -> tuple[np.ndarray, OrthorhombicBox]:
    """Frames of a lattice whose particles were moved a little."""
    places, box = lattice("fcc", 3, density=0.8)
    noise = np.random.default_rng(0).normal(size=(6, 108, 3))
    return places + 0.06 * noise, box


@pytest.fixture(scope="module")
def forces(disorder) -> tuple[np.ndarray, np.ndarray]:
    """Forces and energies of the true model."""
    model = fluid(1.0, 1.0)
    found = [model.evaluate(jnp.asarray(x), disorder[1]) for x in disorder[0]]
    return np.stack([f.forces for f in found]), np.stack([f.energy for f in found])


def test_force_matching_finds_the_exact_model(disorder, forces) -> None:
    places, box = disorder
    fit = match_forces(
        fluid(0.7, 1.1), places, forces[0], box, energies=forces[1] + 5.0, max_steps=100
    )
    assert fit.names == (EPSILON, SIGMA)
    np.testing.assert_allclose(fit.estimate, [1, 1], rtol=1e-8)
    assert fit.energy_offset == pytest.approx(5.0, abs=1e-6)
    assert fit.force_error < 1e-6 and fit.energy_error < 1e-6
    assert get_parameter(fit.model, EPSILON) == pytest.approx(1.0, rel=1e-8)


@pytest.mark.parametrize("errors", ["independent", "frames"])
def test_errors_of_force_matching_are_those_of_the_noise(disorder, forces, errors) -> None:
    places, box = disorder
    scores = []
    for seed in range(4):
        noise = np.random.default_rng(100 + seed).normal(size=forces[0].shape)
        fit = match_forces(fluid(0.9, 1.02), places, forces[0] + noise, box, errors=errors)
        scores.append((fit.estimate - 1) / fit.standard_error)
        assert fit.force_error == pytest.approx(1.0, rel=0.1)
    assert 0.2 < np.sqrt(np.mean(np.square(scores))) < (2.2 if errors == "independent" else 5)


def test_free_energies_of_harmonic_states_are_exact() -> None:
    # Springs k have f = log(k) / 2; samples of three are enough for a fourth.
    springs = np.asarray([1.0, 2.0, 4.0])
    generator = np.random.default_rng(1)
    places = np.concatenate([generator.normal(size=4000) / np.sqrt(k) for k in springs])
    reduced = jnp.asarray(springs[:, None] * places[None] ** 2 / 2)
    counts = jnp.full(3, 4000.0)
    free = free_energies(reduced, counts)
    np.testing.assert_allclose(free, 0.5 * np.log(springs), atol=0.03)
    # The equations hold.
    mixture = log_mixture(reduced, counts, free)
    for state in range(3):
        total = jnp.sum(jnp.exp(free[state] - reduced[state] - mixture))
        assert float(total) == pytest.approx(1.0, abs=1e-8)
    weights = sample_weights(jnp.asarray(3.0 * places**2 / 2), mixture)
    assert float(jnp.sum(weights * places**2)) == pytest.approx(1 / 3, rel=0.05)
    assert 4000 < float(effective_size(weights)) < 12000
    assert float(effective_size(jnp.ones(7) / 7)) == pytest.approx(7.0)


def test_jacobian_of_reweighted_averages_is_their_derivative(disorder) -> None:
    places, box = disorder
    model = fluid(1.0, 1.0)

    def inner(model, positions, box):
        return jnp.trace(model.evaluate(positions, box).virial)[None]

    targets = (
        Target("g", RadialDistribution(2.4, 12), np.ones(12), 0.1),
        Target("virial", inner, np.zeros(1), 1.0, of_model=True),
    )
    parameters = choose_parameters(model, None)
    reweighting = Reweighting(parameters, targets, 0.02)
    pool = Pool(reweighting, 3, 0.05)
    for shift in (0.0, 0.002):
        vector = parameters.start + shift
        pool.add(reweighting.frames(vector, Configurations(places, box)))
    point = parameters.start + np.asarray([0.02, -0.001])
    found = pool.predict(point)
    for number in range(2):
        step = 1e-5 * np.eye(2)[number]
        up, down = pool.predict(point + step), pool.predict(point - step)
        slope = (up.average - down.average) / 2e-5
        np.testing.assert_allclose(found.jacobian[:, number], slope, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def recovered() -> tuple[AverageFit, np.ndarray]:
    """Fits a fluid to the radial distribution of another one, and the data."""
    places, box = lattice("fcc", 3, density=0.7)
    one = RadialDistribution(2.5, 50)

    def sampler(frames: int) -> CanonicalSampler:
        return CanonicalSampler(
            places,
            box,
            TEMPERATURE,
            time_step=0.004,
            frames=frames,
            stride=25,
            equilibration=500,
            melt=(3.0, 500),
        )

    truth = sampler(400)(fluid(1.0, 1.0), jax.random.key(0))
    data = np.asarray(jax.lax.map(lambda x: one(x, box), jnp.asarray(truth.positions)))
    measured = data.mean(0)
    fit = fit_averages(
        fluid(0.85, 1.0 / 1.15),
        [Target("g", one, measured, 0.02)],
        sampler(100),
        temperature=TEMPERATURE,
        key=jax.random.key(1),
        names=[EPSILON, SIGMA],
        options=FitOptions(max_turns=20, final_turns=2),
    )
    return fit, measured


def test_parameters_are_recovered_from_a_distribution(recovered) -> None:
    fit, measured = recovered
    assert fit.converged, fit.message
    # The data have errors of their own, of about the size of those of the fit.
    score = (fit.estimate - 1) / fit.standard_error
    assert np.abs(score).max() < 3 * np.sqrt(2), (fit.estimate, fit.standard_error)
    assert fit.standard_error[0] < 0.06 and fit.standard_error[1] < 0.01
    assert np.abs(fit.predicted["g"] - measured).max() < 0.12
    assert fit.turns[0].objective > 30 * fit.objective


def test_bad_input_of_fits_is_one_sentence(disorder, forces) -> None:
    places, box = disorder
    with pytest.raises(ValueError, match="no parameter 'charge'; it has"):
        choose_parameters(fluid(1, 1), ["charge"])
    with pytest.raises(ValueError, match=r"expected \(frames, 107, 3\)"):
        match_forces(fluid(1, 1, 107), places, forces[0], box)
    with pytest.raises(ValueError, match="less than twice the range 9"):
        match_forces(fluid(1, 1, radius=9.0), places, forces[0], box)
    with pytest.raises(ValueError, match=r"expected \(6,\) finite"):
        match_forces(fluid(1, 1), places, forces[0], box, energies=np.ones(3))
    with pytest.raises(ValueError, match=r"deviation 1 is 0\.0, expected a positive"):
        Target("g", RadialDistribution(2.0), np.ones(2), np.asarray([1.0, 0.0]))
    with pytest.raises(ValueError, match="frames is 0, expected from 1"):
        CanonicalSampler(places[0], box, 1.0, time_step=0.01, frames=0)
    wrong = Target("g", RadialDistribution(2.0, 7), np.ones(9), 1.0)
    reweighting = Reweighting(choose_parameters(fluid(1, 1), None), (wrong,), 1.0)
    with pytest.raises(ValueError, match="has 7 components, expected 9"):
        reweighting.frames(np.zeros(2), Configurations(places, box))

    def sample(model, key):
        return Configurations(places, box)

    with pytest.raises(ValueError, match=r"temperature is 0\.0, expected a positive"):
        fit_averages(fluid(1, 1), [wrong], sample, temperature=0.0, key=jax.random.key(0))
    with pytest.raises(ValueError, match="no targets"):
        fit_averages(fluid(1, 1), [], sample, temperature=1.0, key=jax.random.key(0))


def test_relative_entropy_finds_the_spring_of_gaussian_places() -> None:
    # Independent springs: samples are exact, and the answer is the inverse variance.
    box = OrthorhombicBox([50.0] * 3)
    generator = np.random.default_rng(11)
    model = MolecularModel(EnergyTerm(Spring(1.5)), masses=np.ones(5))

    def sample(model: MolecularModel, key: jax.Array) -> Configurations:
        width = 1 / np.sqrt(float(get_parameter(model, "terms.0.function.stiffness")))
        return Configurations(width * np.asarray(jax.random.normal(key, (200, 5, 3))), box)

    places = generator.normal(size=(400, 5, 3)) / np.sqrt(2.6)
    fit = minimise_relative_entropy(
        model,
        Configurations(places, box),
        sample,
        temperature=1.0,
        key=jax.random.key(3),
        names=["terms.0.function.stiffness"],
    )
    exact = 1 / np.mean(places**2)
    assert fit.converged, fit.message
    assert fit.standard_error[0] == pytest.approx(2.6 * np.sqrt(2 / 6000 + 2 / 3000), rel=0.6)
    assert abs(fit.estimate[0] - exact) < 3 * fit.standard_error[0]
    assert abs(fit.path[0][0] - exact) > 15 * fit.standard_error[0]
    with pytest.raises(ValueError, match="has 3 frames, expected at least 10"):
        minimise_relative_entropy(
            model,
            Configurations(places[:3], box),
            sample,
            temperature=1.0,
            key=jax.random.key(3),
        )
