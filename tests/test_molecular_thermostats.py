"""Ensembles: thermostats and barostats against exact distributions and physical_validation."""

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from solvers.molecular.barostats import StochasticCellRescaling, upper_strain
from solvers.molecular.brownian import Brownian, Langevin
from solvers.molecular.driver import run_dynamics
from solvers.molecular.monte_carlo import MonteCarloBarostat
from solvers.molecular.precision import in_precision
from solvers.molecular.problem import MolecularProblem
from solvers.molecular.thermostats import NoseHooverChain, StochasticVelocityRescaling
from systems.molecular.boxes import OpenBox, OrthorhombicBox, TriclinicBox
from systems.molecular.builders import lattice
from systems.molecular.model import EnergyTerm, MolecularModel
from systems.molecular.pairwise import WeeksChandlerAndersen

from .helpers_molecular_dynamics import (
    ideal_gas,
    mapped_methods,
    replicas_of,
    sampled,
    smooth_fluid,
)


with warnings.catch_warnings():
    # Its own dependencies warn when they are imported.
    warnings.simplefilter("ignore")
    import physical_validation as pv


REPLICAS = 24
PARTICLES = 32


@pytest.fixture(scope="module")
def gas() -> MolecularProblem:
    # Soft enough for few steps between samples, and of so short a range that no box of
    # the ensembles comes near twice of it, where a barostat would have to refuse it.
    positions, box = lattice("fcc", 2, density=0.5)
    model = MolecularModel(WeeksChandlerAndersen(), np.ones(len(positions)))
    return MolecularProblem(model, positions, box, temperature=2.0, key=jax.random.key(1))


def validated(
    found: Mapping[str, Any],
    members: np.ndarray,
    temperature: float,
    conserved: bool,
    pressure: float | None = None,
) -> pv.data.SimulationData:
    """The samples of some replicas as physical_validation takes them."""
    series = {name: np.asarray(values)[:, members].T.ravel() for name, values in found.items()}
    system = pv.data.SystemData(
        natoms=PARTICLES,
        nconstraints=0,
        ndof_reduction_tra=3 if conserved else 0,
        ndof_reduction_rot=0,
        mass=np.ones(PARTICLES),
    )
    units = pv.data.UnitData(
        kb=1.0,
        energy_str="1",
        energy_conversion=1.0,
        length_str="1",
        length_conversion=1.0,
        volume_str="1",
        volume_conversion=1.0,
        temperature_str="1",
        temperature_conversion=1.0,
        pressure_str="1",
        pressure_conversion=16.6053906717,  # its own are bar, nm^3 and kJ/mol
        time_str="1",
        time_conversion=1.0,
    )
    kind = "NVT" if pressure is None else "NPT"
    ensemble = pv.data.EnsembleData(
        kind,
        natoms=PARTICLES,
        volume=float(series["volume"][0]),
        temperature=temperature,
        pressure=pressure,
    )
    if pressure is not None:
        ensemble = pv.data.EnsembleData(
            kind, natoms=PARTICLES, temperature=temperature, pressure=pressure
        )
    observables = pv.data.ObservableData(
        kinetic_energy=series["kinetic"],
        potential_energy=series["potential"],
        total_energy=series["kinetic"] + series["potential"],
        volume=series["volume"],
    )
    return pv.data.SimulationData(
        units=units, ensemble=ensemble, system=system, observables=observables, dt=1.0
    )


def kinetic_energies_agree(data: Any) -> bool:
    """The whole distribution of the kinetic energy is that of the temperature."""
    chance = pv.kinetic_energy.distribution(
        data, strict=True, verbosity=0, data_is_uncorrelated=True
    )
    return float(np.asarray(chance)) > 1e-3


def ensembles_agree(one: Any, other: Any, **options: Any) -> None:
    """The ratio of two ensembles is what their temperatures and pressures say."""
    quantiles = pv.ensemble.check(one, other, verbosity=0, data_is_uncorrelated=True, **options)
    assert max(np.abs(quantiles)) < 3.5


THERMOSTATS = {
    "langevin": lambda t: Langevin(0.005, t, 2.0),
    "chain": lambda t: NoseHooverChain(0.005, t, 0.2),
    "rescaling": lambda t: StochasticVelocityRescaling(0.005, t, 0.1),
}


