"""What tests of molecular models share: published data, and sums of their own in NumPy."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest


DATA = Path(__file__).parent.parent.parent / "shared" / "data" / "molecular"
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="the reference data of ../shared/data/molecular are not here"
)


def nist_configuration(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions and edges of one of NIST's Lennard-Jones configurations."""
    path = DATA / "nist_lj" / f"lj_sample_config_periodic{number}.txt"
    edges = np.loadtxt(path, max_rows=1)
    return np.loadtxt(path, skiprows=2)[:, 1:], edges


def nist_values() -> dict:
    """Energy, virial and long-range correction of each, to more digits than NIST prints."""
    return json.loads((DATA / "verified_values_numpy.json").read_text())


def lammps_state(name: str) -> dict[str, np.ndarray]:
    """A state with energies, pressures and forces by LAMMPS."""
    return dict(np.load(DATA / "lammps_lj" / f"{name}.npz"))


def brute_force(pair, positions, species, vectors, cutoff):
    """Energy, forces and virial over all pairs and all images, in NumPy.

    `pair(r, a, b)` gives energy and its derivative for one pair of species.
    """
    positions = np.asarray(positions)
    heights = abs(np.linalg.det(vectors)) / np.asarray(
        [np.linalg.norm(np.cross(vectors[i - 2], vectors[i - 1])) for i in range(3)]
    )
    fractions = positions @ np.linalg.inv(vectors)
    positions = (fractions - np.floor(fractions)) @ vectors
    reach = [int(np.ceil(cutoff / height)) for height in heights]
    energy, forces, virial = 0.0, np.zeros_like(positions), np.zeros((3, 3))
    away = positions[:, None, :] - positions[None, :, :]
    for image in itertools.product(*(range(-most, most + 1) for most in reach)):
        shifted = away + np.asarray(image) @ vectors
        distance = np.sqrt(np.sum(shifted**2, axis=-1))
        near = (distance < cutoff) & (distance > 0)
        for i, j in np.argwhere(near):
            value, slope = pair(distance[i, j], species[i], species[j])
            force = -slope * shifted[i, j] / distance[i, j]
            energy += value / 2
            forces[i] += force
            virial += np.outer(shifted[i, j], force) / 2
    return energy, forces, virial


def lennard_jones(epsilon, sigma):
    """The potential and its derivative, for `brute_force`."""

    def pair(r, a, b):
        e, s = epsilon[a][b], sigma[a][b]
        sixth = (s / r) ** 6
        return 4 * e * sixth * (sixth - 1), -24 * e * sixth * (2 * sixth - 1) / r

    return pair
