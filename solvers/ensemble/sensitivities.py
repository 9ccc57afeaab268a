r"""Derivatives of an engine's answers: sensitivities as more states of the same engine.

With directions $k$ in the space of parameters and initial states, the sensitivities
$S_k = \partial y / \partial \theta_k$ obey

$$dS_k = (f_y S_k + f_{\theta_k})\,dt + (g_y S_k + g_{\theta_k})\,dW.$$

They are solved beside the states, with steps that the states alone control, so that they
are the derivatives of the discretised solve for fixed steps. An answer is linear in the
tangents of what it depends on, with the sensitivities as coefficients: so the one rule
serves forward and reverse mode, and being applied to the larger system, any order.

Reference: T. Maly and L. R. Petzold, Appl. Numer. Math. 20, 57 (1996).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from solvers.ensemble.law import Answer, EngineRefusal, Law, Question
from solvers.ensemble.reference import run_reference


Engine = Callable[[Law, Any, Question], Answer]
"""What computes the answers, `run(law, method, question)`."""


class Leaves(NamedTuple):
    """A question in pieces, so that what is not differentiated is known piece by piece.

    - `initial`: the states at the start, then sensitivities there, `(N, ...)` each.
    - `varied`, `shared`: one array for each parameter, `(N, ...)` and `(...)`.
    """

    start: Array
    stop: Array
    initial: tuple[Array, ...]
    varied: tuple[Array, ...]
    shared: tuple[Array, ...]
    times: Array

    @property
    def initial_states(self) -> Array:
        """All at the start, of shape `(N, states)`."""
        return jnp.concatenate(self.initial, axis=1)

    def question(self, keys: Array | None) -> Question:
        """The pieces put together."""
        initial_states = self.initial_states
        count, kind = initial_states.shape[0], initial_states.dtype
        varied = [leaf.reshape(count, -1) for leaf in self.varied]
        shared = [jnp.ravel(leaf) for leaf in self.shared]
        return Question(
            self.start,
            self.stop,
            initial_states,
            jnp.concatenate([jnp.zeros((count, 0), kind), *varied], axis=1),
            jnp.concatenate([jnp.zeros(0, kind), *shared]),
            self.times,
            keys,
        )


class Directions(NamedTuple):
    """Along what the sensitivities are taken.

    - `initial`: along which of the states at the start.
    - `start`: whether along the time of the start.
    - `varied`, `shared`: along which of these numbers.
    """

    initial: tuple[int, ...]
    start: bool
    varied: tuple[int, ...]
    shared: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.initial) + self.start + len(self.varied) + len(self.shared)


MOST_STATES = 256
"""States and sensitivities in all beyond which an engine is not asked: its programs grow
with them, and following the recorded steps is the cheaper."""

Reference = Callable[[Question], Answer]
"""The same answers from what has derivatives of its own."""


def answer(
    engine: Engine,
    law: Law,
    method: Any,
    leaves: Leaves,
    keys: Any,
    reference: Reference | None = None,
) -> Answer:
    """The engine's answer, with derivatives of every order and mode.

    Where there are too many sensitivities for the engine, derivatives are those of the
    `reference`: by default of diffrax, with its steps recorded and followed.

    **Raises:** `EngineRefusal` for too many sensitivities of a stochastic equation, which
    has no reference: the noise is the engine's own.
    """

    @jax.custom_jvp
    def evaluated(leaves: Leaves, keys: Any) -> Answer:
        return _with_plain_counts(engine(law, method, leaves.question(keys)))

    def refer(question: Question) -> Answer:
        if law.diffusion is not None:
            raise EngineRefusal(
                "These are too many sensitivities of a stochastic equation for this engine; "
                "use engine='diffrax'."
            )
        found = (reference or functools.partial(run_reference, law, method))(question)
        return _with_plain_counts(found)

    def derivative(primals: Any, tangents: Any) -> tuple[Answer, Answer]:
        (leaves, keys), (moved, _) = primals, tangents
        directions = _directions(moved)
        larger = with_sensitivities(law, directions)
        initial = _initial_sensitivities(law, leaves, directions)
        # A piece of its own: mostly it is constant, and so nothing is ever taken along it.
        flat = initial.reshape(initial.shape[0], -1)
        more = leaves._replace(initial=(*leaves.initial, flat))
        try:
            if larger.states > MOST_STATES:
                raise EngineRefusal("There are too many sensitivities.")
            extended = _reference_with_sensitivities(refer, law, directions)
            found = answer(engine, larger, method, more, keys, extended)
        except EngineRefusal:
            return _followed(refer, leaves, moved, keys)
        value, sensitivities = _split(found, law.states)
        return value, _tangent(law, leaves, moved, directions, value, sensitivities)

    evaluated.defjvp(derivative, symbolic_zeros=True)
    return evaluated(leaves, keys)


def _followed(
    reference: Reference, leaves: Leaves, moved: Leaves, keys: Any
) -> tuple[Answer, Answer]:
    """The reference's answer and its tangent."""
    flat, tree = jax.tree.flatten(leaves)
    tangents = jax.tree.leaves(moved, is_leaf=_still)
    places = [i for i, tangent in enumerate(tangents) if not _still(tangent)]

    def of_moved(some: Any) -> Answer:
        values = list(flat)
        for i, value in zip(places, some, strict=True):
            values[i] = value
        return reference(jax.tree.unflatten(tree, values).question(keys))

    at, to = [flat[i] for i in places], [tangents[i] for i in places]
    return jax.jvp(of_moved, (at,), (to,))


