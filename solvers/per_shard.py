"""A function evaluated on every shard of its rows, with all its derivatives.

`shard_map` alone does not serve trajectories: equinox and lineax compare shapes that carry
the mesh, so that reverse mode and implicit methods fail inside it. Here the function of one
shard is traced *outside* the mesh and its program evaluated inside; its derivatives and
batches are such programs again, traced outside likewise. All that shards sum is packed into
one buffer: one all-reduce for each call.
"""

import contextlib
import contextvars
import dataclasses
import enum
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from solvers.traced import Traced


class Kind(enum.Enum):
    """How the value of one shard and the whole value belong together.

    - `COMMON`: as operand the same on all shards; as result summed over them.
    - `ROWS`: the shard holds a part of the leading axis.
    - `GATHERED`: results only: like `ROWS`, then copied to all devices.
    """

    COMMON = 0
    ROWS = 1
    GATHERED = 2


@dataclasses.dataclass(frozen=True)
class Layout:
    """The axis of a mesh over which rows are spread."""

    mesh: Mesh
    axis: str

    @property
    def shards(self) -> int:
        """Devices along the axis."""
        return self.mesh.shape[self.axis]

    def spec(self, kind: Kind, operand: bool) -> PartitionSpec:
        """How jax spells it."""
        whole = kind is Kind.COMMON or (kind is Kind.GATHERED and not operand)
        return PartitionSpec() if whole else PartitionSpec(self.axis)


_taken: contextvars.ContextVar[frozenset[tuple[Mesh, str]]] = contextvars.ContextVar(
    "taken", default=frozenset()
)


@contextlib.contextmanager
def _taking(layout: Layout) -> Iterator[None]:
    """While a function is traced for the shards of a layout, its axis is taken."""
    taken = _taken.get()
    for mesh, axis in taken:
        if mesh != layout.mesh:
            raise ValueError("Work that is spread over devices is nested with another mesh.")
        if axis == layout.axis:
            raise ValueError(
                f"The axis {axis!r} of the mesh is spread over twice, one inside the other: "
                "make a mesh of two axes, make_mesh(lanes=...)."
            )
    token = _taken.set(taken | {(layout.mesh, layout.axis)})
    try:
        yield
    finally:
        _taken.reset(token)


def evaluate(
    function: Callable[[Any, Any], Any], layout: Layout, common: Any, rows: Any, kind: Kind
) -> Any:
    """Evaluate `function(common, rows of the shard)` on every shard.

    **Arguments:**

    - `function`: may close over traced values; they count as common.
    - `layout`: where the rows are spread; it divides their number.
    - `common`, `rows`: pytrees of arrays; those of `rows` have the rows in front.
    - `kind`: of all results.

    **Returns:** the results for all rows.
    """
    leaves, tree = jax.tree.flatten((common, rows))
    kinds = [Kind.COMMON] * len(jax.tree.leaves(common))
    kinds += [Kind.ROWS] * (len(leaves) - len(kinds))
    avals = [_local(leaf, k, layout) for leaf, k in zip(leaves, kinds, strict=True)]
    out_tree = []

    def flat(*values: Any) -> list[Array]:
        out, structure = jax.tree.flatten(function(*jax.tree.unflatten(tree, values)))
        out_tree.append(structure)
        return [jnp.asarray(leaf) for leaf in out]

    with _taking(layout):
        closed = jax.make_jaxpr(flat)(*avals)
    count = len(closed.consts)

    def opened(*values: Any) -> list[Array]:
        return jaxpr_as_fun(closed.replace(consts=list(values[:count])))(*values[count:])

    ins = [Kind.COMMON] * count + kinds
    outs = [kind] * len(closed.out_avals)
    results = _bind(opened, layout, [*closed.consts, *leaves], ins, outs)
    return jax.tree.unflatten(out_tree[0], results)


