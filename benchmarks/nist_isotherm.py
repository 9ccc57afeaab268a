"""NIST's isotherm of the Lennard-Jones liquid at T* = 0.85: energy, pressure and diffusion.

500 atoms, cut-off 3 with long-range corrections, constant energy, as NIST's molecular
dynamics (Standard Reference Simulation Website, "Benchmark results for the Lennard-Jones
fluid", page MD). Runs start from independent states of the canonical ensemble at NIST's mean
temperature, so that their energies differ. Their mean energies and pressures are compared with
NIST's at its temperature, on a straight line through the runs; errors are those of the line
and NIST's own, added in squares. The diffusion coefficient is that of a box of 500 atoms on
both sides, so that no correction for its size is due.

    python benchmarks/nist_isotherm.py [--densities 0.84 ...] [--runs 8] [--time 100]

Exit status 1 if energy or pressure is off by more than 3 standard errors, or the diffusion
coefficient by more than 5 % and NIST's rounding.
"""

import argparse
import sys
import time
from typing import NamedTuple

import jax
import numpy as np

from simkit.molecular.displacements import diffusion_coefficient
from solvers.molecular import (
    MolecularBatch,
    MolecularProblem,
    StochasticVelocityRescaling,
    VelocityVerlet,
    run_batch,
)
from systems.molecular import LennardJones, MolecularModel, TailCorrection, Truncated, lattice


TIME_STEP = 0.004
MELTING = 2.5
"""Temperature at which the crystal melts soon."""
PARTICLES = 500
FRAME = 25
"""Steps between two frames."""


class Reference(NamedTuple):
    """A row of NIST's table; errors are of the last digit, as printed."""

    temperature: float
    density: float
    energy: float
    energy_error: float
    pressure: float
    pressure_error: float
    diffusion: float


NIST = (
    Reference(0.851, 0.776, -5.517, 0.001, 0.030, 0.006, 0.061),
    Reference(0.853, 0.780, -5.533, 0.001, 0.072, 0.005, 0.063),
    Reference(0.852, 0.820, -5.803, 0.001, 0.573, 0.005, 0.048),
    Reference(0.851, 0.840, -5.909, 0.001, 0.910, 0.006, 0.042),
    Reference(0.849, 0.860, -6.027, 0.001, 1.282, 0.005, 0.035),
    Reference(0.851, 0.900, -6.234, 0.001, 2.544, 0.006, 0.027),
)


def all_runs(reference: Reference, runs: int, length: float) -> MolecularBatch:
    """Melt, settle at the temperature, and run at constant energy: all runs in one batch."""
    positions, box = lattice("fcc", 5, density=reference.density)
    fluid = Truncated(LennardJones(), radius=3.0)
    model = MolecularModel((fluid, TailCorrection(fluid)), np.ones(PARTICLES))
    keys = jax.random.split(jax.random.key(2026), 2 * runs)
    problems = [
        MolecularProblem(model, positions, box, temperature=MELTING, key=key)
        for key in keys[:runs]
    ]
    for temperature, steps in ((MELTING, 1250), (reference.temperature, 5000)):
        thermostat = StochasticVelocityRescaling(TIME_STEP, temperature, 0.2)
        settled = run_batch(problems, thermostat, steps=steps, save_every=steps)
        problems = [
            MolecularProblem(model, run.positions[-1], box, run.velocities[-1], key=key)
            for run, key in zip(settled, keys[runs:], strict=True)
            if run.velocities is not None
        ]
    steps = round(length / TIME_STEP)
    return run_batch(problems, VelocityVerlet(TIME_STEP), steps=steps, save_every=FRAME)


class MonteCarlo(NamedTuple):
    """A row of NIST's table of canonical Monte Carlo at T* = 0.85, with the same cut-off."""

    energy: float
    energy_error: float
    pressure: float
    pressure_error: float


