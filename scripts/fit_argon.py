"""Argon: epsilon and sigma of its Lennard-Jones potential from a measured structure factor.

J. L. Yarnell et al. measured the structure factor S(q) of liquid argon at 85 K with neutrons
(Phys. Rev. A 7, 2130 (1973); see `data/argon/SOURCE.txt`). Here 256 atoms move at that
temperature and density; their S(q) is compared with the measured one, and both parameters
are moved until they agree. No trajectory is differentiated: averages over configurations
are weighted for other parameters, and new ones are drawn where these do not reach.

    python scripts/fit_argon.py [FOLDER]

FOLDER (default: results/fit_argon) then holds `structure_factor.png`, and the numbers in
`structure_factor.csv` and `parameters.csv`.
"""

import csv
import sys
import time
from pathlib import Path

import numpy as np

import simkit as sk


DATA = Path(__file__).parent.parent / "data/argon/structure_factor.csv"
TEMPERATURE, DENSITY = 85.0, 0.02130
MASS = 35.97  # of 36Ar, the isotope that was measured
CELLS = 4  # 4 x 4 x 4 cells of four atoms
CUT_OFF = 9.0
# Start 30 % off what is known of argon: epsilon/k = 120 K, sigma = 3.4 angstrom.
START = {"epsilon": 0.7 * 120.0, "sigma": 0.7 * 3.4}
molecules = sk.systems.molecular
NAMES = ("terms.0.pair.pair.epsilon", "terms.0.pair.pair.sigma")


def build_model(epsilon: float, sigma: float) -> molecules.MolecularModel:
    """Argon with epsilon/k in kelvin and sigma in angstrom."""
    energy = molecules.METAL.boltzmann * epsilon
    pair = molecules.Truncated(molecules.LennardJones(energy, sigma), CUT_OFF)
    return molecules.MolecularModel(
        pair, masses=np.full(4 * CELLS**3, MASS), units=molecules.METAL
    )


def build_target(radius: float) -> tuple[sk.molecular.Target, np.ndarray, np.ndarray]:
    """The measured structure factor as a target, its wavenumbers and its values.

    The box ends at `radius`. So that this does not count as misfit, the measurement is
    looked at through the same window as the simulation.
    """
    with DATA.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    q = np.asarray([float(row["wavenumber"]) for row in rows])
    values = np.asarray([float(row["structure_factor"]) for row in rows])
    distribution = sk.molecular.RadialDistribution(radius, bins=115)
    matrix = sk.molecular.fourier_matrix(distribution.distances, q, DENSITY)
    # S = 1 + matrix (g - 1).
    target = sk.molecular.Target(
        "S",
        distribution,
        measured=sk.molecular.windowed_structure_factor(q, values, radius),
        deviation=0.01,
        matrix=matrix,
        offset=1 - matrix.sum(axis=1),
    )
    return target, q, values


def main(
    folder: str | Path = "results/fit_argon", *, frames: int = 100, seed: int = 0
) -> sk.molecular.AverageFit:
    """Fit, write the picture and the numbers, print the parameters."""
    began = time.perf_counter()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    positions, box = molecules.lattice("fcc", CELLS, density=DENSITY)
    target, q, _ = build_target(float(np.min(np.asarray(box.lengths))) / 2)
    sampler = sk.molecular.CanonicalSampler(
        positions,
        box,
        TEMPERATURE,
        time_step=0.01,
        frames=frames,
        stride=40,
        equilibration=800,
        melt=(300.0, 800),
        # The first models on the way separate into a gas and drops.
        lists=False,
    )
    first: list[np.ndarray] = []

    def tell(turn: sk.molecular.Turn) -> None:
        epsilon, sigma = turn.values / np.asarray([molecules.METAL.boltzmann, 1.0])
        state = "" if turn.accepted else "  too far, going back"
        print(
            f"turn {len(first) + 1:2}: epsilon/k {epsilon:7.2f} K, sigma "
            f"{sigma:6.4f} angstrom, misfit {np.sqrt(2 * turn.objective / len(q)) / 100:.4f}, "
            f"radius {turn.radius:.2f}, {turn.pooled} pooled{state}",
            flush=True,
        )
        first.append(turn.values)

    fit = sk.molecular.fit_averages(
        build_model(**START),
        [target],
        sampler,
        temperature=TEMPERATURE,
        key=seed,
        names=NAMES,
        options=sk.molecular.FitOptions(),
        progress=tell,
    )
    write(fit, target, q, folder)
    report(fit, sampler.steps, time.perf_counter() - began)
    print(f"Written to {folder}: structure_factor.png, structure_factor.csv, parameters.csv")
    return fit


def in_kelvin(fit: sk.molecular.AverageFit) -> tuple[np.ndarray, np.ndarray]:
    """Both parameters with epsilon/k in kelvin, and their standard errors."""
    scale = np.asarray([1 / molecules.METAL.boltzmann, 1.0])
    return fit.estimate * scale, fit.standard_error * scale


def write(
    fit: sk.molecular.AverageFit, target: sk.molecular.Target, q: np.ndarray, folder: Path
) -> None:
    """The picture and the numbers behind it."""
    values, errors = in_kelvin(fit)
    caption = (
        f"Liquid argon at {TEMPERATURE:g} K, both curves through the window of the box. "
        f"epsilon/k = {values[0]:.1f} +- {errors[0]:.1f} K, "
        f"sigma = {values[1]:.4f} +- {errors[1]:.4f} angstrom."
    )
    figure = sk.plots.compared_curves(
        q,
        target.measured,
        {"Lennard-Jones, fitted": fit.predicted["S"]},
        name="structure factor",
        coordinate_name="wavenumber",
        coordinate_unit="1/angstrom",
        measured_name="Yarnell et al. 1973",
        caption=caption,
    )
    sk.plots.save(figure, folder / "structure_factor.png")
    with (folder / "structure_factor.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["wavenumber", "measured", "fitted"])
        table.writerows(zip(q, target.measured, fit.predicted["S"], strict=True))
    with (folder / "parameters.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["name", "estimate", "standard_error", "unit"])
        for row in zip(("epsilon/k", "sigma"), values, errors, ("K", "angstrom"), strict=True):
            table.writerow(row)


def report(fit: sk.molecular.AverageFit, steps: int, seconds: float) -> None:
    """The parameters with their errors, and how they were found."""
    values, errors = in_kelvin(fit)
    print(f"epsilon/k = {values[0]:.2f} +- {errors[0]:.2f} K")
    print(f"sigma     = {values[1]:.4f} +- {errors[1]:.4f} angstrom")
    sampling = np.sqrt(np.diag(fit.errors.sampling)) * values
    misfit = np.sqrt(np.diag(fit.errors.misfit)) * values
    print(
        f"of which sampling {sampling[0]:.2f} K, {sampling[1]:.4f} angstrom; "
        f"misfit {misfit[0]:.2f} K, {misfit[1]:.4f} angstrom"
    )
    print(f"{fit.message} {len(fit.turns)} turns, {steps} steps, {seconds:.0f} s.")


if __name__ == "__main__":
    main(*sys.argv[1:2])