def _bind(
    function: Callable[..., Any],
    layout: Layout,
    operands: Sequence[Any],
    ins: Sequence[Kind],
    outs: Sequence[Kind],
) -> list[Array]:
    """Evaluate a function of flat operands that closes over nothing."""
    avals = [_local(x, kind, layout) for x, kind in zip(operands, ins, strict=True)]
    shard = Traced(function, *avals)
    body = functools.partial(_body, shard, tuple(outs), layout.axis)
    whole = jax.shard_map(
        body,
        mesh=layout.mesh,
        in_specs=tuple(layout.spec(kind, True) for kind in ins),
        out_specs=[layout.spec(kind, False) for kind in outs],
        check_vma=False,
    )
    # Jax must see this one, as it asks it for the devices. It looks into tuples for that,
    # but not for programs that it would have to rewrite, from 0.12 on.
    program = (jax.make_jaxpr(whole)(*[_aval(x) for x in operands]),)
    return _sharded.bind(
        *operands, shard=shard, program=program, layout=layout, ins=tuple(ins), outs=tuple(outs)
    )


def _body(shard: Traced, outs: Sequence[Kind], axis: str, *operands: Array) -> list[Array]:
    """What one device does."""
    values = shard(*operands)
    sums = iter(
        _sum_over(axis, [v for v, k in zip(values, outs, strict=True) if k is Kind.COMMON])
    )
    results = []
    for value, kind in zip(values, outs, strict=True):
        if kind is Kind.COMMON:
            results.append(next(sums))
        elif kind is Kind.GATHERED:
            results.append(jax.lax.all_gather(value, axis, tiled=True))
        else:
            results.append(value)
    return results


def _sum_over(axis: str, values: Sequence[Array]) -> list[Array]:
    """Sums over the devices, all values of one type in one buffer."""
    results: list[Any] = [None] * len(values)
    for dtype in dict.fromkeys(value.dtype for value in values):
        places = [i for i, value in enumerate(values) if value.dtype == dtype]
        packed = jnp.concatenate([jnp.ravel(values[i]) for i in places])
        total = jax.lax.psum(packed, axis)
        ends = np.cumsum([values[i].size for i in places])[:-1].tolist()
        for i, part in zip(places, jnp.split(total, ends), strict=True):
            results[i] = part.reshape(values[i].shape)
    return results


def _lowered(
    *operands: Array, shard: Any, program: Any, layout: Layout, ins: Any, outs: Any
) -> list[Array]:
    """What is compiled: a `shard_map`, or inside one that took another axis its body alone."""
    if not _is_bound(layout.axis):
        return jaxpr_as_fun(program[0])(*operands)
    index = jax.lax.axis_index(layout.axis)

    def own(x: Array, kind: Kind) -> Array:
        if kind is Kind.COMMON:
            return x
        size = x.shape[0] // layout.shards
        return jax.lax.dynamic_slice_in_dim(x, index * size, size)

    parts = [own(x, kind) for x, kind in zip(operands, ins, strict=True)]
    inner = tuple(Kind.GATHERED if kind is Kind.ROWS else kind for kind in outs)
    return _body(shard, inner, layout.axis, *parts)


def _is_bound(axis: str) -> bool:
    try:
        jax.lax.axis_size(axis)
    except NameError:
        return False
    return True