def _reference_with_sensitivities(
    reference: Reference, law: Law, directions: Directions
) -> Reference:
    """What answers for the larger law by differentiating what answers for the law."""
    by_varied, by_shared = _unit_tangents(law, directions)

    def extended(question: Question) -> Answer:
        count = question.initial_states.shape[0]
        blocks = question.initial_states.reshape(count, -1, law.states)
        still = eqx.tree_at(lambda q: q.initial_states, question, blocks[:, 0])

        def moving(initial: Any, varied: Any, shared: Any) -> tuple[Any, Any]:
            parts = (initial, varied, shared)
            asked = eqx.tree_at(lambda q: (q.initial_states, q.varied, q.shared), still, parts)
            found = reference(asked)
            return found.saved, found.final_state

        def along(s: Any, v: Any, w: Any) -> Any:
            at = (still.initial_states, still.varied, still.shared)
            to = (s, jnp.broadcast_to(v, still.varied.shape), w)
            return jax.jvp(moving, at, to)[1]

        found = reference(still)
        slopes = jax.vmap(along)(jnp.moveaxis(blocks[:, 1:], 1, 0), by_varied, by_shared)
        saved, final = (
            jnp.concatenate([value[..., None, :], jnp.moveaxis(s, 0, -2)], axis=-2)
            for value, s in zip((found.saved, found.final_state), slopes, strict=True)
        )
        return eqx.tree_at(
            lambda a: (a.saved, a.final_state),
            found,
            (saved.reshape(*saved.shape[:-2], -1), final.reshape(count, -1)),
        )

    return extended


def with_sensitivities(law: Law, directions: Directions) -> Law:
    """The law of the states and, behind them, of their sensitivities along directions."""
    count = directions.count
    by_varied, by_shared = _unit_tangents(law, directions)

    def extend(function: Any, width: tuple[int, ...]) -> Any:
        def extended(t: Any, z: Any, varied: Any, shared: Any) -> Any:
            blocks = z.reshape(1 + count, law.states)

            def along(s: Any, v: Any, w: Any) -> Any:
                at, to = (blocks[0], varied, shared), (s, v, w)
                return jax.jvp(lambda y, v, w: function(t, y, v, w), at, to)[1]

            value = function(t, blocks[0], varied, shared)
            slopes = jax.vmap(along)(blocks[1:], by_varied, by_shared)
            return jnp.concatenate([value[None], slopes]).reshape(-1, *width)

        return extended

    width = () if law.diagonal else (law.noises,)
    diffusion = law.diffusion
    return Law(
        drift=extend(law.drift, ()),
        diffusion=None if diffusion is None else extend(diffusion, width),
        states=law.states * (1 + count),
        varied=law.varied,
        shared=law.shared,
        noises=law.noises,
        diagonal=law.diagonal,
        controlled=law.controlled,
    )


def _unit_tangents(law: Law, directions: Directions) -> tuple[np.ndarray, np.ndarray]:
    """How the parameters move along each direction: not at all, or one of them by one."""
    count = directions.count
    varied, shared = np.zeros((count, law.varied)), np.zeros((count, law.shared))
    first = len(directions.initial) + directions.start
    for place, index in enumerate(directions.varied, first):
        varied[place, index] = 1.0
    for place, index in enumerate(directions.shared, first + len(directions.varied)):
        shared[place, index] = 1.0
    return varied, shared


def _directions(moved: Leaves) -> Directions:
    return Directions(
        initial=_moved_numbers(moved.initial, 1),
        start=not _still(moved.start),
        varied=_moved_numbers(moved.varied, 1),
        shared=_moved_numbers(moved.shared, 0),
    )


def _still(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)


