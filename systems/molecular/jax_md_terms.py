"""Many-body and learned potentials of jax-md as terms of a model: the one door to it.

jax-md takes about ten seconds to import, so it is imported when a term is first
evaluated, never with this file. It is optional: `pip install "simkit-jax[molecular]"`.

Its functions see displacements by the box of the model, so that boxes of any shape
work, change under a barostat and have derivatives. All of them take the nearest image
only: a box narrower than twice the cut-off is refused, or, where its size is traced,
gives energies that are not a number.

Source: S. S. Schoenholz, E. D. Cubuk, "JAX, M.D.", NeurIPS (2020).
"""

import io
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from systems.base import check_parameters, parameter
from systems.molecular.boxes import AbstractBox
from systems.molecular.model import AbstractTerm, evaluate_function
from systems.molecular.neighbours import NeighbourList
from systems.molecular.one_image import check_width
from systems.molecular.pair_sums import Evaluation


Positions = Float[Array, "particles 3"]
Displacement = Callable[..., Float[Array, " 3"]]


def import_jax_md() -> Any:
    """The package jax_md. Raises `ImportError` that says how to install it."""
    try:
        import jax_md
    except ImportError as error:
        raise ImportError(
            "This potential comes from jax-md, which is not installed; "
            'pip install "simkit-jax[molecular]".'
        ) from error
    return jax_md


class JaxMDTerm(AbstractTerm):
    """Any energy function of jax-md, or of its conventions.

    - `factory`: called as `factory(displacement)` (or `factory(displacement,
      parameters)`, where there are any) with jax-md's kind of displacement function,
      and to give an energy function of positions, as `jax_md.energy.stillinger_weber`
      does. It sees the particles in whatever order a run has sorted them.
    - `cutoff`: range of the energy, unit of length, by which boxes are checked and
      lists made; `None` where there is none.
    - `listed`: like `factory`, for a function `energy(positions, neighbor=...)` with
      jax-md's dense lists: the second result of its `..._neighbor_list` functions. Left
      out, all pairs are taken.
    - `parameters`: arrays that can be fitted, as one tree; `None` if there are none.
    """

    factory: Callable[..., Callable[..., Float[Array, ""]]] = eqx.field(static=True)
    cutoff: float | None = eqx.field(static=True, default=None)
    listed: Callable[..., Callable[..., Float[Array, ""]]] | None = eqx.field(
        static=True, default=None
    )
    parameters: PyTree = parameter(None, description="parameters of the jax-md function")

    @property
    def range(self) -> float | None:
        """The cut-off if it can use a list, else none."""
        return self.cutoff if self.listed is not None else None

    def evaluate(
        self,
        positions: Positions,
        species: Int[Array, " particles"],
        box: AbstractBox,
        neighbours: NeighbourList | None,
    ) -> Evaluation:
        """Energy by the function, forces and virial by reverse differentiation.

        Raises `ImportError` without jax-md, `ValueError` for a box that is too narrow.
        """
        del species
        more = () if self.parameters is None else (self.parameters,)
        return _evaluate(
            lambda displacement: self.factory(displacement, *more),
            None
            if self.listed is None
            else lambda displacement: self.listed(displacement, *more),  # pyright: ignore
            self.cutoff,
            positions,
            box,
            neighbours,
        )


def learned_potential(
    make: Callable[[Displacement], Any], cutoff: float | None = None
) -> JaxMDTerm:
    """A learned potential of jax-md as a term whose weights can be fitted.

    **Arguments:**

    - `make`: called as `make(displacement)` and to give an energy function with the
      network as `.model`, as `jax_md.energy.graph_network` and `behler_parrinello` do;
      the same weights in every call.
    - `cutoff`: its range, by which boxes are checked.

    For functions of the older convention `(init_fn, apply_fn)` give `JaxMDTerm` a
    factory that binds the parameters to `apply_fn`.

    Raises `ImportError` without jax-md, `ValueError` if there is no network.
    """
    import_jax_md()
    from flax import nnx

    def network(energy: Any) -> Any:
        if not isinstance(getattr(energy, "model", None), nnx.Module):
            raise ValueError(
                "learned_potential: make(displacement) gave no function with a network as "
                "`.model`; expected one such as jax_md.energy.graph_network gives."
            )
        return energy.model

    def factory(displacement: Displacement, weights: PyTree) -> Any:
        energy = make(displacement)
        nnx.update(network(energy), weights)
        return energy

    with jax.numpy_rank_promotion("allow"):
        weights = nnx.to_pure_dict(nnx.state(network(make(lambda a, b, **_: a - b)), nnx.Param))
    return JaxMDTerm(factory, cutoff, parameters=weights)