def _local(x: Any, kind: Kind, layout: Layout) -> jax.ShapeDtypeStruct:
    """The shape of one shard's operand."""
    shape = tuple(x.shape)
    if kind is not Kind.COMMON:
        shape = (shape[0] // layout.shards, *shape[1:])
    return jax.ShapeDtypeStruct(shape, x.dtype)


def _aval(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(x.shape), x.dtype)


def _whole_avals(
    *operands: Any, shard: Any, program: Any, layout: Layout, ins: Any, outs: Any
) -> list[Any]:
    del operands, program, ins
    shapes = []
    for aval, kind in zip(shard.out_avals, outs, strict=True):
        shape = tuple(aval.shape)
        if kind is not Kind.COMMON:
            shape = (layout.shards * shape[0], *shape[1:])
        shapes.append(aval.update(shape=shape, weak_type=False))
    return shapes


def _evaluated(*operands: Any, **parameters: Any) -> list[Array]:
    return jax.jit(jaxpr_as_fun(parameters["program"][0]))(*operands)


_sharded = Primitive("simkit_sharded")
_sharded.multiple_results = True
_sharded.def_impl(_evaluated)
_sharded.def_abstract_eval(_whole_avals)
mlir.register_lowering(_sharded, mlir.lower_fun(_lowered, multiple_results=True))


def _batch(
    operands: Any, axes: Any, *, shard: Any, program: Any, layout: Any, ins: Any, outs: Any
):
    """A batch is carried behind the leading axis of rows."""
    del program
    moved, in_axes = [], []
    for x, axis, kind in zip(operands, axes, ins, strict=True):
        if axis is None:
            moved.append(x)
            in_axes.append(None)
        else:
            moved.append(jnp.moveaxis(x, axis, 0 if kind is Kind.COMMON else 1))
            in_axes.append(1 if kind is Kind.ROWS else 0)
    out_axes = [1 if kind in (Kind.ROWS, Kind.GATHERED) else 0 for kind in outs]
    function = jax.vmap(shard, in_axes=in_axes, out_axes=out_axes)
    results = _bind(function, layout, moved, ins, outs)
    return results, [0 if kind is Kind.COMMON else 1 for kind in outs]


batching.primitive_batchers[_sharded] = _batch


def _jvp(
    primals: Any, tangents: Any, *, shard: Any, program: Any, layout: Any, ins: Any, outs: Any
) -> Any:
    """The value, and a second program for its tangents, which computes the value again.

    So no linearised program, with all that it stores, is carried from one to the other:
    loops of unknown length have none, and jax 0.9 fails where theirs are nested.
    """
    values = _sharded.bind(
        *primals, shard=shard, program=program, layout=layout, ins=ins, outs=outs
    )
    moved = [i for i, t in enumerate(tangents) if not isinstance(t, ad.Zero)]
    real = [i for i, a in enumerate(shard.out_avals) if jnp.issubdtype(a.dtype, jnp.inexact)]

    def forward(*given: Any) -> list[Array]:
        at = given[: len(primals)]

        def of_moved(*some: Any) -> list[Array]:
            everything = list(at)
            for i, value in zip(moved, some, strict=True):
                everything[i] = value
            out = shard(*everything)
            return [out[i] for i in real]

        return jax.jvp(of_moved, [at[i] for i in moved], list(given[len(primals) :]))[1]

    operands = [*primals, *[tangents[i] for i in moved]]
    kinds = [*ins, *[ins[i] for i in moved]]
    steps = _bind(forward, layout, operands, kinds, [outs[i] for i in real])
    result: list[Any] = [ad.Zero(jax.typeof(value).to_tangent_aval()) for value in values]
    for i, step in zip(real, steps, strict=True):
        result[i] = step
    return values, result


ad.primitive_jvps[_sharded] = _jvp


def _transpose(
    cotangents: Any, *operands: Any, shard: Any, program: Any, layout: Any, ins: Any, outs: Any
) -> list[Any]:
    """Sums become copies, copies become sums, rows stay rows."""
    del program
    linear = [i for i, x in enumerate(operands) if ad.is_undefined_primal(x)]
    known = [i for i in range(len(operands)) if i not in linear]
    given = [i for i, ct in enumerate(cotangents) if not isinstance(ct, ad.Zero)]
    result: list[Any] = [None] * len(operands)
    if not given:
        return result
    shapes = [_local(operands[i].aval, ins[i], layout) for i in linear]

    def backward(*values: Any) -> list[Array]:
        def of_linear(*some: Any) -> list[Array]:
            everything: list[Any] = [None] * len(operands)
            for i, value in zip([*known, *linear], [*values[: len(known)], *some], strict=True):
                everything[i] = value
            out = shard(*everything)
            return [out[i] for i in given]

        pull = jax.linear_transpose(of_linear, *shapes)
        return list(pull(list(values[len(known) :])))

    kinds = [ins[i] for i in known]
    kinds += [Kind.ROWS if outs[i] is Kind.GATHERED else outs[i] for i in given]
    values = [operands[i] for i in known] + [cotangents[i] for i in given]
    bars = _bind(backward, layout, values, kinds, [ins[i] for i in linear])
    for i, bar in zip(linear, bars, strict=True):
        result[i] = bar
    return result


ad.primitive_transposes[_sharded] = _transpose


def padded(count: int, layout: Layout) -> int:
    """The least multiple of the shards that holds so many rows."""
    return math.ceil(count / layout.shards) * layout.shards