@pytest.mark.parametrize("name", THERMOSTATS)
def test_thermostats_pass_physical_validation(gas: Any, name: str) -> None:
    build = THERMOSTATS[name]
    temperatures = np.repeat([2.0, 2.2], REPLICAS)
    states = replicas_of(gas, build(2.0), len(temperatures))
    if name == "chain":
        # Nothing random tells replicas of a deterministic method apart.
        noise = jax.random.normal(jax.random.key(5), states.velocities.shape)
        noise -= jnp.mean(noise, axis=1, keepdims=True)
        states = type(states)(**{**vars(states), "velocities": noise * 2.0**0.5})
    model, _, _ = in_precision(gas.model, build(2.0), "double")
    methods = mapped_methods(build, temperatures)
    found = sampled(model, methods, states, 600, 40, 60)
    conserved = bool(build(2.0).conserves_momentum)
    cold, hot = (
        validated(found, np.flatnonzero(temperatures == t), t, conserved) for t in (2.0, 2.2)
    )
    for data in (cold, hot):
        assert kinetic_energies_agree(data)
    ensembles_agree(cold, hot)


BAROSTATS = {
    "rescaling": lambda t, p: StochasticCellRescaling(Langevin(0.005, t, 2.0), p, 0.5, 0.3),
    "monte_carlo": lambda t, p: MonteCarloBarostat(
        StochasticVelocityRescaling(0.005, t, 0.1), p, every=5, size=0.3
    ),
}


@pytest.mark.parametrize("name", BAROSTATS)
def test_barostats_pass_physical_validation(gas: Any, name: str) -> None:
    build = BAROSTATS[name]
    points = [(2.0, 2.5), (2.2, 2.5), (2.0, 2.8)]
    temperatures, pressures = (np.repeat(v, REPLICAS) for v in zip(*points, strict=True))
    states = replicas_of(gas, build(2.0, 2.5), len(temperatures))
    model, _, _ = in_precision(gas.model, build(2.0, 2.5), "double")
    methods = mapped_methods(build, temperatures, pressures)
    # The volume forgets itself within 100 steps: its correlation over them is 0.2 at most.
    found = sampled(model, methods, states, 1500, 20, 150)
    conserved = bool(build(2.0, 2.5).conserves_momentum)
    first, hotter, denser = (
        validated(
            found, np.flatnonzero((temperatures == t) & (pressures == p)), t, conserved, p
        )
        for t, p in points
    )
    for data in (first, hotter, denser):
        assert kinetic_energies_agree(data)
    ensembles_agree(first, hotter)
    ensembles_agree(first, denser)


@pytest.mark.parametrize(("name", "triclinic"), [
    ("rescaling", False),
    ("monte_carlo", False),
    ("flexible_rescaling", True),
    ("flexible_monte_carlo", True),
])  # fmt: skip
def test_the_volume_of_an_ideal_gas_is_exactly_distributed(name: str, triclinic: bool) -> None:
    particles, pressure = 6, 0.5
    builds = {
        "rescaling": lambda t, p: StochasticCellRescaling(
            StochasticVelocityRescaling(0.02, t, 0.2), p, 1.0, 2.0
        ),
        "flexible_rescaling": lambda t, p: StochasticCellRescaling(
            StochasticVelocityRescaling(0.02, t, 0.2), p, 1.0, 2.0, flexible=True
        ),
        "monte_carlo": lambda t, p: MonteCarloBarostat(
            StochasticVelocityRescaling(0.02, t, 0.2), p, every=1, size=1.5
        ),
        "flexible_monte_carlo": lambda t, p: MonteCarloBarostat(
            StochasticVelocityRescaling(0.02, t, 0.2), p, every=1, size=1.0, flexible=True
        ),
    }
    build = builds[name]
    problem = ideal_gas(particles, 2.4, triclinic)
    states = replicas_of(problem, build(1.0, pressure), 400)
    model, _, _ = in_precision(problem.model, build(1.0, pressure), "double")
    methods = mapped_methods(build, np.full(400, 1.0), np.full(400, pressure))
    found = sampled(model, methods, states, 300, 4, 200)
    # p(V) is proportional to V**N exp(-P V / k T): a gamma distribution.
    exact = scipy.stats.gamma(particles + 1, scale=1 / pressure)
    volumes = np.asarray(found["volume"]).ravel()
    assert scipy.stats.kstest(volumes, exact.cdf).pvalue > 1e-3
    # Had it N in place of N + 1, the mean would be seven standard errors off and more.
    error = exact.std() / np.sqrt(volumes.size)
    assert abs(volumes.mean() - exact.mean()) < 4 * error


