r"""A recurrence of dynamic length that can be differentiated in every mode and order.

$$y_{k+1} = \varphi(y_k, p, c, x_k), \qquad k = 0, \dots, n - 1$$

JAX differentiates a loop whose length is known only at run time in forward mode alone.
Here the derivative of a recurrence is another recurrence: forwards for tangents, and
backwards for cotangents, so that `jvp`, `vjp` and `vmap` nest as they like. It needs the
states of the steps in memory.

Reference: A. Griewank and A. Walther, *Evaluating Derivatives* (2008), chapters 3 and 6.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Int

from solvers.dynamic_scan import Layout, scan, tangents_of
from solvers.traced import Traced


Step = Callable[[Any, Any, Any, Any], Any]
"""`step(state, parameters, constants, inputs) -> state`."""


def follow(
    step: Step,
    recorded: Any,
    initial: Any,
    parameters: Any,
    constants: Any,
    inputs: Any,
    length: Int[Array, ""],
    wanted: Int[Array, " wanted"],
) -> tuple[Any, Any]:
    r"""States of a recurrence, with its derivatives.

    **Arguments:**

    - `step`: $\varphi$; it closes over no traced value.
    - `recorded`: the states $y_1, \dots, y_n$ stacked along a leading axis, where they
      are known already: then they are taken as they stand. `None`: they are computed.
    - `initial`, `parameters`: $y_0$ and $p$, pytrees of real arrays.
    - `constants`: $c$, a pytree of arrays through which no derivative passes.
    - `inputs`: $x_k$ stacked along the leading axis, whose size is the room for steps.
      Rows beyond `length` must make the step the identity, as in a batch the shorter
      recurrences go on with the longest.
    - `length`: $n$, at most the room.
    - `wanted`: steps below $n$ in ascending order.

    **Returns:** the states before the wanted steps, and the state after the last step.
    """
    leaves, tree = jax.tree.flatten((initial, parameters, constants))
    rows, row_tree = jax.tree.flatten(inputs)
    state_tree = jax.tree.structure(initial)
    count = state_tree.num_leaves

    def flat_step(*flat: Any) -> list[Array]:
        """One step; it emits the state from which it starts."""
        y, p, c = jax.tree.unflatten(tree, flat[: len(leaves)])
        out = step(y, p, c, jax.tree.unflatten(row_tree, flat[len(leaves) :]))
        return [*jax.tree.leaves(out), *jax.tree.leaves(y)]

    program = Traced(flat_step, *leaves, *[row[0] for row in rows])
    sizes = [len(jax.tree.leaves(part)) for part in (parameters, constants)]
    slot, rank = _slots(wanted, rows[0].shape[0])
    layout = Layout(
        state=count,
        accumulators=0,
        parameters=sizes[0],
        constants=sizes[1],
        rows=len(rows),
        slotted=0,
        emitted_rows=0,
        emitted_slots=count,
        slots=wanted.shape[0] + 1,
    )
    operands = [length, slot, *leaves, *rows]
    if recorded is None:
        out = scan(program, layout, False, False, operands)
    else:
        known = jax.tree.leaves(recorded)
        out = _adopt(program, layout, length, slot, known, [*leaves, *rows])
    final, selected = out[:count], out[count:]
    states = [leaf[rank] for leaf in selected]
    return jax.tree.unflatten(state_tree, states), jax.tree.unflatten(state_tree, final)


def _slots(wanted: Array, room: int) -> tuple[Array, Array]:
    """Where each step puts what it emits, and where each wanted step finds it.

    Steps that nobody wants share the last slot.
    """
    fresh = jnp.concatenate([jnp.zeros(1, bool), wanted[1:] != wanted[:-1]])
    rank = jnp.cumsum(fresh).astype(jnp.int32)
    unwanted = jnp.full(room, wanted.shape[0], jnp.int32)
    return unwanted.at[wanted].set(rank), rank


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _adopt(
    program: Any, layout: Layout, length: Array, slot: Array, recorded: Any, operands: Any
) -> list[Array]:
    initial = operands[: layout.state]
    before = [
        jnp.concatenate([y[None], stack]) for y, stack in zip(initial, recorded, strict=True)
    ]
    final = [leaf[length] for leaf in before]
    # The first step of each slot is the only one, but for the slot that nobody reads.
    chosen = (
        jnp.zeros(layout.slots, slot.dtype)
        .at[slot]
        .set(jnp.arange(slot.size, dtype=slot.dtype))
    )
    return [*final, *[leaf[chosen] for leaf in before]]


@functools.partial(_adopt.defjvp, symbolic_zeros=True)
def _adopt_jvp(program: Any, layout: Layout, primals: Any, tangents: Any) -> Any:
    length, slot, recorded, operands = primals
    given = [None if isinstance(t, SymbolicZero) else t for t in tangents[3]]
    out = _adopt(program, layout, length, slot, recorded, operands)
    # As a function of what is differentiated, the recorded states are these.
    states = _states(program, layout, length, recorded, operands)
    moved = tangents_of(program, layout, False, False, [length, slot, *operands], given, states)
    return out, moved


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _states(
    program: Any, layout: Layout, length: Array, recorded: Any, operands: Any
) -> list[Array]:
    """All states, with the derivatives of the recurrence."""
    del program, layout, length, operands
    return list(recorded)


@functools.partial(_states.defjvp, symbolic_zeros=True)
def _states_jvp(program: Any, layout: Layout, primals: Any, tangents: Any) -> Any:
    length, recorded, operands = primals
    given = [None if isinstance(t, SymbolicZero) else t for t in tangents[2]]
    states = _states(program, layout, length, recorded, operands)
    slot = jnp.zeros(operands[-1].shape[0], jnp.int32)
    moved = tangents_of(program, layout, False, True, [length, slot, *operands], given, states)
    return states, moved[layout.state : 2 * layout.state]
