"""Work spread over devices: sums over rows, columns of matrices, many starts.

A mesh is a value, made by `make_mesh`. *Rows* are members, conditions or experiments: any
pytree of arrays with the rows in front. The functions here take a function of one row, one
vector or one start, and give back a function that computes for all of them; it works under
`jit` and `vmap` and inside optimisers, with derivatives of any order that the function has.

The devices talk once, at the end: one all-reduce for each call, none in a loop of a solve.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, PyTree

from solvers.per_shard import Kind, Layout, evaluate, padded


DEVICES = "all_devices"
"""The axis of a mesh of one axis: rows, columns or starts are spread over it."""
ROWS = "row_devices"
"""The axis of a mesh of two axes over which rows are spread."""
LANES = "lane_devices"
"""The axis of a mesh of two axes over which columns or starts are spread."""

_DAYS = 10**6
"""Seconds that a device waits for another."""


def use_cpu_devices(count: int | None = None) -> int:
    """Make jax see several devices on the CPU; call it before jax computes anything.

    One device of XLA does not use a second core for a loop of small steps, so that one
    device for each core is the best choice. Accelerators are not concerned.

    **Arguments:**

    - `count`: how many; default: the cores that this process may use.

    **Returns:** how many.

    **Raises:** `ValueError` for fewer than one; `RuntimeError` if jax computes already.
    """
    if count is None:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
        count = count or os.cpu_count() or 1
    if count < 1:
        raise ValueError(f"{count} CPU devices are asked for, expected at least 1.")
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        raise RuntimeError(
            f"jax computes already, so its CPU cannot be made {count} devices any more: "
            "call use_cpu_devices before anything is computed."
        ) from error
    _wait_for_slow_devices()
    return count


def _wait_for_slow_devices() -> None:
    """XLA aborts a program whose devices meet more than 40 s apart: here solves may."""
    given = os.environ.get("XLA_FLAGS", "")
    for name in ("call_warn_stuck_timeout", "call_terminate_timeout", "timeout"):
        flag = f"--xla_cpu_collective_{name}_seconds"
        if flag not in given:
            given = f"{given} {flag}={_DAYS}".strip()
    os.environ["XLA_FLAGS"] = given


def make_mesh(devices: int | Sequence[Any] | None = None, lanes: int | None = None) -> Mesh:
    """A mesh of devices.

    **Arguments:**

    - `devices`: how many, or which; default: all, those of all processes included.
    - `lanes`: make a mesh of two axes, of which this many devices lie along the second:
      columns or starts are spread over the second, the rows of each over the first.

    **Raises:** `ValueError` for more devices than there are, for a mesh that leaves out a
    process, and for `lanes` that do not divide the devices.
    """
    there = jax.devices()
    if devices is None:
        chosen = list(there)
    elif isinstance(devices, int):
        chosen = list(there[: max(devices, 0)])
        if not 1 <= devices <= len(there):
            hint = ""
            if there[0].platform == "cpu":
                hint = f" Call use_cpu_devices({devices}) before jax computes anything."
            raise ValueError(
                f"A mesh of {devices} devices is asked for, but there are {len(there)} "
                f"({there[0].platform}).{hint if devices > 0 else ''}"
            )
    else:
        chosen = list(devices)
        if not chosen or len(set(chosen)) < len(chosen):
            raise ValueError("A mesh needs one or more devices, each of them once.")
    missing = {d.process_index for d in there} - {d.process_index for d in chosen}
    if missing:
        raise ValueError(
            f"The mesh has no device of process {min(missing)}; every process takes part."
        )
    if lanes is None:
        return Mesh(np.array(chosen), (DEVICES,), axis_types=(AxisType.Auto,))
    if lanes < 1 or len(chosen) % lanes:
        raise ValueError(f"{len(chosen)} devices cannot be split into {lanes} lanes.")
    grid = np.array(chosen).reshape(-1, lanes)
    return Mesh(grid, (ROWS, LANES), axis_types=(AxisType.Auto,) * 2)


class Rows(eqx.Module):
    """Rows padded to a number that the mesh divides.

    - `values`: a pytree of arrays, shape `(padded, ...)`; what pads is a copy of a row.
    - `valid`: which are rows and which only pad; the latter count nothing.
    """

    values: PyTree
    valid: Bool[Array, " padded"]


def pad_rows(rows: PyTree, mesh: Mesh) -> Rows:
    """Rows as `Rows`; those that are are returned as they stand.

    **Raises:** `ValueError` if the leaves have different numbers of rows, or none.
    """
    layout = row_layout(mesh)
    if isinstance(rows, Rows):
        if rows.valid.shape[0] % layout.shards:
            raise ValueError(
                f"{rows.valid.shape[0]} padded rows do not fit {layout.shards} devices: "
                "they were padded for another mesh."
            )
        return rows
    return _pad(rows, layout)


def _pad(rows: PyTree, layout: Layout) -> Rows:
    rows = jax.tree.map(jnp.asarray, rows)
    count = row_count(rows)
    size = padded(count, layout)

    # What pads is a copy of a row that is there: it fails only where the sum is lost anyway.
    # Taken by number, as XLA makes all-reduces of a concatenation of rows.
    chosen = np.where(np.arange(size) < count, np.arange(size), 0)

    def pad(leaf: Array) -> Array:
        return leaf if size == count else leaf[chosen]

    return Rows(jax.tree.map(pad, rows), jnp.arange(size) < count)


def row_count(rows: PyTree) -> int:
    """The number of rows; raises `ValueError` if the leaves disagree or there are none."""
    shapes = [tuple(leaf.shape) for leaf in jax.tree.leaves(rows)]
    counts = {shape[0] if shape else None for shape in shapes}
    if len(counts) != 1 or None in counts or 0 in counts:
        raise ValueError(
            f"Rows have leaves of shapes {shapes}, expected the same number of rows, one or "
            "more, in front of each."
        )
    return shapes[0][0]


def place_rows(rows: PyTree, mesh: Mesh) -> Rows:
    """Pad rows and move each part to its device once, so that no later call does."""
    return jax.device_put(pad_rows(rows, mesh), row_sharding(mesh))


def row_sharding(mesh: Mesh) -> NamedSharding:
    """How rows lie on a mesh: for `jax.device_put` and `jax.jit`."""
    layout = row_layout(mesh)
    return NamedSharding(mesh, layout.spec(Kind.ROWS, True))


def row_layout(mesh: Mesh) -> Layout:
    """The axis of a mesh over which rows are spread."""
    return _layout(mesh, ROWS)


def _layout(mesh: Mesh, axis: str) -> Layout:
    for name in (axis, DEVICES):
        if name in mesh.axis_names:
            return Layout(mesh, name)
    raise ValueError(f"The mesh has the axes {mesh.axis_names}: expected one of make_mesh.")


RowFunction = Callable[[Any, Any], Any]
"""`function(parameters, row)`."""


def _masked(function: RowFunction, parameters: PyTree, rows: Rows) -> PyTree:
    """The function of each row; zero where a row only pads."""
    values = jax.vmap(function, in_axes=(None, 0))(parameters, rows.values)

    def mask(leaf: Array) -> Array:
        valid = rows.valid.reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.where(valid, leaf, jnp.zeros((), leaf.dtype))

    return jax.tree.map(mask, values)


def _total(function: RowFunction, parameters: PyTree, rows: Rows) -> PyTree:
    values = _masked(function, parameters, rows)
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), values)


def row_sum(function: RowFunction, mesh: Mesh) -> Callable[[PyTree, PyTree], PyTree]:
    """The sum over rows of a function of one row.

    **Arguments:**

    - `function`: `function(parameters, row)`, any pytree of arrays of numbers.
    - `mesh`: the devices.

    **Returns:** `total(parameters, rows)`, the sum on every device. `rows` need not divide
    among the devices. Derivatives may be taken of `total`, but those of the functions
    below compute them with one all-reduce in all.

    **Raises:** `ValueError` for rows whose leaves differ in number, and inside work that is
    spread over the same axis of the mesh.
    """
    return _summed(lambda parameters, rows: _total(function, parameters, rows), mesh)


def _summed(local: Callable[[Any, Rows], Any], mesh: Mesh) -> Callable[..., Any]:
    layout = row_layout(mesh)

    def total(parameters: PyTree, rows: PyTree) -> PyTree:
        parameters = jax.tree.map(jnp.asarray, parameters)
        return evaluate(local, layout, parameters, pad_rows(rows, mesh), Kind.COMMON)

    return total


def row_map(function: RowFunction, mesh: Mesh) -> Callable[[PyTree, PyTree], PyTree]:
    """A function of one row for all rows, such as residuals; the results stay spread.

    **Returns:** `each(parameters, rows)`, a pytree of arrays with the rows in front. For
    `Rows` they are the padded ones, and zero where a row only pads: as residuals they
    count nothing. No collective.
    """
    layout = row_layout(mesh)

    def each(parameters: PyTree, rows: PyTree) -> PyTree:
        parameters = jax.tree.map(jnp.asarray, parameters)
        given = pad_rows(rows, mesh)
        out = evaluate(
            lambda p, part: _masked(function, p, part), layout, parameters, given, Kind.ROWS
        )
        return out if isinstance(rows, Rows) else _first(out, row_count(rows))

    return each


def _first(tree: PyTree, count: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf if leaf.shape[0] == count else leaf[:count], tree)


def value_and_gradient(
    function: RowFunction, mesh: Mesh, *, forward: bool = False
) -> Callable[[PyTree, PyTree], tuple[Float[Array, ""], PyTree]]:
    """The sum over rows of a scalar, and its gradient, in one all-reduce.

    **Arguments:**

    - `function`: `function(parameters, row)`, a scalar.
    - `forward`: differentiate in forward mode, for functions that have no other.

    **Returns:** `evaluate(parameters, rows)`: the value, and a pytree like `parameters`.
    """

    def local(parameters: PyTree, rows: Rows) -> Any:
        def total(p: PyTree) -> Any:
            return _total(function, p, rows)

        if not forward:
            return jax.value_and_grad(total)(parameters)
        flat, unravel = ravel_pytree(parameters)
        value, gradient = _pushed(lambda x: total(unravel(x)), flat)
        return value, unravel(gradient)

    return _summed(local, mesh)


class GaussNewton(eqx.Module):
    r"""Sums over all residuals $r$ with their Jacobian $J$ by the flat parameters.

    - `objective`: $\tfrac12 \sum r^2$.
    - `gradient`: $J^\top r$, in the order of `ravel_pytree(parameters)`.
    - `matrix`: $J^\top J$.
    """

    objective: Float[Array, ""]
    gradient: Float[Array, " parameters"]
    matrix: Float[Array, "parameters parameters"]


def gauss_newton(residuals: RowFunction, mesh: Mesh) -> Callable[[PyTree, PyTree], GaussNewton]:
    """The Gauss-Newton equations of residuals by rows, in one all-reduce.

    **Arguments:**

    - `residuals`: `residuals(parameters, row)`, any pytree of real arrays. Its Jacobian
      is computed in forward mode, all columns at once.

    **Returns:** `evaluate(parameters, rows)`, a `GaussNewton`.
    """

    def local(parameters: PyTree, rows: Rows) -> GaussNewton:
        flat, unravel = ravel_pytree(parameters)

        def stacked(x: Array) -> Array:
            return ravel_pytree(_masked(residuals, unravel(x), rows))[0]

        r, jacobian = _pushed(stacked, flat)
        return GaussNewton(0.5 * jnp.sum(r * r), jacobian @ r, jacobian @ jacobian.T)

    return _summed(local, mesh)


def _pushed(function: Callable[[Array], Array], at: Array) -> tuple[Array, Array]:
    """The value, and the derivatives along all axes in front."""

    def push(tangent: Array) -> tuple[Array, Array]:
        return jax.jvp(function, (at,), (tangent,))

    return jax.vmap(push, out_axes=(None, 0))(jnp.eye(at.size, dtype=at.dtype))


def hessian_vector_product(
    function: RowFunction, mesh: Mesh, *, forward: bool = False
) -> Callable[[PyTree, PyTree, PyTree], PyTree]:
    """The Hessian of a sum over rows of a scalar times a vector, in one all-reduce.

    **Arguments:**

    - `function`: `function(parameters, row)`, a scalar.
    - `forward`: differentiate in forward mode alone, at the cost of a whole gradient in
      forward mode, for functions that have no other.

    **Returns:** `product(parameters, rows, vector)`, a pytree like `parameters`.
    """

    def local(both: tuple[PyTree, PyTree], rows: Rows) -> PyTree:
        parameters, vector = both
        gradient = _gradient(function, rows, forward)
        return jax.jvp(gradient, (parameters,), (vector,))[1]

    total = _summed(local, mesh)

    def product(parameters: PyTree, rows: PyTree, vector: PyTree) -> PyTree:
        return total((parameters, vector), rows)

    return product


def _gradient(function: RowFunction, rows: Rows, forward: bool) -> Callable[[Any], Any]:
    def total(parameters: PyTree) -> Any:
        return _total(function, parameters, rows)

    return jax.jacfwd(total) if forward else jax.grad(total)


def hessian(
    function: RowFunction, mesh: Mesh, *, forward: bool = False
) -> Callable[[PyTree, PyTree], Float[Array, "parameters parameters"]]:
    """The Hessian of a sum over rows of a scalar, in one all-reduce.

    **Arguments:** as `hessian_vector_product`.

    **Returns:** `evaluate(parameters, rows)`, in the order of `ravel_pytree(parameters)`.
    """

    def local(parameters: PyTree, rows: Rows) -> Array:
        flat, unravel = ravel_pytree(parameters)
        gradient = _gradient(lambda x, row: function(unravel(x), row), rows, forward)
        return _pushed(gradient, flat)[1]

    return _summed(local, mesh)


def columns(
    product: Callable[..., PyTree], mesh: Mesh
) -> Callable[..., Float[Array, "outputs parameters"]]:
    """A matrix from its products with vectors, the columns spread over devices.

    **Arguments:**

    - `product`: `product(parameters, vector, *args)`, linear in `vector`, a pytree like
      `parameters`: a Jacobian or a Hessian times a vector. On a mesh of two axes it may
      itself sum over rows.

    **Returns:** `matrix(parameters, *args)`, in the order of `ravel_pytree`, whole on every
    device. One all-gather and no other collective.
    """
    layout = _layout(mesh, LANES)

    def matrix(parameters: PyTree, *args: Any) -> Array:
        parameters, args = jax.tree.map(jnp.asarray, (parameters, args))
        flat, unravel = ravel_pytree(parameters)
        basis = jnp.eye(padded(flat.size, layout), flat.size, dtype=flat.dtype)

        def local(common: Any, some: Array) -> Array:
            parameters, args = common

            def column(vector: Array) -> Array:
                return ravel_pytree(product(parameters, unravel(vector), *args))[0]

            return jax.vmap(column)(some)

        out = evaluate(local, layout, (parameters, args), basis, Kind.GATHERED)
        return out[: flat.size].T

    return matrix


def starts(function: Callable[..., PyTree], mesh: Mesh) -> Callable[..., PyTree]:
    """A function of one start for many starts, spread over devices.

    Each device loops for itself until its own starts are done.

    **Arguments:**

    - `function`: `function(start, *args)`, any pytree of arrays: a whole fit, a chain. On
      a mesh of two axes it may itself sum over rows.

    **Returns:** `each(starts, *args)`: `starts` is a pytree of arrays with the starts in
    front, any number of them, and so are the results, which stay spread over the devices.
    No collective of its own.
    """
    layout = _layout(mesh, LANES)

    def each(starts: PyTree, *args: Any) -> PyTree:
        args = jax.tree.map(jnp.asarray, args)
        given = _pad(starts, layout)

        def local(args: Any, some: PyTree) -> PyTree:
            return jax.vmap(lambda start: function(start, *args))(some)

        out = evaluate(local, layout, args, given.values, Kind.ROWS)
        return _first(out, row_count(starts))

    return each
