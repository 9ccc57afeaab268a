"""A scan of dynamic length as a primitive of jax, with rules for `jvp`, `vjp` and `vmap`.

Each rule gives another such scan, so that derivatives nest. `solvers.recurrence` is the
door to it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from solvers.traced import Traced


class Layout(NamedTuple):
    """How many leaves the operands and results have, in this order.

    The operands are the length, the slot of each row, and

    - `state`: the state; the last `accumulators` of them are only added to.
    - `parameters`, `constants`: the same for all steps, with and without derivatives.
    - `rows`: inputs with one row per step.
    - `slotted`: inputs with one row per slot, read at the slot of the step.

    The step returns the new state, then `emitted_rows` that are stored per step and
    `emitted_slots` that are stored in the slot of the step. There are `slots` slots, of
    which the last is shared by all steps whose slotted values nobody wants; it reads as
    zero. A scan returns the final state, all states where they are asked for (without
    accumulators), and what was emitted.
    """

    state: int
    accumulators: int
    parameters: int
    constants: int
    rows: int
    slotted: int
    emitted_rows: int
    emitted_slots: int
    slots: int

    @property
    def begin_rows(self) -> int:
        """The first of the inputs per step, after length and slots."""
        return self.state + self.parameters + self.constants

    @property
    def stacked(self) -> int:
        """How many states are stored where all are asked for."""
        return self.state - self.accumulators

    def split(self, leaves: Sequence[Any]) -> tuple[list[Any], ...]:
        """State, parameters, constants, rows and slotted inputs."""
        sizes = (self.state, self.parameters, self.constants, self.rows, self.slotted)
        parts, begin = [], 0
        for size in sizes:
            parts.append(list(leaves[begin : begin + size]))
            begin += size
        return tuple(parts)


def scan(
    program: Traced, layout: Layout, reverse: bool, stack: bool, operands: Sequence[Any]
) -> list[Array]:
    """Run the scan; `reverse` begins at the last row, `stack` asks for all states."""
    return _scan.bind(*operands, program=program, layout=layout, reverse=reverse, stack=stack)


def _run(
    length: Array,
    slot: Array,
    *operands: Array,
    program: Traced,
    layout: Layout,
    reverse: bool,
    stack: bool,
) -> list[Array]:
    state, parameters, constants, rows, slotted = layout.split(operands)
    function = program
    avals = program.out_avals
    per_row = [*avals[: layout.stacked if stack else 0], *_emitted(avals, layout)[0]]
    buffers = _zeros(per_row, slot.shape[0]), _zeros(_emitted(avals, layout)[1], layout.slots)
    length = length.astype(jnp.int32)
    end = layout.state + layout.emitted_rows

    def body(i: Array, carry: Any) -> Any:
        state, row_buffers, slot_buffers = carry
        k = length - 1 - i if reverse else i
        s = slot[k]
        row = [jax.lax.dynamic_index_in_dim(leaf, k, keepdims=False) for leaf in rows]
        row += [jax.lax.dynamic_index_in_dim(leaf, s, keepdims=False) for leaf in slotted]
        out = function(*state, *parameters, *constants, *row)
        stored = [*out[: layout.stacked if stack else 0], *out[layout.state : end]]
        row_buffers = _store(row_buffers, stored, k)
        return out[: layout.state], row_buffers, _store(slot_buffers, out[end:], s)

    final, by_row, by_slot = jax.lax.fori_loop(jnp.int32(0), length, body, (state, *buffers))
    return [*final, *by_row, *by_slot]


def _emitted(out: Sequence[Any], layout: Layout) -> tuple[list[Any], list[Any]]:
    end = layout.state + layout.emitted_rows
    return list(out[layout.state : end]), list(out[end:])


def _zeros(avals: Sequence[Any], count: int) -> list[Array]:
    return [jnp.zeros((count, *aval.shape), aval.dtype) for aval in avals]


def _store(buffers: Sequence[Array], values: Sequence[Array], at: Array) -> list[Array]:
    return [
        jax.lax.dynamic_update_index_in_dim(buffer, value, at, 0)
        for buffer, value in zip(buffers, values, strict=True)
    ]


def _shapes(
    length: Any,
    slot: Any,
    *operands: Any,
    program: Traced,
    layout: Layout,
    reverse: bool,
    stack: bool,
) -> list[Any]:
    del length, operands, reverse
    avals = program.out_avals
    rows, slots = _emitted(avals, layout)
    per_row = [*avals[: layout.stacked if stack else 0], *rows]
    return [
        *avals[: layout.state],
        *[aval.update(shape=(slot.shape[0], *aval.shape)) for aval in per_row],
        *[aval.update(shape=(layout.slots, *aval.shape)) for aval in slots],
    ]


_scan = Primitive("simkit_scan")
_scan.multiple_results = True
_scan.def_impl(_run)
_scan.def_abstract_eval(_shapes)
mlir.register_lowering(_scan, mlir.lower_fun(_run, multiple_results=True))


def _batch(
    operands: Any,
    axes: Any,
    *,
    program: Traced,
    layout: Layout,
    reverse: bool,
    stack: bool,
) -> Any:
    """All members step together, as many times as the longest."""
    mapped = [axis is not None for axis in axes]
    size = next(x.shape[a] for x, a, m in zip(operands, axes, mapped, strict=True) if m)
    if mapped[1]:
        return _batch_slots(operands, axes, size, program, layout, reverse, stack)
    length = jnp.max(operands[0]) if mapped[0] else operands[0]
    leaves, in_axes = [], []
    for i, (leaf, axis) in enumerate(zip(operands[2:], axes[2:], strict=True)):
        if axis is not None:
            leaves.append(jnp.moveaxis(leaf, axis, 1 if i >= layout.begin_rows else 0))
            in_axes.append(0)
        elif i < layout.state:
            leaves.append(jnp.broadcast_to(leaf[None], (size, *leaf.shape)))
            in_axes.append(0)
        else:
            leaves.append(leaf)
            in_axes.append(None)
    function = jax.vmap(program, in_axes=in_axes)
    batched = Traced(function, *_one_row(leaves, layout.begin_rows))
    out = scan(batched, layout, reverse, stack, [length, operands[1], *leaves])
    return out, [0] * layout.state + [1] * (len(out) - layout.state)


batching.primitive_batchers[_scan] = _batch


def _one_row(leaves: Sequence[Any], begin_rows: int) -> list[Any]:
    return [
        jax.ShapeDtypeStruct(leaf.shape[1:] if i >= begin_rows else leaf.shape, leaf.dtype)
        for i, leaf in enumerate(leaves)
    ]


def _batch_slots(
    operands: Any,
    axes: Any,
    size: int,
    program: Traced,
    layout: Layout,
    reverse: bool,
    stack: bool,
) -> Any:
    """Members that store in different slots: what is slotted goes by rows, then moves."""
    _, slot = operands[:2]
    slot = jnp.moveaxis(slot, axes[1], 0)
    state, parameters, constants, rows, slotted = layout.split(operands[2:])
    axes_of = layout.split(axes[2:])
    gathered = []
    for leaf, axis in zip(slotted, axes_of[4], strict=True):
        if axis is None:
            gathered.append(jax.vmap(lambda s, leaf=leaf: leaf[s])(slot))
        else:
            gathered.append(jax.vmap(lambda s, w: w[s])(slot, jnp.moveaxis(leaf, axis, 0)))
    by_row = layout._replace(
        rows=layout.rows + layout.slotted,
        slotted=0,
        emitted_rows=layout.emitted_rows + layout.emitted_slots,
        emitted_slots=0,
    )
    shared = jnp.zeros(slot.shape[1], slot.dtype)
    out, out_axes = _batch(
        [operands[0], shared, *state, *parameters, *constants, *rows, *gathered],
        [
            axes[0],
            None,
            *axes_of[0],
            *axes_of[1],
            *axes_of[2],
            *axes_of[3],
            *[0] * len(gathered),
        ],
        program=program,
        layout=by_row,
        reverse=reverse,
        stack=stack,
    )
    kept = len(out) - layout.emitted_slots

    def row_of_slots(slot: Array) -> Array:
        """A row for each slot; the last slot, and those of no step, are not read."""
        rows = jnp.arange(slot.shape[0], dtype=slot.dtype)
        return jnp.zeros(layout.slots, slot.dtype).at[slot].max(rows)

    chosen = jax.vmap(row_of_slots)(slot)
    moved = [
        jax.vmap(lambda rows, leaf: leaf[rows], in_axes=(0, 1))(chosen, leaf)
        for leaf in out[kept:]
    ]
    return [*out[:kept], *moved], [*out_axes[:kept], *[0] * len(moved)]


def _jvp(
    primals: Any,
    tangents: Any,
    *,
    program: Traced,
    layout: Layout,
    reverse: bool,
    stack: bool,
) -> Any:
    out = scan(program, layout, reverse, True, primals)
    states = out[layout.state : layout.state + layout.stacked]
    given = [None if isinstance(t, ad.Zero) else t for t in tangents[2:]]
    moved = tangents_of(program, layout, reverse, stack, primals, given, states)
    if not stack:
        del out[layout.state : layout.state + layout.stacked]
    return out, moved


ad.primitive_jvps[_scan] = _jvp


def tangents_of(
    program: Traced,
    layout: Layout,
    reverse: bool,
    stack: bool,
    operands: Sequence[Any],
    tangents: Sequence[Any],
    states: Sequence[Array],
) -> list[Array]:
    """Tangents of all that a scan returns, as a scan that is linear in its tangents.

    `tangents` are those of the operands after length and slots, `None` where there is
    none; `states` are all states after each row, without accumulators.
    """
    length, slot = operands[:2]
    state, parameters, constants, rows, slotted = layout.split(operands[2:])
    dots = layout.split(tangents)
    moved = [[i for i, t in enumerate(part) if t is not None] for part in dots]
    before = [
        _before(stacked, first, length, reverse)
        for stacked, first in zip(states, state[: layout.stacked], strict=True)
    ]
    linear = layout._replace(
        parameters=layout.parameters + len(moved[1]),
        rows=layout.stacked + layout.rows + len(moved[3]),
        slotted=layout.slotted + len(moved[4]),
    )
    function, totals = program, state[layout.stacked :]
    shapes = [(total.shape, total.dtype) for total in totals]

    def step(*flat: Array) -> list[Array]:
        v, p_all, c, x_all, w_all = linear.split(flat)
        p, p_dot = p_all[: layout.parameters], p_all[layout.parameters :]
        y, x_all = x_all[: layout.stacked], x_all[layout.stacked :]
        x, x_dot = x_all[: layout.rows], x_all[layout.rows :]
        w, w_dot = w_all[: layout.slotted], w_all[layout.slotted :]
        # Nothing depends on what an accumulator holds.
        y = [*y, *[jnp.zeros(shape, dtype) for shape, dtype in shapes]]

        def of_moved(y: Any, some_p: Any, some_x: Any, some_w: Any) -> list[Array]:
            return function(
                *y,
                *_put(p, moved[1], some_p),
                *c,
                *_put(x, moved[3], some_x),
                *_put(w, moved[4], some_w),
            )

        at = (y, [p[i] for i in moved[1]], [x[i] for i in moved[3]], [w[i] for i in moved[4]])
        return jax.jvp(of_moved, at, (v, p_dot, x_dot, w_dot))[1]

    start = [
        jnp.zeros_like(first) if dot is None else dot
        for first, dot in zip(state, dots[0], strict=True)
    ]
    leaves = [*start, *parameters, *[dots[1][i] for i in moved[1]], *constants]
    leaves += [*before, *rows, *[dots[3][i] for i in moved[3]]]
    leaves += [*slotted, *[dots[4][i] for i in moved[4]]]
    traced = Traced(step, *_one_row(leaves, linear.begin_rows))
    return scan(traced, linear, reverse, stack, [length, slot, *leaves])


def _put(values: list[Any], places: list[int], new: Sequence[Any]) -> list[Any]:
    out = list(values)
    for place, value in zip(places, new, strict=True):
        out[place] = value
    return out


def _before(stacked: Array, first: Array, length: Array, reverse: bool) -> Array:
    """The state before each step."""
    if not reverse:
        return jnp.concatenate([first[None], stacked[:-1]])
    shifted = jnp.concatenate([stacked[1:], first[None]])
    return shifted.at[length - 1].set(first)


def _transpose(
    cotangents: Any,
    *operands: Any,
    program: Traced,
    layout: Layout,
    reverse: bool,
    stack: bool,
) -> Any:
    """Cotangents of the linear operands: a scan in the other direction.

    Its state are the cotangents of the state and the totals of those of the parameters.
    """
    length, slot = operands[:2]
    parts = layout.split(operands[2:])
    state, constants = parts[0], parts[2]
    sought = [[i for i, x in enumerate(p) if ad.is_undefined_primal(x)] for p in parts]
    known = [
        [i for i in range(len(p)) if i not in s] for p, s in zip(parts, sought, strict=True)
    ]
    final_bar, stacked_bar, rows_bar, slots_bar = _split_results(cotangents, layout, stack)
    some = [_given(part) for part in (stacked_bar, rows_bar, slots_bar)]
    adjoint = Layout(
        state=layout.state + len(sought[1]),
        accumulators=len(sought[1]),
        parameters=len(known[1]),
        constants=layout.constants,
        rows=len(some[0]) + len(some[1]) + len(known[3]),
        slotted=len(some[2]) + len(known[4]),
        emitted_rows=len(sought[3]),
        emitted_slots=len(sought[4]),
        slots=layout.slots,
    )
    avals = [_aval(leaf, 0) for leaf in state]
    p_avals = [_aval(parts[1][i], 0) for i in sought[1]]
    x_avals = [_aval(parts[3][i], 1) for i in sought[3]]
    w_avals = [_aval(parts[4][i], 1) for i in sought[4]]
    function, out_avals = program, program.out_avals

    def step(*flat: Array) -> list[Array]:
        carry, p, c, row, by_slot = adjoint.split(flat)
        first, second = len(some[0]), len(some[0]) + len(some[1])
        given = [*zip(some[0], row[:first], strict=True)]
        given += [
            (layout.state + i, x) for i, x in zip(some[1], row[first:second], strict=True)
        ]
        begin = layout.state + layout.emitted_rows
        given += [(begin + i, x) for i, x in zip(some[2], by_slot[: len(some[2])], strict=True)]
        out = list(carry[: layout.state])
        out += [jnp.zeros(a.shape, a.dtype) for a in out_avals[layout.state :]]
        for place, value in given:
            out[place] = out[place] + value

        def linear(v: Any, some_p: Any, some_x: Any, some_w: Any) -> list[Array]:
            all_p = _put(_put([None] * layout.parameters, known[1], p), sought[1], some_p)
            all_x = _put(_put([None] * layout.rows, known[3], row[second:]), sought[3], some_x)
            all_w = _put(
                _put([None] * layout.slotted, known[4], by_slot[len(some[2]) :]),
                sought[4],
                some_w,
            )
            return function(*v, *all_p, *c, *all_x, *all_w)

        pull = jax.linear_transpose(linear, avals, p_avals, x_avals, w_avals)
        v_bar, p_bar, x_bar, w_bar = pull(out)
        totals = carry[layout.state :]
        added = [a + b for a, b in zip(totals, p_bar, strict=True)]
        return [*v_bar, *added, *x_bar, *w_bar]

    begin = [
        jnp.zeros(a.shape, a.dtype) if isinstance(bar, ad.Zero) else bar
        for a, bar in zip(avals, final_bar, strict=True)
    ]
    leaves = [*begin, *[jnp.zeros(a.shape, a.dtype) for a in p_avals]]
    leaves += [*[parts[1][i] for i in known[1]], *constants]
    leaves += [_mask(stacked_bar[i], length) for i in some[0]]
    leaves += [_mask(rows_bar[i], length) for i in some[1]]
    leaves += [parts[3][i] for i in known[3]]
    # The last slot is not read.
    leaves += [slots_bar[i].at[-1].set(0.0) for i in some[2]]
    leaves += [parts[4][i] for i in known[4]]
    traced = Traced(step, *_one_row(leaves, adjoint.begin_rows))
    out = scan(traced, adjoint, not reverse, False, [length, slot, *leaves])
    return _place(out, parts, sought, layout, length)


ad.primitive_transposes[_scan] = _transpose


def _split_results(results: Any, layout: Layout, stack: bool) -> tuple[Any, Any, Any, Any]:
    sizes = [
        layout.state,
        layout.stacked if stack else 0,
        layout.emitted_rows,
        layout.emitted_slots,
    ]
    parts, begin = [], 0
    for size in sizes:
        parts.append(list(results[begin : begin + size]))
        begin += size
    return parts[0], parts[1], parts[2], parts[3]


def _place(
    out: Sequence[Array], parts: Any, sought: Any, layout: Layout, length: Array
) -> list[Any]:
    """The cotangents where the operands stand."""
    result: list[list[Any]] = [[None] * len(part) for part in parts]
    for i in sought[0]:
        result[0][i] = out[i]
    rest = list(out[layout.state :])
    for part in (1, 3, 4):
        for i in sought[part]:
            bar = rest.pop(0)
            if part == 3:
                bar = _mask(bar, length)
            elif part == 4:
                bar = bar.at[-1].set(0.0)
            result[part][i] = bar
    return [None, None, *[leaf for part in result for leaf in part]]


def _given(cotangents: Sequence[Any]) -> list[int]:
    return [i for i, ct in enumerate(cotangents) if not isinstance(ct, ad.Zero)]


def _aval(leaf: Any, axes: int) -> jax.ShapeDtypeStruct:
    aval = leaf.aval if ad.is_undefined_primal(leaf) else leaf
    return jax.ShapeDtypeStruct(aval.shape[axes:], aval.dtype)


def _mask(stacked: Array, length: Array) -> Array:
    """Zero beyond the last step."""
    inside = jnp.arange(stacked.shape[0]) < length
    shape = (stacked.shape[0],) + (1,) * (stacked.ndim - 1)
    return jnp.where(inside.reshape(shape), stacked, jnp.zeros((), stacked.dtype))