def _moved_numbers(tangents: Sequence[Any], axis: int) -> tuple[int, ...]:
    """The places of the moved numbers among those of all leaves."""
    sizes = [int(np.prod(tangent.shape[axis:])) for tangent in tangents]
    ends = np.cumsum(sizes)
    return tuple(
        place
        for tangent, size, end in zip(tangents, sizes, ends, strict=True)
        if not _still(tangent)
        for place in range(int(end) - size, int(end))
    )


def _initial_sensitivities(law: Law, leaves: Leaves, directions: Directions) -> Array:
    """Sensitivities at the start, of shape `(N, directions, states)`."""
    kind, count = leaves.initial[0].dtype, leaves.initial[0].shape[0]
    along_states = np.zeros((len(directions.initial), law.states), kind)
    along_states[np.arange(len(directions.initial)), directions.initial] = 1.0
    parts = [jnp.broadcast_to(along_states, (count, *along_states.shape))]
    if directions.start:
        # Who starts later is where it would have been, less what it has not moved.
        parts.append(-_slopes(law, leaves, leaves.start, leaves.initial_states)[:, None])
    rest = len(directions.varied) + len(directions.shared)
    parts.append(jnp.zeros((count, rest, law.states), kind))
    return jnp.concatenate(parts, axis=1)


def _slopes(law: Law, leaves: Leaves, times: Array, states: Array) -> Array:
    """The drift of each member at a time and state of its own."""
    question = leaves.question(None)
    one = jax.vmap(law.drift, (0, 0, 0, None))
    return one(times, states, question.varied, question.shared)


def _split(found: Answer, states: int) -> tuple[Answer, tuple[Array, Array]]:
    """Answer without sensitivities, and those of the saved states and the final state."""
    saved, final = (
        leaf.reshape(*leaf.shape[:-1], -1, states) for leaf in (found.saved, found.final_state)
    )
    value = eqx.tree_at(
        lambda a: (a.saved, a.final_state), found, (saved[..., 0, :], final[..., 0, :])
    )
    return value, (saved[..., 1:, :], final[..., 1:, :])


def _tangent(
    law: Law,
    leaves: Leaves,
    moved: Leaves,
    directions: Directions,
    value: Answer,
    sensitivities: tuple[Array, Array],
) -> Answer:
    """The tangent of the answer: sensitivities times how far each direction moves."""
    # What was not reached has no derivative; zero keeps it from spoiling sums over members.
    saved, final = (jnp.where(jnp.isfinite(s), s, 0.0) for s in sensitivities)
    weights = _weights(moved, directions, leaves)
    d_saved = jnp.einsum("nk,ntkd->ntd", weights, saved)
    d_final = jnp.einsum("nk,nkd->nd", weights, final)
    d_time = jnp.zeros_like(value.final_time)
    if not _still(moved.times):
        times = jnp.broadcast_to(leaves.times, value.saved.shape[:2])
        shift = jnp.broadcast_to(moved.times, times.shape)
        slopes = jax.vmap(_slopes, (None, None, 1, 1), 1)(law, leaves, times, value.saved)
        d_saved += jnp.where(jnp.isfinite(slopes), slopes, 0.0) * shift[..., None]
    if not _still(moved.stop):
        ended = value.final_time == leaves.stop
        d_time = jnp.where(ended, moved.stop, 0.0)
        slopes = _slopes(law, leaves, value.final_time, value.final_state)
        d_final += jnp.where(jnp.isfinite(slopes), slopes, 0.0) * d_time[:, None]
    return Answer(d_saved, d_time, d_final, *map(_no_tangent, _counts(value)))


def _with_plain_counts(found: Answer) -> Answer:
    """With whole numbers of the default kind, the same for all engines."""
    counts = tuple(count.astype(jnp.asarray(0).dtype) for count in _counts(found)[1:])
    status = found.status.astype(jnp.int32)
    return eqx.tree_at(_counts, found, (status, *counts))


def _counts(value: Answer) -> tuple[Array, Array, Array]:
    return value.status, value.accepted, value.rejected


def _no_tangent(count: Array) -> Any:
    return np.zeros(count.shape, jax.dtypes.float0)


def _weights(moved: Leaves, directions: Directions, leaves: Leaves) -> Array:
    """How far each member moves along each direction, of shape `(N, directions)`."""
    count = leaves.initial[0].shape[0]
    parts: list[Any] = [jnp.zeros((count, 0), leaves.initial[0].dtype)]
    parts += [leaf for leaf in moved.initial if not _still(leaf)]
    if directions.start:
        parts.append(moved.start[:, None])
    parts += [leaf.reshape(count, -1) for leaf in moved.varied if not _still(leaf)]
    parts += [
        jnp.broadcast_to(jnp.ravel(leaf), (count, int(np.prod(leaf.shape))))
        for leaf in moved.shared
        if not _still(leaf)
    ]
    return jnp.concatenate(parts, axis=1)
