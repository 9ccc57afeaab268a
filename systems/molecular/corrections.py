r"""Long-range corrections: what a cut-off leaves out, on average.

Beyond a radius a fluid is taken as uniform, its pair distribution as one. With the full
potential $u$ and the cut one $u_c$, and $N_a$ particles of species $a$ in a volume $V$,

$$U = \frac{2\pi}{V}\sum_{ab} N_a N_b \int (u - u_c)\, r^2 dr, \qquad
  P = -\frac{2\pi}{3V^2}\sum_{ab} N_a N_b \int (u' - u_c')\, r^3 dr .$$

For a plain truncation the pressure is that of the untruncated potential, without the
term of the jump at the radius, as is usual; so it is not the derivative of the energy.

The integrals are Gauss-Legendre quadratures in the inverse distance. With the
Lennard-Jones potential they are exact, because it is a polynomial there.

Source: M. P. Allen, D. J. Tildesley, *Computer Simulation of Liquids*, 2nd ed. (2017),
section 2.8; for switched potentials: P. Eastman et al., *OpenMM User Guide*, section 19.6.2.
"""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from systems.molecular.boxes import AbstractBox
from systems.molecular.cutoffs import Switched, Truncated
from systems.molecular.model import AbstractTerm
from systems.molecular.neighbours import NeighbourList
from systems.molecular.pair_sums import Evaluation


_NODES = 64


class TailCorrection(AbstractTerm):
    """The long-range correction of a cut potential, as a term of a model.

    It adds an energy and, through the virial, a pressure that depend on the volume and
    on how many particles of each species there are; no forces.

    - `pair`: the cut potential, [`Truncated`][systems.molecular.cutoffs.Truncated] or
      [`Switched`][systems.molecular.cutoffs.Switched]. The others change the potential
      at all distances, where the fluid is not uniform.
    - `species`: how many species there are in the model.

    Raises `ValueError` for another potential, and in `evaluate` for an open box.
    """

    pair: Truncated | Switched
    species: int = eqx.field(static=True, default=1)

    def __check_init__(self) -> None:
        if not isinstance(self.pair, Truncated | Switched):
            raise ValueError(
                f"TailCorrection: pair is of type {type(self.pair).__name__}, expected "
                "Truncated or Switched."
            )
        if not (isinstance(self.species, int) and self.species >= 1):
            raise ValueError(
                f"TailCorrection: species is {self.species}, expected a whole number from 1."
            )

    def evaluate(
        self,
        positions: Float[Array, "particles 3"],
        species: Int[Array, " particles"],
        box: AbstractBox,
        neighbours: NeighbourList | None,
    ) -> Evaluation:
        """The correction of the energy, and a virial of three times pressure by volume."""
        del neighbours
        if not box.periodic:
            raise ValueError("TailCorrection: the box is open; a tail needs a periodic one.")
        kinds = jnp.arange(self.species, dtype=species.dtype)
        counts = jnp.sum(species[:, None] == kinds[None, :], axis=0, dtype=positions.dtype)
        volume = box.volume()
        virial = tail_pressure(self.pair, counts, volume) * volume
        return Evaluation(
            energy=tail_energy(self.pair, counts, volume),
            forces=jnp.zeros_like(positions),
            virial=virial * jnp.eye(3),
        )


def tail_energy(
    pair: Truncated | Switched,
    counts: Float[Any, " species"],
    volume: Float[Any, ""],
) -> Float[Array, ""]:
    """The energy that a cut-off leaves out, in the unit of energy.

    **Arguments:**

    - `pair`: the cut potential.
    - `counts`: number of particles of each species, shape `(species,)`.
    - `volume`: of the box.
    """
    return 2 * math.pi * _mean(_missing_energy(pair, len(counts)), counts) / volume


def tail_pressure(
    pair: Truncated | Switched,
    counts: Float[Any, " species"],
    volume: Float[Any, ""],
) -> Float[Array, ""]:
    """The pressure that a cut-off leaves out, in energy per volume.

    Multiply by `units.compression` for the unit of pressure. Arguments as those of
    [`tail_energy`][systems.molecular.corrections.tail_energy].
    """
    mean = _mean(_missing_virial(pair, len(counts)), counts)
    return 2 * math.pi / 3 * mean / (volume * volume)


def _mean(integrals: Float[Array, "species species"], counts: Float[Any, " species"]):
    counts = jnp.asarray(counts, integrals.dtype)
    return jnp.sum(integrals * counts[:, None] * counts[None, :])


def _missing_energy(pair: Truncated | Switched, species: int) -> Array:
    r"""$\int (u - u_c) r^2 dr$ for each pair of species."""
    distance, weight, first, second = _nodes(pair.radius, species)
    tail = pair.pair.energy(distance**2, first, second) * distance**2 * weight
    total = jnp.sum(tail, axis=-1)
    if isinstance(pair, Switched):
        distance, weight = _nodes_within(pair.onset, pair.radius)
        full = pair.pair.energy(distance**2, first, second)
        cut = pair.energy(distance**2, first, second)
        total = total + jnp.sum((full - cut) * distance**2 * weight, axis=-1)
    return _square(total, species)


def _missing_virial(pair: Truncated | Switched, species: int) -> Array:
    r"""$-\int (u' - u_c') r^3 dr$ for each pair of species."""
    distance, weight, first, second = _nodes(pair.radius, species)
    # The slope is -u'/r.
    slope = pair.pair.energy_and_slope(distance**2, first, second)[1]
    total = jnp.sum(slope * distance**4 * weight, axis=-1)
    if isinstance(pair, Switched):
        distance, weight = _nodes_within(pair.onset, pair.radius)
        full = pair.pair.energy_and_slope(distance**2, first, second)[1]
        cut = pair.energy_and_slope(distance**2, first, second)[1]
        total = total + jnp.sum((full - cut) * distance**4 * weight, axis=-1)
    return _square(total, species)


def _nodes(radius: float, species: int) -> tuple[Array, Array, Array, Array]:
    """Distances from the radius to infinity, their weights, and all pairs of species."""
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    inverse = (points + 1) / 2
    distance = radius / inverse
    weight = weights / 2 * radius / inverse**2
    first, second = np.divmod(np.arange(species * species), species)
    return (
        jnp.asarray(distance)[None, :],
        jnp.asarray(weight)[None, :],
        jnp.asarray(first, jnp.int32)[:, None],
        jnp.asarray(second, jnp.int32)[:, None],
    )


def _nodes_within(start: float, stop: float) -> tuple[Array, Array]:
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    half = (stop - start) / 2
    distance = start + half * (points + 1)
    return jnp.asarray(distance)[None, :], jnp.asarray(half * weights)[None, :]


def _square(values: Array, species: int) -> Array:
    """Potentials of one number for all pairs give one value instead of one for each."""
    return jnp.broadcast_to(values, (species * species,)).reshape(species, species)
