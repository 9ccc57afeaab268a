"""Starts: lattices, random packings and mixtures in a box.

They work with known numbers on the host; nothing here is traced.
"""

import itertools
import math
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from systems.molecular.boxes import AbstractBox, OpenBox, OrthorhombicBox


Lattice = Literal["sc", "bcc", "fcc", "hcp", "diamond"]

# Each conventional cell: its edges in units of the first one, and the atoms in units of
# the edges. That of hcp is the orthorhombic one of four atoms with the ideal ratio.
_CELLS: dict[str, tuple[tuple[float, float, float], list[tuple[float, float, float]]]] = {
    "sc": ((1.0, 1.0, 1.0), [(0, 0, 0)]),
    "bcc": ((1.0, 1.0, 1.0), [(0, 0, 0), (0.5, 0.5, 0.5)]),
    "fcc": ((1.0, 1.0, 1.0), [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]),
    "hcp": (
        (1.0, math.sqrt(3), math.sqrt(8 / 3)),
        [(0, 0, 0), (0.5, 0.5, 0), (0.5, 5 / 6, 0.5), (0, 1 / 3, 0.5)],
    ),
    "diamond": (
        (1.0, 1.0, 1.0),
        [
            (0, 0, 0),
            (0, 0.5, 0.5),
            (0.5, 0, 0.5),
            (0.5, 0.5, 0),
            (0.25, 0.25, 0.25),
            (0.25, 0.75, 0.75),
            (0.75, 0.25, 0.75),
            (0.75, 0.75, 0.25),
        ],
    ),
}


def lattice(
    kind: Lattice,
    repeats: int | tuple[int, int, int],
    *,
    density: float | None = None,
    constant: float | None = None,
) -> tuple[Float[np.ndarray, "particles 3"], OrthorhombicBox]:
    """A crystal of conventional cells with right angles, and its box.

    **Arguments:**

    - `kind`: `"sc"`, `"bcc"`, `"fcc"`, `"diamond"` (cubic cells of 1, 2, 4, 8 atoms) or
      `"hcp"` (a cell of 4 atoms with edges `a`, `sqrt(3) a`, `sqrt(8/3) a`).
    - `repeats`: number of cells along each axis, one number or three.
    - `density`, `constant`: either the number of particles per volume or the lattice
      constant `a`, in the unit of length.

    **Returns:** positions of shape `(particles, 3)`, all within the box, and the box.

    Raises `ValueError` for an unknown kind, repeats that are not whole numbers from
    one, or unless exactly one of density and constant is given and positive.
    """
    if kind not in _CELLS:
        raise ValueError(f"lattice: kind is {kind!r}, expected one of {', '.join(_CELLS)}.")
    counts = np.broadcast_to(np.asarray(repeats), (3,))
    if counts.dtype.kind not in "iu" or np.any(counts < 1):
        raise ValueError(
            f"lattice: repeats is {repeats}, expected one or three whole numbers from 1."
        )
    edges, atoms = np.asarray(_CELLS[kind][0]), np.asarray(_CELLS[kind][1], dtype=np.float64)
    scale = _lattice_constant(density, constant, len(atoms), float(np.prod(edges)))
    corners = np.asarray(list(itertools.product(*map(range, counts))), dtype=np.float64)
    places = (corners[:, None, :] + atoms[None, :, :]).reshape(-1, 3)
    return places * edges * scale, OrthorhombicBox(counts * edges * scale)


def cubic_box(particles: int, density: float) -> OrthorhombicBox:
    """The cube in which so many particles have this number density.

    Raises `ValueError` unless both are positive.
    """
    if not (particles > 0 and density > 0 and math.isfinite(density)):
        raise ValueError(
            f"cubic_box: {particles} particles at density {density}, expected positive numbers."
        )
    return OrthorhombicBox([(particles / density) ** (1 / 3)] * 3)