class StillingerWeber(AbstractTerm):
    """The potential of Stillinger and Weber; the defaults are silicon in metal units.

    - `epsilon`: energy, in eV. `sigma`: length, in angstrom. `a`, `b`: strength and
      repulsion of the pair part. `strength`: lambda of the three-body part. `gamma`:
      decay of the three-body part.
    - `cutoff`: the range, in the unit of length; a plain number.

    Source: F. H. Stillinger, T. A. Weber, Phys. Rev. B 31, 5262 (1985); evaluated by
    `jax_md.energy.stillinger_weber`.
    """

    epsilon: Float[Any, ""] = parameter(
        2.16826, unit="energy", positive=True, description="energy"
    )
    sigma: Float[Any, ""] = parameter(
        2.0951, unit="length", positive=True, description="length"
    )
    a: Float[Any, ""] = parameter(7.049556277, description="strength of the pair part, A")
    b: Float[Any, ""] = parameter(0.6022245584, description="repulsion of pairs, B")
    strength: Float[Any, ""] = parameter(
        21.0, description="strength of the three-body part, lambda"
    )
    gamma: Float[Any, ""] = parameter(1.2, positive=True, description="three-body decay")
    cutoff: float = eqx.field(static=True, default=3.77118)

    def __check_init__(self) -> None:
        check_parameters(self)

    @property
    def range(self) -> float | None:
        """The cut-off."""
        return self.cutoff

    def evaluate(
        self,
        positions: Positions,
        species: Int[Array, " particles"],
        box: AbstractBox,
        neighbours: NeighbourList | None,
    ) -> Evaluation:
        """As [`JaxMDTerm.evaluate`][systems.molecular.jax_md_terms.JaxMDTerm.evaluate]."""
        del species
        energy = import_jax_md().energy
        values = {
            "sigma": self.sigma,
            "A": self.a,
            "B": self.b,
            "lam": self.strength,
            "gamma": self.gamma,
            "epsilon": self.epsilon,
            "cutoff": self.cutoff,
        }
        return _evaluate(
            lambda displacement: energy.stillinger_weber(displacement, **values),
            lambda displacement: energy.stillinger_weber_neighbor_list(
                displacement, 1.0, **values
            )[1],
            self.cutoff,
            positions,
            box,
            neighbours,
        )


