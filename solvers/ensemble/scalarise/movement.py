"""Primitives of JAX that put elements elsewhere, and those that add them up."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from solvers.ensemble.scalarise.arrays import as_symbols, is_symbolic
from solvers.ensemble.scalarise.builder import Builder
from solvers.ensemble.scalarise.elementwise import Unsupported
from solvers.ensemble.scalarise.windows import gathered, scattered


def moved(name: str, equation: Any, values: list[np.ndarray]) -> list[np.ndarray] | None:
    """The results of a primitive that only moves elements, `None` if it is not one.

    **Raises:** `Unsupported` if where they go depends on the arguments.
    """
    rule = _RULES.get(name)
    return None if rule is None else rule(equation, values)


def _alike(values: list[np.ndarray]) -> list[np.ndarray]:
    """The arrays as ones of symbols if one of them is."""
    if any(map(is_symbolic, values)):
        return [as_symbols(value) for value in values]
    return values


def _same(equation: Any, values: list[np.ndarray]) -> list[np.ndarray]:
    del equation
    return values


def _broadcast(equation: Any, values: list[np.ndarray]) -> list[np.ndarray]:
    shape, places = equation.params["shape"], equation.params["broadcast_dimensions"]
    between = [1] * len(shape)
    for size, place in zip(values[0].shape, places, strict=True):
        between[place] = size
    return [np.broadcast_to(values[0].reshape(between), shape)]


def _reshape(equation: Any, values: list[np.ndarray]) -> list[np.ndarray]:
    return [values[0].reshape(equation.outvars[0].aval.shape)]


def _transpose(equation: Any, values: list[np.ndarray]) -> list[np.ndarray]:
    return [values[0].transpose(equation.params["permutation"])]


def _slice(equation: Any, values: list[np.ndarray]) -> list[np.ndarray]:
    begins, ends = equation.params["start_indices"], equation.params["limit_indices"]
    strides = equation.params["strides"] or (1,) * len(begins)
    return [values[0][tuple(map(slice, begins, ends, strides))]]


def _concatenate(equation: Any, values: list[np.ndarray]) -> list[np.ndarray]:
    return [np.concatenate(_alike(values), axis=equation.params["dimension"])]


def _stack(equation: Any, values: list[np.ndarray]) -> list[np.ndarray]:
    return [np.stack(_alike(values), axis=equation.params["axis"])]


def _unstack(equation: Any, values: list[np.ndarray]) -> list[np.ndarray]:
    return list(np.moveaxis(values[0], equation.params["axis"], 0))


def _reverse(equation: Any, values: list[np.ndarray]) -> list[np.ndarray]:
    return [np.flip(values[0], equation.params["dimensions"])]


def _split(equation: Any, values: list[np.ndarray]) -> list[np.ndarray]:
    ends = np.cumsum(equation.params["sizes"])[:-1]
    return list(np.split(values[0], ends, axis=equation.params["axis"]))


def _tile(equation: Any, values: list[np.ndarray]) -> list[np.ndarray]:
    return [np.tile(values[0], equation.params["reps"])]


def _pad(equation: Any, values: list[np.ndarray]) -> list[np.ndarray]:
    operand, filling = _alike(values)
    result = np.full(equation.outvars[0].aval.shape, filling[()], operand.dtype)
    for place in itertools.product(*map(range, operand.shape)):
        config = equation.params["padding_config"]
        target = tuple(
            low + i * (1 + gap) for i, (low, _, gap) in zip(place, config, strict=True)
        )
        if all(0 <= i < size for i, size in zip(target, result.shape, strict=True)):
            result[target] = operand[place]
    return [result]


def _known(values: list[np.ndarray]) -> list[int]:
    if any(map(is_symbolic, values)):
        raise Unsupported("with an index that depends on the arguments")
    return [int(value) for value in values]


def _window(shape: Any, sizes: Any, begins: list[int]) -> tuple[slice, ...]:
    clipped = [min(max(i, 0), n - m) for i, n, m in zip(begins, shape, sizes, strict=True)]
    return tuple(slice(i, i + m) for i, m in zip(clipped, sizes, strict=True))


def _dynamic_slice(equation: Any, values: list[np.ndarray]) -> list[np.ndarray]:
    operand, *begins = values
    sizes = equation.params["slice_sizes"]
    return [operand[_window(operand.shape, sizes, _known(begins))]]


def _dynamic_update_slice(equation: Any, values: list[np.ndarray]) -> list[np.ndarray]:
    del equation
    operand, update, *begins = values
    operand, update = _alike([operand, update])
    result = operand.copy()
    result[_window(operand.shape, update.shape, _known(begins))] = update
    return [result]


def _gather(equation: Any, values: list[np.ndarray]) -> list[np.ndarray]:
    operand, indices = values
    if is_symbolic(indices):
        raise Unsupported("with an index that depends on the arguments")
    filling = equation.params.get("fill_value")
    symbols = as_symbols(operand)
    kind = equation.outvars[0].aval
    result = np.full(kind.shape, _filling(kind.dtype) if filling is None else filling, object)
    for place, source in gathered(equation.params, operand.shape, indices):
        if source is not None:
            result[place] = symbols[source]
    return [result]


def _filling(kind: Any) -> Any:
    """What stands for elements from outside: NaN, or the extreme whole number."""
    if np.issubdtype(kind, np.floating):
        return np.nan
    if kind == np.bool_:
        return True
    extremes = np.iinfo(kind)
    return int(extremes.min if extremes.min < 0 else extremes.max)


def _iota(equation: Any, values: list[np.ndarray]) -> list[np.ndarray]:
    del values
    shape, axis = equation.params["shape"], equation.params["dimension"]
    kind = np.dtype(equation.params["dtype"])
    steps = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return [np.broadcast_to(steps, shape).astype(kind)]


_RULES: dict[str, Callable[[Any, list[np.ndarray]], list[np.ndarray]]] = {
    **dict.fromkeys(
        ("copy", "copy_p", "stop_gradient", "optimization_barrier", "pvary", "name"), _same
    ),
    "broadcast_in_dim": _broadcast,
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), _reshape),
    "transpose": _transpose,
    "slice": _slice,
    "concatenate": _concatenate,
    "stack": _stack,
    "unstack": _unstack,
    "rev": _reverse,
    "split": _split,
    "tile": _tile,
    "pad": _pad,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    "iota": _iota,
}


def combined(
    builder: Builder, name: str, equation: Any, values: list[np.ndarray]
) -> np.ndarray | None:
    """The result of a reduction, contraction or scatter, `None` if it is none of them."""
    if name in _REDUCED:
        return _reduce(builder, _REDUCED[name], equation.params["axes"], values[0])
    if name in _ACCUMULATED:
        return _accumulate(builder, _ACCUMULATED[name], equation, values[0])
    if name in _SCATTERED:
        return _scatter(builder, _SCATTERED[name], equation, values)
    if name == "dot_general":
        return _contract(builder, equation, values)
    return None


_REDUCED = {
    "reduce_sum": ("add", 0.0),
    "reduce_prod": ("mul", 1.0),
    "reduce_max": ("max", -np.inf),
    "reduce_min": ("min", np.inf),
    "reduce_and": ("and", True),
    "reduce_or": ("or", False),
}

_ACCUMULATED = {"cumsum": "add", "cumprod": "mul", "cummax": "max", "cummin": "min"}

_SCATTERED = {
    "scatter": None,
    "scatter_add": "add",
    "scatter_sub": "sub",
    "scatter_mul": "mul",
    "scatter_min": "min",
    "scatter_max": "max",
}


def _reduce(builder: Builder, how: tuple[str, Any], axes: Any, value: np.ndarray) -> np.ndarray:
    operation, empty = how
    kept = [i for i in range(value.ndim) if i not in axes]
    shape = tuple(value.shape[i] for i in kept)
    rows = as_symbols(value).transpose([*kept, *axes]).reshape(*shape, -1)
    result = np.empty(shape, object)
    for place in itertools.product(*map(range, shape)):
        total, *others = rows[place] if rows.shape[-1] else [empty]
        for other in others:
            total = builder.make(operation, total, other)
        result[place] = total
    return result


def _accumulate(
    builder: Builder, operation: str, equation: Any, value: np.ndarray
) -> np.ndarray:
    axis, reverse = equation.params["axis"], equation.params["reverse"]
    result = as_symbols(value).copy()
    rows = np.moveaxis(np.flip(result, axis) if reverse else result, axis, 0)
    for place in range(1, rows.shape[0]):
        for rest in itertools.product(*map(range, rows.shape[1:])):
            previous, this = rows[(place - 1, *rest)], rows[(place, *rest)]
            rows[(place, *rest)] = builder.make(operation, previous, this)
    return result


def _scatter(
    builder: Builder, operation: str | None, equation: Any, values: list[np.ndarray]
) -> np.ndarray:
    operand, indices, updates = values
    if is_symbolic(indices):
        raise Unsupported("with an index that depends on the arguments")
    result, changes = as_symbols(operand).copy(), as_symbols(updates)
    for place, target in scattered(equation.params, operand.shape, indices, updates.shape):
        if target is None:
            continue
        change = changes[place]
        if operation is not None:
            change = builder.make(operation, result[target], change)
        result[target] = change
    return result


def _contract(builder: Builder, equation: Any, values: list[np.ndarray]) -> np.ndarray:
    (left_sum, right_sum), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left = _in_order(values[0], left_batch, left_sum)
    right = _in_order(values[1], right_batch, right_sum)
    result = np.empty((left.shape[0], left.shape[1], right.shape[1]), object)
    for batch, i, j in itertools.product(*map(range, result.shape)):
        total: Any = 0.0
        for x, y in zip(left[batch, i], right[batch, j], strict=True):
            total = builder.make("add", total, builder.make("mul", x, y))
        result[batch, i, j] = total
    return result.reshape(equation.outvars[0].aval.shape)


def _in_order(value: np.ndarray, batch: Any, summed: Any) -> np.ndarray:
    """Axes as `(batch, free, summed)`."""
    free = [i for i in range(value.ndim) if i not in batch and i not in summed]
    moved = as_symbols(value).transpose([*batch, *free, *summed])
    sizes = [int(np.prod([value.shape[i] for i in axes])) for axes in (batch, free, summed)]
    return moved.reshape(sizes)
