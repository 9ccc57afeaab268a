"""Ensembles: energy and pressure of the Lennard-Jones liquid at constant energy are NIST's.

A short form of benchmarks/nist_isotherm.py, with NIST's cut-off and correction. Its reference
is NIST's canonical Monte Carlo, whose temperature has no error.
"""

import jax
import numpy as np

from solvers.molecular import (
    MolecularProblem,
    StochasticVelocityRescaling,
    VelocityVerlet,
    run_batch,
)
from systems.molecular import LennardJones, MolecularModel, TailCorrection, Truncated, lattice


DENSITY, TEMPERATURE = 0.78, 0.85
ENERGY, PRESSURE = (-5.5386, 7.26e-4), (4.7924e-2, 3.18e-3)
"""With their standard errors (Standard Reference Simulation Website, page MC)."""

RUNS, TIME_STEP = 24, 0.004


def at_temperature(temperatures, values):
    """A straight line through the runs at NIST's temperature, with its standard error."""
    design = np.stack([np.ones(RUNS), temperatures - TEMPERATURE], axis=1)
    found, (residual,), *_ = np.linalg.lstsq(design, values, rcond=None)
    covariance = np.linalg.inv(design.T @ design) * residual / (RUNS - 2)
    return found[0], np.sqrt(covariance[0, 0])


def test_energy_and_pressure_at_constant_energy():
    positions, box = lattice("fcc", 4, density=DENSITY)
    fluid = Truncated(LennardJones(), radius=3.0)
    model = MolecularModel((fluid, TailCorrection(fluid)), np.ones(len(positions)))
    problems = [
        # So hot that the crystal melts at once.
        MolecularProblem(model, positions, box, temperature=3.0, key=jax.random.key(seed))
        for seed in range(RUNS)
    ]
    thermostat = StochasticVelocityRescaling(TIME_STEP, TEMPERATURE, 0.5)
    settled = run_batch(problems, thermostat, steps=1600, save_every=1600)
    problems = [
        MolecularProblem(model, run.positions[-1], box, np.asarray(run.velocities)[-1])
        for run in settled
    ]
    batch = run_batch(problems, VelocityVerlet(TIME_STEP), steps=1000, save_every=20)
    assert batch.succeeded
    runs = list(batch)
    drifts = [np.ptp(run.conserved_energy) / 256 for run in runs]
    assert max(drifts) < 0.01
    temperatures = np.array([run.temperature.mean() for run in runs])
    for values, (theirs, doubt), most in (
        ([run.potential_energy.mean() / 256 for run in runs], ENERGY, 0.006),
        ([run.pressure.mean() for run in runs], PRESSURE, 0.03),
    ):
        ours, error = at_temperature(temperatures, np.array(values))
        assert error < most
        # Another processor has another sample: 3.5 errors pass 999 of 1,000.
        assert abs(ours - theirs) < 3.5 * np.hypot(error, doubt), (ours, error)
