"""The functions of a law over lanes: one array for each state, of one element per lane."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from solvers.ensemble.law import Flat, Law
from solvers.ensemble.scalarise.evaluate import evaluate
from solvers.ensemble.scalarise.program import Program
from solvers.ensemble.scalarise.refusal import NotScalarisable
from solvers.ensemble.scalarise.walk import scalarise


Lanes = tuple[Array, ...]
"""One array of shape `(lanes,)` for each of some numbers."""


class Point(NamedTuple):
    """Where functions of the law are evaluated: time, states and parameters of each lane.

    - `shared`: scalars.
    """

    t: Array
    y: Lanes
    varied: Lanes
    shared: Lanes


LaneFunction = Callable[[Point], Lanes]

LONGEST_INLINE = 100
"""Operations up to which a program is written into whatever calls it: a longer one is
traced once and called."""


def program_of(function: Flat, law: Law, limit: int | None = None) -> Program | None:
    """The program of a function of the law, `None` if it has none."""
    try:
        return scalarise(function, *law.shapes, **({} if limit is None else {"limit": limit}))
    except NotScalarisable:
        return None


def over_lanes(function: Flat, law: Law) -> LaneFunction:
    """A function of the law over lanes, as its program if it has one, else by `vmap`."""
    program = program_of(function, law)
    return _by_vmap(function) if program is None else by_program(program)


def by_program(program: Program) -> Callable[..., Lanes]:
    """The outputs of a program at a point, and with further inputs behind it."""

    def outputs(point: Point, *more: Array) -> Lanes:
        inputs = (point.t, *point.y, *point.varied, *point.shared, *more)
        shape = point.t.shape
        return tuple(jnp.broadcast_to(x, shape) for x in evaluate(program, inputs))

    return jax.jit(outputs) if len(program.operations) > LONGEST_INLINE else outputs


def _by_vmap(function: Flat) -> LaneFunction:
    def outputs(point: Point) -> Lanes:
        found = jax.vmap(function, (0, 0, 0, None))(*rows(point))
        return columns(found.reshape(found.shape[0], -1))

    return outputs


def rows(point: Point) -> tuple[Array, Array, Array, Array]:
    """Time, states, varied and shared numbers as arrays with lanes first."""
    lanes, kind = point.t.shape[0], point.y[0].dtype
    return (
        point.t,
        _stacked(point.y, (lanes,), kind),
        _stacked(point.varied, (lanes,), kind),
        _stacked(point.shared, (), kind),
    )


def _stacked(values: Sequence[Array], shape: tuple[int, ...], kind: Any) -> Array:
    return jnp.stack(values, -1) if values else jnp.zeros((*shape, 0), kind)


def columns(value: Array) -> Lanes:
    """The columns of an array with lanes first."""
    return tuple(value[:, i] for i in range(value.shape[1]))


def combine(weights: Any, terms: Sequence[Array]) -> Any:
    """A weighted sum, without what has no weight; zero if nothing has."""
    parts = [float(w) * x for w, x in zip(weights, terms, strict=False) if w != 0]
    return sum(parts[1:], parts[0]) if parts else 0.0