class EmbeddedAtom(AbstractTerm):
    r"""The embedded-atom method for one element.

    $$U = \sum_i F\left(\sum_{j \ne i} \rho(r_{ij})\right)
      + \tfrac12 \sum_{i \ne j} \phi(r_{ij})$$

    - `density`, `embedding`, `pair_energy`: $\rho$, $F$ and $\phi$ as functions of an
      array, by element. What they give at a distance of zero or beyond the cut-off does
      not count.
    - `cutoff`: the range, unit of length; a plain number.

    [`from_lammps`][systems.molecular.jax_md_terms.EmbeddedAtom.from_lammps] reads a
    file.

    Source: M. S. Daw, M. I. Baskes, Phys. Rev. B 29, 6443 (1984); evaluated by
    `jax_md.energy.eam`.
    """

    density: Callable[[Array], Array] = eqx.field(static=True)
    embedding: Callable[[Array], Array] = eqx.field(static=True)
    pair_energy: Callable[[Array], Array] = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)

    @classmethod
    def from_lammps(cls, path: str | os.PathLike[str]) -> "EmbeddedAtom":
        """The potential of one element from a table in the format setfl (`eam/alloy`).

        The splines through the table are those of jax-md, with nodes in single
        precision: energies are good to about seven digits.

        **Arguments:**

        - `path`: the file.

        Raises `ImportError` without jax-md, `ValueError` for a file that cannot be read
        or has several elements.
        """
        with open(path, encoding="utf-8") as file:
            text = file.read()
        lines = text.splitlines()
        name = os.fspath(path)
        if len(lines) < 6 or not lines[3].split() or lines[3].split()[0] != "1":
            raise ValueError(
                f"{name}: line 4 does not say one element; expected a table in the format "
                "setfl of one element."
            )
        try:
            # jax-md wants the word in the first comment.
            lines[0] = f"setfl {lines[0]}"
            found = import_jax_md().energy.load_lammps_eam_parameters(
                io.StringIO("\n".join(lines) + "\n")
            )
        except (ValueError, IndexError, TypeError) as error:
            raise ValueError(f"{name}: not a table in the format setfl ({error}).") from error
        density, embedding, pair_energy, cutoff = found
        return cls(density, embedding, pair_energy, float(cutoff))

    @property
    def range(self) -> float | None:
        """The cut-off."""
        return self.cutoff

    def evaluate(
        self,
        positions: Positions,
        species: Int[Array, " particles"],
        box: AbstractBox,
        neighbours: NeighbourList | None,
    ) -> Evaluation:
        """As [`JaxMDTerm.evaluate`][systems.molecular.jax_md_terms.JaxMDTerm.evaluate]."""
        del species
        energy = import_jax_md().energy

        # jax-md counts the density of an atom at its own place, and has no cut-off
        # without a list.
        def within(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
            def masked(distance: Array) -> Array:
                inside = (distance > 0) & (distance < self.cutoff)
                safe = jnp.where(inside, distance, self.cutoff / 2)
                return jnp.where(inside, function(safe), 0.0)

            return masked

        functions = (within(self.density), self.embedding, within(self.pair_energy))
        dense = import_jax_md().partition.Dense
        return _evaluate(
            lambda displacement: energy.eam(displacement, *functions),
            lambda displacement: energy.eam_neighbor_list(
                displacement, 1.0, *functions, self.cutoff, format=dense
            )[1],
            self.cutoff,
            positions,
            box,
            neighbours,
        )


class _DenseList(NamedTuple):
    """What jax-md's energies read of a neighbour list."""

    idx: Int[Array, "particles neighbours"]
    reference_position: Positions
    format: Any


def _evaluate(
    factory: Callable[[Displacement], Callable[..., Float[Array, ""]]],
    listed: Callable[[Displacement], Callable[..., Float[Array, ""]]] | None,
    cutoff: float | None,
    positions: Positions,
    box: AbstractBox,
    neighbours: NeighbourList | None,
) -> Evaluation:
    """An energy function of jax-md with the displacements of a box."""
    checked = check_width(box, cutoff, "A potential of jax-md")

    def total(positions: Positions, box: AbstractBox) -> Float[Array, ""]:
        displacement = _displacement(box)
        if neighbours is None or listed is None:
            return factory(displacement)(positions)
        return listed(displacement)(positions, neighbor=_dense(neighbours))

    # jax-md mixes ranks, which a user may have made an error.
    with jax.numpy_rank_promotion("allow"):
        return checked(evaluate_function(total, positions, box))


def _displacement(box: AbstractBox) -> Displacement:
    """The displacement between two points in jax-md's form; times and the like are taken."""

    def displacement(
        first: Float[Array, " 3"], second: Float[Array, " 3"], **unused: Any
    ) -> Float[Array, " 3"]:
        del unused
        difference = first - second
        return jnp.stack(box.displacement(difference[0], difference[1], difference[2]))

    return displacement


def _dense(neighbours: NeighbourList) -> _DenseList:
    """A list padded with the number of particles, as jax-md pads, instead of the own index."""
    indices = neighbours.indices
    own = jnp.arange(indices.shape[0], dtype=indices.dtype)[:, None]
    padded = jnp.where(indices == own, indices.shape[0], indices)
    return _DenseList(padded, neighbours.reference, import_jax_md().partition.Dense)
