"""A pair energy in two parts: numbers of each pair of species, and a program of the distance.

What depends on parameters and species alone is computed by JAX, once a call, into a table
with a row for each pair of species. So parameters may be traced, mixing rules and tables of
parameters may be anything, and a kernel serves all values of the parameters. What depends on
the distance becomes a straight-line program.
"""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun
from jaxtyping import Array, Float

from solvers.ensemble.scalarise.program import Program
from solvers.ensemble.scalarise.walk import scalarise
from systems.molecular.pairwise import AbstractPairEnergy


@dataclasses.dataclass(frozen=True)
class PairProgram:
    """What a kernel is made from.

    - `program`: from the squared distance and a row of the table to the slope, or to the
      energy and the slope.
    - `columns`: numbers in a row of the table.
    - `by_species`: whether rows differ between pairs of species; else there is one.
    """

    program: Program
    columns: int
    by_species: bool


class SplitPair:
    """The two parts of a pair energy whose parameters may be traced.

    **Raises:** `EngineRefusal` if the part of the distance has no straight-line program.
    """

    def __init__(self, pair: AbstractPairEnergy, *, with_energy: bool):
        arrays, rest = eqx.partition(pair, eqx.is_array_like)
        leaves, tree = jax.tree.flatten(arrays)
        self._leaves = [_double(leaf) for leaf in leaves]

        def function(leaves: Any, first: Any, second: Any, square: Any) -> Any:
            whole = eqx.combine(jax.tree.unflatten(tree, leaves), rest)
            energy, slope = whole.energy_and_slope(square, first, second)
            return (energy, slope) if with_energy else (slope,)

        kinds = [jax.ShapeDtypeStruct(np.shape(x), x.dtype) for x in self._leaves]
        species = jax.ShapeDtypeStruct((), jnp.int32)
        square = jax.ShapeDtypeStruct((), jnp.float64)
        traced = jax.make_jaxpr(function)(kinds, species, species, square)
        parts = _Parts(traced.jaxpr)
        self._known = jaxpr_as_fun(parts.known(traced.consts))
        sizes = [math.prod(x.aval.shape) for x in parts.between]
        program = scalarise(
            parts.of_distance(traced.consts), (), *(x.aval.shape for x in parts.between)
        )
        self.made = PairProgram(program, sum(sizes), parts.by_species)

    def table(self, species: int) -> Float[Array, "pairs columns"]:
        """A row for each pair, the second species running fastest; in double precision."""
        if not self.made.by_species:
            zero = jnp.zeros((), jnp.int32)
            return self._row(zero, zero)[None]
        first, second = np.divmod(np.arange(species**2, dtype=np.int32), species)
        return jax.vmap(self._row)(jnp.asarray(first), jnp.asarray(second))

    def _row(self, first: Any, second: Any) -> Any:
        found = self._known(*self._leaves, first, second)
        if not found:
            return jnp.zeros(0)
        return jnp.concatenate([jnp.ravel(x).astype(jnp.float64) for x in found])


class _Parts:
    """The equations of a trace whose last argument is the squared distance."""

    def __init__(self, program: Any):
        self._program = program
        *arguments, self._square = program.invars
        of_distance, of_species = {self._square}, set(arguments[-2:])
        fixed = set(program.constvars)
        self._before: list[Any] = []
        self._after: list[Any] = []
        self._fixed: list[Any] = []
        for equation in program.eqns:
            inputs = {x for x in equation.invars if not isinstance(x, Literal)}
            if inputs & of_distance:
                of_distance.update(equation.outvars)
                self._after.append(equation)
                continue
            if inputs <= fixed:
                fixed.update(equation.outvars)
                self._fixed.append(equation)
                continue
            if inputs & of_species:
                of_species.update(equation.outvars)
            self._before.append(equation)
        used = [x for equation in self._after for x in equation.invars] + program.outvars
        variables = [x for x in used if not isinstance(x, Literal) and x not in of_distance]
        self.between = [x for x in dict.fromkeys(variables) if x not in fixed]
        self.by_species = any(x in of_species for x in self.between)

    def known(self, constants: Any) -> ClosedJaxpr:
        """From parameters and species to what is between the parts."""
        program = self._program
        equations = [*self._fixed, *self._before]
        whole = program.replace(
            invars=program.invars[:-1], outvars=self.between, eqns=equations
        )
        return ClosedJaxpr(whole, constants)

    def of_distance(self, constants: Any) -> Any:
        """From the squared distance and what is between, as reals, to the results."""
        program = self._program
        equations = [*self._fixed, *self._after]
        arguments = [self._square, *self.between]
        whole = program.replace(invars=arguments, eqns=equations)
        function = jaxpr_as_fun(ClosedJaxpr(whole, constants))

        def of_reals(square: Any, *between: Any) -> Any:
            typed = [
                value != 0 if x.aval.dtype == bool else value.astype(x.aval.dtype)
                for value, x in zip(between, self.between, strict=True)
            ]
            return function(square, *typed)

        return of_reals


def _double(leaf: Any) -> Array:
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