MONTE_CARLO = {
    0.776: MonteCarlo(-5.5121, 4.55e-4, 6.7714e-3, 1.72e-3),
    0.780: MonteCarlo(-5.5386, 7.26e-4, 4.7924e-2, 3.18e-3),
    0.820: MonteCarlo(-5.7947, 6.03e-4, 5.5355e-1, 3.13e-3),
    0.860: MonteCarlo(-6.0305, 2.38e-3, 1.2660, 1.36e-2),
}


class Line(NamedTuple):
    """A straight line through the runs: its value at a temperature, its error, its slope."""

    value: float
    error: float
    slope: float


def at_temperature(temperatures: np.ndarray, values: np.ndarray, wanted: float) -> Line:
    """The line of least squares through means of runs, at a temperature."""
    design = np.stack([np.ones_like(temperatures), temperatures - wanted], axis=1)
    found, *_ = np.linalg.lstsq(design, values, rcond=None)
    scatter = np.sum((values - design @ found) ** 2) / (len(values) - 2)
    covariance = scatter * np.linalg.inv(design.T @ design)
    return Line(float(found[0]), float(np.sqrt(covariance[0, 0])), float(found[1]))


def compare(reference: Reference, runs: MolecularBatch) -> int:
    """Print the rows of a density; how many of them are off."""
    every = list(runs)
    temperatures = np.array([run.temperature.mean() for run in every])
    # At constant energy the mean temperature errs by 2/3 of what the mean energy does, and
    # NIST's is rounded.
    doubt = np.hypot(2 / 3 * reference.energy_error, 0.001 / np.sqrt(12))
    energies = np.array([run.potential_energy.mean() / PARTICLES for run in every])
    pressures = np.array([run.pressure.mean() for run in every])
    at, canonical = reference.temperature, MONTE_CARLO.get(reference.density)
    rows = [
        ("energy", energies, at, reference.energy, reference.energy_error, doubt),
        ("pressure", pressures, at, reference.pressure, reference.pressure_error, doubt),
    ]
    if canonical is not None:
        u, u_error, p, p_error = canonical
        rows += [("energy", energies, 0.85, u, u_error, 0.0)]
        rows += [("pressure", pressures, 0.85, p, p_error, 0.0)]
    bad = 0
    for name, values, wanted, theirs, error, doubt in rows:
        line = at_temperature(temperatures, values, wanted)
        error = float(np.hypot(error, line.slope * doubt))
        sigmas = (line.value - theirs) / np.hypot(line.error, error)
        bad += abs(sigmas) > 3
        print(
            f"{reference.density:7.3f} {wanted:6.3f} {name:9s} "
            f"{line.value:9.4f} ± {line.error:.4f}  {theirs:9.4f} ± {error:.4f}  "
            f"{sigmas:+5.1f} standard errors",
            flush=True,
        )
    slopes = [
        diffusion_coefficient(run.positions, FRAME * TIME_STEP, start=2.0, stop=8.0).value
        for run in every
    ]
    line = at_temperature(temperatures, np.array(slopes), reference.temperature)
    off = line.value / reference.diffusion - 1
    bad += abs(line.value - reference.diffusion) > 0.05 * reference.diffusion + 0.0005
    print(
        f"{reference.density:7.3f} {at:6.3f} diffusion "
        f"{line.value:9.4f} ± {line.error:.4f}  {reference.diffusion:9.4f} ± 0.0005  "
        f"{100 * off:+5.1f} %",
        flush=True,
    )
    return bad


def main() -> int:
    """The table; the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--densities", nargs="*", type=float)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--time", type=float, default=100.0, help="of each run, reduced")
    options = parser.parse_args()
    if options.runs < 4:
        parser.error("--runs: expected at least 4, for a straight line with an error")
    jax.config.update("jax_enable_x64", True)
    print("density   T*   quantity      simkit              NIST", flush=True)
    bad = 0
    for reference in NIST:
        if options.densities and reference.density not in options.densities:
            continue
        began = time.process_time()
        bad += compare(reference, all_runs(reference, options.runs, options.time))
        print(f"        {time.process_time() - began:.0f} s of processor", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
