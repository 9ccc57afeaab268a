"""The question of a molecular run: a model, where its particles are, and how they move."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from solvers.molecular.velocities import maxwell_boltzmann
from systems.molecular.boxes import AbstractBox
from systems.molecular.model import MolecularModel


class MolecularProblem(eqx.Module):
    """Particles with a model of their energy, in a box, at the start of a run.

    - `model`: energy, masses, species and units.
    - `positions`: shape `(particles, 3)`, in the unit of length; anywhere in a periodic box.
    - `box`: the box at the start.
    - `velocities`: shape `(particles, 3)`.
    - `key`: the random key of everything that a run draws.
    - `degrees_of_freedom`: of the velocities; `None` counts them: three for each particle,
      less three where the method conserves the total momentum. A method that does so then
      begins with the velocity of the centre of mass taken off, so that temperature and
      kinetic pressure, $2K/3V$, are those of the motion about it. A number given keeps the
      velocities as they are: with `3 particles - 3` both are those of LAMMPS.
    """

    model: MolecularModel
    positions: Float[Array, "particles 3"]
    box: AbstractBox
    velocities: Float[Array, "particles 3"]
    key: Array
    degrees_of_freedom: int | None = eqx.field(static=True)

    def __init__(
        self,
        model: MolecularModel,
        positions: Float[ArrayLike, "particles 3"],
        box: AbstractBox,
        velocities: Float[ArrayLike, "particles 3"] | None = None,
        temperature: Float[ArrayLike, ""] | None = None,
        key: Array | None = None,
        degrees_of_freedom: int | None = None,
    ):
        """Build a problem.

        **Arguments:**

        - `model`, `positions`, `box`, `degrees_of_freedom`: see the class.
        - `velocities`: those at the start; left out, they are drawn for `temperature`,
          or are zero if that is left out too.
        - `temperature`: of the velocities that are drawn, with zero total momentum.
        - `key`: a random key; needed where velocities are drawn and by methods that draw.

        Raises `ValueError` for a wrong shape, for numbers that are not finite, naming the
        atom, for both velocities and a temperature, and for a temperature without a key.
        """
        self.model = model
        self.box = box
        self.positions = _vectors("positions", positions, model)
        self.degrees_of_freedom = degrees_of_freedom
        if velocities is not None and temperature is not None:
            raise ValueError(
                "MolecularProblem: velocities and a temperature were given; expected one."
            )
        if temperature is not None:
            if key is None:
                raise ValueError(
                    "MolecularProblem: a temperature was given and no key; expected "
                    "key=jax.random.key(seed), from which velocities are drawn."
                )
            velocities = maxwell_boltzmann(model, temperature, key=jax.random.fold_in(key, 0))
        if velocities is None:
            velocities = jnp.zeros_like(self.positions)
        self.velocities = _vectors("velocities", velocities, model)
        self.key = jax.random.key(0) if key is None else key


def _vectors(name: str, values: Any, model: MolecularModel) -> Float[Array, "particles 3"]:
    expected = (model.particles, 3)
    if np.shape(values) != expected:
        raise ValueError(
            f"MolecularProblem: {name} have shape {np.shape(values)}, expected {expected} "
            "for the particles of the model."
        )
    if isinstance(values, Tracer):
        return values
    bad = np.flatnonzero(~np.all(np.isfinite(np.asarray(values)), axis=1))
    if bad.size:
        raise ValueError(
            f"MolecularProblem: the {name} of atom {bad[0]} are "
            f"{np.asarray(values)[bad[0]].tolist()}, expected finite numbers."
        )
    return jnp.asarray(values, dtype=float)