def random_packing(
    particles: int,
    box: AbstractBox,
    *,
    distance: float,
    seed: int,
    attempts: int = 1000,
) -> Float[np.ndarray, "particles 3"]:
    """Particles at random places, none closer to another than a distance.

    One after another is put at a place drawn uniformly and stays where it has room
    (random sequential addition). It fills up to about 0.38 of the volume with spheres;
    ask for less, and use a lattice for dense liquids.

    **Arguments:**

    - `particles`: how many.
    - `box`: a periodic box.
    - `distance`: the smallest distance between two, periodic images included, unit of
      length; zero for no condition.
    - `seed`: of the random numbers.
    - `attempts`: how often one particle is tried before it is given up.

    Raises `ValueError` for an open box, a box narrower than twice the distance, a
    distance that is negative, and if there is no room.
    """
    if isinstance(box, OpenBox):
        raise ValueError("random_packing: the box is open, expected a periodic one.")
    if not (distance >= 0 and math.isfinite(distance)):
        raise ValueError(f"random_packing: distance is {distance}, expected zero or more.")
    heights = np.asarray(box.heights())
    if np.min(heights) < 2 * distance:
        raise ValueError(
            f"random_packing: the box is {np.min(heights):g} wide, expected at least twice "
            f"the distance {distance:g}."
        )
    drawn = np.random.default_rng(seed)
    vectors = np.asarray(box.vectors())
    if distance == 0:
        return drawn.random((particles, 3)) @ vectors
    grid = _Grid(vectors, heights, distance)
    for placed in range(particles):
        for fraction in drawn.random((attempts, 3)):
            if grid.has_room(fraction):
                grid.add(fraction)
                break
        else:
            raise ValueError(
                f"random_packing: no room for particle {placed} of {particles} at distance "
                f"{distance:g} after {attempts} attempts; use a larger box, a smaller "
                "distance, or a lattice."
            )
    return np.asarray(grid.fractions).reshape(-1, 3) @ vectors


def mixture(counts: Int[Any, " species"], *, seed: int) -> Int[np.ndarray, " particles"]:
    """Species of a mixture in random order, to be put on the places of a lattice.

    **Arguments:**

    - `counts`: how many particles of each species, shape `(species,)`.
    - `seed`: of the random order.

    **Returns:** whole numbers of shape `(sum of counts,)`.

    Raises `ValueError` for counts that are not whole numbers from zero.
    """
    numbers = np.asarray(counts)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or np.any(numbers < 0):
        raise ValueError(f"mixture: counts are {counts}, expected whole numbers from zero.")
    species = np.repeat(np.arange(len(numbers), dtype=np.int32), numbers)
    return np.random.default_rng(seed).permutation(species)


def _lattice_constant(
    density: float | None, constant: float | None, atoms: int, volume: float
) -> float:
    if (density is None) == (constant is None):
        raise ValueError("lattice: give either a density or a lattice constant.")
    given = density if density is not None else constant
    if given is None or not (given > 0 and math.isfinite(given)):
        raise ValueError(f"lattice: density or constant is {given}, expected a positive one.")
    if constant is not None:
        return constant
    return (atoms / (volume * given)) ** (1 / 3)


class _Grid:
    """Points in cells as wide as the distance, so that few are compared."""

    def __init__(self, vectors: np.ndarray, heights: np.ndarray, distance: float) -> None:
        self.vectors = vectors
        self.square = distance**2
        # Three cells or more along an axis, or a neighbour would be met twice: harmless.
        self.cells = np.maximum((heights / distance).astype(int), 1)
        self.fractions: list[np.ndarray] = []
        self.members: dict[tuple[int, ...], list[int]] = {}

    def has_room(self, fraction: np.ndarray) -> bool:
        """Whether no point is closer than the distance."""
        home = self._cell(fraction)
        near: list[int] = []
        for step in itertools.product((-1, 0, 1), repeat=3):
            cell = tuple(int(c) for c in (home + step) % self.cells)
            near += self.members.get(cell, [])
        if not near:
            return True
        apart = np.asarray([self.fractions[k] for k in near]) - fraction
        # An image closer than half of every height has no fraction above one half.
        apart -= np.round(apart)
        return bool(np.min(np.sum((apart @ self.vectors) ** 2, axis=-1)) >= self.square)

    def add(self, fraction: np.ndarray) -> None:
        """A point at this place."""
        cell = tuple(int(c) for c in self._cell(fraction))
        self.members.setdefault(cell, []).append(len(self.fractions))
        self.fractions.append(fraction)

    def _cell(self, fraction: np.ndarray) -> np.ndarray:
        return (fraction * self.cells).astype(int)