def test_brownian_and_langevin_sample_a_trap() -> None:
    # The variance of each coordinate is k T / stiffness; Euler's scheme would give 11 % more.
    stiffness, thermal = 4.0, 0.7

    def trap(places: jax.Array, box: Any) -> jax.Array:
        del box
        return stiffness / 2 * jnp.sum(places**2)

    model = MolecularModel(EnergyTerm(trap), np.ones(2000))
    problem = MolecularProblem(
        model, np.zeros((2000, 3)), OpenBox(), temperature=thermal, key=jax.random.key(2)
    )
    for method in (Brownian(0.05, thermal, 1.0), Langevin(0.2, thermal, 1.0)):
        found = run_dynamics(problem, method, steps=600, save_every=150)
        # Frames are a time of several relaxations apart.
        variance = np.mean(found.positions[1:] ** 2)
        error = thermal / stiffness * np.sqrt(2 / found.positions[1:].size)
        assert abs(variance - thermal / stiffness) < 4 * error


@pytest.mark.parametrize("build", [NoseHooverChain, StochasticVelocityRescaling])
def test_conserved_energies_of_thermostats_have_errors_of_order_two(build: Any) -> None:
    problem = smooth_fluid(temperature=1.5)
    errors = []
    for step in (0.004, 0.002):
        found = run_dynamics(
            problem, build(step, 1.5, 0.2), steps=round(2 / step), save_every=round(0.02 / step)
        )
        # Noise differs with the step, so that changes between frames are compared on average.
        errors.append(np.std(np.diff(found.conserved_energy)))
    assert errors[0] / errors[1] == pytest.approx(4.0, rel=0.2)
    assert np.std(np.diff(found.total_energy)) > 100 * errors[1]


def test_strains_keep_the_orientation_of_the_box() -> None:
    generator = jnp.asarray([[0.02, 0.03, -0.01], [0.03, -0.05, 0.04], [-0.01, 0.04, 0.01]])
    strain = np.asarray(upper_strain(generator))
    np.testing.assert_allclose(np.tril(strain, -1), 0.0)
    change = np.eye(3) + strain
    # A rotation does not change the metric: exp(2 generator) is what it must be.
    values, vectors = np.linalg.eigh(np.asarray(generator))
    np.testing.assert_allclose(
        change.T @ change, vectors * np.exp(2 * values) @ vectors.T, atol=1e-12
    )
    box = TriclinicBox([[3.0, 0, 0], [0.5, 4.0, 0], [0.2, -0.3, 5.0]])
    grown = box.strained(strain).volume() / box.volume()
    assert float(grown) == pytest.approx(np.exp(np.trace(generator)))


def test_a_barostat_needs_a_thermostat_and_a_periodic_box() -> None:
    with pytest.raises(ValueError, match="expected a thermostat"):
        StochasticCellRescaling(None, 1.0, 1.0, 1.0)  # pyright: ignore[reportArgumentType]
    model = MolecularModel(EnergyTerm(lambda places, box: jnp.sum(places**2)), np.ones(2))
    problem = MolecularProblem(model, np.eye(3)[:2], OpenBox(), temperature=1.0,
                               key=jax.random.key(0))  # fmt: skip
    with pytest.raises(ValueError, match="needs a periodic box"):
        run_dynamics(problem, MonteCarloBarostat(Langevin(0.01, 1.0, 1.0), 1.0), steps=10)


def test_barostats_over_brownian_dynamics() -> None:
    """Without velocities the kinetic pressure is that of the temperature, or there is none."""
    model = MolecularModel(EnergyTerm(lambda places, box: 0.0 * jnp.sum(places)), np.ones(4))
    problem = MolecularProblem(
        model, np.eye(4)[:, :3], OrthorhombicBox([3.0, 3.0, 3.0]), temperature=2.0,
        key=jax.random.key(0),
    )  # fmt: skip
    brownian = Brownian(0.01, 2.0, 1.0)
    run = run_dynamics(problem, MonteCarloBarostat(brownian, 1.0), steps=2, save_every=1)
    ideal = 4 * 2.0 / run.volume
    assert np.allclose(np.trace(run.pressure_tensor, axis1=1, axis2=2) / 3, ideal, rtol=1e-12)
    with pytest.raises(ValueError, match="needs dynamics with velocities, which Brownian"):
        run_dynamics(problem, StochasticCellRescaling(brownian, 1.0, 1.0, 0.1), steps=2)
